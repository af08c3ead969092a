"""What tests/matrix.py prints of each version of PostgreSQL."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def matrix(major: int, record_property: Callable[[str, Any], None]) -> Callable[..., None]:
    """Note cells of this version's row: `matrix(story="told")`."""

    def note(**cells: str) -> None:
        for name, text in cells.items():
            record_property(f"matrix {name}", [major, text])

    return note
