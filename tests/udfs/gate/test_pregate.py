import hashlib
import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import udfs.gate.pregate
from schemas.policy import Policy
from schemas.tables import MANIFEST_COLUMNS
from tests import wild
from udfs.cleaning import clean_text, text_id
from udfs.gate.pregate import JUDGED, RECORDED, judge_recorded, pregate
from udfs.gate.rules import SightingFacts, SightingJudge, Verdict, sighting_judge
from udfs.urls import normalise_url, url_id

POLICY = Policy.model_validate(
    {
        "name": "test",
        "rules": [
            {"id": "licence", "kind": "licence", "action": "block", "reason": "licence", "deny": ["nd"],
             "comment": "-"},
            {"id": "domain", "kind": "domain", "action": "block", "reason": "domain", "domains": ["blocked.example"],
             "comment": "-"},
            {"id": "text", "kind": "text", "action": "review", "reason": "text",
             "words": ["gore", "badword", "child abuse"], "comment": "-"},
            {"id": "page", "kind": "text", "action": "block", "reason": "page", "words": ["forbidden"],
             "fields": ["url", "page_url"], "comment": "-"},
            {"id": "address", "kind": "url", "action": "block", "reason": "url", "urls": ["http://a.example/listed"],
             "comment": "-"},
            {"id": "french", "kind": "text", "action": "review", "reason": "french", "words": ["nu"],
             "languages": ["fr"], "comment": "-"},
            {"id": "both", "kind": "combined", "action": "review", "reason": "both", "content": {"at_least": 0.2},
             "text": {"words": ["beach"]}, "comment": "-"},
            {"id": "nsfw", "kind": "nsfw", "action": "block", "reason": "nsfw", "at_least": 0.8, "comment": "-"},
        ],
    }
)  # fmt: skip
ARROW = {
    "string": pa.string(),
    "array<string>": pa.list_(pa.string()),
    "map<string,string>": pa.map_(pa.string(), pa.string()),
}
MANIFEST = pa.schema(
    [
        ("source_file", pa.string()),
        ("row_number", pa.int64()),
        *[(name, ARROW[kind]) for name, kind in MANIFEST_COLUMNS.items()],
        ("malformed", pa.string()),
    ]
)
KEPT = [name for name in MANIFEST.names if name not in {"url", "malformed"}]


def row(**fields: Any) -> dict[str, Any]:
    """A row as the manifest's reader gives it; sound unless told otherwise."""
    sound = dict.fromkeys(MANIFEST.names) | {"source_file": "part.jsonl", "row_number": 7, "url": "http://a.example/x"}
    return sound | fields


def judged(*rows: dict[str, Any], batch_rows: int = 1000) -> list[dict[str, Any]]:
    batches = pa.Table.from_pylist(list(rows), MANIFEST).to_batches(max_chunksize=batch_rows)
    out = pa.Table.from_batches(pregate(POLICY)(batches))
    assert out.schema.names == [*KEPT, *JUDGED.names]
    result: list[dict[str, Any]] = out.to_pylist()
    return result


def judged_one(**fields: Any) -> dict[str, Any]:
    (result,) = judged(row(**fields))
    return result


# Every row, once ------------------------------------------------------------------------------------------------------

PLAIN = st.text(st.characters(exclude_characters="@", exclude_categories=["Cs"]), max_size=20)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "source_file": PLAIN,
            "row_number": st.integers(0, 2**63 - 1),
            "url": st.none() | PLAIN | st.sampled_from(["http://a.example/x", "https://B.example", "ftp://c.example/"]),
            "page_url": st.none() | PLAIN,
            "title": st.none() | PLAIN,
            "alt_text": st.none() | PLAIN,
            "description": st.none() | PLAIN,
            "tags": st.none() | st.lists(st.none() | PLAIN, max_size=3),
            "license": st.none() | PLAIN,
            "attributes": st.none() | st.lists(st.tuples(PLAIN, st.none() | PLAIN), max_size=2),
            "expected_sha256": st.none() | PLAIN | st.just("a" * 64),
            "malformed": st.none() | st.just("not a JSON object"),
        }
    ),
    min_size=1,
    max_size=8,
)  # fmt: skip


@settings(deadline=None)
@given(ROWS, st.integers(1, 3))
def test_every_row_comes_out_once_and_in_order_with_its_columns_intact(rows: list[dict[str, Any]], size: int) -> None:
    out = judged(*rows, batch_rows=size)
    assert [{name: result[name] for name in KEPT} for result in out] == [
        {name: given_row[name] for name in KEPT} for given_row in rows
    ]


