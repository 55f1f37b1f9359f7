"""Ranks: the processes that torchrun starts, one a GPU, and what they say to each other; alone it all is a no-op."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from wsi_pipeline.errors import ClusterError, ConfigError

_PEER_GONE = ("Connection closed by peer", "Connection reset by peer")  # gloo's words


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Inside, the processes of torchrun know each other; gives this one's device.

    Without torchrun (no WORLD_SIZE, or 1) nothing happens. On GPUs each process takes the one of its
    LOCAL_RANK. Raises ConfigError when there are more processes than GPUs, ClusterError when another process
    ended while this one waited for it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield device
        return
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            gpus = torch.cuda.device_count()
            raise ConfigError(f"torchrun: process {local} has no GPU, {gpus} are here; start fewer")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    except RuntimeError as error:
        if not any(words in str(error) for words in _PEER_GONE):
            raise
        raise ClusterError(
            f"torchrun: process {rank()} of {world()}: another ended; what that one says is why"
        ) from None
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """Which of the processes this is; 0 alone."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """How many processes there are; 1 alone."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def wait() -> None:
    """Go on once all processes are here."""
    if world() > 1:
        distributed.barrier()


def spread(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with gradients averaged over the processes; itself when alone."""
    if world() == 1:
        return model
    return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def agree(model: nn.Module) -> None:
    """Give all processes the first one's buffers: each moved its BatchNorm's statistics by its own images."""
    for buffer in model.buffers() if world() > 1 else ():
        distributed.broadcast(buffer, 0)


def mean(value: float, device: torch.device) -> float:
    """The mean of a number over the processes."""
    if world() == 1:
        return value
    total = torch.tensor([value], dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return total.item() / world()


def gather_rows(mine: Tensor, rows: int) -> Tensor:
    """All `rows` rows in order, in every process, of shares that hold rows rank, rank + world, ...

    Shares are padded to one length for the exchange and the padding is left out again: no row counts twice.
    """
    if world() == 1:
        return mine
    longest = -(-rows // world())
    padded = torch.zeros((longest, *mine.shape[1:]), dtype=mine.dtype, device=mine.device)
    padded[: len(mine)] = mine
    shares = [torch.empty_like(padded) for _ in range(world())]
    distributed.all_gather(shares, padded)
    return torch.stack(shares, dim=1).flatten(0, 1)[:rows]
