"""Reads whatever people have into rows: the content decides the format, and where it fits two it is refused.

Rows stand in JSONL, in a JSON array, in {"data": […]} or in a table (CSV, TSV, .xlsx) whose first line names the
columns; plain, gzip or zstd. The forms that a record may have are in formats.py, what each means in row_formats.py.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from train.chats.checks import LONGEST_LINE, CheckReport, raise_problems, read_jsonl, too_few
from train.chats.formats import FORMATS, Format, describe, format_of
from train.chats.row_formats import LEARNED_KEYS, MASKED_KEYS, Preference, row_by_template, row_of_alpaca, weight_of
from train.chats.rows import Row
from train.chats.rules import MESSAGE_KEYS, NESTED_TOO_DEEP, Problem, is_plain, json_kind, quotes_hint, row_problems
from train.chats.sources import (
    GZIP,
    UTF16,
    ZIP,
    ZSTD,
    Sample,
    ShallowJson,
    json_fault,
    lists_of_rows,
    open_unpacked,
    sample_of,
    skip_byte_order_mark,
    unpacking_errors,
)
from train.chats.tables import is_workbook, read_table, read_workbook, rows_of_columns
from train.core.errors import DataError, GovorError

MOST_PROBLEMS = 100  # kept; all are counted
LISTS = {
    "sharegpt": ("conversations", {"from", "value", "role", "content"}),
    "openai": ("messages", {*MESSAGE_KEYS, "author"}),
}
"""By format, the key of its turns, and the keys of a turn that are read."""


class ReadAs(NamedTuple):
    """How people say what a file is where its own names do not."""

    columns: tuple[str, str] | None = None
    """Names of the columns or keys of question and answer."""
    template: str | None = None
    """Template of the texts of {"text": …}."""

    def format(self) -> Format | None:
        """The format that is stated; None where none is."""
        if self.columns:
            question, answer = self.columns
            keys = frozenset(self.columns)
            read = partial(row_of_alpaca, question=question, answer=answer)
            reads = frozenset(("system", "history"))
            return Format("columns", lambda sample: True, to_row=read, keys=lambda record: keys, reads=reads)
        if self.template:
            try:
                template = row_by_template(self.template)
            except ValueError as error:
                raise GovorError(f"--template {self.template!r}: {error}") from None
            keys = frozenset(("text",))
            return Format("text", lambda sample: True, to_row=template.row, keys=lambda record: keys)
        return None


AS_FOUND = ReadAs()


def read_rows(path: Path) -> list[Row]:
    """The rows of a file in any format that govor knows; DataError with the first problems where any row is invalid.

    What no row has a place for is left out and said, a line for each key.
    """
    if not _is_plain_openai(path):
        return read_records(path)[1]
    try:
        return read_jsonl(path)
    except DataError as strict:
        try:  # its first row is plain, others may have keys and roles of others
            return read_records(path)[1]
        except DataError:
            raise strict from None


def read_records(path: Path) -> tuple[str, list[Row]]:
    """(name of the format, rows) of a file in any format; DataError with the first problems where a row is invalid."""
    import click

    unread: Counter[str] = Counter()
    rows, name = [], ""
    for record in stream_records(path):
        rows.append(record.row)
        unread.update(record.unread)
        name = record.format_name
    if unread:
        keys = ", ".join(f"{key!r} in {count} rows" for key, count in unread.most_common(20))
        click.echo(f"{path}: not learned from: {keys}", err=True)
    return name, rows


class Record(NamedTuple):
    """A row as it was read."""

    row: Row
    format_name: str
    unread: list[str]
    """Keys of the record that the row has no place for."""
    more: dict[str, Any] = {}  # noqa: RUF012
    """The keys and values of the record itself among them."""


def stream_records(path: Path, read_as: ReadAs = AS_FOUND) -> Iterator[Record]:
    """The rows of a file in any format, one after another, in the memory of one.

    DataError with the first problems at the end, where a row is invalid; until then the valid ones come.
    """
    for line, form, record, row in _valid(path, read_as):
        if isinstance(row, Preference):
            raise DataError(f"{path}:{line}: {form.name}: {form.note}")
        unread = unread_keys(record, form)
        yield Record(row, form.name, unread, {key: record[key] for key in unread if key in record})


def stream_preferences(path: Path) -> Iterator[tuple[Preference, str, list[str]]]:
    """(row, name of the format, keys that it has no place for) of a file of preference rows; as `stream_records`."""
    for line, form, record, row in _valid(path, AS_FOUND):
        if isinstance(row, Row):
            raise DataError(f"{path}:{line}: a row of one answer among preference rows")
        yield row, form.name, unread_keys(record, form)


def is_preferences(path: Path) -> bool:
    """Whether the file holds rows of two answers each."""
    if not path.is_file():
        return False
    sample = sample_of(path)
    forms = {form.name for form in FORMATS if form.to_preference}
    return any(form.to_preference for form in format_of(sample)) or not forms.isdisjoint(rows_of_columns(sample))


def check_preferences(path: Path) -> CheckReport:
    """Every problem of a file of preference rows."""
    found, valid = _Problems(), 0
    try:
        for _ in _stream(path, AS_FOUND, found):
            valid += 1
        found.add([] if found.count else list(too_few(valid)))
    except DataError as error:  # where a line is no JSON nothing behind it is read
        place = re.match(rf"{re.escape(str(path))}:(?:(\d+):)? ", str(error))
        text = str(error)[place.end() :] if place else str(error)
        found.add([Problem(int(place[1] or 0) if place else 0, "unreadable", text)])
    return CheckReport(valid + len(found.lines), found.first, [], found.count, 0, preferences=True)


@dataclass
class _Problems:
    """Problems: the first MOST_PROBLEMS, and the number of all."""

    first: list[Problem] = field(default_factory=list)
    count: int = 0
    lines: set[int] = field(default_factory=set)
    foreign: bool = False
    """Whether the rows are in a format whose rows validate does not check."""

    def add(self, more: list[Problem]) -> None:
        self.count += len(more)
        self.first += more[: max(0, MOST_PROBLEMS - len(self.first))]
        self.lines |= {problem.line for problem in more if problem.line}


def _valid(path: Path, read_as: ReadAs) -> Iterator[tuple[int, Format, dict[str, Any], Row | Preference]]:
    """What `_stream` yields; DataError at the end where a record is not valid."""
    found = _Problems()
    yield from _stream(path, read_as, found)
    raise_problems(path, found.first, found.count, shown_by_validate=not found.foreign)


def _stream(
    path: Path, read_as: ReadAs, found: _Problems
) -> Iterator[tuple[int, Format, dict[str, Any], Row | Preference]]:
    """(line, format, record, row) of every valid record; what is wrong with the others is added to `found`."""
    form, keys = read_as.format(), frozenset[str]()
    for line, record in records(path, read_as):
        in_row: list[Problem] = []
        row = None
        if not isinstance(record, dict):
            in_row.append(Problem(line, "not_an_object", f"expected an object, found {json_kind(record)}"))
        else:
            form = form or _detect_format(path, line, record)
            keys = keys or _keys(form, record)
            found.foreign = form.name != "openai" and form.to_preference is None
            row = _checked_row(line, record, form, keys, in_row)
        found.add(in_row)
        if form is not None and row is not None and not in_row:
            yield line, form, record, row
    if form is None and not found.count:
        raise DataError(f"{path}: no rows in it")


def _keys(form: Format, record: dict[str, Any]) -> frozenset[str]:
    """The keys that every record of the file has to have, by its first."""
    return (form.keys(record) if form.keys else None) or frozenset()


def _checked_row(
    line: int, record: dict[str, Any], form: Format, keys: frozenset[str], problems: list[Problem]
) -> Row | Preference | None:
    """The record's row, None where it has none; what is wrong with it is added to `problems`."""
    if missing := keys - record.keys():
        text = f"the file began in {form.name} format, this row has no {', '.join(sorted(missing))}"
        problems.append(Problem(line, "mixed_formats", text))
        return None
    if empty := sorted(key for key in keys if record[key] is None):
        text = f"{', '.join(map(repr, empty))} is empty: fill it in or take the row out"
        problems.append(Problem(line, "invalid_row", text))
        return None
    try:
        if weight_of(record, "the row") == 0:
            raise ValueError("it is marked as not to be learned: take it out")
        if form.to_preference:
            return form.to_preference(line, record)
        assert form.to_row is not None
        row = form.to_row(line, record)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        problems.append(Problem(line, "invalid_row", f"not a whole row in {form.name} format: {_in_words(error)}"))
        return None
    tools = {} if row.tools is None else {"tools": row.tools}
    problems += row_problems(line, {"messages": row.messages, **tools})
    return row


