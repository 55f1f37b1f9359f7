"""Files are whole or absent."""

import os

import pytest

from wsi_pipeline.maps.atomic import replace_file


def test_a_file_is_replaced(tmp_path):
    replace_file(tmp_path / "a", b"old")
    assert replace_file(tmp_path / "a", b"new").read_bytes() == b"new"


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    replace_file(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        replace_file(tmp_path / "a", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_name_as_long_as_the_disk_allows_can_be_written(tmp_path):
    assert replace_file(tmp_path / ("a" * 255), b"x").exists()
