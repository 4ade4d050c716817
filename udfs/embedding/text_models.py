"""What a loaded text tower is, wherever it comes from: unit vectors of texts, each in a shape of its own length."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from udfs.devices import Device
from udfs.embedding.golden import GOLDEN_TEXTS, Golden, check_golden, tolerance
from udfs.embedding.vectors import Embedded, FixedBatches, Vectors

CLIP_PREFIX = "open_clip:"
"""Of the models whose text tower comes from open_clip."""

Tokens = tuple[int, ...]


class TextModelError(Exception):
    """The files hold no text model that can be run here. The message says what was expected and found."""


@dataclass
class TextEmbedder:
    """A loaded text tower. Make it with `udfs.embedding.text.load_text_embedder`."""

    dimension: int
    device: Device
    tokenize: Callable[[Sequence[str]], list[Tokens]]
    forward: Callable[[Sequence[Tokens], int, int], Vectors]
    """`(tokens, size, length)` to raw vectors `(len(tokens), dimension)`; computes on a `(size, length)` batch."""
    lengths: tuple[int, ...]
    """Token counts that texts are padded to, ascending, so that a text's shape follows from its own length."""
    batch_size: int
    checked: set[Golden] = field(default_factory=set)
    """Golden vectors that this process is known to reproduce."""
    _batches: dict[int, FixedBatches[Tokens]] = field(default_factory=dict)

    def embed(self, texts: Sequence[str | None]) -> list[Embedded]:
        """One result a text, in order; a missing or empty text is an error.

        Raises what the GPU raises that cannot be recovered from in this process.
        """
        results = [Embedded(error="no text")] * len(texts)
        present = [(index, text) for index, text in enumerate(texts) if text]
        by_length: dict[int, list[tuple[int, Tokens]]] = {}
        for (index, _), tokens in zip(present, self._tokens([text for _, text in present]), strict=True):
            if isinstance(tokens, Embedded):
                results[index] = tokens
                continue
            padded = min(length for length in self.lengths if length >= len(tokens))
            by_length.setdefault(padded, []).append((index, tokens))
        for length, members in by_length.items():
            embedded = self._of_length(length).run([tokens for _, tokens in members])
            for (index, _), result in zip(members, embedded, strict=True):
                results[index] = result
        return results

    def check(self, golden: Golden) -> None:
        """Raises GoldenError unless this process makes the golden vectors, once a process."""
        if golden not in self.checked:
            check_golden(self.embed(GOLDEN_TEXTS), golden, tolerance("float32"))
            self.checked.add(golden)

    def _tokens(self, texts: Sequence[str]) -> list[Tokens | Embedded]:
        """Of each text, or what is wrong with it where the tokenizer fails on it."""
        try:
            return [*self.tokenize(texts)]
        except Exception as error:  # noqa: BLE001 - whatever one text provokes, the others get their vectors
            if len(texts) == 1:
                return [Embedded(error=f"tokenizer: {type(error).__name__}")]
            return [tokens for text in texts for tokens in self._tokens([text])]

    def _of_length(self, length: int) -> FixedBatches[Tokens]:
        if length not in self._batches:

            def forward(tokens: Sequence[Tokens], size: int) -> Vectors:
                return self.forward(tokens, size, length)

            sound = self.tokenize(GOLDEN_TEXTS[:1])[0][:length]
            self._batches[length] = FixedBatches(forward, self.batch_size, sound)
        return self._batches[length]
