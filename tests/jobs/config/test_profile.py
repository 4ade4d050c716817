import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jobs.config.errors import UsageError
from jobs.config.profile import Config, GateSettings, load, load_policy
from schemas.policy import Policy
from schemas.settings import ExecutorSettings, Settings

LOCAL = Path("conf/local.yaml")
POLICY = Path("conf/policy.yaml")


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in profiles are relative to the working directory."""
    monkeypatch.chdir(Path(__file__).parents[3])


def refusal(profile: Path, *overrides: str) -> str:
    """The one line with which the configuration is refused."""
    with pytest.raises(UsageError) as refused:
        load(str(profile), overrides)
    line = str(refused.value)
    assert "\n" not in line
    return line


def written(tmp_path: Path, text: str) -> Path:
    """A profile of its own, beside the one that shipped profiles extend."""
    shutil.copy(LOCAL.with_name("models.yaml"), tmp_path)
    profile = tmp_path / "profile.yaml"
    profile.write_text(text, encoding="utf-8")
    return profile


def edited(tmp_path: Path, old: str, new: str, source: Path = LOCAL) -> Path:
    """A copy of a shipped file with one passage replaced."""
    text = source.read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    return written(tmp_path, text.replace(old, new))


# Extending ------------------------------------------------------------------------------------------------------------


def extending(tmp_path: Path, own: str, base: str = "local.yaml") -> Path:
    """A profile that extends a copy of a shipped one."""
    for name in ("local.yaml", "models.yaml"):
        shutil.copy(LOCAL.with_name(name), tmp_path)
    profile = tmp_path / "mine.yaml"
    profile.write_text(f"extends: {base}\n{own}", encoding="utf-8")
    return profile


def test_a_profile_holds_what_differs_from_the_one_that_it_extends(tmp_path: Path) -> None:
    profile = extending(tmp_path, "warehouse: mine\ncrawl: {retries: 7}\npolicy: {views: [center]}\n")
    found, local = load(str(profile), ["crawl.backoff_s=3"]), load(str(LOCAL))
    assert (found.warehouse, found.crawl.retries, found.crawl.backoff_s) == ("mine", 7, 3)
    assert found.policy.views == ("center",)
    assert found.crawl.user_agent == local.crawl.user_agent
    assert (found.embedding, found.text, found.policy.detector) == (local.embedding, local.text, local.policy.detector)


def test_a_group_that_names_another_model_takes_nothing_of_the_first_ones(tmp_path: Path) -> None:
    weights = "{path: w.safetensors, sha256: " + "a" * 64 + "}"
    profile = extending(tmp_path, f"embedding: {{model: resnet50, weights: {weights}, licence: none}}\n")
    found = load(str(profile)).embedding
    assert (found.model, found.mean, found.dimension) == ("resnet50", None, None)


def test_what_is_wrong_is_told_with_the_file_and_line_that_says_it(tmp_path: Path) -> None:
    profile = extending(tmp_path, "crawl:\n  retries: some\n")
    assert refusal(profile).startswith(f"profile {profile}, line 3: crawl.retries: ")
    base = tmp_path / "local.yaml"
    profile = extending(tmp_path, "warehouse: mine\n")
    line = base.read_text(encoding="utf-8").splitlines().index("  retries: 3") + 1
    base.write_text(base.read_text(encoding="utf-8").replace("  retries: 3\n", "  retries: some\n"), encoding="utf-8")
    assert refusal(profile).startswith(f"profile {base}, line {line}: crawl.retries: ")


def test_a_profile_that_extends_itself_nothing_or_no_file_is_refused(tmp_path: Path) -> None:
    circle = extending(tmp_path, "", base="mine.yaml")
    assert refusal(circle) == f"profile {circle}, which extends {circle}: a profile cannot extend itself"
    absent = extending(tmp_path, "", base="nowhere.yaml")
    assert refusal(absent).startswith(f"profile {tmp_path / 'nowhere.yaml'}: cannot be read")
    for base in ("3", "''", "[local.yaml]"):
        assert "extends: expected a file relative to this one, found" in refusal(extending(tmp_path, "", base=base))


# Layers ---------------------------------------------------------------------------------------------------------------


def test_the_local_profile_is_valid_and_says_what_it_says() -> None:
    config = load(str(LOCAL))
    assert config.warehouse == "warehouse"
    assert config.crawl.per_host_concurrency == 8
    assert config.crawl.allowed_networks == ("127.0.0.0/8", "::1/128")
    assert config.embedding.mean == (0.5, 0.5, 0.5)


def test_what_neither_profile_nor_override_mentions_has_its_default() -> None:
    assert load(str(LOCAL)).crawl.max_redirects == 5


def test_an_override_wins_over_the_profile_and_a_later_one_over_an_earlier() -> None:
    assert load(str(LOCAL), ["crawl.retries=7"]).crawl.retries == 7
    assert load(str(LOCAL), ["crawl.retries=7", "crawl.retries=1"]).crawl.retries == 1


def test_an_override_leaves_its_neighbours_alone() -> None:
    changed = load(str(LOCAL), ["crawl.retries=7"])
    assert changed.crawl.model_copy(update={"retries": 3}) == load(str(LOCAL)).crawl


def test_an_override_leaves_a_group_alone_that_shares_an_anchor_with_its_own(tmp_path: Path) -> None:
    weights = f"{{path: w, sha256: {'a' * 64}}}"
    own = f"embedding: &model\n  model: m\n  weights: {weights}\n  licence: MIT\nembedding_beside: *model\n"
    profile = extending(tmp_path, own)
    config = load(str(profile), ["embedding.batch_size=7", "embedding.weights.path=other"])
    assert (config.embedding.batch_size, config.embedding.weights.path) == (7, "other")
    assert config.embedding_beside == load(str(profile)).embedding_beside


def test_groups_lists_and_null_are_yaml() -> None:
    config = load(
        str(LOCAL), ["crawl.per_host_rate=null", "crawl.opt_out_tokens=[noai]", "embedding.mean=[0.1, 0.2, 3.0e-1]"]
    )
    assert config.crawl.per_host_rate is None
    assert config.crawl.opt_out_tokens == ("noai",)
    assert config.embedding.mean == (0.1, 0.2, 0.3)


TEXTS = [
    "/data/a #b", "#b", "a: b", "a: b: c", "{date}", "{}", "{a: 1}", "[a]", "[", "*", "*a", "&a b", "&", "!", "!!int 5",
    "!x y", "|", ">", "%a", "@a", "`a", "?", "? a", "-", "- a", "---", "...", "yes", "no", "on", "True", "null", "Null",
    "~", "1e3", "0777", "0x10", "1_000", "1:30", "5", "2.5", ".inf", ".nan", "=", "a=b", "<<", "2026-01-31",
    "2026-13-45", "2026-01-31T10:00:00", "'", "'a'", '"a"', '"', "a'b", " ", " a", "a ", "\ta", "a\nb", "a\\nb", "ü",
    "/x/50%20", "C:\\x",
]  # fmt: skip
"""What YAML takes for something else than the text that it is, or cuts off, or refuses."""


@pytest.mark.parametrize("text", TEXTS)
def test_text_settings_take_the_text_as_it_is_given(text: str) -> None:
    config = load(
        str(LOCAL),
        [f"warehouse={text}", f"manifest.path={text}", f"spark.properties.spark.x={text}",
         f"manifest.columns.url={text}", f"policy.detector.path={text}", f"embedding.alignment.path={text}",
         f"embedding.alignment.sha256={'0' * 64}"],
    )  # fmt: skip
    assert config.warehouse == config.manifest.path == config.policy.detector.path == text
    assert config.spark.properties["spark.x"] == config.manifest.columns["url"] == text
    assert config.embedding.alignment is not None
    assert config.embedding.alignment.path == text


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_every_text_is_taken_as_it_is_given(text: str) -> None:
    assert load(str(LOCAL), [f"warehouse={text}"]).warehouse == text


def test_a_text_setting_that_may_be_null_is_null_where_it_is_null_or_nothing() -> None:
    for nothing in ("", "null", "~"):
        assert load(str(LOCAL), [f"spark.jars={nothing}"]).spark.jars is None
        assert load(str(LOCAL), [f"embedding.crop_mode={nothing}"]).embedding.crop_mode is None
    assert load(str(LOCAL), ["spark.jars=a #b: c"]).spark.jars == "a #b: c"


def test_texts_in_groups_and_lists_are_texts_however_they_are_spelt() -> None:
    config = load(
        str(LOCAL),
        ["spark.properties={a: yes, b: 1e3, c: 2026-01-31, d: '#x', e: 010, f: null}",
         "crawl.opt_out_tokens=[no, 1_0, noai]", "manifest={path: 2026-01-31, columns: {url: on}}"],
    )  # fmt: skip
    expected = {"a": "yes", "b": "1e3", "c": "2026-01-31", "d": "#x", "e": "010", "f": "null"}
    assert config.spark.properties == expected
    assert config.crawl.opt_out_tokens == ("no", "1_0", "noai")
    assert (config.manifest.path, config.manifest.columns) == ("2026-01-31", {"url": "on"})


@pytest.mark.parametrize(
    ("override", "expected"),
    [("crawl.retries=010", 10), ("crawl.retries=1e1", 10), ("crawl.retries=+3", 3), ("crawl.deadline_s=90", 90),
     ("crawl.deadline_s=1e3", 1000), ("crawl.deadline_s=", None), ("crawl.deadline_s=~", None),
     ("crawl.obey_robots=no", False), ("crawl.obey_robots=True", True),
     ("embedding.mean=[.5, 1e-1, 1]", (0.5, 0.1, 1.0))],
)  # fmt: skip
def test_numbers_and_flags_are_read_as_people_write_them(override: str, expected: object) -> None:
    config = load(str(LOCAL), [override])
    group, name = override.partition("=")[0].split(".")
    assert getattr(getattr(config, group), name) == expected


@pytest.mark.parametrize(
    "override", ["crawl.deadline_s=1:30", "crawl.retries=0x10", "crawl.retries=1e", "crawl.retries=."]
)
def test_numbers_in_spellings_that_mean_something_else_to_yaml_are_refused(override: str) -> None:
    name = override.partition("=")[0]
    assert f": {name}: must be a valid" in refusal(LOCAL, override)


def test_a_number_beyond_all_bounds_is_refused() -> None:
    assert "crawl.retries: Unable to parse input string as an integer" in refusal(LOCAL, f"crawl.retries={'9' * 5000}")


def test_a_key_that_stands_twice_in_an_override_is_refused() -> None:
    assert refusal(LOCAL, "manifest.columns={url: a, url: b}").endswith("url is given a second time in the same group")


def test_an_override_may_hold_equals_signs() -> None:
    assert load(str(LOCAL), ["manifest.path=/data/date={date}"]).manifest.path == "/data/date={date}"


def test_an_override_may_name_a_group_that_the_profile_leaves_out_or_empty(tmp_path: Path) -> None:
    assert load(str(LOCAL), ["dedup.max_hamming=4"]).dedup.max_hamming == 4
    emptied = edited(tmp_path, "images:\n  max_side: 512", "images:")
    assert load(str(emptied), ["images.max_side=640"]).images.max_side == 640


def test_names_with_dots_can_be_set_where_names_are_free() -> None:
    properties = load(str(LOCAL), ["spark.properties.spark.driver.memory=4g"]).spark.properties
    assert properties == {"spark.driver.memory": "4g"}
    assert load(str(LOCAL), ["manifest.columns.url=image_url"]).manifest.columns == {"url": "image_url"}


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("warehuse=/x", "unknown key warehuse; did you mean warehouse?"),
        ("crawl.retrys=5", "unknown key crawl.retrys; did you mean crawl.retries?"),
        ("policy.detector.sha=x", "unknown key policy.detector.sha; did you mean policy.detector.sha256?"),
        ("retries=5", "unknown key retries; did you mean crawl.retries?"),
        ("spark.max_side=9", "unknown key spark.max_side; did you mean images.max_side?"),
        ("images.zzz=1", "unknown key images.zzz; known here: max_side, jpeg_quality, min_side"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(override: str, expected: str) -> None:
    assert refusal(LOCAL, override) == f"--set {override}: {expected}"


def test_a_misspelt_required_key_is_told_as_misspelt_and_not_as_missing(tmp_path: Path) -> None:
    profile = edited(tmp_path, "warehouse: warehouse", "wharehouse: warehouse")
    assert refusal(profile) == f"profile {profile}, line 5: unknown key wharehouse; did you mean warehouse?"


def test_an_unknown_key_in_the_profile_is_told_with_its_line(tmp_path: Path) -> None:
    models = LOCAL.with_name("models.yaml")
    profile = edited(tmp_path, "    path: .assets/open_nsfw.onnx", "    file: .assets/open_nsfw.onnx", models)
    line = profile.read_text(encoding="utf-8").splitlines().index("    file: .assets/open_nsfw.onnx") + 1
    assert refusal(profile).startswith(f"profile {profile}, line {line}: unknown key policy.detector.file")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("crawl.retries=many", "crawl.retries: must be a valid integer"),
        ("crawl.retries=2.5", "crawl.retries: must be a valid integer"),
        ("crawl.obey_robots=perhaps", "crawl.obey_robots: must be a valid boolean"),
        ("crawl=5", "crawl: must be a group of settings, found 5"),
        ("warehouse=", "warehouse: String should have at least 1 character"),
        ("manifest={path: [a]}", "manifest.path: must be a valid string"),
        ("embedding.device=gpu", "embedding.device: must be 'auto', 'cpu' or 'cuda', found 'gpu'"),
        ("images.max_side=9", "images.max_side: must be greater than or equal to 32, found 9"),
        ("embedding.mean=[1, 2]", "embedding.mean.2 is required"),
        ("crawl.allowed_networks=[nope]", "crawl.allowed_networks: 'nope' does not appear to be"),
        ("policy.detector.sha256=abc", "policy.detector.sha256: String should match pattern"),
        ("manifest.format=xml", "manifest.format: must be 'auto', 'parquet'"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused_by_name_with_what_was_found(
    override: str, expected: str
) -> None:
    assert refusal(LOCAL, override).startswith(f"--set {override}: {expected}")


def test_a_wrong_value_in_the_profile_is_told_with_its_line_and_one_set_over_it_is_not_looked_at(
    tmp_path: Path,
) -> None:
    profile = edited(tmp_path, "  retries: 3\n", "  retries: many\n")
    line = profile.read_text(encoding="utf-8").splitlines().index("  retries: many") + 1
    assert refusal(profile).startswith(f"profile {profile}, line {line}: crawl.retries: must be a valid integer")
    assert load(str(profile), ["crawl.retries=2"]).crawl.retries == 2


def test_a_very_long_wrong_value_is_not_printed_whole() -> None:
    assert len(refusal(LOCAL, f"embedding.device={'x' * 5000}").partition("found ")[2]) < 100


@pytest.mark.parametrize("override", ["crawl.retries", "=5", "crawl..retries=5", ".crawl=5", "crawl.=5", ""])
def test_an_override_that_is_no_assignment_is_refused_with_an_example(override: str) -> None:
    assert refusal(LOCAL, override) == f"--set {override}: expected key.path=value, for example crawl.retries=5"


@pytest.mark.parametrize(
    "override",
    [
        *("crawl.allowed_networks=[", "manifest='", "manifest.columns=a: b: c", "policy.views=[*a]"),
        *("policy.views=&a [*a]", "manifest=!!bool maybe", "manifest=!!float ''", "manifest=!!timestamp soon"),
    ],
)
def test_an_override_whose_value_is_no_yaml_is_refused(override: str) -> None:
    assert refusal(LOCAL, override) == f"--set {override}: the value is not valid YAML"


@pytest.mark.parametrize("key", ["." * 2000, "a." * 500 + "b"])
def test_an_override_of_any_number_of_groups_is_refused_at_once(key: str) -> None:
    begun = time.monotonic()
    assert refusal(LOCAL, f"{key}=1")
    assert time.monotonic() - begun < 2


def test_merges_that_stand_for_a_billion_entries_are_refused_at_once(tmp_path: Path) -> None:
    """Each merges the one before twice."""
    lines = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 31))]
    begun = time.monotonic()
    profile = extending(tmp_path, "\n".join([*lines, ""]))
    assert "not valid YAML: merges" in refusal(profile)
    assert time.monotonic() - begun < 2
    many = ", ".join(["*shared"] * 40_000)
    profile = extending(tmp_path, f"shared: &shared {{a: 1, c: 2, d: 3}}\nmany: [{many}]\nother: {{<<: *shared}}\n")
    assert "unknown key shared" in refusal(profile)  # what is not merged is none of it


def test_an_override_below_a_plain_value_is_refused_with_that_values_name() -> None:
    assert refusal(LOCAL, "crawl.retries.most=5") == (
        "--set crawl.retries.most=5: crawl.retries is not a group of settings"
    )


def test_a_required_setting_that_is_missing_is_named(tmp_path: Path) -> None:
    assert "warehouse is required and is not set" in refusal(edited(tmp_path, "warehouse: warehouse\n", ""))
    assert "manifest.path is required" in refusal(edited(tmp_path, "  path: manifests/{date} ", "# "))


def test_a_missing_profile_is_named() -> None:
    assert refusal(Path("conf/nowhere.yaml")) == (
        "profile conf/nowhere.yaml: cannot be read (No such file or directory)"
    )


def test_a_folder_is_no_profile(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"profile {tmp_path}: cannot be read (Is a directory)"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("warehouse: a\ncrawl: [1, 2\n", "line 3, column 1"),
        ("warehouse: a\n\tcrawl: b\n", "line 2, column 1"),
        ("a: b: c\n", "line 1, column 5"),
        ("one: 1\n---\ntwo: 2\n", "line 2, column 1"),
        ("? [a]\n: 1\n", "line 1, column 3"),
        ("warehouse: w\nrun: {a: [2026-01-02, 2026-02-30]}\n", "line 2, column 23"),
        ("crawl: {x: !foo y}\nrun: 2026-02-30\n", "line 2, column 6"),
        (f"warehouse: w\ncrawl:\n  retries: {'9' * 5000}\n", "line 3, column 12"),
        ("warehouse: w\ncrawl: {obey_robots: !!bool maybe}\n", "line 2, column 22"),
        ("crawl: {retries: !!int ''}\n", "line 1, column 18"),
        ("crawl: {retries: !!timestamp soon}\n", "line 1, column 18"),
    ],
)
def test_unreadable_yaml_is_told_with_line_and_column(tmp_path: Path, text: str, where: str) -> None:
    profile = written(tmp_path, text)
    assert refusal(profile).startswith(f"profile {profile}, {where}: not valid YAML: ")


def test_unreadable_yaml_without_a_position_is_told_too(tmp_path: Path) -> None:
    profile = written(tmp_path, "warehouse: \x00")
    assert refusal(profile).startswith(f"profile {profile}: not valid YAML: ")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_bytes(b"warehouse: \xff\xfe")
    assert refusal(profile) == f"profile {profile}: not UTF-8 text (byte 11)"


@pytest.mark.parametrize(
    ("text", "found"), [("", "nothing"), ("# only a comment", "nothing"), ("- a\n- b\n", "a list"), ("a", "a str")]
)
def test_a_profile_that_is_no_mapping_is_refused(tmp_path: Path, text: str, found: str) -> None:
    profile = written(tmp_path, text)
    assert refusal(profile) == f"profile {profile}: expected a mapping of settings, found {found}"


def test_a_key_that_stands_twice_in_one_group_is_refused_with_the_second_line(tmp_path: Path) -> None:
    profile = edited(tmp_path, "  retries: 3\n", "  retries: 3\n  obey_robots: true\n  retries: 4\n")
    line = profile.read_text(encoding="utf-8").splitlines().index("  retries: 4") + 1
    assert refusal(profile) == f"profile {profile}, line {line}: retries is given a second time in the same group"


def test_a_key_that_yaml_reads_as_no_text_is_refused(tmp_path: Path) -> None:
    profile = written(tmp_path, LOCAL.read_text(encoding="utf-8") + "\non: 1\n")
    assert refusal(profile).endswith("keys must be text, found True; put it in quotes")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("crawl: &group\n  retries: *group\n", 2),
        ("manifest: &group\n  path: x\n  columns: {a: *group}\n", 2),
        ("policy:\n  views: &list [center, *list]\n", 3),
    ],
)
def test_a_group_that_holds_itself_is_refused_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    profile = extending(tmp_path, text)
    assert refusal(profile) == f"profile {profile}, line {line}: a group that holds itself"


def test_anchors_that_stand_for_a_billion_entries_are_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    begun = time.monotonic()
    profile = extending(tmp_path, "\n".join([*lines, "warehouse: *a8", ""]))
    assert "line 2: unknown key a0" in refusal(profile)
    profile = extending(tmp_path, "\n".join(["spark:", *(f"  {line}" for line in lines[:-1]), "warehouse: *a7", ""]))
    assert "unknown key spark.a0" in refusal(profile)
    assert time.monotonic() - begun < 10


def test_an_anchor_that_is_used_twice_is_no_repetition(tmp_path: Path) -> None:
    own = (
        "embedding: &model\n  weights: {path: w, sha256: " + "a" * 64 + "}\n  licence: MIT\nembedding_beside: *model\n"
    )
    assert load(str(extending(tmp_path, own))).embedding_beside is not None


def test_lists_within_lists_without_an_end_are_refused(tmp_path: Path) -> None:
    profile = extending(tmp_path, f"crawl: {'[' * 5000}{']' * 5000}\n")
    assert refusal(profile) == f"profile {profile}: not a file of settings: groups within groups, hundreds deep"


@pytest.mark.parametrize(("name", "shown"), [('"a\\0b"', "a\\x00b"), ('"a\\ud800b"', "a\\ud800b")])
def test_a_name_that_no_file_can_have_is_told_as_such(tmp_path: Path, name: str, shown: str) -> None:
    assert refusal(extending(tmp_path, "", base=name)) == (
        f"profile {tmp_path / shown}: cannot be read (no file can have such a name)"
    )


@pytest.mark.parametrize("value", ["{[a]: 1}", "{{a: 1}: 1}", "&a {retries: *a}"])
def test_an_override_with_keys_or_groups_that_no_setting_has_is_refused(value: str) -> None:
    assert refusal(LOCAL, f"crawl={value}") == f"--set crawl={value}: the value is not valid YAML"


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("policy.views=[plain]", "policy: views: center must be among them"),
        ("images.min_side=600", "images: min_side must be at most max_side, 512, not 600"),
    ],
)
def test_an_override_that_does_not_go_with_the_rest_of_its_group_is_named(override: str, problem: str) -> None:
    group = override.partition(".")[0]
    line = LOCAL.read_text(encoding="utf-8").splitlines().index(f"{group}:") + 1
    assert refusal(LOCAL, override).startswith(f"profile {LOCAL}, line {line} with --set {override}: {problem}")


@pytest.mark.parametrize(
    ("overrides", "last"),
    [
        (["crawl={user_agent: agent}", "crawl.retries=few"], 1),
        (["crawl.retries=2", "crawl={user_agent: agent, retries: few}"], 1),
        (["crawl.retries=2", "crawl={user_agent: agent}", "crawl.retries=few"], 2),
        (["crawl={user_agent: agent, retries: few}", "crawl.backoff_s=2"], 0),
    ],
)
def test_of_several_overrides_the_one_that_holds_is_named(overrides: list[str], last: int) -> None:
    assert refusal(LOCAL, *overrides).startswith(f"--set {overrides[last]}: crawl.retries: must be a valid integer")


# The digest of what decides contents ----------------------------------------------------------------------------------

WHERE_AND_HOW_FAST = {
    "warehouse",
    "manifest.path",
    "manifest.format",
    "manifest.columns",
    "crawl.per_host_concurrency",
    "crawl.per_host_rate",
    "crawl.concurrency",
    "crawl.max_pending_bytes",
    "crawl.connect_timeout_s",
    "crawl.request_timeout_s",
    "crawl.row_deadline_s",
    "crawl.deadline_s",
    "crawl.drain_deadline_s",
    "crawl.min_bytes_per_s",
    "crawl.min_rate_window_s",
    "crawl.retries",
    "crawl.backoff_s",
    "crawl.max_backoff_s",
    "crawl.obey_crawl_delay",
    "crawl.circuit_breaker_failures",
    "crawl.max_host_pause_s",
    "crawl.share_limits_by_address",
    "crawl.dns_cache_s",
    "crawl.lookahead_rows",
    "policy.file",
    "policy.detector.path",
    "policy.batch_size",
    "policy.timeout_s",
    "embedding.weights.path",
    "embedding.licence",
    "embedding.batch_size",
    "embedding.max_batch_bytes",
    "embedding.cpu_batch_size",
    "embedding.device",
    "embedding.gpus_per_task",
    "embedding.cores_per_task",
    *(f"embedding.executor.{name}" for name in ExecutorSettings.model_fields),
    "embedding.compile",
    "embedding.threads",
    "embedding.decode_threads",
    "text.weights.path",
    "text.licence",
    "text.batch_size",
    "text.device",
    "text.threads",
    "dedup.target_recall",
    "spark.master",
    "spark.app_name",
    "spark.jars",
    "spark.class_archive",
    "spark.crawl_tasks",
    "spark.embed_tasks",
    "spark.text_tasks",
    "spark.properties",
    "run.lease_ttl_s",
    "run.lease_wait_s",
    "run.single_driver",
    "run.keep_staging",
    "run.expectations",
    "run.expectation_nights",
}
"""Every setting that may differ between two runs that must leave equal warehouses. All others decide contents."""


def leaves(settings: Settings, prefix: str = "") -> Iterator[str]:
    """Every setting of every group, as a path with dots."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def with_another_value(settings: Settings, path: str) -> Any:
    """A copy in which the setting at `path` has another value, valid or not."""
    name, _, rest = path.partition(".")
    value = with_another_value(getattr(settings, name), rest) if rest else "another"
    return settings.model_copy(update={name: value})


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_the_contents_digest_changes_with_what_decides_contents_and_with_nothing_else() -> None:
    config = load(str(LOCAL))
    digest = config.contents_digest()
    same = {path for path in leaves(config) if with_another_value(config, path).contents_digest() == digest}
    assert same == WHERE_AND_HOW_FAST


