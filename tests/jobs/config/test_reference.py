"""The settings as documents tell them: nothing without a meaning, and what is committed is what the classes say."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.config import reference
from jobs.config.__main__ import leaves, shown
from jobs.config.profile import Config, load, load_with_places

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


# Documents ------------------------------------------------------------------------------------------------------------


def test_the_committed_page_is_the_one_that_the_settings_make() -> None:
    committed = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert committed == reference.document(), "run python -m jobs.config document > docs/settings.md"


def test_the_committed_schema_is_the_one_that_the_settings_make() -> None:
    committed = json.loads((ROOT / "docs/settings.schema.json").read_text(encoding="utf-8"))
    assert committed == reference.schema(), "run python -m jobs.config schema > docs/settings.schema.json"


def test_every_setting_has_a_meaning_and_stands_on_the_page() -> None:
    page = reference.document()
    for model in reference.groups():
        for setting in reference.settings_of(model):
            assert setting.meaning, f"{model.__name__}.{setting.name}: no docstring below it"
            assert f"| `{setting.name}` | " in page


def test_every_row_of_a_grid_has_five_cells() -> None:
    for line in reference.document().splitlines():
        assert not line.startswith("|") or line.replace("\\|", "").count("|") == 6, line


def test_what_decides_no_contents_is_marked_and_nothing_else() -> None:
    marked = {
        f"{places[0]}.{setting.name}".lstrip(".")
        for model, places in reference.groups().items()
        for setting in reference.settings_of(model)
        if setting.is_operational
    }
    decisive = load("conf/local.yaml").decisive()
    for path in reference.paths():
        node: Any = decisive
        for part in path.split("."):
            node = node.get(part) if isinstance(node, dict) and part in node else None
        if node is not None:
            assert path not in marked
    assert {"warehouse", "manifest.path", "spark.properties", "run.lease_ttl_s", "crawl.retries"} <= marked
    assert not {"crawl.max_bytes", "dedup.seed", "images.max_side", "embedding.model"} & marked


def test_every_shipped_profile_is_one_by_the_schema() -> None:
    schema = reference.schema()
    profiles = [path for path in (ROOT / "conf").glob("*.yaml") if "extends:" in path.read_text(encoding="utf-8")]
    assert len(profiles) >= 4
    for path in [*profiles, ROOT / "conf/models.yaml"]:
        held_against(schema, schema, yaml.safe_load(path.read_text(encoding="utf-8")), path.name)


def held_against(schema: dict[str, Any], node: dict[str, Any], value: Any, where: str) -> None:
    """The keys of a profile are known to the schema, as deep as groups go."""
    while "$ref" in node or "anyOf" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node["anyOf"][0]
    assert "required" not in node
    if isinstance(value, dict) and "properties" in node:
        assert node["additionalProperties"] is False
        for key, inner in value.items():
            assert key in node["properties"], f"{where}: {key}"
            held_against(schema, node["properties"][key], inner, f"{where}.{key}")


# What holds -----------------------------------------------------------------------------------------------------------


def test_every_setting_is_shown_with_where_it_comes_from() -> None:
    lines = dict(line.split(": ", 1) for line in shown("conf/demo.yaml", ["crawl.max_bytes=99999"]).splitlines())
    demo = (ROOT / "conf/demo.yaml").read_text(encoding="utf-8").splitlines()
    said = next(number for number, line in enumerate(demo, start=1) if "retries" in line)
    assert lines["crawl.retries"].split() == ["2", "#", "profile", "conf/demo.yaml,", "line", str(said)]
    assert lines["crawl.max_bytes"].split() == ["99999", "#", "--set", "crawl.max_bytes"]
    assert lines["crawl.max_redirects"].split() == ["5", "#", "default"]
    assert "# profile conf/models.yaml, line " in lines["embedding.model"]
    assert lines["embedding_beside"].split() == ["null", "#", "default"]
    assert set(reference.paths()) - set(lines) <= {
        *(path for path in reference.paths() if path.startswith("embedding_beside.")),
        *("embedding.alignment.path", "embedding.alignment.sha256", "text.tokenizer.path", "text.tokenizer.sha256"),
        "spark.properties",  # key by key
    }


def test_secrets_are_not_shown_wherever_they_stand(tmp_path: Path) -> None:
    profile = tmp_path / "mine.yaml"
    given = "spark: {properties: {spark.hadoop.fs.s3a.secret.key: s3cr3t}}\nwarehouse: s3a://me:s3cr3t@bucket/w\n"
    profile.write_text(f"extends: {ROOT}/conf/local.yaml\n{given}", encoding="utf-8")
    overrides = [
        "spark.properties={spark.hadoop.fs.azure.account.key.a: s3cr3t, spark.ui.port: '1'}",
        "manifest.path=s3a://me:s3cr3t@bucket/{date}",
    ]
    for text in (shown(str(profile), ()), shown(str(profile), overrides)):
        assert "s3cr3t" not in text
        assert "(not shown)" in text
        assert "s3a://bucket/" in text


def test_a_group_given_whole_by_an_override_has_defaults_for_the_rest() -> None:
    _, place = load_with_places("conf/local.yaml", ["crawl={retries: 9}"])
    assert (place(("crawl", "retries")) or "").startswith("--set crawl=")
    assert place(("crawl", "user_agent")) is None


def test_members_of_lists_and_mappings_are_shown_one_by_one() -> None:
    weights = "{path: w.onnx, sha256: " + "a" * 64 + "}"
    detector = f"{{name: hands, kind: onnx, weights: {weights}, labels: [weapon], input_size: [8, 8]}}"
    config: Config = load("conf/local.yaml", [f"policy.detectors=[{detector}]"])
    found = dict(leaves(config))
    assert found["policy", "detectors", 0, "weights", "path"] == "w.onnx"
    assert found["spark", "properties", "spark.driver.memory"] == "2g"
