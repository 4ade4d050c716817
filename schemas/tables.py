"""The tables of the warehouse as plain data: the one description from which everything else is made.

StructTypes (`schemas.spark`), Delta CHECK constraints and properties (`jobs.warehouse.landing`), docs/tables.md
(`schemas.document`) and the readers' checks all derive from here. Importing this needs no Spark.

Type names are Spark's simple strings. Ids are lower-case hex SHA-256 (64 characters) unless said otherwise; dates are
the manifest's `ingest_date`, never the wall clock; timestamps are UTC.
"""

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["dated", "content", "derived", "request", "log"]
"""How a table is written. `dated`: one ingest_date is replaced whole, or rows of it by key. `content`: keyed; rows are
added, and taken out when nothing that is accepted needs them. `derived`: keyed, a pure function of the others, upserted
and deleted. `request`: keyed, what people asked for, upserted and deleted. `log`: append only."""

SHA256_HEX = "rlike '^[0-9a-f]{64}$'"


@dataclass(frozen=True)
class Column:
    """One column. `volatile` columns are left out of the warehouse's digest: they differ between equal runs."""

    name: str
    type: str
    comment: str
    nullable: bool = True
    volatile: bool = False
    measured: bool = False
    """Whether Delta keeps its least and greatest value, though it is no key and no time."""


@dataclass(frozen=True)
class Table:
    """One table: what a row is, how it is written, what must hold of it."""

    name: str
    row: str
    kind: Kind
    keys: tuple[str, ...]
    columns: tuple[Column, ...]
    partition_by: tuple[str, ...] = ()
    constraints: dict[str, str] = field(default_factory=dict)
    change_data_feed: bool = False
    digested: bool = True
    """Whether the table's rows are part of `jobs.digest`."""
    purged: bool = False
    """Whether its old files leave the disk as soon as a run takes contents out: the table holds pixels, vectors or
    hashes that only accepted contents may have, or follows from such. Other tables hold evidence (what was given, asked
    for and decided), which stays after a block: their old files say nothing that the new ones do not."""

    tells_texts: bool = False
    """Whether the table holds what was said about images beside evidence of them: its old files leave the disk where a
    takedown of contents has erased that."""

    keeps_files: bool = False
    """Whether a file stays as it is when a row in it changes or goes: the row is marked as dead, by a deletion vector,
    and written anew elsewhere. For a table of which a night changes little; who reads its files has to leave dead rows
    out, by their positions or, in the table that others read (`index_feed`), by their names (`ROW_ID`)."""

    sorted_by: str | None = None
    """The column by which rows are sorted within each file that is appended: a small run then finds single rows of a
    large file without reading the rest (`jobs.warehouse.history`)."""

    def column(self, name: str) -> Column:
        """The column of that name; KeyError names the table."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"table {self.name} has no column {name}; it has {[c.name for c in self.columns]}")

    @property
    def rules(self) -> dict[str, str]:
        """What must hold of every row, as SQL conditions: by column for one that may not be null, else by constraint.

        A condition that is null is broken, as for Delta.
        """
        given = {column.name: f"{column.name} is not null" for column in self.columns if not column.nullable}
        return given | self.constraints

    @property
    def measured(self) -> tuple[str, ...]:
        """Columns of which Delta may keep the least and the greatest value in its log: keys and times, by which files
        are passed over. Of no other: the log outlives the rows, and must hold no part of a URL or a text. Partitions
        are in the log anyway."""
        told = {"date", "timestamp"}
        telling = [c.name for c in self.columns if c.name in self.keys or c.type in told or c.measured]
        return tuple(name for name in telling if name not in self.partition_by)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns in order."""
        return tuple(column.name for column in self.columns)


def _id(name: str, comment: str, nullable: bool = False) -> Column:
    return Column(name, "string", comment, nullable)


ROW_ID = "row_id"
"""Column of a table that keeps its files, and that readers without positions read: no two rows that were ever written
have the same."""