def test_the_contents_digest_of_one_configuration_is_one_however_it_was_written(tmp_path: Path) -> None:
    data = yaml.safe_load(LOCAL.read_text(encoding="utf-8"))
    backwards = written(tmp_path, json.dumps(dict(reversed(data.items()))))
    spelt_out = load(str(LOCAL), ["crawl.max_redirects=5", "dedup.seed=1"])
    assert load(str(backwards)).contents_digest() == load(str(LOCAL)).contents_digest() == spelt_out.contents_digest()


def test_every_operational_setting_exists() -> None:
    def groups(settings: Settings) -> Iterator[Settings]:
        yield settings
        for name in type(settings).model_fields:
            if isinstance(value := getattr(settings, name), Settings):
                yield from groups(value)

    for group in groups(load(str(LOCAL))):
        assert group.operational <= set(type(group).model_fields), type(group).__name__


def test_a_configuration_cannot_be_changed_after_it_was_checked() -> None:
    config: Config = load(str(LOCAL))
    with pytest.raises(ValueError, match="frozen"):
        config.crawl.retries = 9  # type: ignore[misc]


# Policy files ---------------------------------------------------------------------------------------------------------


def policy_refusal(path: Path) -> str:
    settings = GateSettings(file=str(path), detector=load(str(LOCAL)).policy.detector)
    with pytest.raises(UsageError) as refused:
        load_policy(settings)
    return str(refused.value)


