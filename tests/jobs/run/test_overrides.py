"""What people decided, in the form in which the gate takes it along."""

import datetime as dt

import pytest
from pyspark.sql import SparkSession

from jobs.run.overrides import Overrides
from tests.jobs.frames import table_frame
from udfs.gate.overrides import HumanVerdict

pytestmark = pytest.mark.spark


def test_verdicts_on_contents_are_known_by_image_id_and_those_on_sightings_left_out(spark: SparkSession) -> None:
    said = [
        ("image", "cleared", "allow", ["unsure"]),
        ("image", "blocked", "block", []),
        ("sighting", "2026-01-31/list.csv/0", "block", []),
    ]
    given = {"reviewer": "r", "decided_at": dt.datetime(2026, 2, 1), "run_id": "r"}
    rows = [
        given | {"subject_kind": kind, "subject_id": subject, "verdict": verdict, "cleared": cleared}
        for kind, subject, verdict, cleared in said
    ]
    assert Overrides(table_frame(spark, "overrides", rows)).of_contents == {
        "cleared": HumanVerdict(block=False, cleared=frozenset({"unsure"})),
        "blocked": HumanVerdict(block=True, cleared=frozenset()),
    }
