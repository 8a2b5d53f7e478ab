"""Which rows are held out: seeded, nothing that is trained stands among them.

Rows that are alike, or share a long message or a (question, answer) pair, are linked and stand on one side: the linked
rows form groups, and whole groups are held out, independent of the order of the rows. Where rows overlap in a long
chain, as windows over one chat do, the chain is cut by their order, or along its links where the file is shuffled, and
rows that overlap with held-out ones go.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from os.path import commonprefix
from pathlib import Path
from typing import NamedTuple

from train.chats.duplicates import alike, fold_text, near_duplicate_groups
from train.chats.provenance import require_reviewed
from train.chats.readers import read_rows
from train.chats.rows import Message, Row, row_to_json, text_of
from train.core.config import Config
from train.core.errors import DataError

LONG_MESSAGE = 60  # characters; two rows that share so long a message are parts of one dialogue
FREQUENT_SHARE = 0.05  # share of the rows; what more of them contain is boilerplate and ties nothing together
FEW_WORDS, FEW_DIALOGUES, FEW_PAIRS = 3, 3, 0.02
"""A pair whose sides have so few words and that stands in so many dialogues ("как дела? / хорошо") links no rows, as
long as no more than this share of the held-out pairs is trained too."""
Pair = tuple[str, str]
"""(question, answer), folded for comparison."""
CUTS = 64  # places at which a chain is tried


class Split(NamedTuple):
    """Rows to train on and rows held out, each in the order of the file, and what had to be left out between them."""

    train: list[Row]
    held_out: list[Row]
    left_out: list[Row]
    """Rows that overlap with held-out ones."""
    pairs: int
    """(question, answer) pairs of the held-out rows."""
    trained_pairs: int
    """Those of them that stand in training rows too: a few words that many dialogues have."""
    wanted: int
    """How many rows were to be held out."""

    def notes(self) -> Iterator[str]:
        """What people should know of the split, a line each."""
        if self.left_out:
            lines = ", ".join(str(row.line) for row in self.left_out[:5]) + (", …" if len(self.left_out) > 5 else "")
            yield f"{len(self.left_out)} rows left out: they overlap with held-out rows (lines {lines})"
        if self.trained_pairs:
            yield f"{self.trained_pairs} of {self.pairs} held-out (question, answer) pairs are trained too"
        if not 0.8 * self.wanted <= len(self.held_out) <= 1.25 * self.wanted + 1:
            total = len(self.train) + len(self.held_out) + len(self.left_out)
            yield (
                f"{len(self.held_out)} rows of {total} are held out, {self.wanted} were to be: rows that are alike or "
                "share turns stay together"
            )


def read_split(config: Config) -> Split:
    """The rows of a config, checked and split.

    For preference tuning these are the rows with the preferred answers, see `pairs.read_pair_split`. DataError where a
    row is invalid, stands on both sides, or was generated and not reviewed.
    """
    if config.dpo:
        from train.chats.pairs import read_pair_split

        return read_pair_split(config).split
    rows = read_rows(config.data.train_file)
    if not config.data.unreviewed:
        require_reviewed(rows, config.data.train_file)
    if config.data.eval_file is None:
        return split(rows, config.data.eval_fraction, config.training.seed)
    held_out = read_rows(config.data.eval_file)
    require_disjoint(rows, held_out, config.data.train_file, config.data.eval_file)
    counts = _count_pairs(map(_pairs, rows), map(_pairs, held_out))
    return Split(rows, held_out, [], *counts, wanted=len(held_out))


def split_rows(rows: Sequence[Row], eval_fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(training rows, held-out rows) of `split`."""
    result = split(rows, eval_fraction, seed)
    return result.train, result.held_out


def split(rows: Sequence[Row], eval_fraction: float, seed: int) -> Split:
    """Hold out about `eval_fraction` of the rows so that no (question, answer) pair of theirs is trained.

    Groups of linked rows are ranked by a hash of the seed and their content; in that order each is held out that leaves
    the number at or below the fraction, and at the end one more if that comes closer. Where only longer chains are
    left, one is cut. DataError where nothing can be held out apart from the rest.
    """
    if not eval_fraction or len(rows) < 2:
        return Split(list(rows), [], [], 0, 0, 0)
    wanted = min(max(1, round(eval_fraction * len(rows))), len(rows) - 1)
    texts = _texts(rows)
    copies = near_duplicate_groups(texts)
    pairs_by_row = [_pairs(row) for row in rows]
    for exempt in (True, False):
        links = _links(rows, pairs_by_row, copies, exempt=exempt)
        held_out, left_out = _choose(rows, texts, copies, links, wanted, seed)
        trained = [index for index in range(len(rows)) if index not in held_out and index not in left_out]
        counts = _count_pairs((pairs_by_row[index] for index in trained), (pairs_by_row[index] for index in held_out))
        if counts[1] <= FEW_PAIRS * counts[0]:
            break
    train, apart, between = ([rows[index] for index in sorted(part)] for part in (trained, held_out, left_out))
    return Split(train, apart, between, *counts, wanted)


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


