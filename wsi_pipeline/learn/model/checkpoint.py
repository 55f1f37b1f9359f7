"""Checkpoint: a trained network with all that gives its output a meaning, from and to a folder of our own.

A folder holds `model.safetensors` and `card.json`. Nothing is ever unpickled: a `.pth` or `.pt` is read
only as far as `torch.load(weights_only=True)` goes, with a card beside it. Weights are arrays here: a slide
is scored on a CPU without loading torch, which takes seconds and a quarter of a gigabyte.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from wsi_pipeline.disk import refusal
from wsi_pipeline.errors import ModelError
from wsi_pipeline.learn.model.architectures import kept_layers, tensor_shapes
from wsi_pipeline.learn.model.card import RESEARCH_USE, Card, Fit, Kind, parse_card

WEIGHTS, CARD = "model.safetensors", "card.json"
_MAX_CARD = 2**26  # bytes; of a card inside the weights safetensors allows 100 MB
_WITH_TORCH = "wsi_pipeline.learn.model.torch_files"  # loaded for what torch alone can read


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights and their meaning; checked when made: ModelError names what does not fit.

    `id` is computed: 12 hex digits of sha256 over the weights and all fields but `note`, `about` and those
    at their default. Input of the network: RGB in 0-1, minus `mean`, divided by `std`, `input_px` square at
    `mpp` um/px. `about` tells data, loss weights with the digest of their split, settings, versions, metrics.
    """

    arch: str
    class_names: tuple[str, ...]
    positive: tuple[str, ...]  # the classes counted as cancer; may be empty, then it scores no slides
    exclusive: bool  # softmax if true, a sigmoid a class if not
    input_px: int  # side of the square input
    mpp: float | None  # um/px of the pixels trained on; None: images without a scale, it scores no slides
    mean: tuple[float, ...]  # a channel, of values in 0-1
    std: tuple[float, ...]
    state: dict[str, np.ndarray] = field(repr=False)  # may be given as tensors
    prior: tuple[float, ...] | None = None  # of each class, undone in the output: mostly its prevalence in training
    temperature: float = 1.0  # divides the logits, after the prior
    threshold: float = 0.5  # chosen on validation; cancer from this probability on
    thresholds: tuple[float, ...] | None = None  # a class, chosen on validation; None: `threshold` for all
    kind: Kind = "plain"  # of the images
    fit: Fit = "pad"  # how an image is brought to a square
    ordinal: bool = False  # the classes are the cumulative tasks grade >= 1 ... grade >= C
    ranges: dict[str, tuple[float, float]] | None = field(default=None, repr=False)  # of layers: scored in int8
    note: str = ""  # one line shown to the user
    about: dict[str, Any] = field(default_factory=dict, repr=False)  # how it was made; changes no output
    in_channels: int = 3
    id: str = field(init=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", _arrays(self.state))
        card = _card_of(self)
        _check_weights(card, self.state)
        _check_ranges(card)
        object.__setattr__(self, "id", _identity(card, self.state))

    @property
    def class_thresholds(self) -> np.ndarray:
        """(C,) float64: the probability from which on each class counts as present."""
        return np.array(self.thresholds or (self.threshold,) * len(self.class_names))


def load_checkpoint(where: str | Path) -> Checkpoint:
    """The checkpoint of a folder of ours, a `.safetensors` or `.pth` file, or a model in the box by its name.

    A bare name of a model in the box (`demo`) goes before a folder of that name: write `./demo` for that.
    A file's card is `<stem>.json` or `card.json` beside it, or for safetensors the text under `card` in
    its metadata. Raises ModelError when absent, unreadable, in need of unpickling, or not fitting.
    """
    path = find_weights(where)
    state, inside = read_weights(path)
    written = _read_card(path, inside)
    expected = written.pop("id", None)
    written.pop("use", None)
    try:
        checkpoint = Checkpoint(**parse_card(written).model_dump(exclude={"version"}), state=state)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    if expected not in (None, checkpoint.id):
        raise ModelError(
            f"{path}: the card is of {expected}, weights and card together are {checkpoint.id}: one of them "
            f"was changed; take both from one source, or delete 'id' from the card if it was on purpose"
        )
    return checkpoint


def card_of(where: str | Path) -> Card | None:
    """The card of a model or a file of weights, found as `load_checkpoint` does; None where there is none.

    Raises ModelError where either cannot be read. Whether they go together is not looked at.
    """
    path = find_weights(where)
    inside = read_weights(path)[1]
    if inside is None and not cards_beside(path):
        return None
    written = _read_card(path, inside)
    try:
        return parse_card({name: value for name, value in written.items() if name not in ("id", "use")})
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def save_checkpoint(checkpoint: Checkpoint, folder: str | Path, *, half: bool = False) -> Checkpoint:
    """Write `model.safetensors` and `card.json`; each is complete or not there, other files are left alone.

    With `half` weights are rounded to float16: half the bytes, another id. Returns what was saved. The
    card's id guards the moment between the two files. Raises ModelError when the disk refuses, and for
    weights that float16 cannot hold; the checkpoint that was there before is then kept.
    """
    if half:
        checkpoint = replace(checkpoint, state=_halved(checkpoint.state))
    target = Path(folder)
    files = {WEIGHTS: weights_bytes(checkpoint), CARD: card_text(checkpoint).encode() + b"\n"}
    try:
        target.mkdir(parents=True, exist_ok=True)
        _replace(target, files)
    except OSError as error:
        why = refusal(error, target, sum(map(len, files.values())))
        raise ModelError(f"{target}: not saved ({why}); free the disk or name another") from error
    return checkpoint


def card_text(checkpoint: Checkpoint) -> str:
    """The text of card.json."""
    card = {"use": RESEARCH_USE, "id": checkpoint.id} | _card_of(checkpoint).model_dump(mode="json")
    return json.dumps(card, indent=2, ensure_ascii=False)


def weights_bytes(checkpoint: Checkpoint) -> bytes:
    """The bytes of model.safetensors, with the card in its metadata."""
    state = {name: np.require(array, requirements="C") for name, array in checkpoint.state.items()}
    return safetensors_bytes(state, {"card": card_text(checkpoint)})


def shipped_models() -> dict[str, Path]:
    """Folders of the models in the box by name: of the installed package, or of the repository."""
    package = Path(__file__).resolve().parents[2]
    for place in (package / "models", package.parent / "models"):
        found = {folder.name: folder for folder in sorted(place.glob("*")) if (folder / CARD).is_file()}
        if found:
            return found
    return {}


def find_weights(where: str | Path) -> Path:
    """The weights file meant by a model's name, a folder or a file; ModelError when there is none."""
    shipped = shipped_models()
    path = shipped.get(str(where), Path(where))
    if path.is_dir():
        path = path / WEIGHTS
    if not path.is_file():
        names = ", ".join(shipped) or "none"
        raise ModelError(f"{path}: no such model; give a folder with {WEIGHTS} and {CARD}, or of the box: {names}")
    return path


def read_weights(path: Path) -> tuple[dict[str, np.ndarray], str | None]:
    """(weights, card text in the metadata) of a file, by its suffix; ModelError for all that is no weights."""
    if path.suffix in (".pth", ".pt"):
        return import_module(_WITH_TORCH).read_torch(path), None
    if path.suffix != ".safetensors":
        raise ModelError(f"{path}: {path.suffix or 'a bare name'} is not read; use .safetensors with {CARD}")
    try:
        with safe_open(path, framework="np") as file:
            names, card = list(file.keys()), (file.metadata() or {}).get("card")
            try:
                return {name: file.get_tensor(name) for name in names}, card
            except (TypeError, AttributeError):  # bfloat16, which numpy has not
                return import_module(_WITH_TORCH).read_bfloat16(path), card
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: cannot be read as safetensors ({error}); copy it again") from None


def _read_card(path: Path, inside: str | None) -> dict[str, Any]:
    """The card that belongs to a weights file, as read."""
    beside = cards_beside(path)
    source = beside[0] if beside else path
    if not beside and inside is None:
        raise ModelError(f"{path}: no card; put a {CARD} with arch, class_names, mpp and the rest beside it")
    try:
        if beside and beside[0].stat().st_size > _MAX_CARD:
            raise ValueError(f"more than {_MAX_CARD:,} bytes")
        card = json.loads(beside[0].read_text(encoding="utf-8") if beside else str(inside))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{source}: the card cannot be read as JSON ({error})") from None
    if not isinstance(card, dict):
        raise ModelError(f"{source}: the card is no JSON object of fields")
    return card


def cards_beside(path: Path) -> list[Path]:
    """The cards beside a file of weights; the first goes before one inside the file."""
    return [place for place in (path.with_suffix(".json"), path.with_name(CARD)) if place.is_file()]


def _card_of(checkpoint: Checkpoint) -> Card:
    return parse_card({n: getattr(checkpoint, n) for n in Card.model_fields if n != "version"})


def _check_weights(card: Card, state: Mapping[str, np.ndarray]) -> None:
    """ModelError unless the weights are finite and exactly those of the card's architecture and classes."""
    wanted = tensor_shapes(card.arch, len(card.class_names), in_channels=card.in_channels)
    matched = wanted.keys() & state.keys()
    if not matched:
        raise ModelError(f"none of its {len(state)} tensors is of {card.arch}: {_some(state)} for {_some(wanted)}")
    head = state.get("classifier.weight")
    if head is not None and len(head) != len(card.class_names):
        names = f"{len(card.class_names)}: {', '.join(card.class_names)}"
        raise ModelError(f"classifier.weight gives {len(head)} classes, the card names {names}")
    if missing := wanted.keys() - matched:
        raise ModelError(f"{len(missing)} of {len(wanted)} tensors of {card.arch} are missing: {_some(missing)}")
    if extra := state.keys() - matched:
        raise ModelError(f"{len(extra)} tensors do not belong to {card.arch}: {_some(extra)}")
    for name in sorted(matched):
        got, want = state[name].shape, wanted[name]
        if got != want:
            raise ModelError(f"{name} has shape {got}, {card.arch} on {card.in_channels} channels {want}")
        if not np.isfinite(state[name]).all():
            kind = state[name].dtype
            raise ModelError(f"{name} has values that are not finite in {kind}; use a checkpoint from before that")


def _check_ranges(card: Card) -> None:
    """ModelError unless the ranges, where there are any, are of the layers that int8 scoring rounds."""
    given, wanted = set(card.ranges or ()), set(kept_layers(card.arch))
    if card.ranges is not None and given != wanted:
        raise ModelError(
            f"its {len(given)} ranges are not those of the {len(wanted)} layers of {card.arch}: "
            f"{_some(given ^ wanted)}; export it to int8 anew"
        )


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")


def _identity(card: Card, state: Mapping[str, np.ndarray]) -> str:
    meaning = card.model_dump(mode="json", exclude={"note", "about"}, exclude_defaults=True)
    digest = hashlib.sha256(json.dumps(meaning, sort_keys=True).encode())
    for name in sorted(state):
        digest.update(f"{name} torch.{state[name].dtype} {state[name].shape}".encode())
        digest.update(state[name].tobytes())
    return digest.hexdigest()[:12]


def _arrays(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Tensors as arrays; what are arrays already stay as they are."""
    if all(isinstance(value, np.ndarray) for value in state.values()):
        return dict(state)
    as_array = import_module(_WITH_TORCH).as_array
    return {name: value if isinstance(value, np.ndarray) else as_array(value) for name, value in state.items()}


def _halved(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    with np.errstate(over="ignore"):  # what is too large is infinite, and refused
        return {name: a.astype(np.float16) if np.issubdtype(a.dtype, np.floating) else a for name, a in state.items()}


def _replace(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files under temporary names, then rename them in order; nothing is left on failure."""
    parts = {name: folder / f".{name}.{os.getpid()}.partial" for name in files}
    try:
        for name, content in files.items():
            with open(parts[name], "wb") as out:
                out.write(content)
                os.fsync(out.fileno())
        for name, part in parts.items():
            part.replace(folder / name)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
