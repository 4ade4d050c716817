"""The language of a text by py3langid 0.2 (Lui and Baldwin, "langid.py", ACL 2012): byte n-grams, no network."""

import functools
from collections.abc import Callable

CONFIDENT = 0.999
"""Probability below which a language is not told: a rule for some languages applies where none is told, so that a wrong
answer costs more than none. Measured on 30,000 captions of known languages (docs/measurements.md): of what is told 96 %
and more is right at every length, where 0.95 is wrong in one of seven short texts."""
_NORWEGIAN = {"nb": "no", "nn": "no"}
"""The model has both written forms and Norwegian as such; which of them it takes decides nothing."""


def language(text: str | None) -> str | None:
    """ISO 639-1 code of the language that a text is in; None where there is no text or too little to tell."""
    if not text or text.isspace():
        return None
    code, probability = _classify()(text)
    return _NORWEGIAN.get(code, code) if probability >= CONFIDENT else None


@functools.cache
def _classify() -> Callable[[str], tuple[str, float]]:
    """The model, loaded once per process (a second)."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    classify: Callable[[str], tuple[str, float]] = LanguageIdentifier.from_pickled_model(
        MODEL_FILE, norm_probs=True
    ).classify
    return classify
