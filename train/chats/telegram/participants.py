"""Who takes part in a Telegram export, and which of them is meant."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from train.chats.telegram.export import TelegramChat, normalize_name, read_export
from train.core.errors import GovorError

BOT_NAME = re.compile(r"(?:^|[\W_])(?i:bot|бот)$|[a-z0-9]Bot$")
MAX_LISTED = 10  # people named in an error


class Participant(NamedTuple):
    """A sender of messages in an export, or the partner of a personal chat."""

    id: str
    names: tuple[str, ...]
    """Every display name that this id had, the most frequent first; empty for a deleted account."""
    messages: int
    """Number of messages of every kind but service messages."""
    chats: frozenset[int]
    """Numbers, from 0, of the chats with messages of this sender."""

    def __str__(self) -> str:
        return f"{self.names[0] if self.names else 'no name'}: {self.id}, {self.messages} messages"


@dataclass(frozen=True)
class Survey:
    """The participants and chats of an export."""

    path: Path
    participants: list[Participant]
    """In the order in which they first appear."""
    chats: list[TelegramChat]
    bots: frozenset[str]
    """Ids of the accounts that are evidently bots."""


def survey_export(path: Path) -> Survey:
    """Read the whole export once for its participants, their names, and its chats."""
    names: dict[str, Counter[str]] = {}
    message_counts: Counter[str] = Counter()
    chat_numbers: dict[str, list[int]] = {}
    chats: list[TelegramChat] = []
    bots = set()
    for item in read_export(path):
        if isinstance(item, TelegramChat):
            partner = f"user{item.id}"
            if item.type in ("personal_chat", "bot_chat") and item.name:
                names.setdefault(partner, Counter())[item.name] += 0
            if item.type == "bot_chat":
                bots.add(partner)
            chats.append(item)
        elif item.sender is not None:
            sender_names = names.setdefault(item.sender, Counter())
            if item.name is not None:
                sender_names[item.name] += 1
            if item.drop_reason != "service":
                message_counts[item.sender] += 1
                numbers = chat_numbers.setdefault(item.sender, [])
                if not numbers or numbers[-1] != len(chats):
                    numbers.append(len(chats))
            if item.from_bot:
                bots.add(item.sender)
    participants = []
    for id_, name_counts in names.items():
        own = tuple(name for name, _ in name_counts.most_common())
        participants.append(Participant(id_, own, message_counts[id_], frozenset(chat_numbers.get(id_, ()))))
        if id_.startswith("user") and any(map(BOT_NAME.search, own)):
            bots.add(id_)
    return Survey(path, participants, chats, frozenset(bots))


def find_persona(survey: Survey, name_or_id: str) -> Participant:
    """The participant with this id (user123 or 123), or the only one with this display name; else GovorError."""
    name_or_id = normalize_name(name_or_id)
    people = {participant.id: participant for participant in survey.participants}
    ids = (name_or_id, f"user{name_or_id}", f"channel{name_or_id}", f"chat{name_or_id}")
    by_id = [people[id_] for id_ in ids if id_ in people]
    matches = by_id[:1] or [participant for participant in survey.participants if name_or_id in participant.names]
    writers = [participant for participant in matches if participant.messages]
    if len(writers) == 1:
        return writers[0]
    if writers:
        text = f"{len(writers)} people are called {name_or_id!r}: give the id instead"
        raise GovorError(f"{survey.path}: {text}{_listed(writers)}")
    text = f"{name_or_id!r} has written nothing" if matches else f"nobody is called {name_or_id!r} or has that id"
    raise GovorError(f"{survey.path}: {text}; those who write most{_listed(survey.participants)}")


def _listed(participants: Iterable[Participant]) -> str:
    """The most frequent senders, a line each."""
    ranked = sorted((p for p in participants if p.messages), key=lambda p: -p.messages)
    more = [f"and {len(ranked) - MAX_LISTED} more"] if len(ranked) > MAX_LISTED else []
    return "\n  ".join([":", *map(str, ranked[:MAX_LISTED]), *more]) if ranked else ": nobody"
