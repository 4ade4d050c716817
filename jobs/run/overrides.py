"""What people decided about contents and sightings under review, as far as it bears on verdicts."""

from dataclasses import dataclass
from functools import cached_property

from pyspark.sql import DataFrame

from udfs.gate.overrides import HumanVerdict, People


@dataclass
class Overrides:
    """Rows of `overrides`, in the forms in which verdicts take account of them."""

    rows: DataFrame

    @cached_property
    def of_contents(self) -> People:
        """By image_id. There are as many as people had time to decide: they fit on the driver and go with the tasks."""
        wanted = self.rows.where("subject_kind = 'image'").select("subject_id", "verdict", "cleared")
        found = wanted.toArrow().to_pylist()
        return {row["subject_id"]: HumanVerdict(row["verdict"] == "block", frozenset(row["cleared"])) for row in found}
