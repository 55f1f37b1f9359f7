"""How many lanes a CPU has for scoring."""

import os

from dask.system import CPU_COUNT


def cores() -> int:
    """Cores this process may use: its affinity, its share of a container, and OMP_NUM_THREADS where that is less."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(CPU_COUNT, int(said) if said.isdigit() and int(said) else CPU_COUNT))
