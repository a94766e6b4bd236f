"""Sizes that a Parquet file claims, checked before a reader allocates them.

pyarrow allocates what a page header asks for, up to 2 GB, before it looks at the page, and ends the program when it is
asked about a damaged footer. A damaged byte must not cost that, so footer and page headers are walked here first. Both
are Thrift structs in the compact protocol.
"""

from typing import IO, NoReturn

from telemetry.trace_file import fail

MAGIC = b"PAR1"
MAX_FOOTER_BYTES = 4 * 2**20
"""Ours have 600 bytes for each row group: this is enough for 400 million requests."""
MAX_GROUP_BYTES = 64 * 2**20
"""Of the columns of one row group, unpacked; a larger one may not fit in memory. Ours have 1.4 MB."""
MAX_GROUP_ROWS = 4 * 2**20
"""What these bytes hold of two numbers of 8 bytes; writers cut at a million unless told otherwise."""
MAX_PAGE_BYTES = 16 * 2**20
"""Of one page, unpacked; writers make pages of 1 MiB unless told otherwise."""
MAX_HEADER_BYTES = 16 * 1024
"""Of a page of numbers; it takes some 50 bytes."""
_DEPTH = 12
_TRUE, _FALSE, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LISTS, _STRUCT = 1, 2, 3, (4, 5, 6), 7, 8, (9, 10), 12
_ROW_GROUPS = 4
"""Field of the footer."""
_COLUMNS, _GROUP_ROWS = 1, 3
"""Fields of a row group."""
_CHUNK = 3
"""Field of a column: what is known of it."""
_PATH, _VALUES, _UNPACKED, _PACKED, _DATA_AT, _DICTIONARY_AT = 3, 5, 6, 7, 9, 11
"""Fields of what is known of a column."""
_PAGE_UNPACKED, _PAGE_PACKED = 2, 3
_PARTS = (5, 7, 8)
"""Fields of a page header: of a data page, a dictionary, and a second kind of data page; field 1 of each counts."""

Value = int | bytes | None | list["Value"] | dict[int, "Value"]


class _Damaged(Exception):
    """The bytes are no Thrift struct, or not the one expected."""


class _Compact:
    """Reads one struct."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.at = 0

    def struct(self, depth: int = _DEPTH) -> dict[int, Value]:
        """Field number -> value."""
        if depth == 0:
            raise _Damaged
        fields: dict[int, Value] = {}
        number = 0
        while (head := self._byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self._integer()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Value:
        if kind in _INTEGERS:
            return self._integer()
        if kind == _STRUCT:
            return self.struct(depth - 1)
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind in _LISTS:
            head = self._byte()
            count = head >> 4 if head >> 4 != 15 else self._varint()
            if count > len(self._content) - self.at:  # each takes a byte at least
                raise _Damaged
            return [self._item(head & 15, depth) for _ in range(count)]
        if kind not in (_TRUE, _FALSE, _BYTE, _DOUBLE):
            raise _Damaged
        self._bytes({_BYTE: 1, _DOUBLE: 8}.get(kind, 0))
        return None

    def _item(self, kind: int, depth: int) -> Value:
        """Of a list, where a truth takes a byte; as a field it is in the head."""
        return self._value(_BYTE if kind in (_TRUE, _FALSE) else kind, depth - 1)

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _bytes(self, size: int) -> bytes:
        self.at += size
        if self.at > len(self._content):
            raise _Damaged
        return self._content[self.at - size : self.at]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 64, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise _Damaged

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


def check_sizes(stream: IO[bytes], wanted: frozenset[bytes], name: str) -> None:
    """Refuse a file whose footer or pages are damaged or too large to be read in bounded memory.

    Args:
        stream: The file.
        wanted: Names of the columns that will be read.
        name: Of the file.

    Raises:
        DataError: names file, byte and remedy.
    """
    size = stream.seek(0, 2)
    stream.seek(max(0, size - 8))
    tail = stream.read()
    footer_bytes = int.from_bytes(tail[:4], "little")
    if len(tail) < 8 or not tail.endswith(MAGIC) or footer_bytes > size - 12:
        fail(name, None, "the end of the file is missing or damaged; fetch it again or write it anew")
    if footer_bytes > MAX_FOOTER_BYTES:
        fail(name, None, f"its footer has {footer_bytes:,} bytes; write it anew with fewer, larger row groups")
    at = size - 8 - footer_bytes
    stream.seek(at)
    try:
        groups = _Compact(stream.read(footer_bytes)).struct()[_ROW_GROUPS]
        for index, group in enumerate(_list(groups)):
            for chunk in _wanted_chunks(_struct(group), wanted, index, name):
                _check_pages(stream, chunk, name)
    except (_Damaged, KeyError):
        fail(name, None, f"byte {at:,}: its footer is damaged; fetch it again or write it anew")


def _wanted_chunks(group: dict[int, Value], wanted: frozenset[bytes], index: int, name: str) -> list[dict[int, Value]]:
    """The columns of a row group that will be read."""
    rows = _int(group[_GROUP_ROWS])
    every = (_struct(_struct(column)[_CHUNK]) for column in _list(group[_COLUMNS]))
    chunks = [
        chunk for chunk in every if wanted.intersection(each for each in _list(chunk[_PATH]) if isinstance(each, bytes))
    ]
    unpacked_bytes = sum(_int(chunk[_UNPACKED]) for chunk in chunks)
    if unpacked_bytes > MAX_GROUP_BYTES or rows > MAX_GROUP_ROWS:
        text = (
            f"row group {index} has {rows:,} rows in {unpacked_bytes / 2**20:,.0f} MiB; write it anew with row groups "
            f"of at most {MAX_GROUP_ROWS:,} rows and {MAX_GROUP_BYTES // 2**20} MiB"
        )
        fail(name, None, text)
    if any(_int(chunk[_VALUES]) != rows for chunk in chunks):
        raise _Damaged
    return chunks if rows > 0 else []  # without rows there are no pages


def _check_pages(stream: IO[bytes], chunk: dict[int, Value], name: str) -> None:
    at = _int(chunk[_DATA_AT])
    dictionary_at = _int(chunk.get(_DICTIONARY_AT, 0))
    if 0 < dictionary_at < at:
        at = dictionary_at
    end, rows = at + _int(chunk[_PACKED]), _int(chunk[_VALUES])

    def damaged(text: str) -> NoReturn:
        fail(name, None, f"byte {at:,}: {text}; fetch it again or write it anew")

    while at < end:
        stream.seek(at)
        header = _Compact(stream.read(MAX_HEADER_BYTES))
        try:
            fields = header.struct()
            unpacked_bytes, packed_bytes = _int(fields[_PAGE_UNPACKED]), _int(fields[_PAGE_PACKED])
            counts = [_int(_struct(fields[part])[1]) for part in _PARTS if part in fields]
        except (_Damaged, KeyError):
            damaged("no header of a page")
        if max(unpacked_bytes, packed_bytes) > MAX_PAGE_BYTES:
            damaged(f"a page larger than {MAX_PAGE_BYTES // 2**20} MiB")
        if max(counts, default=0) > rows:
            damaged("a page with more values than its row group")
        at += header.at + packed_bytes


def _list(value: Value) -> list[Value]:
    if not isinstance(value, list):
        raise _Damaged
    return value


def _struct(value: Value) -> dict[int, Value]:
    if not isinstance(value, dict):
        raise _Damaged
    return value


def _int(value: Value) -> int:
    """A size or a place: never below 0."""
    if not isinstance(value, int) or value < 0:
        raise _Damaged
    return value
