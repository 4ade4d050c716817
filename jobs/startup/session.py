"""The one place that opens Spark: every property with its reason.

Delta's jars come from a local folder (`spark.jars`), resolved once by `make setup`, so that a session starts in
seconds, offline and quietly. Under `spark-submit` the launcher has brought them already (see `make dist`).
"""

import contextlib
import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from pyspark.sql import SparkSession

from jobs.config.errors import UsageError
from jobs.config.live import UnderWay
from jobs.config.profile import Config
from jobs.config.progress import log
from jobs.startup.java import check_java_to_start
from jobs.warehouse.history import MOST_NAMED
from schemas.settings import AssetSettings
from udfs.assets import assets_of, shipped_name

_CODE = Path(__file__).resolve().parents[2]
"""Where our packages lie: a checkout, site-packages, or the zip that spark-submit was given."""

LOCAL_JAVA_OPTIONS = (
    # One short-lived JVM on few cores: the second compiler and a parallel collector cost more than they bring back.
    "-XX:TieredStopAtLevel=1",
    # With one compiler Java reserves 48 MB for its code. A night and its commits fill that, and what cannot be compiled
    # then fails the run (InternalError out of MethodHandle).
    "-XX:ReservedCodeCacheSize=512m",
    "-XX:+UseSerialGC",
    # Where the heap and the store of classes begin small, growing is a quarter of the collector's time.
    "-XX:InitialRAMPercentage=6.25",
    "-XX:MetaspaceSize=256m",
    # Neither the class archive nor Spark has anything to say that is not an error.
    "-Xlog:disable",
    f"-Dlog4j2.configurationFile={_CODE / 'conf' / 'log4j2.properties'}",
)

PROPERTIES: dict[str, Any] = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    # Dates and timestamps mean the same on every machine.
    "spark.sql.session.timeZone": "UTC",
    # Rows of images are large: 10,000 of them (Spark's default) would be gigabytes in one Arrow batch.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "256",
    "spark.sql.execution.arrow.maxBytesPerBatch": str(64 * 2**20),
    # A Python worker keeps its model between tasks.
    "spark.python.worker.reuse": "true",
    # Python UDFs may not silently turn a plan into row-by-row pickling.
    "spark.sql.execution.pythonUDF.arrow.enabled": "true",
    # A plan that overwrites only the partitions it names must say so by replaceWhere, never by this mode.
    "spark.sql.sources.partitionOverwriteMode": "static",
    # CHECK constraints and NOT NULL are the contract; a table must never be widened by a stray column.
    "spark.databricks.delta.schema.autoMerge.enabled": "false",
    # What the policy no longer allows leaves the disk at once, not a week later (jobs.warehouse.landing.purge); by many
    # tasks; without two commits a table that would make newer versions of the same rows than the published ones.
    "spark.databricks.delta.retentionDurationCheck.enabled": "false",
    "spark.databricks.delta.vacuum.parallelDelete.enabled": "true",
    "spark.databricks.delta.vacuum.logging.enabled": "false",
    # Filters by the result of another query may be evaluated before that query is done (seen with joins on ingest_date
    # below other joins); dates are named literally where partitions are to be left out.
    "spark.sql.optimizer.dynamicPartitionPruning.enabled": "false",
    # Single rows with vectors are found by their keys in files sorted by them (jobs.warehouse.history): as many keys as
    # are named there, in row groups and pages small enough that most of a file is passed over.
    "spark.sql.parquet.pushdown.inFilterThreshold": str(MOST_NAMED),
    "spark.hadoop.parquet.block.size": str(16 * 2**20),
    "spark.hadoop.parquet.page.row.count.limit": "250",
    # A name would be looked for in each row group's dictionary, one name after the other: of 150 among ids that repeat
    # that took twice as long as reading the column.
    "spark.hadoop.parquet.filter.dictionary.enabled": "false",
    # Ids are hex digests, random to snappy, which leaves them as they are: zstd halves them, and what history costs.
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.hadoop.parquet.compression.codec.zstd.level": "1",
    # The console belongs to the job's own progress lines.
    "spark.ui.showConsoleProgress": "false",
    # One line of a traceback from an executor is enough; the driver prints what matters.
    "spark.sql.execution.pyspark.udf.simplifiedTraceback.enabled": "true",
    # pyspark would tell the JVM at each expression which line of Python wrote it, and look for IPython each time.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
}

