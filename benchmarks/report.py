"""What every benchmark ends with: figures as JSON, beside the hardware and the versions that they were taken with."""

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any


def environment(*packages: str) -> dict[str, Any]:
    """Processor, the cores that this process may use, Python, and the installed versions of `packages`."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def publish(report: Mapping[str, Any], into: Path | None) -> None:
    """Print the document, and write it to the file `into` if there is one."""
    text = json.dumps(report, indent=2)
    print(text)
    if into:
        into.parent.mkdir(parents=True, exist_ok=True)
        into.write_text(text + "\n", encoding="utf-8")
