"""Fits two projections by a contrastive loss, in torch: symmetric InfoNCE from a closed-form start.

The loss is that of CLIP (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
2021) at a fixed temperature: a learned one only sharpens where the start already tells the training pairs apart. The
start is regularised canonical correlation analysis: with few pairs it is most of what can be learned, and
gradients then only move away from it as long as pairs that take no part in the fit gain.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
_SIDES = ("image", "text")

Arrays = dict[str, Vectors]
"""`image_mean` (D,), `image_projection` (D, K), `text_mean` (T,), `text_projection` (T, K)."""


@dataclass(frozen=True)
class Settings:
    """How the projections are fitted."""

    dimension: int = 128
    seed: int = 0
    shrinkages: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    """Of which one, times the mean eigenvalue, is added to each covariance: few pairs need much. The validation groups
    choose."""
    validation: float = 0.2
    """Share of the groups that choose the shrinkage and say when to stop."""
    batch_size: int = 128
    epochs: int = 100
    patience: int = 20
    """Epochs in which the validation groups get no better after which the search for the best number stops."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    """Towards the start, not towards zero."""
    dropout: float = 0.5
    """Of input values, anew for every batch: there are more of them than pairs."""
    temperature: float = 0.2


def fit(
    images: Vectors, texts: Vectors, groups: NDArray[np.int64], settings: Settings
) -> tuple[Arrays, dict[str, Any]]:
    """Projections for pairs `images` (N, D) and `texts` (N, T); pairs of one group (N,) are not told apart.

    Some groups say with which shrinkage, and then after how many epochs, others are told apart best; then all pairs are
    fitted so. Also returns the settings, those two numbers, and the mean reciprocal rank of the watched pairs at the
    start and there.
    """
    watched = _validation(groups, settings)
    spectra = _Spectra.of(images[~watched], texts[~watched])
    starts = {shrinkage: spectra.aligned(shrinkage, settings.dimension) for shrinkage in settings.shrinkages}
    unseen = {
        shrinkage: _Fit(images[watched], texts[watched], groups[watched], start, settings)
        for shrinkage, start in starts.items()
    }
    chosen = max(settings.shrinkages, key=lambda shrinkage: unseen[shrinkage].reciprocal_rank())
    fitted = _Fit(images[~watched], texts[~watched], groups[~watched], starts[chosen], settings)
    ranks = [unseen[chosen].reciprocal_rank()]
    while len(ranks) <= settings.epochs and len(ranks) - 1 - int(np.argmax(ranks)) < settings.patience:
        fitted.epoch()
        ranks.append(unseen[chosen].reciprocal_rank(fitted.deltas))
    epochs = int(np.argmax(ranks))
    whole = _Fit(images, texts, groups, closed_form(images, texts, chosen, settings.dimension), settings)
    for _ in range(epochs):
        whole.epoch()
    figures = {
        "shrinkage": chosen,
        "epochs_kept": epochs,
        "reciprocal_rank_at_start": ranks[0],
        "reciprocal_rank": ranks[epochs],
    }
    return whole.projections(), asdict(settings) | figures


def closed_form(images: Vectors, texts: Vectors, shrinkage: float, dimension: int) -> Arrays:
    """Regularised canonical correlation analysis: directions of each side by descending correlation with the other.

    Each direction is scaled by its correlation, so that what the two sides hardly share hardly counts. `shrinkage`,
    times its mean eigenvalue, is added to each covariance.
    """
    return _Spectra.of(images, texts).aligned(shrinkage, dimension)


@dataclass(frozen=True)
class _Spectrum:
    """The covariance (D, D) of one side."""

    mean: Vectors
    values: NDArray[np.float64]
    vectors: NDArray[np.float64]

    @classmethod
    def of(cls, mean: Vectors, centred: NDArray[np.float64]) -> "_Spectrum":
        values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
        return cls(mean, values.clip(0), vectors)

    def whitening(self, shrinkage: float) -> NDArray[np.float64]:
        """Inverse square root (D, D) of the covariance plus `shrinkage` times its mean eigenvalue, scaled so that rows
        have about unit length after projection, whatever the covariance's scale: one learning rate fits all."""
        regularised = self.values + shrinkage * self.values.mean()
        whitening: NDArray[np.float64] = (self.vectors / np.sqrt(regularised)) @ self.vectors.T
        whitening /= np.sqrt((self.values / regularised).sum())
        return whitening