def _choose(
    rows: Sequence[Row],
    texts: Sequence[str],
    copies: Sequence[list[int]],
    links: Sequence[list[int]],
    wanted: int,
    seed: int,
) -> tuple[set[int], set[int]]:
    """(indices of the rows to hold out, of those to leave out): `wanted` rows or close to it, but never all.

    `texts`: what is compared of each row; `copies`: groups of rows that are alike; `links`: of rows that share turns.
    """
    groups = _groups(len(rows), [*copies, *links])
    keys = [hashlib.sha256(row_to_json(row).encode("utf-8", "surrogatepass")).hexdigest() for row in rows]
    ranked = sorted(groups, key=lambda group: _rank(seed, (keys[index] for index in group)))
    chosen, passed = [], []
    room = wanted
    for group in ranked:
        if len(group) <= room:
            chosen.append(group)
            room -= len(group)
        else:
            passed.append(group)
    held_out = set(chain.from_iterable(chosen))
    if not passed or (chosen and room < 0.2 * wanted):
        return held_out, set()
    smallest = min(passed, key=len)
    closer = len(passed) > 1 and (not chosen or len(smallest) - room < room)
    if not (closer and len(smallest) <= 1.25 * room):
        for group in sorted(passed, key=len, reverse=True):
            cut = _cut(group, texts, links, room, seed)
            if cut is None or len(cut[1]) > room:  # the file may be shuffled: the chain has an order of its own
                along = _cut(_along(group, links), texts, links, room, seed)
                cut = min((each for each in (cut, along) if each), key=lambda each: len(each[1]), default=None)
            if cut and len(cut[0]) + len(cut[1]) <= len(rows) / 2:
                return held_out | cut[0], cut[1]
    if closer:
        members = set(smallest)
        different = len({texts[index] for index in smallest})  # copies stay together as they are
        grown = different > 1.25 * room and any(len(members.intersection(link)) > 1 for link in links)
        kept = set(smallest[-room:]) if grown and room else members  # the latest stages of a dialogue that grows
        return held_out | kept, members - kept
    group = max(groups, key=len)
    if len(rows) - len(group) < wanted / 2:
        named = ", ".join(str(rows[index].line) for index in group[:5]) + (", …" if len(group) > 5 else "")
        raise DataError(
            f"{len(group)} of {len(rows)} rows are near-duplicates or parts of one dialogue (lines {named}): "
            f"{wanted} rows cannot be held out apart from them; remove the copies, give data.eval_file, "
            "or set data.eval_fraction=0"
        )
    return held_out, set()


