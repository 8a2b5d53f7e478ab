"""What a reader of chats makes of an export: the messages of each chat in order, and after them the chat itself."""

import calendar
import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

FORWARDED = "переслано: "
PRIVATE = ("personal_chat", "bot_chat")
LAST_SECOND = 253402214400  # 9999-12-31, less a day for the zone


class ChatMessage(NamedTuple):
    """One message of a chat, service messages included."""

    time: int
    """Seconds since 1970, UTC. A message without a date has that of the one before."""
    sender: str | None
    """The sender's id: user123, channel123 or chat123 in Telegram's JSON, `named` where a format has names alone. For a
    service message, its actor's."""
    name: str | None = None
    """The sender's display name: None where there is none, as for a deleted account."""
    text: str = ""
    """The text or caption, a sticker's emoji, or behind FORWARDED what was forwarded."""
    id: int | None = None
    zone: int = 0
    """Seconds by which the clock of the exporting computer was ahead of UTC."""
    reply_to: int | None = None
    """Id of the message of the same chat that this one answers."""
    answers_elsewhere: bool = False
    """Whether it answers a message of another chat."""
    edited: int = 0
    """Time of the last edit, seconds since 1970; 0 if never edited."""
    media: str | None = None
    """What was sent instead of a text, in one Russian word; None where there is a text."""
    forwarded: bool = False
    drop_reason: str | None = None
    """Why the message cannot be a turn of a dialogue, as far as it alone tells; None if it can."""
    opens_topic: bool = False
    """Whether it is the service message that opens a topic of a forum."""
    from_bot: bool = False
    """Whether only a bot can have sent it."""
    mentions: tuple[str, ...] = ()
    """Names in the text that lead to a person: what Telegram makes of a mention of somebody without a @name."""

    @property
    def spoken(self) -> bool:
        """Whether the text is the sender's own words."""
        return not self.forwarded and self.media is None


class Chat(NamedTuple):
    """What an export says of a chat, apart from its messages."""

    name: str | None
    type: str
    """As Telegram calls it: `personal_chat` between two, else `private_group` and others."""
    id: int | None
    messages: int
    """Number of messages of every kind."""
    partner: str | None = None
    """In a private chat the other's id, where the export tells it."""


def normalize_name(name: str) -> str:
    """The name with composed letters (NFC) and single spaces, as any keyboard would write it."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def named(name: str) -> str:
    """The id of somebody whom the format knows by name alone: two people of one name are one."""
    return f"name:{name}"


def drop_reason(sender: str | None, text: str, media: str | None) -> str | None:
    """Why a message of these cannot be a turn of a dialogue; None if it can."""
    if sender is None:
        return "sender_unknown"
    return None if text else "media_without_text" if media else "empty"


def chat_type(senders: int) -> str:
    """The type of a chat of which only the number of people who write is known."""
    return "personal_chat" if senders <= 2 else "private_group"


def seconds_of(date: Sequence[int], zone: int = 0) -> int | None:
    """Seconds since 1970 of (year, month, day, hour, minute, second) by a clock `zone` seconds ahead of UTC.

    None where there is no such date, or it cannot be one of a message.
    """
    try:
        seconds = calendar.timegm(datetime(*date).timetuple()) - zone  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < LAST_SECOND else None


def natural_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """A key by which messages.html comes before messages2.html, and that before messages10.html."""
    stem, dot, suffix = name.rpartition(".")
    parts = re.split(r"(\d{1,18})", stem if dot else name)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts if part], suffix
