"""Who takes part in exports of chats, and which of them is meant."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from train.chats.chat_exports import Export, find_exports, read_export
from train.chats.duplicates import fold_text
from train.chats.messages import Chat, ChatMessage, normalize_name
from train.core.errors import GovorError

BOT_NAME = re.compile(r"(?:^|[\W_])(?i:bot|бот)$|[a-z0-9]Bot$")
MAX_LISTED = 10  # people named in an error


class Participant(NamedTuple):
    """A sender of messages in an export, or the partner of a private chat."""

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
    """The participants and chats of exports."""

    exports: list[Export]
    participants: list[Participant]
    """In the order in which they first appear."""
    chats: list[Chat]
    """Those of all exports, in order."""
    bots: frozenset[str]
    """Ids of the accounts that are evidently bots."""
    mentions: dict[int, list[str]]
    """Number of a chat → the names by which people without a @name are mentioned there."""


def survey_exports(paths: Sequence[Path]) -> Survey:
    """Read whole exports, in files, folders and archives, for their participants, names and chats, numbered through."""
    names: dict[str, Counter[str]] = {}
    message_counts: Counter[str] = Counter()
    chat_numbers: dict[str, list[int]] = {}
    chats: list[Chat] = []
    bots = set()
    mentions: dict[int, list[str]] = {}
    exports = find_exports(paths)
    for item in (item for export in exports for item in read_export(export)):
        if isinstance(item, Chat):
            if item.partner and item.name:
                names.setdefault(item.partner, Counter())[item.name] += 0
            if item.partner and item.type == "bot_chat":
                bots.add(item.partner)
            chats.append(item)
        elif item.sender is not None:
            sender_names = names.setdefault(item.sender, Counter())
            if item.name is not None:
                sender_names[item.name] += 1
            if item.drop_reason not in ("service", "call"):
                message_counts[item.sender] += 1
                numbers = chat_numbers.setdefault(item.sender, [])
                if not numbers or numbers[-1] != len(chats):
                    numbers.append(len(chats))
            if item.from_bot:
                bots.add(item.sender)
        if isinstance(item, ChatMessage) and item.mentions:
            known = mentions.setdefault(len(chats), [])
            known += [name for name in item.mentions if name not in known]
    participants = []
    for id_, name_counts in names.items():
        own = tuple(name for name, _ in name_counts.most_common())
        participants.append(Participant(id_, own, message_counts[id_], frozenset(chat_numbers.get(id_, ()))))
        if id_.startswith("user") and any(map(BOT_NAME.search, own)):
            bots.add(id_)
    return Survey(exports, participants, chats, frozenset(bots), mentions)


def find_persona(survey: Survey, names_or_ids: Sequence[str]) -> list[Participant]:
    """The persona's accounts: for each name or id the one participant that it fits, else GovorError.

    An id is user123 or 123. A name fits a participant who has it, or else, whatever its case, the only one who has it
    as part of a name: «Наташа» fits «Наташа Волкова».
    """
    return list({account.id: account for account in (_find(survey, each) for each in names_or_ids)}.values())


def _find(survey: Survey, name_or_id: str) -> Participant:
    name_or_id = normalize_name(name_or_id)
    people = {participant.id: participant for participant in survey.participants}
    ids = (name_or_id, f"user{name_or_id}", f"channel{name_or_id}", f"chat{name_or_id}")
    by_id = [people[id_] for id_ in ids if id_ in people]
    matches = by_id[:1] or [participant for participant in survey.participants if name_or_id in participant.names]
    writers = [participant for participant in matches if participant.messages]
    where = survey.exports[0].path if len(survey.exports) == 1 else f"{len(survey.exports)} exports"
    if len(writers) == 1:
        return writers[0]
    if not matches:
        wanted = fold_text(name_or_id).split()
        fitting = [who for who in survey.participants if who.messages and any(_has(name, wanted) for name in who.names)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise GovorError(f"{where}: {name_or_id!r} fits {len(fitting)} people: give the id{_listed(fitting)}")
    if writers:
        text = f"{len(writers)} people are called {name_or_id!r}: give the id instead"
        raise GovorError(f"{where}: {text}{_listed(writers)}")
    near = [] if matches else _near(survey, name_or_id)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    text = (
        f"{name_or_id!r} has written nothing" if matches else f"nobody is called {name_or_id!r} or has that id{meant}"
    )
    raise GovorError(f"{where}: {text}; those who write most{_listed(survey.participants)}")


def _has(name: str, words: Sequence[str]) -> bool:
    """Whether the words stand in the name, one after another, as whole words; ё is е."""
    own = fold_text(name).split()
    return bool(words) and any(own[at : at + len(words)] == words for at in range(len(own)))


def _near(survey: Survey, name: str) -> list[str]:
    """Names of those who write that are nearly the given one."""
    names = {each.casefold(): each for who in survey.participants if who.messages for each in who.names}
    words = {word: each for folded, each in names.items() for word in folded.split()}
    known = {**words, **names}
    return [known[found] for found in difflib.get_close_matches(name.casefold(), known, n=1, cutoff=0.7)]


def _listed(participants: Iterable[Participant]) -> str:
    """The most frequent senders, a line each."""
    ranked = sorted((p for p in participants if p.messages), key=lambda p: -p.messages)
    more = [f"and {len(ranked) - MAX_LISTED} more"] if len(ranked) > MAX_LISTED else []
    return "\n  ".join([":", *map(str, ranked[:MAX_LISTED]), *more]) if ranked else ": nobody"