ADDED_SEQ, CHANGED_SEQ, GONE_SEQ = "added_seq", "changed_seq", "gone_seq"
"""Columns that say which run did it, by the position in the ledger at which it started: greater than that of every
event published before, and less than that of its own `published`."""

_RUN_ID = Column("run_id", "string", "run that wrote the row", nullable=False, volatile=True)
_OUTCOMES = "('accepted', 'review', 'blocked', 'failed', 'deferred')"

SIGHTINGS = Table(
    name="sightings",
    row="sighting: one row of a manifest",
    kind="dated",
    keys=("ingest_date", "source_file", "row_number"),
    partition_by=("ingest_date",),
    tells_texts=True,
    sorted_by="url_id",
    columns=(
        Column("ingest_date", "date", "date of the manifest", nullable=False),
        Column("source_file", "string", "manifest file, relative to the manifest's path", nullable=False),
        Column(
            "row_number",
            "bigint",
            "position in that file, from 0: line, CSV record after the header, or row; blank lines are not rows",
            nullable=False,
        ),
        Column("url", "string", "URL as the manifest has it, credentials removed; evidence, and never parsed again"),
        Column("page_url", "string", "page on which the image was seen"),
        Column("title", "string", "title as given"),
        Column("alt_text", "string", "alternative text as given"),
        Column("description", "string", "description as given"),
        Column("tags", "array<string>", "tags as given"),
        Column("license", "string", "licence as given"),
        Column("attributes", "map<string,string>", "further attributes as given"),
        Column("expected_sha256", "string", "digest the manifest promises for the bytes"),
        Column(
            "url_id",
            "string",
            "SHA-256 of the normalised URL as it is fetched, credentials and all; null for a row without a usable one",
        ),
        Column(
            "normalised_url",
            "string",
            "normalised URL, credentials removed; null where it is `url`, or there is none. Where its SHA-256 is not "
            "`url_id`, the URL that was fetched is not stored, and cannot be asked for again without its manifest",
        ),
        Column("host", "string", "host of the normalised URL"),
        Column("outcome", "string", f"exactly one of {_OUTCOMES}", nullable=False),
        Column("failure_code", "string", "why it failed: schemas.outcomes.FailureCode; null unless failed"),
        Column("failure_detail", "string", "one line about the failure or the deferral, without credentials"),
        Column(
            "reasons",
            "array<string>",
            "reason codes of the policy, sorted; empty unless blocked or review",
            False,
        ),
        Column("image_id", "string", "SHA-256 of the fetched bytes; null where none were fetched"),
        Column(
            "not_modified",
            "boolean",
            "the server answered 304 to a conditional request",
            False,
            volatile=True,
        ),
        Column(
            "state_effect",
            "string",
            "what it means for the state of its URL: content (fetched, conclusive), withdrawal, or none",
            nullable=False,
        ),
        Column("text_id", "string", "SHA-256 of the cleaned text of the row; null where it has none"),
        Column("language", "string", "language of that text, ISO 639-1; null where it cannot be told"),
        Column("policy_version", "string", "policy under which the outcome was decided", False, volatile=True),
        _RUN_ID,
    ),
    constraints={
        "outcome_known": f"outcome in {_OUTCOMES}",
        "failed_has_code": "(outcome = 'failed') = (failure_code is not null)",
        "accepted_has_image": f"outcome != 'accepted' or (image_id is not null and image_id {SHA256_HEX})",
        "held_back_has_reason": "(outcome in ('blocked', 'review')) = (size(reasons) > 0)",
        "effect_known": "state_effect in ('content', 'withdrawal', 'none')",
    },
)

