"""From a Telegram export to one person's dialogues and training rows.

A session in which the persona answers somebody is a dialogue; a dialogue is a row, or several where it is long.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from train.chats.rows import Message, Row
from train.chats.telegram.compressed_list import CompressedList
from train.chats.telegram.export import TelegramChat, read_export
from train.chats.telegram.participants import Participant, Survey, survey_export
from train.chats.telegram.sessions import SessionMessage, Sessions
from train.core.errors import GovorError

GAP_HOURS = 6.0
MAX_TURNS = 40  # messages of a row, its system message not counted
MAX_CHARS = 4000  # of a row: about 1,500 tokens of Russian; also of what others say before one answer

Scrub = Callable[[str], str]
Pair = tuple[str, str]
"""(what the others say, what the persona answers)."""


class Turn(NamedTuple):
    """One message of a dialogue."""

    speaker: str
    role: str
    """`assistant` for the persona, `user` for anybody else."""
    text: str
    time: str
    """ISO date with the zone of the computer that made the export."""


class Speaker(NamedTuple):
    """A participant of one dialogue."""

    label: str
    role: str
    """`persona` or `other`."""


@dataclass(frozen=True)
class Dialogue:
    """A conversation that begins with somebody else's message and ends with an answer of the persona."""

    channel: str
    chat_type: str
    date: str
    participants: list[Speaker]
    turns: list[Turn]


@dataclass
class CollectReport:
    """What became of every message: messages_read == messages_kept + sum(dropped)."""

    channels: int = 0
    messages_read: int = 0
    messages_kept: int = 0
    dialogues: int = 0
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Messages left out, by reason:

    service, unsupported, forwarded, bot, media_without_text, empty; sender_unknown; duplicate: the same id again;
    persona_silent: the persona says nothing in the session; nothing_to_answer: the persona speaks before anybody else;
    after_last_answer; long_before_answer: others said more than MAX_CHARS since.
    """

    @property
    def share_kept(self) -> float:
        return self.messages_kept / self.messages_read if self.messages_read else 0.0


class Collected(NamedTuple):
    """What `collect_dialogues` makes of an export."""

    rows: Sequence[Row]
    """Rows with line numbers from 1. They and the dialogues are compressed: a list would take as much as the export."""
    dialogues: Sequence[Dialogue]
    report: CollectReport


def collect_dialogues(
    path: Path,
    persona: Participant,
    *,
    survey: Survey | None = None,
    gap_hours: float = GAP_HOURS,
    scrub: Scrub | None = None,
    system: str | None = None,
) -> Collected:
    """The persona's dialogues in the export, and the rows that teach them.

    `survey` spares a pass over the file where the caller has one. `scrub` is applied to every message and to the names
    of groups; with it people get labels (persona, other-7) that are the same in all dialogues of the export.
    `system` is the first message of every row.
    """
    if not gap_hours > 0:
        raise GovorError(f"a gap of {gap_hours:g} hours: it must be above 0")
    survey = survey or survey_export(path)
    builder = _DialogueBuilder(persona.id, _labels(survey, persona, named=scrub is None), scrub, system)
    bots = survey.bots - {persona.id}
    report = builder.report
    sessions = Sessions(gap_hours * 3600)
    for item in read_export(path):
        if isinstance(item, TelegramChat):
            report.channels += 1
            builder.add_chat(item, sessions.sessions)
            sessions = Sessions(gap_hours * 3600)
            continue
        report.messages_read += 1
        by_person = item.sender is not None and item.sender not in bots
        reason = item.drop_reason or (None if by_person else "bot")
        if report.channels not in persona.chats:
            reason = reason or "persona_silent"
        elif item.opens_topic and item.id is not None:
            sessions.open_topic(item.id)
        elif reason not in ("service", "unsupported"):
            new = sessions.add(item, by_person=by_person, keep=reason is None)
            reason = reason if new else "duplicate"
        if reason is not None:
            report.dropped[reason] += 1
    report.dialogues, report.rows = len(builder.dialogues), len(builder.rows)
    return Collected(builder.rows, builder.dialogues, report)


class _DialogueBuilder:
    """Makes dialogues and rows of a chat's sessions and counts what it leaves out."""

    def __init__(self, persona: str, labels: dict[str, str], scrub: Scrub | None, system: str | None) -> None:
        self.report = CollectReport()
        self.dialogues = CompressedList(Dialogue)
        self.rows = CompressedList(Row)
        self._persona = persona
        self._labels = labels
        self._scrub = scrub
        self._system = system

    def add_chat(self, chat: TelegramChat, sessions: list[list[SessionMessage]]) -> None:
        """Add the dialogues and rows of one chat."""
        partner = self._labels.get(f"user{chat.id}") if chat.type in ("personal_chat", "bot_chat") else None
        channel = chat.name or chat.type
        if self._scrub is not None:
            channel = partner or self._scrub(channel)
        for session in sessions:
            messages = self._trim(session)
            if messages and self._scrub is not None:
                for message in messages:
                    message.utf8 = self._scrub(message.text).strip().encode()
                left = [message for message in messages if message.utf8]
                self.report.dropped["empty"] += len(messages) - len(left)
                messages = self._trim(left)
            if messages:
                self.report.messages_kept += len(messages)
                dialogue = self._dialogue(channel, chat.type, messages)
                self.dialogues.append(dialogue)
                for row_messages in _rows(dialogue, self._system):
                    self.rows.append(Row(len(self.rows) + 1, row_messages))

    def _trim(self, session: list[SessionMessage]) -> list[SessionMessage]:
        """From somebody's first message to the persona's last answer, without what was said long before an answer."""
        dropped = self.report.dropped
        answers = [at for at, message in enumerate(session) if message.sender == self._persona]
        if not answers:
            dropped["persona_silent"] += len(session)
            return []
        end = answers[-1] + 1
        start = min(end, next((at for at, message in enumerate(session) if message.sender != self._persona), end))
        dropped["after_last_answer"] += len(session) - end
        dropped["nothing_to_answer"] += start
        trimmed = []
        size = 0
        for message in reversed(session[start:end]):
            before = size
            size = 0 if message.sender == self._persona else size + len(message.text) + 1
            if before and size > MAX_CHARS:
                dropped["long_before_answer"] += 1
            else:
                trimmed.append(message)
        return trimmed[::-1]

    def _dialogue(self, channel: str, chat_type: str, messages: list[SessionMessage]) -> Dialogue:
        turns = []
        for message in messages:
            role = "assistant" if message.sender == self._persona else "user"
            time = datetime.fromtimestamp(message.time, _zone(message.zone)).isoformat()
            turns.append(Turn(self._labels[message.sender], role, message.text, time))
        people = {turn.speaker: "persona" if turn.role == "assistant" else "other" for turn in turns}
        return Dialogue(channel, chat_type, turns[0].time, [Speaker(*item) for item in people.items()], turns)