def test_the_shipped_policy_is_valid() -> None:
    assert load_policy(load(str(LOCAL)).policy).name == "default"


def test_a_missing_policy_file_is_named() -> None:
    assert policy_refusal(Path("conf/none.yaml")) == (
        "policy file conf/none.yaml: cannot be read (No such file or directory)"
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("at_least: 0.8", "at_least: 1.8", "rules.4.at_least: must be less than or equal to 1, found 1.8"),
        ("at_least: 0.8", "at_least: .nan", "rules.4.at_least: must be a finite number, found nan"),
        ("at_least: 0.8", "at_leest: 0.8", "unknown key rules.4.at_leest; did you mean rules.4.at_least?"),
        ("deny: [", "den: [", "unknown key rules.0.den; did you mean rules.0.deny?"),
        ("missing: allow", "missing: perhaps", "rules.0.missing: must be 'allow' or 'match', found 'perhaps'"),
        ("words: [porn", "words: [1488", "rules.2.words.0: must be a valid string, found 1488"),
        ("words: [porn", "words: ['  '", "rules.2.words.0: expected at least one visible character, found '  '"),
        ("words: [porn", "words: ['\xad'", "rules.2.words.0: expected at least one visible character, found '\\xad'"),
        (
            "words: [porn",
            "words: ['\u034f'",
            "rules.2.words.0: expected at least one visible character, found '\u034f'",
        ),
        ("domains: [blocked", "domains: [Blocked", "rules.1.domains.0: expected a host name in lower case and ASCII"),
        ("missing: allow", "missing: allow\n    missing: match", "missing is given a second time in the same group"),
        ("name: default", "rulez: []\nname: default", "unknown key rulez; did you mean rules?"),
    ],
)
def test_a_bad_policy_is_refused_with_line_and_field(tmp_path: Path, old: str, new: str, expected: str) -> None:
    policy = edited(tmp_path, old, new, POLICY)
    line = policy.read_text(encoding="utf-8")[: policy.read_text(encoding="utf-8").index(new)].count("\n")
    line += 1 + (new.count("\n") if "second time" in expected else 0)
    assert policy_refusal(policy).startswith(f"policy file {policy}, line {line}: {expected}")


