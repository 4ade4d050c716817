"""Set-up: makes the files that jobs start from and ship to executors, each checked against its pinned SHA-256.

`python -m jobs.install.prepare_assets --into .assets` writes the weights of `schemas.assets.WEIGHTS` and, under
`jars/`, the jars of `schemas.assets.JARS`; with `--s3` also `jars-s3/`, which has those of `schemas.assets.S3_JARS`
beside them (0.6 GB): a profile's `spark.jars` names one folder or the other. What is there already and has the right
digest is left alone. Exit code 2, with one line that says what to do, when something cannot be had.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from xml.sax.saxutils import quoteattr

from jobs.config.errors import UsageError
from schemas.assets import ALL_MINILM_L6_V2, EFFICIENTNET_LITE0, JARS, OPEN_NSFW, S3_JARS, WEIGHTS, Jar, Weights
from udfs.assets import sha256_of

# What sentence-transformers opens; the fast tokenizer is complete in tokenizer.json.
_MINILM_FILES = (
    "1_Pooling/config.json",
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
_IVY_TIMEOUT_S = 600
_MAKING = ".making-"
_ABANDONED_S = 3600
"""Longer than anything takes here, Ivy included."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 done, 2 something is missing or is not what was pinned."""
    parser = argparse.ArgumentParser(prog="python -m jobs.install.prepare_assets", description=__doc__.split("\n")[0])
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="directory to write, made if missing")
    parser.add_argument("--s3", action="store_true", help="also what Spark needs for S3, into DIR/jars-s3")
    parser.add_argument("--ivy-settings", type=Path, metavar="FILE", help="Ivy settings, to fetch jars from a mirror")
    options = parser.parse_args(arguments)
    try:
        prepare(options.into, ivy_settings=options.ivy_settings, for_s3=options.s3)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"error: {options.into}: cannot be written: {error}\n")
        return 2
    return 0


