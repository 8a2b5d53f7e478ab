"""Reads tables as records: CSV and TSV by whatever program, and Excel's .xlsx."""

import csv
import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import IO, Any

from train.chats.checks import BYTE_ORDER_MARK
from train.chats.sources import UTF16, ZIP, Sample, Source, open_unpacked, open_zip
from train.core.errors import DataError

CHUNK = 1 << 20
MOST_OF_EXCEL = 1 << 30  # bytes that a workbook's texts may unpack to: openpyxl holds them all


def table_delimiter(head: str) -> str:
    """What parts the columns of a table, by its first line."""
    return max("\t;,", key=head.count)


def column_names(head: str) -> list[str]:
    """The names in a table's first line, as they stand there."""
    return next(csv.reader([head.strip()], delimiter=table_delimiter(head)), []) if "\n" not in head.strip() else []


def rows_of_columns(sample: Sample) -> list[str]:
    """The formats whose keys the first line of a table names."""
    from train.chats.formats import FORMATS

    text = sample.text
    if "\ufffd" in text[:-4]:
        text = sample.head.decode("cp1251", errors="replace")
    names = column_names(next((line for line in text.splitlines() if line.strip()), ""))
    record = {name.strip().lower(): "" for name in names}
    return [form.name for form in FORMATS if form.to_row and len(record) > 1 and form.keys and form.keys(record)]


def columns_of_table(sample: Sample) -> tuple[str, list[str]] | None:
    """(CSV or TSV, names of its columns) where the first two lines have as many columns each, two at least."""
    if sample.start.startswith(("{", "[")):
        return None
    lines = [line for line in sample.text.splitlines() if line.strip()][:2]
    if len(lines) < 2 or "\0" in lines[0]:
        return None
    delimiter = table_delimiter(lines[0])
    names, cells = (next(csv.reader([line], delimiter=delimiter), []) for line in lines)
    return ("TSV" if delimiter == "\t" else "CSV", names) if len(names) == len(cells) > 1 else None


def encoding_of(source: Source) -> str:
    """utf-8, utf-16 where a mark says so, else cp1251, which Excel writes in Russia."""
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_unpacked(source) as file:
        start = chunk = file.read(CHUNK)
        if start.startswith(UTF16):
            return "utf-16"
        try:
            while chunk:
                decoder.decode(chunk)
                chunk = file.read(CHUNK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1251"
    return "utf-8-sig" if start.startswith(BYTE_ORDER_MARK) else "utf-8"


def read_table(
    source: Source, packed: IO[bytes], columns: Sequence[str] | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, record) of a CSV or TSV whose first line names the columns; `columns`: those that must be among them."""
    csv.field_size_limit(2**31 - 1)
    number, reader = 0, None
    encoding = encoding_of(source)
    file = io.TextIOWrapper(packed, encoding=encoding, newline="")
    try:
        head = next((line for line in file if line.strip()), "")
        reader = csv.DictReader(chain([head], file), delimiter=table_delimiter(head), strict=True)
        names = _names(source, reader.fieldnames or (), columns)
        if head.count(table_delimiter(head)) == 0:
            raise DataError(
                f"{source}: neither JSON nor a table with named columns: a table has a question and an answer"
            )
        for number, record in enumerate(reader, 1):
            if None in record or None in record.values():  # cells beyond the first line's columns, or too few
                raise DataError(f"{source}:{reader.line_num}: row {number} has not the columns of the first line")
            if nul := next((value for value in record.values() if "\0" in value), None):
                at = nul.index("\0") + 1
                raise DataError(f"{source}:{reader.line_num}: character {at} is NUL, U+0000: remove it")
            cells = zip(names, record.values(), strict=True)
            yield reader.line_num, {name: value for name, value in cells if name and value.strip()}
    except csv.Error as error:
        raise DataError(f"{source}:{reader.line_num if reader else 1}: not a valid table: {error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{source}: neither UTF-8 nor cp1251 behind row {number}: save the file as UTF-8") from None
    finally:
        file.detach()  # it would close what is not its own


def is_workbook(sample: Sample) -> bool:
    """Whether the file is an .xlsx; GovorError where it is a damaged archive."""
    if not isinstance(sample.source, Path) or not sample.head.startswith(ZIP):
        return False
    return (open_zip(sample.source) / "xl/workbook.xml").exists()


def read_workbook(source: Path, columns: Sequence[str] | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row, record) of the first sheet with a header and rows below it."""
    import openpyxl

    with zipfile.ZipFile(os.fspath(source)) as archive:
        if (size := sum(member.file_size for member in archive.infolist())) > MOST_OF_EXCEL:
            raise DataError(f"{source}: unpacks to {size / 1e9:.1f} GB: save the sheet as CSV")
    try:
        book = openpyxl.load_workbook(os.fspath(source), read_only=True, data_only=True)
        sheet = next((sheet for sheet in book.worksheets if _has_rows(sheet)), None)
        if sheet is None:
            raise DataError(f"{source}: no sheet with a line of names and rows below it")
        names: list[str] = []
        for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
            texts = [_cell(value) for value in cells]
            if not any(texts):
                continue
            if not names:
                names = _names(source, texts, columns)
                continue
            yield number, {name: text for name, text in zip(names, texts, strict=False) if name and text}
    except DataError:
        raise
    except Exception as error:  # openpyxl raises whatever its XML parser and its own types do
        raise DataError(f"{source}: not a whole workbook: {type(error).__name__}: save it again, or as CSV") from None


def _has_rows(sheet: Any) -> bool:
    """Whether two rows of the sheet have something in two columns."""
    filled = 0
    for cells in sheet.iter_rows(values_only=True):
        filled += sum(value not in (None, "") for value in cells) > 1
        if filled > 1:
            return True
    return False


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value.isoformat(" ") if isinstance(value, datetime) else str(value).strip()


def _names(source: Source, names: Sequence[str], columns: Sequence[str] | None) -> list[str]:
    """The columns' names without spaces around them, in lower case but where they are asked for by name."""
    stripped = [name.strip().lstrip("\ufeff") for name in names]
    wanted = {name.casefold(): name for name in columns or ()}
    names = [wanted.get(name.casefold(), name.lower()) for name in stripped]
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise DataError(f"{source}: two columns are called {twice[0]!r}: rename or remove one")
    if missing := [name for name in wanted.values() if name not in names]:
        raise DataError(f"{source}: no column {missing[0]!r}: there are {', '.join(map(repr, stripped))}")
    return names
