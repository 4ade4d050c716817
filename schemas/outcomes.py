"""The closed vocabularies of the warehouse: outcomes of sightings, failure codes, decisions.

Every sighting ends with exactly one `Outcome`. A `failed` sighting carries a `FailureCode`, which is either permanent
(asking again the same day is pointless) or transient (`--retry-failed` selects it, and what was `deferred`).
"""

from enum import StrEnum


class Outcome(StrEnum):
    """What became of one manifest row."""

    ACCEPTED = "accepted"
    REVIEW = "review"
    BLOCKED = "blocked"
    FAILED = "failed"
    DEFERRED = "deferred"


OUTCOME_MEANINGS: dict[Outcome, str] = {
    Outcome.ACCEPTED: "fetched, allowed by the policy, embedded: it may make its image live",
    Outcome.REVIEW: "a person has to look first; `reasons` says why; no pixels are kept",
    Outcome.BLOCKED: "refused by the policy, before or after the fetch; `reasons` says why; no pixels are kept",
    Outcome.FAILED: "no image could be had or worked on; `failure_code` and `failure_detail` say why",
    Outcome.DEFERRED: "not asked, or not answered for now: the night's deadline, a host that wants a long pause, "
    "a robots.txt that could not be had; to be asked again",
}


class Decision(StrEnum):
    """What the policy says of a sighting or of a content; later members are stricter."""

    ALLOW = "allow"
    REVIEW = "review"
    BLOCK = "block"


DECISION_MEANINGS: dict[Decision, str] = {
    Decision.ALLOW: "no rule matches",
    Decision.REVIEW: "kept out until a person has looked",
    Decision.BLOCK: "kept out",
}


STRICTNESS: dict[Decision, int] = {Decision.ALLOW: 0, Decision.REVIEW: 1, Decision.BLOCK: 2}


def strictest(*decisions: Decision) -> Decision:
    """The strictest of the decisions given; `ALLOW` when none is given."""
    return max(decisions, key=STRICTNESS.__getitem__, default=Decision.ALLOW)


class FailureCode(StrEnum):
    """Why a sighting failed. The enum is closed: a new cause needs a new member and its meaning."""

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


FAILURE_MEANINGS: dict[FailureCode, str] = {
    FailureCode.BAD_ROW: "the manifest's row cannot be read or judged, or has no URL that could be requested",
    FailureCode.DNS: "the host's name does not resolve",
    FailureCode.CONNECT: "no connection, or one that broke off or answered no HTTP",
    FailureCode.TLS: "no trusted encrypted connection: certificate, host name or protocol",
    FailureCode.TIMEOUT: "too slow: to connect, to answer, to send, or all of it together",
    FailureCode.GONE: "404 or 410",
    FailureCode.RATE_LIMITED: "429 until the retries were used up",
    FailureCode.HTTP_4XX: "any other status from 400 to 499",
    FailureCode.HTTP_5XX: "a status from 500 up, until the retries were used up",
    FailureCode.TOO_LARGE: "more bytes than `crawl.max_bytes`",
    FailureCode.TOO_MANY_REDIRECTS: "more redirects than `crawl.max_redirects`, or a circle of them",
    FailureCode.BAD_TYPE: "no image of an accepted format, or not of the declared one",
    FailureCode.DECODE: "truncated or broken image data",
    FailureCode.BOMB: "decompresses to more than is sound: pixels, frames, scans or content coding",
    FailureCode.TOO_SMALL: "a side shorter than `images.min_side`, as fetched or as it would be stored",
    FailureCode.OPT_OUT: "the server reserves the image: X-Robots-Tag or TDM-Reservation",
    FailureCode.ROBOTS: "robots.txt disallows the URL",
    FailureCode.FORBIDDEN_ADDRESS: "resolves or redirects to an address that is not public, or not to http(s)",
    FailureCode.HASH_MISMATCH: "other bytes than the manifest's `expected_sha256`",
    FailureCode.GATE_ERROR: "the detector gave no usable score; nothing passes without one",
    FailureCode.EMBED_ERROR: "allowed, but the embedding model gave no vector",
    FailureCode.INTERNAL: "a fault of this program",
}

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

LOST_DECODER = "decoder lost"
"""What the detail of a failure begins with where the image did not fail to decode but took the decoder's process with
it; what follows says how. With `FailureCode.DECODE` it does so again, and is remembered."""
