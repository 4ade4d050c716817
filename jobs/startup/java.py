"""Which Java Spark will start, looked for as Spark looks for it, so that none is one clear line and no trace."""

import os
import re
import shutil
from pathlib import Path

from pyspark import SparkContext

from jobs.config.errors import UsageError

SUPPORTED = (17, 21)
"""Major versions that Spark 4.0 runs on."""

_RELEASE = re.compile(r'^JAVA_VERSION="(?:1\.)?(\d+)', re.MULTILINE)
_REMEDY = "install openjdk-17-jre-headless or the like and set JAVA_HOME; `make setup` brings one: source .venv/java.sh"


def find_java() -> Path | None:
    """The program that Spark's launcher starts: of JAVA_HOME where that is set, else of PATH; None where it is none."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which(str(Path(home) / "bin" / "java")) if home else shutil.which("java")
    return Path(found) if found else None


def java_version(java: Path) -> int | None:
    """Its major version, by the file `release` beside it, which Java has had since 7; None where there is no such
    file."""
    try:
        text = (java.resolve().parent.parent / "release").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    stated = _RELEASE.search(text)
    return int(stated[1]) if stated else None


def check_java() -> str:
    """What was found, in words. Raises UsageError where there is no Java, or one that is too old for Spark."""
    java = find_java()
    if java is None:
        home = os.environ.get("JAVA_HOME")
        where = f"no bin/java in JAVA_HOME={home}" if home else "JAVA_HOME is not set, and PATH has no java"
        raise UsageError(f"Java: expected 17 or 21, found none ({where}); {_REMEDY}")
    version = java_version(java)
    if version is not None and version < SUPPORTED[0]:
        raise UsageError(f"Java: expected 17 or 21, found {version} ({java}); {_REMEDY}")
    return f"{version or 'of unknown version'} ({java})"


def check_java_to_start() -> None:
    """`check_java`, unless a JVM runs already: this process's, or the one that spark-submit started it from."""
    if SparkContext._gateway is None and "PYSPARK_GATEWAY_PORT" not in os.environ:
        check_java()