LOCAL_PROPERTIES: dict[str, Any] = {
    # One machine: the defaults (200 shuffle partitions, 50 snapshot partitions) are made for clusters.
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    # Its catalog's folder, in which nothing of ours lies: one that is there, where Spark would make another in the
    # working directory.
    "spark.sql.warehouse.dir": Path(tempfile.gettempdir()).absolute().as_uri(),
    # Python workers are forked with torch and the rest already imported: see udfs.worker_daemon.
    "spark.python.daemon.module": "udfs.worker_daemon",
    "spark.executorEnv.PYTHONPATH": str(_CODE),
    # Listing a handful of files is no job for 10,000 tasks.
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "2",
    # Small files are read by few tasks.
    "spark.sql.files.openCostInBytes": "1048576",
    # Plans are re-planned between stages at the price of a job a stage: worth it for large and skewed data only.
    "spark.sql.adaptive.enabled": "false",
    # A plan is described for each query, whether or not there is a UI to show it: in few words, a tenth of a small
    # night's driver time less.
    "spark.sql.ui.explainMode": "simple",
    "spark.sql.debug.maxToStringFields": "1",
    # What the UI would show of past queries is kept in memory too.
    "spark.sql.ui.retainedExecutions": "10",
    "spark.ui.retainedJobs": "10",
    "spark.ui.retainedStages": "10",
    "spark.ui.retainedTasks": "100",
    # Delta's log without files of checksums: see `_leave_out_checksums`.
    "spark.hadoop.fs.AbstractFileSystem.file.impl": "org.apache.hadoop.fs.local.RawLocalFs",
    "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
    # Compiling expressions and stages to byte code pays for millions of rows, not for thousands: measured, a quarter of
    # a small night's JVM time went there.
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.codegen.wholeStage": "false",
}

LOCAL_ATTEMPTS = 2
"""Of a task on one machine, where Spark would give up at the first failure: an image that crashes its decoder ends the
first attempt, and the second decodes where that costs nothing but the image (udfs.gate.isolation)."""

JAVA_NAMES = (
    ("functions", "col"),
    ("functions", "lit"),
    ("org.apache.spark.sql.functions", "col"),
    ("org.apache.spark.sql.functions", "lit"),
    ("org.apache.spark.sql.classic.SparkSession", "getActiveSession"),
    ("org.apache.spark.sql.classic.SparkSession", "setActiveSession"),
    ("PythonUtils", "toSeq"),
    ("PythonSQLUtils",),
    ("SimplePythonFunction",),
    ("java", "util", "ArrayList"),
    ("org", "apache", "hadoop", "fs", "Path"),
    ("org", "apache", "spark", "util", "Utils", "exceptionString"),
    ("py4j", "reflection", "TypeUtil", "isInstanceOf"),
)
"""What a night says most often to the JVM, as pyspark and we spell it. py4j asks the JVM at each use what a name stands
for, and there each package that might have a class of that name is looked through, jar by jar: 20,000 questions a small
night, 6 s of a driver's 90."""

