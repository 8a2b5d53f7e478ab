"""Reads tables as records: CSV and TSV by whatever program, and Excel's .xlsx."""

import csv
import io
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import IO, Any

from train.chats.checks import BYTE_ORDER_MARK
from train.chats.sources import UTF16, ZIP, Sample, Source, open_unpacked, open_zip
from train.core.errors import DataError

CHUNK = 1 << 20
NO_TABLE = "neither JSON nor a table with named columns: a table has a question and an answer"
MOST_OF_EXCEL = 1 << 30  # bytes that a workbook's texts may unpack to: openpyxl holds them all


EXCEL_SAYS = re.compile(r"\s*\"?sep=(.)\"?\s*", re.IGNORECASE)
"""A first line that tells Excel what parts the columns."""
ERRORS = ("#REF!", "#N/A", "#VALUE!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!")
QUOTES = 'a cell with a quote in it stands in quotes, and each quote in it is doubled: "он сказал ""да"""'


def table_delimiter(head: str) -> str:
    """What parts the columns of a table, by its first line."""
    return max("\t;,", key=re.sub(r'"[^"]*"', "", head).count)


def columns_of(sample: Sample) -> list[str]:
    """The names of the columns, where the file's beginning is a table: several, and rows that have as many cells."""
    text = sample.text
    if sample.head.startswith(UTF16):
        text = sample.head.decode("utf-16", errors="replace")
    elif "\ufffd" in text[:-4]:
        text = sample.head.decode("cp1251", errors="replace")
    lines = [line for line in text.splitlines(keepends=True) if line.strip()]
    told = EXCEL_SAYS.fullmatch(lines[0]) if lines else None
    lines = lines[1:] if told else lines
    if not lines or lines[0].lstrip().startswith(("{", "[")):
        return []
    try:
        rows = list(islice(csv.reader(lines, delimiter=told[1] if told else table_delimiter(lines[0])), 5))
    except csv.Error:
        return []
    names = _without_empty_end([name.strip() for name in rows[0]])
    whole = rows[1:-1] or rows[1:]  # the head may end within a row
    fits = all(not any(row) or (len(row) >= len(names) and not any(row[len(names) :])) for row in whole)
    return names if len(list(filter(None, names))) > 1 and fits else []


def _without_empty_end(cells: list[str]) -> list[str]:
    """The cells up to the last filled one: Excel writes as many as any row once had."""
    filled = [at for at, cell in enumerate(cells) if cell.strip()]
    return cells[: filled[-1] + 1] if filled else []


def rows_of_columns(sample: Sample) -> list[str]:
    """The formats whose keys the first line of a table names."""
    from train.chats.formats import FORMATS

    record = {name.lower(): "" for name in columns_of(sample)}
    return [form.name for form in FORMATS if form.is_rows and record and form.keys and form.keys(record)]


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
    """(line, record) of a CSV or TSV whose first line names the columns; `columns`: those that must be among them.

    Of an empty cell the record has None; rows without a filled cell are passed over.
    """
    csv.field_size_limit(2**31 - 1)
    number, reader, above = 0, None, 0
    encoding = encoding_of(source)
    file = io.TextIOWrapper(packed, encoding=encoding, newline="")
    try:
        above, head = next(((at, line) for at, line in enumerate(file) if line.strip()), (0, ""))
        if told := EXCEL_SAYS.fullmatch(head):
            above, head = above + 1, next(file, "")
        reader = csv.reader(chain([head], file), delimiter=told[1] if told else table_delimiter(head), strict=True)
        names = _names(source, _without_empty_end(next(reader, [])), columns)
        if len(names) < 2:
            raise DataError(f"{source}: {NO_TABLE}")
        for number, cells in enumerate(reader, 1):
            line = above + reader.line_num
            if not any(map(str.strip, cells)):
                continue
            if len(cells) < len(names) or any(cells[len(names) :]):
                counts = f"{len(cells)} cells, not {len(names)}"
                raise DataError(f"{source}:{line}: row {number} has not the columns of the first line: {counts}")
            if nul := next((value for value in cells if "\0" in value), None):
                raise DataError(f"{source}:{line}: character {nul.index(chr(0)) + 1} is NUL, U+0000: remove it")
            named = zip(names, cells, strict=False)
            yield line, {name: value if value.strip() else None for name, value in named if name}
    except csv.Error as error:
        line = above + max(1, reader.line_num if reader else 1)
        raise DataError(f"{source}:{line}: not a valid table: {error}: {QUOTES}") from None
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
    """(row, record) of the first sheet with a header and rows below it; a line of one cell above it is a title.

    Of an empty cell the record has None.
    """
    with zipfile.ZipFile(os.fspath(source)) as archive:
        if (size := sum(member.file_size for member in archive.infolist())) > MOST_OF_EXCEL:
            raise DataError(f"{source}: unpacks to {size / 1e9:.1f} GB: save the sheet as CSV")
    with source.open("rb") as packed:  # of a path openpyxl wants a certain ending, which standard input has not
        try:
            yield from _rows_of_workbook(source, packed, columns)
        except DataError:
            raise
        except Exception as error:  # openpyxl raises whatever its XML parser and its own types do
            kind = type(error).__name__
            raise DataError(f"{source}: not a whole workbook: {kind}: save it again, or as CSV") from None


def _rows_of_workbook(
    source: Path, packed: IO[bytes], columns: Sequence[str] | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    import openpyxl

    book = openpyxl.load_workbook(packed, read_only=True, data_only=True)
    sheet = next((sheet for sheet in book.worksheets if _has_rows(sheet)), None)
    if sheet is None:
        raise DataError(f"{source}: no sheet with a line of names and rows below it")
    names: list[str] = []
    for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
        texts = [_cell(value) for value in cells]
        if not names:
            names = _names(source, texts, columns) if sum(map(bool, texts)) > 1 else []
            continue
        record = {name: text or None for name, text in zip_longest(names, texts, fillvalue="") if name}
        if broken := next((name for name, text in record.items() if text in ERRORS), None):
            raise DataError(f"{source}:{number}: {broken!r} holds {record[broken]}, a formula's error: mend it")
        if any(record.values()):
            yield number, record


def _has_rows(sheet: Any) -> bool:
    """Whether a row of the sheet has something in two columns, and one below it something."""
    named = False
    for cells in sheet.iter_rows(values_only=True):
        filled = sum(value not in (None, "") for value in cells)
        if named and filled:
            return True
        named = named or filled > 1
    return False


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, datetime):
        return value.isoformat(" ").removesuffix(" 00:00:00")  # a date has no time of its own
    # Excel writes a carriage return as _x000D_
    return re.sub(r"_x000D_\n?|\r\n?", "\n", str(value)).strip()


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