def only_rule(tmp_path: Path, **fields: Any) -> Path:
    """A policy of one rule, which starts in line 4."""
    rule = {"id": "some-rule", "action": "block", "reason": "some_reason", "comment": "why"} | fields
    lines = [f"{name}: {json.dumps(value)}" for name, value in rule.items() if value is not None]
    return written(tmp_path, "name: one\nrules:\n-\n  " + "\n  ".join(lines) + "\n")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "rules.0.kind is required and is not set"),
        ({"kind": "nswf"}, "'detector', 'combined', found 'nswf'"),
        ({"kind": "nsfw"}, "rules.0.at_least is required and is not set"),
        ({"kind": "nsfw", "at_least": 0.5, "comment": None}, "rules.0.comment is required and is not set"),
        ({"kind": "nsfw", "at_least": 0.5, "comment": ""}, "rules.0.comment: String should have at least 1 character"),
        ({"kind": "nsfw", "at_least": 0.5, "action": "stop"}, "rules.0.action: must be 'review' or 'block'"),
        ({"kind": "nsfw", "at_least": 0.5, "id": "Some Rule"}, "rules.0.id: String should match pattern"),
        ({"kind": "nsfw", "at_least": 0.5, "reason": "not-a-code"}, "rules.0.reason: String should match pattern"),
        ({"kind": "licence"}, "rules.0: rule some-rule: give either allow or deny"),
        ({"kind": "licence", "allow": ["a"], "deny": ["b"]}, "rules.0: rule some-rule: give either allow or deny"),
        ({"kind": "domain", "domains": []}, "rules.0.domains: Tuple should have at least 1 item"),
        ({"kind": "text", "words": []}, "rules.0.words: Tuple should have at least 1 item"),
        ({"kind": "text"}, "rules.0: give words, patterns or both"),
        ({"kind": "text", "words": ["a"], "languages": ["xx"]}, "rules.0.languages.0: expected a language"),
        ({"kind": "sha256", "hashes": ["ab" * 32, "xy"]}, "line 9: rules.0.hashes.1: String should match pattern"),
        ({"kind": "perceptual", "hashes": ["ab" * 32], "hash": "md5"}, "rules.0.hash: must be 'phash256' or 'pdq'"),
        ({"kind": "perceptual", "hashes": ["ab" * 32], "hash": "pdq"}, "rules.0.max_distance is required"),
        ({"kind": "detector", "name": "hands", "at_least": 0.5}, "rules.0.label is required and is not set"),
        ({"kind": "combined", "text": {"words": ["a"]}}, "rules.0.content is required and is not set"),
        ({"kind": "text", "words": ["a"], "fields": []}, "rules.0.fields: Tuple should have at least 1 item"),
        ({"kind": "text", "words": ["a"], "fields": ["titel"]}, "rules.0.fields.0: must be 'title', 'alt_text'"),
    ],
)
def test_a_bad_rule_is_refused_by_number_and_field(tmp_path: Path, fields: dict[str, Any], expected: str) -> None:
    assert expected in policy_refusal(only_rule(tmp_path, **fields))


