"""Decoding in children: the same pictures, and a decoder that dies takes nothing with it but the one."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from schemas.outcomes import FailureCode
from schemas.settings import AssetSettings, CrawlSettings, GateSettings, ImageSettings
from tests.pictures import encoded, photograph
from udfs.gate.isolation import IsolatedDecoders
from udfs.gate.views import stored_and_views
from udfs.images.canonical import canonicalise
from udfs.images.decode import ImageError

ISOLATED = IsolatedDecoders(timeout_s=60)
LIMITS = CrawlSettings()
IMAGES = ImageSettings()
GATE = GateSettings(
    file="x",
    detector=AssetSettings(path="x", sha256="0" * 64),
    views=("center", "plain", "tiles"),
    frames="first_middle_last",
    matte="white_and_black",
)


def small() -> Image.Image:
    return photograph("coffee.png").resize((120, 80))


def animation() -> bytes:
    clear = small().convert("RGBA")
    clear.putalpha(small().convert("L"))
    return encoded(clear, "WEBP", save_all=True, append_images=[clear.rotate(90), clear.rotate(45)])


@pytest.mark.parametrize("data", [encoded(small()), animation()], ids=["jpeg", "animation"])
def test_a_child_gives_the_very_pictures(data: bytes) -> None:
    stored, views = stored_and_views(data, GATE, LIMITS, None)
    same, others = ISOLATED.stored_and_views(data, GATE, LIMITS, None)
    assert same.tobytes() == stored.tobytes()
    made = [(view.name, view.whole, view.image.size, view.image.tobytes()) for view in views]
    assert [(view.name, view.whole, view.image.size, view.image.tobytes()) for view in others] == made
    assert ISOLATED.canonicalise(data, IMAGES, LIMITS, None) == canonicalise(data, IMAGES, LIMITS, None)


@pytest.mark.parametrize(
    ("data", "declared"), [(b"no picture", None), (encoded(small())[:-200], None), (encoded(small()), "image/png")]
)
def test_what_is_no_picture_is_none_in_a_child_either(data: bytes, declared: str | None) -> None:
    with pytest.raises(ImageError) as here:
        canonicalise(data, IMAGES, LIMITS, declared)
    for ask in (
        lambda: ISOLATED.canonicalise(data, IMAGES, LIMITS, declared),
        lambda: ISOLATED.stored_and_views(data, GATE, LIMITS, declared),
    ):
        with pytest.raises(ImageError) as there:
            ask()
        assert (there.value.code, there.value.detail) == (here.value.code, here.value.detail)


def test_views_that_nobody_takes_end_their_child() -> None:
    _, views = ISOLATED.stored_and_views(animation(), GATE, LIMITS, None)
    assert isinstance(views, Iterator)
    begun = time.monotonic()
    next(views)
    del views
    assert time.monotonic() - begun < 20


def test_a_child_finds_everything_loaded() -> None:
    """Else each would load it: seconds a picture instead of milliseconds."""
    program = (
        "import importlib, io, sys; from PIL import Image\n"
        "from schemas.settings import *; from udfs.gate import isolation\n"
        "for name in isolation._preloaded(): importlib.import_module(name)\n"
        "buffer = io.BytesIO(); Image.new('RGB', (900, 600)).save(buffer, 'JPEG'); before = set(sys.modules)\n"
        "list(isolation._canonical(buffer.getvalue(), ImageSettings(), CrawlSettings(), None))\n"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


PROGRAM = """
import json, sys
from pathlib import Path
from schemas.settings import AssetSettings, CrawlSettings, GateSettings, ImageSettings
from udfs.images.decode import ImageError
from udfs.gate.isolation import IsolatedDecoders

GATE = GateSettings(file="x", detector=AssetSettings(path="x", sha256="0" * 64))
decoders = IsolatedDecoders(timeout_s=10)

def views(data):
    _, views = decoders.stored_and_views(data, GATE, CrawlSettings(), None)
    return len(list(views))

def said(ask):
    try:
        return ask()
    except ImageError as error:
        return [error.code.value, error.detail]

if __name__ == "__main__":
    found = {}
    for path in sorted(Path(sys.argv[1]).iterdir()):
        data = path.read_bytes()
        found[path.name] = [
            said(lambda: views(data)),
            said(lambda: decoders.canonicalise(data, ImageSettings(), CrawlSettings(), None).width),
        ]
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What becomes of pictures whose decoder is deadly, in a process that outlives them all."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("crash", "hang", "fail", "kill"):
        (folder / name).write_bytes(encoded(small(), comment=f"PLANTED: {name}".encode()))
    for name in ("a-first", "i-between", "z-last"):
        (folder / name).write_bytes(encoded(small()))
    program = tmp_path_factory.mktemp("program") / "program.py"
    program.write_text(PROGRAM)
    deadly = Path(__file__).parents[2] / "deadly_decoder"
    environment = {**os.environ, "PYTHONPATH": f"{deadly}:{Path.cwd()}"}
    done = subprocess.run(
        [sys.executable, program, folder], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, list[Any]] = json.loads(done.stdout)
    return result


def test_a_picture_between_deadly_ones_is_decoded(found: dict[str, list[Any]]) -> None:
    assert [found[name] for name in ("a-first", "i-between", "z-last")] == [[1, 120]] * 3


@pytest.mark.parametrize(
    ("name", "code", "detail"),
    [
        ("crash", FailureCode.DECODE, "decoder lost: SIGSEGV"),
        ("hang", FailureCode.DECODE, "decoder lost: no answer in 10 s"),
        # Not its own doing: it may end otherwise another time.
        ("kill", FailureCode.GATE_ERROR, "decoder lost: SIGKILL"),
        ("fail", FailureCode.DECODE, "jpeg: RuntimeError: the decoder failed"),
    ],
)
def test_a_deadly_picture_is_a_failure_of_its_own(
    found: dict[str, list[Any]], name: str, code: FailureCode, detail: str
) -> None:
    assert found[name] == [[code, detail], [code, detail]]
