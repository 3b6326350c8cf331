"""Weights and archives on disk: dictionaries of arrays and JSON, as safetensors. Nothing is ever unpickled.

Whatever is written here is written beside its place, synced and moved there, and the folder synced: a reader, a crash or a
full disk meets the old file or the new one, never a part of either.
"""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from padless.errors import DataError, NotWritten

_CONFIG, _SUM = "padless.config", "padless.crc32"


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place when all went well and is gone when not.

    Raises `FileNotFoundError` if the folder is missing, `NotWritten` if it takes no file or is full: then what stood at
    `path` still stands there.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "note") as beside:
    ...         _ = beside.write_text("all of it")
    ...     (Path(folder) / "note").read_text()
    'all of it'
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {os.fspath(target.parent)!r} to write {target.name!r} into.")
    beside = None
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
        beside = Path(name)
        yield beside
        _sync(beside)
        beside.chmod(0o666 & ~_umask())
        os.replace(beside, target)
        _sync(target.parent)
    except BaseException as wrong:
        if beside is not None:
            beside.unlink(missing_ok=True)
        if not isinstance(wrong, OSError):
            raise
        raise NotWritten(
            wrong.errno,
            f"{wrong.strerror or wrong}; nothing was written, and what stood there before is "
            f"untouched. Make room, or choose another folder",
            os.fspath(target),
        ) from wrong


def write(path: str | os.PathLike[str], arrays: Mapping[str, Tensor], config: Any = None) -> None:
    """Arrays by name, and a config, in one safetensors file, with a sum by which `read` knows that they are whole."""
    arrays = _apart(arrays)
    text = "" if config is None else json.dumps(config)
    metadata = {_SUM: _sum(arrays, text)} if config is None else {_SUM: _sum(arrays, text), _CONFIG: text}
    with atomic_write(path) as beside:
        beside.write_bytes(safetensors.torch.save(arrays, metadata))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], Any]:
    """The arrays of a file, and its config if it has one.

    Raises `FileNotFoundError` if there is none, `DataError` if it is not a whole safetensors file or was changed since.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {os.fspath(path)!r}.")
    try:
        with safetensors.safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, ValueError, KeyError) as wrong:
        raise DataError(f"{os.fspath(path)!r} is not a whole safetensors file: {wrong}.") from wrong
    text = metadata.get(_CONFIG, "")
    if metadata.get(_SUM, _sum(arrays, text)) != _sum(arrays, text):
        raise DataError(
            f"{os.fspath(path)!r} is damaged: its contents do not add up to the sum that was written with them. "
            f"Take a copy from elsewhere."
        )
    return arrays, json.loads(text) if text else None


def writable_folder(path: str | os.PathLike[str]) -> Path:
    """A folder that takes files, made with those above it. Raises `NotWritten` if it cannot be."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return Path(path)
    except OSError as wrong:
        raise NotWritten(
            wrong.errno,
            f"{wrong.strerror or wrong}; this folder takes no files. Choose another, or see who may write there",
            os.fspath(path),
        ) from wrong


def _sum(arrays: Mapping[str, Tensor], text: str) -> str:
    """CRC-32 over names, dtypes, shapes, bytes and the config."""
    total = zlib.crc32(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        total = zlib.crc32(f"{name} {array.dtype} {tuple(array.shape)}".encode(), total)
        total = zlib.crc32(array.reshape(-1).view(torch.uint8).numpy().data, total) if array.numel() else total
    return f"{total:08x}"


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
