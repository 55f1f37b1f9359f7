"""All benchmarks, one process after the other, and one table of what was reached.

`python -m benchmarks [--quick] [--json FOLDER] [NAME ...]`
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = ("read", "store", "tiling", "tissue", "score", "less", "end_to_end", "growth", "train", "scaling")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which; all of {', '.join(NAMES)} when not given")
    parser.add_argument("--quick", action="store_true", help="each under a minute")
    parser.add_argument("--json", metavar="FOLDER", type=Path, help="where to write the results")
    asked = parser.parse_args()
    here = Path(__file__).parent
    names = [name for name in asked.names or NAMES if (here / f"{name}.py").exists()]
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.json or Path(scratch)
        failed = [name for name in names if not run(name, folder, asked.quick)]
        print(f"\n{summary(folder, names)}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, folder: Path, quick: bool) -> bool:
    """One benchmark in a process of its own, so that none warms up or fills the memory of another."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(folder), *(["--quick"] if quick else [])]
    return subprocess.run(command, check=False).returncode == 0


def summary(folder: Path, names: list[str]) -> str:
    """Every ratio that has a target, from the JSON files."""
    lines = [f"{'benchmark':<11} {'what':<54} {'ratio':>7} {'spread':>15} {'target':>7}"]
    for name in names:
        path = folder / f"{name}.json"
        found = json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else []
        for result in found:
            if result["target"] is not None:
                ratio = result["ratio"]
                spread = f"{ratio['low']:.2f} to {ratio['high']:.2f}"
                verdict = "reached" if result["reached"] else "not reached"
                figures = f"{ratio['median']:>7.2f} {spread:>15} {result['target']:>7g}"
                lines.append(f"{name:<11} {result['name']:<54} {figures} {verdict}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