@settings(deadline=None)
@given(ROWS)
def test_a_row_is_either_bad_with_a_reason_or_has_all_it_takes_to_be_fetched(rows: list[dict[str, Any]]) -> None:
    for result in judged(*rows):
        located = (result["normalised_url"], result["url_id"], result["host"])
        if result["bad_row"] is None:
            assert result["url_id"] == url_id(normalise_url(result["url"]))
            assert all(located)
        else:
            assert result["bad_row"].strip()
            assert located == (None, None, None)
            assert (result["decision"], result["reasons"], result["withdraws"]) == ("allow", [], False)
        assert result["decision"] in {"allow", "review", "block"}
        assert (result["decision"] == "allow") == (not result["reasons"])
        assert (result["text"] is None) == (result["text_id"] is None)


@settings(deadline=None)
@given(ROWS)
def test_a_rows_judgement_does_not_depend_on_the_rows_beside_it(rows: list[dict[str, Any]]) -> None:
    assert judged(*rows) == [result for alone in rows for result in judged(alone)]


def test_an_empty_batch_gives_an_empty_batch() -> None:
    (out,) = pregate(POLICY)([pa.RecordBatch.from_pylist([], MANIFEST)])
    assert out.num_rows == 0
    assert out.schema.names == [*KEPT, *JUDGED.names]


def test_the_columns_that_are_added_have_the_declared_types() -> None:
    (out,) = pregate(POLICY)([pa.RecordBatch.from_pylist([row(), row(url=None)], MANIFEST)])
    assert [out.schema.field(name) for name in JUDGED.names] == list(JUDGED)


WILD = st.builds(lambda text: text.encode(errors="replace").decode(), wild.TEXTS)
WILD_URLS = st.builds(lambda url: url.encode(errors="replace").decode(), wild.URLS)
WILD_ROWS = st.fixed_dictionaries(
    {
        "url": WILD_URLS | st.just("http://a.example/x"),
        "page_url": st.none() | WILD_URLS,
        "title": st.none() | WILD,
        "alt_text": st.none() | WILD,
        "description": st.none() | WILD,
        "tags": st.none() | st.lists(st.none() | WILD, max_size=3),
        "license": st.none() | WILD,
        "attributes": st.none() | st.lists(st.tuples(WILD, st.none() | WILD), max_size=2),
        "expected_sha256": st.none() | WILD,
        "malformed": st.none() | WILD,
    }
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(WILD_ROWS)
def test_whatever_comes_in_a_row_comes_out_judged_or_bad_and_harms_no_other(fields: dict[str, Any]) -> None:
    before, wild_row, after = judged(row(title="a cat"), row(**fields), row(title="gore"))
    assert (before["bad_row"], before["text"], after["reasons"]) == (None, "a cat", ["text"])
    if wild_row["bad_row"] is None:
        assert all([wild_row["normalised_url"], wild_row["url_id"], wild_row["host"]])
        assert wild_row["text"] == (clean_text(*(wild_row[name] for name in TEXT_COLUMNS)) or None)
        assert wild_row["text_id"] == (text_id(wild_row["text"]) if wild_row["text"] else None)
    else:
        assert (wild_row["url_id"], wild_row["text"], wild_row["reasons"]) == (None, None, [])


TEXT_COLUMNS = ("title", "alt_text", "description", "tags")


# Bad rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"url": None}, "url: missing"),
        ({"url": ""}, "url: missing"),
        ({"url": " \t"}, "url: missing"),
        ({"url": "pictures/cat.jpg"}, "url: scheme"),
        ({"url": "ftp://a.example/cat.jpg"}, "url: scheme"),
        ({"url": "file:///etc/passwd"}, "url: scheme"),
        ({"url": "http:///cat.jpg"}, "url: host"),
        ({"url": "http://a.example:99999/"}, "url: port"),
        ({"url": "http://user:secret@a.example/"}, "url: credentials"),
        ({"url": "http://a.example/a\x00b"}, "url: control_character"),
        ({"url": "http://a.example/" + "a" * 9000}, "url: too_long"),
        ({"malformed": "not a CSV record of 3 fields"}, "not a CSV record of 3 fields"),
        ({"malformed": "not a JSON object", "url": None}, "not a JSON object"),
        ({"expected_sha256": "abc"}, "expected_sha256: not 64 hexadecimal digits"),
        ({"expected_sha256": "g" * 64}, "expected_sha256: not 64 hexadecimal digits"),
        ({"expected_sha256": "a" * 65}, "expected_sha256: not 64 hexadecimal digits"),
        ({"expected_sha256": "a" * 64 + "\n"}, "expected_sha256: not 64 hexadecimal digits"),
        ({"expected_sha256": " "}, "expected_sha256: not 64 hexadecimal digits"),
    ],
)
def test_a_bad_row_is_told_why_and_is_not_judged(fields: dict[str, Any], reason: str) -> None:
    result = judged_one(license="nd", title="gore", **fields)
    assert result["bad_row"] == reason
    assert (result["decision"], result["reasons"], result["url_id"], result["text_id"]) == ("allow", [], None, None)


