"""What every test may use. No hub: what a test needs is made here or lies in the package cache, or the test skips."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from sparq_eval.errors import UserError

if TYPE_CHECKING:
    from sparq_eval.hf.checkpoint import Checkpoint

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# threads that wait by spinning make tests many times as slow where cores are shared
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the data mirror and the golden values, which lies beside the checkout and is not part of it."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(f"no golden values: {SHARED} is not there")
    return SHARED


@pytest.fixture(scope="session")
def smollm2() -> "Checkpoint":
    """The default model, fetched once into the package cache."""
    from sparq_eval.hf.checkpoint import open_checkpoint

    config = yaml.safe_load((Path(__file__).parents[1] / "configs/model/smollm2-135m.yaml").read_text(encoding="utf-8"))
    try:
        return open_checkpoint(**config)
    except UserError as error:
        pytest.skip(str(error))
