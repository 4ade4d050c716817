"""What is written of the steps is what is declared."""

from pathlib import Path

from jobs.run.pipelines import PIPELINES, document

PAGE = Path(__file__).parents[3] / "docs" / "architecture.md"


def test_the_page_shows_the_steps_as_they_are_declared() -> None:
    shown = PAGE.read_text(encoding="utf-8").partition("<!-- steps -->\n")[2].partition("<!-- end of steps -->")[0]
    assert shown == document(), "put what python -m jobs.run.pipelines prints between the marks"


def test_no_two_steps_of_a_run_share_a_name() -> None:
    for steps in PIPELINES.values():
        names = [step.name for step in steps]
        assert len(set(names)) == len(names)