@pytest.mark.parametrize("expected", [None, "", "a" * 64, "A1" * 32])
def test_a_digest_in_either_case_or_none_is_sound(expected: str | None) -> None:
    result = judged_one(expected_sha256=expected)
    assert result["bad_row"] is None
    assert result["expected_sha256"] == expected


@pytest.mark.parametrize(
    ("step", "breaks", "reason"),
    [
        ("spellings", "title", "title: ValueError"),
        ("spellings", "alt", "alt_text: ValueError"),
        ("spellings", "tag", "tags: ValueError"),
        ("language", "title. alt. text. tag", "language: ValueError"),
        ("one_line", "title", "row: ValueError"),
        ("text_id", "title. alt. text. tag", "row: ValueError"),
        ("host_of", "http://broken.example/", "url: ValueError"),
        ("normalise_url", "http://broken.example/", "url: ValueError"),
        ("redact_text", "text", "description: ValueError"),
        ("redact_url", "http://page.example/", "page_url: ValueError"),
    ],
)
def test_whatever_a_step_raises_costs_the_row_and_never_the_stage(
    monkeypatch: pytest.MonkeyPatch, step: str, breaks: str, reason: str
) -> None:
    def fail(*arguments: Any) -> Any:
        if breaks in arguments:
            raise ValueError(SECRET)
        return works(*arguments)

    works = getattr(udfs.gate.pregate, step)
    monkeypatch.setattr(udfs.gate.pregate, step, fail)
    broken = row(
        url="http://broken.example/", page_url="http://page.example/", title="title", alt_text="alt",
        description="text", tags=["tag"],
    )  # fmt: skip
    first, result, last = judged(row(), broken, row(title="gore"))
    assert (first["bad_row"], last["reasons"]) == (None, ["text"])
    assert (result["bad_row"], result["url_id"], result["decision"], result["reasons"]) == (reason, None, "allow", [])
    assert holders(result) == []


def test_a_rule_that_fails_costs_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_on_dogs(*_: object) -> SightingJudge:
        def judge(facts: SightingFacts, cleared: frozenset[str] = frozenset()) -> Verdict:
            if facts.text["title"] == "a dog":
                raise RecursionError
            return works(facts, cleared)

        return judge

    works = sighting_judge(POLICY)
    monkeypatch.setattr(udfs.gate.pregate, "sighting_judge", fails_on_dogs)
    out = judged(row(title="a dog"), row(title="gore"))
    assert [(result["bad_row"], result["reasons"]) for result in out] == [
        ("rules: RecursionError", []),
        (None, ["text"]),
    ]


def test_credentials_that_could_not_be_looked_for_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(text: str) -> str:
        if SECRET in text:
            raise ValueError(text)
        return text

    monkeypatch.setattr(udfs.gate.pregate, "redact_text", fail)
    result = judged_one(title=f"see http://user:{SECRET}@b.example/", tags=["cat"])
    assert (result["title"], result["tags"], result["bad_row"]) == (None, ["cat"], "title: ValueError")


