"""Checks a JSONL file of chat rows: every problem with its line and kind, at the speed of the parser.

A block of lines is parsed at once into the type of a valid row; only where that fails is a line looked at by itself
and its problems put into words. Memory stays that of one block, plus 16 bytes a row to find rows that occur twice.
"""

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from train.chats.rows import Row, row_from_openai
from train.chats.rules import (
    NESTED_TOO_DEEP,
    PlainRow,
    Problem,
    is_plain,
    is_valid,
    quotes_hint,
    row_problems,
    turn_warnings,
)
from train.core.errors import DataError, GovorError

if TYPE_CHECKING:
    from train.chats.sources import Sample

MIN_EXAMPLES = 10  # OpenAI refuses a smaller file
MAX_PROBLEMS = 100  # problems kept in full; all are counted
CHUNK = 1 << 20  # bytes read at once
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LONGEST_LINE = 1 << 24  # bytes; longer lines are refused unread, so that no file can exhaust the memory
FOREIGN = ("extra_key", "extra_message_key", "unrecognized_role")
"""Kinds of problems that OpenAI has with rows of others, which training reads as they are."""
ALIKE = (*FOREIGN, "wrong_quotes")
"""Kinds that rows have alike: one line for all."""

_plain = msgspec.json.Decoder(PlainRow)
_any = msgspec.json.Decoder()


class CheckReport(NamedTuple):
    """The problems of a file of rows."""

    examples: int
    """Number of rows, valid or not."""
    errors: list[Problem]
    """The first 100."""
    warnings: list[Problem]
    """The first 100."""
    error_count: int
    warning_count: int
    preferences: bool = False
    """Whether the rows have two answers each, for preference tuning."""


def validate(files: Sequence[Path], *, as_json: bool) -> bool:
    """Print every problem of the files, with `as_json` as one JSON object; return whether there are no errors."""
    reports = [(path, _check(path)) for path in files]
    valid = not any(report.errors for _, report in reports)
    print(_as_json(reports, valid) if as_json else "\n".join(_as_lines(reports, valid)))
    return valid


def _check(path: Path) -> CheckReport:
    report = check_file(path)
    if any(problem.kind == "preference_rows" for problem in report.errors):
        from train.chats.readers import check_preferences

        return check_preferences(path)
    return report


def _as_json(reports: Sequence[tuple[Path, CheckReport]], valid: bool) -> str:
    """The result of `validate` as one JSON object; problems name their file where there are several."""

    def listed(kind: str) -> list[dict[str, object]]:
        return [
            {**({"file": str(path)} if len(reports) > 1 else {}), **problem._asdict(), "line": problem.line or None}
            for path, report in reports
            for problem in getattr(report, kind)
        ]

    result: dict[str, object] = {"valid": valid, "examples": sum(report.examples for _, report in reports)}
    result |= {name: listed(name) for name in ("errors", "warnings")}
    result["preferences"] = bool(reports) and all(report.preferences for _, report in reports)
    for name in ("error_count", "warning_count"):
        result[name] = sum(getattr(report, name) for _, report in reports)
    return json.dumps(result, ensure_ascii=False)


def _as_lines(reports: Sequence[tuple[Path, CheckReport]], valid: bool) -> Iterator[str]:
    """The result of `validate` for people: a line for each problem, then the verdict."""
    for path, report in reports:
        for label, problems, count in (
            ("", report.errors, report.error_count),
            ("warning: ", report.warnings, report.warning_count),
        ):
            for problem in problems:
                yield f"{problem_location(path, problem)}: {label}{problem.message} [{problem.kind}]"
            if count > len(problems):
                yield f"{path}: {label}and {count - len(problems)} more"
        thoughts = any(key in problem.message for problem in report.errors for key in ("reasoning", "think"))
        if report.errors and not thoughts and all(problem.kind in FOREIGN for problem in report.errors):
            yield f"{path}: training reads such rows as they are; for OpenAI: {_conversion(path)} --when-lossy drop"
        if report.preferences and not report.errors:
            yield f"{path}: rows for preference tuning (DPO): govor train learns from them by a section dpo"
    if valid:
        kind = "preference rows" if all(report.preferences for _, report in reports) else "training examples"
        yield f"✅ Validation passed: {sum(report.examples for _, report in reports)} {kind}"
    else:
        yield f"❌ {sum(report.error_count for _, report in reports)} errors"