def prepare(directory: Path, ivy_settings: Path | None = None, *, for_s3: bool = False) -> None:
    """Bring a directory to hold every pinned weight and jar, and no other jar; the jars for S3 only where asked.

    Raises UsageError when a package, Java or a jar cannot be had, or when what was made has another digest than the
    pinned one; a file is moved into place only after its digest was checked.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _sweep(directory)
    for weights in WEIGHTS:
        _prepare_weights(weights, directory)
    _prepare_jars(directory / "jars", JARS, ivy_settings)
    if for_s3:
        _prepare_jars(directory / "jars-s3", JARS + S3_JARS, ivy_settings)


def _sweep(directory: Path) -> None:
    """Take away what a killed set-up left of what it was making."""
    for left in directory.glob(f"{_MAKING}*"):
        if time.time() - left.lstat().st_mtime > _ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)


def _prepare_weights(weights: Weights, directory: Path) -> None:
    if _is_ready(directory / weights.file, weights.sha256):
        _tell(f"{weights.file}: ready")
        return
    source = _installed(weights)
    with tempfile.TemporaryDirectory(prefix=_MAKING, dir=directory) as scratch:
        made = Path(scratch) / weights.file
        _MAKERS[weights](source, made)
        _accept(made, directory / weights.file, weights.sha256)
    _tell(f"{weights.file}: made from {weights.distribution} {weights.version} ({weights.licence})")


def _prepare_jars(directory: Path, jars: Sequence[Jar], ivy_settings: Path | None) -> None:
    directory.mkdir(exist_ok=True)
    pinned = {jar.file for jar in jars}
    for stray in sorted(path for path in directory.glob("*.jar") if path.name not in pinned):
        # A session loads every jar of the directory: two versions of one would both be on the class path.
        stray.unlink()
        _tell(f"{directory.name}/{stray.name}: removed, not pinned")
    missing = [jar for jar in jars if not _is_ready(directory / jar.file, jar.sha256)]
    if missing:
        with tempfile.TemporaryDirectory(prefix=_MAKING, dir=directory.parent) as scratch:
            _fetch(missing, Path(scratch), ivy_settings)
            for jar in missing:
                _accept(Path(scratch) / jar.file, directory / jar.file, jar.sha256)
    for jar in jars:
        _tell(f"{directory.name}/{jar.file}: {'fetched' if jar in missing else 'ready'} ({jar.licence})")


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _is_ready(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


def _accept(made: Path, target: Path, sha256: str) -> None:
    found = sha256_of(made)
    if found != sha256:
        raise UsageError(
            f"{target.name}: SHA-256 expected {sha256}, found {found}; install the locked packages (make setup)"
        )
    made.chmod(0o644)  # executors may run as another user
    made.replace(target)


def _installed(weights: Weights) -> Path:
    requirement = f"{weights.distribution}=={weights.version}"
    try:
        package = distribution(weights.distribution)
    except PackageNotFoundError:
        raise UsageError(f"{weights.file}: package {requirement} is not installed; run `make setup`") from None
    if package.version != weights.version:
        raise UsageError(f"{weights.file}: expected {requirement}, found {package.version}; run `make setup`")
    source = Path(str(package.locate_file(weights.member)))
    if not source.exists():
        raise UsageError(f"{weights.file}: {source} is missing from package {requirement}; install it again")
    return source


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _rename_to_timm(source: Path, target: Path) -> None:
    """Write the state dict of the package under timm's names: same tensors in the same order, other names.

    Raises UsageError when the two differ in number, shape or dtype of their tensors.
    """
    import timm
    import torch
    from safetensors.torch import save_file

    theirs = torch.load(source, map_location="cpu", weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    if [(t.shape, t.dtype) for t in theirs.values()] != [(t.shape, t.dtype) for t in ours.values()]:
        raise UsageError(f"{source.name}: its tensors are not those of timm's tf_efficientnet_lite0")
    renamed = zip(ours, theirs.values(), strict=True)
    save_file({name: tensor.contiguous() for name, tensor in renamed}, target)


def _pack_minilm(source: Path, target: Path) -> None:
    # Stored, not deflated: compressed bytes depend on the zlib that made them, and weights hardly shrink.
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in _MINILM_FILES:
            entry = zipfile.ZipInfo(name, date_time=_ZIP_EPOCH)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, (source / name).read_bytes())


_MAKERS: dict[Weights, Callable[[Path, Path], None]] = {
    OPEN_NSFW: _copy,
    EFFICIENTNET_LITE0: _rename_to_timm,
    ALL_MINILM_L6_V2: _pack_minilm,
}


def _fetch(jars: Sequence[Jar], directory: Path, ivy_settings: Path | None) -> None:
    """Fetch jars with the Ivy that Spark bundles; its built-in settings name the central repository."""
    ivy_file = directory / "ivy.xml"
    ivy_file.write_text(_ivy_file(jars), encoding="utf-8")
    settings = ["-settings", str(ivy_settings.absolute())] if ivy_settings else []
    pattern = "[artifact]-[revision].[ext]"  # from where it runs: a folder's name may have what means something here
    command = [_java(), "-cp", str(_ivy_jar()), "org.apache.ivy.Main", "-warn", *settings]
    command += ["-cache", "cache", "-ivy", ivy_file.name, "-retrieve", pattern]
    names = ", ".join(jar.file for jar in jars)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_IVY_TIMEOUT_S, check=False, cwd=directory
        )
    except subprocess.TimeoutExpired:
        raise UsageError(f"{names}: not fetched within {_IVY_TIMEOUT_S} s; check the network") from None
    absent = [jar.file for jar in jars if not (directory / jar.file).is_file()]
    if absent:
        raise UsageError(f"{', '.join(absent)}: not fetched; check the network or --ivy-settings. {_reason(done)}")


def _ivy_file(jars: Sequence[Jar]) -> str:
    # `master` is the jar alone (no sources, no javadoc); transitive dependencies are Spark's own jars.
    dependencies = "".join(
        f"<dependency org={quoteattr(jar.organisation)} name={quoteattr(jar.name)} rev={quoteattr(jar.revision)}"
        ' conf="default-&gt;master" transitive="false"/>'
        for jar in jars
    )
    return (
        '<ivy-module version="2.0"><info organisation="lensfeed" module="jars"/>'
        f'<configurations><conf name="default"/></configurations><dependencies>{dependencies}</dependencies>'
        "</ivy-module>"
    )


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
    telling = [line for line in lines if "module not found" in line or "Exception" in line]
    return f"Ivy ended with {done.returncode}: {next(iter(telling), 'no reason given')}"


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if found is None:
        where = f"under JAVA_HOME={home}" if home else "on PATH"
        raise UsageError(f"java: none found {where}; install Java 17 or 21, or set JAVA_HOME")
    return str(Path(found).absolute())


def _ivy_jar() -> Path:
    import pyspark

    folder = Path(pyspark.__file__).parent / "jars"
    found = sorted(folder.glob("ivy-*.jar"))
    if not found:
        raise UsageError(f"{folder}: no ivy-*.jar there; install pyspark from its own package")
    return found[-1]


if __name__ == "__main__":
    sys.exit(main())