@pytest.mark.parametrize("column", ["url", "title", "tags", "attributes", "license", "malformed"])
def test_bytes_that_are_no_utf8_cost_their_row(column: str) -> None:
    """Spark takes them for a string where a Parquet file says so."""
    broken = b"caf\xe9"
    given_bytes: Any = {"tags": [b"cat", broken, None], "attributes": [(b"k", broken), (broken, None)]}.get(
        column, broken
    )
    rows = [row(title="a cat"), row(), row(title="gore")]
    kinds = {"tags": pa.list_(pa.binary()), "attributes": pa.map_(pa.binary(), pa.binary())}
    batch = pa.RecordBatch.from_pylist(rows, MANIFEST)
    values = pa.array(
        [
            None if column != "url" else b"http://a.example/x",
            given_bytes,
            None if column != "url" else b"http://a.example/x",
        ],
        kinds.get(column, pa.binary()),
    )
    changed = [
        values.cast(MANIFEST.field(column).type, safe=False) if name == column else batch.column(name)
        for name in MANIFEST.names
    ]
    (out,) = pregate(POLICY)([pa.RecordBatch.from_arrays(changed, names=MANIFEST.names)])
    out.validate(full=True)
    first, result, last = out.to_pylist()
    assert (first["bad_row"], last["bad_row"]) == (None, None)
    assert result["url_id"] is None
    assert "caf\ufffd" in str(result)
    assert result["bad_row"] == ("caf\ufffd" if column == "malformed" else f"{column}: not UTF-8")


@pytest.mark.parametrize(
    "fields",
    [
        {"title": "&#" + "5" * 5000}, {"title": "&#x" + "f" * 5000 + ";"}, {"tags": ["<![", "<!DOCTYPE [<!x"]},
        {"description": "<div>" * 200_000}, {"title": "a" * 10**6}, {"title": "@//" * 300_000},
        {"title": "://a:b@" * 150_000}, {"alt_text": "//" * 500_000}, {"alt_text": "%2F%2F:" * 150_000 + "@"},
        {"title": "\u0301\u0316" * 500_000}, {"title": "child " * 200_000}, {"license": "@" * 10**6},
        {"page_url": "http://" + "a:" * 500_000 + "@"}, {"page_url": "//" * 500_000 + "@"}, {"tags": ["<b>x"] * 10_000},
    ],
    ids=lambda fields: str(fields)[:28],
)  # fmt: skip
def test_a_hostile_row_is_judged_at_a_bounded_cost(fields: dict[str, Any]) -> None:
    start = time.process_time()
    assert judged_one(**fields)["bad_row"] is None
    assert time.process_time() - start < 5


@pytest.mark.parametrize("port", ["0" * 5000, "9" * 5000])
def test_a_port_of_thousands_of_digits_costs_its_row(port: str) -> None:
    out = judged(row(), row(url=f"http://a.example:{port}/"), row())
    assert [result["bad_row"] for result in out] == [None, "url: port", None]


def test_a_bad_row_does_not_harm_the_rows_beside_it() -> None:
    out = judged(row(), row(url="nonsense"), row(row_number=9))
    assert [result["bad_row"] for result in out] == [None, "url: scheme", None]


# Verdicts -------------------------------------------------------------------------------------------------------------


def test_a_url_has_one_identity_however_it_is_spelt() -> None:
    one, other = judged(row(url=" HTTP://A.Example:80/%78#part "), row(url="http://a.example/x"))
    assert one["url"] == " HTTP://A.Example:80/%78#part "
    assert one["normalised_url"] == other["normalised_url"] == "http://a.example/x"
    assert one["url_id"] == other["url_id"] == hashlib.sha256(b"http://a.example/x").hexdigest()
    assert one["host"] == "a.example"


@pytest.mark.parametrize(
    ("fields", "decision", "reasons", "withdraws"),
    [
        ({}, "allow", [], False),
        ({"license": "ND"}, "block", ["licence"], True),
        ({"url": "https://cdn.BLOCKED.example/x"}, "block", ["domain"], True),
        ({"url": "HTTP://A.example:80/%6Cisted#top"}, "block", ["url"], True),
        ({"title": "so much Gore"}, "review", ["text"], False),
        ({"alt_text": "gore"}, "review", ["text"], False),
        ({"description": "gore"}, "review", ["text"], False),
        ({"tags": ["cat", "gore"]}, "review", ["text"], False),
        ({"tags": ["child abuse"]}, "review", ["text"], False),
        ({"tags": ["child", "abuse"]}, "allow", [], False),
        ({"tags": ["cat", None, ""]}, "allow", [], False),
        ({"url": "http://a.example/forbidden.jpg"}, "block", ["page"], False),
        ({"url": "http://a.example/f%6Frbidden.jpg"}, "block", ["page"], False),
        ({"page_url": "http://a.example/forbidden/"}, "block", ["page"], False),
        ({"title": "gore", "license": "nd"}, "block", ["licence", "text"], True),
    ],
)
def test_the_policy_sees_the_row(fields: dict[str, Any], decision: str, reasons: list[str], withdraws: bool) -> None:
    result = judged_one(**fields)
    assert (result["decision"], result["reasons"], result["withdraws"]) == (decision, reasons, withdraws)


