"""Torch modules as layers, and torch modules with a config."""

from typing import Any, Self

import torch
from torch import nn

from cases.case import GRID, Case
from padless import layers as L
from padless.saving.serialization import register_keras_serializable


class Saved(nn.Module):
    """A torch module whose constructor arguments are its config."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.arguments = arguments

    def get_config(self) -> dict[str, Any]:
        return {"arguments": list(self.arguments)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(*config["arguments"])


def saved(module: type[nn.Module]) -> Any:
    """Return a subclass of a torch module that has a config."""
    return register_keras_serializable("tests")(type(module.__name__, (Saved, module), {}))


LSTMCell, GRUCell, RNNCell = saved(nn.LSTMCell), saved(nn.GRUCell), saved(nn.RNNCell)
Linear, BatchNorm1d, Conv1d, LayerNorm = saved(nn.Linear), saved(nn.BatchNorm1d), saved(nn.Conv1d), saved(nn.LayerNorm)


class _Halving(nn.Module):
    def __init__(self, features: int, units: int) -> None:
        super().__init__()
        self.state_size, self.output_size = [units, 1], 2 * units
        self.inward, self.across = nn.Linear(features, units), nn.Linear(units, units, bias=False)

    def forward(self, inputs: Any, states: Any) -> Any:
        h, count = states
        h = 0.5 * self.across(h) + torch.tanh(self.inward(inputs)) / (1 + count)
        return torch.cat([h, h.sin()], -1), (h, count + 1)


class _Mixed(nn.Module):
    def __init__(self, features: int, units: int) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(features, units), nn.LayerNorm(units), nn.Dropout(0.5)
        self.second = L.Dense(units, name="inner")

    def forward(self, x: Any, scale: float = 2.0) -> Any:
        h = nn.functional.gelu(self.norm(self.first(x)))
        return h * scale, self.drop(self.second(h))


Halving = register_keras_serializable("tests", "Halving")(type("Halving", (Saved, _Halving), {}))
Mixed = register_keras_serializable("tests", "Mixed")(type("Mixed", (Saved, _Mixed), {}))


def _modules() -> list[Case]:
    wrap = L.TorchModuleWrapper
    return [
        Case("TorchModuleWrapper", lambda: wrap(Linear(3, 2))),
        Case("TorchModuleWrapper-4D", lambda: wrap(LayerNorm(3)), inputs=(5, 3)),
        Case("TorchModuleWrapper-mixed", lambda: wrap(Mixed(3, 4))),
        Case("TorchModuleWrapper-stepwise", lambda: wrap(BatchNorm1d(3), relation="stepwise")),
        Case("TorchModuleWrapper-stepwise-4D", lambda: wrap(Conv1d(2, 4, 3), relation="stepwise"), inputs=(2, 5)),
        Case("TorchModuleWrapper-stepwise-mixed", lambda: wrap(Mixed(3, 4), relation="stepwise")),
        Case("TorchModuleWrapper-grid", lambda: wrap(Linear(3, 2), relation="padded_grid"), known_violations=GRID),
        Case("TimeDistributed-torch", lambda: L.TimeDistributed(Linear(3, 2))),
        Case("TimeDistributed-torch-frames", lambda: L.TimeDistributed(Conv1d(2, 4, 3)), inputs=(2, 5)),
    ]


CASES = [*_modules()]
