"""What every test may use. No network, no hub: what a test needs is made here, lies in the package cache, or it skips."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the data mirror and the golden values, which lies beside the checkout and is not part of it."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(f"no golden values: {SHARED} is not there")
    return SHARED