@pytest.mark.parametrize(
    ("title", "language", "reasons"),
    [
        ("Photographie de nu artistique devant une vieille fenêtre de Paris", "fr", ["french"]),
        ("The nu metal band played its second show in London last night", "en", []),
        ("nu", None, ["french"]),
    ],
)
def test_a_rule_for_a_language_goes_by_the_language_of_the_whole_text_if_that_is_clear(
    title: str, language: str | None, reasons: list[str]
) -> None:
    result = judged_one(title=title)
    assert (result["language"], result["reasons"]) == (language, reasons)


@pytest.mark.parametrize(("title", "halves"), [("at the beach", ["both"]), ("a cat", [])])
def test_the_text_half_of_a_combined_rule_is_told_and_decides_nothing_alone(title: str, halves: list[str]) -> None:
    result = judged_one(title=title)
    assert (result["decision"], result["reasons"], result["halves"]) == ("allow", [], halves)


EVASIONS = [
    "b&#97;dword", "b&#x61;dword", "bad<!-- -->word", "bad<!-->word", "bad<b></b>word", "<i>b</i>adword",
    "bad<img src=x>word", "bad<wbr>word", "bad<script>;</script>word", "bad<span hidden>x</span>word",
    "bad<?x?>word", "bad</>word", "bad<table>word</table>", "bad\u034fword", "bad\u180bword", "bad\u00adword",
    "bad\ufe0fword", "bad\u3164word", "bad\x07word", "bad\ue000word", "bad&shy;word", "bad&#847;word", "ＢＡＤｗｏｒｄ",
    "&amp;#98;adword", "b&amp;amp;#97;dword", "&lt;b&#97;dword&gt;", "＜b&#97;dword＞", "<x b&#97;dword",
    "<b>ba&#100;</b>word", "child&nbsp;abuse", "child<br>abuse", "child<p>abuse", "child<b> </b>abuse",
    "child<b>abuse</b>", "child<td>abuse", "child<img>abuse", "child\u3000abuse", "<li>child<li>abuse",
    "child&#10;abuse", "child<!-- --> abuse", "ch&#105;ld <i>abuse</i>",
    "bad&#7;word", "bad<b>\x07</b>word", "bad&amp;#7;word", "bad<div hidden>x</div>word",
]  # fmt: skip


@pytest.mark.parametrize("field", ["title", "alt_text", "description", "tags"])
def test_neither_markup_nor_invisible_characters_hide_words_from_the_policy(field: str) -> None:
    harmless = ["a cat", "sat <b>on"]
    texts = [f"a {text}, seen" for text in EVASIONS]
    given = [[*harmless, text, "<!--"] if field == "tags" else text for text in texts]
    judged_rows = judged(*(row(**{field: text}) for text in given))
    assert [text for text, result in zip(texts, judged_rows, strict=True) if result["reasons"] != ["text"]] == []


@pytest.mark.parametrize(
    "title", ["bad<!-- ", "a <br> word", "bad<br>word", "child<p>x</p>abuse", "b&#97;d", "childabuse"]
)
def test_markup_makes_no_words_where_none_are_shown(title: str) -> None:
    assert judged_one(title=title, alt_text="word")["reasons"] == []


# Text -----------------------------------------------------------------------------------------------------------------


def test_the_text_of_a_row_is_its_cleaned_text_and_its_id_is_that_texts() -> None:
    result = judged_one(title="<b>A cat</b>", alt_text="on a  mat", tags=["pet", None])
    assert result["text"] == clean_text("<b>A cat</b>", "on a  mat", None, ["pet"])
    assert result["text_id"] == text_id(result["text"])


def test_rows_with_equal_cleaned_text_share_a_text_id_and_others_do_not() -> None:
    one, same, other = judged(row(title="A  cat "), row(title="<i>A</i> cat"), row(title="A dog"))
    assert one["text_id"] == same["text_id"] != other["text_id"]


@pytest.mark.parametrize("fields", [{}, {"title": ""}, {"title": " ", "tags": []}, {"title": "<br>", "tags": [None]}])
def test_a_row_without_text_has_no_text_id(fields: dict[str, Any]) -> None:
    result = judged_one(**fields)
    assert (result["text"], result["text_id"]) == (None, None)


