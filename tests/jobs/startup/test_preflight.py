import datetime as dt
import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.config.errors import UsageError
from jobs.config.profile import Config, load
from jobs.startup.preflight import check, parse_date
from schemas.settings import AssetSettings
from udfs.assets import sha256_of
from udfs.embedding.alignment import Alignment, Calibration, Projections, save_alignment

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in profiles are relative to the working directory."""
    monkeypatch.chdir(ROOT)


def config(warehouse: Path | str, **groups: dict[str, Any]) -> Config:
    """The local profile with another warehouse, and settings replaced group by group."""
    local = load("conf/local.yaml", [f"warehouse={warehouse}"])
    changed = {name: getattr(local, name).model_copy(update=changes) for name, changes in groups.items()}
    return local.model_copy(update=changed)


def refusal(settings: Config) -> str:
    """The one line with which preflight refuses the configuration."""
    with pytest.raises(UsageError) as refused:
        check(settings)
    line = str(refused.value)
    assert "\n" not in line
    return line


# Dates ----------------------------------------------------------------------------------------------------------------


def test_a_date_is_read() -> None:
    assert parse_date("2024-02-29") == dt.date(2024, 2, 29)


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2026-02-29", "2026-13-01", "31-01-2026", "2026-1-31", "20260131", "2026-W05-6", "2026-01-31T00",
     " 2026-01-31", "2026-01-31 ", "２０２６-01-31"],
)  # fmt: skip
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_date(text)
    assert str(refused.value) == f"--date {text}: not a date; expected YYYY-MM-DD, for example 2026-01-31"


# What passes ----------------------------------------------------------------------------------------------------------


def test_a_sound_configuration_passes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    policy, versions = check(config(tmp_path / "new" / "warehouse"))
    assert policy.name == "default"
    assert list(tmp_path.iterdir()) == []
    assert versions == check(config(tmp_path / "elsewhere"))[1]


@pytest.mark.parametrize(
    ("group", "changes", "changed"),
    [
        ("images", {"max_side": 640}, {"canonical_version", "model_version", "rule_version"}),
        ("embedding", {"dtype": "bfloat16"}, {"model_version"}),
        ("embedding", {"batch_size": 3, "threads": 2}, set()),
        ("text", {"max_tokens": 64}, {"text_model_version"}),
        ("dedup", {"max_hamming": 4}, {"rule_version"}),
        ("dedup", {"views": ["whole"]}, {"rule_version"}),
        ("dedup", {"target_recall": 0.5}, set()),
        ("policy", {"hashes": ("pdq",)}, {"gate_version"}),
        ("crawl", {"retries": 1, "max_bytes": 1000}, set()),
    ],
)
def test_a_setting_changes_the_versions_that_depend_on_it_and_no_others(
    tmp_path: Path, group: str, changes: dict[str, Any], changed: set[str]
) -> None:
    before, after = check(config(tmp_path))[1], check(config(tmp_path, **{group: changes}))[1]
    assert {name for name, version in vars(before).items() if vars(after)[name] != version} == changed


def test_the_policy_version_follows_the_policy_and_not_its_place(tmp_path: Path) -> None:
    text = (ROOT / "conf" / "policy.yaml").read_text(encoding="utf-8")
    moved, stricter = tmp_path / "moved.yaml", tmp_path / "stricter.yaml"
    moved.write_text(text, encoding="utf-8")
    stricter.write_text(text.replace("at_least: 0.8", "at_least: 0.7"), encoding="utf-8")

    def policy_version(file: Path | str) -> str:
        return check(config(tmp_path, policy={"file": str(file)}))[1].policy_version

    assert policy_version(moved) == policy_version("conf/policy.yaml") != policy_version(stricter)


# Files ----------------------------------------------------------------------------------------------------------------

ASSETS = [("policy", "detector"), ("embedding", "weights"), ("text", "weights")]


@pytest.mark.parametrize(("group", "name"), ASSETS)
def test_missing_weights_are_named_with_their_setting_and_what_to_do(tmp_path: Path, group: str, name: str) -> None:
    asset = getattr(getattr(config(tmp_path), group), name).model_copy(update={"path": "no/such.file"})
    settings = config(tmp_path / "warehouse", **{group: {name: asset}})
    assert refusal(settings) == f"{group}.{name}: no/such.file: no such file; run `make setup`"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("group", "name"), ASSETS)
def test_weights_other_than_the_pinned_ones_are_refused_with_both_digests(
    tmp_path: Path, group: str, name: str
) -> None:
    other = tmp_path / "other.file"
    other.write_bytes(b"other weights")
    asset = getattr(getattr(config(tmp_path), group), name).model_copy(update={"path": str(other)})
    line = refusal(config(tmp_path / "warehouse", **{group: {name: asset}}))
    assert line.startswith(f"{group}.{name}: {other}: SHA-256 expected {asset.sha256}, found ")
    assert hashlib.sha256(b"other weights").hexdigest() in line


def test_a_text_model_that_is_none_is_refused_though_its_digest_is_right(tmp_path: Path) -> None:
    other = tmp_path / "no-model.zip"
    other.write_bytes(b"no zip")
    asset = config(tmp_path).text.weights.model_copy(
        update={"path": str(other), "sha256": hashlib.sha256(b"no zip").hexdigest()}
    )
    assert str(other) in refusal(config(tmp_path / "warehouse", text={"weights": asset}))


def test_a_missing_policy_file_is_named(tmp_path: Path) -> None:
    assert refusal(config(tmp_path, policy={"file": "conf/none.yaml"})).startswith("policy file conf/none.yaml: ")


def test_an_unknown_model_is_refused_with_the_nearest_known_ones_however_much_is_stated_of_it(tmp_path: Path) -> None:
    line = refusal(config(tmp_path, embedding={"model": "tf_eficientnet_lite0"}))
    assert line.startswith("embedding.model: timm knows no 'tf_eficientnet_lite0'; nearest: tf_efficientnet_lite0")


@pytest.mark.parametrize("model", ["efficientnet_lite0", "tf_efficientnet_lite0"])
def test_a_dimension_that_is_not_the_models_is_refused(tmp_path: Path, model: str) -> None:
    assert refusal(config(tmp_path, embedding={"model": model, "dimension": 512})) == (
        f"embedding.dimension: {model} makes vectors of 1280, not of 512"
    )


def test_towers_that_cannot_share_a_space_are_refused(tmp_path: Path) -> None:
    assert refusal(config(tmp_path, embedding={"shares_text_space": True})) == (
        "embedding: images share a space with the text tower of their own checkpoint only (open_clip:...), not with "
        "all-MiniLM-L6-v2; fit an alignment (jobs.fit_alignment)"
    )
    clip = {"model": "open_clip:ViT-B-32-quickgelu"}
    assert refusal(config(tmp_path, embedding={"shares_text_space": True}, text=clip)) == (
        "embedding: the text's vectors have 512 dimensions, the images' 1280: they share no space; fit an alignment "
        "(jobs.fit_alignment)"
    )


def test_towers_that_share_a_space_have_a_version_of_how_they_are_compared(tmp_path: Path) -> None:
    clip = {"model": "open_clip:ViT-B-32-quickgelu"}
    picture = {"model": "resnet18", "dimension": None}  # 512 dimensions, as that CLIP's text tower
    plain = check(config(tmp_path, embedding=picture, text=clip))[1]
    shared = check(config(tmp_path, embedding=picture | {"shares_text_space": True}, text=clip))[1]
    assert plain.alignment_version is None
    assert shared.alignment_version is not None
    assert replace(shared, alignment_version=None) == plain


def test_an_alignment_of_other_models_is_refused_also_beside(tmp_path: Path) -> None:
    versions = check(config(tmp_path))[1]
    arrays = [np.ones(shape, np.float32) for shape in (1280, (1280, 2), 384, (384, 2))]
    fitting = Alignment(
        versions.model_version, versions.text_model_version, Projections(*arrays), Calibration(0.1, 0.2)
    )
    path = save_alignment(fitting, tmp_path / "alignments", {})
    asset = AssetSettings(path=str(path), sha256=sha256_of(path))
    assert check(config(tmp_path, embedding={"alignment": asset}))[1].alignment_version == fitting.version
    line = refusal(config(tmp_path, embedding={"alignment": asset, "dtype": "bfloat16"}))
    assert line.startswith(f"embedding.alignment: {path}: expected one for the configured image model, ")
    plain = config(tmp_path)
    beside = plain.embedding.model_copy(update={"alignment": asset, "dtype": "bfloat16"})
    line = refusal(plain.model_copy(update={"embedding_beside": beside}))
    assert line.startswith(f"embedding_beside.alignment: {path}: expected one for the configured image model, ")


# Warehouse ------------------------------------------------------------------------------------------------------------


def test_a_warehouse_below_a_regular_file_is_refused_with_that_files_name(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("data")
    assert refusal(config(file / "below" / "warehouse")) == (
        f"warehouse {file}/below/warehouse: {file} is not a folder"
    )
    assert refusal(config(file)) == f"warehouse {file}: {file} is not a folder"
    assert refusal(config(f"file://{file}")) == f"warehouse file://{file}: {file} is not a folder"
    assert file.read_text() == "data"


def test_a_warehouse_where_nothing_can_be_written_is_refused() -> None:
    assert refusal(config("/proc/warehouse")) == (
        "warehouse /proc/warehouse: cannot write in /proc (No such file or directory)"
    )


def test_a_warehouse_whose_name_no_file_system_takes_is_refused(tmp_path: Path) -> None:
    assert "File name too long" in refusal(config(tmp_path / ("x" * 300)))


def test_a_warehouse_may_be_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config("some/warehouse", policy={"file": str(ROOT / "conf/policy.yaml")})
    for folder in (".assets", "conf"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    check(settings)
    assert {file.name for file in tmp_path.iterdir()} == {".assets", "conf"}


@pytest.mark.parametrize("warehouse", ["s3a://bucket/warehouse", "hdfs://namenode:8020/warehouse", "gs://bucket"])
def test_a_warehouse_on_another_file_system_is_left_for_spark_to_try(warehouse: str) -> None:
    check(config(warehouse))


# Duplicates -----------------------------------------------------------------------------------------------------------


def test_bands_and_rows_that_miss_the_recall_are_refused_with_what_they_reach_and_what_to_change(
    tmp_path: Path,
) -> None:
    line = refusal(config(tmp_path, dedup={"bands": 5, "rows": 25, "max_hamming": 6}))
    # datasketch's own choice for a threshold of 0.9 and 128 permutations
    assert line == (
        "dedup.bands=5 x dedup.rows=25 find 0.045 of the pairs at dedup.max_hamming=6, less than "
        "dedup.target_recall=0.99; 505 bands would do, or fewer rows (jobs.tune_dedup says what each costs)"
    )


def test_the_recall_is_asked_for_at_the_largest_distance_that_is_used(tmp_path: Path) -> None:
    check(config(tmp_path, dedup={"bands": 42, "rows": 12, "max_hamming": 6}))
    refusal(config(tmp_path, dedup={"bands": 42, "rows": 12, "max_hamming": 8}))


def test_starting_with_the_packaged_model_does_not_pay_for_importing_timm() -> None:
    script = (
        "import sys; from jobs.config.profile import load; from jobs.startup.preflight import check\n"
        "check(load('conf/local.yaml'))\n"
        "print('timm' in sys.modules, 'torch' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["False", "False"]


@pytest.mark.parametrize("name", ["a#b", "a?b", "50%20", "a:b"])
def test_a_warehouse_is_looked_for_under_its_whole_name(tmp_path: Path, name: str) -> None:
    check(config(tmp_path / name / "warehouse"))
    (tmp_path / name).write_text("a file")
    refused = refusal(config(tmp_path / name))
    assert f"{tmp_path / name} is not a folder" in refused
    assert f"{tmp_path / name} is not a folder" in refusal(config(f"file://{tmp_path / name}"))
