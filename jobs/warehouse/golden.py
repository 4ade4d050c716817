"""Golden vectors of model versions, kept in the warehouse: `_models/<version>.json`, one file a version.

A file is made when its version is first used, on the driver's CPU, and is what every executor is held against from then
on. It also records what the version stands for, and the licence of its weights.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from jobs.config.errors import RunError
from jobs.warehouse.storage import Storage
from schemas.settings import EmbeddingSettings, TextSettings
from udfs.embedding.embed import golden_vectors
from udfs.embedding.golden import Golden, samples_digest
from udfs.embedding.text import golden_text_vectors
from udfs.embedding.vision import describe

_FOLDER = "_models"


def golden_of_images(storage: Storage, settings: EmbeddingSettings, model_version: str) -> Golden:
    """The golden vectors of a visual model version; made and stored if there are none. RunError for a damaged file."""

    def record() -> dict[str, Any]:
        return asdict(describe(settings)) | {"dtype": settings.dtype}

    return _golden(storage, settings, model_version, lambda: golden_vectors(settings), record)


def golden_of_texts(storage: Storage, settings: TextSettings, text_model_version: str) -> Golden:
    """The golden vectors of a text model version; made and stored if there are none. RunError for a damaged file."""

    def record() -> dict[str, Any]:
        tokenizer = settings.tokenizer
        return {"max_tokens": settings.max_tokens, "tokenizer_sha256": tokenizer.sha256 if tokenizer else None}

    return _golden(storage, settings, text_model_version, lambda: golden_text_vectors(settings), record)


def _golden(
    storage: Storage,
    settings: EmbeddingSettings | TextSettings,
    version: str,
    make: Callable[[], Golden],
    record: Callable[[], dict[str, Any]],
) -> Golden:
    place = (_FOLDER, f"{version}.json")
    stored = _read(storage, place) if storage.exists(*place) else None
    # Golden samples that this code no longer has cannot be asked for: the version gets the new ones' vectors.
    if stored is not None and stored.samples == samples_digest():
        return stored
    document = {
        "model": settings.model,
        "weights_sha256": settings.weights.sha256,
        "licence": settings.licence,
        **record(),
        "golden": asdict(make()),
    }
    text = json.dumps(document, indent=1) + "\n"
    if stored is not None:
        storage.write_text(text, *place)
    else:
        storage.create_text(text, *place)  # where two drivers get here, the first one's stand
    return _read(storage, place)


def _read(storage: Storage, place: tuple[str, str]) -> Golden:
    try:
        golden = json.loads(storage.read_text(*place))["golden"]
        return Golden(golden["samples"], tuple(map(tuple, golden["vectors"])))
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{storage.path(*place)}: expected golden vectors, found {type(error).__name__}: {error}; remove the file "
            "to have them made anew"
        ) from None