FETCHES = Table(
    name="fetches",
    row="URL and date: what the server answered",
    kind="dated",
    keys=("ingest_date", "url_id"),
    partition_by=("ingest_date",),
    digested=False,
    sorted_by="url_id",
    columns=(
        Column("ingest_date", "date", "date of the manifest that asked", nullable=False),
        _id("url_id", "SHA-256 of the normalised URL"),
        Column("url", "string", "normalised URL, credentials removed, as in all columns here", nullable=False),
        Column("status", "int", "last HTTP status; null where none was received"),
        Column("final_url", "string", "URL after redirects"),
        Column("content_type", "string", "declared media type"),
        Column("etag", "string", "validator as sent"),
        Column("last_modified", "string", "validator as sent"),
        Column("x_robots_tag", "string", "X-Robots-Tag headers, joined by comma"),
        Column("tdm_reservation", "string", "tdm-reservation header (TDMRep)"),
        Column("robots_evidence", "string", "what robots.txt said"),
        Column("bytes", "bigint", "length of the body in bytes"),
        Column("attempts", "int", "requests made"),
        Column("redirects", "int", "redirects followed"),
        Column("hops", "array<string>", "where they led, in order; held against the policy again by a re-decision"),
        Column("fetched_at", "timestamp", "when the exchange ended (UTC)"),
        Column("duration_ms", "double", "wall-clock milliseconds of the row, waiting included"),
        Column("failure_code", "string", "why there is no image; null where there is one"),
        Column("failure_detail", "string", "one line about it"),
        Column("deferred", "boolean", "not answered for now: to be asked again", nullable=False),
        Column("blocked_reason", "string", "reason code where the policy refused the URL or a redirect's target"),
        Column("not_modified", "boolean", "304", nullable=False),
        Column("image_id", "string", "SHA-256 of the body"),
        Column("embed_error", "string", "why `embed_model` gave no vector for it; null unless it was asked and failed"),
        Column("embed_model", "string", "model_version of the model that failed"),
        _RUN_ID,
    ),
)

CONTENT_SIGNALS = Table(
    name="content_signals",
    row="content and detector: raw scores of everything decoded, allowed or not; no pixels",
    kind="content",
    keys=("image_id", "detector_version"),
    digested=False,
    sorted_by="image_id",
    columns=(
        _id("image_id", "SHA-256 of the fetched bytes"),
        Column(
            "detector_version",
            "string",
            "digest of detectors, views, frames, mattes and hashes",
            False,
        ),
        Column(
            "scores",
            "map<string,double>",
            "score per view, for example nsfw:center -> [0, 1]",
            nullable=False,
        ),
        Column("phash256s", "binary", "256-bit pHash in the eight orientations, 8 x 32 bytes; null unless configured"),
        Column("pdqs", "binary", "PDQ hash in the eight orientations, 8 x 32 bytes; null unless configured"),
        Column("pdq_quality", "int", "PDQ's quality, 0 to 100"),
        _RUN_ID,
    ),
    constraints={"image_id_hex": f"image_id {SHA256_HEX}", "has_scores": "size(scores) > 0"},
)

QUARANTINE = Table(
    name="quarantine",
    row="content that crashed or hung a decoder: no task is shown it again until another decoder comes",
    kind="content",
    keys=("image_id", "canonical_version"),
    digested=False,
    columns=(
        _id("image_id", "SHA-256 of the fetched bytes"),
        Column("canonical_version", "string", "digest of the decoders that it was shown to", nullable=False),
        Column("detail", "string", "what became of them; the `failure_detail` of its sightings", nullable=False),
        _RUN_ID,
    ),
    constraints={"image_id_hex": f"image_id {SHA256_HEX}"},
)

