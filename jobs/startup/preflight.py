"""What can be known to be wrong before Spark is started or anything is written: `UsageError`, exit code 2."""

import datetime as dt
import tempfile
from pathlib import Path

from jobs.config.errors import UsageError
from jobs.config.profile import Config, load_policy
from jobs.warehouse.ledger import Versions
from jobs.warehouse.storage import local_path
from schemas.assets import EFFICIENTNET_LITE0
from schemas.counts import BLOCKED, hint
from schemas.policy import TAKEN_DOWN, Policy
from schemas.settings import EmbeddingSettings
from udfs.assets import AssetError, assets_of, locate
from udfs.embedding.alignment import AlignmentError, alignment_for
from udfs.embedding.embed import EmbedderError, dimension, model_version
from udfs.embedding.text import text_dimension, text_model_version
from udfs.embedding.text_models import CLIP_PREFIX, TextModelError
from udfs.gate.content import gate_version, missing_signals
from udfs.gate.overrides import REVIEWER_BLOCKED
from udfs.images.canonical import canonical_version
from udfs.images.minhash import bands_needed, recall
from udfs.images.phash import rule_version

_PACKAGED_MODEL, _PACKAGED_DIMENSION = "tf_efficientnet_lite0", 1280


def parse_date(text: str, option: str = "--date") -> dt.date:
    """A date as YYYY-MM-DD; UsageError, naming the option that it was given for, otherwise."""
    try:
        date = dt.date.fromisoformat(text)
    except ValueError:
        date = None
    if date is None or date.isoformat() != text:  # Python also takes 20260131 and 2026-W05-6
        raise UsageError(f"{option} {text}: not a date; expected YYYY-MM-DD, for example 2026-01-31")
    return date


def check(config: Config) -> tuple[Policy, Versions]:
    """Check files, digests, names and settings against each other; the policy, and the versions that follow."""
    policy = load_policy(config.policy)
    for name, asset in assets_of(config):
        try:
            locate(asset)
        except AssetError as error:
            raise UsageError(f"{name}: {error}") from None
    if missing := missing_signals(policy, config.policy):
        raise UsageError(f"policy file {config.policy.file}: " + "; ".join(missing))
    check_warehouse(config.warehouse)
    _check_recall(config)
    pixels = canonical_version(config.images)
    try:
        _check_model(config.embedding)
        visual = model_version(config.embedding, pixels)
        if config.embedding_beside is not None:
            _check_model(config.embedding_beside)
            if model_version(config.embedding_beside, pixels) == visual:
                raise UsageError("embedding_beside: is the very model of embedding; leave it out, or name another")
        texts = text_model_version(config.text)
        text_dimension(config.text)  # reads enough of the weights to know what is wrong with them
        alignment = _check_alignment("embedding", config.embedding, config)
        if config.embedding_beside is not None:  # to be switched to
            _check_alignment("embedding_beside", config.embedding_beside, config)
    except (EmbedderError, TextModelError) as error:
        raise UsageError(str(error)) from None
    return policy, Versions(
        policy_version=policy.version,
        gate_version=gate_version(config.policy),
        model_version=visual,
        text_model_version=texts,
        rule_version=rule_version(config.dedup, pixels),
        canonical_version=pixels,
        alignment_version=alignment,
    )


def check_reasons(config: Config, policy: Policy) -> None:
    """What is expected of the reasons of blocked rows must be of reasons that a row can have: any other counts as 0,
    whatever a night brings. Raises UsageError."""
    known = [f"{BLOCKED}{reason}" for reason in (*(rule.reason for rule in policy.rules), TAKEN_DOWN, REVIEWER_BLOCKED)]
    for number, expected in enumerate(config.run.expectations):
        for name in (*expected.counts, *expected.of):
            if name.startswith(BLOCKED) and name not in known:
                raise UsageError(
                    f"run.expectations.{number} ({expected.name}): {name}: no rule of the policy file "
                    f"{config.policy.file} has this reason; {hint(name, known)}"
                )


def check_warehouse(warehouse: str) -> None:
    """A local warehouse must be a folder that can be written to, or be creatable; other file systems tell later."""
    place = local_path(warehouse)
    if place is None:
        return
    existing = place.resolve()
    try:
        while not existing.exists():
            existing = existing.parent
        if existing.is_dir():
            # Permission bits say little (root, read-only mounts): only trying tells.
            Path(tempfile.mkdtemp(prefix=".lensfeed-", dir=existing)).rmdir()
            return
    except OSError as error:
        raise UsageError(f"warehouse {warehouse}: cannot write in {existing} ({error.strerror})") from None
    raise UsageError(f"warehouse {warehouse}: {existing} is not a folder")


def _check_model(settings: EmbeddingSettings) -> None:
    """Raises EmbedderError for a model that timm does not know, UsageError for another dimension than is stated.

    Asking timm costs some ten seconds of CPU: of the packaged model the answer is known.
    """
    is_packaged = (settings.model, settings.weights.sha256) == (_PACKAGED_MODEL, EFFICIENTNET_LITE0.sha256)
    found = _PACKAGED_DIMENSION if is_packaged else dimension(settings.model_copy(update={"dimension": None}))
    if settings.dimension not in {None, found}:
        raise UsageError(f"embedding.dimension: {settings.model} makes vectors of {found}, not of {settings.dimension}")


def _check_alignment(group: str, embedding: EmbeddingSettings, config: Config) -> str | None:
    """The version of how images are compared with texts of the configuration's text model, where `embedding`, one of
    its groups, makes the vectors of images; UsageError for an alignment of other models, and for spaces that cannot be
    one."""
    text = config.text
    try:
        visual = model_version(embedding, canonical_version(config.images))
        alignment = alignment_for(embedding, visual, text_model_version(text))
    except AlignmentError as error:
        raise UsageError(f"{group}.alignment: {error}") from None
    if alignment is None:
        return None
    if alignment.projections is None:
        remedy = "fit an alignment (jobs.fit_alignment)"
        if not text.model.startswith(CLIP_PREFIX):
            raise UsageError(
                f"{group}: images share a space with the text tower of their own checkpoint only ({CLIP_PREFIX}...), "
                f"not with {text.model}; {remedy}"
            )
        length = text_dimension(text)
        if length != dimension(embedding):
            raise UsageError(
                f"{group}: the text's vectors have {length} dimensions, the images' {dimension(embedding)}: they "
                f"share no space; {remedy}"
            )
    return alignment.version


def _check_recall(config: Config) -> None:
    rule = config.dedup
    reached = recall(rule.max_hamming, rule.bands, rule.rows)
    if reached < rule.target_recall:
        raise UsageError(
            f"dedup.bands={rule.bands} x dedup.rows={rule.rows} find {reached:.3f} of the pairs at "
            f"dedup.max_hamming={rule.max_hamming}, less than dedup.target_recall={rule.target_recall}; "
            f"{bands_needed(rule.max_hamming, rule.rows, rule.target_recall)} bands would do, or fewer rows "
            "(jobs.tune_dedup says what each costs)"
        )
