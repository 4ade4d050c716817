"""Queries, embedded exactly as the job's executors embed: whoever has the feed can ask it.

    encoder = Encoder.of(snapshot, assets="models")
    feed_ids, cosines = search(snapshot, encoder.image("shoe.jpg"), k=10)
    feed_ids, cosines = search(snapshot, encoder.text("red leather shoe"), k=10, column="text_vector")

The warehouse records what its models are, and golden vectors of them; the weights are found by their SHA-256 in the
folder `assets`, whatever their names. Versions are held against those that the run was published under, and before the
first vector this process has to make the golden ones. Needs the extra `lensfeed[encoder]`.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from lensfeed.snapshot import Snapshot
from schemas.settings import AssetSettings, CrawlSettings, EmbeddingSettings, ImageSettings, TextSettings

Vectors = NDArray[np.float32]

_MODELS = "_models"
"""The warehouse's folder of what its models are, a JSON file a version: see `jobs.warehouse.golden`."""
_VISUAL = ("head", "pooling", "dimension", "input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode", "fit")


class EncoderError(Exception):
    """A query cannot be embedded as the feed was. The message says what was expected and found."""


@contextmanager
def _extra_named() -> Iterator[None]:
    """Let an import that fails say which extra is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f"lensfeed.encoder needs what the job embeds with: pip install 'lensfeed[encoder]' ({error})",
            name=error.name,
        ) from error


with _extra_named():
    from udfs.assets import AssetError, sha256_of
    from udfs.cleaning import clean_text
    from udfs.embedding.alignment import Alignment, AlignmentError, load_alignment
    from udfs.embedding.embed import EmbedderError, load_embedder, model_version
    from udfs.embedding.golden import Golden, GoldenError, samples_digest
    from udfs.embedding.text import load_text_embedder, text_model_version
    from udfs.embedding.text_models import TextModelError
    from udfs.embedding.vectors import Embedded
    from udfs.images.canonical import canonical_version, canonicalise
    from udfs.images.decode import ImageError


@dataclass(frozen=True)
class Encoder:
    """The models of one published run. Make it with `Encoder.of`; weights are loaded with the first query that needs
    them, once per process."""

    snapshot: Snapshot
    assets: Path
    images: ImageSettings
    visual: EmbeddingSettings
    textual: TextSettings

    @classmethod
    def of(
        cls,
        snapshot: Snapshot,
        assets: str | PathLike[str],
        *,
        images: ImageSettings | None = None,
        device: Literal["auto", "cpu", "cuda"] = "cpu",
    ) -> Self:
        """The encoder of the run's models.

        `assets`: a folder with the weights that the job used (of the packaged models: `.assets`, which `make setup`
        fills), under any names; a fitted alignment as `jobs.fit_alignment` named it. `images`: the job's `images`
        settings, where they are not the defaults. `device`: on the CPU a query has the very bits that the job gives.

        Raises EncoderError where the warehouse records no such model, where weights are not among the assets, and where
        this environment's decoders or code make other versions than the run was published under; ImportError without
        the extra `lensfeed[encoder]`.
        """
        folder = Path(assets)
        if not folder.is_dir():
            raise EncoderError(f"assets: expected a folder with the models' weights, found none at {folder}")
        described = _recorded(snapshot, "model_version", snapshot.model_version)
        spoken = _recorded(snapshot, "text_model_version", snapshot.text_model_version)
        images = images or ImageSettings()
        found = canonical_version(images)
        if found != snapshot.canonical_version:
            raise EncoderError(
                f"canonical_version: expected {snapshot.canonical_version}, as in run {snapshot.run_id!r}, found "
                f"{found} with images.max_side {images.max_side}, jpeg_quality {images.jpeg_quality} and the Pillow "
                "and OpenCV installed here: give the job's `images` settings, or install what the job has installed"
            )
        try:
            visual = EmbeddingSettings(
                model=described["architecture"],
                weights=_weights(folder, described),
                licence=described["licence"],
                dtype=described["dtype"],
                device=device,
                **{name: described[name] for name in _VISUAL},
            )
            tokenizer = spoken.get("tokenizer_sha256")
            textual = TextSettings(
                model=spoken["model"],
                weights=_weights(folder, spoken),
                tokenizer=None if tokenizer is None else _asset(folder, tokenizer, f"tokenizer of {spoken['model']}"),
                licence=spoken["licence"],
                max_tokens=spoken["max_tokens"],
                device=device,
            )
        except (KeyError, ValueError) as error:
            raise EncoderError(f"{snapshot.warehouse}/{_MODELS}: not the record of a model: {error!r}") from error
        _check_version(snapshot, "model_version", model_version(visual, found))
        _check_version(snapshot, "text_model_version", text_model_version(textual))
        return cls(snapshot, folder, images, visual, textual)

    def image(self, image: bytes | str | PathLike[str], *, canonical: bool = False) -> Vectors:
        """The unit vector (D,) float32 of an image's file or of its bytes, in the space of the feed's `vector`.

        The image is made canonical first, as the job does with what it fetches, whatever its format; `canonical` says
        that it is `pixels` of the table `images`, which already are. Raises EncoderError for what is no image,
        OSError for a file that cannot be read.
        """
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
        try:
            pixels = data if canonical else canonicalise(data, self.images, CrawlSettings()).pixels
        except ImageError as error:
            raise EncoderError(f"the image cannot be decoded: {error}") from error
        return _vector("the image", self._visual.embed([self._visual.decode(pixels)]))

    def text(self, text: str) -> Vectors:
        """The unit vector (T,) float32 of a text, in the space of the feed's `text_vector`.

        Cleaned first, as the job cleans titles: markup resolved, one line, 2,000 characters at most. Raises
        EncoderError for a text of which nothing is left.
        """
        cleaned = clean_text(text, None, None, None)
        if not cleaned:
            raise EncoderError(f"the text: expected words, found {text[:100]!r}")
        return _vector("the text", self._textual.embed([cleaned]))

    @cached_property
    def alignment(self) -> Alignment:
        """What brings vectors of images and of texts into one space, to ask images by text and the other way round.

        `alignment.texts(encoder.text(...)[None])` is to be compared with `alignment.images(vectors)`. Raises
        EncoderError where the feed has none, or where it is not among the assets.
        """
        wanted = self.snapshot.alignment_version
        models = (str(self.snapshot.model_version), str(self.snapshot.text_model_version))
        if wanted is None:
            raise EncoderError(
                f"alignment_version: run {self.snapshot.run_id!r} was published without one, so its images and texts "
                "are in two spaces: ask texts by text (column text_vector), or fit an alignment (jobs.fit_alignment)"
            )
        shared = Alignment(*models, None, None)  # of two towers that share a space
        if shared.version == wanted:
            return shared
        path = self.assets / f"alignment-{wanted[:16]}.safetensors"
        try:
            alignment = load_alignment(path)
        except AlignmentError as error:
            raise EncoderError(f"alignment_version {wanted}, as in run {self.snapshot.run_id!r}: {error}") from error
        _check_version(self.snapshot, "alignment_version", alignment.version)
        return alignment

    @cached_property
    def _visual(self) -> Any:
        return self._loaded(load_embedder, self.visual, "model_version", self.snapshot.model_version)

    @cached_property
    def _textual(self) -> Any:
        return self._loaded(load_text_embedder, self.textual, "text_model_version", self.snapshot.text_model_version)

    def _loaded(self, load: Any, settings: Any, name: str, version: str | None) -> Any:
        """The model, once this process is known to make the golden vectors that the warehouse has of it."""
        golden = _golden(_recorded(self.snapshot, name, version), name, version)
        try:
            with _extra_named():
                model = load(settings)
                model.check(golden)
        except (AssetError, EmbedderError, TextModelError, GoldenError) as error:
            raise EncoderError(f"{name} {version}: {error}") from error
        return model


def _recorded(snapshot: Snapshot, name: str, version: str | None) -> Mapping[str, Any]:
    """What the warehouse says of a model."""
    place = f"{snapshot.warehouse}/{_MODELS}/{version}.json"
    if version is None:
        raise EncoderError(f"run {snapshot.run_id!r} was published without a {name}: it embedded nothing")
    try:
        with snapshot.filesystem(_MODELS).open_input_stream(f"{version}.json") as stream:
            described = json.loads(stream.read())
    except FileNotFoundError as error:
        raise EncoderError(
            f"{name} {version} of run {snapshot.run_id!r}: expected what it is in {place}: {error}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise EncoderError(f"{place}: expected JSON: {error}") from error
    if not isinstance(described, dict):
        raise EncoderError(f"{place}: expected a JSON object, found {type(described).__name__}")
    return described


def _golden(described: Mapping[str, Any], name: str, version: str | None) -> Golden:
    try:
        golden = Golden(described["golden"]["samples"], tuple(map(tuple, described["golden"]["vectors"])))
        vectors = np.array(golden.vectors, np.float64)
        if vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise ValueError(
                f"vectors {vectors.shape}, {int((~np.isfinite(vectors)).sum())} of their numbers not finite"
            )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise EncoderError(f"{name} {version}: expected golden vectors beside it, found none: {error!r}") from error
    if golden.samples != samples_digest():
        raise EncoderError(
            f"{name} {version}: its golden vectors are of other samples ({golden.samples[:16]}) than this release's "
            f"({samples_digest()[:16]}): use the release of lensfeed that the job runs"
        )
    return golden


def _check_version(snapshot: Snapshot, name: str, found: str) -> None:
    expected = getattr(snapshot, name)
    if found != expected:
        raise EncoderError(
            f"{name}: expected {expected}, as in run {snapshot.run_id!r}, found {found} here: use the release of "
            "lensfeed, and the models, that the job runs"
        )


def _weights(folder: Path, described: Mapping[str, Any]) -> AssetSettings:
    return _asset(folder, described["weights_sha256"], f"weights of {described['model']}")


def _asset(folder: Path, sha256: str, what: str) -> AssetSettings:
    """The file of that digest. Large files are digested only until it is found."""
    files = sorted((file for file in folder.iterdir() if file.is_file()), key=lambda file: (file.stat().st_size, file))
    names = []
    for file in files:
        try:
            if sha256_of(file) == sha256:
                return AssetSettings(path=str(file), sha256=sha256)
            names.append(file.name)
        except OSError as error:  # somebody else's, it may be
            names.append(f"{file.name} (which cannot be read: {error.strerror or error})")
    raise EncoderError(
        f"{what}: expected a file with the SHA-256 {sha256} in {folder}, found {', '.join(names) or 'nothing'}"
    )


def _vector(what: str, embedded: list[Embedded]) -> Vectors:
    (one,) = embedded
    if one.vector is None:
        raise EncoderError(f"{what} cannot be embedded: {one.error}")
    return one.vector
