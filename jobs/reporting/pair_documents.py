"""An explanation of two images (`jobs.reporting.pairs`) as JSON: what its words tell, by keys that stay."""

from typing import Any

from jobs.reporting.pairs import Explanation, HashPair, Image, Obstacle, Pair
from jobs.reporting.telling_pairs import reasons
from schemas.settings import HASHED_VIEWS
from udfs.images.minhash import recall

Document = dict[str, Any]


def document(explanation: Explanation) -> Document:
    """JSON types only. Images go by their names: A and B are those asked for, R represents both, RA and RB one each."""
    return {
        "run_id": explanation.run_id,
        "one_cluster": explanation.is_together,
        "because": explanation.because.value,
        "reasons": list(reasons(explanation)),
        "rule": {
            "version": explanation.rule,
            "warehouse_version": explanation.warehouse_rule,
            "is_warehouse_rule": explanation.is_warehouse_rule,
            "settings": explanation.settings.model_dump(mode="json"),
        },
        "images": {name: _image(one, explanation) for name, one in explanation.images.items()},
        "pairs": [_pair(pair, explanation) for pair in explanation.pairs],
    }


def _image(image: Image, explanation: Explanation) -> Document:
    there = {HASHED_VIEWS[view]: len(numbers) for view, numbers in image.views()}
    width, height = image.size or (None, None)
    return {
        "image_id": image.image_id,
        "orientations": there,
        "missing_views": [view for view in explanation.settings.views if view not in there],
        "width": width,
        "height": height,
        "flatness": image.flatness,
        "is_flat": image.is_flat,
        "group_id": image.group_id,
        "representative": explanation.names[image.representative_id],
        "representative_id": image.representative_id,
        "is_representative": image.is_representative,
        "hamming": image.hamming,
        "hamming256": image.hamming256,
        "first_seen": image.first_seen.isoformat(),
        "source_pixels": image.source_pixels,
    }


def _pair(pair: Pair, explanation: Explanation) -> Document:
    upright = pair.upright()
    return {
        "first": explanation.names[pair.first.image_id],
        "second": explanation.names[pair.second.image_id],
        "is_joined": pair.is_joined,
        "is_one_group": pair.is_one_group,
        "is_candidate": pair.is_candidate,
        "hash_pairs": len(pair.hashes),
        "hash_pairs_in_a_bucket": sum(1 for one in pair.hashes if one.bands),
        "bands": sum(one.bands for one in pair.hashes),
        "edge": None if pair.edge is None else _hash_pair(pair, pair.edge),
        "obstacle": None if pair.obstacle is None else _obstacle(pair, pair.obstacle, explanation),
        "views": [
            _hash_pair(pair, found[0])
            | {"orientations": len(found), "orientations_in_a_bucket": sum(1 for one in found if one.bands)}
            for _, found in pair.by_views()
        ],
        "upright": None
        if upright is None
        else {
            "hamming": upright[0],
            "hamming256": upright[1],
            "is_turned": pair.is_turned(explanation.settings),
        },
    }


def _hash_pair(pair: Pair, one: HashPair) -> Document:
    """Two hashes; `first` and `second` are the pair's."""
    sides = {}
    for name, (image, number) in zip(("first", "second"), pair.sides(one), strict=True):
        place, of = image.orientation(number)
        sides[name] = {
            "view": HASHED_VIEWS[image.hashes[number].view],
            "orientation": place,
            "of_orientations": of,
            "is_turned": image.is_turned(number),
            "shades": image.hashes[number].shades,
        }
    return sides | {
        "hamming": one.hamming,
        "hamming256": one.hamming256,
        "hues_apart": one.hues_apart,
        "most_hues_apart": one.most_apart,
        "bands": one.bands,
        "is_near": one.is_near,
        "is_edge": one.is_edge,
    }


def _obstacle(pair: Pair, obstacle: Obstacle, explanation: Explanation) -> Document:
    """Why there is no edge: what it is, the images that are flat, else the nearest hashes, and how often two that are
    as near share no bucket."""
    settings = explanation.settings
    least = pair.hashes[0] if pair.hashes else None
    return {
        "what": obstacle.value,
        "flat": [explanation.names[one.image_id] for one in (pair.first, pair.second) if one.is_flat],
        "nearest": None if least is None else _hash_pair(pair, least),
        "missed": 1 - recall(least.hamming, settings.bands, settings.rows)
        if least is not None and obstacle is Obstacle.NO_BUCKET
        else None,
    }
