from pathlib import Path

from schemas.document import document
from schemas.outcomes import FAILURE_MEANINGS, OUTCOME_MEANINGS, FailureCode, Outcome
from schemas.tables import TABLES

PAGE = Path(__file__).parents[2] / "docs" / "tables.md"


def test_the_committed_page_is_the_one_that_the_schemas_make() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(), "run python -m schemas.document > docs/tables.md"


def test_every_table_has_a_section_with_every_column_and_constraint() -> None:
    sections = {part.partition("\n")[0]: part for part in document().split("\n## ")}
    for name, table in TABLES.items():
        section = sections[name]
        assert all(f"| `{column.name}` | `{column.type}` |" in section for column in table.columns)
        assert all(f"`{condition}`" in section for condition in table.constraints.values())


def test_every_row_of_a_grid_has_as_many_cells_as_its_header() -> None:
    width = None
    for line in document().splitlines():
        cells = line.replace("\\|", "").count("|") if line.startswith("|") else None
        assert width is None or cells in {None, width}, line
        width = cells


def test_every_outcome_and_failure_code_is_explained_in_order() -> None:
    assert list(OUTCOME_MEANINGS) == list(Outcome)
    assert list(FAILURE_MEANINGS) == list(FailureCode)
    for code in FailureCode:
        assert f"\n| `{code}` | " in document()
