"""Read and write arrays and JSON in safetensors files. No file is unpickled.

A file is written to a temporary file in the same folder, which is synchronized and then renamed. After a crash or with a
full disk there is the old file or the new one, never a part of a file.

A file is read once, from the beginning to the end, into memory of this process. It is not mapped, since a file that
shrinks while it is mapped ends the process. The header is checked before any array is read: the arrays fill the file
without gaps, so memory is never larger than what the file contains. The metadata of the header have these entries:

    padless.format      the version of the format; files of padless 0.1.0 have none
    padless.checksum    the CRC-32 of the other metadata and of all arrays
    padless.config      JSON text
"""

from __future__ import annotations

import io
import json
import math
import os
import pickletools
import re
import stat
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from padless.errors import ArgumentError, DataError, FileMissing, NotLoaded, NotWritten
from padless.saving import json_text
from padless.saving.serialization import JsonValue
from padless.saving.targets import copy_permissions, create_temporary, resolve_target

FORMAT = 1  # the version that `write` writes, and the newest that `read` reads
FORMAT_KEY = "padless.format"  # in the metadata of a file
CHECKSUM_KEY = "padless.checksum"
CONFIG_KEY = "padless.config"
OLD_CHECKSUM_KEY = "padless.crc32"  # of padless 0.1.0, which covers the config and the arrays

MAX_HEADER = 2**26  # bytes
MAX_AXES = 32
_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}
_CALLING_OPCODES = set("GLOBAL STACK_GLOBAL INST OBJ NEWOBJ NEWOBJ_EX REDUCE BUILD EXT1 EXT2 EXT4".split())


@dataclass(frozen=True)
class _Entry:
    """An array as the header of a file describes it."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int  # in bytes after the header
    end: int


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a temporary file, which replaces `path` at the end of the block.

    If the block raises an error, the temporary file is removed and the file at `path` is unchanged. A link stays a link:
    the file to which it leads is replaced. The permissions of an existing file are kept.

    Raises:
        FileNotFoundError: The folder does not exist.
        NotWritten: The folder is not writable, the disk is full, or the path is not one of a file.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_write(Path(folder) / "note") as temporary:
        ...         _ = temporary.write_text("complete")
        ...     (Path(folder) / "note").read_text()
        'complete'
    """
    target = resolve_target(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"The folder {os.fspath(target.parent)!r} for {target.name!r} does not exist.")
    temporary = None
    try:
        temporary = create_temporary(target)
        yield temporary
        copy_permissions(target, temporary)
        _synchronize(temporary)
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


