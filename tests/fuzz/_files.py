"""Take safetensors files apart, change them, and put them together again, with a valid checksum or without."""

from __future__ import annotations

import copy
import json
import random
import tempfile
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import padless
from padless import registry
from padless.errors import PadlessError
from padless.graph import node
from padless.saving import get_custom_objects

FOLDER = tempfile.TemporaryDirectory(prefix="padless-fuzz-")
PATH = Path(FOLDER.name) / "forged.safetensors"
TEXT_OF_DTYPE = {"BOOL": "torch.bool", "F32": "torch.float32", "I64": "torch.int64"}


@dataclass
class File:
    """The parts of a safetensors file.

    Args:
        metadata: the strings in its header.
        entries: the descriptions of the arrays, by name.
        data: the bytes after the header.
    """

    metadata: dict[str, Any]
    entries: dict[str, Any]
    data: bytes

    @classmethod
    def from_bytes(cls, content: bytes) -> File:
        """Return the parts of a valid file."""
        size = int.from_bytes(content[:8], "little")
        entries = json.loads(content[8 : 8 + size])
        return cls(entries.pop("__metadata__"), entries, content[8 + size :])

    def to_bytes(self) -> bytes:
        """Return the file with this header."""
        header = json.dumps({"__metadata__": self.metadata, **self.entries}).encode()
        return len(header).to_bytes(8, "little") + header + self.data

    def repair(self) -> None:
        """Write the checksum of the metadata and the arrays, by code that is independent of padless."""
        metadata = {key: value for key, value in self.metadata.items() if key != "padless.checksum"}
        if not all(isinstance(value, str) for value in metadata.values()):
            return
        checksum = zlib.crc32(json.dumps(sorted(metadata.items())).encode())
        try:
            for name, entry in sorted(self.entries.items()):
                dtype, (begin, end) = TEXT_OF_DTYPE[entry["dtype"]], entry["data_offsets"]
                checksum = zlib.crc32(f"{name} {dtype} {tuple(entry['shape'])}".encode(), checksum)
                checksum = zlib.crc32(self.data[begin:end], checksum)
        except (KeyError, TypeError, ValueError):
            return  # an entry that was changed: the file is refused before the checksum is read
        self.metadata["padless.checksum"] = f"{checksum:08x}"


# ------------------------------------------------------------------------------------------------ changes of bytes


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    """Return a file with a few changed, removed or added bytes."""
    forged = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        position = rng.randrange(len(forged) + 1)
        match rng.randrange(7):
            case 0 if position < len(forged):
                forged[position] ^= 1 << rng.randrange(8)
            case 1 if position < len(forged):
                forged[position] = rng.randrange(256)
            case 2:
                del forged[position : position + rng.choice((1, 7, 8, 100))]
            case 3:
                forged[position:position] = rng.randbytes(rng.choice((1, 8, 50)))
            case 4:
                del forged[position:]
            case 5:
                forged[position:position] = forged[:position][-rng.choice((1, 8, 64)) :]
            case _:
                number = rng.choice((0, 1, len(forged), 2**31, 2**62, 2**64 - 1))
                forged[:8] = number.to_bytes(8, "little")
        if not forged:
            break
    return bytes(forged)


# ------------------------------------------------------------------------------------------------ changes of values

NAMES = (
    "torch.load torch.save torch.Tensor.__torch_function__ torch.Tensor.apply_ torch.relu torch.cat torch.Tensor.repeat "
    "torch.from_file torch.set_num_threads os.system builtins.eval Lambda __lambda__ function TorchFunction Dense Embedding "
    "TorchModuleWrapper Bidirectional TimeDistributed RNN LSTM GRUCell StackedRNNCells Sequential Functional Model Layer "
    "InputLayer Input Masking Conv1D Add Concatenate relu softmax l2 max_norm zeros glorot_uniform Constant Identity "
    "__tuple__ __slice__ __dtype__ __tensor__ __ellipsis__ __keras_tensor__ __numpy__ float32 float64 load int8 "
    "bool same valid causal concat sum name trainable dtype units activation layer cell config class_name registered_name "
    "Custom>Dense fuzz>Registered MeanSquaredError Adam"
).split()
NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    5,
    17,
    1000,
    65_537,
    10**6,
    10**9,
    10**12,
    2**31,
    2**63 - 1,
    2**63,
    -(2**63),
    10**30,
    0.5,
    -2.5,
    1e308,
)


