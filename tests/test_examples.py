"""The code that users are shown: the README's example and `examples/`, run as they stand."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lensfeed import ChangesGoneError, Snapshot, changes, open_feed
from lensfeed.rerank import Query
from schemas.tables import PUBLISHED
from tests.lensfeed.pictured_warehouse import ASSETS, pictures, row, versions, write
from tests.lensfeed.tiny_warehouse import TinyWarehouse

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "conf/rerank.yaml"


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    """examples/index_builder.py, which is no module of a package."""
    spec = importlib.util.spec_from_file_location("index_builder", ROOT / "examples/index_builder.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def nights(tmp_path: Path) -> TinyWarehouse:
    """A warehouse of sixteen real pictures after its first night."""
    warehouse = TinyWarehouse(tmp_path / "demo-output/warehouse")
    write(warehouse, pictures()[:16])
    warehouse.event("first", "published", **versions())
    return warehouse


def second_night(warehouse: TinyWarehouse) -> None:
    """Two pictures are withdrawn, one loses its text, one is seen with another title, eight are new."""
    silent = {"has_text": False, "text_vector": [0.0] * 384, "title": None}
    warehouse.merge(
        "index_feed",
        deleted=[one.feed_id for one in pictures()[:2]],
        changed=[
            row(pictures()[2], **silent),
            row(pictures()[3], title="another", text_vector=pictures()[9].text_vector),
        ],
    )
    write(warehouse, pictures()[16:])
    warehouse.event("second", "published", **versions())


def same(builder: ModuleType, updated: object, snapshot: Snapshot, column: str) -> bool:
    """Whether an index answers as one does that is built from scratch on the same training."""
    scratch = builder.build(snapshot, column, updated)
    queries = np.array([one.vector if column == "vector" else one.text_vector for one in pictures()], np.float32)
    found, expected = (index.search(queries, 30) for index in (updated, scratch))  # type: ignore[attr-defined]
    return all(np.array_equal(np.sort(f, axis=1), np.sort(e, axis=1)) for f, e in zip(found, expected, strict=True))


def test_the_readme_goes_from_feed_to_neighbours_in_six_lines(
    nights: TinyWarehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = (ROOT / "README.md").read_text().split("## Read it\n")[1]
    (example,) = re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) == 6
    (tmp_path / ".assets").symlink_to(ASSETS)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(re.fullmatch(r"a tabby cat, part \d: https://pictures.example/\d+\.png", line) for line in lines[:4])


def test_an_index_that_is_brought_up_to_date_equals_one_built_from_scratch(
    builder: ModuleType, nights: TinyWarehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "index"
    builder.bring_up_to_date(str(nights.root), folder)
    assert json.loads((folder / "receipt.json").read_text())["run_id"] == "first"
    second_night(nights)
    monkeypatch.setattr(builder, "train", None)  # nothing is built anew
    snapshot, indices = builder.bring_up_to_date(str(nights.root), folder)
    live = sorted(one.feed_id for one in pictures()[2:])
    assert builder.ids_in(indices["vector"]).tolist() == live
    assert builder.ids_in(indices["text_vector"]).tolist() == sorted({*live} - {pictures()[2].feed_id})
    assert all(same(builder, index, snapshot, column) for column, index in indices.items())
    note = json.loads((folder / "receipt.json").read_text())
    assert (note["run_id"], note["vector"]["count"], note["text_vector"]["count"]) == ("second", 22, 21)
    assert builder.bring_up_to_date(str(nights.root), folder)[0].run_id == "second"
    assert json.loads((folder / "receipt.json").read_text()) == note


def test_an_index_is_built_anew_where_changes_are_not_known_or_the_receipt_is_gone(
    builder: ModuleType, nights: TinyWarehouse, tmp_path: Path
) -> None:
    folder = tmp_path / "index"
    recorded = [(name, 0 if name == "index_feed" else -1) for name in PUBLISHED if name != "feed_tombstones"]
    nights.event("of an earlier release", "published", table_versions=recorded, **versions())
    builder.bring_up_to_date(str(nights.root), folder)
    second_night(nights)
    with pytest.raises(ChangesGoneError):
        changes(nights.root, "of an earlier release")
    _, indices = builder.bring_up_to_date(str(nights.root), folder)
    assert len(builder.ids_in(indices["vector"])) == 22
    (folder / "receipt.json").unlink()
    assert len(builder.ids_in(builder.bring_up_to_date(str(nights.root), folder)[1]["vector"])) == 22


def test_an_index_is_built_anew_where_its_receipt_was_not_written_to_its_end(
    builder: ModuleType, nights: TinyWarehouse, tmp_path: Path
) -> None:
    folder = tmp_path / "index"
    builder.bring_up_to_date(str(nights.root), folder)
    (folder / "receipt.json").write_text('{"run_id": "fi')
    assert len(builder.ids_in(builder.bring_up_to_date(str(nights.root), folder)[1]["vector"])) == 16


def test_an_index_is_emptied_with_the_feed(
    builder: ModuleType,
    nights: TinyWarehouse,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    builder.bring_up_to_date(str(nights.root), tmp_path / "index")
    nights.merge("index_feed", deleted=[one.feed_id for one in pictures()[:16]])
    nights.event("second", "published", **versions())
    code, out = called(builder, capsys, monkeypatch, nights.root, tmp_path / "index")
    assert (code, "the feed is empty" in out) == (0, True)


def test_a_receipt_is_refused_to_an_index_of_other_rows(builder: ModuleType, nights: TinyWarehouse) -> None:
    first = open_feed(nights.root)
    index = builder.build(first)
    assert builder.receipt(index, first)["count"] == 16
    second_night(nights)
    with pytest.raises(RuntimeError, match="index of vector: 8 live rows are missing, 2 are not live"):
        builder.receipt(index, open_feed(nights.root))


def test_the_index_finds_what_exact_search_finds_and_the_feeds_signals_order_it(
    builder: ModuleType, nights: TinyWarehouse
) -> None:
    snapshot = open_feed(nights.root)
    index = builder.build(snapshot)
    assert builder.recall(index, snapshot, k=5) > 0.9
    cat = pictures()[5]
    vector, text = np.array(cat.vector, np.float32), np.array(cat.text_vector, np.float32)
    assert builder.ask(index, snapshot, Query(vector=vector, text=text), WEIGHTS, k=1).tolist() == [cat.feed_id]
    found = builder.ask(builder.build(snapshot, "text_vector"), snapshot, Query(text=text), WEIGHTS, k=4)
    assert sorted(found.tolist()) == sorted(one.feed_id for one in pictures()[4:8])


def test_the_example_answers_on_the_command_line(
    builder: ModuleType,
    nights: TinyWarehouse,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "cat.png"
    file.write_bytes(pictures()[5].file)
    given = [
        str(nights.root),
        str(tmp_path / "index"),
        "--image",
        str(file),
        "--text",
        "a cat",
        "--assets",
        str(ASSETS),
    ]
    monkeypatch.setattr(sys, "argv", ["index_builder.py", *given, "--weights", str(WEIGHTS)])
    builder.main()
    out = capsys.readouterr().out
    assert "recall of 10 against exact search: " in out
    answers = out.split(f"\nFound for {file} and a cat, best first:\n")[1].splitlines()
    assert len(answers) == 10
    assert all("a tabby cat" in line for line in answers[:4])


@pytest.fixture
def silent(tmp_path: Path) -> TinyWarehouse:
    """A warehouse of pictures of which none has a text."""
    warehouse = TinyWarehouse(tmp_path / "silent")
    write(warehouse, pictures()[:4])
    rows = [row(one, has_text=False, text_vector=[0.0] * 384, title=None) for one in pictures()[:4]]
    warehouse.write("index_feed", rows, overwrite=True)
    warehouse.event("first", "published", **versions())
    return warehouse


def called(
    builder: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *given: object
) -> tuple[object, str]:
    """What the example ends with, and what it printed."""
    arguments = ["index_builder.py", *map(str, given), "--weights", str(WEIGHTS)]
    monkeypatch.setattr(sys, "argv", arguments)
    try:
        builder.main()
    except SystemExit as ended:
        return ended.code, capsys.readouterr().out
    return 0, capsys.readouterr().out


def test_without_texts_there_is_an_index_of_pictures_alone_until_some_come(
    builder: ModuleType,
    silent: TinyWarehouse,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "index"
    code, out = called(builder, capsys, monkeypatch, silent.root, folder)
    assert (code, "no index of texts: no row of the feed has one" in out) == (0, True)
    assert [file.name for file in folder.glob("*.faiss")] == ["vector.faiss"]
    code, _ = called(builder, capsys, monkeypatch, silent.root, folder, "--text", "cat", "--assets", ASSETS)
    assert code == "error: --text: no row of the feed has a text to be found by; ask by --image"
    write(silent, pictures()[4:])
    silent.event("second", "published", **versions())
    trained, train = [], builder.train
    monkeypatch.setattr(builder, "train", lambda *given: trained.append(given[1]) or train(*given))
    _, indices = builder.bring_up_to_date(str(silent.root), folder)
    assert trained == ["text_vector"]
    assert [len(builder.ids_in(indices[column])) for column in ("vector", "text_vector")] == [24, 20]


def test_what_goes_wrong_is_one_line(
    builder: ModuleType,
    nights: TinyWarehouse,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    index, image = tmp_path / "index", tmp_path / "missing.jpg"
    code, _ = called(builder, capsys, monkeypatch, tmp_path / "nothing", index)
    assert str(code).startswith("error: no warehouse at ")
    code, _ = called(builder, capsys, monkeypatch, nights.root, index, "--image", image, "--assets", ASSETS)
    assert code == 2
    code, _ = called(builder, capsys, monkeypatch, nights.root, index, "--text", "a", "--assets", tmp_path / "none")
    assert str(code).startswith("error: assets: expected a folder with the models' weights")
