"""Reads whatever people have into rows: the content decides the format, and where it fits two it is refused.

    OpenAI chat         {"messages": […]}
    ShareGPT            {"conversations": [{"from": …, "value": …}], "system", "tools"}
    Alpaca              {"instruction", "input", "output", "system", "history"}
    prompt–completion   {"prompt", "completion"}
    query–response      {"query", "response", "system", "history"}

as JSONL, as a JSON array, or as a table (CSV or TSV) with those names in its first line; plain, gzip or zstd.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import ijson
import msgspec

from train.chats.checks import BYTE_ORDER_MARK, LONGEST_LINE, raise_problems, read_jsonl, table_delimiter
from train.chats.rows import Message, Row, row_from_openai
from train.chats.rules import FORMATS, Problem, json_kind, matching_formats, row_problems
from train.core.errors import DataError

SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "call",
    "tool": "tool",
    "observation": "tool",
}

MOST_PROBLEMS = 100  # kept; all are counted
LEARNED_KEYS = ("weight", "train", "loss", "training", "trainable", "train_on_turn", "loss_weight")
"""Keys of a turn or row that say that it is learned, as OpenAI, axolotl, ms-swift and others name them."""
MASKED_KEYS = ("masked", "mask")
"""Keys that say that it is not."""
READ_KEYS = {
    "openai": {"messages", "tools", "functions", "parallel_tool_calls"},
    "sharegpt": {"conversations", "system", "tools"},
    "alpaca": {"instruction", "input", "output", "system", "history"},
    "prompt-completion": {"prompt", "completion", "input", "system", "history"},
    "query-response": {"query", "response", "input", "system", "history"},
}
"""Keys of a record that become part of its row, by format."""


def read_rows(path: Path) -> list[Row]:
    """The rows of a file in any format that govor knows; DataError with the first problems where any row is invalid."""
    if _is_plain_openai(path):
        return read_jsonl(path)
    return read_records(path)[1]


def read_records(path: Path) -> tuple[str, list[Row]]:
    """(name of the format, rows) of a file in any format; DataError with the first problems where a row is invalid."""
    records = list(stream_records(path))
    return records[0].format_name, [record.row for record in records]


class Record(NamedTuple):
    """A row as it was read."""

    row: Row
    format_name: str
    unread: list[str]
    """Keys of the record that the row has no place for."""


def stream_records(path: Path) -> Iterator[Record]:
    """The rows of a file in any format, one after another, in the memory of one.

    DataError with the first problems at the end, where a row is invalid; until then the valid ones come.
    """
    problems: list[Problem] = []
    count, format_name = 0, None
    for line, record in _records(path):
        in_row: list[Problem] = []
        row = None
        if not isinstance(record, dict):
            in_row.append(Problem(line, "not_an_object", f"expected an object, found {json_kind(record)}"))
        else:
            format_name = format_name or _detect_format(path, line, record)
            row = _checked_row(line, record, format_name, in_row)
        count += len(in_row)
        problems += in_row[: max(0, MOST_PROBLEMS - len(problems))]
        if row is not None and not in_row:
            yield Record(row, str(format_name), unread_keys(record, str(format_name)))
    raise_problems(path, problems, count)
    if format_name is None:
        raise DataError(f"{path}: no rows in it")


def _checked_row(line: int, record: dict[str, Any], format_name: str, problems: list[Problem]) -> Row | None:
    """The record's row, None where it has none; what is wrong with it is added to `problems`."""
    if text := _missing_keys(record, format_name):
        problems.append(Problem(line, "mixed_formats", text))
        return None
    try:
        row = _row_of(line, record, format_name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problems.append(Problem(line, "invalid_row", f"not a whole row in {format_name} format: {error}"))
        return None
    problems += row_problems(line, {"messages": row.messages, **_without_none(tools=row.tools)})
    return row


def _is_plain_openai(path: Path) -> bool:
    """Whether the fast reader takes the file: its first row is OpenAI's in plain JSONL, or of no known format."""
    if not path.is_file():
        return True
    with path.open("rb") as file:
        start = file.readline(LONGEST_LINE).removeprefix(BYTE_ORDER_MARK)
        while start and not start.strip():
            start = file.readline(LONGEST_LINE)
    if start[:4] in (b"\x1f\x8b\x08\x08", b"\x28\xb5\x2f\xfd") or start[:2] == b"\x1f\x8b":
        return False
    start = start.lstrip()
    return not start or (start.startswith(b"{") and not _is_other_format(start.split(b"\n", 1)[0]))


def _is_other_format(line: bytes) -> bool:
    """Whether the line is a record in a known format other than OpenAI's."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and bool(set(matching_formats(record)) - {"openai"})


def _open(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic[:2] == b"\x1f\x8b":
        return cast(IO[bytes], gzip.open(path))
    if magic == b"\x28\xb5\x2f\xfd":
        import zstandard

        return cast(IO[bytes], zstandard.open(path))
    return path.open("rb")


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, or number of the element, parsed record) of every record."""
    if not path.is_file():
        raise DataError(f"{path}: {'a folder, expected a file of rows' if path.exists() else 'no such file'}")
    try:
        with _open(path) as file:
            head = file.read(65536)
        with _open(path) as file:
            if head.startswith(BYTE_ORDER_MARK):
                file.read(len(BYTE_ORDER_MARK))
            start = head.removeprefix(BYTE_ORDER_MARK).lstrip()[:1]
            if start == b"[":
                yield from enumerate(_array(path, file), 1)
            elif start == b"{":
                yield from _lines(path, file)
            else:
                yield from _table(path, file)
    except (EOFError, OSError, zlib.error, _packing_error()) as error:  # cut off or damaged inside the packing
        raise DataError(f"{path}: cannot be unpacked: {error}") from None


def _packing_error() -> type[Exception]:
    try:
        from zstandard import ZstdError
    except ImportError:
        return EOFError
    return cast(type[Exception], ZstdError)


def _lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Any]]:
    """(line, parsed record) of JSONL; a line ends at LF alone."""
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, _json(path, number, _text_of(path, number, line))


