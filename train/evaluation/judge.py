"""Everything that answers alone tell of a tuned model, and the verdict in a sentence."""

from collections.abc import Iterable, Sequence
from itertools import chain
from statistics import median
from typing import Any, NamedTuple

from train.chats.rows import Row, text_of, trained_answers
from train.evaluation.beside import Beside
from train.evaluation.forgetting import KNOWS_ENOUGH, Forgetting
from train.evaluation.intervals import Interval, difference
from train.evaluation.leakage import Continuation, Leakage, find_leakage
from train.evaluation.markers import MarkerRow, is_russian, marker_table
from train.evaluation.style import Answer, Position, TwoSample, position, two_sample

MOST_ANSWERS = 4000
"""Answers of training rows that the position's model of the persona is made of; more say nothing new."""
FORGOTTEN = 0.05
"""Share by which the loss of plain Russian has grown, with its whole interval, from which knowledge has suffered."""
OVERFITTED = 1.0
"""Nats a token by which the gap between held-out and training rows has grown, from which rows are known by heart.

The demo's grows by 0.76 in 1.5 epochs, and its held-out loss still falls.
"""


class Losses(NamedTuple):
    """Of one model: over all trained tokens alike, in nats; accuracies are shares of the tokens."""

    held_out: float
    held_out_accuracy: float
    training: float | None
    """Of training rows, as many as are held out."""
    rows: int = 0
    """Held out."""
    intervals: tuple[Interval | None, Interval | None] = (None, None)
    """Of loss and accuracy on held-out rows, drawn by row."""
    training_interval: Interval | None = None

    @property
    def gap(self) -> float | None:
        return None if self.training is None else self.held_out - self.training

    @property
    def gap_interval(self) -> Interval | None:
        if self.gap is None or not (self.intervals[0] and self.training_interval):
            return None
        return difference(self.intervals[0], self.training_interval)


class Judgement(NamedTuple):
    """What the answers of a model tell beside those of its base and the persona's own; None: not measured."""

    prompts: int
    dialogues: int
    samples: int
    """Answers to each prompt; 0 where they were not sampled."""
    position: Position | None
    two_sample: TwoSample | None
    """Of the real answers and the tuned ones."""
    markers: list[MarkerRow]
    russian: bool
    """Whether the measures that need Russian were taken."""
    leakage: Leakage | None
    real: list[Answer]
    base: list[Answer]
    tuned: list[Answer]


def judge_answers(
    rows: Sequence[Row] | None,
    real: Sequence[Answer],
    base: Sequence[Answer],
    tuned: Sequence[Answer],
    samples: int,
    other: Sequence[Row] | None = (),
) -> Judgement:
    """Judge `tuned` by the persona's real answers and the base's; `rows` were trained on, None where they are gone.

    `other`: rows that it has learned besides, None where they are not known: no copy is excluded then.
    """
    return Judgement(
        prompts=len(real),
        dialogues=len({answer.dialogue for answer in real}),
        samples=samples,
        position=_position(rows, real, base, tuned),
        two_sample=two_sample(real, tuned),
        markers=marker_table(real, base, tuned),
        russian=is_russian(real),
        leakage=_find_leakage(rows, other, real, base, tuned),
        real=list(real),
        base=list(base),
        tuned=list(tuned),
    )


def judge_beside(
    run: str,
    rows: Sequence[Row] | None,
    other: Sequence[Row] | None,
    answers: Sequence[Answer],
    judged: Judgement,
) -> Beside:
    """Judge the answers that the run of that name gave to the same prompts beside those of this run.

    `rows`, `other`: as `judge_answers` takes them.
    """
    place = _position(rows, judged.real, judged.base, answers)
    leakage = _find_leakage(rows, other, judged.real, judged.base, answers)
    lengths = [float(median(len(answer.text) for answer in side)) for side in (answers, judged.tuned, judged.real)]
    return Beside(
        run,
        (place.whole, judged.position.whole) if place and judged.position else None,
        (lengths[0], lengths[1]),
        lengths[2],
        (leakage.longest, judged.leakage.longest) if leakage and judged.leakage else None,
    )


