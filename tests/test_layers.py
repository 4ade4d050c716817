"""What importing a layer may bring with it: `make check` holds who imports whom, this holds the weight."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODELS = {"torch", "torchvision", "keras", "timm", "cv2", "onnxruntime", "onnx", "opennsfw2", "transformers"}
"""Each costs seconds of CPU, or needs a backend or threads to be chosen before it is loaded."""


def loaded_by(*packages: str, without: tuple[str, ...] = ()) -> set[str]:
    """Top-level modules that are loaded once every module of the packages is imported, in a process of its own."""
    modules = [
        name
        for package in packages
        for file in sorted((ROOT / package).rglob("*.py"))
        if file.stem != "__init__" and (name := ".".join(file.relative_to(ROOT).with_suffix("").parts)) not in without
    ]
    script = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


def test_the_schemas_are_plain_data() -> None:
    loaded = loaded_by("schemas", without=("schemas.spark", "schemas.arrow"))  # which make types of Spark and of Arrow
    assert not loaded & {"pyspark", "numpy", "pandas", "pyarrow", *MODELS}


def test_executor_code_loads_no_model_library_before_it_computes() -> None:
    assert not loaded_by("udfs") & MODELS


def test_readers_need_no_spark() -> None:
    assert not loaded_by("lensfeed") & {"pyspark", *MODELS}
