"""Visual embeddings on executors: stored JPEG bytes to unit vectors, for `DataFrame.mapInArrow`.

Every input row comes out once. What cannot be embedded carries an error instead of a vector and harms no other row. On
a CPU a vector's bits depend on its image alone, not on the rows beside it (see `udfs.embedding.vectors.FixedBatches`).
"""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from schemas.settings import EmbeddingSettings
from udfs.assets import locate
from udfs.bounded import heap_kept
from udfs.devices import Device, claim_device
from udfs.embedding.golden import Golden, GoldenError, check_golden, golden_images, tolerance
from udfs.embedding.pixels import Pixels, Preparation, preparation
from udfs.embedding.vectors import Embedded, FixedBatches, Pending, Vectors, embedded_batch
from udfs.embedding.vision import EmbedderError, ModelDescription, build, describe, dimension, model_version

__all__ = [
    "EMBEDDED_DDL",
    "Embedder",
    "EmbedderError",
    "GoldenError",
    "dimension",
    "embed_batches",
    "golden_vectors",
    "load_embedder",
    "model_version",
]

EMBEDDED_DDL = "image_id string, vector array<float>, error string"
"""Spark schema of what `embed_batches` yields."""

Row = tuple[str, bytes | None]
"""An image_id and the bytes of its canonical JPEG."""

_GROUPS_AHEAD = 2
"""Groups being decoded while a GPU works on the one before: enough to hide decoding, little memory."""
_STARTED_AHEAD = 1
"""Groups a GPU has been given beyond the one that is waited for, so that it never waits for the host in between."""


@dataclass
class Embedder:
    """A loaded visual tower. Make it with `load_embedder`."""

    description: ModelDescription
    device: Device
    preparation: Preparation
    batches: FixedBatches[Pixels]
    dtype: str
    checked: set[Golden] = field(default_factory=set)
    """Golden vectors that this process is known to reproduce."""

    def decode(self, pixels: bytes | None) -> Pixels | Embedded:
        """The model's input for one image, `(height, width, 3)` uint8 RGB; or why there is none."""
        if not pixels:
            return Embedded(error="no pixels")
        try:
            return self.preparation.decode(pixels)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return Embedded(error=f"{type(error).__name__}: {error}")

    def embed(self, decoded: Sequence[Pixels | Embedded]) -> list[Embedded]:
        """One result an image, in order; `start` and wait."""
        return self.start(decoded)()

    def start(self, decoded: Sequence[Pixels | Embedded]) -> Callable[[], list[Embedded]]:
        """Have the device begin; the call that comes back waits for one result an image, in order.

        What `decode` could not read keeps its error. Raises (here or in the call) what the GPU raises that cannot be
        recovered from in this process.
        """
        started = self.batches.start([image for image in decoded if not isinstance(image, Embedded)])

        def finished() -> list[Embedded]:
            vectors = iter(started())
            return [image if isinstance(image, Embedded) else next(vectors) for image in decoded]

        return finished

    def golden(self) -> list[Embedded]:
        """Vectors of the golden images, one each."""
        return self.embed(list(map(self.preparation.fit, golden_images())))

    def check(self, golden: Golden) -> None:
        """Raises GoldenError unless this process makes the golden vectors, once per process."""
        if golden not in self.checked:
            check_golden(self.golden(), golden, tolerance(self.dtype))
            self.checked.add(golden)


def load_embedder(settings: EmbeddingSettings) -> Embedder:
    """The visual tower that the settings describe, on its device; loaded once per process.

    Raises AssetError for weights that are missing or not the pinned ones, EmbedderError for an unknown model, weights
    of another model or a dimension other than the stated one, DeviceError for a GPU that is not there or not ours.
    """
    return _load(settings, claim_device(settings.device))


def golden_vectors(settings: EmbeddingSettings) -> Golden:
    """What the model makes of the golden images on this machine's CPU in float32; raises as `load_embedder`."""
    reference = settings.model_copy(update={"device": "cpu", "dtype": "float32"})
    return Golden.of(load_embedder(reference).golden())


def embed_batches(
    batches: Iterable[pa.RecordBatch], settings: EmbeddingSettings, golden: Golden | None = None
) -> Iterator[pa.RecordBatch]:
    """Unit vectors of images, for `mapInArrow`.

    In: `image_id string, pixels binary` (JPEG), more columns are ignored. Out: `image_id string, vector list<float32>,
    error string`, one row for every row that came in, in order; of vector and error exactly one is null. Raises as
    `load_embedder` does, and GoldenError when this process does not make the golden vectors.
    """
    embedder = load_embedder(settings)
    if golden is not None:
        embedder.check(golden)
    groups = _groups(_rows(batches), settings.batch_size, settings.max_batch_bytes)
    ahead = _STARTED_AHEAD if embedder.device == "cuda" else 0
    started: deque[tuple[list[str], Callable[[], list[Embedded]]]] = deque()
    with heap_kept():
        for keys, decoded in _decoded(groups, embedder, settings.decode_threads):
            started.append((keys, embedder.start(decoded)))
            if len(started) > ahead:
                yield _embedded(*started.popleft())
        while started:
            yield _embedded(*started.popleft())


def _embedded(keys: list[str], results: Callable[[], list[Embedded]]) -> pa.RecordBatch:
    return embedded_batch("image_id", keys, results())


