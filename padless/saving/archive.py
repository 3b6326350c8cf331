"""Weights and archives on disk: dictionaries of arrays and JSON, as safetensors. Nothing is ever unpickled."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from padless.errors import DataError

_CONFIG = "padless.config"


def write(path: str | os.PathLike[str], arrays: Mapping[str, Tensor], config: Any = None) -> None:
    """Arrays by name, and a config, in one safetensors file.

    The file is written beside its place and then moved there, so that a reader, or a crash, meets the old or the new.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {os.fspath(target.parent)!r} to write {target.name!r} into.")
    metadata = {} if config is None else {_CONFIG: json.dumps(config)}
    data = safetensors.torch.save(_apart(arrays), metadata)
    handle, beside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, target)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], Any]:
    """The arrays of a file, and its config if it has one.

    Raises `FileNotFoundError` if there is none, `DataError` if it is not a whole safetensors file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {os.fspath(path)!r}.")
    try:
        with safetensors.safe_open(os.fspath(path), framework="pt") as file:
            config = (file.metadata() or {}).get(_CONFIG)
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError as wrong:
        raise DataError(f"{os.fspath(path)!r} is not a whole safetensors file: {wrong}.") from wrong
    return arrays, None if config is None else json.loads(config)


def _apart(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The arrays on the host, each with memory of its own."""
    seen: set[int] = set()
    found = {}
    for name, array in arrays.items():
        array = array.detach().cpu().contiguous()
        place = array.untyped_storage().data_ptr()
        found[name] = array.clone() if place in seen else array
        seen.add(place)
    return found


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
