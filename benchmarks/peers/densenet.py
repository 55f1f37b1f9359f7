"""What the scripts of all peers share: the network from its weights, the tiles' size and scale, the line at the end.

It imports torch and torchvision alone, as it is run by other tools' pythons.
"""

import json
import time
from pathlib import Path

import torch
from torch import nn
from torchvision.models import densenet121

PX, MPP = 256, 0.5
MEAN, STD = (0.7, 0.55, 0.7), (0.2, 0.25, 0.2)  # as in benchmarks/networks.py


def densenet(weights: Path) -> nn.Module:
    """torchvision's DenseNet-121 with one output, in eval mode; `weights` by torch.save."""
    model = densenet121(weights=None, num_classes=1)
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()


def tell(tiles: int, began: float, started: float) -> None:
    """One line of JSON: tiles, seconds since the work began, seconds since the script started."""
    now = time.perf_counter()
    print(json.dumps({"tiles": tiles, "work_s": round(now - began, 3), "all_s": round(now - started, 3)}), flush=True)
