"""A cluster of hosts that share no disk, and the cable of one pulled under way: all slides come through, the same."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from outcome import outcome

from wsi_pipeline.cli.group import group
from wsi_pipeline.slide.synthetic import draw_cohort

pytest.importorskip("moto.server")
pytest.importorskip("s3fs")

LAN = Path(__file__).with_name("lan.py")
FILES = ("heatmap", "overlay", "geojson", "asap", "tiles_geojson", "geopackage")
NAMESPACES = ["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


def alone(*words: str) -> list[str]:
    """The command in a network of its own."""
    return ["unshare", *NAMESPACES, *words]


@pytest.mark.big  # a minute and a half, half of it until the silent host is given up
@pytest.mark.slow
def test_a_host_that_falls_silent_costs_no_slide(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("no unshare or ip here (util-linux, iproute2)")
    tried = subprocess.run(alone("sh", "-c", "mount -t tmpfs none /run && ip netns add a"), capture_output=True)
    if tried.returncode:
        pytest.skip(f"no networks may be made here: {tried.stderr.decode().strip()}")
    draw_cohort(tmp_path / "slides", slides=4, size_px=(1500, 1500), mpp=0.5, seed=9)
    began = time.monotonic()
    code = subprocess.run(alone(sys.executable, str(LAN), str(tmp_path)), timeout=550).returncode
    said = (tmp_path / "run.log").read_text(encoding="utf-8")
    print(f"{said}bob's cable pulled at the first slide; {time.monotonic() - began:.0f} s in all")
    assert code == 0 and "4 slides: 4 ok" in said
    plain = [word for name in FILES for word in ("--set", f"outputs.{name}=false")]
    words = ["run", str(tmp_path / "slides"), "--out", str(tmp_path / "run"), "--set", "tiles.shard_tiles=4", *plain]
    assert group.main([*words, "--scheduler", "threads"], standalone_mode=False) == 0
    assert outcome(tmp_path / "fetched") == outcome(tmp_path / "run")
