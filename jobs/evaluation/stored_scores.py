"""Scores that a published run stores, of the contents that were labelled and of all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.config.errors import UsageError
from jobs.evaluation.calibration import Floats, StoredCounts
from jobs.evaluation.policy_labels import Label
from lensfeed.snapshot import Snapshot
from schemas.policy import NSFW, DetectorRule, NsfwRule, Policy


def policy_bands(policy: Policy, score: str) -> dict[str, float]:
    """Thresholds that the policy sets on a score by action, `review` before `block`; of several rules the lowest."""
    rules = [
        rule
        for rule in policy.rules
        if (isinstance(rule, NsfwRule) and score == NSFW) or (isinstance(rule, DetectorRule) and score == rule.score)
    ]
    found = {action: [rule.at_least for rule in rules if rule.action == action] for action in ("review", "block")}
    return {action: min(thresholds) for action, thresholds in found.items() if thresholds}


@dataclass(frozen=True)
class LabelledContents:
    """Labels by content."""

    labels: Mapping[str, Label]
    unknown: list[Label]
    """URLs that never showed a content."""
    repeated: int


def by_content(path: Path, labels: Sequence[Label], snapshot: Snapshot) -> LabelledContents:
    """Each label with its image_id. Raises UsageError where two URLs of one content have different labels."""
    shown = _shown({label.url_id for label in labels if label.url_id}, snapshot)
    found: dict[str, Label] = {}
    unknown, repeated = [], 0
    for label in labels:
        image_id = label.image_id or shown.get(str(label.url_id))
        if image_id is None:
            unknown.append(label)
        elif image_id not in found:
            found[image_id] = label
        elif found[image_id].explicit == label.explicit:
            repeated += 1
        else:
            raise UsageError(
                f"{path}, {label.where}: {label.named} is the content {image_id}, which has another label on "
                f"{found[image_id].where} already"
            )
    return LabelledContents(found, unknown, repeated)


def _shown(url_ids: set[str], snapshot: Snapshot) -> dict[str, str]:
    """The image_id that each URL showed last, in date order."""
    if not url_ids:
        return {}
    wanted = pc.field("url_id").isin(sorted(url_ids)) & pc.field("image_id").is_valid()
    rows = snapshot.rows("sightings", ["ingest_date", "source_file", "row_number", "url_id", "image_id"], wanted)
    order = [(name, "ascending") for name in ("ingest_date", "source_file", "row_number")]
    ordered = rows.sort_by(order)
    return dict(zip(ordered["url_id"].to_pylist(), ordered["image_id"].to_pylist(), strict=True))


def stored_scores(
    snapshot: Snapshot, wanted: Mapping[str, Label], score: str, version: str, bands: Mapping[str, float]
) -> tuple[dict[str, float], StoredCounts]:
    """Worst scores of the contents wanted that have one, by image_id; and counts of those of all contents.

    Raises UsageError where no content has such a score.
    """
    stored, names = StoredCounts(list(bands.values())), set[str]()
    found: dict[str, float] = {}
    ids = pa.array(list(wanted), pa.string())
    of_version = pc.field("detector_version") == version
    for batch in snapshot.batches("content_signals", ["image_id", "scores"], of_version):
        names |= {name.partition(":")[0] for name in batch.column("scores").keys.unique().to_pylist()}
        worst = worst_scores(batch.column("scores"), f"{score}:")
        usable = (worst >= 0) & (worst <= 1)
        stored.add(worst[usable])
        mine = usable & pc.is_in(batch.column("image_id"), value_set=ids).to_numpy(zero_copy_only=False)
        named = batch.column("image_id").filter(pa.array(mine)).to_pylist()
        found |= dict(zip(named, worst[mine].tolist(), strict=True))
    if not stored.total:
        raise UsageError(
            f"--rule {score}: run {snapshot.run_id} stores no such score under the profile's detectors "
            f"({version[:16]}); found {', '.join(sorted(names)) or 'none at all'}"
        )
    return found, stored


def worst_scores(scores: pa.MapArray, prefix: str) -> Floats:
    """The highest score (N,) over the views whose name has the prefix; -inf where there is none, NaN where one is."""
    lengths = np.diff(scores.offsets.to_numpy())
    rows = np.repeat(np.arange(len(scores)), lengths)
    # Offsets count from the beginning of an array of which this one may be a slice.
    first, last = scores.offsets[0].as_py(), scores.offsets[-1].as_py()
    keys, values = scores.keys[first:last], scores.items[first:last]
    named = pc.starts_with(keys, prefix).to_numpy(zero_copy_only=False)
    worst: Floats = np.full(len(scores), -np.inf)
    with np.errstate(invalid="ignore"):  # NaN is what is wanted of a view without a score
        np.maximum.at(worst, rows[named], values.to_numpy(zero_copy_only=False)[named])
    return worst
