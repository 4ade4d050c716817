"""Bad usage of the demo: exit code 2, one line that says what to do, nothing written."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from demo import run
from demo.pictures import Picture
from demo.run import find_pictures, left_out, main
from jobs.config.errors import RunError
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


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo's own folder, with tables of an earlier run in it."""
    folder = tmp_path / "demo-output"
    (folder / "warehouse").mkdir(parents=True)
    (folder / "warehouse" / "precious").write_text("data")
    monkeypatch.setattr(run, "OUTPUT", folder)
    return folder


def night_that(code: int, *, publishes: bool) -> Callable[[Sequence[str]], int]:
    """In place of `jobs.nightly.main`."""

    def main(arguments: Sequence[str]) -> int:
        (warehouse,) = (part.partition("=")[2] for part in arguments if part.startswith("warehouse="))
        assert list(Path(warehouse).iterdir()) == []
        (Path(warehouse) / "begun").touch()
        if publishes:
            TinyWarehouse(Path(warehouse)).event("run", "published", counts=[], inputs_digest="digest")
        return code

    return main


@pytest.mark.parametrize("code", [1, 2])
def test_a_manifest_that_is_refused_leaves_what_was_there_before(
    tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    manifest = tmp_path / "urls.csv"
    manifest.write_text("no,url\n")
    monkeypatch.setattr(run.nightly, "main", night_that(code, publishes=False))
    assert main(["--manifest", str(manifest)]) == code
    assert [path.name for path in output.rglob("*")] == ["warehouse", "precious"]


def test_tables_of_which_something_is_published_take_the_place_of_those_before(
    tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tmp_path / "urls.csv"
    manifest.write_text("url\nhttps://example.com/a.jpg\n")
    monkeypatch.setattr(run.nightly, "main", night_that(0, publishes=True))
    told: list[Path] = []
    monkeypatch.setattr(run, "_tell_of_own", told.append)
    assert main(["--manifest", str(manifest)]) == 0
    assert told == [output / "warehouse"]
    assert [path.name for path in output.iterdir()] == ["warehouse"]
    assert not (output / "warehouse" / "precious").exists()

    def broken(_: Path) -> None:
        raise RunError("what comes after the night fails")

    monkeypatch.setattr(run, "_tell_of_own", broken)
    assert main(["--manifest", str(manifest)]) == 1
    assert [path.name for path in output.iterdir()] == ["warehouse"]
    assert (output / "warehouse" / "begun").exists()


def test_what_a_killed_demo_has_put_aside_is_put_back_first(
    tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (output / "warehouse").rename(output / "warehouse-before")
    (output / "warehouse").mkdir()
    manifest = tmp_path / "urls.csv"
    manifest.write_text("no,url\n")
    monkeypatch.setattr(run.nightly, "main", night_that(2, publishes=False))
    assert main(["--manifest", str(manifest)]) == 2
    assert [path.name for path in output.rglob("*")] == ["warehouse", "precious"]


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
