"""Other tools, each in an environment of its own -> commands that score one slide with them, and what those told.

Their scripts lie in benchmarks/peers, are run by the tools' own pythons and end with one line of JSON.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.errors import ConfigError

SCRIPTS = Path(__file__).parent / "peers"
OFFLINE = ("env", "HF_HUB_OFFLINE=1", "WSINFER_FORCE_CPU=1", "CUDA_VISIBLE_DEVICES=")


@dataclass(frozen=True)
class Setting:
    """A tool as it is run: its script, options, and what we want to be times as fast as it."""

    tool: str
    options: tuple[str, ...]
    target: float


SETTINGS = {
    "TIAToolbox, batch 8": Setting("tiatoolbox", (), 2.5),  # its default, and its fastest
    "wsinfer, batch 32": Setting("wsinfer", (), 4.0),
    "wsinfer, --speedup, batch 4": Setting("wsinfer", ("--speedup", "--batch", "4", "--workers", "1"), 2.5),
    "LazySlide, batch 16": Setting("lazyslide", (), 4.0),
    "LazySlide, batch 4": Setting("lazyslide", ("--batch", "4"), 2.5),
    "LazySlide, batch 4, bfloat16": Setting("lazyslide", ("--batch", "4", "--bfloat16"), 2.5),
}


@dataclass(frozen=True)
class Told:
    """What a script told: tiles scored, seconds of the work, seconds since it started to import."""

    tiles: int
    work_s: float
    all_s: float


def pythons(given: str) -> dict[str, str]:
    """The python of each tool, of `FOLDER` (with FOLDER/<tool>/bin/python) or `tool=PYTHON,...`.

    Raises ConfigError for a tool without a script, a python that is not there, or a folder without any.
    """
    known = {setting.tool for setting in SETTINGS.values()}
    if "=" in given:
        found = dict(part.split("=", 1) for part in given.split(","))
    else:
        places = {tool: Path(given) / tool / "bin" / "python" for tool in sorted(known)}
        found = {tool: str(place) for tool, place in places.items() if place.exists()}
    wrong = [tool for tool, python in found.items() if tool not in known or not Path(python).exists()]
    if wrong or not found:
        raise ConfigError(f"--peers: got {given!r}; give FOLDER with <tool>/bin/python, or tool=PYTHON,..., of {known}")
    return found


def peer_commands(given: str, slide: Path, weights: Path) -> dict[str, list[str]]:
    """The command of each setting of each tool that is there; `{out}` in it stands for a folder still to be made."""
    found = pythons(given)
    return {
        name: [*OFFLINE, found[setting.tool], "-W", "ignore", str(SCRIPTS / f"{setting.tool}.py"),
               str(slide), str(weights), "{out}", *setting.options]
        for name, setting in SETTINGS.items() if setting.tool in found
    }  # fmt: skip


def told(log: Path) -> Told:
    """The last line of JSON in a script's output; RuntimeError where there is none."""
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith('{"tiles"')]
    if not lines:
        raise RuntimeError(f"{log}: no line of JSON; it ends {log.read_text(encoding='utf-8')[-500:]!r}")
    return Told(**json.loads(lines[-1]))


def versions_of(given: str) -> dict[str, str]:
    """The release of each tool, from the folder of its metadata; a tool whose folder is elsewhere is left out."""
    found = {}
    for tool, python in pythons(given).items():
        for path in (Path(python).parent.parent / "lib").glob(f"*/site-packages/{tool}-*.dist-info"):
            found[tool] = path.stem.removeprefix(f"{tool}-")
    return found
