"""Workers that come to grief over a file of a certain name, for real: a `sitecustomize` that their Python imports.

The name says how, once the slide has a store, so that its tiles are being cut. `deadly`: the first worker to open
it takes memory until Dask kills it, each later one ends itself in the middle of the call. `stalls`: none comes back.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed.system import MEMORY_LIMIT

FATAL_MIB = 1000  # a worker needs 300
_CODE = """
import os, sys, time

def meet(event, args):
    parent = getattr(sys.modules.get("multiprocessing.process"), "parent_process", None)
    if parent is None or parent() is None:
        return  # the run itself, or the process that workers are copies of
    name = os.path.basename(args[0]) if event == "open" and isinstance(args[0], str) else ""
    if name not in ("deadly.tif", "stalls.tif") or not os.path.exists(os.environ["SABOTAGE"] + name[:-4] + ".zarr"):
        return
    hoard = []
    if name == "deadly.tif":
        try:
            os.mkdir(os.path.join(os.path.dirname(__file__), "met"))
        except FileExistsError:
            os._exit(3)
    while True:
        time.sleep(0.05)
        if name == "deadly.tif" and len(hoard) < 30:  # of 100 MiB: who ends it may be late, and others need memory too
            hoard.append(bytearray(b"x") * (100 << 20))

sys.addaudithook(meet)
"""


@contextmanager
def started_sabotaged(command: str, slides: Path, out: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """`run` or `tile` over a folder of slides with two workers, each held to FATAL_MIB; ended with the block."""
    code = out.with_name(f"{out.name}-code")
    code.mkdir()
    (code / "sitecustomize.py").write_text(_CODE)
    environment = os.environ | {
        "PYTHONPATH": str(code),
        "SABOTAGE": f"{out}/tiles/",
        "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": str(min(0.95, FATAL_MIB * 2**20 / (MEMORY_LIMIT // 3))),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "wsi_pipeline", command, str(slides), "--out", str(out), "--workers", "2", *more],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        try:
            yield run
        finally:
            run.kill()  # where a test has failed: it would be waited for
