"""Export: a checkpoint as one file for other software, left on disk only when it answers as the original does.

ONNX and TorchScript take RGB in 0-1, (batch, channels, input_px, input_px) float32, and give calibrated logits
(batch, classes): sigmoid, or softmax where classes exclude each other, makes them probabilities.
"""

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
import torch
from scipy.special import logit
from torch import Tensor, nn
from torchvision.models import DenseNet

from wsi_pipeline.errors import ModelError
from wsi_pipeline.learn.model.card import RESEARCH_USE
from wsi_pipeline.learn.model.checkpoint import Checkpoint, card_text, cards_beside, load_checkpoint, weights_bytes
from wsi_pipeline.learn.model.densenet import build_model
from wsi_pipeline.learn.model.probabilities import probabilities

TOLERANCE = 1e-4  # of a probability, and of a logit (by its size where that is above 1)
_BATCHES = (1, 2, 5)  # sizes tried; the network is traced with another one
_TRACED = 3
Answer = Callable[[np.ndarray], np.ndarray]


def to_safetensors(checkpoint: Checkpoint, path: str | Path) -> Path:
    """One `.safetensors` file with the card in its metadata, which `load_checkpoint` reads alone.

    Raises ModelError where another model's card lies beside it, which would be read in its place.
    """
    _refuse_other_card(checkpoint, Path(path))
    with _kept_when_good(path, ".safetensors") as file:
        file.write_bytes(weights_bytes(checkpoint))
        if load_checkpoint(file).id != checkpoint.id:
            raise ModelError(f"{path}: did not come back as it was written; use another disk")
    return Path(path)


def to_onnx(checkpoint: Checkpoint, path: str | Path) -> Path:
    """One `.onnx` file, `image` -> `logits`, any batch size; the card is in its metadata.

    Raises ModelError when onnxruntime differs from the original by more than 1e-4, or the disk refuses;
    nothing is left then, and a file that was there before is kept.
    """
    model = _WithNormalisation(checkpoint)
    with _kept_when_good(path, ".onnx") as file:
        torch.onnx.export(
            model,
            (_images(checkpoint, _TRACED),),
            file,
            dynamo=True,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
        graph = onnx.load(file)
        onnx.helper.set_model_props(graph, {"card": card_text(checkpoint), "output": _meaning(checkpoint)})
        onnx.save(graph, file)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        _compare(checkpoint, lambda images: session.run(["logits"], {"image": images})[0], str(path))
    return Path(path)


def to_torchscript(checkpoint: Checkpoint, path: str | Path) -> Path:
    """One TorchScript `.pt` file, any batch size; the card is among its extra files. Raises as `to_onnx`."""
    with _kept_when_good(path, ".pt") as file:
        answer = _trace(checkpoint, _WithNormalisation(checkpoint), file)
        _compare(checkpoint, answer, str(path))
    return Path(path)


def to_qupath(checkpoint: Checkpoint, folder: str | Path) -> Path:
    """The folder that QuPath's WSInfer extension loads: `torchscript_model.pt` and `config.json`.

    The extension normalises by the config, applies a softmax to the output whatever the model, and takes the
    likeliest class, not our threshold. So the network is written without normalisation and softmax, and a
    single sigmoid class becomes two, "not <class>" with logit 0 beside its own: their softmax is the sigmoid.

    Raises ModelError as `to_onnx`, and for a model without um/px, on grey images, or of several classes that
    do not exclude each other, which no softmax can show.
    """
    names = _qupath_classes(checkpoint)
    target = Path(folder)
    model = _calibrated(checkpoint)
    if not checkpoint.exclusive:
        model.classifier = _beside_zero(model.classifier)
    config = {
        "spec_version": "1.0",
        "architecture": checkpoint.arch,
        "num_classes": len(names),
        "class_names": names,
        "patch_size_pixels": checkpoint.input_px,
        "spacing_um_px": checkpoint.mpp,
        "transform": [
            {"name": "Resize", "arguments": {"size": checkpoint.input_px}},
            {"name": "ToTensor"},
            {"name": "Normalize", "arguments": {"mean": list(checkpoint.mean), "std": list(checkpoint.std)}},
        ],
    }
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (checkpoint.mean, checkpoint.std))
    with _kept_when_good(target / "torchscript_model.pt", ".pt") as file:
        traced = _trace(checkpoint, model, file)

        def answer(images: np.ndarray) -> np.ndarray:
            """As the extension computes; of two made of one, the logit of the second."""
            logits = traced((images - mean) / std)
            return logits if checkpoint.exclusive else logits[:, 1:] - logits[:, :1]

        _compare(checkpoint, answer, str(target))
    with _kept_when_good(target / "config.json", ".json") as file:
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return target


FORMATS: dict[str, Callable[[Checkpoint, str | Path], Path]] = {
    "safetensors": to_safetensors,
    "onnx": to_onnx,
    "torchscript": to_torchscript,
    "qupath": to_qupath,
}


