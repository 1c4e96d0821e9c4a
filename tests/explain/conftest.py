"""The shipped model, for all tests of explanations."""

from __future__ import annotations

import pytest

from dabdetr import Predictor


@pytest.fixture(scope="session")
def predictor() -> Predictor:
    """Do not change it."""
    return Predictor("scenes", device="cpu")