# Credentials ----------------------------------------------------------------------------------------------------------

SECRET = "s3cretw0rd"


def holders(result: dict[str, Any]) -> list[str]:
    """Names of the columns in which the secret stands."""
    return [name for name, value in result.items() if SECRET in str(value)]


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@a.example/x",
        f"https://{SECRET}@a.example/x",
        f"HTTP://user:p@{SECRET}@a.example/x",
        f"http://user:{SECRET}@a.example/@someone",
        f"http://user:p/{SECRET}@a.example/x",
        f"http://user:p?{SECRET}@a.example/x",
        f"http://user:p#{SECRET}@a.example/x",
        f"http://user:p {SECRET}@a.example/x",
        f"http:\\\\user:{SECRET}@a.example/x",
        f"http:/user:{SECRET}@a.example/x",
        f"http:user:{SECRET}@a.example/x",
        f"user:{SECRET}@a.example/x",
        f"//user:{SECRET}@a.example/x",
        f"ftp://user:{SECRET}@a.example/x",
        f" http://user:{SECRET}@a.example/x",
        f"http://user:p\n{SECRET}@a.example/x",
    ],
)
@pytest.mark.parametrize("column", ["url", "page_url"])
@pytest.mark.parametrize("malformed", [None, "not a JSON object"])
def test_no_password_of_a_url_is_left_anywhere_however_broken_the_url(
    url: str, column: str, malformed: str | None
) -> None:
    result = judged_one(**{column: url, "malformed": malformed})
    assert holders(result) == []
    assert result[column]


def test_what_is_shown_of_a_url_with_credentials_is_the_rest_of_it() -> None:
    result = judged_one(url="https://user:pw@a.example/@someone?q=1", page_url="https://user:pw@b.example/page")
    assert result["url"] == "https://a.example/@someone?q=1"
    assert result["page_url"] == "https://b.example/page"
    assert result["bad_row"] == "url: credentials"


@pytest.mark.parametrize(
    "url", ["https://a.example/@someone/1.jpg", "http://a.example/photos/1234@N00/5?to=me@b.example"]
)
def test_an_at_sign_after_the_host_is_no_sign_of_credentials(url: str) -> None:
    result = judged_one(url=url, page_url=url)
    assert (result["url"], result["page_url"], result["bad_row"]) == (url, url, None)


def test_credentials_of_urls_inside_texts_are_removed_and_the_rest_of_the_text_is_kept() -> None:
    leaking = f"see http://user:{SECRET}@b.example/x, or mail me@c.example"
    result = judged_one(
        title=leaking, alt_text=leaking, description=leaking, tags=["cat", leaking, None], license=leaking,
        attributes=[("source", leaking), ("empty", None)],
    )  # fmt: skip
    clean = "see http://b.example/x, or mail me@c.example"
    assert holders(result) == []
    assert [result[name] for name in ("title", "alt_text", "description", "license")] == [clean] * 4
    assert result["tags"] == ["cat", clean, None]
    assert result["attributes"] == [("source", clean), ("empty", None)]


def test_the_key_of_a_sighting_is_never_altered() -> None:
    assert judged_one(source_file="http://user:pw@host/part.csv")["source_file"] == "http://user:pw@host/part.csv"


USER_INFO = st.text(st.characters(exclude_characters="@/?#\\", exclude_categories=["Cs"]), max_size=10)
"""Anything that does not end the part of a URL in which credentials stand."""


@settings(deadline=None)
@given(
    st.sampled_from(["url", "page_url"]),
    st.lists(USER_INFO, max_size=2),
    USER_INFO,
    st.sampled_from(["", "/x", "/x@y"]),
)
def test_no_user_information_leaves_the_secret_behind(
    column: str, before: Sequence[str], after: str, path: str
) -> None:
    url = f"https://{'@'.join(before)}{SECRET}{after}@a.example{path}"
    assert holders(judged_one(**{column: url})) == []


# Judged again ---------------------------------------------------------------------------------------------------------


