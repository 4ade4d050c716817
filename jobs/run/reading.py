"""What reading a date's manifest takes, whether a run reads it or somebody who only looks whether it has changed."""

from dataclasses import dataclass, field
from typing import Protocol

from pyspark.sql import DataFrame, SparkSession

from jobs.config.profile import Config
from jobs.run.overrides import Overrides
from schemas.policy import Policy


class Reading(Protocol):
    """The part of `jobs.run.context.Work` that reading takes."""

    spark: SparkSession
    config: Config
    policy: Policy

    @property
    def overrides(self) -> Overrides:
        """What people decided."""

    def stage(self, name: str, frame: DataFrame) -> DataFrame:
        """The rows, computed once."""


@dataclass
class Look:
    """Reading without a run: nothing is written, the executors keep what a run would stage."""

    spark: SparkSession
    config: Config
    policy: Policy
    overrides: Overrides
    kept: list[DataFrame] = field(default_factory=list)

    def stage(self, name: str, frame: DataFrame) -> DataFrame:
        """The rows, computed once."""
        del name
        self.kept.append(frame.persist())
        return self.kept[-1]

    def release(self) -> None:
        """Let the executors forget them."""
        for frame in self.kept:
            frame.unpersist()
