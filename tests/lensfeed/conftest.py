"""The warehouse that each test of the readers fills."""

from pathlib import Path

import pytest

from tests.lensfeed.tiny_warehouse import TinyWarehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> TinyWarehouse:
    """An empty warehouse. The folder's name holds what trips readers that take paths for URLs or for partitions."""
    return TinyWarehouse(tmp_path / "site=a ware house")