THREAD_LIMITS: dict[str, str] = {
    # Spark schedules one task a core: a library that starts a thread pool of its own in each only gets in the way.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "KERAS_BACKEND": "torch",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def open_session(config: Config) -> SparkSession:
    """The session of this process, opened if there is none yet; assets are shipped to its executors.

    Raises UsageError when there is no Java, and when the folder of jars is missing or holds none.
    """
    check_java_to_start()
    os.environ.update(THREAD_LIMITS)
    jars = Path(config.spark.jars) if config.spark.jars else None
    if config.spark.master.startswith("local["):
        archive = Path(config.spark.class_archive) if config.spark.class_archive else None
        builder = local_builder(config.spark.master, jars, _archive_option(archive))
    else:
        builder = SparkSession.builder.config(map=PROPERTIES)
        if "SPARK_ENV_LOADED" not in os.environ:  # not under spark-submit, which has chosen the master
            builder = builder.master(config.spark.master)
        if jars:
            builder = builder.config("spark.jars", ",".join(_jars(jars)))
        for name, value in THREAD_LIMITS.items():
            builder = builder.config(f"spark.executorEnv.{name}", value)
    for name, value in config.spark.properties.items():
        builder = builder.config(name, value)
    spark = builder.appName(config.spark.app_name).getOrCreate()
    _remember_java_names(spark)
    _quieten(spark, config.spark.master)
    if config.spark.master.startswith("local["):
        _leave_out_checksums(spark)
        threading.Thread(target=_start_workers, args=(spark,), name="worker-daemon", daemon=True).start()
    _ship(spark, [asset for _, asset in assets_of(config) if Path(asset.path).is_file()])
    return spark


def under_way(spark: SparkSession) -> UnderWay | None:
    """The stages that run now, as the driver's own store of what goes on has them."""
    try:
        store: Any = spark.sparkContext._jsc.sc().statusStore()
        active = store.activeStages()
        stages = [active.apply(number) for number in range(active.size())]
        counted = [
            (one.stageId(), one.numTasks(), one.numCompleteTasks(), one.inputRecords() + one.shuffleReadRecords())
            for one in stages
        ]
    except Exception:  # noqa: BLE001 -- a driver that ends, or is too busy to say: the step itself is what matters
        return None
    if not counted:
        return None
    numbers, tasks, done, rows = zip(*counted, strict=True)
    return UnderWay(tuple(sorted(numbers)), sum(tasks), sum(done), sum(rows))


def _remember_java_names(spark: SparkSession) -> None:
    """Have py4j's view of the JVM keep what `JAVA_NAMES` stand for: it asks only for what it does not have."""
    for names in JAVA_NAMES:
        holder: Any = spark._jvm
        for name in names:
            found = getattr(holder, name)
            setattr(holder, name, found)
            holder = found


def _quieten(spark: SparkSession, master: str) -> None:
    """Leave the telling of errors to the job: Spark logs each of them with a trace or two, and the job raises it too.

    What it alone knows is said still: that a cluster lost an executor, and why.
    """
    if log.isEnabledFor(logging.DEBUG):
        spark.sparkContext.setLogLevel("ERROR")
        return
    spark.sparkContext.setLogLevel("OFF")
    # Where the JVM dies its connections do, each with a trace of its own beside what the job raises.
    server: Any = spark.sparkContext._accumulatorServer
    server.handle_error = _say_nothing
    if not master.startswith("local["):
        jvm: Any = spark._jvm
        logging_of_java = jvm.org.apache.logging.log4j
        name = "org.apache.spark.scheduler.TaskSchedulerImpl"
        logging_of_java.core.config.Configurator.setLevel(name, logging_of_java.Level.ERROR)


def _leave_out_checksums(spark: SparkSession) -> None:
    """Write local files without a file of checksums beside each: Parquet and Delta bring their own, and without
    Hadoop's native library each file that is made costs a `chmod`, a process of its own.

    The file system stays the one that Hadoop expects (`fs.file.impl` may not be another): S3A's buffers and copies to
    local files go through it by its class.
    """
    jvm: Any = spark._jvm  # pyspark offers no public way to Hadoop's FileSystem
    jvm.org.apache.hadoop.fs.FileSystem.getLocal(spark._jsc.hadoopConfiguration()).setWriteChecksum(False)


def _say_nothing(request: object, client_address: object) -> None:
    """What a socket server does of a request that failed."""


def local_builder(master: str, jars: Path | None, java_option: str) -> SparkSession.Builder:
    """A builder for one machine: `PROPERTIES`, `LOCAL_PROPERTIES`, the jars, and one more option of the JVM."""
    # Workers on this machine are to run in the very environment that the driver runs in.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    properties = PROPERTIES | LOCAL_PROPERTIES
    properties["spark.driver.extraJavaOptions"] = " ".join(filter(None, [*LOCAL_JAVA_OPTIONS, java_option]))
    if jars:
        # On the class path, not in `spark.jars`: only what the JVM's own loader loads can come out of an archive.
        properties["spark.driver.extraClassPath"] = ":".join(_jars(jars))
    retrying = re.sub(r"^local\[(\d+|\*)\]$", rf"local[\1,{LOCAL_ATTEMPTS}]", master)
    return SparkSession.builder.master(retrying).config(map=properties)


def _start_workers(spark: SparkSession) -> None:
    """Have the worker daemon import its libraries while the driver opens tables: on two cores both go at once.

    By one task: as many as there are cores would all wait for the daemon, and the driver's own tasks for them. (Tried
    and left: a second daemon with the models' libraries. Spark starts workers under one lock: all wait for the slower.)
    """
    with contextlib.suppress(Exception):  # whatever is wrong with workers, the first stage that needs one will say
        spark.range(0, 1, numPartitions=1).mapInArrow(lambda batches: batches, "id bigint").collect()


def _archive_option(archive: Path | None) -> str:
    return f"-XX:SharedArchiveFile={archive.resolve()}" if archive and archive.is_file() else ""


def _jars(folder: Path) -> list[str]:
    jars = sorted(str(path.resolve()) for path in folder.glob("*.jar"))
    if not jars:
        raise UsageError(f"spark.jars {folder}: no jar files there; run `make setup`")
    return jars


def _ship(spark: SparkSession, assets: Iterable[AssetSettings]) -> None:
    """Make the files available to every executor under their `shipped_name`; each is shipped once a session."""
    context = spark.sparkContext
    shipped = {PurePosixPath(address).name for address in context.listFiles}
    for name, asset in {shipped_name(asset): asset for asset in assets}.items():
        if name not in shipped:
            # Spark serves a file under the last part of its address, and would resolve the links of a bare path.
            link = Path(context._temp_dir) / name  # goes with the session
            link.symlink_to(Path(asset.path).resolve())
            context.addFile(link.as_uri())