def _in_words(error: Exception) -> str:
    """What is wrong with a record; what Python itself says of it names no key and is left out."""
    if isinstance(error, KeyError):
        return f"no {error}"
    own = isinstance(error, ValueError) or str(error).startswith("`")
    return str(error) if own else "a turn or a part of it is text, a list or an object where another of them belongs"


def _is_plain_openai(path: Path) -> bool:
    """Whether the fast reader takes the file: its first row is OpenAI's in plain JSONL, or is none."""
    if not path.is_file():
        return not path.exists()
    with path.open("rb") as file:
        start = skip_byte_order_mark(file).readline(LONGEST_LINE)
        while start and not start.strip():
            start = file.readline(LONGEST_LINE)
    if not start:
        return True
    if start.startswith((GZIP, ZSTD, ZIP)) or not start.lstrip().startswith(b"{"):
        return False
    try:
        record = json.loads(start)
    except (ValueError, RecursionError):
        return not format_of(sample_of(path))
    return isinstance(record, dict) and is_plain(record)


def records(path: Path, read_as: ReadAs = AS_FOUND) -> Iterator[tuple[int, Any]]:
    """(line, or number of the element, parsed record) of every record."""
    if not path.is_file():
        raise DataError(describe(path, wanted="rows") if path.exists() else f"{path}: no such file")
    sample = sample_of(path)
    if is_workbook(sample):
        yield from read_workbook(path, read_as.columns)
        return
    if (text := _not_rows(path, sample, read_as)) is not None:
        raise DataError(text)
    try:
        with open_unpacked(path) as file:
            skip_byte_order_mark(file)
            if sample.prefix is not None:
                yield from enumerate(_array(path, file, sample.prefix), 1)
                _require_one_list(path, sample)
            elif sample.start.startswith("{"):
                yield from _lines(path, file)
            else:
                yield from read_table(path, file, read_as.columns)
    except unpacking_errors() as error:
        raise DataError(f"{path}: cannot be unpacked: {error}") from None


