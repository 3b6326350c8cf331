"""The models in plain torch, as a careful user writes them: on the padded grid, or by torch's PackedSequence.

All take right-padded ids `(B, T)` and lengths on the host; at the padding they compute whatever they like, and nothing of
it reaches a real step, a loss or a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from benchmarks.workloads import Workload

Scores = Tensor | PackedSequence
GATES = {"lstm": (0, 1, 2, 3), "gru": (1, 0, 2)}  # where torch's gates stand in Keras's weights


class Net(nn.Module):
    """Embedding, what comes between, Dense; `load` takes Keras's weights in Keras's order."""

    def __init__(self, w: Workload, last: int, padding: int | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(w.vocabulary, w.features, padding_idx=padding)
        self.dense = nn.Linear(last, w.classes)

    @torch.no_grad()
    def load(self, weights: Iterator[Tensor]) -> None:
        """Take over all weights."""
        self.embed.weight.copy_(next(weights))
        if self.embed.padding_idx is not None:
            self.embed.weight[self.embed.padding_idx] = 0
        self.load_middle(weights)
        _load_linear(self.dense, weights)

    def load_middle(self, weights: Iterator[Tensor]) -> None:
        """Those between."""
        raise NotImplementedError


class Tagger(Net):
    """A recurrent layer, and scores for each step."""

    def __init__(self, w: Workload, packed: bool) -> None:
        super().__init__(w, w.units)
        self.packed, self.kind = packed, w.kind
        self.scan = (nn.GRU if w.kind == "gru" else nn.LSTM)(w.features, w.units, batch_first=True)

    def forward(self, ids: Tensor, lengths: Tensor) -> Scores:
        """`(B, T, classes)`, or packed."""
        h = self.embed(ids)
        if not self.packed:
            return self.dense(self.scan(h)[0])
        out = self.scan(pack_padded_sequence(h, lengths, batch_first=True, enforce_sorted=False))[0]
        return PackedSequence(self.dense(out.data), out.batch_sizes, out.sorted_indices, out.unsorted_indices)

    def load_middle(self, weights: Iterator[Tensor]) -> None:
        """Of the scan."""
        _load_scan(self.scan, "", self.kind, weights)


class PackedBothWays(Net):
    """An LSTM both ways by PackedSequence, and scores for each row."""

    def __init__(self, w: Workload) -> None:
        super().__init__(w, 2 * w.units)
        self.scan = nn.LSTM(w.features, w.units, batch_first=True, bidirectional=True)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """`(B, classes)`."""
        packed = pack_padded_sequence(self.embed(ids), lengths, batch_first=True, enforce_sorted=False)
        return self.dense(torch.cat(tuple(self.scan(packed)[1][0]), dim=1))

    def load_middle(self, weights: Iterator[Tensor]) -> None:
        """Of the scans, forward first."""
        for suffix in ("", "_reverse"):
            _load_scan(self.scan, suffix, "lstm", weights)


class PaddedBothWays(Net):
    """An LSTM both ways on the grid: each row is reversed within its length, so that padding stays behind."""

    def __init__(self, w: Workload) -> None:
        super().__init__(w, 2 * w.units)
        self.forth, self.back = (nn.LSTM(w.features, w.units, batch_first=True) for _ in range(2))

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """`(B, classes)`."""
        last = lengths.to(ids.device)[:, None] - 1
        time = torch.arange(ids.shape[1], device=ids.device)
        reverse = torch.where(time <= last, last - time, time)
        rows = torch.arange(len(ids), device=ids.device)
        h = self.embed(ids)
        ways = (self.forth(h)[0], self.back(h.gather(1, reverse[..., None].expand_as(h)))[0])
        return self.dense(torch.cat([way[rows, last[:, 0]] for way in ways], dim=1))

    def load_middle(self, weights: Iterator[Tensor]) -> None:
        """Of the scans, forward first."""
        for scan in (self.forth, self.back):
            _load_scan(scan, "", "lstm", weights)


class Transformer(Net):
    """Torch's encoder with the norms before, and scores for each step."""

    def __init__(self, w: Workload) -> None:
        super().__init__(w, w.features)
        block = nn.TransformerEncoderLayer(
            w.features, w.heads, w.units, dropout=0.0, layer_norm_eps=1e-3, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(block, w.blocks, nn.LayerNorm(w.features, eps=1e-3), enable_nested_tensor=False)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """`(B, T, classes)`."""
        return self.dense(self.encoder(self.embed(ids), src_key_padding_mask=ids == 0))

    def load_middle(self, weights: Iterator[Tensor]) -> None:
        """Of the blocks, in order, and the last norm."""
        for block in self.encoder.layers:
            _load_block(block, weights)
        _load_norm(self.encoder.norm, weights)


class Convolution(Net):
    """A convolution and the largest over time, and scores for each row. The vector of the padding is 0 and stays so."""

    def __init__(self, w: Workload) -> None:
        super().__init__(w, w.units, padding=0)
        self.convolve = nn.Conv1d(w.features, w.units, w.window, padding="same")

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """`(B, classes)`."""
        h = self.convolve(self.embed(ids).transpose(1, 2)).relu()
        return self.dense(h.masked_fill((ids == 0)[:, None], -torch.inf).amax(2))

    def load_middle(self, weights: Iterator[Tensor]) -> None:
        """Of the convolution."""
        self.convolve.weight.copy_(next(weights).permute(2, 1, 0))
        _copy(self.convolve.bias, next(weights))


def net(w: Workload, packed: bool) -> Net:
    """The model of a workload."""
    makers: dict[str, Callable[[], Net]] = {
        "lstm": lambda: Tagger(w, packed),
        "gru": lambda: Tagger(w, packed),
        "bilstm": lambda: PackedBothWays(w) if packed else PaddedBothWays(w),
        "transformer": lambda: Transformer(w),
        "conv": lambda: Convolution(w),
    }
    return makers[w.kind]()


# ------------------------------------------------------------------------------------------ from Keras's weights


def _copy(parameter: Tensor | None, value: Tensor) -> None:
    if parameter is None:
        raise TypeError("the layer was made without this weight")
    parameter.copy_(value)


def _load_linear(layer: nn.Linear, weights: Iterator[Tensor]) -> None:
    """Kernel and bias."""
    layer.weight.copy_(next(weights).T)
    _copy(layer.bias, next(weights))


def _load_scan(scan: nn.Module, suffix: str, kind: str, weights: Iterator[Tensor]) -> None:
    """Kernel, recurrent kernel and bias: one bias in an LSTM, one for each kernel in a GRU."""

    def ordered(weight: Tensor) -> Tensor:
        gates = weight.t().chunk(len(GATES[kind]))
        return torch.cat([gates[k] for k in GATES[kind]])

    for side in ("ih", "hh"):
        scan.get_parameter(f"weight_{side}_l0{suffix}").copy_(ordered(next(weights)))
    bias = next(weights)
    first, second = bias if bias.ndim == 2 else (bias, torch.zeros_like(bias))
    scan.get_parameter(f"bias_ih_l0{suffix}").copy_(ordered(first))
    scan.get_parameter(f"bias_hh_l0{suffix}").copy_(ordered(second))


def _load_norm(norm: nn.Module | None, weights: Iterator[Tensor]) -> None:
    if norm is None:
        raise TypeError("the encoder was made without its last norm")
    for name in ("weight", "bias"):
        norm.get_parameter(name).copy_(next(weights))


def _load_block(block: Any, weights: Iterator[Tensor]) -> None:
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