def check_file(path: Path) -> CheckReport:
    """Every problem of the file, by the rules of OpenAI's fine-tuning files; GovorError where there is no such file."""
    errors, warnings = _Tally(), _Tally()
    hashes = array("q")
    if problem := _other_format(path):
        return CheckReport(0, [problem], [], 1, 0)
    for first, lines in _blocks(path):
        _check_block(first, lines, errors, warnings)
        hashes.extend(hash(line) for line in lines if line and not line.isspace())
    if not hashes and not errors.count:
        errors.add([Problem(0, "empty_file", "no rows in it: expected one JSON object a line")])
    else:
        errors.add(too_few(len(hashes)))
    warnings.add(_duplicate_rows(path, hashes))
    with path.open("rb") as file:
        if file.read(3) == BYTE_ORDER_MARK:
            warnings.add([Problem(1, "byte_order_mark", "begins with a byte order mark: save without it")])
    return CheckReport(len(hashes), errors.listed(), warnings.listed(), errors.count, warnings.count)


def too_few(count: int) -> Iterator[Problem]:
    """The problem of a file with fewer rows than OpenAI takes."""
    if count < MIN_EXAMPLES:
        yield Problem(0, "too_few_examples", f"{count} examples, at least {MIN_EXAMPLES} are needed: add rows")


def read_jsonl(path: Path) -> list[Row]:
    """The rows of a file in OpenAI's format; DataError with the first problems where any row is invalid."""
    rows: list[Row] = []
    errors = _Tally()
    if problem := _other_format(path):
        errors.add([problem])
    for first, lines in () if errors.count else _blocks(path):
        for number, line in enumerate(lines, first):
            if line and not line.isspace():
                value, problems = _parse(number, line)
                problems += [] if problems else row_problems(number, value)
                errors.add(problems)
                if not problems:
                    rows.append(row_from_openai(number, value))
    if not rows and not errors.count:
        errors.add([Problem(0, "empty_file", "no rows in it: expected one JSON object a line")])
    raise_problems(path, errors.listed(), errors.count)
    return rows


def raise_problems(path: Path, problems: list[Problem], count: int, *, shown_by_validate: bool = True) -> None:
    """DataError with the first problems, if there are any; with more of them where validate does not show them."""
    if count:
        most = 3 if shown_by_validate else 20
        shown = [f"{problem_location(path, problem)}: {problem.message}" for problem in problems[:most]]
        where = f" (all: govor validate {path})" if shown_by_validate else ""
        more = f"{path}: {count} problems, the first of them{where}:"
        raise DataError("\n  ".join(shown if count == 1 else [more, *shown]))


def problem_location(path: Path, problem: Problem) -> str:
    """`file:line`, or `file` for a problem of the whole file."""
    return f"{path}:{problem.line}" if problem.line else str(path)


@dataclass
class _Repeated:
    """A problem that rows have alike: its place among the problems, and how many rows have it."""

    at: int
    last_line: int
    rows: int = 1

    def see(self, line: int) -> None:
        self.rows += line != self.last_line
        self.last_line = line


@dataclass
class _Tally:
    """Problems: all of them counted, the first MAX_PROBLEMS kept; a key that rows have too much is one problem."""

    problems: list[Problem] = field(default_factory=list)
    count: int = 0
    repeated: dict[str, _Repeated] = field(default_factory=dict)
    """By text without the number of the message."""

    def add(self, more: Iterable[Problem]) -> None:
        for problem in more:
            text = _without_number(problem.message) if problem.kind in ALIKE else ""
            if text in self.repeated:
                self.repeated[text].see(problem.line)
                continue
            if text:
                self.repeated[text] = _Repeated(len(self.problems), problem.line)
            self.count += 1
            if len(self.problems) < MAX_PROBLEMS:
                self.problems.append(problem)

    def listed(self) -> list[Problem]:
        """The problems kept; one that rows have alike says how many have it."""
        listed = list(self.problems)
        for text, seen in self.repeated.items():
            if seen.rows > 1 and seen.at < len(listed):
                what, _, todo = text.rpartition(": ")
                message = f"{what} in {seen.rows} rows, here first: {todo}"
                listed[seen.at] = listed[seen.at]._replace(message=message)
        return listed


def _without_number(message: str) -> str:
    """The problem's text without the message that has it."""
    return message.partition(": ")[2] if message.startswith("message ") else message


def _other_format(path: Path) -> Problem | None:
    """The problem of a file that is no JSONL in OpenAI's format, as far as its beginning shows."""
    if not path.is_file():
        raise GovorError(f"{path}: no such file" if not path.exists() else _described(path))
    with path.open("rb") as file:
        line = file.readline(CHUNK).removeprefix(BYTE_ORDER_MARK)
        while line and not line.strip():
            line = file.readline(CHUNK)
    value, problems = _parse(1, line) if line.startswith(b"{") else (None, [])
    if not line or (not problems and isinstance(value, dict) and is_plain(value)):
        return None
    return _problem_of_format(path, line)


