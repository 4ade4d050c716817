"""The pictures are real, distinct, the same on every run, and related as they say."""

import io
from collections import Counter
from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from demo.pictures import HARD_VARIANTS, ORIGINAL, PHOTOGRAPHS, TILE_SIDE, VARIANTS, Photograph, Picture, make_pictures
from schemas.settings import CrawlSettings, DedupSettings, ImageSettings
from tests.model import Content, stored_hashes, verified
from udfs.images.canonical import canonicalise
from udfs.images.decode import sniff


def opened(picture: Picture) -> Image.Image:
    return Image.open(io.BytesIO(picture.data))


def luminance(picture: Picture) -> NDArray[np.float64]:
    return np.asarray(opened(picture).convert("L"), dtype=np.float64)


def test_they_are_the_same_bytes_on_every_run(pictures: tuple[Picture, ...]) -> None:
    assert make_pictures.__wrapped__() == pictures


def test_there_are_150_originals_of_256_pixels_a_side_and_copies_of_every_kind(pictures: tuple[Picture, ...]) -> None:
    kinds = Counter(picture.variant for picture in pictures)
    assert kinds.pop(ORIGINAL) >= 150
    assert kinds.keys() == VARIANTS.keys()
    assert min(kinds.values()) >= 10
    assert all(min(opened(p).size) >= TILE_SIDE for p in pictures if p.variant == ORIGINAL)


def test_no_two_share_a_name_or_their_bytes(pictures: tuple[Picture, ...]) -> None:
    assert len({p.name for p in pictures}) == len({p.data for p in pictures}) == len(pictures)


def test_the_type_they_declare_is_what_they_are(pictures: tuple[Picture, ...]) -> None:
    for picture in pictures:
        assert picture.content_type == f"image/{sniff(picture.data)}"


@pytest.mark.parametrize("photograph", PHOTOGRAPHS, ids=lambda photograph: photograph.name)
def test_tiles_of_a_photograph_share_no_pixel(photograph: Photograph) -> None:
    width, height = photograph.open().size
    boxes = photograph.boxes((width, height))
    assert len(boxes) == photograph.columns * photograph.rows
    assert all(0 <= left < right <= width and 0 <= top < bottom <= height for left, top, right, bottom in boxes)
    for (left, top, right, bottom), (left_, top_, right_, bottom_) in combinations(boxes, 2):
        assert right <= left_ or right_ <= left or bottom <= top_ or bottom_ <= top


def test_no_photograph_is_cut_twice() -> None:
    assert len({photograph.file for photograph in PHOTOGRAPHS}) == len(PHOTOGRAPHS)


def test_every_original_has_something_to_see(pictures: tuple[Picture, ...]) -> None:
    for picture in pictures:
        if picture.variant == ORIGINAL:
            assert luminance(picture).std() > 10, picture.name


def test_copies_are_made_of_the_original_they_name(pictures: tuple[Picture, ...]) -> None:
    by_name = {picture.name: picture for picture in pictures}
    for picture in pictures:
        original = by_name[picture.original]
        assert original.variant == ORIGINAL
        assert (picture.name == picture.original) == (picture.variant == ORIGINAL)
        ours, theirs = luminance(picture), luminance(original)
        if picture.variant == "half":
            theirs = np.asarray(opened(original).convert("L").resize(ours.shape[::-1]), dtype=np.float64)
        if picture.variant == "mirrored":
            theirs = theirs[:, ::-1]
        seen = ours.shape[0] * 7 // 8  # a caption covers what is below
        assert np.corrcoef(ours[:seen].ravel(), theirs[:seen].ravel())[0, 1] > 0.95, picture.name


def test_copies_differ_as_their_kind_says(pictures: tuple[Picture, ...]) -> None:
    by_name = {picture.name: picture for picture in pictures}
    for picture in pictures:
        image, original = opened(picture), by_name[picture.original]
        if picture.variant == "half":
            assert image.size == tuple(side // 2 for side in opened(original).size)
        elif picture.variant == "grey":
            assert image.mode == "L"
        elif picture.variant in ("brighter", "darker"):
            ratio = luminance(picture).mean() / luminance(original).mean()
            assert 1.05 < ratio < 1.2 if picture.variant == "brighter" else 0.8 < ratio < 0.95
        elif picture.variant == "captioned":
            bar = luminance(picture)[-image.height // 16 :]
            assert np.median(bar) < 10


def test_the_rule_can_find_every_copy_but_the_hard_ones_and_takes_no_two_tiles_for_one(
    pictures: tuple[Picture, ...],
) -> None:
    rule = DedupSettings()
    made = [canonicalise(p.data, ImageSettings(), CrawlSettings(), p.content_type) for p in pictures]
    contents = [Content("", "allow", hashes=stored_hashes(m.view_hashes)) for m in made]
    near = np.zeros((len(made), len(made)), dtype=bool)
    for (i, one), (j, other) in combinations_with_replacement(enumerate(contents), 2):
        near[i, j] = near[j, i] = verified(one, other, rule) is not None
    index = {picture.name: number for number, picture in enumerate(pictures)}
    for number, picture in enumerate(pictures):
        if picture.variant not in HARD_VARIANTS:
            assert near[number, index[picture.original]], picture.name
    originals = np.array([index[picture.original] for picture in pictures])
    unrelated = originals[:, None] != originals[None, :]
    assert not (near & unrelated).any()
