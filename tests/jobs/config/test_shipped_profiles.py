"""What conf/ ships: every profile loads, and every property of Spark's that one names is one of the Spark that is here.

Neither YARN nor Kubernetes is: that a cluster does what a property says is not tested, only that there is such a one.
"""

import re
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.config.profile import load, load_policy

ROOT = Path(__file__).parents[3]
PROFILES = sorted(path for path in (ROOT / "conf").glob("*.yaml") if "\nextends: " in path.read_text(encoding="utf-8"))
MANAGED = ["kubernetes.yaml", "yarn.yaml"]

_NAME = re.compile(r"(?<![\w./-])(?:-D)?(spark\.[A-Za-z][\w.-]*\w)")
_GIVEN = re.compile(r"--conf (\S+?)=(\S+)")
_CONSTANT = re.compile(rb"spark\.[A-Za-z][A-Za-z0-9_.]*")
_JARS = ("core", "common-utils", "network-common", "catalyst", "kubernetes", "yarn")
_SETTINGS_CLASS = re.compile(r"(?i)conf|config|constants|package|resource")
_OTHERS = ("spark.delta.logStore.", "spark.io.delta.storage.S3DynamoDBLogStore.ddb.", "spark.databricks.delta.")
"""Delta's own, which are in no jar of Spark's (docs/operations.md says what they do)."""
_FILES = {"spark.jsa"}
_PUT_TOGETHER = {
    *(f"spark.kubernetes.authenticate.{role}.serviceAccountName" for role in ("driver", "executor")),
    *(f"spark.{role}.resource.gpu.{what}" for role in ("worker", "executor") for what in ("amount", "discoveryScript")),
    "spark.task.resource.gpu.amount",
    "spark.hadoop.fs.s3a.endpoint.region",
}
"""Names that Spark makes of parts when it runs, so that no class holds them whole, and one that Hadoop's list of its
settings leaves out: from their documentation."""
_VOLUME = re.compile(
    r"spark\.kubernetes\.executor\.volumes\.(emptyDir|persistentVolumeClaim)\.spark-local-dir-\d+"
    r"\.(mount\.(path|readOnly)|options\.(sizeLimit|medium|claimName|storageClass))"
)


@pytest.fixture(scope="module")
def constants() -> set[str]:
    """Every text that looks like a property in the classes of the installed Spark which hold settings."""
    spec = find_spec("pyspark")
    assert spec is not None
    assert spec.origin is not None
    found: set[str] = set()
    for jar in _JARS:
        (path,) = (Path(spec.origin).parent / "jars").glob(f"spark-{jar}_*.jar")
        with zipfile.ZipFile(path) as classes:
            for name in classes.namelist():
                if name.endswith(".class") and _SETTINGS_CLASS.search(name):
                    found |= {text.decode() for text in _CONSTANT.findall(classes.read(name))}
    (path,) = (Path(spec.origin).parent / "jars").glob("hadoop-client-api-*.jar")
    with zipfile.ZipFile(path) as hadoop:  # what Spark hands on to Hadoop, which lists its own settings
        named_there = re.findall(r"<name>\s*(\S+?)\s*</name>", hadoop.read("core-default.xml").decode())
    return found | {f"spark.hadoop.{name}" for name in named_there}


def named(text: str) -> set[str]:
    """The properties that a profile names: as settings, in its comments, in the commands of its head."""
    return set(_NAME.findall(text)) - _FILES


def is_property(name: str, constants: set[str]) -> bool:
    if name.startswith("spark.kubernetes.executor.volumes."):
        return _VOLUME.fullmatch(name) is not None
    return name in constants | _PUT_TOGETHER or name.startswith(_OTHERS)


def properties(profile: str) -> dict[str, str]:
    return load(str(ROOT / "conf" / profile)).spark.properties


def test_there_is_a_profile_for_every_place() -> None:
    assert {path.name for path in PROFILES} >= {"local.yaml", "production.yaml", "nightly.yaml", *MANAGED}


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.name)
def test_every_profile_loads_and_names_properties_that_there_are(profile: Path, constants: set[str]) -> None:
    config = load(str(profile))
    names = named(profile.read_text(encoding="utf-8")) | set(config.spark.properties)
    assert sorted(name for name in names if not is_property(name, constants)) == []


def test_a_property_that_there_is_not_is_found(constants: set[str]) -> None:
    text = "spark.kubernetes.conainer.image: x # spark.yarn.maxAppAttempt, --conf spark.yarn.queue=q; .assets/spark.jsa"
    names = named(text)
    assert names == {"spark.kubernetes.conainer.image", "spark.yarn.maxAppAttempt", "spark.yarn.queue"}
    assert {name for name in names if is_property(name, constants)} == {"spark.yarn.queue"}
    volumes = "spark.kubernetes.executor.volumes.emptyDir.spark-local-dir-1"
    assert is_property(f"{volumes}.mount.path", constants)
    assert not is_property(f"{volumes}.options.limit", constants)


@pytest.mark.parametrize("profile", MANAGED)
def test_a_command_says_nothing_else_than_its_profile(profile: str) -> None:
    held = properties(profile)
    text = (ROOT / "conf" / profile).read_text(encoding="utf-8")
    given = dict(_GIVEN.findall(text))
    assert len(given) >= 5
    assert {name: value for name, value in given.items() if held.get(name, value) != value} == {}
    assert "Not tried" in text.split("\nextends:")[0]
    assert set(given) - set(held) <= {"spark.pyspark.python", "spark.kubernetes.driver.podTemplateFile"}


