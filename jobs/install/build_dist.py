"""Builds what `spark-submit` needs beside the entry point.

    python -m jobs.install.build_dist --into dist

`lensfeed.zip` for `--py-files` (our packages), `spark-defaults.conf` for `--properties-file` (the session's
properties and Delta's jars), the jars themselves, and a wheel for those who install. Third-party packages come to the
executors with the cluster's Python environment (see docs/operations.md).
"""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from jobs.config.command import JobParser, add_output_arguments, job_parser, run_command
from jobs.config.errors import RunError, UsageError
from jobs.startup.session import PROPERTIES

PACKAGES = ("jobs", "udfs", "schemas", "lensfeed")
_PACKED = frozenset({".py", ".html", ".css"})
"""Endings of what our packages are made of: code, and the templates of the report."""
_ROOT = Path(__file__).resolve().parents[2]


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("install.build_dist", __doc__)
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--jars", type=Path, default=Path(".assets/jars"), help="folder of Delta's jars")
    add_output_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: build(options.into, options.jars), options)


def build(into: Path, jars: Path) -> None:
    """Write everything into the folder. Raises UsageError when there are no jars, RunError when the wheel fails."""
    found = sorted(jars.glob("*.jar"))
    if not found:
        raise UsageError(f"--jars {jars}: no jar files there; run `make setup`")
    shutil.rmtree(into, ignore_errors=True)
    (into / "jars").mkdir(parents=True)
    for jar in found:
        shutil.copy2(jar, into / "jars" / jar.name)
    shutil.copy2(_ROOT / "conf/discover_gpus.sh", into / "discover_gpus.sh")
    write_archive(into / "lensfeed.zip")
    _write_properties(into / "spark-defaults.conf", [into / "jars" / jar.name for jar in found])
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    built = subprocess.run([*command, "-w", str(into), str(_ROOT)], capture_output=True, text=True, check=False)
    if built.returncode:
        raise RunError(f"the wheel could not be built: {built.stderr.strip()[-500:]}")
    for path in sorted(into.rglob("*")):
        if path.is_file():
            sys.stdout.write(f"{path}\n")


def write_archive(target: Path) -> None:
    """Our packages as a zip file for `--py-files`."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in PACKAGES:
            for path in sorted((_ROOT / package).rglob("*")):
                if path.suffix in _PACKED:
                    archive.write(path, path.relative_to(_ROOT))


def _write_properties(target: Path, jars: Sequence[Path]) -> None:
    lines = [
        "# Written by jobs.install.build_dist: what jobs/startup/session.py sets, for spark-submit --properties-file."
    ]
    lines += [f"{name} {value}" for name, value in PROPERTIES.items()]
    lines.append("spark.jars " + ",".join(str(jar.resolve()) for jar in jars))
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
