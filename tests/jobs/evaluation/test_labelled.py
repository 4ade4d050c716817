"""Labelled pictures from folders and from tables, and what is said of anything else."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from jobs.evaluation.labelled import Labelled, LabelledError, read_labelled

ROW = {"domain": "food", "category": "food/fruit", "pixels": b"jpeg", "caption": "A pear."}


def test_folders_name_domain_and_category_and_the_first_line_beside_is_the_caption(tmp_path: Path) -> None:
    for name in ("food/fruit/cartoon/pear.png", "food/fruit/fig.JPG", "town/house.webp", "cover.png", "food/note.svg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "food/fruit/cartoon/pear.txt").write_text("A pear.\nfr.utf8=Une poire.\n")
    assert read_labelled(tmp_path) == [
        Labelled("food/fruit/cartoon/pear.png", "food", "food/fruit", "A pear.", b"food/fruit/cartoon/pear.png"),
        Labelled("food/fruit/fig.JPG", "food", "food/fruit", None, b"food/fruit/fig.JPG"),
        Labelled("town/house.webp", "town", "town", None, b"town/house.webp"),
    ]


def test_a_parquet_file_holds_pixels(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([ROW]), tmp_path / "set.parquet")
    expected = [Labelled("row 0", "food", "food/fruit", "A pear.", b"jpeg")]
    assert read_labelled(tmp_path / "set.parquet") == expected
    assert read_labelled(tmp_path) == expected


def test_a_table_may_name_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"pixels")
    row = {"domain": "food", "category": "nuts", "path": "a.jpg"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "set.parquet")
    assert read_labelled(tmp_path / "set.parquet") == [Labelled("a.jpg", "food", "nuts", None, b"pixels")]
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(LabelledError, match=r"row 0: .*a\.jpg: no such file"):
        read_labelled(tmp_path / "set.parquet")


@pytest.mark.parametrize("name", ["labelled set", "50%20#?", "a:b"])
def test_of_a_delta_table_only_live_rows_are_read(tmp_path: Path, name: str) -> None:
    stale, live = ROW | {"caption": "stale"}, ROW
    table = tmp_path / "labelled set"
    for version, row in enumerate((stale, live)):
        name = f"{version}.parquet"
        table.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist([row]), table / name)
    DeltaTable.create(str(table), schema=_delta_schema(), mode="error")
    _add(table, 1, "1.parquet")
    table = table.rename(tmp_path / name)
    assert [picture.caption for picture in read_labelled(table)] == ["A pear."]


def _delta_schema() -> object:
    from deltalake import Schema
    from deltalake.schema import Field, PrimitiveType

    fields = {"domain": "string", "category": "string", "pixels": "binary", "caption": "string"}
    return Schema([Field(name, PrimitiveType(kind)) for name, kind in fields.items()])


def _add(table: Path, version: int, name: str) -> None:
    import json

    size = (table / name).stat().st_size
    action = {"add": {"path": name, "partitionValues": {}, "size": size, "modificationTime": 1, "dataChange": True}}
    (table / "_delta_log" / f"{version:020}.json").write_text(json.dumps(action))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {"domain": "food", "pixels": b""},
            "expected the columns domain, category, one of pixels or path.*found domain",
        ),
        ({"domain": "food", "category": "nuts"}, "found domain, category"),
        (ROW | {"category": None}, "row 0: expected domain, category and pixels, found a null"),
    ],
)
def test_a_table_of_something_else_is_refused(tmp_path: Path, row: dict[str, object], problem: str) -> None:
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "set.parquet")
    with pytest.raises(LabelledError, match=problem):
        read_labelled(tmp_path / "set.parquet")


def test_no_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelledError, match="found none"):
        read_labelled(tmp_path)
    with pytest.raises(LabelledError, match="no such file or folder"):
        read_labelled(tmp_path / "nowhere")
    (tmp_path / "set.parquet").write_text("no parquet")
    with pytest.raises(LabelledError, match="expected Parquet"):
        read_labelled(tmp_path / "set.parquet")