def _problem_of_format(path: Path, line: bytes) -> Problem | None:
    """The problem of a file by what is known of its format; None for OpenAI's rows and where nothing is known."""
    from train.chats.formats import describe, format_of
    from train.chats.sources import GZIP, ZSTD, sample_of
    from train.chats.tables import NO_TABLE, columns_of, is_workbook, rows_of_columns

    try:
        sample = sample_of(path)
    except DataError as error:
        return Problem(0, "binary_file", str(error).removeprefix(f"{path}: "))
    if line.startswith((GZIP, ZSTD)):
        text = describe(path, sample, wanted="rows")
        text = text.removeprefix(f"{path}: ") if text else f"compressed: {_conversion(path)} unpacks it"
        return Problem(0, "binary_file", text)
    if is_workbook(sample):
        return Problem(
            0, "other_format", f"a table of Excel, expected JSONL: {_conversion(path)} (training reads it too)"
        )
    forms = format_of(sample)
    if any(form.to_preference for form in forms):
        return Problem(0, "preference_rows", f"{forms[0].name}: {forms[0].note}")
    is_table = not forms or not forms[0].read_chats
    names = [form.name for form in forms if form.is_rows] or (rows_of_columns(sample) if is_table else [])
    if not names and (text := describe(path, sample, wanted="rows")):
        is_text = "\0" not in sample.text and "\ufffd" not in sample.start
        return Problem(0, "other_format" if is_text else "binary_file", text.removeprefix(f"{path}: "))
    columns = columns_of(sample)
    table = "TSV" if columns and "\t" in sample.text.split("\n")[0] else "CSV"
    if names and (names != ["openai"] or sample.prefix is not None):
        names = [name for name in names if name != "openai"] or ["OpenAI's"]
        if names == ["OpenAI's"]:
            return Problem(0, "json_array", f"{_arrangement(sample)}, expected one object a line: {_conversion(path)}")
        what = f"{table}, rows" if columns else "rows"
        text = f"{what} in {' or '.join(names)} format, expected OpenAI's: {_conversion(path)}"
        trained = " (training reads them as they are)" * ("preference" not in text)
        return Problem(0, "other_format", text + trained)
    if sample.record and sample.prefix is not None:
        keys = ", ".join(map(repr, list(sample.record)[:8]))
        text = f"{_arrangement(sample)} with the keys {keys}: name those of question and answer: {_conversion(path)}"
        return Problem(0, "json_array", f"{text} --columns QUESTION,ANSWER")
    if sample.start.startswith("["):
        return Problem(0, "json_array", f"a JSON array, expected one object a line: {_conversion(path)}")
    if b"\x00" in sample.head[:4096] and b'{"' not in sample.head[:4096]:
        return Problem(0, "binary_file", "binary data: expected JSONL, one JSON object a line")
    if columns:
        text = (
            f"a {table} table with the columns {', '.join(map(repr, columns[:8]))}: name those of question and answer: "
        )
        return Problem(0, "other_format", f"{text}{_conversion(path)} --columns QUESTION,ANSWER")
    if not any(text.lstrip().startswith(("{", "[")) for text in sample.text.splitlines()):
        return Problem(0, "other_format", NO_TABLE)
    return None


def _arrangement(sample: "Sample") -> str:
    """How the objects stand in JSON that is no JSONL."""
    key = (sample.prefix or "").removesuffix("item").rstrip(".")
    if key:
        return f"JSON with its rows in the list {key!r}"
    return "a JSON array" if sample.prefix else "JSON objects over several lines"


def _conversion(path: Path) -> str:
    """The command that makes OpenAI's rows of the file."""
    return f"govor convert {path} --to openai -o rows.jsonl"


def _described(path: Path) -> str:
    from train.chats.formats import describe

    return describe(path, wanted="rows") or f"{path}: a folder, expected a file of rows"


def _blocks(path: Path) -> Iterator[tuple[int, list[bytes]]]:
    """(number of the first line, lines) of about 1 MiB each; a line ends at LF alone, as Unicode has other breaks.

    A line beyond LONGEST_LINE is handed on cut, which no parser accepts.
    """
    number, rest, skipping = 1, b"", False
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            if file.tell() == len(block):
                block = block.removeprefix(BYTE_ORDER_MARK)
            if skipping:
                end = block.find(b"\n")
                if end < 0:
                    continue
                block, skipping = block[end:], False
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            if lines:
                yield number, lines
                number += len(lines)
            if len(rest) > LONGEST_LINE:
                rest, skipping = rest[: LONGEST_LINE + 1], True
    if rest:
        yield number, [rest]