def attack_value(rng: random.Random, depth: int = 0) -> Any:
    """Return a value for any place of a config."""
    match rng.randrange(12 if depth < 3 else 5):
        case 0 | 1:
            return rng.choice(NUMBERS)
        case 2 | 3:
            return rng.choice(NAMES)
        case 4:
            return rng.choice((None, True, False, "", [], {}, "\ud800", "a" * 300, {"~": "float", "of": "nan"}))
        case 5:
            return [attack_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case 6:
            return {rng.choice(NAMES): attack_value(rng, depth + 1) for _ in range(rng.randrange(3))}
        case 7:
            return {"class_name": rng.choice(NAMES), "config": attack_value(rng, depth + 1)}
        case 8:
            history = [rng.choice(("x", "dense", "torch_function", 3)), rng.choice((0, 1, -1)), rng.choice((0, 1, -1))]
            return {"class_name": "__keras_tensor__", "config": {"keras_history": history}}
        case 9:
            return {"class_name": rng.choice(NAMES), "items": attack_value(rng, depth + 1), "name": rng.choice(NAMES)}
        case 10:
            value: Any = attack_value(rng, depth + 1)
            for _ in range(rng.choice((2, 10, 70, 200))):
                value = [value] if rng.random() < 0.5 else {"config": value}
            return value
        case _:
            return {
                "class_name": "__numpy__",
                "config": {"value": [1], "dtype": rng.choice(("S1000000000", "O", "float32", 3))},
            }


def mutate_value(rng: random.Random, value: Any, donor: Any) -> Any:
    """Return JSON values with a few changes; parts of `donor`, another config, may replace parts of them."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        containers = containers_in(value)
        if not containers:
            return attack_value(rng)
        container = rng.choice(containers)
        keys = list(container) if isinstance(container, dict) else list(range(len(container)))
        if not keys:
            continue
        key = rng.choice(keys)
        match rng.randrange(8):
            case 0 | 1 | 2:
                container[key] = attack_value(rng)
            case 3:
                del container[key]
            case 4:
                container[key] = copy.deepcopy(rng.choice(containers_in(donor)))
            case 5:
                container[key] = copy.deepcopy(container[rng.choice(keys)])
            case 6 if isinstance(container, dict):
                container[rng.choice(NAMES)] = container.pop(key)
            case _ if isinstance(container, list):
                container.insert(key, copy.deepcopy(container[key]))
            case _:
                container[key] = copy.deepcopy(rng.choice(containers))
    return value


def containers_in(value: Any) -> list[Any]:
    """Return all lists and dictionaries in a value, itself included."""
    found, stack = [], [value]
    while stack:
        item = stack.pop()
        if isinstance(item, list | dict):
            found.append(item)
            stack.extend(item.values() if isinstance(item, dict) else item)
    return found


def mutate_header(rng: random.Random, file: File) -> None:
    """Change the descriptions of arrays, or the metadata."""
    if rng.random() < 0.3 or not file.entries:
        key = rng.choice(["padless.format", "padless.checksum", "padless.config", "padless.crc32", "other"])
        file.metadata[key] = rng.choice(
            ("", "0", "1", "2", "999", "x", "{}", "[]", "null", "NaN", "[" * 100, '{"a":1,"a":2}', 3, None)
        )
        if rng.random() < 0.3:
            file.metadata.pop(key)
        return
    name = rng.choice(list(file.entries))
    entry = file.entries[name]
    match rng.randrange(8):
        case 0:
            entry["dtype"] = rng.choice(("F32", "F64", "I64", "BOOL", "C64", "BF16", "F16", "I32", "X", 3, None))
        case 1:
            entry["shape"] = mutate_value(rng, entry["shape"], [[1], 2])
        case 2:
            entry["data_offsets"] = mutate_value(rng, entry["data_offsets"], [[1], 2])
        case 3:
            file.entries[rng.choice(("", "a", "/", "dense/kernel", "dense_01/kernel", "__metadata__", "\ud800", "x\ny"))] = (
                file.entries.pop(name)
            )
        case 4:
            file.entries.pop(name)
        case 5:
            file.entries[name + "_1"] = dict(entry)
        case 6:
            entry["shape"] = entry["shape"][::-1]
        case _:
            file.data = file.data + rng.randbytes(rng.choice((1, 8))) if rng.random() < 0.5 else file.data[:-1]


# ------------------------------------------------------------------------------------------------ the end of a case


def process_state() -> dict[str, object]:
    """Return what loading a file must not change."""
    return {
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "random numbers of torch": torch.get_rng_state().numpy().tobytes(),
        "random numbers of NumPy": np.random.get_state()[1].tobytes(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "names": dict(node._names._counts),
        "registered": dict(get_custom_objects()),
        "tables": {kind: len(table) for kind, table in registry._tables.items()},
        "warnings": list(warnings.filters),
        "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark),
        "version": padless.__version__,
    }


def end_of(load: Callable[[Path], object], content: bytes) -> str:
    """Load a forged file, check that the end is clean, and return its label.

    Raises:
        AssertionError: the state of the process has changed.
        Exception: any error that is not of padless.
    """
    PATH.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about some calls
        before = process_state()
        try:
            load(PATH)
            label = "loaded"
        except PadlessError as error:
            label = type(error).__name__
        after = process_state()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"changed: {changed}"
    return label