@pytest.mark.parametrize(
    "host",
    ["Example.com", "münchen.de", ".example.com", "example.com.", "https://example.com", "example.com:80", "a/b", "",
     "127.1", "1.0x7f", "[::1]", "::0001", "::ffff:5db8:d822", "exam ple.com", "*.example.com"],
)  # fmt: skip
def test_a_domain_that_could_never_match_a_normalised_host_is_refused(tmp_path: Path, host: str) -> None:
    assert "rules.0.domains.0: expected a host name" in policy_refusal(
        only_rule(tmp_path, kind="domain", domains=[host])
    )


def test_a_policy_under_which_nothing_is_blocked_for_its_score_is_refused(tmp_path: Path) -> None:
    review_only = only_rule(tmp_path, kind="nsfw", at_least=0.5, action="review")
    assert policy_refusal(review_only).endswith("no rule on nsfw blocks: the gate would let everything through")


def test_two_rules_of_one_id_are_refused_by_that_id(tmp_path: Path) -> None:
    policy = edited(tmp_path, "id: nsfw-block", "id: nsfw-review", POLICY)
    assert policy_refusal(policy).endswith("rule ids must be unique; repeated: ['nsfw-review']")


# Lists that a policy names --------------------------------------------------------------------------------------------

BLOCKS = """name: lists
rules:
- {id: nsfw, kind: nsfw, action: block, reason: nsfw, at_least: 0.8, comment: why}
- id: listed
  action: block
  reason: listed
  comment: why
"""


