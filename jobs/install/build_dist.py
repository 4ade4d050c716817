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
_WRITTEN = frozenset({"lensfeed.zip", "spark-defaults.conf", "discover_gpus.sh"})
"""Beside the jars and the wheel."""
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
    """Write everything into the folder, in place of what was built there before.

    Raises UsageError when there are no jars, and for a folder that holds anything else, RunError when the wheel fails.
    """
    found = sorted(jars.glob("*.jar"))
    if not found:
        raise UsageError(f"--jars {jars}: no jar files there; run `make setup`")
    _check_place(into, found)
    for path in into.glob("*"):  # what it holds, and not the folder: it may be a link
        shutil.rmtree(path) if path.is_dir() else path.unlink()
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


def _check_place(into: Path, jars: Sequence[Path]) -> None:
    """Raise UsageError where what is in the folder is not for us to delete, or jars could not be named there."""
    if into.exists() and not into.is_dir():
        raise UsageError(f"--into {into}: expected a folder, found a file")
    held = {*into.glob("*"), *into.glob("jars/*")} - ({into / "jars"} if (into / "jars").is_dir() else set())
    if others := sorted(path for path in held if path.is_dir() or not _is_built(path.relative_to(into))):
        found = ", ".join(str(path) for path in others[:3])
        raise UsageError(f"--into {into}: expected a new or empty folder, or one of this command's, found {found}")
    if jars[0].resolve().is_relative_to(into.resolve()):
        raise UsageError(f"--jars {jars[0].parent}: expected a folder outside --into {into}, which is written anew")
    named = [into.resolve() / "jars" / jar.name for jar in jars]
    if comma := next((path for path in named if "," in str(path)), None):
        raise UsageError(f"{comma}: expected no comma in the jars' paths: it stands between them in spark.jars")


def _is_built(path: Path) -> bool:
    """Whether a path in the folder is one that an earlier build wrote."""
    if len(path.parts) == 1:
        return path.name in _WRITTEN or path.match("lensfeed-*.whl")
    return path.match("*.jar") and path.parent == Path("jars")


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
    named = ",".join(str(jar.resolve()) for jar in jars)
    lines.append("spark.jars " + named.replace("\\", "\\\\"))  # Java's properties take one for themselves
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
