"""Fixtures shared by the suite: where the real slides lie, and options that keep a plain run short."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real slides and images; the test is skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("WSI_PIPELINE_REAL_DATA", default))
    if not folder.is_dir():
        pytest.skip("real data not found; set WSI_PIPELINE_REAL_DATA")
    return folder
