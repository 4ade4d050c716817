"""What people asked to be taken down, as far as it bears on verdicts."""

from jobs.warehouse.landing import Landing
from udfs.gate.takedowns import Takedown


def in_force(landing: Landing) -> list[Takedown]:
    """The takedowns that are in force. There are as many as people asked for: they fit on the driver, and go with the
    tasks as the policy's own lists do."""
    rows = landing.read("takedowns").where("in_force").select("kind", "subject", "max_distance")
    return sorted(Takedown(**row) for row in rows.toArrow().to_pylist())
