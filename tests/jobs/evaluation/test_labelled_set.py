"""Labelled pictures take part once, whatever copies of them there are."""

import numpy as np
from PIL import Image, ImageOps

from jobs.evaluation.labelled import Labelled
from jobs.evaluation.labelled_set import prepare
from schemas.settings import DedupSettings, ImageSettings
from tests.pictures import encoded, photograph


def labelled(name: str, image: Image.Image, image_format: str = "PNG") -> Labelled:
    return Labelled(name, "domain", "domain/category", None, encoded(image, image_format))


def test_mirrored_turned_and_recompressed_copies_are_left_out() -> None:
    first, second = photograph("chelsea.png"), photograph("coffee.png")
    copies = [
        labelled("a", first),
        labelled("a mirrored", ImageOps.mirror(first)),
        labelled("b", second),
        labelled("a turned", first.rotate(90, expand=True)),
        labelled("b recompressed", second, "JPEG"),
        Labelled("broken", "domain", "domain/category", None, b"no picture"),
    ]
    found = prepare(copies, ImageSettings(), DedupSettings())
    assert [(one.labelled.name, one.copies) for one in found.images] == [("a", 3), ("b", 2)]
    assert (found.unreadable, found.near_duplicates) == (1, 3)


def test_flat_pictures_are_no_copies_of_each_other() -> None:
    flat = [labelled(str(level), Image.fromarray(np.full((64, 64, 3), level, np.uint8))) for level in (0, 120, 255)]
    assert len(prepare(flat, ImageSettings(), DedupSettings()).images) == 3