def naming_a_list(
    tmp_path: Path, kind: str, entries: str | None, inline: str = "", file: str = "lists/one.txt"
) -> Path:
    """A policy whose second rule, in lines 4 to 8, names a list; its `file` is in line 9."""
    if entries is not None:
        (tmp_path / "lists").mkdir(exist_ok=True)
        (tmp_path / "lists/one.txt").write_text(entries, encoding="utf-8")
    return written(tmp_path, f"{BLOCKS}  kind: {kind}\n  file: {file}\n{inline}")


def loaded(path: Path) -> Policy:
    return load_policy(GateSettings(file=str(path), detector=load(str(LOCAL)).policy.detector))


@pytest.mark.parametrize(
    ("kind", "entries", "inline", "field", "expected"),
    [
        ("domain", "# why\n\nb.example  # asked\r\n c.example\n", "  domains: [a.example]\n", "domains",
         ("a.example", "b.example", "c.example")),
        ("url", "HTTP://A.example:80/%7ex#top\n", "", "urls", ("http://a.example/~x",)),
        ("sha256", f"{'AB' * 32}\n{'00' * 32}", f"  hashes: [{'ab' * 32}]\n", "hashes", bytes(32) + b"\xab" * 32),
        ("perceptual", "cd" * 32, "  hash: pdq\n  max_distance: 31\n", "hashes", b"\xcd" * 32),
    ],
)  # fmt: skip
def test_the_entries_of_a_list_join_those_in_the_rule(
    tmp_path: Path, kind: str, entries: str, inline: str, field: str, expected: object
) -> None:
    assert getattr(loaded(naming_a_list(tmp_path, kind, entries, inline)).rules[1], field) == expected


