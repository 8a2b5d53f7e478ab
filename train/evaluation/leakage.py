"""What answers have copied from the training rows, and what a model knows of them by heart."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from train.chats.privacy.scrub import find_personal_data
from train.core.progress import track
from train.encoding.loss_mask import Encoded
from train.evaluation.generate import logits_at
from train.evaluation.intervals import Interval, Side, cluster_interval
from train.evaluation.style import Answer

_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_IDEOGRAPH = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
FREE_WORDS = 8
"""A run of so many words may be common to any two texts of one persona: set phrases, a greeting."""


class Copy(NamedTuple):
    """The longest run of words that an answer shares with a training row."""

    words: int
    text: str
    """The words, in lower case."""
    line: int | None
    """Line of the training row; None of a row of an earlier run, or where nothing is shared."""


def words_of(text: str) -> list[str]:
    """The words of a text as copies are compared: in lower case, with е for ё; of Chinese each character."""
    words: list[str] = []
    for word in _WORD.findall(text.lower().replace("ё", "е")):
        words += word if _IDEOGRAPH.search(word) else [word]
    return words


def longest_copies(answers: Sequence[str], sources: Iterable[tuple[int | None, str]]) -> list[Copy]:
    """The longest copy of each answer from `sources`, (line, text) pairs that are read once.

    Time grows with the words of the sources, memory with those of the answers.
    """
    texts = [words_of(answer) for answer in answers]
    places: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    known: dict[str, list[int]] = defaultdict(list)
    for number, words in enumerate(texts):
        for at, word in enumerate(words):
            known[word].append(number)
            places[word, words[at + 1] if at + 1 < len(words) else ""].append((number, at))
    best = [Copy(0, "", None)] * len(texts)
    for line, text in sources:
        source = words_of(text)
        for word in set(source) & known.keys():
            for number in known[word]:
                if not best[number].words:
                    best[number] = Copy(1, word, line)
        for start in range(len(source) - 1):
            for number, at in places.get((source[start], source[start + 1]), ()):
                words, length = texts[number], 2
                if start and at and source[start - 1] == words[at - 1]:
                    continue  # the run that began a word earlier is longer
                while (
                    start + length < len(source)
                    and at + length < len(words)
                    and (source[start + length] == words[at + length])
                ):
                    length += 1
                if length > best[number].words:
                    best[number] = Copy(length, " ".join(words[at : at + length]), line)
    return best


class Continuation(NamedTuple):
    """How much of the second half of an answer a model says when it is given the first."""

    trained: Interval
    """Of answers that it was trained on: the share of their second half's words."""
    held_out: Interval
    difference: Interval
    by_heart: bool
    """Whether training rows are continued word by word more often than held-out ones."""
    answers: int
    """Training answers that were cut in halves."""


SHORTEST = 12
"""Tokens of an answer that is cut in halves, at least."""
MOST = 32
"""Answers a side."""
BY_HEART = 0.1
"""Share of the words above what held-out rows give, from which training rows are known by heart."""


def continuation(
    model: Any, tokenizer: Any, trained: Sequence[Encoded], held_out: Sequence[Encoded]
) -> Continuation | None:
    """How far the model goes on word by word from half an answer, of training rows and of held-out rows.

    Counted are the words up to the first that differs from the likeliest, which one pass over the whole answer tells.
    None where a side has fewer than two answers long enough.
    """
    import torch

    sides = []
    for kind, rows in (("training", trained), ("held-out", held_out)):
        halves = []
        for number, row in enumerate(rows):
            start, end = max(row.answers, key=lambda span: span[1] - span[0])
            if end - start >= SHORTEST:
                middle = (start + end) // 2
                halves.append((number, row.input_ids[:end], middle))
        halves = halves[:: max(1, -(-len(halves) // MOST))]
        values = []
        for _, ids, middle in track(halves, f"halves of {kind} answers", len(halves)):
            likeliest = logits_at(model, ids, torch.arange(middle - 1, len(ids) - 1, device=model.device)).argmax(-1)
            meant = ids[middle:]
            same = _same_beginning(likeliest.tolist(), meant)
            said = [*meant[:same], *likeliest[same : same + 1].tolist()]
            texts = [words_of(tokenizer.decode(tokens, skip_special_tokens=True)) for tokens in (said, meant)]
            values.append(_same_beginning(*texts) / max(1, len(texts[1])))
        sides.append(Side(values, [(kind, number) for number, *_ in halves]))
    found = cluster_interval(sides, lambda trained, held_out: trained - held_out)
    if found is None or any(len(side.values) < 2 for side in sides):
        return None
    each = [cluster_interval([side], lambda share: share) for side in sides]
    assert each[0] and each[1]
    return Continuation(each[0], each[1], found, found.low > 0 and found.value > BY_HEART, len(sides[0].values))


def _same_beginning(said: Sequence[object], meant: Sequence[object]) -> int:
    """How many of those meant are said before the first other one."""
    return next((at for at, one in enumerate(meant) if at >= len(said) or said[at] != one), len(meant))


class Leakage(NamedTuple):
    """What the answers took from the training rows. Copies are numbers of words."""

    longest: int
    """The longest run of words that a tuned answer shares with a training row."""
    longest_held_out: int
    """The same of the persona's real held-out answers, which nothing can have copied."""
    longest_base: int
    ceiling: int
    """More than this is no accident: FREE_WORDS, or half as much again as the real held-out answers have."""
    worst: list[tuple[Answer, Copy]]
    """The five answers with the longest copies."""
    personal_data: dict[str, int]
    """Kind → answers that hold some, names apart."""

    @property
    def recites(self) -> bool:
        return self.longest > self.ceiling


def find_leakage(
    sources: Iterable[tuple[int | None, str]], real: Sequence[Answer], base: Sequence[Answer], tuned: Sequence[Answer]
) -> Leakage:
    """Copies from `sources`, (line, text) of the answers trained, and personal data in the tuned answers."""
    sides = (tuned, real, base)
    found = iter(longest_copies([answer.text for side in sides for answer in side], sources))
    copies = [[next(found) for _ in side] for side in sides]
    longest = [max((copy.words for copy in side), default=0) for side in copies]
    copied = [pair for pair in zip(tuned, copies[0], strict=True) if pair[1].words]
    worst = sorted(copied, key=lambda pair: -pair[1].words)
    kinds: Counter[str] = Counter()
    for answer in tuned:
        kinds.update({span.kind for span in find_personal_data(answer.text)})
    ceiling = max(FREE_WORDS, longest[1] * 3 // 2)
    return Leakage(longest[0], longest[1], longest[2], ceiling, worst[:5], dict(kinds))
