"""Writes rows in the formats of other tools. What a format cannot hold is refused, or left out if so told."""

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from train.chats.provenance import carry_provenance
from train.chats.readers import AS_FOUND, ReadAs, is_preferences, stream_preferences, stream_records
from train.chats.row_formats import preference_to_object
from train.chats.rows import Message, Row, is_trained, row_to_object, text_of, without_weight
from train.core.errors import DataError
from train.core.files import require_new, write_whole

MAX_REFUSED = 100  # reasons named in an error
CARRIERS = ("alpaca", "sharegpt")
"""Targets whose readers pass over keys that they do not know."""


class Conversion:
    """Turns rows into records of a target's format, and counts what cannot be written in it."""

    def __init__(self, target: str, when_lossy: str = "refuse") -> None:
        """`target`: openai, alpaca, sharegpt or gemini. `when_lossy` is one of

        refuse: a row that would lose anything is not written but named; drop: weights, names, keys of no meaning here
        and the like are left out and counted; split: a row with untrained answers becomes one row for each trained
        answer, the rest is refused.
        """
        self.target, self.when_lossy = target, when_lossy
        self.written = 0
        self.split = 0
        """Records made of rows with untrained answers, whose last answer alone is to be learned."""
        self.lost: Counter[str] = Counter()
        """What was left out → number of rows that had it."""
        self.refused: dict[str, array[int]] = {}
        """Why the format cannot hold rows → their lines."""

    def records(
        self, row: Row, unread: Sequence[str] = (), more: Mapping[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The records that the row becomes; `unread`: keys of the source that the row has no place for.

        `more`: those of them, with their values, that stand beside the turns: a target that takes them gets them.
        """
        carried = dict(more or {}) if self.target in CARRIERS else {}
        unread = [key for key in unread if key not in carried]
        for part in _split(row) if self.when_lossy == "split" and self.target != "openai" else [row]:
            losses = sorted({*_losses(part, self.target), *(f"key {key!r}" for key in unread)})
            if losses and self.when_lossy != "drop":
                for loss in losses:
                    self.refuse(loss, row.line)
                continue
            try:
                record = _WRITERS[self.target](part)
            except ValueError as error:
                self.refuse(str(error), row.line)
                continue
            self.lost.update(losses)
            self.written += 1
            self.split += part is not row
            yield {**carried, **record}

    def refuse(self, why: str, line: int) -> None:
        lines = self.refused.setdefault(why, array("q"))
        if not lines or lines[-1] != line:
            lines.append(line)


class Converted(NamedTuple):
    """Rows in a target's format, and what could not be written in it."""

    records: list[dict[str, Any]]
    lost: Counter[str]
    """What was left out → number of rows that had it."""
    refused: list[tuple[int, str]]
    """(line, reason) of the rows that the format cannot hold."""


def convert_rows(rows: Iterable[Row], target: str, when_lossy: str = "refuse") -> Converted:
    """The rows as records of the target; see `Conversion`."""
    conversion = Conversion(target, when_lossy)
    records = [record for row in rows for record in conversion.records(row)]
    refused = sorted((line, why) for why, lines in conversion.refused.items() for line in lines)
    return Converted(records, conversion.lost, refused)


def convert_file(
    file: Path, target: str, output: Path, *, when_lossy: str, force: bool, read_as: ReadAs = AS_FOUND
) -> None:
    """Write the file's rows in the target's format to `output`, and print what was read, written and left out.

    Rows are read and written one at a time. DataError, and no file, where the target has no place for something and
    `when_lossy` does not allow for it. Preference rows are written as OpenAI's alone.
    """
    require_new(output, force)
    conversion, source = Conversion(target, when_lossy), ""

    def lines() -> Iterator[str]:
        nonlocal source
        for record in stream_records(file, read_as):
            source = record.format_name
            for written in conversion.records(record.row, record.unread, record.more):
                yield json.dumps(written, ensure_ascii=False) + "\n"
        if conversion.refused:
            raise DataError(_refusal(conversion, file))

    def preferences() -> Iterator[str]:
        nonlocal source
        for row, name, unread in stream_preferences(file):
            source = name
            if unread and when_lossy == "refuse":
                for key in unread:
                    conversion.refuse(f"key {key!r}", row.line)
                continue
            conversion.lost.update(f"key {key!r}" for key in unread)
            conversion.written += 1
            yield json.dumps(preference_to_object(row), ensure_ascii=False) + "\n"
        if conversion.refused:
            raise DataError(_refusal(conversion, file))

    two_answers = read_as == AS_FOUND and is_preferences(file)
    if two_answers and target != "openai":
        raise DataError(f"{file}: preference rows, which --to openai alone can write: {target} is for one answer")
    write_whole(output, preferences() if two_answers else lines(), replace=force)
    if not two_answers:
        carry_provenance(file, output, (record.row for record in stream_records(file, read_as)), force=force)
    lost = "".join(f"; dropped: {what} in {count} rows" for what, count in sorted(conversion.lost.items()))
    print(f"{output}: {conversion.written} rows, read as {source}, written as {target}{lost}")
    if two_answers:
        print("they have two answers each, for preference tuning: govor train learns from them by a section dpo")
    if conversion.split:
        print(f"{conversion.split} of them stand for rows with untrained answers: only their last is to be learned")


def _refusal(conversion: Conversion, file: Path) -> str:
    """A line for each reason for which rows were refused."""
    reasons = []
    for why, lines in sorted(conversion.refused.items(), key=lambda item: item[1][0]):
        more = f" and {len(lines) - 1} more rows" if len(lines) > 1 else ""
        reasons.append(f"{file}:{lines[0]}{more}: {conversion.target} has no place for: {why}")
    count = len({line for lines in conversion.refused.values() for line in lines})
    hint = (
        ""
        if conversion.when_lossy == "drop"
        else "; --when-lossy drop leaves that out, split makes rows of marked answers"
    )
    return "\n  ".join([f"{count} rows cannot be written{hint}:", *reasons[:MAX_REFUSED]])


def _split(row: Row) -> Iterator[Row]:
    """One row for each trained answer, with what went before it as context; the row itself where all are trained."""
    answers = [index for index, message in enumerate(row.messages) if message["role"] == "assistant"]
    if all(is_trained(row.messages[index]) for index in answers):
        yield row
        return
    for index in answers:
        if is_trained(row.messages[index]):
            messages = [without_weight(message) for message in row.messages[: index + 1]]
            yield row._replace(messages=messages)


def _losses(row: Row, target: str) -> Iterator[str]:
    """What the row has and the target has no place for, apart from the order of the turns."""
    if target == "openai":
        return
    for message in row.messages:
        if "weight" in message and message["weight"] != 1:
            yield "weights"
        if "name" in message:
            yield "names"
        if "refusal" in message or isinstance(message.get("content"), list):
            yield "content parts"
        if message["role"] == "developer":
            yield "developer role"
        if target == "alpaca" and ("tool_calls" in message or message["role"] == "tool"):
            yield "tool calls"
        if target == "sharegpt" and "tool_calls" in message and text_of(message):
            yield "text beside a tool call"
    if target == "alpaca" and row.tools:
        yield "tools"
    if row.parallel_tool_calls is not None:
        yield "parallel_tool_calls"


def _split_system(row: Row) -> tuple[str, list[Message]]:
    """(system text, the other messages); ValueError where a system message stands later than the first."""
    system, rest = "", row.messages
    if rest[0]["role"] in ("system", "developer"):
        system, rest = text_of(rest[0]), rest[1:]
    if any(message["role"] in ("system", "developer") for message in rest):
        raise ValueError("a system message after the first")
    return system, rest


def _to_alpaca(row: Row) -> dict[str, Any]:
    """history + instruction → output. LLaMA-Factory learns the answers in `history` too."""
    system, rest = _split_system(row)
    rest = [message for message in rest if message["role"] in ("user", "assistant") and text_of(message)]
    if [message["role"] for message in rest] != ["user", "assistant"] * (len(rest) // 2):
        raise ValueError("turns that do not go user, assistant, user, …")
    pairs = [[text_of(rest[i]), text_of(rest[i + 1])] for i in range(0, len(rest), 2)]
    record: dict[str, Any] = {"instruction": pairs[-1][0], "input": "", "output": pairs[-1][1]}
    if system:
        record["system"] = system
    if pairs[:-1]:
        record["history"] = pairs[:-1]
    return record


def _to_sharegpt(row: Row) -> dict[str, Any]:
    """Speakers as LLaMA-Factory names them: human, gpt, function_call, observation."""
    system, rest = _split_system(row)
    turns = []
    for message in rest:
        if "tool_calls" in message:
            calls = [_parsed_call(call) for call in message["tool_calls"]]
            value = json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)
            turns.append({"from": "function_call", "value": value})
        else:
            speaker = {"user": "human", "assistant": "gpt", "tool": "observation"}[message["role"]]
            turns.append({"from": speaker, "value": text_of(message)})
    record: dict[str, Any] = {"conversations": turns}
    if system:
        record["system"] = system
    if row.tools:
        record["tools"] = json.dumps([tool["function"] for tool in row.tools], ensure_ascii=False)
    return record


def _to_gemini(row: Row) -> dict[str, Any]:
    """Gemini's tuning format: systemInstruction, contents of user and model, functions as objects."""
    system = "\n\n".join(text_of(m) for m in row.messages if m["role"] in ("system", "developer"))
    names = {call["id"]: call["function"]["name"] for m in row.messages for call in m.get("tool_calls", ())}
    contents: list[dict[str, Any]] = []
    for message in row.messages:
        if message["role"] in ("system", "developer"):
            continue
        role = "model" if message["role"] == "assistant" else "user"
        if not contents or contents[-1]["role"] != role:
            contents.append({"role": role, "parts": []})
        contents[-1]["parts"] += _parts(message, names)
    if not contents or contents[0]["role"] != "user" or contents[-1]["role"] != "model":
        raise ValueError("a conversation that does not go from the user to the model")
    record: dict[str, Any] = {"contents": contents}
    if system:
        record["systemInstruction"] = {"role": "system", "parts": [{"text": system}]}
    if row.tools:
        functions = [{k: v for k, v in tool["function"].items() if k != "strict"} for tool in row.tools]
        record["tools"] = [{"functionDeclarations": [_without_additional(function) for function in functions]}]
    return record


def _parts(message: Message, names: dict[str, str]) -> list[dict[str, Any]]:
    if message["role"] == "tool":
        return [
            {"functionResponse": {"name": names[message["tool_call_id"]], "response": _to_object(text_of(message))}}
        ]
    parts: list[dict[str, Any]] = [{"text": text_of(message)}] if text_of(message) else []
    for call in message.get("tool_calls", ()):
        function = _parsed_call(call)
        parts.append({"functionCall": {"name": function["name"], "args": function["arguments"]}})
    return parts or [{"text": ""}]


def _parsed_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {"name": function["name"], "arguments": json.loads(function["arguments"])}


def _to_object(text: str) -> dict[str, Any]:
    """A tool's answer as an object: parsed where it is one, else {"result": text}."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    return value if isinstance(value, dict) else {"result": value}


def _without_additional(schema: Any) -> Any:
    """A JSON schema without `additionalProperties`, which Gemini does not take."""
    if isinstance(schema, dict):
        return {k: _without_additional(v) for k, v in schema.items() if k != "additionalProperties"}
    return [_without_additional(item) for item in schema] if isinstance(schema, list) else schema


_WRITERS = {"openai": row_to_object, "alpaca": _to_alpaca, "sharegpt": _to_sharegpt, "gemini": _to_gemini}
