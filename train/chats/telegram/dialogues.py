"""From a Telegram export to one person's dialogues and training rows.

A session in which the persona answers somebody is a dialogue; a dialogue is a row, or several where it is long.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from train.chats.privacy.scrub import table_beside
from train.chats.rows import Message as RowMessage
from train.chats.rows import Row, to_json
from train.chats.telegram.compressed_list import Packed
from train.chats.telegram.export import Chat, read_export
from train.chats.telegram.participants import Participant, Survey
from train.chats.telegram.participants import survey as survey_export
from train.chats.telegram.sessions import Said, Sessions
from train.core.errors import GovorError
from train.core.files import require_new, write_whole

GAP_HOURS = 6.0
MAX_TURNS = 40  # messages of a row, its system message not counted
MAX_CHARS = 4000  # of a row: about 1,500 tokens of Russian; also of what others say before one answer

Scrub = Callable[[str], str]
Pair = tuple[str, str]
"""What the others say, what the persona answers."""


class Turn(NamedTuple):
    """One message of a dialogue."""

    speaker: str
    role: str
    """assistant: the persona; user: anybody else."""
    text: str
    time: str
    """ISO date with the zone of the computer that made the export."""


class Speaker(NamedTuple):
    label: str
    role: str
    """persona or other."""


@dataclass(frozen=True)
class Dialogue:
    """It begins with somebody else's message and ends with an answer of the persona."""

    channel: str
    chat_type: str
    date: str
    participants: list[Speaker]
    turns: list[Turn]


@dataclass
class Account:
    """What became of every message: read == kept + sum(dropped)."""

    channels: int = 0
    read: int = 0
    kept: int = 0
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
        return self.kept / self.read if self.read else 0.0


class Collected(NamedTuple):
    rows: Sequence[Row]
    """With line numbers from 1. Rows and dialogues are packed: a list of either takes as much memory as the export."""
    dialogues: Sequence[Dialogue]
    account: Account


def collect(
    path: Path,
    persona: Participant,
    *,
    survey: Survey | None = None,
    gap_hours: float = GAP_HOURS,
    scrub: Scrub | None = None,
    system: str | None = None,
) -> Collected:
    """The persona's dialogues in the export, and the rows that teach them.

    `survey` spares a pass over the file where the caller has made one. `scrub` is applied to every message and to the
    names of groups; with it people get labels (persona, other-7) that are the same in all dialogues of the export.
    `system` is the first message of every row.
    """
    if not gap_hours > 0:
        raise GovorError(f"a gap of {gap_hours:g} hours: it must be above 0")
    survey = survey or survey_export(path)
    maker = _Maker(persona.id, _labels(survey, persona, named=scrub is None), scrub, system)
    bots = survey.bots - {persona.id}
    account = maker.account
    sessions = Sessions(gap_hours * 3600)
    for item in read_export(path):
        if isinstance(item, Chat):
            account.channels += 1
            maker.add_chat(item, sessions.sessions)
            sessions = Sessions(gap_hours * 3600)
            continue
        account.read += 1
        by_person = item.sender is not None and item.sender not in bots
        reason = item.left_out or (None if by_person else "bot")
        if account.channels not in persona.chats:
            reason = reason or "persona_silent"
        elif item.opens_topic and item.id is not None:
            sessions.open_topic(item.id)
        elif reason not in ("service", "unsupported"):
            new = sessions.add(item, by_person=by_person, keep=reason is None)
            reason = reason if new else "duplicate"
        if reason is not None:
            account.dropped[reason] += 1
    account.dialogues, account.rows = len(maker.dialogues), len(maker.rows)
    return Collected(maker.rows, maker.dialogues, account)


class _Maker:
    """Makes dialogues and rows of a chat's sessions and accounts for what it leaves out."""

    def __init__(self, persona: str, labels: dict[str, str], scrub: Scrub | None, system: str | None) -> None:
        self.account = Account()
        self.dialogues = Packed(Dialogue)
        self.rows = Packed(Row)
        self._persona = persona
        self._labels = labels
        self._scrub = scrub
        self._system = system

    def add_chat(self, chat: Chat, sessions: list[list[Said]]) -> None:
        partner = self._labels.get(f"user{chat.id}") if chat.type in ("personal_chat", "bot_chat") else None
        channel = chat.name or chat.type
        if self._scrub is not None:
            channel = partner or self._scrub(channel)
        for session in sessions:
            said = self._trim(session)
            if said and self._scrub is not None:
                for message in said:
                    message.utf8 = self._scrub(message.text).strip().encode()
                left = [message for message in said if message.utf8]
                self.account.dropped["empty"] += len(said) - len(left)
                said = self._trim(left)
            if said:
                self.account.kept += len(said)
                dialogue = self._dialogue(channel, chat.type, said)
                self.dialogues.append(dialogue)
                for messages in _rows(dialogue, self._system):
                    self.rows.append(Row(len(self.rows) + 1, messages))

    def _trim(self, session: list[Said]) -> list[Said]:
        """From somebody's first message to the persona's last answer, without what was said long before an answer."""
        dropped = self.account.dropped
        answers = [at for at, message in enumerate(session) if message.sender == self._persona]
        if not answers:
            dropped["persona_silent"] += len(session)
            return []
        end = answers[-1] + 1
        start = min(end, next((at for at, message in enumerate(session) if message.sender != self._persona), end))
        dropped["after_last_answer"] += len(session) - end
        dropped["nothing_to_answer"] += start
        kept = []
        size = 0
        for message in reversed(session[start:end]):
            before = size
            size = 0 if message.sender == self._persona else size + len(message.text) + 1
            if before and size > MAX_CHARS:
                dropped["long_before_answer"] += 1
            else:
                kept.append(message)
        return kept[::-1]

    def _dialogue(self, channel: str, chat_type: str, said: list[Said]) -> Dialogue:
        turns = []
        for message in said:
            role = "assistant" if message.sender == self._persona else "user"
            time = datetime.fromtimestamp(message.time, _zone(message.zone)).isoformat()
            turns.append(Turn(self._labels[message.sender], role, message.text, time))
        people = {turn.speaker: "persona" if turn.role == "assistant" else "other" for turn in turns}
        return Dialogue(channel, chat_type, turns[0].time, [Speaker(*item) for item in people.items()], turns)


