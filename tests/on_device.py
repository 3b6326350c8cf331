"""Run a layer on the CPU and on a device, and compare outputs and the gradients of weights."""

import copy
import math

import numpy as np
import torch

from padless.graph.symbolic import leaves, map_leaves
from padless.ragged.packed import Packed

MASK = np.array([[int(c) for c in row] for row in ("00000", "11000", "10110", "00011", "01100", "11111")], dtype=bool)


def largest_difference(case, device, dtype=torch.float32):
    """Return the largest difference between the CPU and a device, in inference; infinity if shapes differ."""
    harness = case.harness()
    sample = harness.sample(MASK)
    inputs, options = harness.arguments(sample, "mask_created" if harness.creates_mask else "packed")
    results = []
    for target in (torch.device("cpu"), device):
        layer, arguments = copy.deepcopy(harness.layer), move((inputs, options), target, dtype)
        results.append(outputs_and_gradients(layer, target, *arguments, dtype))
    return max((difference(a, b) for a, b in zip(*results, strict=True)), default=0.0)


def move(tree, device, dtype):
    """Return the arguments of a call on a device, floats in a dtype."""

    def move_tensor(x):
        if not isinstance(x, torch.Tensor | Packed):
            return x
        return x.to(dtype).to(device) if x.is_floating_point() else x.to(device)

    return map_leaves(move_tensor, tree)


def outputs_and_gradients(layer, device, inputs, options, dtype):
    """Return the outputs as grids with gap values, and the gradients of the weights."""
    layer.to(dtype).to(device)
    outputs = [x.unpack() if isinstance(x, Packed) else x for x in leaves(layer(inputs, **options))]
    assert all(x.device.type == device.type for x in outputs)
    total = sum((x * ramp_like(x)).sum() for x in outputs if x.is_floating_point())
    weights = [w for w in layer.parameters() if w.requires_grad]
    if not weights or not total.requires_grad:
        return outputs
    gradients = torch.autograd.grad(total, weights, allow_unused=True)
    return [*outputs, *(torch.zeros_like(w) if g is None else g for w, g in zip(weights, gradients, strict=True))]


def ramp_like(x):
    """Return numbers from 0.5 to 1.5 in the shape of a tensor."""
    return torch.linspace(0.5, 1.5, max(x.numel(), 1), device=x.device, dtype=x.dtype)[: x.numel()].reshape(x.shape)


def difference(a, b):
    a, b = a.detach(), b.detach().cpu()
    if a.shape != b.shape:
        return math.inf
    return float((a.double() - b.double()).abs().max() / (1 + a.double().abs().max())) if a.numel() else 0.0