@dataclass(frozen=True)
class _Spectra:
    """What the closed form needs of the pairs, whatever the shrinkage."""

    image: _Spectrum
    text: _Spectrum
    shared: NDArray[np.float64]
    """Covariance (D, T) of the two sides."""

    @classmethod
    def of(cls, images: Vectors, texts: Vectors) -> "_Spectra":
        image_mean, text_mean = images.mean(axis=0), texts.mean(axis=0)
        left, right = (images - image_mean).astype(np.float64), (texts - text_mean).astype(np.float64)
        return cls(_Spectrum.of(image_mean, left), _Spectrum.of(text_mean, right), left.T @ right / len(left))

    def aligned(self, shrinkage: float, dimension: int) -> Arrays:
        whiten_left, whiten_right = self.image.whitening(shrinkage), self.text.whitening(shrinkage)
        from_left, correlations, from_right = np.linalg.svd(
            whiten_left @ self.shared @ whiten_right, full_matrices=False
        )
        kept = slice(dimension)
        scales = correlations[kept] / correlations[0]
        return {
            "image_mean": self.image.mean,
            "image_projection": (whiten_left @ from_left[:, kept] * scales).astype(np.float32),
            "text_mean": self.text.mean,
            "text_projection": (whiten_right @ from_right[kept].T * scales).astype(np.float32),
        }


def _validation(groups: NDArray[np.int64], settings: Settings) -> NDArray[np.bool_]:
    names = np.unique(groups)
    count = max(1, round(len(names) * settings.validation))
    return np.isin(groups, np.random.default_rng(settings.seed).permutation(names)[:count])


class _Fit:
    """Pairs as tensors, the closed form's projections, and how far they were moved."""

    def __init__(
        self,
        images: Vectors,
        texts: Vectors,
        groups: NDArray[np.int64],
        start: Arrays,
        settings: Settings,
    ) -> None:
        import torch

        torch.manual_seed(settings.seed)
        self.settings = settings
        self.start = start
        self.sides = [
            torch.from_numpy(side - self.start[f"{name}_mean"])
            for name, side in zip(_SIDES, (images, texts), strict=True)
        ]
        self.groups = torch.from_numpy(groups)
        self.fixed = [torch.from_numpy(self.start[f"{name}_projection"]) for name in _SIDES]
        self.deltas = [torch.zeros_like(projection, requires_grad=True) for projection in self.fixed]
        self.optimiser = torch.optim.AdamW(self.deltas, lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def projections(self) -> Arrays:
        """Where the fit stands."""
        moved = {
            f"{name}_projection": (projection + delta.detach()).numpy()
            for name, projection, delta in zip(_SIDES, self.fixed, self.deltas, strict=True)
        }
        return self.start | moved

    def epoch(self) -> None:
        """Every pair once, in batches drawn at random."""
        import torch

        for batch in torch.split(torch.randperm(len(self.groups)), self.settings.batch_size):
            self.optimiser.zero_grad()
            self._loss(batch).backward()
            self.optimiser.step()

    def reciprocal_rank(self, deltas: Sequence[Any] | None = None) -> float:
        """Mean over both directions of one over the rank of each pair's other side, among these pairs, with the start
        moved by `deltas`."""
        import torch

        with torch.no_grad():
            image, text = self._projected(deltas or self.deltas, slice(None), 0.0)
            similarities = image @ text.T
        own = similarities.diagonal()
        # What is no number counts as better, as in `matched_ranks`: else a fit that ran away would rank best of all.
        ranks = [(~(scores < own[:, None])).sum(dim=1) for scores in (similarities, similarities.T)]
        return float(sum((1 / rank).mean() for rank in ranks) / len(ranks))

    def _loss(self, batch: Any) -> Any:
        """Symmetric InfoNCE over the batch; pairs of one group are no negatives of each other."""
        import torch
        from torch.nn.functional import cross_entropy

        image, text = self._projected(self.deltas, batch, self.settings.dropout)
        own = torch.arange(len(batch))
        alike = self.groups[batch][:, None] == self.groups[batch][None]
        alike[own, own] = False
        logits = (image @ text.T / self.settings.temperature).masked_fill(alike, float("-inf"))
        return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2

    def _projected(self, deltas: Sequence[Any], batch: Any, dropped: float) -> list[Any]:
        from torch.nn.functional import dropout, normalize

        return [
            normalize(dropout(side[batch], dropped) @ (projection + delta), dim=1)
            for side, projection, delta in zip(self.sides, self.fixed, deltas, strict=True)
        ]