def judge_state(
    rows: Sequence[Row] | None,
    real: Sequence[Answer],
    base: Sequence[Answer],
    answers: Sequence[Answer],
    other: Sequence[Row] | None = (),
) -> tuple[Interval | None, bool | None]:
    """(position, whether it recites) of a saved state's answers: what decides which one to keep."""
    place, leakage = _position(rows, real, base, answers), _find_leakage(rows, other, real, base, answers)
    return place.whole if place else None, leakage.recites if leakage else None


def _find_leakage(rows: Sequence[Row] | None, other: Sequence[Row] | None, *sides: Sequence[Answer]) -> Leakage | None:
    if not rows or other is None:
        return None
    return find_leakage(chain(sources(rows), ((None, text) for _, text in sources(other))), *sides)


def _position(
    rows: Sequence[Row] | None, real: Sequence[Answer], base: Sequence[Answer], answers: Sequence[Answer]
) -> Position | None:
    persona = [text for _, text in sources(rows or ())]
    persona = persona[:: -(-len(persona) // MOST_ANSWERS) or 1]
    return position(persona, base, real, answers) if persona else None


def sources(rows: Iterable[Row]) -> Iterable[tuple[int, str]]:
    """(line, text) of every answer that was trained."""
    for row in rows:
        for at in trained_answers(row.messages):
            yield row.line, text_of(row.messages[at])


class Evaluation(NamedTuple):
    """What training changed. None: not measured, and `not_measured` says why."""

    base: Losses | None
    tuned: Losses | None
    judgement: Judgement | None = None
    continuation: Continuation | None = None
    forgetting: Forgetting | None = None
    checkpoints: tuple[tuple[str, Interval | None, bool | None], ...] = ()
    """Of each saved state: its name, position, whether it recites."""
    beside: Beside | None = None
    """Of a run with lora.start_from."""
    via: str | None = None
    """The model that a server answered with, in place of the tuned one."""
    not_measured: tuple[tuple[str, str], ...] = ()
    """Reasons, in English and in Russian."""

    @property
    def overfitted(self) -> bool | None:
        """Whether training rows became likelier than held-out ones by more than OVERFITTED."""
        gaps = [losses.gap if losses else None for losses in (self.base, self.tuned)]
        return None if gaps[0] is None or gaps[1] is None else gaps[1] - gaps[0] > OVERFITTED

    @property
    def recites(self) -> bool | None:
        """Whether an answer copies more than is chance, or training rows are continued by heart."""
        if self.continuation and self.continuation.by_heart:
            return True
        leakage = self.judgement.leakage if self.judgement else None
        return leakage.recites if leakage else None

    @property
    def forgot(self) -> bool | None:
        """Whether plain Russian became dearer by FORGOTTEN, or questions turned wrong that were right."""
        if (found := self.forgetting) is None:
            return None
        dearer = found.loss_change.low > FORGOTTEN * found.base_loss.value
        worse = found.p is not None and found.p < 0.05 and found.tuned_right.value < found.base_right.value
        return dearer or worse

    @property
    def keep(self) -> str | None:
        """The checkpoint to keep: of those that do not recite the nearest to the persona; None where none was measured.

        Beyond her own answers a model overdoes her manner.
        """
        kept = [(abs(1 - place.value), name) for name, place, recites in self.checkpoints if place and not recites]
        return min(kept)[1] if kept else None


def verdict(evaluation: Evaluation, language: str) -> str:
    """A sentence for each of manner, copies and knowledge that was measured; `language`: "ru" or "en"."""
    russian = language == "ru"
    said = []
    place = evaluation.judgement.position if evaluation.judgement else None
    if place:
        value, low, high = (f"{number:.2f}".replace(".", "," if russian else ".") for number in place.whole)
        said.append(f"Манера: {value} из 1 ({low}–{high})." if russian else f"Manner: {value} of 1 ({low}–{high}).")
    sentences = (
        (evaluation.recites, "Цитирует строки обучения.", "Не цитирует.", "Recites training rows.", "Does not recite."),
        (
            evaluation.overfitted,
            "Переобучена: строки обучения знает наизусть.",
            "",
            "Overfitted: it knows training rows by heart.",
            "",
        ),
        (
            evaluation.forgot,
            "Общее знание пострадало.",
            "Общее знание не пострадало.",
            "General knowledge has suffered.",
            "General knowledge has not suffered.",
        ),
    )
    for measured, *texts in sentences:
        if measured is not None:
            said.append(texts[(0 if russian else 2) + (not measured)])
    if evaluation.beside:
        said.append(evaluation.beside.sentence(russian=russian))
    return " ".join(filter(None, said)) or ("Не измерено." if russian else "Not measured.")


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """evaluation.json: shares between 0 and 1, losses in nats a token, lengths of copies in words."""
    judged = evaluation.judgement
    losses = {"base": evaluation.base, "tuned": evaluation.tuned}
    counts = ("prompts", "dialogues", "samples")
    answers = {**{name: getattr(judged, name) for name in counts}, "judged": len(judged.tuned)} if judged else None
    return {
        "verdict": {language: verdict(evaluation, language) for language in ("ru", "en")},
        "answers": answers,
        "style": _style(judged) if judged else None,
        "leakage": _leakage(evaluation),
        "forgetting": _forgetting(evaluation.forgetting, forgot=evaluation.forgot) if evaluation.forgetting else None,
        "loss": {name: each.held_out for name, each in losses.items() if each},
        "loss_interval": {name: each.intervals[0] for name, each in losses.items() if each},
        "token_accuracy": {name: each.held_out_accuracy for name, each in losses.items() if each},
        "checkpoints": [
            {"name": name, "position": place._asdict() if place else None, "recites": recites}
            for name, place, recites in evaluation.checkpoints
        ],
        "keep": evaluation.keep,
        "beside": evaluation.beside and {**evaluation.beside._asdict(), "better": evaluation.beside.better()},
        "not_measured": [english for english, _ in evaluation.not_measured],
    }


def _style(judged: Judgement) -> dict[str, Any]:
    """Where the answers lie between base and persona, whether they can be told apart, marker by marker."""
    place = judged.position
    turns = place and {str(turn): found._asdict() for turn, found in place.by_turn.items()}
    return {
        "position": {**place.whole._asdict(), "by_turn": turns} if place else None,
        "two_sample": judged.two_sample._asdict() if judged.two_sample else None,
        "markers": {row.name: {**row._asdict(), "difference": row.difference._asdict()} for row in judged.markers},
    }


def _leakage(evaluation: Evaluation) -> dict[str, Any]:
    """What was learned by heart: copies in answers, rows continued, losses that have come apart."""
    leakage = evaluation.judgement.leakage if evaluation.judgement else None
    halves, losses = evaluation.continuation, {"base": evaluation.base, "tuned": evaluation.tuned}
    copies, continued = None, None
    if leakage:
        copies = {
            "tuned": leakage.longest,
            "held_out": leakage.longest_held_out,
            "base": leakage.longest_base,
            "ceiling": leakage.ceiling,
        }
    if halves:
        continued = {
            "trained": halves.trained._asdict(),
            "held_out": halves.held_out._asdict(),
            "by_heart": halves.by_heart,
        }
    return {
        "longest_copy": copies,
        "worst": [
            {"answer": answer.text, "copied": copy.text, "words": copy.words, "line": copy.line}
            for answer, copy in (leakage.worst if leakage else ())
        ],
        "continuation": continued,
        "loss_gap": {name: each.gap for name, each in losses.items() if each},
        "overfitted": evaluation.overfitted,
        "personal_data": leakage.personal_data if leakage else None,
        "recites": evaluation.recites,
    }


def _forgetting(found: Forgetting, *, forgot: bool | None) -> dict[str, Any]:
    """Loss on plain prose and answers to questions of general knowledge, before and after."""
    return {
        "log_loss": {
            "base": found.base_loss._asdict(),
            "tuned": found.tuned_loss._asdict(),
            "change": found.loss_change._asdict(),
        },
        "questions": {
            "base": found.base_right._asdict(),
            "tuned": found.tuned_right._asdict(),
            "p": found.p,
            "enough": found.base_right.value >= KNOWS_ENOUGH,
        },
        "forgot": forgot,
    }
