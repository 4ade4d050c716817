"""Bad usage of the demo: exit code 2, one line that says what to do, nothing written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from demo import run
from demo.pictures import Picture
from demo.run import find_pictures, left_out, main
from jobs.config.profile import load
from jobs.config.progress import log
from tests.lensfeed.tiny_warehouse import TinyWarehouse

Refusal = Callable[..., str]


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Calls the demo with arguments that must end it with exit code 2, and gives the one line that it says."""
    errors: list[str] = []
    monkeypatch.setattr(log, "error", lambda template, *values: errors.append(template % values))

    def call(*arguments: str) -> str:
        assert main(arguments) == 2
        assert capsys.readouterr().out == ""
        (line,) = errors
        assert "\n" not in line
        return line

    return call


def test_a_missing_folder_of_pictures_is_named(tmp_path: Path, refusal: Refusal) -> None:
    missing = tmp_path / "holiday"
    assert f"--images {missing}: there is no such folder" in refusal("--images", str(missing))


def test_a_folder_without_pictures_says_which_files_it_looks_for(tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    line = refusal("--images", str(tmp_path))
    assert "no pictures there; expected files named .avif, .gif, .jpeg, .jpg, .png, .webp" in line


def test_a_missing_manifest_is_named(tmp_path: Path, refusal: Refusal) -> None:
    missing = tmp_path / "urls.txt"
    assert f"--manifest {missing}: there is no such file" in refusal("--manifest", str(missing))


def test_a_warehouse_that_holds_something_is_left_alone(tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "precious").write_text("data")
    assert "expected a new or empty folder" in refusal("--warehouse", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_the_report_lies_in_the_demos_own_folder_and_its_path_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    TinyWarehouse(tmp_path / "warehouse").event("run", "published", counts=[], inputs_digest="digest")
    monkeypatch.setattr(run, "OUTPUT", tmp_path / "output")
    run.leave_report(tmp_path / "warehouse")
    assert str(tmp_path / "output/report.html") in capsys.readouterr().out
    assert (tmp_path / "output/report.html").read_text().startswith("<!doctype html>")


def test_a_date_to_serve_must_be_one(refusal: Refusal) -> None:
    assert "expected YYYY-MM-DD" in refusal("--serve", "--date", "yesterday")


def test_pictures_are_found_below_a_folder_by_their_endings(tmp_path: Path, pictures: tuple[Picture, ...]) -> None:
    for name in ("b.PNG", "a.jpg", "deep/er/c.webp", "notes.txt", "deep/d.jpg.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(pictures[0].data)
    found = [path.relative_to(tmp_path).as_posix() for path in find_pictures(tmp_path)]
    assert found == ["a.jpg", "b.PNG", "deep/er/c.webp"]


def test_what_is_left_out_is_counted_by_ending_and_some_of_it_named(tmp_path: Path) -> None:
    assert left_out(tmp_path, []) == ""
    for name in ("a.jpg", *(f"deep/{number}.TIFF" for number in range(5)), "notes.txt", "README", "b.heic"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = left_out(tmp_path, find_pictures(tmp_path))
    assert found.startswith("5 .tiff, 1 ")
    assert "1 no ending" in found
    assert found.endswith("(README, b.heic, deep/0.TIFF, deep/1.TIFF, deep/2.TIFF, ...)")
    assert "jpg" not in found


def test_a_folders_manifest_lies_where_the_demos_profile_looks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "in" / "a.jpg"
    picture.parent.mkdir()
    picture.touch()
    runs: list[tuple[object, ...]] = []
    monkeypatch.setattr(run, "OUTPUT", tmp_path / "demo-output")
    monkeypatch.setattr(run, "run_night", lambda *given: runs.append(given))
    monkeypatch.setattr(run, "_tell_of_own", lambda _: None)
    run.ingest_folder(picture.parent, [picture], tmp_path / "warehouse")
    date, manifest, _ = runs[0]
    asked = load(run.PROFILE).manifest.path.replace("{date}", str(date))
    assert manifest == tmp_path / asked
    assert [file.name for file in (tmp_path / asked).iterdir()] == ["pictures.jsonl"]
