"""A file of rows as the studio pages through it: an index of its lines, what is searched, and what was decided.

Decisions stand in the file of `govor review`, NAME.review.jsonl, so that either goes on where the other was left. The
rows themselves are never changed: what is kept goes into a new file.
"""

import io
import json
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from train.chats.checks import check_file, line_problems
from train.chats.provenance import SUFFIX, provenance_file, read_provenance, row_hash, write_provenance
from train.chats.rows import Row, row_from_openai, row_to_json, text_of, trained_answers
from train.core.errors import DataError, GovorError
from train.core.files import append_json, aside_file, require_new
from train.remote.review import Decisions, edited, read_decisions
from train.studio.run_list import is_text

PLACES = ("data", ".")
"""Where files of rows lie in a project folder."""
OURS = (SUFFIX, ".review.jsonl")
"""Ends of files beside rows that are none."""
CHUNK = 1 << 22
MOST_FOUND = 10_000
LONGEST = 1 << 20  # bytes of a line that are shown as they are, where it is no row
Said = Literal["y", "n", "edit"]


def find_files(folders: Sequence[Path]) -> dict[str, Path]:
    """Id → file of rows in the project folders; a link that leads out of its folder is passed over."""
    found: dict[str, Path] = {}
    for folder in folders:
        for place in PLACES:
            root = folder / place
            for path in sorted(root.glob("*.jsonl")) if root.is_dir() else ():
                if (
                    is_text(path.name)
                    and path.is_file()
                    and path.resolve().parent == root.resolve()
                    and not path.name.endswith(OURS)
                ):
                    same = sum(id_ == path.name or id_.startswith(f"{path.name}~") for id_ in found)
                    found[f"{path.name}~{same + 1}" if same else path.name] = path
    return found


class Index(NamedTuple):
    """Where each line with something in it lies."""

    starts: "array[int]"
    """Bytes before the line."""
    numbers: "array[int]"
    """Physical numbers of the lines, from 1."""