DECISIONS = Table(
    name="decisions",
    row="decision taken on a content or a sighting (audit log)",
    kind="log",
    keys=(),
    digested=False,
    columns=(
        Column("subject_kind", "string", "image or sighting", nullable=False),
        Column("subject_id", "string", "image_id, or ingest_date/source_file/row_number", nullable=False),
        Column("policy_version", "string", "digest of the policy and its lists", nullable=False),
        Column("decision", "string", "allow, review or block", nullable=False),
        Column("reasons", "array<string>", "reason codes, sorted", nullable=False),
        Column("scores", "map<string,double>", "what the decision rested on"),
        Column("source", "string", "automatic or human", nullable=False),
        Column("reference", "string", "who or what, for a human decision"),
        Column("decided_at", "timestamp", "when (UTC)", nullable=False, volatile=True),
        _RUN_ID,
    ),
    constraints={
        "subject_known": "subject_kind in ('image', 'sighting')",
        "decision_known": "decision in ('allow', 'review', 'block')",
    },
)

IMAGES = Table(
    name="images",
    row="allowed content: canonical pixels and facts about them",
    kind="content",
    keys=("image_id",),
    purged=True,
    sorted_by="image_id",
    columns=(
        _id("image_id", "SHA-256 of the fetched bytes"),
        Column("pixels", "binary", "canonical JPEG: sRGB, upright, metadata-free", nullable=False),
        Column("width", "int", "stored width, pixels", nullable=False),
        Column("height", "int", "stored height, pixels", nullable=False),
        Column("source_width", "int", "upright width as fetched, pixels", nullable=False),
        Column("source_height", "int", "upright height as fetched, pixels", nullable=False),
        Column("source_format", "string", "jpeg, png, webp, gif or avif", nullable=False),
        Column("source_bytes", "bigint", "length as fetched", nullable=False),
        Column("canonical_version", "string", "how bytes became pixels (decoder, size, quality)", nullable=False),
        Column("phash64", "bigint", "64-bit pHash of the stored pixels, two's complement", nullable=False),
        Column("phash256", "binary", "256-bit pHash of the stored pixels, row-major, MSB first", nullable=False),
        Column("flatness", "double", "standard deviation of luminance, grey levels 0-255", nullable=False),
        Column("sharpness", "double", "0 to 100: 25 log10(1 + variance of the Laplacian)", nullable=False),
        Column(
            "view_hashes",
            "array<binary>",
            "of each view and near-canonical orientation: view number, 64-bit and 256-bit pHash, hue, shades, 43 bytes",
            nullable=False,
        ),
        Column(
            "views_revision",
            "int",
            "what views view_hashes are of; null before there was this. Of others than this release's nothing follows",
        ),
        _RUN_ID,
    ),
    constraints={
        "image_id_hex": f"image_id {SHA256_HEX}",
        "sizes_positive": "width > 0 and height > 0 and source_width > 0 and source_height > 0",
        "is_jpeg": "hex(substring(pixels, 1, 2)) = 'FFD8'",
        "phash256_length": "length(phash256) = 32",
    },
)

EMBEDDINGS = Table(
    name="embeddings",
    row="allowed content and model: unit vector",
    kind="content",
    keys=("image_id", "model_version"),
    purged=True,
    partition_by=("model_version",),
    sorted_by="image_id",
    columns=(
        _id("image_id", "SHA-256 of the fetched bytes"),
        Column("model_version", "string", "digest of model, weights, preprocessing, dtype", nullable=False),
        Column("vector", "array<float>", "unit norm, one dimension a model_version", nullable=False),
        _RUN_ID,
    ),
    constraints={"vector_present": "size(vector) > 0"},
)

TEXT_EMBEDDINGS = Table(
    name="text_embeddings",
    row="distinct cleaned text and text model: unit vector",
    kind="content",
    keys=("text_id", "text_model_version"),
    purged=True,
    partition_by=("text_model_version",),
    sorted_by="text_id",
    columns=(
        _id("text_id", "SHA-256 of the cleaned text"),
        Column("text_model_version", "string", "digest of text model, weights, pooling, length", nullable=False),
        Column("vector", "array<float>", "unit norm", nullable=False),
        _RUN_ID,
    ),
    constraints={"vector_present": "size(vector) > 0"},
)

