"""Pairs → what preference tuning gets: by the encoder of rows, so that prompts, masks and ends are those of serving."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from train.chats.pairs import Pair
from train.core.errors import DataError
from train.encoding.loss_mask import Encoded
from train.encoding.rows import Encoding
from train.encoding.too_long import EncodedRow


class EncodedPairs(NamedTuple):
    """Pairs as the model sees them; each answer ends with its end-of-turn token."""

    preferred: Encoding
    other: list[Encoded]
    """Of each row of `preferred` the other answer, after the same prompt."""

    def lengths(self) -> list[tuple[int, int]]:
        """(tokens of the preferred answer, of the other) of each pair."""
        sides = zip(self.preferred.encoded, self.other, strict=True)
        return [(answer_tokens(preferred), answer_tokens(other)) for preferred, other in sides]


def encode_pairs(encode: Callable[..., Encoding], pairs: Sequence[Pair]) -> EncodedPairs:
    """Encode the pairs by `rows.encoder`; a pair goes where one of its answers is too long and that is allowed.

    DataError where a row cannot be encoded, or its prompt is another before each answer.
    """
    preferred, other = (encode([pair[side] for pair in pairs]) for side in (0, 1))
    others = dict(_by_line(other))
    kept: list[EncodedRow] = []
    matching: list[Encoded] = []
    for row, one in zip(preferred.rows, preferred.encoded, strict=True):
        if row.line in others:
            two = others[row.line]
            if _prompt(one) != _prompt(two):
                raise DataError(
                    f"row at line {row.line}: the chat template writes its prompt otherwise before each of the two "
                    "answers, so they cannot be compared: take the row out"
                )
            kept.append((row, _to_end(one)))
            matching.append(_to_end(two))
    if pairs and not kept:
        raise DataError(f"none of {len(pairs)} pairs is left: raise training.max_length")
    dropped = dict(preferred.report.dropped + other.report.dropped)
    preferred.report.dropped = sorted(dropped.items())
    preferred.report.stripped = sorted({*preferred.report.stripped, *other.report.stripped})
    encoding = Encoding([row for row, _ in kept], [encoded for _, encoded in kept], preferred.report)
    return EncodedPairs(encoding, matching)


def answer_tokens(encoded: Encoded) -> int:
    """Tokens of the learned answer, its end-of-turn token included."""
    start, end = encoded.answers[-1]
    return end - start


class ByLength(NamedTuple):
    """How well length alone tells the preferred answer: what a model must beat to have learned more than that."""

    shorter: float
    """Share of the training pairs whose preferred answer is the shorter one; of answers of one length half."""
    accuracy: float | None
    """Share of the held-out pairs told by the rule of the training pairs; None where none is held out."""


def tell_by_length(train: EncodedPairs, held_out: EncodedPairs) -> ByLength:
    """Tell the preferred answers of the held-out pairs by the length that is preferred in the training pairs."""
    shorter = _shorter(train.lengths())
    if not held_out.other:
        return ByLength(shorter, None)
    there = _shorter(held_out.lengths())
    return ByLength(shorter, there if shorter >= 0.5 else 1 - there)


def _shorter(lengths: Sequence[tuple[int, int]]) -> float:
    points = [0.5 if preferred == other else float(preferred < other) for preferred, other in lengths]
    return sum(points) / len(points)


def _by_line(encoding: Encoding) -> Iterator[tuple[int, Encoded]]:
    return ((row.line, encoded) for row, encoded in zip(encoding.rows, encoding.encoded, strict=True))


def _prompt(encoded: Encoded) -> list[int]:
    return encoded.input_ids[: encoded.answers[-1][0]]


def _to_end(encoded: Encoded) -> Encoded:
    """The row as far as its answer goes: what a template writes behind it is neither learned nor seen."""
    end = encoded.answers[-1][1]
    return encoded._replace(input_ids=encoded.input_ids[:end], labels=encoded.labels[:end])