def test_the_version_covers_what_is_in_a_list_and_not_where_it_lies_or_what_is_said_of_it(tmp_path: Path) -> None:
    policy = naming_a_list(tmp_path, "domain", "a.example\nb.example\n")
    before = loaded(policy).version
    (tmp_path / "lists/one.txt").write_text("b.example # asked\na.example\nb.example\n")
    assert loaded(policy).version == before
    (tmp_path / "moved.txt").write_text("a.example\nb.example\n")
    assert loaded(naming_a_list(tmp_path, "domain", None, file="moved.txt")).version == before
    (tmp_path / "lists/one.txt").write_text("a.example\n")
    assert loaded(naming_a_list(tmp_path, "domain", None)).version != before


@pytest.mark.parametrize(
    ("kind", "entries", "expected"),
    [
        ("domain", "a.example\n# no\nB.example\n", "list {list}, line 3: rules.1.domains.1: expected a host name"),
        ("url", "http://a/\nhttp://\n", "list {list}, line 2: rules.1.urls.1: expected a URL that could be fetched"),
        ("sha256", f"{'ab' * 32}\n{'ab' * 31}\n", "list {list}, line 2: rules.1.hashes.1: String should match"),
        ("domain", "# none yet\n\n", "policy file {policy}, line 9: rules.1.file: list {list}: expected at least one"),
        ("domain", None, "policy file {policy}, line 9: rules.1.file: list {list}: cannot be read (No such file"),
        ("text", "a\n", "policy file {policy}, line 9: unknown key rules.1.file"),
    ],
)
def test_a_bad_list_is_refused_with_its_line(tmp_path: Path, kind: str, entries: str | None, expected: str) -> None:
    policy = naming_a_list(tmp_path, kind, entries)
    expected = expected.format(list=tmp_path / "lists/one.txt", policy=policy)
    assert policy_refusal(policy).startswith(expected)


