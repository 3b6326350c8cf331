"""The models in plain torch, as a careful user writes them: on the padded grid, or by torch's PackedSequence.

Each model has right-padded ids `(B, T)` and lengths on the host as inputs. Values at padding have no influence on a real
step, a loss or a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from benchmarks.workloads import Workload

Scores = Tensor | PackedSequence
GATES = {"lstm": (0, 1, 2, 3), "gru": (1, 0, 2)}  # the position of each of torch's gates in Keras's weights


class Net(nn.Module):
    """Embedding, other layers, and Dense."""

    def __init__(self, w: Workload, last: int, padding: int | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(w.vocabulary, w.features, padding_idx=padding)
        self.dense = nn.Linear(last, w.classes)

    @torch.no_grad()
    def load(self, weights: Iterator[Tensor]) -> None:
        """Set all weights from an iterator over Keras's weights, in Keras's order."""
        self.embed.weight.copy_(next(weights))
        if self.embed.padding_idx is not None:
            self.embed.weight[self.embed.padding_idx] = 0
        self.load_middle(weights)
        _load_linear(self.dense, weights)

    def load_middle(self, weights: Iterator[Tensor]) -> None:
        """Set the weights of the layers between Embedding and Dense."""
        raise NotImplementedError


class Tagger(Net):
    """A recurrent layer with scores for each step."""

    def __init__(self, w: Workload, packed: bool) -> None:
        super().__init__(w, w.units)
        self.packed, self.kind = packed, w.kind
        self.recurrent = (nn.GRU if w.kind == "gru" else nn.LSTM)(w.features, w.units, batch_first=True)

    def forward(self, ids: Tensor, lengths: Tensor) -> Scores:
        """Return scores `(B, T, classes)`, or a PackedSequence of scores."""
        h = self.embed(ids)
        if not self.packed:
            return self.dense(self.recurrent(h)[0])
        out = self.recurrent(pack_padded_sequence(h, lengths, batch_first=True, enforce_sorted=False))[0]
        return PackedSequence(self.dense(out.data), out.batch_sizes, out.sorted_indices, out.unsorted_indices)

    def load_middle(self, weights: Iterator[Tensor]) -> None:
        """Set the weights of the recurrent layer."""
        _load_recurrent(self.recurrent, "", self.kind, weights)


class PackedBidirectional(Net):
    """A bidirectional LSTM on a PackedSequence, with scores for each sequence."""

    def __init__(self, w: Workload) -> None:
        super().__init__(w, 2 * w.units)
        self.recurrent = nn.LSTM(w.features, w.units, batch_first=True, bidirectional=True)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return scores `(B, classes)`."""
        packed = pack_padded_sequence(self.embed(ids), lengths, batch_first=True, enforce_sorted=False)
        return self.dense(torch.cat(tuple(self.recurrent(packed)[1][0]), dim=1))

    def load_middle(self, weights: Iterator[Tensor]) -> None:
        """Set the weights of both directions, the forward one first."""
        for suffix in ("", "_reverse"):
            _load_recurrent(self.recurrent, suffix, "lstm", weights)