def index_of(file: Path) -> Index:
    """The lines of a file; made once for each state of it."""
    stat = file.stat()
    return _index(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _index(file: Path, changed: int, size: int) -> Index:
    starts, numbers = array("q"), array("q")
    for number, (start, line) in enumerate(_lines(file), 1):
        if line and not line.isspace():
            starts.append(start)
            numbers.append(number)
    return Index(starts, numbers)


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """(bytes before it, line without its break) for every line."""
    start, rest = 0, b""
    with file.open("rb") as handle:
        while block := handle.read(CHUNK):
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            for line in lines:
                yield start, line
                start += len(line) + 1
    if rest:
        yield start, rest


def search(file: Path, words: str) -> list[int]:
    """Places in the index of the lines whose text holds the words, in any case; the first MOST_FOUND."""
    stat = file.stat()
    return _search(file, stat.st_mtime_ns, stat.st_size, words.strip().casefold())


@lru_cache(maxsize=32)
def _search(file: Path, changed: int, size: int, words: str) -> list[int]:
    found: list[int] = []
    place = -1
    as_json = json.dumps(words, ensure_ascii=False)[1:-1]  # quotes and breaks stand escaped in the file
    for _, line in _lines(file):
        if not line or line.isspace():
            continue
        place += 1
        if b"\\u" in line:
            line = _unescaped(line)
        if as_json in line.decode("utf-8", "replace").casefold():
            found.append(place)
            if len(found) == MOST_FOUND:
                break
    return found


def _unescaped(line: bytes) -> bytes:
    """A line of JSON with its letters as they are, where it is JSON."""
    try:
        return msgspec.json.encode(msgspec.json.decode(line))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return line


class Line(NamedTuple):
    """One line of the file."""

    number: int
    """Physical, from 1."""
    raw: bytes
    row: Row | None
    """None where it is no valid row."""

    @property
    def key(self) -> str:
        """What decisions know it by."""
        return row_hash(self.row) if self.row else f"line {self.number}"


def read_lines(file: Path, places: Sequence[int]) -> list[Line]:
    """The lines at these places of the index."""
    index = index_of(file)
    lines = []
    with file.open("rb") as handle:
        for place in places:
            if 0 <= place < len(index.starts):
                handle.seek(index.starts[place])
                lines.append(_line(index.numbers[place], handle.readline().rstrip(b"\n")))
    return lines


def _line(number: int, raw: bytes) -> Line:
    errors, _, value = line_problems(number, raw)
    return Line(number, raw, None if errors else row_from_openai(number, value))


def describe_line(line: Line, decisions: Decisions) -> dict[str, Any]:
    """A line for the page: its messages, validate's complaints, personal data by message, what was decided."""
    from train.chats.privacy.scrub import find_personal_data

    errors, warnings, _ = line_problems(line.number, line.raw)
    messages: list[dict[str, Any]] = []
    for message in line.row.messages if line.row else ():
        text = text_of(message)
        personal = [{"start": span.start, "end": span.end, "kind": span.kind} for span in find_personal_data(text)]
        calls = json.dumps(message["tool_calls"], ensure_ascii=False) if "tool_calls" in message else None
        messages.append({"role": message["role"], "text": text, "calls": calls, "personal": personal})
    answers = trained_answers(line.row.messages) if line.row else []
    return {
        "line": line.number,
        "messages": messages,
        "raw": None if line.row else line.raw[:LONGEST].decode("utf-8", "replace"),
        "errors": [problem.message for problem in errors],
        "warnings": [problem.message for problem in warnings],
        "answer": answers[-1] if answers else None,
        "decision": decisions.get(line.key),
    }


def decisions_file(file: Path) -> Path:
    """Where `govor review` keeps what was said of a file's rows."""
    return file.with_name(file.name.split(".")[0] + ".review.jsonl")


def decisions_of(file: Path) -> Decisions:
    """What was said so far; nothing where nobody has looked at the file."""
    path = decisions_file(file)
    if not path.is_file():
        return {}
    return read_decisions(io.StringIO(path.read_text(encoding="utf-8")))  # a copy: half a line is mended by `decide`


def decide(file: Path, number: int, said: Said | None, text: str | None) -> None:
    """Note what was said of the line with that number, on disk at once; None takes it back."""
    numbers = index_of(file).numbers
    place = next((place for place, each in enumerate(numbers) if each == number), None)
    if place is None:
        raise DataError(f"{file} has no row at line {number}")
    line = read_lines(file, [place])[0]
    entry: dict[str, Any] = {"row": line.key, "said": said}
    if said == "edit":
        if line.row is None or not trained_answers(line.row.messages):
            raise DataError(f"{file}:{number}: has no answer to edit: mend the file itself")
        if not text or not text.strip():
            raise DataError(f"{file}:{number}: the answer is empty: drop the row instead")
        entry["text"] = text.strip()
    with decisions_file(file).open("a+", encoding="utf-8") as log:
        read_decisions(log)  # ends what a kill has left of a last line
        append_json(log, entry)


def write_kept(file: Path, name: str) -> dict[str, int | str]:
    """Write the rows that were not dropped, edited ones as edited, to a new file beside; every other byte as it was.

    GovorError where a file of that name is there. Provenance of generated rows goes with them, as `govor review` does.
    """
    if Path(name).name != name or not name.endswith(".jsonl") or name.startswith(".") or name.endswith(OURS):
        raise GovorError(f"{name!r}: expected a file's name such as kept.jsonl")
    output = file.with_name(name)
    for path in (output, provenance_file(output)):
        require_new(path)
    decisions, known = decisions_of(file), read_provenance(file.absolute().parent)
    counts = {"rows": 0, "dropped": 0, "edited": 0}
    entries: list[dict[str, Any]] = []

    def kept() -> Iterator[bytes]:
        for number, (_, raw) in enumerate(_lines(file), 1):
            if not raw or raw.isspace():
                continue
            line = _line(number, raw)
            said = decisions.get(line.key, {"said": None})
            if said["said"] == "n":
                counts["dropped"] += 1
                continue
            row = line.row
            if row and said["said"] == "edit":
                row = edited(row, said["text"])
                counts["edited"] += 1
                yield row_to_json(row).encode() + b"\n"
            else:
                yield raw + b"\n"
            counts["rows"] += 1
            if row and line.key in known:
                seen = {"y": "seen", "edit": "edited"}.get(str(said["said"]), known[line.key]["reviewed"])
                entries.append({**known[line.key], "row": row_hash(row), "reviewed": seen})

    with aside_file(output, replace=False) as handle:
        handle.writelines(kept())
    if entries:
        write_provenance(output, entries, force=False)
    return {"file": str(output), **counts}


def check(file: Path) -> dict[str, Any]:
    """What `govor validate` says of the whole file: counts, and its first problems by line."""
    report = check_file(file)
    return {
        "rows": report.examples,
        "error_count": report.error_count,
        "warning_count": report.warning_count,
        "errors": [problem._asdict() for problem in report.errors],
        "warnings": [problem._asdict() for problem in report.warnings],
    }


def alike_groups(file: Path) -> list[list[int]]:
    """Numbers of lines whose rows say nearly the same, in groups, the largest first; at most 200 groups."""
    from train.chats.duplicates import near_duplicate_groups

    numbers, texts = [], []
    for number, (_, raw) in enumerate(_lines(file), 1):
        row = _line(number, raw).row if raw and not raw.isspace() else None
        if row:
            turns = [text_of(m) for m in row.messages if m["role"] not in ("system", "developer")]
            numbers.append(number)
            texts.append("\n".join(turns))
    groups = [[numbers[at] for at in group] for group in near_duplicate_groups(texts)]
    return sorted(groups, key=len, reverse=True)[:200]