def _array(path: Path, file: IO[bytes]) -> Iterator[Any]:
    """The elements of a JSON array, read as they come."""
    try:
        yield from ijson.items(file, "item", use_float=True)
    except (ijson.JSONError, UnicodeDecodeError, ValueError) as error:
        with _open(path) as again:
            for number, line in enumerate(again, 1):
                _text_of(path, number, line)
                _require_no_nul(path, number, line.decode())
        reason = "it ends in the middle" if re.search("premature EOF|^Incomplete", str(error)) else "its JSON is broken"
        raise DataError(f"{path}: not valid JSON: {reason} near byte {file.tell()}") from None


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
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DataError(f"{path}:{line}: not valid JSON: {error}") from None


def _table(path: Path, packed: IO[bytes]) -> Iterator[tuple[int, dict[str, str]]]:
    """Records of a table; its first line names the columns."""
    csv.field_size_limit(2**31 - 1)
    number = 0
    file = io.TextIOWrapper(packed, encoding="utf-8", newline="")
    try:
        head = next((line for line in file if line.strip()), "")
        delimiter = table_delimiter(head)
        if head.count(delimiter) == 0 and not any({head.strip()} == keys for keys in FORMATS.values()):
            raise DataError(f"{path}: neither JSON nor a table with named columns; formats: {', '.join(FORMATS)}")
        reader = csv.DictReader(chain([head], file), delimiter=delimiter, strict=True)
        names = [name.strip().lower() for name in reader.fieldnames or ()]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"{path}: two columns are called {twice[0]!r}: rename or remove one")
        for number, record in enumerate(reader, 1):
            if None in record or None in record.values():  # cells beyond the first line's columns, or too few
                raise DataError(f"{path}:{reader.line_num}: row {number} has not the columns of the first line")
            _require_no_nul(path, reader.line_num, "".join(record.values()))
            yield reader.line_num, {key.strip().lower(): value for key, value in record.items() if value}
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not a valid table: {error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 behind row {number}: save the file as UTF-8") from None
    finally:
        file.detach()  # it would close what is not its own


def _detect_format(path: Path, line: int, record: dict[str, Any]) -> str:
    """The one format that the first record fits; DataError where there is none, or several."""
    names = matching_formats(record)
    if len(names) == 1:
        return names[0]
    if names:
        raise DataError(f"{path}:{line}: fits {' and '.join(names)}: remove the keys of one")
    keys = ", ".join(map(repr, list(record)[:8])) or "none"
    raise DataError(f"{path}:{line}: its keys ({keys}) are those of no known format: {', '.join(FORMATS)}")


def _missing_keys(record: dict[str, Any], format_name: str) -> str | None:
    """What to say of a record that lacks keys of the file's format; None if it lacks none."""
    if FORMATS[format_name] <= record.keys():
        return None
    missing = ", ".join(sorted(FORMATS[format_name] - record.keys()))
    return f"the file began in {format_name} format, this row has no {missing}"


def _row_of(line: int, record: dict[str, Any], format_name: str) -> Row:
    """The record as a row; KeyError, TypeError or ValueError where it is not whole."""
    if format_name != "openai" and _weight(record, "the row") == 0:
        raise ValueError("it is marked as not to be learned: take it out")
    if format_name == "openai":
        problems = list(row_problems(line, record))
        if problems:
            raise ValueError("; ".join(problem.message for problem in problems[:3]))
        return row_from_openai(line, record)
    if format_name == "sharegpt":
        return _row_of_sharegpt(line, record)
    prompt_key, answer_key = {
        "alpaca": ("instruction", "output"),
        "prompt-completion": ("prompt", "completion"),
        "query-response": ("query", "response"),
    }[format_name]
    messages: list[Message] = []
    if record.get("system"):
        messages.append({"role": "system", "content": _text(record, "system")})
    history = record.get("history") or []
    if isinstance(history, str):  # a cell of a table
        history = json.loads(history)
    for user_text, reply in _history(history):
        messages += [{"role": "user", "content": user_text}, {"role": "assistant", "content": reply}]
    prompt = _text(record, prompt_key)
    if record.get("input"):
        prompt = f"{prompt}\n{_text(record, 'input')}" if prompt else _text(record, "input")
    messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": _text(record, answer_key)}]
    return Row(line, messages)


def _row_of_sharegpt(line: int, record: dict[str, Any]) -> Row:
    messages: list[Message] = []
    if record.get("system"):
        messages.append({"role": "system", "content": _text(record, "system")})
    for number, turn in enumerate(record["conversations"], 1):
        role = SHAREGPT_ROLES.get(str(turn["from"]))
        weight = _weight(turn, f"turn {number}")
        if role is None:
            raise ValueError(f"turn {number}: unknown speaker {turn['from']!r}")
        value = _text(turn, "value")
        if role == "call":
            calls = json.loads(value)
            messages.append({"role": "assistant", "content": None, "tool_calls": _to_openai_calls(calls, number)})
        elif role == "tool":
            call_ids = [c["id"] for m in messages for c in m.get("tool_calls", ())]
            answered = {m["tool_call_id"] for m in messages if m["role"] == "tool"}
            unanswered = [call_id for call_id in call_ids if call_id not in answered]
            messages.append({"role": "tool", "tool_call_id": unanswered[0] if unanswered else "", "content": value})
        else:
            messages.append({"role": role, "content": value})
        if weight is not None and messages[-1]["role"] == "assistant":
            messages[-1]["weight"] = weight
    tools = record.get("tools") or None
    if isinstance(tools, str):
        tools = json.loads(tools)
    if tools:
        tools = [t if "function" in t else {"type": "function", "function": t} for t in tools]
    return Row(line, messages, tools or None)


def _weight(marked: dict[str, Any], where: str) -> int | None:
    """Whether a turn or row is learned, 0 or 1, by whichever of its keys says so; None where none does."""
    learned = {}
    for key in (*LEARNED_KEYS, *MASKED_KEYS):
        value = marked.get(key)
        value = {"0": 0, "1": 1, "true": 1, "false": 0}.get(value.lower(), value) if isinstance(value, str) else value
        if value in (None, ""):
            continue
        if value not in (0, 1):  # true and false among them
            raise ValueError(f"{where}: `{key}` is {value!r}, expected 0 or 1, false or true")
        learned[key] = 1 - int(value) if key in MASKED_KEYS else int(value)
    if len(set(learned.values())) > 1:
        raise ValueError(f"{where}: {' and '.join(f'`{key}`' for key in learned)} contradict each other")
    return next(iter(learned.values()), None)


def _history(history: Any) -> Iterator[tuple[str, str]]:
    """Alpaca's earlier turns: pairs of texts, or messages with role and content in turn."""
    if not isinstance(history, list):
        raise TypeError(f"`history` is {json_kind(history)}, expected a list of [question, answer]")
    if all(isinstance(turn, dict) for turn in history):
        roles = [turn.get("role") for turn in history]
        if roles != ["user", "assistant"] * (len(history) // 2):
            raise ValueError("`history` does not go user, assistant, user, …")
        history = [(a.get("content"), b.get("content")) for a, b in zip(history[::2], history[1::2], strict=True)]
    for turn in history:
        if not isinstance(turn, list | tuple) or len(turn) != 2 or not all(isinstance(text, str) for text in turn):
            raise ValueError("`history` holds something else than [question, answer]")
        yield turn[0], turn[1]


def unread_keys(record: dict[str, Any], format_name: str) -> list[str]:
    """Keys of a record, and of its turns, that a row has no place for, sorted."""
    known = READ_KEYS[format_name] | (set() if format_name == "openai" else {*LEARNED_KEYS, *MASKED_KEYS})
    unread = {key for key, value in record.items() if key not in known and value not in (None, "", [])}
    if format_name == "sharegpt":
        turns = (turn for turn in record["conversations"] if isinstance(turn, dict))
        read = {"from", "value", *LEARNED_KEYS, *MASKED_KEYS}
        unread |= {
            f"{key} (of a turn)"
            for turn in turns
            for key, value in turn.items()
            if key not in read and value is not None
        }
    return sorted(unread)


def _to_openai_calls(calls: Any, turn: int) -> list[dict[str, Any]]:
    """ShareGPT's call or calls, {"name", "arguments"}, in OpenAI's form."""
    return [
        {
            "id": f"call_{turn}_{number}",
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)},
        }
        for number, call in enumerate(calls if isinstance(calls, list) else [calls], 1)
    ]


def _text(record: dict[str, Any], key: str) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise TypeError(f"`{key}` is {json_kind(value)}, expected text")
    return value


def _without_none(**entries: Any) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if value is not None}
