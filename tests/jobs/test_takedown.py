"""What a file of requests may say, and what is refused before anything is touched."""

from pathlib import Path

import pytest

from jobs import takedown
from jobs.config.errors import UsageError
from udfs.gate.takedowns import Takedown


def requests(*arguments: str) -> list[Takedown]:
    return list(takedown._requests(takedown.command_line().parse_args([*OTHERS, *arguments])))


OTHERS = ["--profile", "conf/local.yaml", "--reference", "CASE-1"]


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "requests.csv"
    path.write_bytes(content)
    return path


def test_a_file_of_requests_is_read_as_spreadsheets_write_it(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbfkind,subject\r\nurl,"https://a.example/x,y.jpg"\r\n\r\n domain , A.example \r\n'
    assert requests("--file", str(written(tmp_path, content))) == [
        Takedown("url", "https://a.example/x,y.jpg"),
        Takedown("domain", "a.example"),
    ]


def test_columns_that_a_spreadsheet_adds_are_none(tmp_path: Path) -> None:
    content = b"kind,subject,, \nurl,https://a.example/x,,\ndomain,a.example, ,\n,,,\n"
    with pytest.raises(UsageError, match="row 3: kind: expected"):  # as of any row that says nothing
        requests("--file", str(written(tmp_path, content)))
    found = requests("--file", str(written(tmp_path, content.removesuffix(b",,,\n"))))
    assert found == [Takedown("url", "https://a.example/x"), Takedown("domain", "a.example")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"kind,subject\nurl,https://a.example/x,y.jpg\n", "row 1: expected 2 cells, found 3"),
        (b"kind,subject\nurl,https://a.example/x,\n", "row 1: expected 2 cells, found 3"),
        (b"kind,subject,\nurl,https://a.example/x,y.jpg\n", "row 1: expected 2 cells, found 3"),
        (b"kind,subject,,\nurl,https://a.example/x,y.jpg,\n", "row 1: expected 2 cells, found 4"),
        (b"kind,subject,subject\nurl,https://a.example/x,\n", "found 'subject' more than once"),
        (b"kind;subject\nurl;x\n", "expected the columns kind and subject"),
        (b"kind,subject\nurl,\n", "row 1: url: expected one that could be fetched"),
        (b"kind,subject\nurl\n", "row 1: url: expected one that could be fetched"),
        (b"kind,subject\n# why,https://a.example/\n", "row 1: kind: expected one of"),
        (b'kind,subject\nurl,"https://a.example/', "cannot be read as CSV"),
        ("kind,subject\n".encode("utf-16"), "cannot be read as CSV"),
        (b"", "expected the columns kind and subject"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        requests("--file", str(written(tmp_path, content)))


def test_nearness_to_what_has_no_pixels_is_refused() -> None:
    """It would be left out without a word, and copies of the image would stay."""
    assert takedown.main([*OTHERS, "--url", "https://a.example/x.jpg", "--near"]) == 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--image", "ab" * 32, "--near", "64"], "--near 64: expected 0 to 63 bits"),
        (["--image", "ab" * 32, "--near", "-1"], "--near -1: expected 0 to 63 bits"),
        (["--hash", "url:https://a.example/"], "--hash url:https://a.example/: expected phash256:HEX or pdq:HEX"),
        (["--hash", "ab" * 32], "expected phash256:HEX or pdq:HEX"),
        (["--image", "ab" * 32, "--reference", " "], "--reference: expected who asks, or the case, found nothing"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_before_anything_is_opened(
    arguments: list[str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takedown, "load", None)
    with pytest.raises(UsageError, match=problem):
        takedown._run(takedown.command_line().parse_args([*OTHERS, *arguments]))