def _check_block(first: int, lines: list[bytes], errors: _Tally, warnings: _Tally) -> None:
    rows = _parse_block(lines)
    for at, line in enumerate(lines):
        row = rows[at] if rows else _parse_plain(line)
        if row is not None and is_valid(row):
            by_turns = _turn_warnings(tuple(map(type, row.messages)))
            if by_turns:
                warnings.add(Problem(first + at, *warning) for warning in by_turns)
        elif not line or line.isspace():
            warnings.add([Problem(first + at, "blank_line", "blank line, skipped")])
            continue
        else:
            _check_line(first + at, line, errors, warnings)
        if b"\\u0000" in line:
            warnings.add(_null_characters(first + at, line))


def _parse_block(lines: list[bytes]) -> list[PlainRow] | None:
    """One row for each line, or None where any line is not a plain row by itself."""
    if not all(map(bytes.strip, lines)):
        return None
    try:
        rows = _plain.decode_lines(b"\n".join(lines))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return rows if len(rows) == len(lines) else None


def _parse_plain(line: bytes) -> PlainRow | None:
    try:
        return _plain.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _check_line(number: int, line: bytes, errors: _Tally, warnings: _Tally) -> None:
    """Put into words what is wrong with a line that is not a valid plain row."""
    problems, warned, _ = line_problems(number, line)
    errors.add(problems)
    warnings.add(warned)


def line_problems(number: int, line: bytes) -> tuple[list[Problem], list[Problem], Any]:
    """(what is wrong with a line, what looks wrong, its JSON value), as `validate` says it of the line by itself."""
    value, problems = _parse(number, line)
    problems += [] if problems else row_problems(number, value)
    if problems:
        return problems, [], value
    roles = tuple(message["role"] for message in value["messages"])
    return [], [Problem(number, *warning) for warning in turn_warnings(roles)], value


def _parse(number: int, line: bytes) -> tuple[Any, list[Problem]]:
    """(JSON value of a line, no problems), or (None, [why it has none])."""
    if len(line) > LONGEST_LINE:
        text = f"longer than {LONGEST_LINE >> 20} MiB: is this really one row? One object a line, lines end with LF"
        return None, [Problem(number, "line_too_long", text)]
    try:
        line.decode("utf-8")  # first: the parser names a byte of the string, not of the line
        return _any.decode(line), []
    except UnicodeDecodeError as error:
        text = f"byte {error.start + 1} is not UTF-8: save the file as UTF-8"
        return None, [Problem(number, "invalid_utf8", text)]
    except RecursionError:
        return None, [Problem(number, "nesting_too_deep", NESTED_TOO_DEEP)]
    except msgspec.DecodeError as error:
        if b"\x00" in line:
            text = f"byte {line.index(0) + 1} is NUL, the character U+0000: remove it"
            return None, [Problem(number, "null_character", text)]
        if _has_lone_surrogate(line):
            text = "half of a surrogate pair such as \\ud83d: remove it or write the whole character"
            return None, [Problem(number, "lone_surrogate", text)]
        if hint := quotes_hint(line.decode()):
            return None, [Problem(number, "wrong_quotes", f"not valid JSON{hint}")]
        return None, [Problem(number, "invalid_json", f"not valid JSON: {error}")]


def _has_lone_surrogate(line: bytes) -> bool:
    """Whether Python's own parser, which lets them pass, reads one here."""
    try:
        json.dumps(json.loads(line), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        pass
    return False


@lru_cache(maxsize=4096)
def _turn_warnings(types: tuple[type, ...]) -> list[tuple[str, str]]:
    return turn_warnings(tuple(str(kind.__struct_config__.tag) for kind in types))  # type: ignore[attr-defined]


def _null_characters(number: int, line: bytes) -> list[Problem]:
    try:
        text = msgspec.json.encode(_any.decode(line))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    found = b"\\u0000" in text.replace(b"\\\\", b"")
    return [Problem(number, "null_character", "holds the character \\u0000: remove it")] if found else []


def _duplicate_rows(path: Path, hashes: "array[int]") -> Iterator[Problem]:
    """A warning for every line that is equal to an earlier one. The file is read again only if there is any."""
    import numpy as np

    ordered = np.sort(np.frombuffer(hashes, dtype=np.int64)) if hashes else np.zeros(0, dtype=np.int64)
    twice = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not twice:
        return
    seen: dict[int, int] = {}
    for first, lines in _blocks(path):
        for number, line in enumerate(lines, first):
            key = hash(line)
            if key in twice and line and not line.isspace():
                if key in seen:
                    yield Problem(number, "duplicate_row", f"the same as line {seen[key]}")
                seen.setdefault(key, number)