def test_a_byte_order_mark_is_no_part_of_a_list_nor_of_a_profile(tmp_path: Path) -> None:
    policy = naming_a_list(tmp_path, "domain", "\ufeff# asked\na.example\n")
    assert loaded(policy).rules[1].domains == ("a.example",)  # type: ignore[union-attr]
    extending(tmp_path, "")
    (tmp_path / "marked.yaml").write_bytes(b"\xef\xbb\xbfextends: local.yaml\r\nwarehouse: mine\r\n")
    assert load(str(tmp_path / "marked.yaml")).warehouse == "mine"


def test_a_bad_entry_in_the_rule_itself_is_told_from_one_of_the_list(tmp_path: Path) -> None:
    policy = naming_a_list(tmp_path, "domain", "a.example\n", "  domains: [A.example]\n")
    assert policy_refusal(policy).startswith(f"policy file {policy}, line 10: rules.1.domains.0: expected a host name")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            "kind: text\n  patterns: [a, '(?=b)']\n",
            "line 9: rules.1.patterns.1: invalid perl operator: (?=, found '(?=b)'",
        ),
        (
            "kind: url\n  urls: ['http://a/', x]\n",
            "line 9: rules.1.urls.1: expected a URL that could be fetched (scheme)",
        ),
        (
            "kind: combined\n  content: {at_least: 0.2}\n  text:\n    patterns: ['^']\n",
            "line 11: rules.1.text.patterns.0: it matches the empty text",
        ),
    ],
)
def test_a_pattern_or_url_that_cannot_be_used_is_refused_with_its_line(
    tmp_path: Path, fields: str, expected: str
) -> None:
    policy = written(tmp_path, f"{BLOCKS}  {fields}")
    assert policy_refusal(policy).startswith(f"policy file {policy}, {expected}")