URL_STATE = Table(
    name="url_state",
    row="URL with at least one conclusive sighting: the last of them in date order",
    kind="derived",
    keys=("url_id",),
    tells_texts=True,
    keeps_files=True,
    sorted_by="url_id",
    columns=(
        _id("url_id", "SHA-256 of the normalised URL"),
        Column("ingest_date", "date", "date of that sighting", nullable=False),
        Column("source_file", "string", "its source_file", nullable=False),
        Column("row_number", "bigint", "its row_number", nullable=False),
        Column("outcome", "string", "its outcome", nullable=False),
        Column("state_effect", "string", "content or withdrawal", nullable=False),
        Column("image_id", "string", "content it showed; null after a withdrawal"),
        Column("url", "string", "its url"),
        Column("host", "string", "its host"),
        Column("page_url", "string", "its page_url"),
        Column("title", "string", "its title"),
    ),
    constraints={"effect_conclusive": "state_effect in ('content', 'withdrawal')"},
)

IMAGE_HASHES = Table(
    name="image_hashes",
    row="stored image, live or not: its perceptual hashes and the group of equal hashes it belongs to",
    kind="derived",
    keys=("image_id",),
    purged=True,
    sorted_by="image_id",
    columns=(
        _id("image_id", "SHA-256 of the fetched bytes"),
        Column("canonical_version", "string", "of the pixels hashed", nullable=False),
        Column(
            "group_id",
            "string",
            "32 hex characters: digest of all hashes, or of the image_id if flat",
            False,
        ),
        Column("hashes", "array<binary>", "those of images.view_hashes whose view the rule looks at", nullable=False),
        Column("flat", "boolean", "no structure to hash: only identical bytes are duplicates", nullable=False),
        Column("flatness", "double", "standard deviation of luminance", nullable=False),
        Column("sharpness", "double", "image quality signal", nullable=False),
    ),
)

LSH_BANDS = Table(
    name="lsh_bands",
    row="hash of a group of stored images with its bands: the index by which a night meets history",
    kind="derived",
    keys=("group_number", "hash_number"),
    purged=True,
    columns=(
        Column("group_number", "bigint", "first 64 bits of group_id; flat groups have no bands", nullable=False),
        Column("hash_number", "int", "which of the group's hashes, from 0", nullable=False),
        Column("view", "int", "which view of the image it is of; 0 is the whole", nullable=False),
        Column("phash64", "bigint", "the hash, its 64 bits", nullable=False),
        Column(
            "band_keys",
            "array<bigint>",
            "for each band, from 0: 64-bit hash of the band's number and its rows of the MinHash signature",
            nullable=False,
        ),
        Column("rule_version", "string", "hashing, LSH and verification settings", nullable=False),
    ),
)

CLUSTERS = Table(
    name="clusters",
    row="live image: the representative it stands behind (itself, if it is one)",
    kind="derived",
    keys=("image_id", "rule_version"),
    purged=True,
    keeps_files=True,
    sorted_by="image_id",
    columns=(
        _id("image_id", "SHA-256 of the fetched bytes"),
        Column("rule_version", "string", "hashing, LSH and verification settings", nullable=False),
        _id("representative_id", "image_id of the representative"),
        Column("hamming", "int", "distance of the 64-bit hashes to the representative's", nullable=False),
        Column("hamming256", "int", "distance of the 256-bit hashes to the representative's", nullable=False),
        Column("group_id", "string", "the image's group of equal hashes", nullable=False),
        Column("first_seen", "date", "least ingest_date of its accepted sightings", nullable=False),
        Column("source_pixels", "bigint", "source width x height", nullable=False),
    ),
    constraints={"self_distance_zero": "image_id != representative_id or (hamming = 0 and hamming256 = 0)"},
)

