"""A case of the laws run on the CPU and on a device: how far outputs and the gradients of weights are apart."""

import copy
import math

import numpy as np
import torch

from padless.graph.symbolic import leaves, map_leaves
from padless.ragged.packed import Packed

MASK = np.array([[int(c) for c in row] for row in ("00000", "11000", "10110", "00011", "01100", "11111")], dtype=bool)


def apart(case, device, dtype=torch.float32):
    """The largest difference between the CPU and a device, in inference; infinite where shapes differ."""
    subject = case.harness()
    sample = subject.sample(MASK)
    given, more = subject.arguments(sample, "mask_created" if subject.creates_mask else "packed")
    found = [
        run(copy.deepcopy(subject.layer), where, moved(given, where, dtype), moved(more, where, dtype), dtype)
        for where in (torch.device("cpu"), device)
    ]
    pairs = list(zip(*found, strict=True))
    return max((difference(a, b) for a, b in pairs), default=0.0)


def moved(tree, device, dtype):
    """Arguments on a device, numbers in a dtype."""

    def one(x):
        return x.to(dtype).to(device) if x.is_floating_point() else x.to(device)

    return map_leaves(lambda x: one(x) if isinstance(x, torch.Tensor | Packed) else x, tree)


def run(layer, device, given, more, dtype):
    """Outputs as grids, gaps and all, and the gradients of weights."""
    layer.to(dtype).to(device)
    outputs = [x.unpack() if isinstance(x, Packed) else x for x in leaves(layer(given, **more))]
    assert all(x.device.type == device.type for x in outputs)
    floats = [x for x in outputs if x.is_floating_point()]
    total = sum(
        (x * torch.linspace(0.5, 1.5, max(x.numel(), 1), device=device, dtype=x.dtype)[: x.numel()].reshape(x.shape)).sum()
        for x in floats
    )
    weights = [w for w in layer.parameters() if w.requires_grad]
    grads = torch.autograd.grad(total, weights, allow_unused=True) if weights and total.requires_grad else ()
    return [*outputs, *(torch.zeros_like(w) if g is None else g for w, g in zip(weights, grads, strict=bool(grads)))]


def difference(a, b):
    a, b = a.detach(), b.detach().cpu()
    if a.shape != b.shape:
        return math.inf
    return float((a.double() - b.double()).abs().max() / (1 + a.double().abs().max())) if a.numel() else 0.0
