"""Which rows are held out: seeded, independent of the order of the rows, nothing alike on both sides."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from os.path import commonprefix
from pathlib import Path

from train.chats.duplicates import fold_text, near_duplicate_groups
from train.chats.readers import read_rows
from train.chats.rows import Message, Row, row_to_json, text_of
from train.core.config import Config
from train.core.errors import DataError

LONG_MESSAGE = 60  # characters; two rows that share so long a message are parts of one dialogue
FREQUENT_SHARE = 0.05  # share of the rows; what more of them contain is boilerplate and ties nothing together


def read_split(config: Config) -> tuple[list[Row], list[Row]]:
    """(training rows, held-out rows) of a config, checked; DataError where a row is invalid or stands in both."""
    rows = read_rows(config.data.train_file)
    if config.data.eval_file is None:
        return split_rows(rows, config.data.eval_fraction, config.training.seed)
    held_out = read_rows(config.data.eval_file)
    require_disjoint(rows, held_out, config.data.train_file, config.data.eval_file)
    return rows, held_out


def split_rows(rows: Sequence[Row], eval_fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(training rows, held-out rows), each in the order of the file.

    Near-duplicates and parts of one dialogue form groups, and a group stays on one side. Groups are ranked by a hash of
    the seed and their content; in that order each is held out that leaves the number at or below `eval_fraction` of the
    rows, and at the end one more if that comes closer. DataError where one group leaves too little to hold out.
    """
    if not eval_fraction or len(rows) < 2:
        return list(rows), []
    wanted = min(max(1, round(eval_fraction * len(rows))), len(rows) - 1)
    groups = _groups(rows)
    largest = max(groups, key=len)
    if len(rows) - len(largest) < wanted / 2:
        named = ", ".join(str(rows[index].line) for index in largest[:5]) + (", …" if len(largest) > 5 else "")
        raise DataError(
            f"{len(largest)} of {len(rows)} rows are near-duplicates or parts of one dialogue (lines {named}): "
            f"{wanted} rows cannot be held out apart from them; remove the copies, give data.eval_file, "
            "or set data.eval_fraction=0"
        )
    keys = [hashlib.sha256(row_to_json(row).encode("utf-8", "surrogatepass")).hexdigest() for row in rows]
    ranked = sorted(groups, key=lambda group: _rank(seed, (keys[index] for index in group)))
    held_out = {index for group in _choose(ranked, wanted) for index in group}
    return (
        [row for index, row in enumerate(rows) if index not in held_out],
        [row for index, row in enumerate(rows) if index in held_out],
    )


def eval_overlap(train: Sequence[Row], held_out: Sequence[Row]) -> list[tuple[int, int]]:
    """(line of the first training row like it, its line) for every eval row that nearly duplicates a training row."""
    lines = [row.line for row in (*train, *held_out)]
    pairs = []
    for group in near_duplicate_groups(_texts([*train, *held_out])):
        if group[0] < len(train):
            pairs += [(lines[group[0]], lines[index]) for index in group if index >= len(train)]
    return sorted(pairs, key=lambda pair: pair[1])


def require_disjoint(train: Sequence[Row], held_out: Sequence[Row], train_file: Path, eval_file: Path) -> None:
    """DataError where rows of the eval file stand in the training file too, as they are or nearly."""
    overlap = eval_overlap(train, held_out)
    if overlap:
        named = ", ".join(f"{eval_file}:{there} like {train_file}:{here}" for here, there in overlap[:5])
        raise DataError(
            f"{len(overlap)} of {len(held_out)} rows to evaluate on equal or nearly duplicate training rows: {named}"
            f"{', …' if len(overlap) > 5 else ''}; remove them from one of the two files"
        )


def _choose(ranked: Sequence[list[int]], wanted: int) -> list[list[int]]:
    """Groups to hold out, `wanted` rows or close to it: at least one group, but never all."""
    chosen, passed = [], []
    room = wanted
    for group in ranked:
        if len(group) <= room:
            chosen.append(group)
            room -= len(group)
        else:
            passed.append(group)
    if len(passed) > 1:
        smallest = min(passed, key=len)
        if not chosen or len(smallest) - room < room:
            chosen.append(smallest)
    return chosen


def _rank(seed: int, keys: Iterable[str]) -> str:
    return hashlib.sha256("\n".join([str(seed), *sorted(keys)]).encode()).hexdigest()


def _groups(rows: Sequence[Row]) -> list[list[int]]:
    """Indices of rows that belong on one side; a row that is like no other is a group by itself."""
    parents = list(range(len(rows)))

    def root_of(index: int) -> int:
        while parents[index] != index:
            parents[index] = index = parents[parents[index]]
        return index

    for group in (*near_duplicate_groups(_texts(rows)), *_parts_of_dialogues(rows)):
        for index in group:
            parents[root_of(index)] = root_of(group[0])
    groups: dict[int, list[int]] = {}
    for index in range(len(rows)):
        groups.setdefault(root_of(index), []).append(index)
    return list(groups.values())


def _parts_of_dialogues(rows: Sequence[Row]) -> list[list[int]]:
    """Indices of rows that share a long message, the system's apart: a dialogue cut into windows or given in stages."""
    holders: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        texts = {fold_text(text_of(m)) for m in row.messages if m["role"] not in ("system", "developer")}
        for text in texts:
            if len(text) >= LONG_MESSAGE:
                holders.setdefault(text, []).append(index)
    return [group for group in holders.values() if len(group) > 1 and not _is_frequent(len(group), len(rows))]


def _texts(rows: Sequence[Row]) -> list[str]:
    """What user and assistant say in each row, for comparing.

    Where many user messages begin or end alike (one instruction over ever new input), that frame would make every row
    a near-duplicate of every other; it counts as one word instead.
    """
    texts_by_row = ({fold_text(text_of(m)) for m in row.messages if m["role"] == "user"} for row in rows)
    user_texts = list(chain.from_iterable(texts_by_row))
    starts = _frames(user_texts, len(rows))
    ends = _frames([text[::-1] for text in user_texts], len(rows))

    def compared_text(message: Message) -> str:
        text = text_of(message)
        if message["role"] == "user":
            text = fold_text(text)
            start = starts.get(text[:LONG_MESSAGE], "")
            text = text[len(start) :]
            end = ends.get(text[::-1][:LONG_MESSAGE], "")
            text = f"{_frame_word(start)} {text[: max(0, len(text) - len(end))]} {_frame_word(end)}"
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        return "\n".join([text, *(f"{function['name']} {function['arguments']}" for function in calls)])

    return ["\n".join(compared_text(m) for m in row.messages if m["role"] in ("user", "assistant")) for row in rows]


def _frames(texts: Sequence[str], rows: int) -> dict[str, str]:
    """By its first 60 characters each beginning that many of the texts share, as long as all of those share it."""
    counts = Counter(text[:LONG_MESSAGE] for text in texts if len(text) >= LONG_MESSAGE)
    return {
        start: commonprefix([text for text in texts if text.startswith(start)])  # noqa: RUF071 (characters are meant)
        for start, count in counts.items()
        if _is_frequent(count, rows)
    }


def _frame_word(frame: str) -> str:
    """Eight characters that stand for a frame."""
    return hashlib.sha256(frame.encode("utf-8", "surrogatepass")).hexdigest()[:8] if frame else ""


def _is_frequent(count: int, total: int) -> bool:
    return count > 3 and count > FREQUENT_SHARE * total
