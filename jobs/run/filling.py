"""Vectors for what is stored, by a model that has none of it yet."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from jobs.run import contents
from jobs.run.context import Work
from jobs.run.names import Count, Dataset
from jobs.stages.pregate import judge_sightings


def texts_without_vector(work: Work) -> DataFrame:
    """Accepted sightings whose text has no vector of the run's text model."""
    accepted = work.landing.read("sightings").where("outcome = 'accepted' and text_id is not null")
    return accepted.join(contents.texts_before(work).select("text_id"), "text_id", "left_anti")


@dataclass
class FillImages:
    """The staging of vectors of stored images."""

    work: Work
    files: Sequence[str]
    """Files of `images`: every vector that is missing for an image in them is made."""

    def embed(self) -> None:
        """Make vectors of those images in the files that have none."""
        work = self.work
        pixels = work.landing.read_files("images", self.files).select("image_id", "pixels")
        missing, version = contents.missing_vectors(work), work.versions.model_version
        contents.embed(work, pixels, missing, work.config.embedding, version, Dataset.VECTORS)
        work.counts[Count.EMBEDDED] = work.rows(Dataset.VECTORS).counted[Count.EMBEDDED]
        work.plan_rows("embeddings", Dataset.VECTORS, where="error is null")


@dataclass
class FillTexts:
    """The staging of vectors of accepted texts."""

    work: Work
    dates: Sequence[dt.date]
    """Every vector that is missing for an accepted text of these dates is made."""

    def embed(self) -> None:
        """Make vectors of those accepted texts of the dates that have none."""
        work = self.work
        sightings = texts_without_vector(work).where(f.col("ingest_date").isin(*self.dates))
        contents.embed_texts_of(work, judge_sightings(sightings, work.policy, work.overrides.rows))
