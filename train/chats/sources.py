"""Files on the disk or in a zip archive: their bytes, unpacked, and the beginning by which their format is known."""

import gzip
import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import msgspec

from train.chats.checks import BYTE_ORDER_MARK, LONGEST_LINE
from train.chats.messages import natural_order
from train.core.errors import DataError, GovorError

Source = Path | zipfile.Path
"""A file, or a file in a zip archive, which is never unpacked to the disk."""

HEAD = 1 << 16  # bytes by which a format is known
MOST_UNPACKED = 4 << 30  # bytes of a zip's files together
MOST_FILES = 200_000  # of a zip
GZIP, ZSTD, ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"
DEEP = re.compile(rb"(?:\s*(?:\[|\{\s*\"[^\"]{0,99}\"\s*:)){200}")
"""The beginning of JSON that nests for nothing: ijson keeps a path for each level, and takes all memory there is."""
UTF16 = (b"\xff\xfe", b"\xfe\xff")
LISTS_OF_ROWS = ("data", "rows", "train", "training", "train_data", "training_data", "examples", "items", "samples",
                 "records", "dataset", "instances", "entries", "test", "validation", "valid", "eval")  # fmt: skip
"""Keys under which an object holds all rows of a file."""


@dataclass(frozen=True)
class Sample:
    """The beginning of a file."""

    source: Source
    head: bytes
    """The first HEAD bytes, without gzip or zstd around them and without a byte order mark."""

    @cached_property
    def text(self) -> str:
        """The head as UTF-8; what is none of it is replaced."""
        return self.head.decode("utf-8", errors="replace")

    @cached_property
    def start(self) -> str:
        """The first characters that are no white space."""
        return self.text[:4096].lstrip()[:16]

    @property
    def name(self) -> str:
        return self.source.name

    @cached_property
    def prefix(self) -> str | None:
        """Where ijson finds the records of JSON that is no JSONL; None where it is JSONL or none at all.

        "item" in a list, "rows.item" in the list of an object, "" where each object takes several lines.
        """
        if self.start.startswith("["):
            return "item"
        if not self.start.startswith("{"):
            return None
        first, others = self._head_lines
        if self._first_line and others:
            return None
        if key := next(lists_of_rows(self.source, LONGEST_LINE), None):
            return f"{key}.item"
        return "" if first.endswith(("{", "[", ",")) and self._first("") else None

    @cached_property
    def record(self) -> dict[str, Any]:
        """The first record of JSON or JSONL; empty where there is none."""
        if self.prefix is not None:
            return self._first(self.prefix)
        return (self._first_line or {}) if self.start.startswith("{") else {}

    @cached_property
    def _first_line(self) -> dict[str, Any] | None:
        """The object that is the first line that is not blank; None where it is none by itself."""
        with open_unpacked(self.source) as file:
            line = skip_byte_order_mark(file).readline(LONGEST_LINE)
            while line and not line.strip():
                line = file.readline(LONGEST_LINE)
        try:
            value = msgspec.json.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    @property
    def _head_lines(self) -> tuple[str, str]:
        """The first line that is not blank, and the others, without white space around them."""
        first, _, others = self.text.lstrip().partition("\n")
        return first.rstrip(), others.strip()

    def _first(self, prefix: str) -> dict[str, Any]:
        """The first value there, if it is an object and within LONGEST_LINE; else empty."""
        import ijson

        try:
            with open_unpacked(self.source) as file:
                start = Beginning(skip_byte_order_mark(file), LONGEST_LINE)
                value = next(ijson.items(start, prefix, use_float=True, multiple_values=not prefix), None)
        except (ijson.JSONError, ValueError, *unpacking_errors()):
            return {}
        return value if isinstance(value, dict) else {}


class Beginning:
    """The first `size` bytes of a file, read as they are asked for."""

    def __init__(self, file: io.BufferedReader, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int) -> bytes:
        block = self._file.read(min(size, self._left))
        self._left -= len(block)
        return block


def lists_of_rows(source: Source, size: int = -1) -> Iterator[str]:
    """The keys of LISTS_OF_ROWS under which the first `size` bytes of an object hold lists of objects."""
    import ijson

    with suppress(ijson.JSONError, ValueError, *unpacking_errors()), open_unpacked(source) as file:
        start = skip_byte_order_mark(file)
        found = None
        for prefix, event, _ in ijson.parse(start if size < 0 else Beginning(start, size), use_float=True):
            key, is_item, _ = prefix.partition(".item")
            if event == "start_map" and is_item and key in LISTS_OF_ROWS and key != found:
                yield (found := key)


def open_unpacked(source: Source) -> io.BufferedReader:
    """The file's bytes; of a file on the disk without gzip or zstd around them."""
    if isinstance(source, zipfile.Path):
        try:
            return cast(io.BufferedReader, source.open("rb"))
        except (ValueError, RuntimeError, KeyError) as error:  # zipfile's of an archive that is damaged
            raise zipfile.BadZipFile(str(error)) from None
    with source.open("rb") as file:
        magic = file.read(4)
    if magic[:2] == GZIP:
        return cast(io.BufferedReader, gzip.open(source))
    if magic == ZSTD:
        import zstandard

        return io.BufferedReader(zstandard.open(source))
    return source.open("rb")


def unpacking_errors() -> tuple[type[Exception], ...]:
    """What reading a file that is cut off or damaged inside its packing raises."""
    import zlib

    errors: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error, zipfile.BadZipFile, NotImplementedError)
    try:
        from zstandard import ZstdError
    except ImportError:
        return errors
    return (*errors, ZstdError)


def skip_byte_order_mark(file: io.BufferedReader) -> io.BufferedReader:
    """The file, at its first byte behind a byte order mark."""
    if file.peek(len(BYTE_ORDER_MARK)).startswith(BYTE_ORDER_MARK):
        file.read(len(BYTE_ORDER_MARK))
    return file


def sample_of(source: Source) -> Sample:
    """The file's beginning; DataError where it cannot be unpacked."""
    try:
        with open_unpacked(source) as file:
            head = file.read(HEAD).removeprefix(BYTE_ORDER_MARK)
    except unpacking_errors() as error:
        raise DataError(f"{source}: cannot be unpacked: {error}") from None
    if DEEP.match(head):
        raise DataError(f"{source}: nested too deep: rows are messages with text")
    return Sample(source, head)


def open_zip(path: Path) -> zipfile.Path:
    """The archive as a folder; GovorError where it is damaged, locked, or would unpack to more than MOST_UNPACKED."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise GovorError(f"{path}: not a whole zip archive: {error}: download or copy it again") from None
    members = archive.infolist()
    size = sum(member.file_size for member in members)  # no more than that comes out, whatever is packed
    if size > MOST_UNPACKED or len(members) > MOST_FILES:
        raise GovorError(
            f"{path}: {len(members)} files that unpack to {size / 1e9:.1f} GB: unpack it yourself and give the folder"
        )
    if any(member.flag_bits & 1 for member in members):
        raise GovorError(f"{path}: the archive has a password: unpack it and give the folder")
    return zipfile.Path(archive)


def files_in(folder: Source) -> Iterator[Source]:
    """Every file in a folder or an archive and in the folders in it, messages2 before messages10."""
    entries = cast(Iterator[Source], folder.iterdir())
    for inner in sorted(entries, key=lambda entry: natural_order(entry.name)):
        if inner.is_dir():
            yield from files_in(inner)
        elif inner.is_file():
            yield inner


def folder_name(source: Source) -> str:
    """The name of the folder that the file lies in."""
    return re.split(r"[/\\]", str(source.parent).rstrip("/"))[-1]
