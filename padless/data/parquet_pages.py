"""Read the page headers of Parquet files, which pyarrow does not show, and compare them with the footer.

A page may have a checksum of its bytes. pyarrow verifies it. The checksum covers neither the header of the page nor the
footer of the file. The footer repeats what the headers say: the number of values, the sizes, the encodings. So a damaged
header contradicts the footer.

The headers are in Thrift's compact protocol (https://github.com/apache/thrift, doc/specs/thrift-compact-protocol.md). Their
fields are in https://github.com/apache/parquet-format (PageHeader).
"""

from __future__ import annotations

from typing import Any, BinaryIO, NamedTuple

_FOOTER_END = 8  # bytes: the length of the footer, and the name of the format
_USUAL_HEADER = 2**10
_MAX_HEADER = 2**20  # bytes; the longest part of a header are its smallest and largest value
_MAX_DEPTH = 12  # of structs and lists in each other; a footer has 7
_DATA, _INDEX, _DICTIONARY, _DATA_V2 = range(4)  # types of pages


class DamagedHeader(Exception):
    """A page header that cannot be read, or that contradicts the footer."""


class ColumnChunk(NamedTuple):
    """What the footer says of a column of a row group.

    Attributes:
        name: The column of the table.
        encodings: The numbers of the encodings of values and levels.
        num_values: The number of values. An empty list counts as one.
        uncompressed_size: The length of its pages in memory, with headers.
        compressed_size: The length of its pages in the file, with headers.
        offset: The position of its first page in the file.
    """

    name: str
    encodings: frozenset[int]
    num_values: int
    uncompressed_size: int
    compressed_size: int
    offset: int


class Page(NamedTuple):
    """What a page header says.

    Attributes:
        kind: The number of the type of the page.
        header_size: The length of the header in bytes.
        compressed_size: The length of the page in the file.
        uncompressed_size: The length of the page in memory.
        num_values: The number of values, 0 for the page of a dictionary.
        encodings: The numbers of the encodings of values and levels.
        has_checksum: Whether the header has a checksum of the page.
    """

    kind: int
    header_size: int
    compressed_size: int
    uncompressed_size: int
    num_values: int
    encodings: tuple[int, ...]
    has_checksum: bool


def read_column_chunks(file: BinaryIO, file_size: int) -> list[list[ColumnChunk]]:
    """Return what the footer says of the columns of each row group.

    pyarrow has this too, but ends the process for some damaged footers.

    Args:
        file: The file, open for reading bytes.
        file_size: Its length in bytes.

    Raises:
        DamagedHeader: For a footer that cannot be read.
    """
    file.seek(max(file_size - _FOOTER_END, 0))
    end = file.read(_FOOTER_END)
    length = int.from_bytes(end[:4], "little")
    if len(end) < _FOOTER_END or length > file_size - _FOOTER_END:
        raise DamagedHeader(f"a footer of {length} bytes in a file of {file_size}")
    file.seek(file_size - _FOOTER_END - length)
    fields, _ = _read_struct(file.read(length), 0, 0)
    return [[_column_chunk(column) for column in _list(group, 1)] for group in _list(fields, 4)]


def _column_chunk(column: object) -> ColumnChunk:
    details = column.get(3) if isinstance(column, dict) else None
    if not isinstance(details, dict):
        raise DamagedHeader("a column without its fields")
    path, encodings = _list(details, 3), _list(details, 2)
    offset = _integer(details, 9)
    return ColumnChunk(
        name=path[0].decode("utf-8", "replace") if path and isinstance(path[0], bytes) else "",
        encodings=frozenset(encodings),
        num_values=_integer(details, 5),
        uncompressed_size=_integer(details, 6),
        compressed_size=_integer(details, 7),
        offset=min(offset, _integer(details, 11) or offset) if 11 in details else offset,
    )


def pages_of(file: BinaryIO, chunk: ColumnChunk) -> list[Page]:
    """Return the pages of a column of a row group.

    Args:
        file: The file, open for reading bytes.
        chunk: What the footer says of the column.

    Raises:
        DamagedHeader: For a header that cannot be read, and for pages that end elsewhere than the footer says.
    """
    position, end = chunk.offset, chunk.offset + chunk.compressed_size
    pages: list[Page] = []
    while position < end:
        file.seek(position)
        data = file.read(min(_USUAL_HEADER, end - position))
        try:
            page = parse_page_header(data)
        except DamagedHeader:  # it may be cut off, because it is longer than usual
            page = parse_page_header(data + file.read(min(_MAX_HEADER, end - position) - len(data)))
        pages.append(page)
        position += page.header_size + page.compressed_size
    if position != end:
        raise DamagedHeader(f"its pages end at byte {position}, but the footer says {end}")
    return pages


