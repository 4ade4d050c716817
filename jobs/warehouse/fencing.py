"""Whether a storage can keep two drivers apart, and the files by which it does.

A lease needs a create of which one of two wins, and Delta needs the same for its commits: a driver that was stopped and
woken must not be able to put its commit over another's. HDFS, Azure's and Google's connectors give both. S3 itself does
by a conditional put, but the pinned Hadoop's S3A looks and then puts, and Delta's default S3 log store locks within one
JVM only. So leases there are made through obstore, and Delta's commits need the log store on DynamoDB.
"""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store
from pyspark.sql import SparkSession

from jobs.config.errors import UsageError
from jobs.warehouse.storage import Files, Storage

_S3 = re.compile(r"(?P<scheme>s3[an]?)://(?P<bucket>[^/]+)/*(?P<prefix>.*)", re.DOTALL)

FENCING_LOG_STORES = frozenset({"io.delta.storage.S3DynamoDBLogStore"})
"""Delta's log stores for S3 of whose two writers of one commit one fails."""

FENCING_SCHEMES = frozenset({"file", "hdfs", "viewfs", "gs", "abfs", "abfss"})
"""Where Delta's own log store does that. On a local disk it looks and then renames: within microseconds of each other
two could succeed; the commit is read back (`Landing.append`)."""

_OTHERWISE = "where nothing but one driver at a time ever writes there, say run.single_driver: true"


def check_fenced(root: str, setting: Callable[[str], str | None], *, single_driver: bool) -> None:
    """Raise UsageError where nothing would keep a second driver's commits from going over the first one's, and nobody
    has said that there is none.

    `root`: the warehouse, qualified; `setting`: Spark's, by name.
    """
    if single_driver:
        return
    scheme = root.partition(":")[0]
    if scheme in FENCING_SCHEMES:
        return
    if not _S3.match(root):
        known = ", ".join(sorted(FENCING_SCHEMES | {"s3a"}))
        raise UsageError(
            f"warehouse {root}: it is not known whether Delta keeps two drivers apart on {scheme}: expected one of "
            f"{known}; {_OTHERWISE}"
        )
    key = f"spark.delta.logStore.{scheme}.impl"
    found = setting("spark.delta.logStore.class") or setting(key)
    if found not in FENCING_LOG_STORES:
        raise UsageError(
            f"warehouse {root}: Delta's log store there, {found or 'its default'}, lets a driver that was stopped and "
            f"woken overwrite another's commits: set {key} to {' or '.join(FENCING_LOG_STORES)} (jar io.delta:"
            f"delta-storage-s3-dynamodb; see docs/operations.md); {_OTHERWISE}"
        )


def lease_files(spark: SparkSession, storage: Storage, *, single_driver: bool) -> Files:
    """The files of a lease on a warehouse: the storage itself, or on S3 what puts conditionally."""
    found = _S3.fullmatch(storage.root)
    if found is None or single_driver:
        return storage
    bucket = found["bucket"]
    hadoop: Any = spark._jsc.hadoopConfiguration()

    def setting(key: str) -> str | None:
        for name in (f"fs.s3a.bucket.{bucket}.{key}", f"fs.s3a.{key}"):
            value = hadoop.getPassword(name)  # from the configuration, or from Hadoop's store of credentials
            if value is not None and len(value):
                return "".join(value)
        return None

    return S3Files(storage.root, **s3_options(setting))


def s3_options(setting: Callable[[str], str | None]) -> dict[str, Any]:
    """S3A's settings (by their names after `fs.s3a.`) as obstore takes them. What they leave open, credentials too,
    is taken from the environment (`AWS_...`), from a web identity, or from the machine's role."""
    names = {"access.key": "access_key_id", "secret.key": "secret_access_key", "session.token": "session_token"}
    options: dict[str, Any] = {ours: value for theirs, ours in names.items() if (value := setting(theirs))}
    if region := setting("endpoint.region"):
        options["region"] = region
    endpoint = setting("endpoint")
    if endpoint and endpoint != "s3.amazonaws.com":  # that one means: the region's own
        secure = (setting("connection.ssl.enabled") or "true") == "true"
        options["endpoint"] = endpoint if "://" in endpoint else f"http{'s' if secure else ''}://{endpoint}"
        if options["endpoint"].startswith("http://"):
            options["client_options"] = {"allow_http": True}
    return options


class S3Files:
    """Small files below an S3 path, put conditionally where they must not exist yet."""

    def __init__(self, root: str, **options: Any) -> None:
        found = _S3.fullmatch(root)
        if found is None:
            raise ValueError(f"{root}: expected s3a://bucket/path")
        self.root = root
        self._prefix = found["prefix"].rstrip("/")
        retries: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}  # leases try again themselves
        self._store: Any = S3Store(found["bucket"], retry_config=retries, **options)

    def _path(self, *parts: str) -> str:
        return "/".join((self._prefix, *parts)) if self._prefix else "/".join(parts)

    def names(self, *parts: str) -> list[str]:
        """Names of the files in a folder, sorted; none where it does not exist."""
        found = obstore.list_with_delimiter(self._store, f"{self._path(*parts)}/")
        return sorted(one["path"].rpartition("/")[2] for one in found["objects"])

    def read_text(self, *parts: str) -> str:
        """The file's text (UTF-8); FileNotFoundError where there is none."""
        return bytes(obstore.get(self._store, self._path(*parts)).bytes()).decode()

    def write_text(self, text: str, *parts: str) -> None:
        """Write the file whole, replacing one that is there."""
        obstore.put(self._store, self._path(*parts), text.encode(), use_multipart=False)

    def create_text(self, text: str, *parts: str) -> bool:
        """Write a file that must not exist yet; False, and nothing written, where it does.

        Raises UsageError where the store takes no notice of the condition, as some that speak S3 do.
        """
        if not self._create(text, *parts):
            return False
        if self._create(text, *parts):
            raise UsageError(
                f"warehouse {self.root}: its store ignores conditional puts (If-None-Match), so nothing there keeps "
                f"two drivers apart; {_OTHERWISE}"
            )
        return True

    def _create(self, text: str, *parts: str) -> bool:
        try:
            obstore.put(self._store, self._path(*parts), text.encode(), mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        return True

    def delete(self, *parts: str) -> None:
        """Delete the file, if there is one."""
        obstore.delete(self._store, self._path(*parts))

    def modified_at(self, *parts: str) -> float:
        """When the file was last written, whole epoch seconds by S3's clock; FileNotFoundError where there is none."""
        return float(obstore.head(self._store, self._path(*parts))["last_modified"].timestamp())
