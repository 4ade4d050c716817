"""Which device the tasks of a stage may compute on: Spark's assignment decides."""

from pyspark.sql import SparkSession

from udfs.devices import Wanted


def device_for(spark: SparkSession, wanted: Wanted) -> Wanted:
    """What a stage tells its models. On a cluster a task that Spark gave no GPU must not take one that it happens to
    see on its machine; which one it was given, it knows itself (`udfs.devices`)."""
    everyone_has_one = property_of(spark, "spark.task.resource.gpu.amount") is not None
    return wanted if wanted != "auto" or everyone_has_one or is_local(spark) else "cpu"


def is_local(spark: SparkSession) -> bool:
    """Whether the session has no executors beside the driver: then Spark assigns no GPUs."""
    return str(spark.sparkContext.master).partition("[")[0] == "local"


def property_of(spark: SparkSession, name: str) -> str | None:
    """A property of the session's configuration."""
    return spark.sparkContext.getConf().get(name)
