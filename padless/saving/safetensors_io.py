"""Read and write arrays and JSON in safetensors files. No file is unpickled.

A file is written to a temporary file in the same folder, which is synchronized and then renamed. After a crash or with a
full disk there is the old file or the new one, never a part of a file.
"""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from padless.errors import DataError, NotWritten
from padless.saving.serialization import JsonValue

CONFIG_KEY = "padless.config"  # in the metadata of a file
CHECKSUM_KEY = "padless.crc32"


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a temporary file, which replaces `path` at the end of the block.

    If the block raises an error, the temporary file is removed and the file at `path` is unchanged.

    Raises:
        FileNotFoundError: The folder does not exist.
        NotWritten: The folder is not writable, or the disk is full.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_write(Path(folder) / "note") as temporary:
        ...         _ = temporary.write_text("complete")
        ...     (Path(folder) / "note").read_text()
        'complete'
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"The folder {os.fspath(target.parent)!r} for {target.name!r} does not exist.")
    temporary = None
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _synchronize(temporary)
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, target)
        _synchronize(target.parent)
    except OSError as error:
        raise NotWritten(
            error.errno,
            f"{error.strerror or error}; nothing was written, and the file that was there before is unchanged. Free some "
            f"space, or choose another folder",
            os.fspath(target),
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write(path: str | os.PathLike[str], arrays: Mapping[str, Tensor], config: JsonValue = None) -> None:
    """Write arrays and a config to one safetensors file, with a checksum that `read` verifies.

    Args:
        path: The file. An existing file is replaced.
        arrays: The arrays, by name.
        config: JSON values.

    Raises:
        FileNotFoundError: The folder does not exist.
        NotWritten: The folder is not writable, or the disk is full.
    """
    host_arrays = _to_host(arrays)
    text = "" if config is None else json.dumps(config)
    metadata = {CHECKSUM_KEY: _checksum(host_arrays, text)}
    if config is not None:
        metadata[CONFIG_KEY] = text
    with atomic_write(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(host_arrays, metadata))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], JsonValue]:
    """Return the arrays of a safetensors file, by name, and its config; None if it has no config.

    Raises:
        FileNotFoundError: The file does not exist.
        DataError: The file is not a complete safetensors file, or does not match its checksum.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"The file {os.fspath(path)!r} does not exist.")
    try:
        with safetensors.safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"{os.fspath(path)!r} is not a complete safetensors file: {error}.") from error
    text = metadata.get(CONFIG_KEY, "")
    checksum = _checksum(arrays, text)
    if metadata.get(CHECKSUM_KEY, checksum) != checksum:
        raise DataError(
            f"{os.fspath(path)!r} is damaged: its contents do not match the checksum that was written with them. "
            f"Use another copy of the file."
        )
    return arrays, json.loads(text) if text else None


def writable_folder(path: str | os.PathLike[str]) -> Path:
    """Return a folder, which is created with its parents if it does not exist.

    Raises:
        NotWritten: The folder cannot be created, or no file can be written to it.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return Path(path)
    except OSError as error:
        raise NotWritten(
            error.errno,
            f"{error.strerror or error}; no file can be written to this folder. Choose another one, or check its "
            f"permissions",
            os.fspath(path),
        ) from error


def _checksum(arrays: Mapping[str, Tensor], text: str) -> str:
    """Return the CRC-32 of the config and of the names, dtypes, shapes and bytes of all arrays, in hexadecimal."""
    checksum = zlib.crc32(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        checksum = zlib.crc32(f"{name} {array.dtype} {tuple(array.shape)}".encode(), checksum)
        if array.numel():
            checksum = zlib.crc32(array.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return f"{checksum:08x}"


def _synchronize(path: Path) -> None:
    """Wait until a file, or the names in a folder, are stored on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _to_host(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the arrays on the CPU, contiguous; arrays that share memory are copied, because safetensors refuses them."""
    storages: set[int] = set()
    host_arrays = {}
    for name, tensor in arrays.items():
        array = tensor.detach().cpu().contiguous()
        storage = array.untyped_storage().data_ptr()
        host_arrays[name] = array.clone() if storage in storages else array
        storages.add(storage)
    return host_arrays


def _umask() -> int:
    """Return the mask of file permissions of the process."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