def judged_again(*rows: dict[str, Any], policy: Policy = POLICY) -> list[dict[str, Any]]:
    """Rows as `pregate` left them, judged from what the warehouse stores of them."""
    names = ["source_file", "row_number", *(name for name in MANIFEST_COLUMNS if name != "url"), *RECORDED]
    schema = pa.schema([MANIFEST.field(name) if name in KEPT else JUDGED.field(name) for name in names])
    stored = pa.Table.from_pylist([{name: row[name] for name in names} for row in rows], schema)
    result: list[dict[str, Any]] = pa.Table.from_batches(judge_recorded(policy)(stored.to_batches())).to_pylist()
    return result


USER = st.sampled_from(["", "u@", "u:p@", "u:p@q@", "u%3Ap@", ":@"])
HOST = st.sampled_from(
    ["a.example", "B\u00fccher.example", "blocked.example", "0x7f.1", "[::1]", "127.1", "h_h.example"]
)
PORT = st.sampled_from(["", ":80", ":443", ":8080", ":", ":99999"])
MARKS = ["/", "//", "@", "%40", "%2540", "%2F", ":", "%3A", "%3a//", "logo@2x.png", "http://u:p@h.example/", "?", "&",
         "=", "https%3A%2F%2Fu%3Ap%40h.example%2F", "#", "..", "%2e", "\u00e4", "%", "\\", " ", "listed",
         "forbidden"]  # fmt: skip
REST = st.lists(st.sampled_from(MARKS), max_size=8).map("".join)
WILD_URLS = st.builds(
    "{}://{}{}{}{}{}".format,
    st.sampled_from(["http", "HTTPS"]), USER, HOST, PORT, st.sampled_from(["", "/", "//", "/img//"]), REST,
)  # fmt: skip
WILD_TEXTS = st.none() | REST | WILD_URLS
WILD_ROWS = st.fixed_dictionaries(
    {
        "url": WILD_URLS,
        "page_url": WILD_TEXTS,
        "title": WILD_TEXTS | st.just("<b>gore</b> &amp; //u:p@h"),
        "license": WILD_TEXTS,
        "tags": st.none() | st.lists(WILD_TEXTS, max_size=2),
        "attributes": st.none() | st.lists(st.tuples(st.just("a"), WILD_TEXTS), max_size=1),
        "expected_sha256": st.sampled_from([None, "x", "a" * 64]),
    }
).map(lambda fields: row(**fields))


@settings(deadline=None)
@given(st.lists(WILD_ROWS, min_size=1, max_size=4))
def test_a_stored_row_judged_again_is_judged_the_same(rows: list[dict[str, Any]]) -> None:
    first = judged(*rows)
    again = judged_again(*first)
    for one, other in zip(first, again, strict=True):
        fetched = one.pop("fetch_url")
        # What can be asked for again is the very URL that the id is of, or nothing.
        assert other.pop("fetch_url") == (fetched if one["normalised_url"] == fetched else None)
        assert {name: other[name] for name in one} == one


@pytest.mark.parametrize(
    ("url", "askable"),
    [
        ("https://a.example/img//logo@2x.png", True),
        ("https://A.example:443/x#part", True),
        ("https://a.example/?url=https://u:s3cretw0rd@h.example/", False),
        ("https://a.example/?url=https%3A%2F%2Fu%3As3cretw0rd%40h.example%2F", False),
    ],
)
def test_what_is_fetched_is_the_url_as_given_and_what_is_stored_is_without_credentials(url: str, askable: bool) -> None:
    one = judged_one(url=url)
    assert one["fetch_url"] == normalise_url(url)
    assert one["url_id"] == url_id(one["fetch_url"])
    assert [name for name in holders(one) if name != "fetch_url"] == []
    (again,) = judged_again(one)
    assert again["fetch_url"] == (one["fetch_url"] if askable else None)
    assert again["url_id"] == one["url_id"]


def test_a_url_rule_looks_at_a_url_as_it_is_stored() -> None:
    listed = "https://a.example/?url=https://u:s3cretw0rd@h.example/"
    rules = [
        {"id": "address", "kind": "url", "action": "block", "reason": "url", "urls": [listed], "comment": "-"},
        {"id": "nsfw", "kind": "nsfw", "action": "block", "reason": "nsfw", "at_least": 0.8, "comment": "-"},
    ]
    policy = Policy.model_validate({"name": "test", "rules": rules})
    batch = pa.Table.from_pylist([row(url=listed)], MANIFEST).to_batches()
    (first,) = pa.Table.from_batches(pregate(policy)(batch)).to_pylist()
    (again,) = judged_again(first, policy=policy)
    assert first["reasons"] == again["reasons"] == ["url"]
