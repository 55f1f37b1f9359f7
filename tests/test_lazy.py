"""Libraries loaded later, and imports that seem to lack one."""

import sys

import pytest

from wsi_pipeline.lazy import without


def test_a_library_seems_absent_for_a_while_and_is_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    with without("wave"), pytest.raises(ImportError):
        import wave
    import wave

    with without("wave"):
        assert sys.modules["wave"] is wave
