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

Projections = dict[str, Vectors]
"""`image_mean` (D,), `image_projection` (D, K), `text_mean` (T,), `text_projection` (T, K)."""


@dataclass(frozen=True)
class Settings:
    """How the projections are fitted."""

    dimension: int = 128
    seed: int = 0
    shrinkage: float = 3.0
    """Added to each covariance, times its mean eigenvalue."""
    validation: float = 0.2
    """Share of the groups that say when to stop."""
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
) -> tuple[Projections, dict[str, Any]]:
    """Projections for pairs `images` (N, D) and `texts` (N, T); pairs of one group (N,) are not told apart.

    Some groups say after how many epochs others are told apart best; then all pairs are fitted for as long. Also
    returns the settings, that number, and the mean reciprocal rank of the watched pairs at the start and there.
    """
    watched = _validation(groups, settings)
    fitted = _Fit(images[~watched], texts[~watched], groups[~watched], settings)
    unseen = _Fit(images[watched], texts[watched], groups[watched], settings, fitted.projections())
    ranks = [unseen.reciprocal_rank(fitted.deltas)]
    while len(ranks) <= settings.epochs and len(ranks) - 1 - int(np.argmax(ranks)) < settings.patience:
        fitted.epoch()
        ranks.append(unseen.reciprocal_rank(fitted.deltas))
    epochs = int(np.argmax(ranks))
    whole = _Fit(images, texts, groups, settings)
    for _ in range(epochs):
        whole.epoch()
    figures = {"epochs_kept": epochs, "reciprocal_rank_at_start": ranks[0], "reciprocal_rank": ranks[epochs]}
    return whole.projections(), asdict(settings) | figures


def closed_form(images: Vectors, texts: Vectors, settings: Settings) -> Projections:
    """Regularised canonical correlation analysis: directions of each side by descending correlation with the other.

    Each direction is scaled by its correlation, so that what the two sides hardly share hardly counts.
    """
    image_mean, text_mean = images.mean(axis=0), texts.mean(axis=0)
    left, right = (images - image_mean).astype(np.float64), (texts - text_mean).astype(np.float64)
    whiten_left, whiten_right = _whitening(left, settings.shrinkage), _whitening(right, settings.shrinkage)
    shared = whiten_left @ (left.T @ right / len(left)) @ whiten_right
    from_left, correlations, from_right = np.linalg.svd(shared, full_matrices=False)
    kept = slice(settings.dimension)
    scales = correlations[kept] / correlations[0]
    return {
        "image_mean": image_mean,
        "image_projection": (whiten_left @ from_left[:, kept] * scales).astype(np.float32),
        "text_mean": text_mean,
        "text_projection": (whiten_right @ from_right[kept].T * scales).astype(np.float32),
    }


def _whitening(centred: NDArray[np.float64], shrinkage: float) -> NDArray[np.float64]:
    """Inverse square root (D, D) of the covariance plus `shrinkage` times its mean eigenvalue."""
    covariance = centred.T @ centred / len(centred)
    values, vectors = np.linalg.eigh(covariance)
    regularised = values.clip(0) + shrinkage * values.clip(0).mean()
    whitening: NDArray[np.float64] = (vectors / np.sqrt(regularised)) @ vectors.T
    # Rows of about unit length after projection, whatever the covariance's scale: one learning rate fits all.
    whitening /= np.sqrt(np.square(centred @ whitening).sum(axis=1).mean())
    return whitening


def _validation(groups: NDArray[np.int64], settings: Settings) -> NDArray[np.bool_]:
    names = np.unique(groups)
    count = max(1, round(len(names) * settings.validation))
    return np.isin(groups, np.random.default_rng(settings.seed).permutation(names)[:count])


class _Fit:
    """Pairs as tensors, the closed form's projections (of these pairs, unless given), and how far they were moved."""

    def __init__(
        self,
        images: Vectors,
        texts: Vectors,
        groups: NDArray[np.int64],
        settings: Settings,
        start: Projections | None = None,
    ) -> None:
        import torch

        torch.manual_seed(settings.seed)
        self.settings = settings
        self.start = start or closed_form(images, texts, settings)
        self.sides = [
            torch.from_numpy(side - self.start[f"{name}_mean"])
            for name, side in zip(_SIDES, (images, texts), strict=True)
        ]
        self.groups = torch.from_numpy(groups)
        self.fixed = [torch.from_numpy(self.start[f"{name}_projection"]) for name in _SIDES]
        self.deltas = [torch.zeros_like(projection, requires_grad=True) for projection in self.fixed]
        self.optimiser = torch.optim.AdamW(self.deltas, lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def projections(self) -> Projections:
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

    def reciprocal_rank(self, deltas: Sequence[Any]) -> float:
        """Mean over both directions of one over the rank of each pair's other side, among these pairs."""
        import torch

        with torch.no_grad():
            image, text = self._projected(deltas, slice(None), 0.0)
            similarities = image @ text.T
        own = similarities.diagonal()
        ranks = [(scores >= own[:, None]).sum(dim=1) for scores in (similarities, similarities.T)]
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