class PaddedBidirectional(Net):
    """A bidirectional LSTM on the grid; each sequence is reversed within its length, so its padding stays at the end."""

    def __init__(self, w: Workload) -> None:
        super().__init__(w, 2 * w.units)
        self.forward_lstm, self.reverse_lstm = (nn.LSTM(w.features, w.units, batch_first=True) for _ in range(2))

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return scores `(B, classes)`."""
        last = lengths.to(ids.device)[:, None] - 1
        time = torch.arange(ids.shape[1], device=ids.device)
        reverse_time = torch.where(time <= last, last - time, time)
        rows = torch.arange(len(ids), device=ids.device)
        h = self.embed(ids)
        reversed_h = h.gather(1, reverse_time[..., None].expand_as(h))
        outputs = (self.forward_lstm(h)[0], self.reverse_lstm(reversed_h)[0])
        return self.dense(torch.cat([output[rows, last[:, 0]] for output in outputs], dim=1))

    def load_middle(self, weights: Iterator[Tensor]) -> None:
        """Set the weights of both directions, the forward one first."""
        for lstm in (self.forward_lstm, self.reverse_lstm):
            _load_recurrent(lstm, "", "lstm", weights)


class Transformer(Net):
    """Torch's pre-norm encoder with scores for each step."""

    def __init__(self, w: Workload) -> None:
        super().__init__(w, w.features)
        block = nn.TransformerEncoderLayer(
            w.features, w.heads, w.units, dropout=0.0, layer_norm_eps=1e-3, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(block, w.blocks, nn.LayerNorm(w.features, eps=1e-3), enable_nested_tensor=False)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return scores `(B, T, classes)`."""
        return self.dense(self.encoder(self.embed(ids), src_key_padding_mask=ids == 0))

    def load_middle(self, weights: Iterator[Tensor]) -> None:
        """Set the weights of the blocks, in order, and of the last norm."""
        for block in self.encoder.layers:
            _load_block(block, weights)
        _load_norm(self.encoder.norm, weights)


class Convolution(Net):
    """A convolution and a maximum over time with scores for each sequence; the embedding of padding is 0."""

    def __init__(self, w: Workload) -> None:
        super().__init__(w, w.units, padding=0)
        self.convolve = nn.Conv1d(w.features, w.units, w.window, padding="same")

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return scores `(B, classes)`."""
        h = self.convolve(self.embed(ids).transpose(1, 2)).relu()
        return self.dense(h.masked_fill((ids == 0)[:, None], -torch.inf).amax(2))

    def load_middle(self, weights: Iterator[Tensor]) -> None:
        """Set the weights of the convolution."""
        self.convolve.weight.copy_(next(weights).permute(2, 1, 0))
        _copy(self.convolve.bias, next(weights))


def build_net(w: Workload, packed: bool) -> Net:
    """Return the model of a workload."""
    builders: dict[str, Callable[[], Net]] = {
        "lstm": lambda: Tagger(w, packed),
        "gru": lambda: Tagger(w, packed),
        "bilstm": lambda: PackedBidirectional(w) if packed else PaddedBidirectional(w),
        "transformer": lambda: Transformer(w),
        "conv": lambda: Convolution(w),
    }
    return builders[w.kind]()


# ------------------------------------------------------------------------------------------ copying Keras's weights


def _copy(parameter: Tensor | None, value: Tensor) -> None:
    """Copy a weight to a parameter that torch declares as optional."""
    if parameter is None:
        raise TypeError("The layer has no such weight.")
    parameter.copy_(value)


def _load_linear(layer: nn.Linear, weights: Iterator[Tensor]) -> None:
    """Copy kernel and bias."""
    layer.weight.copy_(next(weights).T)
    _copy(layer.bias, next(weights))


def _load_recurrent(layer: nn.Module, suffix: str, kind: str, weights: Iterator[Tensor]) -> None:
    """Copy kernel, recurrent kernel and bias; a GRU has one bias for each kernel."""

    def reorder_gates(weight: Tensor) -> Tensor:
        gates = weight.t().chunk(len(GATES[kind]))
        return torch.cat([gates[k] for k in GATES[kind]])

    for side in ("ih", "hh"):
        layer.get_parameter(f"weight_{side}_l0{suffix}").copy_(reorder_gates(next(weights)))
    bias = next(weights)
    first, second = bias if bias.ndim == 2 else (bias, torch.zeros_like(bias))
    layer.get_parameter(f"bias_ih_l0{suffix}").copy_(reorder_gates(first))
    layer.get_parameter(f"bias_hh_l0{suffix}").copy_(reorder_gates(second))


def _load_norm(norm: nn.Module | None, weights: Iterator[Tensor]) -> None:
    """Copy scale and offset."""
    if norm is None:
        raise TypeError("The encoder has no last norm.")
    for name in ("weight", "bias"):
        norm.get_parameter(name).copy_(next(weights))


def _load_block(block: Any, weights: Iterator[Tensor]) -> None:
    """Copy the weights of a transformer block."""
    _load_norm(block.norm1, weights)
    attention, width = block.self_attn, block.norm1.normalized_shape[0]
    pairs = [(next(weights), next(weights)) for _ in range(3)]  # query, key, value
    _copy(attention.in_proj_weight, torch.cat([kernel.reshape(width, width).T for kernel, _ in pairs]))
    _copy(attention.in_proj_bias, torch.cat([bias.flatten() for _, bias in pairs]))
    attention.out_proj.weight.copy_(next(weights).reshape(width, width).T)
    _copy(attention.out_proj.bias, next(weights))
    _load_norm(block.norm2, weights)
    _load_linear(block.linear1, weights)
    _load_linear(block.linear2, weights)
