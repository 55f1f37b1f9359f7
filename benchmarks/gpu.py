"""Images a second of a DenseNet-121 on a GPU, batch by batch, and the roofline that bounds it; JPEGs decoded there.

`python -m benchmarks.gpu [--quick] [--device cuda:0] [--json FOLDER]`; without a GPU it says so and measures nothing,
unless `--device cpu` is asked for, which tries the same code.

The roofline: bytes that the folded network must move at the measured copy rate, or its operations at the measured
rate of matrix products, whichever takes longer. Fused: each block's convolutions read what they need and write what
they make once; unfused: every layer and every join of channels reads its input and writes its output.

JPEG tiles (4:2:0, quality 80) are decoded by `model.decode=gpu` and by the CPU's cores, alone and with the network
behind it. Readers go ahead: two that take turns at the GPU, four as in a run with model.decode=cpu, or one a core.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import simplejpeg
import torch
from torch import nn

from benchmarks.networks import layer_sizes, random_checkpoint
from benchmarks.timing import Benchmark, Result, arguments, finish, rounds, take_turns
from wsi_pipeline.errors import ModelError
from wsi_pipeline.learn.model.densenet import build_model
from wsi_pipeline.learn.model.fold import folded
from wsi_pipeline.scores.ahead import Read, read_ahead
from wsi_pipeline.scores.cores import cores
from wsi_pipeline.scores.engines import pick_device
from wsi_pipeline.scores.gpu_jpeg import OPTIONS, JpegDecoder
from wsi_pipeline.scores.infer import Scorer
from wsi_pipeline.scores.torch_engine import TorchEngine
from wsi_pipeline.tiles.codecs import decode_jpeg

PX = 224
BATCHES, QUICK_BATCHES = (64, 128, 256, 512, 1024), (64, 256)
BYTES = 2  # of a value in bfloat16
RUN_READERS = 4  # of a run that decodes on the CPU, see scores/infer.py


def main(args: Sequence[str] | None = None) -> Benchmark:
    options = {
        "device": {"default": "", "help": "cuda:N, or cpu to try the code"},
        "px": {"type": int, "default": PX, "help": "side of an image"},
        "batches": {"type": int, "nargs": "+", "help": "sizes of batch"},
    }
    asked = arguments(__doc__ or "", args, **options)
    benchmark = Benchmark("gpu", asked.quick, {"px": asked.px})
    if not asked.device and not torch.cuda.is_available():
        benchmark.settings |= dict.fromkeys(("gpu", "jpeg"), "not measured: no GPU here")
    else:
        device = torch.device(pick_device(asked.device or "cuda"))
        batches = asked.batches or (QUICK_BATCHES if asked.quick else BATCHES)
        benchmark.settings |= {"device": device_name(device), "roofline": roofline(device, asked.px)}
        turns = rounds(asked.quick)
        for batch in batches:
            measure(benchmark, f"batch {batch}", lambda batch=batch: [sweep(device, asked.px, batch, turns)])
        measure(benchmark, "jpeg", lambda: decoding(device, asked.px, batches[len(batches) // 2], turns))
    finish(benchmark, asked.json)
    return benchmark


def measure(benchmark: Benchmark, name: str, work: Callable[[], list[Result]]) -> None:
    """Add the results of some work, or why there are none: the others count all the same."""
    try:
        benchmark.results += work()
    except (ModelError, RuntimeError) as error:  # RuntimeError: memory, or what compiling needs
        benchmark.settings[name] = f"not measured: {error}"


def sweep(device: torch.device, px: int, batch: int, turns: int) -> Result:
    """One size of batch: images already on the device, and from uint8 in memory as in a run."""
    torch._dynamo.reset()  # after eight sizes it compiles no more, in all engines of a process together
    checkpoint = random_checkpoint("densenet121", px)
    half, on_gpu = torch.bfloat16, device.type == "cuda"
    engine = TorchEngine(checkpoint, str(device), half=half, compiled=on_gpu)
    plain = build_model(checkpoint).to(device)
    images = torch.randint(0, 256, (batch, 3, px, px), device=device).float().to(memory_format=torch.channels_last)
    scorer = Scorer(checkpoint, str(device), "torch", compiled=on_gpu)
    tiles = np.random.default_rng(0).integers(0, 256, (4 * batch, px, px, 3), dtype=np.uint8)

    def from_memory() -> float:
        parts = [
            part for start in range(0, len(tiles), batch) for part in scorer.submit(tiles[start : start + batch], px)
        ]
        return float(sum(len(part.result()[0]) for part in parts))

    ways = {
        "bf16, on the device": lambda: passes(engine.model, images, device),
        "run's engine, from memory": from_memory,
        "float32 as torch has it (TF32), NCHW, eager": lambda: passes(plain, images.contiguous() / 255, device),
    }
    own, *_, other = ways
    return Result(f"densenet121, batch {batch}", "image", own, other, take_turns(ways, rounds=turns))


def decoding(device: torch.device, px: int, batch: int, turns: int) -> list[Result]:
    """JPEG tiles by the device and by the CPU, alone and with the network behind them; pixels for comparison.

    Raises ModelError where the device decodes none.
    """
    batches = max(8, 2 * cores()) if device.type == "cuda" else 2
    decoder, jpegs = JpegDecoder(str(device)), jpeg_tiles(batches * batch, px)
    other_way = JpegDecoder(str(device), f"{OPTIONS} nvjpeg_cuda_decoder:hybrid_huffman_threshold=0")
    scorer = Scorer(random_checkpoint("densenet121", px), str(device), "torch", compiled=device.type == "cuda")
    pixels, _ = decode_jpeg(jpegs, px)
    rows = np.arange(len(jpegs))
    ways: dict[str, tuple[Read, int]] = {
        "model.decode=gpu": (lambda rows: decoder.decode([jpegs[row] for row in rows], px), 2),
        "its Huffman codes on the GPU too": (lambda rows: other_way.decode([jpegs[row] for row in rows], px), 2),
        "the CPU's cores": (lambda rows: decode_jpeg([jpegs[row] for row in rows], px), cores()),
        "model.decode=cpu": (lambda rows: decode_jpeg([jpegs[row] for row in rows], px), RUN_READERS),
        "pixels": (lambda rows: (pixels[rows[0] : rows[-1] + 1], np.ones(len(rows), bool)), 4),
    }
    own, huffman, other, usual, _ = ways

    def decoded(read: Read, readers: int) -> float:
        return float(sum(readable.sum() for _, _, readable in read_ahead(read, rows, batch, readers=readers)))

    def scored(read: Read, readers: int) -> float:
        batches = read_ahead(read, rows, batch, readers=readers)
        parts = [part for _, tiles, _ in batches for part in scorer.submit(tiles, px)]
        return float(sum(len(part.result()[0]) for part in parts))

    alone = {name: partial(decoded, *ways[name]) for name in (own, huffman, other, usual)}
    behind = {name: partial(scored, *way) for name, way in ways.items()}
    size = f"{sum(map(len, jpegs)) // len(jpegs):,} bytes a tile"
    return [
        Result(f"JPEGs of {px} px, batch {batch}", "tile", own, other, take_turns(alone, rounds=turns), notes=size),
        Result(f"the same and densenet121, batch {batch}", "tile", own, other, take_turns(behind, rounds=turns)),
    ]


def jpeg_tiles(n: int, px: int) -> list[bytes]:
    """n tiles of soft colours, of which sixteen differ."""
    steps = np.random.default_rng(0).normal(0, 4, (min(n, 16), px, px, 3))
    tiles = np.clip(170 + np.cumsum(steps, axis=2), 0, 255).astype(np.uint8)
    found = [bytes(simplejpeg.encode_jpeg(tile, quality=80, colorsubsampling="420")) for tile in tiles]
    return [found[row % len(found)] for row in range(n)]


def passes(model: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, device: torch.device) -> float:
    """Four passes, waited for at the end."""
    with torch.inference_mode():
        for _ in range(4):
            model(images)
    wait(device)
    return 4.0 * len(images)


def roofline(device: torch.device, px: int) -> dict[str, float]:
    """Images a second that copying and multiplying allow, from rates measured here."""
    copied, multiplied = copy_rate(device), multiply_rate(device)
    unfused, fused, operations = traffic(folded(build_model(random_checkpoint("densenet121", px))), px)
    found = {
        "copy_bytes_per_s": copied,
        "matrix_flop_per_s": multiplied,
        "bytes_per_image_unfused": unfused,
        "bytes_per_image_fused": fused,
        "flop_per_image": operations,
        "images_per_s_unfused": 1 / max(unfused / copied, operations / multiplied),
        "images_per_s_fused": 1 / max(fused / copied, operations / multiplied),
    }
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def traffic(model: nn.Module, px: int) -> tuple[float, float, float]:
    """Bytes an image moves with every layer by itself, with convolutions alone, and its operations."""
    sizes = layer_sizes(model, px)
    joined = sum(2 * size["read"] for size in sizes if size["kind"] == "BatchNorm2d")  # each norm left follows a join
    unfused = joined + sum(size["read"] + size["written"] for size in sizes if size["kind"] != "Identity")
    fused = sum(size["read"] + size["written"] for size in sizes if size["kind"] == "Conv2d")
    return BYTES * float(unfused), BYTES * float(fused), 2.0 * sum(size["macs"] for size in sizes)


def copy_rate(device: torch.device) -> float:
    """Bytes a second, read and written, of a copy on the device."""
    source = torch.zeros(1 << (28 if device.type == "cuda" else 22), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * per_second(lambda: target.copy_(source), device)


def multiply_rate(device: torch.device) -> float:
    """Operations a second of large bfloat16 matrix products."""
    side = 8192 if device.type == "cuda" else 256
    left, right = (torch.rand(side, side, device=device).bfloat16() for _ in range(2))
    return 2.0 * side**3 * per_second(lambda: left @ right, device)


def per_second(work: Callable[[], object], device: torch.device, times: int = 20) -> float:
    work()
    wait(device)
    started = time.perf_counter()
    for _ in range(times):
        work()
    wait(device)
    return times / (time.perf_counter() - started)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


if __name__ == "__main__":
    main()
