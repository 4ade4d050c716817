"""Which hashes share a bucket, for oracles of what is stored: bands lose one in eight of the outermost pairs."""

from functools import cache

import numpy as np

from schemas.settings import DedupSettings
from tests.model import Hash, Meeting
from udfs.images.minhash import band_keys, signatures


def in_buckets(rule: DedupSettings) -> Meeting:
    """Whether two hashes share a bucket of the index by this rule."""

    @cache
    def keys(near: int) -> frozenset[int]:
        return frozenset(band_keys(signatures(np.array([near], dtype=np.uint64), rule), rule)[0].tolist())

    def meet(one: Hash, other: Hash) -> bool:
        return not keys(one.near).isdisjoint(keys(other.near))

    return meet
