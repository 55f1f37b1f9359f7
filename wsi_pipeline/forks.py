"""The process that local workers are copies of: begun early, it loads the libraries while this one loads its own.

Spawned, each worker loads them for itself: a second of its processor and 50 MiB, when it is started anew too.
"""

import multiprocessing
import os
from multiprocessing import forkserver

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
ENVIRONMENT = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")} | {
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**20),  # give freed tiles back to the system, but not at every tile:
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),  # memory that is fresh each time makes compressing take twice as long
}
_LOADED = ["distributed.nanny", "wsi_pipeline.pipeline.run"]  # nothing that starts a thread when it is loaded


def begin_workers(scheduler: str = "local") -> None:
    """Start loading, where the workers will be processes of this machine; returns at once.

    What the environment says by now of ENVIRONMENT goes before it. What it says later has to be handed to the
    workers, as schedulers.py does. Without fork nothing happens.
    """
    if scheduler != "local" or METHOD != "forkserver":
        return
    multiprocessing.get_context(METHOD).set_forkserver_preload(_LOADED)
    added = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        forkserver.ensure_running()
    finally:
        for name in added:
            del os.environ[name]
