"""Random damage to every input: it works or is refused in words, never a crash, a hang, or an error nobody foresaw."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from mutations import write_samples

SHARES = {
    "slide": 0.38, "pixels": 0.14, "manifest": 0.06, "config": 0.06, "training": 0.04, "asap": 0.06, "geojson": 0.06,
    "ncrf": 0.02, "mask": 0.02, "table": 0.06, "model": 0.06, "store": 0.04,
}  # fmt: skip
QUICK, FULL = 300, 10_000


Outcomes = dict[tuple[str, int], str]


def run_mutations(samples: Path, counts: dict[str, int], first: int = 0) -> Outcomes:
    """The outcome of each mutation; a process that one of them took along is followed by a new one for the rest."""
    outcomes: Outcomes = {}
    damaged = samples.with_name(f"{samples.name}-damaged")
    while left := remaining(counts, outcomes, first):
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(samples, damaged)
        command = [sys.executable, str(Path(__file__).with_name("mutations.py")), str(damaged), *left]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
        lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
        assert lines, done.stderr
        outcomes |= {(kind, int(n)): said for kind, n, said in lines if not said.startswith("begun")}
        if done.returncode:
            kind, number, name = lines[-1]
            outcomes[kind, int(number)] = f"died of signal {-done.returncode}, {name}: {done.stderr[-900:]}"
    return outcomes


def remaining(counts: dict[str, int], outcomes: Outcomes, first: int) -> list[str]:
    """KIND:FIRST:COUNT of what has no outcome yet; each kind is worked on in order."""
    done = Counter(kind for kind, _ in outcomes)
    return [f"{kind}:{first + done[kind]}:{n - done[kind]}" for kind, n in counts.items() if n > done[kind]]


def table(outcomes: Outcomes) -> str:
    """A line a kind: how many came to what."""
    counts: dict[str, Counter[str]] = {}
    for (kind, _), said in outcomes.items():
        counts.setdefault(kind, Counter())[said.split(" ")[0]] += 1
    return "\n".join(f"{kind:9} {dict(sorted(found.items()))}" for kind, found in counts.items())


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    write_samples(folder)
    return folder


def check(samples: Path, total: int) -> None:
    outcomes = run_mutations(samples, {kind: round(share * total) for kind, share in SHARES.items()})
    print(f"{len(outcomes):,} damaged inputs\n{table(outcomes)}")
    assert {key: said for key, said in outcomes.items() if said not in ("worked", "refused")} == {}


def test_a_few_hundred_damaged_inputs_work_or_are_refused_in_words(samples: Path) -> None:
    check(samples, QUICK)


@pytest.mark.big
def test_ten_thousand_damaged_inputs_work_or_are_refused_in_words(samples: Path) -> None:
    check(samples, FULL)
