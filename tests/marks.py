"""Marks that tests share; all marks are explained in pyproject.toml."""

import pytest

# too long for `make test`: CI runs them after it (make test-ci)
LATER = [pytest.mark.deep, pytest.mark.ci]
