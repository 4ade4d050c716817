"""Where two drivers can be kept apart, and S3's conditional put, by which they are there."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.config.errors import RunError, UsageError
from jobs.config.profile import load
from jobs.nightly import main
from jobs.warehouse import fencing
from jobs.warehouse.fencing import S3Files, check_fenced, s3_options
from jobs.warehouse.lease import Lease, LeaseLostError
from tests.jobs.warehouse.s3 import BUCKET, s3_server

ROOT = f"s3a://{BUCKET}/a ware+house [1] 50%20"


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, Any]]:
    with s3_server() as options:
        yield options


@pytest.fixture
def files(server: dict[str, Any], request: pytest.FixtureRequest) -> S3Files:
    return S3Files(f"{ROOT}/{request.node.name}", **server)


@pytest.mark.parametrize(
    "root", ["file:/w", "hdfs://namenode:8020/w", "gs://b/w", "abfss://c@a.dfs.core.windows.net/w"]
)
def test_storages_that_exclude_by_themselves_need_nothing(root: str) -> None:
    check_fenced(root, {}.get, single_driver=False)


@pytest.mark.parametrize(
    ("root", "settings", "refusal"),
    [
        ("s3a://b/w", {}, r"log store there, its default, .* set spark\.delta\.logStore\.s3a\.impl to io\.delta"),
        ("s3a://b/w", {"spark.delta.logStore.s3.impl": "io.delta.storage.S3DynamoDBLogStore"}, "its default"),
        (
            "s3a://b/w",
            {"spark.delta.logStore.s3a.impl": "io.delta.storage.S3SingleDriverLogStore"},
            r"io\.delta\.storage\.S3SingleDriverLogStore, lets",
        ),
        ("oss://b/w", {}, "it is not known whether Delta keeps two drivers apart on oss"),
    ],
)
def test_a_warehouse_where_nobody_is_excluded_is_refused_unless_one_driver_is_stated(
    root: str, settings: dict[str, str], refusal: str
) -> None:
    with pytest.raises(UsageError, match=f"{refusal}.*run.single_driver: true"):
        check_fenced(root, settings.get, single_driver=False)
    check_fenced(root, settings.get, single_driver=True)


def test_a_log_store_of_which_one_writer_wins_is_enough() -> None:
    key = "spark.delta.logStore.s3a.impl"
    check_fenced("s3a://b/w", {key: "io.delta.storage.S3DynamoDBLogStore"}.get, single_driver=False)


@pytest.mark.parametrize("profile", ["conf/nightly.yaml", "conf/nightly-gpu.yaml"])
def test_the_profiles_for_clusters_name_such_a_log_store(profile: str) -> None:
    config = load(profile)
    check_fenced(config.warehouse, config.spark.properties.get, single_driver=False)


def test_settings_of_s3a_are_those_of_the_conditional_put() -> None:
    given = {
        "access.key": "a",
        "secret.key": "b",
        "session.token": "c",
        "endpoint": "minio:9000",
        "endpoint.region": "eu-central-1",
        "connection.ssl.enabled": "false",
    }
    assert s3_options(given.get) == {
        "access_key_id": "a",
        "secret_access_key": "b",
        "session_token": "c",
        "region": "eu-central-1",
        "endpoint": "http://minio:9000",
        "client_options": {"allow_http": True},
    }
    assert s3_options({"endpoint": "s3.amazonaws.com"}.get) == {}
    assert s3_options({"endpoint": "storage.example"}.get) == {"endpoint": "https://storage.example"}


def test_small_files_on_s3_are_as_on_a_disk(files: S3Files) -> None:
    assert files.names("_lease") == []
    assert files.create_text("one", "_lease", "1.json")
    files.write_text("größe", "_lease", "2.json")
    assert files.names("_lease") == ["1.json", "2.json"]
    assert files.read_text("_lease", "2.json") == "größe"
    assert files.modified_at("_lease", "2.json") >= files.modified_at("_lease", "1.json") > 1.7e9
    files.delete("_lease", "1.json")
    files.delete("_lease", "1.json")
    for missing in (files.read_text, files.modified_at):
        with pytest.raises(FileNotFoundError):
            missing("_lease", "1.json")


def test_of_racing_creators_on_s3_exactly_one_wins_and_its_text_stands(files: S3Files) -> None:
    for name in ("1.json", "2.json", "3.json"):
        barrier, won = threading.Barrier(6), []

        def create(number: int, name: str, barrier: threading.Barrier, won: list[int]) -> None:
            barrier.wait()
            if files.create_text(str(number), "_lease", name):
                won.append(number)

        threads = [threading.Thread(target=create, args=(number, name, barrier, won)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert files.read_text("_lease", name) == str(won[0])


def test_a_store_that_ignores_the_condition_is_refused(files: S3Files, monkeypatch: pytest.MonkeyPatch) -> None:
    put = fencing.obstore.put
    monkeypatch.setattr(fencing.obstore, "put", lambda *given, **named: put(*given, **(named | {"mode": "overwrite"})))
    with pytest.raises(UsageError, match=r"ignores conditional puts.*run\.single_driver"):
        files.create_text("one", "_lease", "1.json")


def test_a_lease_on_s3_passes_from_hand_to_hand_and_says_when_it_was_lost(files: S3Files) -> None:
    with (
        Lease(files, "nightly", 120) as first,
        pytest.raises(RunError, match="held by nightly"),
        Lease(files, "backfill", 120),
    ):
        pass
    with Lease(files, "backfill", 120) as second:
        assert second.generation == first.generation + 1
        with pytest.raises(LeaseLostError, match=r"another driver has taken it over \(generation 2, this one had 1\)"):
            first.check()
        second.check()


@pytest.mark.spark
def test_a_refused_warehouse_is_left_alone(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fencing, "FENCING_SCHEMES", frozenset({"hdfs"}))
    (tmp_path / "list.jsonl").write_text('{"url": "http://127.0.0.1:9/a"}\n')
    settings = [f"warehouse={tmp_path / 'warehouse'}", f"manifest.path={tmp_path / 'list.jsonl'}"]
    given = [part for setting in settings for part in ("--set", setting)]
    assert main(["--profile", "conf/demo.yaml", "--date", "2026-01-31", *given]) == 2
    assert not (tmp_path / "warehouse").exists()
