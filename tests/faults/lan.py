"""A network of this machine's own: hosts with an address each, on one switch, that share no disk but a bucket.

`unshare ... python lan.py FOLDER` becomes the desk, 10.9.0.1, of a new network, with an S3 server and a Dask scheduler;
hosts ada and bob have a worker each. The slides of FOLDER are put into the bucket and run over; as the first is being
cut, bob's cable is pulled. What came of it is in FOLDER: run.log, and `fetched`, the run folder as the bucket has it.
All ends with the process.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from wsi_pipeline.slide.urls import remote

DESK, HOSTS = "10.9.0.1", {"ada": "10.9.0.2", "bob": "10.9.0.3"}
S3 = {"ENDPOINT_URL": f"http://{DESK}:5000", "ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "mine"}
QUIET = ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
FILES = ("heatmap", "overlay", "geojson", "asap", "tiles_geojson", "geopackage")


def lay_cables() -> None:
    """A switch, and for each host a network namespace with one end of a cable in it."""
    words = ["mount -t tmpfs none /run", "ip link set lo up", "ip link add lan type bridge", "ip link set lan up"]
    words.append(f"ip addr add {DESK}/24 dev lan")
    for name, address in HOSTS.items():
        words += [f"ip netns add {name}", f"ip link add to-{name} type veth peer name eth0 netns {name}"]
        words += [f"ip link set to-{name} master lan up", f"ip -n {name} addr add {address}/24 dev eth0"]
        words += [f"ip -n {name} link set eth0 up", f"ip -n {name} link set lo up"]
    for command in words:
        subprocess.run(command.split(), check=True)


def start(folder: Path, name: str, *words: str) -> subprocess.Popen[bytes]:
    """Python on the host of that name, or on the desk, with a cache of its own."""
    told = {f"AWS_{key}": value for key, value in (S3 | {"DEFAULT_REGION": "us-east-1"}).items()}
    told |= {"WSI_PIPELINE_CACHE_DIR": str(folder / f"cache-{name}"), "OMP_NUM_THREADS": "1"}
    os.environ.update(told)
    where = ["ip", "netns", "exec", name] if name in HOSTS else []
    command = [*where, sys.executable, "-m", *words]
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def wait_for(folder: Path, name: str, text: str) -> None:
    """Until a log has the text."""
    ends = time.monotonic() + 120
    while text not in (folder / f"{name}.log").read_text(encoding="utf-8"):
        assert time.monotonic() < ends, (folder / f"{name}.log").read_text(encoding="utf-8")
        time.sleep(0.05)


def main(folder: Path) -> int:
    """The run's exit code."""
    lay_cables()
    start(folder, "s3", "moto.server", "-H", DESK, "-p", "5000")
    scheduler = f"tcp://{DESK}:8786"
    start(folder, "scheduler", "distributed.cli.dask_scheduler", "--host", DESK, "--port", "8786", *QUIET)
    for name in HOSTS:
        options = ["--nthreads", "1", "--local-directory", str(folder / name), "--name", name]
        start(folder, name, "distributed.cli.dask_worker", scheduler, *options, *QUIET)
    wait_for(folder, "s3", "Running on")
    for name in HOSTS:
        wait_for(folder, "scheduler", f"name: {name}")
    bucket, _ = remote("s3://bucket")
    bucket.mkdir("bucket")
    bucket.put(str(folder / "slides"), "bucket/slides", recursive=True)
    knobs = ["tiles.shard_tiles=4", *(f"outputs.{name}=false" for name in FILES)]
    given = ["s3://bucket/slides", "--out", "s3://bucket/run", "--scheduler", scheduler]
    run = start(folder, "run", "wsi_pipeline", "run", *given, *(word for knob in knobs for word in ("--set", knob)))
    wait_for(folder, "run", " tiles, up to ")
    subprocess.run(["ip", "link", "set", "to-bob", "down"], check=True)
    code = run.wait(timeout=400)
    bucket.get("bucket/run", str(folder / "fetched"), recursive=True)
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