def _not_rows(path: Path, sample: Sample, read_as: ReadAs) -> str | None:
    """What the file is where it is known to hold no rows."""
    is_json = sample.head[:4].strip(b"\xff\xfe\0").startswith((b"{", b"["))  # of UTF-16
    if (sample.head.startswith(UTF16) and not is_json) or (read_as != AS_FOUND and not sample.head.startswith(ZIP)):
        return None  # a table may be UTF-16, and whoever states what it is knows it
    return describe(path, sample, wanted="rows")


def _lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Any]]:
    """(line, parsed record) of JSONL; a line ends at LF alone."""
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, _json(path, number, _text_of(path, number, line))


def _require_one_list(path: Path, sample: Sample) -> None:
    """DataError where an object holds several lists of rows, such as one to train on and one to test with."""
    names = list(lists_of_rows(path)) if sample.prefix not in ("", "item") else []
    if len(names) > 1:
        todo = " and ".join(f"jq -c '.{name}[]' {path} > {name}.jsonl" for name in names[:2])
        raise DataError(f"{path}: holds several lists of rows ({', '.join(names)}): make a file of each: {todo}")


def _array(path: Path, file: IO[bytes], prefix: str) -> Iterator[Any]:
    """The elements of a JSON array, or objects one behind another where the prefix is empty, read as they come."""
    import ijson

    try:
        yield from ijson.items(ShallowJson(file), prefix, use_float=True, multiple_values=not prefix)
    except (ijson.JSONError, UnicodeDecodeError, ValueError) as error:
        with open_unpacked(path) as again:
            for number, line in enumerate(again, 1):
                text = _text_of(path, number, line)
                _require_no_nul(path, number, text)
                if hint := quotes_hint(text):
                    raise DataError(f"{path}:{number}: not valid JSON{hint}") from None
        raise DataError(f"{path}: not valid JSON: {json_fault(error)} near byte {file.tell()}") from None


def _text_of(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path}:{number}: not UTF-8: save the file as UTF-8") from None


def _require_no_nul(path: Path, line: int, text: str) -> None:
    if "\0" in text:
        raise DataError(f"{path}:{line}: character {text.index(chr(0)) + 1} is NUL, U+0000: remove it")


def _json(path: Path, line: int, text: str) -> Any:
    _require_no_nul(path, line, text)
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise DataError(f"{path}:{line}: {NESTED_TOO_DEEP}") from None
    except msgspec.MsgspecError as error:
        raise DataError(f"{path}:{line}: not valid JSON{quotes_hint(text) or f': {error}'}") from None


def _detect_format(path: Path, line: int, record: dict[str, Any]) -> Format:
    """The one format that the first record fits; DataError where there is none, or several."""
    fitting = [form for form in FORMATS if form.keys and form.keys(record)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = " and ".join(form.name for form in fitting)
        raise DataError(f"{path}:{line}: fits {names}: remove the keys of one, or name them: --columns QUESTION,ANSWER")
    keys = ", ".join(map(repr, list(record)[:8])) or "none"
    known = ", ".join(form.name for form in FORMATS if form.to_row)
    raise DataError(
        f"{path}:{line}: its keys ({keys}) are those of no known format: {known}; name those of question and answer: "
        f"govor convert {path} --to openai -o rows.jsonl --columns QUESTION,ANSWER"
    )


def unread_keys(record: dict[str, Any], form: Format) -> list[str]:
    """Keys of a record, and of its turns, that a row has no place for, sorted."""
    marks = {*LEARNED_KEYS, *MASKED_KEYS}
    known = form.reads | _keys(form, record) | marks
    unread = {key for key, value in record.items() if key not in known and value not in (None, "", [])}
    turns_key, read = LISTS.get(form.name, ("", set()))
    turns = record.get(turns_key) or ()
    unread |= {
        f"{key} (of a turn)"
        for turn in turns
        if isinstance(turn, dict)
        for key, value in turn.items()
        if key not in read and key not in marks and value is not None
    }
    return sorted(unread)
