"""What `spark-submit --py-files` is given."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from jobs.config.errors import UsageError
from jobs.install.build_dist import build, write_archive

READ = """
import sys
sys.path = [sys.argv[1], *(path for path in sys.path if path != sys.argv[2])]
from jinja2 import Environment, PackageLoader
import jobs.reporting
assert jobs.reporting.__file__.startswith(sys.argv[1]), jobs.reporting.__file__
templates = Environment(loader=PackageLoader("jobs.reporting", "templates"))
print(*sorted(templates.list_templates()))
"""


def test_the_reports_templates_are_read_from_the_archive(tmp_path: Path) -> None:
    write_archive(tmp_path / "lensfeed.zip")
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-I", "-c", READ, str(tmp_path / "lensfeed.zip"), str(root)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    there = {path.name for path in (root / "jobs/reporting/templates").iterdir()}
    assert {"base.html", "report.css", "report.html"} <= there
    assert set(ran.stdout.split()) == there


@pytest.fixture
def jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one jar; the wheel takes no time."""

    def wheel(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        into = Path(command[command.index("-w") + 1])
        (into / "lensfeed-0-py3-none-any.whl").write_text("wheel")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("jobs.install.build_dist.subprocess.run", wheel)
    (tmp_path / "jars").mkdir()
    (tmp_path / "jars/lake-1.0.jar").write_text("jar")
    return tmp_path / "jars"


def test_a_folder_with_anything_else_in_it_is_refused_and_left_alone(jars: Path, tmp_path: Path) -> None:
    for name in ("thesis.txt", "jars/notes.txt", "src/lensfeed.zip"):
        file = tmp_path / "home" / name
        file.parent.mkdir(parents=True)
        file.write_text("mine")
        with pytest.raises(UsageError, match="home: expected a new or empty folder, or one of this command's, found "):
            build(tmp_path / "home", jars)
        assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == [file]
        shutil.rmtree(tmp_path / "home")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=r"--into .*file: expected a folder, found a file"):
        build(tmp_path / "file", jars)


def test_the_jars_are_not_taken_from_what_is_replaced(jars: Path, tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    own = jars.rename(tmp_path / "dist/jars")
    with pytest.raises(UsageError, match=r"--jars .*dist/jars: expected a folder outside --into"):
        build(tmp_path / "dist", own)
    assert (own / "lake-1.0.jar").read_text() == "jar"


def test_what_was_built_before_is_replaced_though_it_was_killed_half_way(jars: Path, tmp_path: Path) -> None:
    (tmp_path / "dist/jars").mkdir(parents=True)
    (tmp_path / "dist/jars/lake-0.9.jar").write_text("old")
    (tmp_path / "dist/lensfeed.zip").write_bytes(b"cut sh")
    (tmp_path / "link").symlink_to(tmp_path / "dist")
    for into in ("link", "dist"):
        build(tmp_path / into, jars)
        assert (tmp_path / "link").is_symlink()
        assert sorted(str(path.relative_to(tmp_path / "dist")) for path in (tmp_path / "dist").rglob("*.*")) == [
            *("discover_gpus.sh", "jars/lake-1.0.jar", "lensfeed-0-py3-none-any.whl"),
            *("lensfeed.zip", "spark-defaults.conf"),
        ]
        assert zipfile.is_zipfile(tmp_path / "dist/lensfeed.zip")


def test_a_comma_which_would_end_a_jars_name_is_refused(jars: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a,b.*: expected no comma in the jars' paths"):
        build(tmp_path / "a,b", jars)
    assert not (tmp_path / "a,b").exists()


def test_a_backslash_is_none_of_the_properties_own(jars: Path, tmp_path: Path) -> None:
    build(tmp_path / "a\\b", jars)
    written = (tmp_path / "a\\b/spark-defaults.conf").read_text().splitlines()
    assert written[-1] == f"spark.jars {tmp_path}/a\\\\b/jars/lake-1.0.jar"