def check_pages(chunk: ColumnChunk, pages: list[Page]) -> None:
    """Raise `DamagedHeader` for pages of which the footer says something else."""
    num_values = sum(page.num_values for page in pages)
    if num_values != chunk.num_values:
        raise DamagedHeader(f"its pages hold {num_values} values, but the footer says {chunk.num_values}")
    size = sum(page.header_size + page.uncompressed_size for page in pages)
    if size != chunk.uncompressed_size:
        raise DamagedHeader(f"its pages have {size} bytes, but the footer says {chunk.uncompressed_size}")
    encodings = {number for page in pages for number in page.encodings}
    if not encodings <= chunk.encodings:
        raise DamagedHeader(
            f"its pages have the encodings {sorted(encodings)}, but the footer says {sorted(chunk.encodings)}"
        )


def parse_page_header(data: bytes) -> Page:
    """Return what a page header says.

    Raises:
        DamagedHeader: For bytes that are not a header.
    """
    fields, size = _read_struct(data, 0, 0)
    kind = _integer(fields, 1)
    detail = fields.get({_DATA: 5, _INDEX: 6, _DICTIONARY: 7, _DATA_V2: 8}.get(kind, -1))
    if kind not in (_DATA, _INDEX, _DICTIONARY, _DATA_V2) or not isinstance(detail, dict):
        raise DamagedHeader(f"a page header of type {kind} without its fields")
    encoding_fields = {_DATA: (2, 3, 4), _DICTIONARY: (2,), _DATA_V2: (4,)}.get(kind, ())
    return Page(
        kind,
        size,
        compressed_size=_integer(fields, 3),
        uncompressed_size=_integer(fields, 2),
        num_values=_integer(detail, 1) if kind in (_DATA, _DATA_V2) else 0,
        encodings=tuple(_integer(detail, field) for field in encoding_fields),
        has_checksum=4 in fields,
    )


def _integer(fields: dict[int, Any], field: int) -> int:
    value = fields.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise DamagedHeader(f"a page header with {value!r} in field {field}")
    return value


def _read_struct(data: bytes, position: int, depth: int) -> tuple[dict[int, Any], int]:
    """Return the fields of a struct by number, and the position after it."""
    if depth > _MAX_DEPTH:
        raise DamagedHeader("a page header with too many nested structs")
    fields: dict[int, Any] = {}
    number = 0
    while True:
        byte, position = _read_byte(data, position)
        if byte == 0:
            return fields, position
        kind, delta = byte & 15, byte >> 4
        if delta:
            number += delta
        else:
            number, position = _read_zigzag(data, position)
        if kind in (1, 2):  # booleans are in the type
            value: Any = kind == 1
        else:
            value, position = _read_value(data, position, kind, depth)
        fields[number] = value


def _read_value(data: bytes, position: int, kind: int, depth: int) -> tuple[Any, int]:
    """Return a value of a type of the compact protocol, and the position after it. There are no maps in the format."""
    if kind == 3:
        return _read_byte(data, position)
    if kind in (4, 5, 6):
        return _read_zigzag(data, position)
    if kind == 8:
        length, position = _read_varint(data, position)
        if length > len(data) - position:
            raise DamagedHeader("a header that is cut off")
        return data[position : position + length], position + length
    if kind == 12:
        return _read_struct(data, position, depth + 1)
    if kind == 7:
        if len(data) - position < 8:
            raise DamagedHeader("a header that is cut off")
        return None, position + 8
    if kind in (9, 10):
        return _read_list(data, position, depth + 1)
    raise DamagedHeader(f"a page header with a field of type {kind}")


def _read_list(data: bytes, position: int, depth: int) -> tuple[list[Any], int]:
    """Return the entries of a list, and the position after it. Each entry has at least one byte."""
    if depth > _MAX_DEPTH:
        raise DamagedHeader("a header with too many nested lists")
    byte, position = _read_byte(data, position)
    length, kind = byte >> 4, byte & 15
    if length == 15:
        length, position = _read_varint(data, position)
    if length > len(data) - position:
        raise DamagedHeader("a header that is cut off")
    entries: list[Any] = []
    for _ in range(length):
        entry, position = _read_byte(data, position) if kind in (1, 2) else _read_value(data, position, kind, depth)
        entries.append(entry)
    return entries, position


def _list(fields: object, field: int) -> list[Any]:
    value = fields.get(field) if isinstance(fields, dict) else None
    if not isinstance(value, list):
        raise DamagedHeader(f"a footer with {value!r:.40} in field {field}")
    return value


def _read_byte(data: bytes, position: int) -> tuple[int, int]:
    if position >= len(data):
        raise DamagedHeader("a header that is cut off")
    return data[position], position + 1


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte, position = _read_byte(data, position)
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise DamagedHeader("a page header with an integer of more than 64 bits")


def _read_zigzag(data: bytes, position: int) -> tuple[int, int]:
    value, position = _read_varint(data, position)
    return (value >> 1) ^ -(value & 1), position