INDEX_FEED = Table(
    name="index_feed",
    row="live representative: what an ANN index takes",
    kind="derived",
    keys=("feed_id",),
    purged=True,
    change_data_feed=True,
    keeps_files=True,
    columns=(
        Column(
            "feed_id",
            "bigint",
            "first 63 bits of image_id; on collision the next free one; never reused",
            False,
        ),
        _id("image_id", "the representative"),
        Column("model_version", "string", "of the vector", nullable=False),
        Column("vector", "array<float>", "visual unit vector", nullable=False),
        Column("text_model_version", "string", "of the text vector", nullable=False),
        Column("text_vector", "array<float>", "text unit vector; zeros where has_text is false", nullable=False),
        Column("has_text", "boolean", "whether the text vector means anything", nullable=False),
        Column(
            "image_text_cosine",
            "double",
            "cosine of the two vectors in the space that the towers share or that an alignment brings them into, "
            "six decimals; null without a text, or where images and texts are not compared",
        ),
        Column("image_text_mean", "double", "mean cosine of unrelated pairs, for calibrating; null where not measured"),
        Column("image_text_deviation", "double", "their standard deviation; null where not measured"),
        Column("alignment_version", "string", "what the three rest on; null where images and texts are not compared"),
        Column("has_title", "boolean", "mask: a title was given", nullable=False),
        Column("has_alt_text", "boolean", "mask: an alternative text was given", nullable=False),
        Column("has_description", "boolean", "mask: a description was given", nullable=False),
        Column("has_tags", "boolean", "mask: tags were given", nullable=False),
        Column("title", "string", "of the representative's first accepted sighting in key order"),
        Column("text_id", "string", "text of that sighting"),
        Column("language", "string", "language of that text, ISO 639-1; null where it cannot be told"),
        Column("tokens", "array<string>", "distinct words of its cleaned text, folded (NFKC_Casefold)", False),
        Column("attributes", "map<string,string>", "further attributes of that sighting as given"),
        Column("url", "string", "URL of that sighting, as the manifest has it"),
        Column("page_url", "string", "page on which it was seen then"),
        Column("member_count", "bigint", "live images in the cluster, itself included", nullable=False),
        Column("largest_image_id", "string", "of these the one of most pixels at its source, to show or to keep"),
        Column("url_count", "bigint", "URLs that show a live image of the cluster", nullable=False),
        Column("domain_count", "bigint", "distinct hosts among them", nullable=False),
        Column("first_seen", "date", "least ingest_date of its accepted sightings", nullable=False),
        Column("width", "int", "stored width, pixels", nullable=False),
        Column("height", "int", "stored height, pixels", nullable=False),
        Column("sharpness", "double", "0 to 100: 25 log10(1 + variance of the Laplacian)", nullable=False),
        Column(
            "row_digest",
            "string",
            "SHA-256 of the row's contents: a row is rewritten only where it differs",
            False,
        ),
        Column(
            ROW_ID,
            "bigint",
            "of this row as it was written: of what was written later it is greater, and a row that is written anew "
            "gets another; files may hold rows that are dead, and this tells them apart",
            nullable=False,
            volatile=True,
        ),
        Column(
            ADDED_SEQ,
            "bigint",
            "since which run the id is in the feed without a break: the `seq` at which it started; null where that was "
            "before such was recorded",
            volatile=True,
        ),
        Column(
            CHANGED_SEQ,
            "bigint",
            "of the run, likewise, that last changed anything of the row; moving it is no change",
            volatile=True,
            measured=True,
        ),
    ),
    constraints={"feed_id_positive": "feed_id >= 0"},
)

FEED_TOMBSTONES = Table(
    name="feed_tombstones",
    row="time for which an id was in the feed, and after which it left",
    kind="log",
    keys=(),
    digested=False,
    columns=(
        Column("feed_id", "bigint", "id in index_feed; it may be back, or come back", nullable=False),
        Column(
            ADDED_SEQ, "bigint", "of its row: the run since which it had been there; null where index_feed has none"
        ),
        Column(GONE_SEQ, "bigint", "the `seq` at which the run started in which it left", False, measured=True),
    ),
    constraints={"was_there": f"{ADDED_SEQ} is null or {ADDED_SEQ} < {GONE_SEQ}"},
)