def write(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Tensor],
    config: JsonValue = None,
    more_metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays and a config to one safetensors file, with a checksum that `read` verifies.

    Args:
        path: The file. An existing file is replaced.
        arrays: The arrays, by name.
        config: JSON values.
        more_metadata: Texts of the caller, by their keys in the metadata.

    Raises:
        ArgumentError: The config or the header is too large to be read again.
        FileNotFoundError: The folder does not exist.
        NotWritten: The folder is not writable, or the disk is full.
    """
    host_arrays = _to_host(arrays)
    metadata = {**(more_metadata or {}), FORMAT_KEY: str(FORMAT)}
    if config is not None:
        metadata[CONFIG_KEY] = json_text.encode(config)
    metadata[CHECKSUM_KEY] = _checksum(host_arrays, metadata)
    content = safetensors.torch.save(host_arrays, metadata)
    if int.from_bytes(content[:8], "little") > MAX_HEADER:
        raise ArgumentError(
            f"The names of {len(arrays)} arrays and the config have more than {MAX_HEADER} bytes, which could not be read. "
            f"Save fewer layers in one file."
        )
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def read(path: str | os.PathLike[str], foreign: bool = False) -> tuple[dict[str, Tensor], JsonValue]:
    """Return the arrays of a safetensors file, by name, and its config; None if it has no config.

    The arrays are in memory of this process. They do not change when the file does.

    Args:
        path: The file.
        foreign: Whether a file of another program, which has no checksum of padless, is accepted.

    Raises:
        FileMissing: The file does not exist.
        NotLoaded: It is not a regular file, not a complete safetensors file, does not match its checksum, or was written
            by a newer version of padless.
    """
    name = os.fspath(path)
    with _open_regular_file(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            _check_single_format(file, size)
            metadata, entries = _read_header(file, size)
            arrays = {entry.name: _read_array(file, entry) for entry in entries}
            if file.read(1):
                raise DataError("it grew while it was read.")
        except OSError as error:
            raise NotLoaded(f"{name!r} cannot be read: {error.strerror or error}.") from error
        except DataError as error:
            raise NotLoaded(f"{name!r} is not a complete safetensors file of one format: {error}") from error
    try:
        return dict(sorted(arrays.items())), _read_config(arrays, metadata, foreign)
    except DataError as error:
        raise NotLoaded(f"{name!r} cannot be loaded: {error}") from error


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


# ------------------------------------------------------------------------------------------------ reading


def _open_regular_file(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file, or a link to one, for reading. A pipe or a device is refused without waiting for it."""
    name = os.fspath(path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # flags that not every system has
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise NotLoaded(f"{name!r} is not a regular file: it is a folder, a pipe or a device. Expected a file.")
        handle = os.open(path, flags)
    except FileNotFoundError as error:
        raise FileMissing(f"The file {name!r} does not exist.") from error
    except (OSError, ValueError) as error:  # ValueError for a name with a null character
        raise NotLoaded(f"{name!r:.300} cannot be read: {error}.") from error
    file = os.fdopen(handle, "rb")
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        file.close()
        raise NotLoaded(f"{name!r} is not a regular file any more. Expected a file that does not change.")
    return file


def _check_single_format(file: io.BufferedReader, size: int) -> None:
    """Raise `DataError` if a file can also be read as a zip archive, an HDF5 file or a pickle that calls something.

    Other programs open such a file by its second format, and that format can run code there.
    """
    offset = 0
    while offset < size:
        file.seek(offset)
        if file.read(8) == b"\x89HDF\r\n\x1a\n":
            raise DataError(f"it is an HDF5 file, too, from byte {offset}.")
        offset = 2 * offset or 512
    tail_size = min(size, 2**16 + 22)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    position = tail.rfind(b"PK\x05\x06")
    while position >= 0:
        directory_size = int.from_bytes(tail[position + 12 : position + 16], "little")
        start = size - tail_size + position - directory_size
        is_zip64 = tail[max(position - 20, 0) : position].startswith(b"PK\x06\x07")
        if start >= 0:
            file.seek(start)
        if is_zip64 or start >= 0 and file.read(4) == b"PK\x01\x02":
            raise DataError("it is a zip archive, too.")
        position = tail.rfind(b"PK\x05\x06", 0, position)
    file.seek(0)
    opcodes = set()
    try:
        for opcode, _, _ in pickletools.genops(file):
            opcodes.add(opcode.name)
    except Exception:  # pickletools raises errors of many classes for what is not a pickle, as it is expected to be
        opcodes = set()
    if opcodes & _CALLING_OPCODES:
        raise DataError(f"it is a pickle, too, with {', '.join(sorted(opcodes & _CALLING_OPCODES))}.")
    file.seek(0)


def _read_header(file: io.BufferedReader, size: int) -> tuple[dict[str, str], list[_Entry]]:
    """Return the metadata of a file, and its arrays in the order of their bytes, which fill the file without gaps."""
    header_size = int.from_bytes(file.read(8), "little")
    if size < 8 or header_size > min(size - 8, MAX_HEADER):
        raise DataError(f"its {size} bytes do not begin with the length of a header.")
    content = file.read(header_size)
    if len(content) < header_size or content[:1] != b"{":
        raise DataError("its header is not a dictionary.")
    try:
        header = json_text.decode(content.decode(), max_length=MAX_HEADER)
    except UnicodeDecodeError as error:
        raise DataError(f"its header is not UTF-8: {error}.") from error
    metadata = header.pop("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise DataError("its metadata are not a dictionary of strings.")
    entries = sorted((_entry(name, value) for name, value in header.items()), key=lambda entry: (entry.begin, entry.end))
    position = 0
    for entry in entries:
        if entry.begin != position:
            raise DataError(f"array {entry.name!r} begins at byte {entry.begin} of the data. Expected {position}.")
        position = entry.end
    if 8 + header_size + position != size:
        raise DataError(f"its header describes {8 + header_size + position} bytes, and there are {size}.")
    return metadata, entries


def _entry(name: str, value: JsonValue) -> _Entry:
    """Return the description of an array; raise `DataError` if it is malformed."""
    if isinstance(value, dict) and set(value) == {"dtype", "shape", "data_offsets"}:
        shape, offsets, dtype = value["shape"], value["data_offsets"], value["dtype"]
        is_list = isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2
        if is_list and all(type(number) is int and number >= 0 for number in (*shape, *offsets)):
            if not isinstance(dtype, str) or dtype not in _DTYPES:
                raise DataError(f"array {name!r} has the dtype {dtype!r:.100}. Expected one of {', '.join(_DTYPES)}.")
            entry = _Entry(name, _DTYPES[dtype], tuple(shape), *offsets)
            if len(shape) <= MAX_AXES and math.prod(shape) * entry.dtype.itemsize == entry.end - entry.begin:
                return entry
    raise DataError(
        f"array {name!r:.100} has the description {value!r:.200}. Expected a dtype, and a shape of that many bytes."
    )


def _read_array(file: io.BufferedReader, entry: _Entry) -> Tensor:
    """Read the next array of a file."""
    if entry.begin == entry.end:
        return torch.empty(entry.shape, dtype=entry.dtype)
    content = torch.empty(entry.end - entry.begin, dtype=torch.uint8)
    view = content.numpy().data
    while view:
        count = file.readinto(view)
        if not count:
            raise DataError("it became shorter while it was read.")
        view = view[count:]
    if entry.dtype == torch.bool and int(content.max()) > 1:
        raise DataError(f"array {entry.name!r} of booleans has the byte {int(content.max())}. Expected 0 or 1.")
    return content.view(entry.dtype).reshape(entry.shape)


def _read_config(arrays: Mapping[str, Tensor], metadata: Mapping[str, str], foreign: bool) -> JsonValue:
    """Verify the version and the checksum of a file, and return its config."""
    version = metadata.get(FORMAT_KEY)
    if version is None and OLD_CHECKSUM_KEY not in metadata:
        if foreign:
            return None
        raise DataError(
            "it has no checksum of padless, so it was written by another program or has been changed. If you expect weights "
            "of another program, use load_weights(path, foreign=True)."
        )
    if version is not None and not re.fullmatch(r"[1-9]\d{0,8}", version, re.ASCII):
        raise DataError(f"it is damaged: its format is {version!r:.100}. Expected a number. Use another copy of the file.")
    if version is not None and int(version) > FORMAT:
        raise DataError(
            f"a newer version of padless wrote it (format {version}). This version reads the formats up to {FORMAT}. Update "
            f"padless."
        )
    if version is None:
        key, checksum = OLD_CHECKSUM_KEY, _checksum_of_version_0_1_0(arrays, metadata.get(CONFIG_KEY, ""))
    else:
        key, checksum = CHECKSUM_KEY, _checksum(arrays, metadata)
    if metadata.get(key) != checksum:
        raise DataError(
            "it is damaged: its contents do not match the checksum that was written with them. Use another copy of the file."
        )
    text = metadata.get(CONFIG_KEY)
    return json_text.decode(text, allow_words=version is None) if text else None


# ------------------------------------------------------------------------------------------------ checksums


def _checksum(arrays: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the CRC-32, in hexadecimal, of all metadata except the checksum, and of all arrays."""
    text = json.dumps(sorted((key, value) for key, value in metadata.items() if key != CHECKSUM_KEY))
    return f"{_add_arrays(arrays, zlib.crc32(text.encode())):08x}"


def _checksum_of_version_0_1_0(arrays: Mapping[str, Tensor], text: str) -> str:
    """Return the CRC-32, in hexadecimal, of the config and of all arrays."""
    return f"{_add_arrays(arrays, zlib.crc32(text.encode())):08x}"


def _add_arrays(arrays: Mapping[str, Tensor], checksum: int) -> int:
    """Return the CRC-32 of what `checksum` covers, and of the names, dtypes, shapes and bytes of arrays."""
    for name in sorted(arrays):
        array = arrays[name]
        checksum = zlib.crc32(f"{name} {array.dtype} {tuple(array.shape)}".encode(), checksum)
        if array.numel():
            checksum = zlib.crc32(array.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum


# ------------------------------------------------------------------------------------------------ writing


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
