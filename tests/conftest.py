"""Fixtures for all tests: where the shared facts and real scenes lie, and skipping where they do not."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared():
    """A folder beside the checkout that holds facts or real scenes; skips where it is absent."""

    def find(name: str) -> Path:
        if not (SHARED / name).exists():
            pytest.skip(f"{SHARED / name} is not beside this checkout")
        return SHARED / name

    return find
