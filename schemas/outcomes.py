"""The closed vocabularies of the warehouse: outcomes of sightings, failure codes, decisions.

Every sighting ends with exactly one `Outcome`. A `failed` or `deferred` sighting carries a `FailureCode`; a code is
either permanent (asking again the same day is pointless) or transient (`--retry-failed` selects it).
"""

from enum import StrEnum


class Outcome(StrEnum):
    """What became of one manifest row."""

    ACCEPTED = "accepted"
    REVIEW = "review"
    BLOCKED = "blocked"
    FAILED = "failed"
    DEFERRED = "deferred"


class Decision(StrEnum):
    """What the policy says of a sighting or of a content; later members are stricter."""

    ALLOW = "allow"
    REVIEW = "review"
    BLOCK = "block"


STRICTNESS: dict[Decision, int] = {Decision.ALLOW: 0, Decision.REVIEW: 1, Decision.BLOCK: 2}


def strictest(*decisions: Decision) -> Decision:
    """The strictest of the decisions given; `ALLOW` when none is given."""
    return max(decisions, key=STRICTNESS.__getitem__, default=Decision.ALLOW)


class FailureCode(StrEnum):
    """Why a sighting failed. The enum is closed: a new cause needs a new member and a line in docs/tables.md."""

    BAD_ROW = "bad_row"
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    GONE = "gone"
    RATE_LIMITED = "rate_limited"
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    TOO_LARGE = "too_large"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    BAD_TYPE = "bad_type"
    DECODE = "decode"
    BOMB = "bomb"
    TOO_SMALL = "too_small"
    OPT_OUT = "opt_out"
    ROBOTS = "robots"
    FORBIDDEN_ADDRESS = "forbidden_address"
    HASH_MISMATCH = "hash_mismatch"
    GATE_ERROR = "gate_error"
    EMBED_ERROR = "embed_error"
    INTERNAL = "internal"


TRANSIENT: frozenset[FailureCode] = frozenset(
    {
        FailureCode.DNS,
        FailureCode.CONNECT,
        FailureCode.TLS,
        FailureCode.TIMEOUT,
        FailureCode.RATE_LIMITED,
        FailureCode.HTTP_5XX,
        FailureCode.GATE_ERROR,
        FailureCode.EMBED_ERROR,
        FailureCode.INTERNAL,
    }
)
"""Codes worth asking again; every other code is permanent for its date."""

WITHDRAWALS: frozenset[FailureCode] = frozenset({FailureCode.OPT_OUT, FailureCode.ROBOTS, FailureCode.GONE})
"""Failures by which a URL withdraws what it showed before: they are conclusive for the state of the URL."""
