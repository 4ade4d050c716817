"""What people asked to be taken down, as far as it bears on verdicts."""

from jobs.warehouse.landing import Landing
from schemas.policy import Policy
from udfs.gate.takedowns import Takedown, with_takedowns


def in_force(landing: Landing) -> list[Takedown]:
    """The takedowns that are in force. There are as many as people asked for: they fit on the driver, and go with the
    tasks as the policy's own lists do."""
    rows = landing.read("takedowns").where("in_force").select("kind", "subject", "max_distance")
    return sorted(Takedown(**row) for row in rows.toArrow().to_pylist())


def judged_by(policy: Policy, landing: Landing) -> Policy:
    """The policy with what is taken down: what a run would judge by, for those who only look."""
    return with_takedowns(policy, in_force(landing))
