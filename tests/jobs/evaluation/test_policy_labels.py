"""Files of labels: what is read, and what is refused with its line."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.config.errors import UsageError
from jobs.evaluation.policy_labels import Label, read_labels
from udfs.urls import url_id

ONE, OTHER = "1" * 64, "a" * 64
URL = "http://pictures.example/a.jpg"
EXPECTED = [
    Label("line 2", ONE, ONE, None, explicit=True),
    Label("line 3", URL, None, url_id(URL), explicit=False),
]


def read(folder: Path, text: str, name: str = "labels.csv") -> list[Label]:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_labels(path)


def refusal(folder: Path, text: str, name: str = "labels.csv") -> str:
    """What the refusal says behind the file's path, on one line."""
    with pytest.raises(UsageError) as refused:
        read(folder, text, name)
    message = str(refused.value)
    assert message.startswith(str(folder / name))
    assert "\n" not in message
    return message.removeprefix(str(folder / name))


def test_csv_names_contents_by_image_id_or_url(tmp_path: Path) -> None:
    assert read(tmp_path, f"image_id,url,label,note\n{ONE},,explicit,x\n,{URL}, Safe ,\n") == EXPECTED
    assert read(tmp_path, f"\ufeffimage_id,url,label\n{ONE},{URL},1\n,{URL},0\n") == EXPECTED


def test_a_url_is_known_by_its_normalised_form(tmp_path: Path) -> None:
    (label,) = read(tmp_path, "url,label\nHTTP://Pictures.EXAMPLE:80/a.jpg#top,0\n")
    assert label.url_id == url_id(URL)


def test_json_lines_give_the_line_though_some_are_empty(tmp_path: Path) -> None:
    text = f'\n{{"image_id": "{ONE}", "label": "explicit"}}\n{{"url": "{URL}", "label": 0}}\n'
    assert read(tmp_path, text, "labels.jsonl") == EXPECTED


def test_parquet_gives_the_row(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"image_id": [ONE, OTHER], "label": [1, 0]}), path)
    assert [(label.where, label.explicit) for label in read_labels(path)] == [("row 1", True), ("row 2", False)]


@pytest.mark.parametrize("label", ["", "unsafe", "2", "true", "1.0"])
def test_another_label_is_refused(tmp_path: Path, label: str) -> None:
    found = f", line 2: label: expected explicit, safe, 1 or 0, found {label!r}"
    assert refusal(tmp_path, f"image_id,label\n{ONE},{label}\n") == found


def test_a_label_that_contradicts_an_earlier_line_is_refused(tmp_path: Path) -> None:
    text = f"image_id,label\n{ONE},1\n{OTHER},0\n{ONE},0\n"
    assert refusal(tmp_path, text) == f", line 4: {ONE} has another label on line 2 already"


def test_a_label_that_repeats_an_earlier_line_is_refused_for_it_would_count_twice(tmp_path: Path) -> None:
    text = f"url,label\n{URL},1\n{URL}#again,explicit\n"
    assert refusal(tmp_path, text) == f", line 3: {URL}#again has the same label on line 2 already"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image_id,label\nABC,1\n", ", line 2: image_id: expected 64 hexadecimal digits, found 'ABC'"),
        ("image_id,url,label\n,,1\n", ", line 2: expected an image_id or a url, found neither"),
        ("url,label\nftp://x/a,1\n", ", line 2: url 'ftp://x/a': "),
        ("url,label\nhttp://x/a,1,2\n", ", line 2: expected 2 values, found more"),
        ("url,verdict\nhttp://x/a,1\n", ": expected the columns label and image_id or url, found url, verdict"),
        ("", ": expected the columns label and image_id or url, found none"),
        ("url,label,label\nhttp://x/a,0,1\n", ": expected the column label once, found it 2 times"),
        ("url,url,label\nhttp://x/a,http://x/b,1\n", ": expected the column url once, found it 2 times"),
        ("url,label\n", ": expected labels, found none"),
        ('url,label\n"http://x/a,1\n', ": cannot be read as csv ("),
    ],
)
def test_a_csv_that_is_none_is_refused_with_the_line(tmp_path: Path, text: str, says: str) -> None:
    assert refusal(tmp_path, text).startswith(says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", ", line 1: not JSON ("),
        ("[]", ", line 1: expected an object, "),
        ("[" * 100_000, ", line 1: not JSON ("),
        (f'{{"label": {"1" * 5000}}}', ", line 1: not JSON ("),
        ('{"url": "http://x/a", "label": "safe", "label": "explicit"}', ", line 1: label is given twice"),
    ],
    ids=["cut short", "list", "deep", "long", "twice"],
)
def test_a_line_that_is_no_json_object_is_refused(tmp_path: Path, text: str, says: str) -> None:
    assert refusal(tmp_path, text, "labels.jsonl").startswith(says)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, "", "labels.txt") == ": expected a file named .csv, .jsonl or .parquet"
    assert refusal(tmp_path, "no", "labels.parquet").startswith(": cannot be read as parquet (")
    with pytest.raises(UsageError, match="No such file"):
        read_labels(tmp_path / "absent.csv")
    pq.write_table(pa.table({"id": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UsageError, match="expected the columns label and image_id or url, found id"):
        read_labels(tmp_path / "other.parquet")