FEED_MEMBERS = Table(
    name="feed_members",
    row="live image in a cluster and URL that shows it",
    kind="derived",
    keys=("image_id", "url_id"),
    purged=True,
    keeps_files=True,
    sorted_by="representative_id",
    columns=(
        _id("representative_id", "image_id of the cluster's representative"),
        _id("image_id", "the member"),
        _id("url_id", "SHA-256 of the normalised URL"),
        Column("url", "string", "URL as the manifest has it", nullable=False),
        Column("page_url", "string", "page on which it was seen"),
        Column("domain", "string", "host of the URL", nullable=False),
        Column("title", "string", "title of the sighting that is the URL's state"),
        Column("hamming", "int", "distance of the 64-bit hashes to the representative's", nullable=False),
    ),
)

OVERRIDES = Table(
    name="overrides",
    row="content or sighting on which a person decided",
    kind="request",
    keys=("subject_kind", "subject_id"),
    columns=(
        Column("subject_kind", "string", "image or sighting", nullable=False),
        Column("subject_id", "string", "image_id, or ingest_date/source_file/row_number", nullable=False),
        Column("verdict", "string", "allow or block", nullable=False),
        Column("cleared", "array<string>", "reason codes of the review rules that an allow passes over", False),
        Column("reviewer", "string", "reference of the person", nullable=False),
        Column("comment", "string", "why"),
        Column("decided_at", "timestamp", "when it was imported (UTC)", nullable=False, volatile=True),
        _RUN_ID,
    ),
    constraints={
        "subject_known": "subject_kind in ('image', 'sighting')",
        "verdict_known": "verdict in ('allow', 'block')",
    },
)

TAKEDOWNS = Table(
    name="takedowns",
    row="URL, domain, content or hash that somebody asked to be taken down",
    kind="request",
    keys=("kind", "subject"),
    columns=(
        Column("kind", "string", "url, domain, image, phash256 or pdq", nullable=False),
        Column("subject", "string", "normalised URL without credentials, host, image_id, or 64 hex characters", False),
        Column("max_distance", "int", "of the hashes: differing bits of 256 up to which a content is the same"),
        Column("in_force", "boolean", "false once it was lifted", nullable=False),
        Column("reference", "string", "of who asked for it, or for its lifting", nullable=False, volatile=True),
        Column("decided_at", "timestamp", "when it was taken (UTC)", nullable=False, volatile=True),
        _RUN_ID,
    ),
    constraints={
        "kind_known": "kind in ('url', 'domain', 'image', 'phash256', 'pdq')",
        "distance_of_hashes": "(max_distance is not null) = (kind in ('phash256', 'pdq'))",
    },
)

REFETCH_QUEUE = Table(
    name="refetch_queue",
    row="URL of a date that is owed a fetch: deferred, or newly allowed by a re-decision",
    kind="derived",
    keys=("ingest_date", "url_id"),
    columns=(
        Column("ingest_date", "date", "date under which the answer will be accounted", nullable=False),
        _id("url_id", "SHA-256 of the normalised URL"),
        Column("url", "string", "URL as the manifest has it"),
        Column("host", "string", "host of the normalised URL"),
        Column("image_id", "string", "content that is expected; null where none was fetched before"),
        Column("owed", "string", "answer (no verdict so far) or pixels (accepted, but nothing is stored)", False),
    ),
    constraints={"owed_known": "owed in ('answer', 'pixels')"},
)

FEED_IDS = Table(
    name="feed_ids",
    row="image that was ever a representative in the feed: the id it got, for good",
    kind="content",
    keys=("image_id",),
    digested=False,
    sorted_by="image_id",
    columns=(
        _id("image_id", "SHA-256 of the fetched bytes"),
        Column("feed_id", "bigint", "id in index_feed", nullable=False),
        Column("collided", "boolean", "the natural id was taken", nullable=False),
        _RUN_ID,
    ),
)

