"""What the work on a slide depends on -> keys; a resumed run does again what has another one, see DESIGN.md."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from wsi_pipeline.config import Config

# Raise a stage's number whenever it comes to other outcomes from the same knobs: resumed runs then do it again, and all
# that hangs on it, and never mix what two versions made.
_MACHINE = ("batch", "device", "engine", "compiled")  # knobs of the model that are the machine's
RULES = {"tiles": 1, "scores": 1, "maps": 4}


def tiling_key(config: Config, fingerprint: str, mpp_l0: tuple[float, float]) -> str:
    """What the tiles of one slide depend on, as 16 hex digits; equal keys may share a store."""
    tissue, tiles = config.tissue.model_dump(), config.tiles.model_dump(exclude={"max_unreadable"})
    tiles["stride_px"] = config.stride_px
    if config.tiles.store != "jpeg":
        del tiles["jpeg_quality"]
    known = {"slide": fingerprint, "mpp": mpp_l0, "icc": config.slide.icc, "tissue": tissue, "tiles": tiles}
    if config.slide.reduced_decode:  # slide.reader is in no key: its pixels are the same
        known["reduced_decode"] = "at its own scale"
    return _key("tiles", known)


def scoring_key(config: Config, tiles: str, checkpoint_id: str) -> str:
    """What the scores of one slide depend on: its tiles, the model, and which of the tiles are scored."""
    known: dict[str, Any] = {"tiles": tiles, "checkpoint": checkpoint_id}
    if config.model.adaptive:
        known["adaptive"] = (config.model.adaptive_tolerance, config.maps.threshold, "unreadable corners are open")
    if config.model.dense:
        known["dense"] = config.tiles.min_tissue
    if config.model.decode != "cpu":
        known["decode"] = config.model.decode
    if config.model.precision != "auto":
        known["precision"] = config.model.precision
    return _key("scores", known)


def mapping_key(config: Config, scores: str) -> str:
    """What the maps and areas of one slide depend on: its scores and the map's knobs."""
    return _key("maps", {"scores": scores, "maps": config.maps.model_dump(), "full_frame": config.outputs.full_frame})


def deciding(knobs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of the knobs of a run those that decide what it comes to and which files it writes: what no machine hangs on."""
    return {
        section: {name: value for name, value in values.items() if section != "model" or name not in _MACHINE}
        for section, values in knobs.items()
        if section not in ("run", "slurm")
    }


def config_hash(config: Config) -> str:
    """The knobs that can change a result, as 16 hex digits; machines and switched-off files do not count."""
    machine = set(_MACHINE)
    if config.model.decode == "cpu":  # as before it could be another
        machine.add("decode")
    if config.model.precision == "auto":
        machine.add("precision")
    return digest(config.model_dump(exclude={"run": True, "slurm": True, "outputs": True, "model": machine}))


def made_with(config: Config, checkpoint_id: str) -> str:
    """What the rows of one table should have in common: their keys without the slide."""
    return mapping_key(config, scoring_key(config, tiling_key(config, "", (0.0, 0.0)), checkpoint_id))


def digest(value: Any) -> str:
    """16 hex digits of a JSON-able value, the same on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _key(stage: str, known: dict[str, Any]) -> str:
    """The digest of what a stage depends on; its first rules are not in it, as before there could be others."""
    return digest(known if RULES[stage] == 1 else known | {"rules": RULES[stage]})
