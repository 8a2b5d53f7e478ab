"""Who takes part in a Telegram export, and which of them is meant."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from train.chats.telegram.export import Chat, plain, read_export
from train.core.errors import GovorError

BOT_NAME = re.compile(r"(?:^|[\W_])(?i:bot|бот)$|[a-z0-9]Bot$")
SHOWN = 10  # people named in an error


class Participant(NamedTuple):
    id: str
    names: tuple[str, ...]
    """Every display name that this id bore, the most frequent first; empty for a deleted account."""
    messages: int
    """Of every kind but service messages."""
    chats: frozenset[int]
    """Numbers, from 0, of the chats that it wrote in."""

    def __str__(self) -> str:
        return f"{self.names[0] if self.names else 'no name'}: {self.id}, {self.messages} messages"


@dataclass(frozen=True)
class Survey:
    """Who and what an export holds."""

    path: Path
    participants: list[Participant]
    """In the order in which they first appear."""
    chats: list[Chat]
    bots: frozenset[str]
    """Ids of the accounts that are evidently bots."""


def survey(path: Path) -> Survey:
    """Who takes part in the export, under which names, and its chats."""
    names: dict[str, Counter[str]] = {}
    written: Counter[str] = Counter()
    places: dict[str, list[int]] = {}
    chats: list[Chat] = []
    bots = set()
    for item in read_export(path):
        if isinstance(item, Chat):
            partner = f"user{item.id}"
            if item.type in ("personal_chat", "bot_chat") and item.name:
                names.setdefault(partner, Counter())[item.name] += 0
            if item.type == "bot_chat":
                bots.add(partner)
            chats.append(item)
        elif item.sender is not None:
            known = names.setdefault(item.sender, Counter())
            if item.name is not None:
                known[item.name] += 1
            if item.left_out != "service":
                written[item.sender] += 1
                where = places.setdefault(item.sender, [])
                if not where or where[-1] != len(chats):
                    where.append(len(chats))
            if item.from_bot:
                bots.add(item.sender)
    participants = []
    for id_, seen in names.items():
        own = tuple(name for name, _ in seen.most_common())
        participants.append(Participant(id_, own, written[id_], frozenset(places.get(id_, ()))))
        if id_.startswith("user") and any(map(BOT_NAME.search, own)):
            bots.add(id_)
    return Survey(path, participants, chats, frozenset(bots))


def find_persona(survey: Survey, wanted: str) -> Participant:
    """The participant with this id (user123 or 123), or the only one who bears this display name."""
    wanted = plain(wanted)
    people = {participant.id: participant for participant in survey.participants}
    ids = (wanted, f"user{wanted}", f"channel{wanted}", f"chat{wanted}")
    by_id = [people[id_] for id_ in ids if id_ in people]
    found = by_id[:1] or [participant for participant in survey.participants if wanted in participant.names]
    writers = [participant for participant in found if participant.messages]
    if len(writers) == 1:
        return writers[0]
    if writers:
        text = f"{len(writers)} people are called {wanted!r}: give the id instead"
        raise GovorError(f"{survey.path}: {text}{_listed(writers)}")
    text = f"{wanted!r} has written nothing" if found else f"nobody is called {wanted!r} or has that id"
    raise GovorError(f"{survey.path}: {text}; those who write most{_listed(survey.participants)}")


def _listed(participants: Iterable[Participant]) -> str:
    """The most frequent senders, a line each."""
    ranked = sorted((p for p in participants if p.messages), key=lambda p: -p.messages)
    more = [f"and {len(ranked) - SHOWN} more"] if len(ranked) > SHOWN else []
    return "\n  ".join([":", *map(str, ranked[:SHOWN]), *more]) if ranked else ": nobody"