@cache
def _zone(seconds: int) -> timezone:
    return timezone(timedelta(seconds=seconds)) if seconds else UTC


def _labels(survey: Survey, persona: Participant, *, named: bool) -> dict[str, str]:
    """Id → its label in the dialogues: its name, with the id where others have the same name, or other-1, other-2, …"""
    if not named:
        labels = {who.id: f"other-{number}" for number, who in enumerate(survey.participants, 1)}
        return {**labels, persona.id: "persona"}
    names = {who.id: who.names[0] if who.names else who.id for who in survey.participants}
    name_counts = Counter(names.values())
    return {id_: name if name_counts[name] == 1 else f"{name} ({id_})" for id_, name in names.items()}


def _rows(dialogue: Dialogue, system: str | None) -> Iterator[list[Message]]:
    """The dialogue as the messages of one row, or of several where it is long.

    A part after the first repeats the last two turns of the part before, the answer with weight 0, so that nothing is
    trained twice; they are left out where the row would pass MAX_CHARS with them.
    """
    texts = ["\n".join(turn.text for turn in turns) for _, turns in groupby(dialogue.turns, key=lambda turn: turn.role)]
    for context, pairs in _parts(list(zip(texts[::2], texts[1::2], strict=True))):
        messages: list[Message] = [{"role": "system", "content": system}] if system else []
        for question, answer in context + pairs:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        if context:
            messages[-2 * len(pairs) - 1]["weight"] = 0
        yield messages


def _parts(pairs: list[Pair]) -> Iterator[tuple[list[Pair], list[Pair]]]:
    """(last pair of the part before, own pairs) of parts within MAX_TURNS and, unless one pair is longer, MAX_CHARS."""
    context: list[Pair] = []
    part: list[Pair] = []
    for pair in pairs:
        row = [*context, *part, pair]
        if part and (2 * len(row) > MAX_TURNS or _size(row) > MAX_CHARS):
            yield context, part
            context = part[-1:] if _size([part[-1], pair]) <= MAX_CHARS else []
            part = []
        part.append(pair)
    if part:
        yield context, part


def _size(pairs: list[Pair]) -> int:
    return sum(len(question) + len(answer) for question, answer in pairs)