@cache
def _zone(seconds: int) -> timezone:
    return timezone(timedelta(seconds=seconds)) if seconds else UTC


def _labels(survey: Survey, persona: Participant, *, named: bool) -> dict[str, str]:
    """What each id is called in the dialogues: its name, with the id where others bear it too, or a label."""
    if not named:
        labels = {who.id: f"other-{number}" for number, who in enumerate(survey.participants, 1)}
        return {**labels, persona.id: "persona"}
    names = {who.id: who.names[0] if who.names else who.id for who in survey.participants}
    bearers = Counter(names.values())
    return {id_: name if bearers[name] == 1 else f"{name} ({id_})" for id_, name in names.items()}


def _rows(dialogue: Dialogue, system: str | None) -> Iterator[list[RowMessage]]:
    """The dialogue as the messages of one row, or of several where it is long.

    A part after the first repeats the last two turns of the part before, the answer with weight 0, so that nothing is
    trained twice; they are left out where the row would pass MAX_CHARS with them.
    """
    said = ["\n".join(turn.text for turn in turns) for _, turns in groupby(dialogue.turns, key=lambda turn: turn.role)]
    for context, pairs in _parts(list(zip(said[::2], said[1::2], strict=True))):
        messages: list[RowMessage] = [{"role": "system", "content": system}] if system else []
        for question, answer in context + pairs:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        if context:
            messages[-2 * len(pairs) - 1]["weight"] = 0
        yield messages


def _parts(pairs: list[Pair]) -> Iterator[tuple[list[Pair], list[Pair]]]:
    """(the last pair of the part before, a part's own pairs), within MAX_TURNS and, if a pair alone is, MAX_CHARS."""
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


def write_collected(
    collected: Collected, folder: Path, name: str, *, force: bool, scrubbed: bool = False
) -> list[Path]:
    """The rows as JSONL, the dialogues as JSON and as a table for Excel; a GovorError if one is there already.

    `scrubbed`: the table of what was replaced will be written too, and may not be there either.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise GovorError(f"{name!r}: a file's name may hold letters, digits, `_`, `-` and `.`")
    today = date.today().isoformat()
    files = {
        folder / f"{name}_finetuning_{today}.jsonl": (f"{to_json(row)}\n" for row in collected.rows),
        folder / f"{name}_dialogs_dataset_{today}.json": _as_json(collected.dialogues),
        folder / f"{name}_dialogs_{today}.csv": _as_csv(collected.dialogues),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for path in [*files, table_beside(next(iter(files)))] if scrubbed else files:
        require_new(path, force)
    for path, chunks in files.items():
        write_whole(path, chunks, replace=force)
    return list(files)


def _as_json(dialogues: Iterable[Dialogue]) -> Iterator[str]:
    """A JSON list, one dialogue a line."""
    before = "[\n"
    for dialogue in dialogues:
        entry = {
            "channel": dialogue.channel,
            "chat_type": dialogue.chat_type,
            "date": dialogue.date,
            "participants": [speaker._asdict() for speaker in dialogue.participants],
            "turns": [turn._asdict() for turn in dialogue.turns],
        }
        yield before + json.dumps(entry, ensure_ascii=False)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _as_csv(dialogues: Iterable[Dialogue]) -> Iterator[str]:
    """One line a message, behind a byte order mark, by which Excel knows UTF-8."""
    line = io.StringIO()
    table = csv.writer(line)
    line.write("\ufeff")
    table.writerow(("dialogue", "channel", "date", "speaker", "role", "text"))
    for number, dialogue in enumerate(dialogues, 1):
        for turn in dialogue.turns:
            table.writerow((number, dialogue.channel, turn.time, turn.speaker, turn.role, turn.text))
        yield line.getvalue()
        line.seek(0)
        line.truncate()
    yield line.getvalue()
