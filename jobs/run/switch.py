"""The switch of the feed to another model, or of the clusters to another rule: what follows from every live image is
worked out again under it."""

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from jobs.config.errors import RunError
from jobs.run import audit, contents
from jobs.run.context import Work
from jobs.run.derived import Facts, Touched
from jobs.run.expectations import Expectations
from jobs.run.names import Count, Dataset, Metric
from jobs.run.redecision import Redecision
from lensfeed.feed import vector_matrix
from schemas.outcomes import FailureCode
from schemas.tables import SIGHTINGS

PROBES = 2_000
"""Images whose neighbours among each other are compared."""


@dataclass
class Switch:
    """The staging of a switch. What has no vector of the new visual model is an `embed_error`; what was one for the
    model before is decided as if nobody knew."""

    work: Work
    model_before: str
    """Version of the visual model that the feed is under until then."""
    most_failed: float
    """Share of the stored images that may have no vector of the new model."""
    expectations: Expectations
    """What the neighbours are held against."""
    touched: Touched | None = None

    @property
    def other_model(self) -> bool:
        """Whether the visual model is another one; else only the text model or the alignment is."""
        return self.model_before != self.work.versions.model_version

    def find_missing(self) -> None:
        """Stored images without a vector of the model. Raises RunError where there are too many of them."""
        work, model = self.work, self.work.config.embedding.model
        missing = contents.missing_vectors(work)
        work.stage(Dataset.WITHOUT_VECTOR, missing.withColumn("error", f.lit(f"no vector of {model}")))
        count, stored = work.rows(Dataset.WITHOUT_VECTOR).rows, work.landing.read("images").count()
        work.counts[Count.WITHOUT_VECTOR] = count
        if count > self.most_failed * stored:
            raise RunError(
                f"{count} of {stored} images have no vector of {model}, more than the share of {self.most_failed:g} "
                "that --most-failed allows: the feed stays as it is"
            )

    def compare_neighbours(self) -> None:
        """Say how far the neighbours of images stay as they were, by those that have a vector of both models. Raises
        UnexpectedError where that is not as expected."""
        if not self.other_model:
            return
        embeddings, new = self.work.landing.read("embeddings"), self.work.versions.model_version
        heads = self.work.landing.read("clusters").where("image_id = representative_id").select("image_id")
        before, after = (
            embeddings.where(f.col("model_version") == version).select("image_id", f.col("vector").alias(name))
            for version, name in ((self.model_before, "before"), (new, "after"))
        )
        # Ids are digests: the least are a fair sample. They are chosen first, so that few vectors are read.
        sample = heads.join(after.select("image_id"), "image_id", "left_semi").orderBy("image_id").limit(PROBES)
        found = sample.join(before, "image_id").join(after, "image_id").select("before", "after").toArrow()
        if not found.num_rows:
            return
        vectors = [vector_matrix(found[name].combine_chunks(), name) for name in ("before", "after")]
        overlap = audit.neighbour_overlap(vectors[0], vectors[1])
        if overlap is not None:
            self.work.metrics[Metric.NEIGHBOUR_OVERLAP] = overlap
            self.work.remark = self.expectations.check(self.work.metrics, complete=False)

    def decide(self) -> None:
        """Decide again the sightings of images that one of the models has no vector for."""
        failed = self.work.staged(Dataset.WITHOUT_VECTOR)
        sightings = self.work.landing.read("sightings")
        concerned = sightings.join(failed, "image_id", "left_semi")
        if self.other_model:
            known = sightings.where(f.col("failure_code") == FailureCode.EMBED_ERROR.value)
            concerned = concerned.unionByName(known.select(*concerned.columns)).dropDuplicates(list(SIGHTINGS.keys))
        self._redecision(concerned).decide()

    def facts(self) -> Facts:
        """The sightings that are decided otherwise, and all live images."""
        return self._redecision(self.work.landing.read("sightings")).facts()

    def _redecision(self, concerned: DataFrame) -> Redecision:
        failed = self.work.staged(Dataset.WITHOUT_VECTOR) if self.other_model else None
        live = self.work.landing.read("clusters").select("image_id")
        return Redecision(self.work, concerned, failed, live)


@dataclass
class RuleSwitch:
    """The staging of a switch to another rule of what near-duplicates are. No sighting changes."""

    work: Work
    touched: Touched | None = None

    def facts(self) -> Facts:
        """All live images."""
        work, sightings = self.work, self.work.landing.read("sightings")
        none = f.lit(False)
        return Facts(
            old=sightings.where(none).select("url_id", "outcome", "image_id", "text_id"),
            new=sightings.where(none),
            before=sightings,
            kept=lambda rows: rows,
            embeddings=contents.no_vectors(work),
            texts=work.landing.read("text_embeddings").where(none).select("text_id", "vector"),
            crawled=None,
            images=work.landing.read("clusters").select("image_id"),
        )

    def audit(self) -> None:
        """No representative is a member elsewhere."""
        audit.check_clusters(self.work.staged(Dataset.CLUSTERS))