class _WithNormalisation(nn.Module):
    """The calibrated network on RGB in 0-1.

    Mean and std are a layer of their own: in the first convolution they would be exact but at the border,
    where it pads with zeros *after* normalisation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.network = _calibrated(checkpoint)
        self.register_buffer("mean", torch.tensor(checkpoint.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(checkpoint.std)[:, None, None])
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


def _calibrated(checkpoint: Checkpoint) -> DenseNet:
    """The network in eval mode with prior and temperature folded into its head.

    Exact, as both are linear in the logit: (w x + b + shift) / T = (w / T) x + (b + shift) / T, with the shift
    of `calibrate.probabilities`, logit(pi), or log(pi) for exclusive classes.
    """
    model = build_model(checkpoint)
    head = model.classifier
    head.weight /= checkpoint.temperature
    head.bias += torch.from_numpy(_shift(checkpoint)).float()
    head.bias /= checkpoint.temperature
    return model


def _shift(checkpoint: Checkpoint) -> np.ndarray:
    """What the prior adds to the logits, (C,)."""
    pi = np.array(checkpoint.prior or ())
    if not len(pi):
        return np.zeros(len(checkpoint.class_names))
    return np.log(pi) if checkpoint.exclusive else logit(pi)


def _beside_zero(head: nn.Linear) -> nn.Linear:
    """A head of two outputs, 0 and the given head's one."""
    two = nn.Linear(head.in_features, 2).requires_grad_(False)
    two.weight.copy_(torch.cat([torch.zeros_like(head.weight), head.weight]))
    two.bias.copy_(torch.cat([torch.zeros_like(head.bias), head.bias]))
    return two


def _qupath_classes(checkpoint: Checkpoint) -> list[str]:
    """Names of the exported outputs; ModelError when QuPath's extension cannot run the model."""
    names = list(checkpoint.class_names)
    if checkpoint.mpp is None:
        raise ModelError(f"model {checkpoint.id} knows no um/px, by which QuPath cuts tiles; export onnx instead")
    if checkpoint.in_channels != 3:
        raise ModelError(f"model {checkpoint.id} takes grey images, QuPath gives RGB; export onnx instead")
    if checkpoint.exclusive:
        return names
    if len(names) > 1:
        raise ModelError(
            f"model {checkpoint.id} has {len(names)} classes that do not exclude each other; QuPath's extension "
            f"would apply a softmax over them; export onnx instead"
        )
    return [f"not {names[0]}", names[0]]


def _refuse_other_card(checkpoint: Checkpoint, path: Path) -> None:
    for card in cards_beside(path)[:1]:
        try:
            known = json.loads(card.read_text(encoding="utf-8"))["id"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            known = None
        if known != checkpoint.id:
            raise ModelError(f"{path}: {card.name} beside it is not of model {checkpoint.id}, and would be read as its "
                             f"card; name another folder")  # fmt: skip


def _trace(checkpoint: Checkpoint, model: nn.Module, file: Path) -> Answer:
    """Write `model` as TorchScript, and answer with what is read back from the file."""
    with warnings.catch_warnings():
        # TorchScript is deprecated for new work, but what other software loads is TorchScript.
        warnings.filterwarnings("ignore", r"`torch\.jit\.", category=FutureWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit\.", category=DeprecationWarning)
        traced = torch.jit.trace(model, _images(checkpoint, _TRACED), check_trace=False)
        torch.jit.save(traced, str(file), _extra_files={"card.json": card_text(checkpoint)})
        read = torch.jit.load(str(file), map_location="cpu")

    def answer(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return read(torch.from_numpy(images)).numpy()

    return answer


def _compare(checkpoint: Checkpoint, answer: Answer, name: str) -> None:
    """ModelError unless logits and probabilities are those of the original on random images, whatever the batch.

    The original is the network as trained, calibrated by `probabilities`, not what was prepared for the export.
    """
    original = build_model(checkpoint)
    mean, std = (torch.tensor(values)[:, None, None] for values in (checkpoint.mean, checkpoint.std))
    prior, temperature, exclusive = checkpoint.prior, checkpoint.temperature, checkpoint.exclusive
    for size in _BATCHES:
        images = _images(checkpoint, size)
        with torch.inference_mode():
            z = original((images - mean) / std).numpy()
        p = probabilities(z, exclusive=exclusive, prior=prior, temperature=temperature)
        found = answer(images.numpy())
        if found.shape != z.shape:
            raise ModelError(f"{name}: gives {found.shape} for {size} images, not {z.shape}; nothing is kept")
        off = np.abs(probabilities(found, exclusive=exclusive) - p).max()
        off_logit = (np.abs(found * temperature - _shift(checkpoint) - z) / np.maximum(np.abs(z), 1)).max()
        if not max(off, off_logit) <= TOLERANCE:
            raise ModelError(
                f"{name}: differs from the original by {off:.2g} in probability and {off_logit:.2g} in the logit with "
                f"{size} images, more than {TOLERANCE:g}; nothing is kept, try another version of torch"
            )


def _images(checkpoint: Checkpoint, size: int) -> Tensor:
    """Random images (size, C, px, px) in 0-1, the same for the same size."""
    shape = (size, checkpoint.in_channels, checkpoint.input_px, checkpoint.input_px)
    return torch.rand(shape, generator=torch.Generator().manual_seed(size))


def _meaning(checkpoint: Checkpoint) -> str:
    activation = "softmax" if checkpoint.exclusive else "sigmoid"
    return f"calibrated logits of {', '.join(checkpoint.class_names)}; {activation} gives probabilities. {RESEARCH_USE}"


@contextmanager
def _kept_when_good(path: str | Path, suffix: str) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place if nothing is raised; else it is gone."""
    path = Path(path)
    if path.suffix != suffix:
        raise ModelError(f"{path}: name a file that ends in {suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
            file = Path(folder) / path.name
            yield file
            file.replace(path)
    except OSError as error:
        raise ModelError(f"{path}: not written ({error.strerror or error}); free the disk or name another") from error
