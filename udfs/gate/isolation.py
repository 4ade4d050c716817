"""Decoding each image in a process of its own, so that a decoder that crashes or hangs costs that image and no more.

For a task that is tried again: the first attempt decodes in the worker itself, at no cost, and what ends a worker ends
the attempt with it. The processes are forked from a server that has nothing but the decoders loaded, a few
milliseconds each; what comes back are plain pixels and numbers, never objects.
"""

import json
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, ClassVar

from PIL import Image

from schemas.outcomes import LOST_DECODER, FailureCode
from schemas.settings import CrawlSettings, GateSettings, ImageSettings
from udfs.gate import views
from udfs.gate.views import View
from udfs.images import canonical
from udfs.images.canonical import Canonical
from udfs.images.decode import ImageError

_Parts = Iterator[tuple[dict[str, Any], bytes]]
"""What a child makes: a description, of what JSON can hold, and bytes."""


@dataclass(frozen=True)
class IsolatedDecoders:
    """`udfs.gate.views.stored_and_views` and `udfs.images.canonical.canonicalise` in children.

    Attributes:
        timeout_s: for each part of what is asked for: the stored image, a view, the canonical image. Who takes longer
            is remembered as one that hangs, so it must be more than a slow machine needs.

    Beside what the originals raise, an ImageError whose detail begins with `LOST_DECODER`: `DECODE` where the child
    crashed or did not answer, `GATE_ERROR` where it was killed from outside (short memory, say), which may end
    otherwise another time.
    """

    timeout_s: float

    patience: ClassVar[int] = 8

    def stored_and_views(
        self, data: bytes, gate: GateSettings, limits: CrawlSettings, declared_type: str | None
    ) -> tuple[Image.Image, Iterator[View]]:
        """As `udfs.gate.views.stored_and_views`; the child lives until the last view is taken or they are closed."""
        parts = self._parts_of(_seen, data, gate, limits, declared_type)
        description, pixels = next(parts)
        return _image(description, pixels), (
            View(description["name"], _image(description, pixels), description["whole"])
            for description, pixels in parts
        )

    def canonicalise(
        self, data: bytes, images: ImageSettings, limits: CrawlSettings, declared_type: str | None
    ) -> Canonical:
        """As `udfs.images.canonical.canonicalise`."""
        ((description, pixels),) = self._parts_of(_canonical, data, images, limits, declared_type)
        hashes = {
            "phash256": bytes.fromhex(description["phash256"]),
            "view_hashes": tuple(bytes.fromhex(one) for one in description["view_hashes"]),
        }
        return Canonical(**description | hashes | {"pixels": pixels})

    def _parts_of(self, make: Callable[..., _Parts], *arguments: Any) -> _Parts:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_preloaded())
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_send, args=(theirs, make, arguments), name="decoder", daemon=True)
        child.start()
        theirs.close()
        try:
            while (description := json.loads(self._next(ours, child))) is not None:
                if "code" in description:
                    raise ImageError(FailureCode(description["code"]), description["detail"])
                yield description, self._next(ours, child)
        finally:
            child.kill()
            child.join()
            ours.close()

    def _next(self, pipe: Connection, child: multiprocessing.process.BaseProcess) -> bytes:
        if not pipe.poll(self.timeout_s):
            raise ImageError(FailureCode.DECODE, f"{LOST_DECODER}: no answer in {self.timeout_s:g} s")
        try:
            return pipe.recv_bytes()
        except (EOFError, OSError) as error:
            child.join()
            status = child.exitcode or 0
            why = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            was_killed = status == -signal.SIGKILL
            code = FailureCode.GATE_ERROR if was_killed else FailureCode.DECODE
            raise ImageError(code, f"{LOST_DECODER}: {why}") from error


def _preloaded() -> list[str]:
    """What the server loads, so that no child has to: the decoders, what they load when they are first used, and the
    main module, whatever that is, since each child loads it."""
    main = getattr(sys.modules["__main__"].__spec__, "name", None)
    return [__name__, "cv2", "pandas", "scipy.fft", *([main] if main else [])]


def _image(description: dict[str, Any], pixels: bytes) -> Image.Image:
    return Image.frombytes("RGB", (description["width"], description["height"]), pixels)


def _send(pipe: Connection, make: Callable[..., _Parts], arguments: tuple[Any, ...]) -> None:
    """What a child does: sends description and bytes of each part, and null at the end."""
    try:
        for description, content in make(*arguments):
            pipe.send_bytes(json.dumps(description).encode())
            pipe.send_bytes(content)
        pipe.send_bytes(b"null")
    except BrokenPipeError:
        pass  # nobody wants the rest
    except ImageError as error:
        _send_failure(pipe, error.code, error.detail)
    except Exception as error:  # noqa: BLE001 - told to the parent, which knows what to do
        _send_failure(pipe, FailureCode.GATE_ERROR, f"{type(error).__name__}: {error}"[:200])


def _send_failure(pipe: Connection, code: FailureCode, detail: str) -> None:
    pipe.send_bytes(json.dumps({"code": code.value, "detail": detail}).encode())


def _seen(data: bytes, gate: GateSettings, limits: CrawlSettings, declared_type: str | None) -> _Parts:
    stored, seen = views.stored_and_views(data, gate, limits, declared_type)
    yield {"width": stored.width, "height": stored.height}, stored.tobytes()
    for view in seen:
        image = view.image
        description = {"name": view.name, "whole": view.whole, "width": image.width, "height": image.height}
        yield description, image.tobytes()


def _canonical(data: bytes, images: ImageSettings, limits: CrawlSettings, declared_type: str | None) -> _Parts:
    made = canonical.canonicalise(data, images, limits, declared_type)
    numbers = {name: getattr(made, name) for name in Canonical.__slots__ if name != "pixels"}
    hashes = {"phash256": made.phash256.hex(), "view_hashes": [one.hex() for one in made.view_hashes]}
    yield numbers | hashes, made.pixels