@pytest.mark.parametrize("profile", MANAGED)
def test_executors_may_come_and_go_and_hold_their_workers(profile: str) -> None:
    config = load(str(ROOT / "conf" / profile))
    held = config.spark.properties
    assert held["spark.dynamicAllocation.enabled"] == "true"  # what stage-level scheduling of GPUs needs
    assert held["spark.dynamicAllocation.shuffleTracking.enabled"] == "true"
    assert config.embedding.gpus_per_task > 0
    assert config.embedding.executor.discovery_script.endswith("conf/discover_gpus.sh")
    workers = int(held["spark.executor.cores"]) * 3 * 0.9  # GiB; conf/nightly.yaml says where they come from
    assert int(held["spark.executor.memoryOverhead"].removesuffix("g")) >= workers
    assert (ROOT / "conf/discover_gpus.sh").stat().st_mode & 0o111


def test_the_cluster_demo_makes_what_the_demo_makes() -> None:
    cluster, local = (load(str(ROOT / "conf" / name)) for name in ("standalone-demo.yaml", "demo.yaml"))
    assert cluster.contents_digest() == local.contents_digest()
    assert cluster.embedding.device == "cpu"  # its GPUs are fakes
    assert cluster.spark.master == load(str(ROOT / "conf/standalone.yaml")).spark.master


def test_on_standalone_workers_tell_executors_of_their_gpus() -> None:
    for name in ("standalone.yaml", "standalone-demo.yaml"):
        config = load(str(ROOT / "conf" / name))
        assert config.embedding.executor.discovery_script == ""
        assert config.embedding.gpus_per_task > 0
        assert config.spark.properties["spark.dynamicAllocation.enabled"] == "true"
        assert "spark.executor.cores" in config.spark.properties  # else one executor takes all of a worker


def test_the_lease_is_met_by_no_second_attempt_on_yarn() -> None:
    assert properties("yarn.yaml")["spark.yarn.maxAppAttempts"] == "1"


def test_yarns_archives_bear_the_names_of_the_folders_that_the_profile_reads() -> None:
    config = load(str(ROOT / "conf/yarn.yaml"))
    links = {one.partition("#")[2] for one in config.spark.properties["spark.yarn.dist.archives"].split(",")}
    assert links == {"environment", "conf", ".assets"}
    paths = [config.policy.file, config.policy.detector.path, config.embedding.weights.path, config.text.weights.path]
    assert {Path(path).parts[0] for path in paths} == {"conf", ".assets"}


def test_kubernetes_reads_everything_out_of_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(str(ROOT / "conf/kubernetes.yaml"))
    inside = Path("/opt/lensfeed")
    read = [
        config.policy.file,
        config.embedding.executor.discovery_script,
        config.spark.properties["spark.kubernetes.executor.podTemplateFile"],
    ]
    for path in read:
        assert (ROOT / Path(path).relative_to(inside)).is_file()
    shipped = load(str(ROOT / "conf/nightly.yaml"))
    for ours, theirs in [
        (config.policy.detector, shipped.policy.detector),
        (config.embedding.weights, shipped.embedding.weights),
        (config.text.weights, shipped.text.weights),
    ]:
        assert (Path(ours.path).relative_to(inside), ours.sha256) == (Path(theirs.path), theirs.sha256)
    assert config.embedding.executor.vendor == "nvidia.com"
    monkeypatch.chdir(ROOT)
    assert load_policy(shipped.policy).rules


def test_the_pod_template_is_a_pod_that_spark_can_fill() -> None:
    pod: dict[str, Any] = yaml.safe_load((ROOT / "conf/pod-template.yaml").read_text(encoding="utf-8"))
    assert (pod["apiVersion"], pod["kind"]) == ("v1", "Pod")
    spec = pod["spec"]
    (container,) = spec["containers"]
    held = properties("kubernetes.yaml")
    assert container["name"] == held["spark.kubernetes.executor.podTemplateContainerName"]
    # What Spark says itself would be overwritten, or would contradict it.
    assert not {"image", "command", "args", "env"} & set(container)
    assert {name for kind in container["resources"].values() for name in kind} == {"ephemeral-storage"}
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] != 0
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert {one["key"] for one in spec["tolerations"]} == {"nvidia.com/gpu"}
    assert not [key for key in spec["nodeSelector"] if "gpu" in key]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert mounts["tmp"] == "/tmp"
    assert set(mounts) == {one["name"] for one in spec["volumes"]}
    assert all("sizeLimit" in one["emptyDir"] for one in spec["volumes"])


def test_the_pods_limit_of_disk_holds_all_of_its_volumes() -> None:
    pod: dict[str, Any] = yaml.safe_load((ROOT / "conf/pod-template.yaml").read_text(encoding="utf-8"))
    folder = "spark.kubernetes.executor.volumes.emptyDir.spark-local-dir-1"
    sizes = [properties("kubernetes.yaml")[f"{folder}.options.sizeLimit"]]
    sizes += [one["emptyDir"]["sizeLimit"] for one in pod["spec"]["volumes"]]
    limit = pod["spec"]["containers"][0]["resources"]["limits"]["ephemeral-storage"]
    assert sum(int(size.removesuffix("Gi")) for size in sizes) <= int(limit.removesuffix("Gi"))