@functools.lru_cache(maxsize=2)  # Nights that keep two model versions embed with both.
def _load(settings: EmbeddingSettings, device: Device) -> Embedder:
    import torch

    torch.set_num_threads(settings.threads)
    # float32 shall mean float32: whoever wants speed over the last bits asks for bfloat16.
    torch.backends.cudnn.allow_tf32 = False
    # Batches have one shape: trying the convolutions' algorithms once pays.
    torch.backends.cudnn.benchmark = True
    description = describe(settings)
    model = build(description, locate(settings.weights)).to(device, memory_format=torch.channels_last)
    run = in_format(model, device, settings.dtype)
    _check_dimension(_forward(run, description, device), description, settings)
    forward = _forward(torch.compile(run) if settings.compile and device == "cuda" else run, description, device)
    size = settings.cpu_batch_size if device == "cpu" else settings.batch_size
    prepared = preparation(description, device)
    sound = prepared.fit(golden_images()[0])
    return Embedder(description, device, prepared, FixedBatches(forward, size, sound), settings.dtype)


def in_format(model: Any, device: Device, dtype: str) -> Callable[[Any], Any]:
    """The model, computing in a number format, in one function to compile.

    Were autocast entered around what is compiled, torch's caches on disk would take the kernels of bfloat16 for those
    of float16 (torch 2.12: `AOTAutogradCacheDetails.disable_amp` tells on from off alone). Seen on an H100, where the
    golden vectors refused what came out.
    """
    import torch

    number_format = getattr(torch, dtype)

    def run(images: Any) -> Any:
        with torch.autocast(device, dtype=number_format, enabled=number_format != torch.float32):
            return model(images)

    return run


def _forward(
    run: Callable[[Any], Any], description: ModelDescription, device: Device
) -> Callable[[Sequence[Pixels], int], Vectors | Pending]:
    """On a GPU, the returned call waits: copies and kernels are only queued, and the host prepares what comes next."""
    import torch

    mean = torch.tensor(description.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(description.std, device=device).view(1, 3, 1, 1)

    @torch.inference_mode()
    def forward(images: Sequence[Pixels], size: int) -> Vectors | Pending:
        batch = torch.empty(size, *description.input_size, 3, dtype=torch.uint8, pin_memory=device == "cuda")
        np.stack(images, out=batch[: len(images)].numpy())
        batch[len(images) :] = 0
        # Bytes cross to the GPU, a quarter of the floats; seen as (N, 3, H, W) they already are channels-last.
        tensor = batch.to(device, non_blocking=True).permute(0, 3, 1, 2).to(torch.float32)
        output = run(tensor.div_(255).sub_(mean).div_(std))[: len(images)].float()
        if device == "cuda":
            return _waiting(output)
        vectors: Vectors = output.numpy()
        return vectors

    return forward


def _waiting(output: Any) -> Pending:
    """Queue the copy of a GPU's output into pinned memory; the call waits for this copy, not for what is queued after.
    (Torch reuses pinned memory only once the copies queued from it are made, so inputs in flight are safe.)"""
    import torch

    host = torch.empty(output.shape, dtype=output.dtype, pin_memory=True)
    host.copy_(output, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()

    def vectors() -> Vectors:
        copied.synchronize()
        found: Vectors = host.numpy()
        return found

    return vectors


def _check_dimension(
    forward: Callable[[Sequence[Pixels], int], Vectors | Pending],
    description: ModelDescription,
    settings: EmbeddingSettings,
) -> None:
    raw = forward([np.zeros((*description.input_size, 3), dtype=np.uint8)], 1)
    found = (raw() if callable(raw) else raw).shape[1]
    if found != description.dimension:
        raise EmbedderError(
            f"embedding.dimension: {settings.model} makes vectors of {found}, expected {description.dimension}"
        )


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[Row]:
    for batch in batches:
        pixels = batch.column("pixels")
        for index, image_id in enumerate(batch.column("image_id").to_pylist()):
            yield image_id, pixels[index].as_py()


def _groups(rows: Iterator[Row], size: int, max_bytes: int) -> Iterator[list[Row]]:
    group: list[Row] = []
    held = 0
    for row in rows:
        length = len(row[1] or b"")
        if group and (len(group) == size or held + length > max_bytes):
            yield group
            group, held = [], 0
        group.append(row)
        held += length
    if group:
        yield group


def _decoded(
    groups: Iterable[list[Row]], embedder: Embedder, threads: int
) -> Iterator[tuple[list[str], list[Pixels | Embedded]]]:
    """Image ids and inputs, group by group; with threads, the next groups are decoded while one is inferred."""
    if not threads:
        for group in groups:
            yield [key for key, _ in group], [embedder.decode(pixels) for _, pixels in group]
        return
    waiting: deque[tuple[list[str], list[Future[Pixels | Embedded]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for group in groups:
            waiting.append(([key for key, _ in group], [pool.submit(embedder.decode, pixels) for _, pixels in group]))
            if len(waiting) > _GROUPS_AHEAD:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())


def _finished(keys: list[str], futures: list[Future[Pixels | Embedded]]) -> tuple[list[str], list[Pixels | Embedded]]:
    return keys, [future.result() for future in futures]