RUNS = Table(
    name="runs",
    row="event of a run: started, prepared, published, purged, discarded",
    kind="log",
    keys=(),
    digested=False,
    columns=(
        Column("seq", "bigint", "position in the ledger, from 1", nullable=False),
        Column("run_id", "string", "the run", nullable=False),
        Column("job", "string", "entry point: nightly, ...", nullable=False),
        Column("event", "string", "started, prepared, published, purged or discarded", nullable=False),
        Column("ingest_dates", "array<date>", "dates the run works on", nullable=False),
        Column("at", "timestamp", "when (UTC)", nullable=False),
        Column("table_versions", "map<string,bigint>", "Delta version of every table; published events only"),
        Column("counts", "map<string,bigint>", "rows by outcome, by failure code, by table"),
        Column("metrics", "map<string,double>", "seconds a stage, rates, what any cap lost"),
        Column("config_digest", "string", "digest of the effective configuration"),
        Column("inputs_digest", "string", "digest of the manifest's rows"),
        Column("policy_version", "string", "digest of the policy and its lists"),
        Column("gate_version", "string", "digest of the detectors, as `detector_version` in content_signals"),
        Column("model_version", "string", "visual model"),
        Column("text_model_version", "string", "text model"),
        Column("rule_version", "string", "dedup rule"),
        Column("canonical_version", "string", "pixels"),
        Column("alignment_version", "string", "how images and texts are compared; null where they are not"),
        Column("rolled_back_to", "string", "published run whose state this run goes back to; null where it does not"),
        Column("detail", "string", "why it was discarded, and the like"),
        Column("lease_generation", "bigint", "generation of the lease under which it was written", nullable=False),
    ),
    constraints={"event_known": "event in ('started', 'prepared', 'published', 'purged', 'discarded')"},
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        SIGHTINGS,
        FETCHES,
        CONTENT_SIGNALS,
        QUARANTINE,
        DECISIONS,
        IMAGES,
        EMBEDDINGS,
        TEXT_EMBEDDINGS,
        URL_STATE,
        IMAGE_HASHES,
        LSH_BANDS,
        CLUSTERS,
        INDEX_FEED,
        FEED_TOMBSTONES,
        FEED_MEMBERS,
        FEED_IDS,
        OVERRIDES,
        TAKEDOWNS,
        REFETCH_QUEUE,
        RUNS,
    )
}
"""Every table by name."""

PURGED: tuple[str, ...] = tuple(name for name, table in TABLES.items() if table.purged)
"""Tables whose old files leave the disk as soon as a run takes contents out."""

TELLING_TEXTS: tuple[str, ...] = tuple(name for name, table in TABLES.items() if table.tells_texts)
"""Tables whose old files leave the disk, too, where a takedown has erased what was said of contents."""

KEEPING_FILES: tuple[str, ...] = tuple(name for name, table in TABLES.items() if table.keeps_files)
"""Tables in whose files rows may be dead."""

PUBLISHED: tuple[str, ...] = tuple(name for name in TABLES if name != "runs")
"""Tables whose version a published event names."""

ERASED: tuple[str, ...] = ("title", "alt_text", "description", "tags", "attributes", "text_id", "language")
"""Columns of `sightings` that are null where the row showed a content that was taken down: what was said of it goes
with it, when it is taken down and whenever the manifest is read again. Key, URLs, licence and outcome stay, as
evidence."""

MANIFEST_COLUMNS: dict[str, str] = {
    "url": "string",
    "page_url": "string",
    "title": "string",
    "alt_text": "string",
    "description": "string",
    "tags": "array<string>",
    "license": "string",
    "attributes": "map<string,string>",
    "expected_sha256": "string",
}
"""What a manifest may hold; `url` is the one required."""
