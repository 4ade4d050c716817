"""What `spark-submit --py-files` is given."""

import subprocess
import sys
from pathlib import Path

from jobs.install.build_dist import write_archive

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
