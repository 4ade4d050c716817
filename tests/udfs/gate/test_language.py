import pytest

from schemas.policy import LANGUAGES
from udfs.gate.language import language


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("A black cat sleeps on the old wooden chair by the window", "en"),
        ("Un chat noir dort sur la vieille chaise en bois près de la fenêtre", "fr"),
        ("Eine schwarze Katze schläft auf dem alten Holzstuhl am Fenster", "de"),
        ("Черная кошка спит на старом деревянном стуле у окна, и ей ничего не нужно", "ru"),
        ("En svart katt sover på den gamle trestolen ved vinduet og drømmer om fisk", "no"),
    ],
)
def test_the_language_of_a_sentence_is_told(text: str, code: str) -> None:
    assert language(text) == code


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "  ",
        "cat",
        "IMG_2034.jpg",
        "12345",
        "photo de nu artistique",
        "xxx",
        "Hubble deep field, detail 02 (brighter)",
    ],
)
def test_of_too_short_a_text_no_language_is_guessed(text: str | None) -> None:
    assert language(text) is None


def test_rules_may_name_the_languages_that_can_be_told_and_no_others() -> None:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    told = set(LanguageIdentifier.from_pickled_model(MODEL_FILE).nb_classes)
    assert told - {"nb", "nn"} == LANGUAGES