def _cut(
    group: Sequence[int], texts: Sequence[str], links: Sequence[list[int]], size: int, seed: int
) -> tuple[set[int], set[int]] | None:
    """(`size` consecutive rows of a chain, rows outside that are linked to them), where the fewest are linked.

    None where the rest of the group is linked to them: then it is no chain.
    """
    members = set(group)
    of_row: dict[int, list[int]] = {index: [] for index in group}
    for number, link in enumerate(links):
        for index in link:
            if index in members:
                of_row[index].append(number)
    last = len(group) - size
    offset = int(_rank(seed, ["cut"]), 16)
    starts = {(offset + place * max(1, last // CUTS)) % (last + 1) for place in range(CUTS)} | {0, last}
    best: tuple[set[int], set[int]] | None = None
    for start in sorted(starts):
        block = set(group[start : start + size])
        touched = {number for index in block for number in of_row[index]}
        linked = set(chain.from_iterable(links[number] for number in touched)) - block
        if best is None or len(linked) < len(best[1]):
            best = block, linked
    if best is None or 2 * len(best[1]) > len(group) - size:
        return None
    block, linked = best
    rest = [index for index in group if index not in block and index not in linked]
    linked |= {rest[at] for at in alike([texts[index] for index in block], [texts[index] for index in rest])}
    return (block, linked) if 2 * len(linked) <= len(group) - size else None


def _along(group: Sequence[int], links: Sequence[list[int]]) -> list[int]:
    """The rows of a chain from one of its ends to the other, by the number of links between."""
    of_row: dict[int, list[int]] = {index: [] for index in group}
    for number, link in enumerate(links):
        for index in link:
            if index in of_row:
                of_row[index].append(number)

    def steps_from(start: int) -> dict[int, int]:
        steps, queue, used = {start: 0}, deque([start]), set[int]()
        while queue:
            index = queue.popleft()
            for number in of_row[index]:
                if number not in used:
                    used.add(number)
                    fresh = [other for other in links[number] if other not in steps]
                    steps.update(dict.fromkeys(fresh, steps[index] + 1))
                    queue.extend(fresh)
        return steps

    from_first = steps_from(group[0])
    end = max(group, key=lambda index: (from_first.get(index, 0), -index))
    steps = steps_from(end)
    return sorted(group, key=lambda index: (steps.get(index, len(group)), index))


def _rank(seed: int, keys: Iterable[str]) -> str:
    return hashlib.sha256("\n".join([str(seed), *sorted(keys)]).encode()).hexdigest()


def _groups(count: int, links: Iterable[list[int]]) -> list[list[int]]:
    """Indices of rows that are linked, in order; a row that is linked to no other is a group by itself."""
    parents = list(range(count))

    def root_of(index: int) -> int:
        while parents[index] != index:
            parents[index] = index = parents[parents[index]]
        return index

    for link in links:
        for index in link:
            parents[root_of(index)] = root_of(link[0])
    groups: dict[int, list[int]] = {}
    for index in range(count):
        groups.setdefault(root_of(index), []).append(index)
    return list(groups.values())


def _links(
    rows: Sequence[Row], pairs_by_row: Sequence[list[Pair]], copies: Sequence[list[int]], *, exempt: bool
) -> list[list[int]]:
    """Lists of rows that share turns; with `exempt` not for pairs of few words that stand in many dialogues."""
    links = _parts_of_dialogues(rows)
    holders: dict[Pair, list[int]] = {}
    for index, pairs in enumerate(pairs_by_row):
        for pair in set(pairs):
            holders.setdefault(pair, []).append(index)
    short: list[list[int]] = []
    for pair, indices in holders.items():
        if len(indices) > 1:
            few = all(len(side.split()) <= FEW_WORDS for side in pair)
            (short if few and exempt else links).append(indices)
    if not short:
        return links
    together = _groups(len(rows), [*copies, *links, *_stages(pairs_by_row)])
    dialogue_of = {index: number for number, group in enumerate(together) for index in group}
    return links + [link for link in short if len({dialogue_of[index] for index in link}) < FEW_DIALOGUES]


def _stages(pairs_by_row: Sequence[list[Pair]]) -> list[list[int]]:
    """Lists of rows of one dialogue: two pairs follow each other in both, or one row is the beginning of another."""
    holders: dict[tuple[Pair, ...], list[int]] = {}
    whole: dict[tuple[Pair, ...], list[int]] = {}
    for index, pairs in enumerate(pairs_by_row):
        whole.setdefault(tuple(pairs), []).append(index)
        for two in set(pairwise(pairs)):
            holders.setdefault(two, []).append(index)
    for index, pairs in enumerate(pairs_by_row):
        if (first := tuple(pairs[:1])) in whole:  # longer beginnings share two pairs
            holders.setdefault(first, [*whole[first]]).append(index)
    return [indices for indices in holders.values() if len(indices) > 1]


def _pairs(row: Row) -> list[Pair]:
    """Every answer of the row with the message before it."""
    return [
        (fold_text(text_of(before)), fold_text(text_of(answer)))
        for before, answer in pairwise(row.messages)
        if answer["role"] == "assistant" and before["role"] != "system"
    ]


def _count_pairs(train: Iterable[list[Pair]], held_out: Iterable[list[Pair]]) -> tuple[int, int]:
    """(pairs of the held-out rows, those of them that stand in training rows)."""
    trained = set(chain.from_iterable(train))
    pairs = list(chain.from_iterable(held_out))
    return len(pairs), sum(pair in trained for pair in pairs)


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
