"""Reads a channel that DiscordChatExporter wrote as JSON: {"guild", "channel", "messages": […]}."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from train.chats.json_streams import events, seconds_of_iso, text_or_none, value_at
from train.chats.messages import FORWARDED, Chat, ChatMessage, drop_reason, normalize_name
from train.chats.sources import Sample, Source
from train.core.errors import GovorError

TYPES = {"DirectTextChat": "personal_chat"}
"""By type of the channel, what a chat between two is called; every other is a group."""
SPOKEN = ("Default", "Reply", "ThreadStarterMessage", "ChatInputCommand", "ContextMenuCommand", "0", "19", "20", "23")
HEADERS = {"channel.name": "name", "channel.type": "type", "channel.id": "id"}


def fits(sample: Sample) -> bool:
    return sample.start.startswith("{") and all(re.search(rf'"{key}"\s*:', sample.text) for key in ("guild", "channel"))


def read_chats(files: Sequence[Source]) -> Iterator[ChatMessage | Chat]:
    """Each file's messages in their order, and its channel."""
    for source in files:
        header: dict[str, str] = {}
        count = time = 0
        stream = events(source)
        for prefix, event, value in stream:
            if prefix in HEADERS and event in ("string", "number"):
                header[HEADERS[prefix]] = str(value)
            elif prefix == "messages.item" and event == "start_map":
                message = _message(value_at(stream, event, value), header.get("id"), time)
                count, time = count + 1, message.time
                yield message
        if not header:
            raise GovorError(f"{source}: no channel of Discord in it")
        kind = TYPES.get(header.get("type", ""), "private_group")
        yield Chat(normalize_name(header.get("name", "")) or None, kind, _number(header.get("id")), count)


def _message(fields: dict[str, Any], channel: str | None, last_time: int) -> ChatMessage:
    author = fields.get("author")
    author = author if isinstance(author, dict) else {}
    name = _name(author)
    number = _number(author.get("id"))
    sender = f"discord{number}" if number is not None else None
    seconds, zone = seconds_of_iso(fields.get("timestamp"))
    edited, _ = seconds_of_iso(fields.get("timestampEdited"))
    forward = fields.get("forwardedMessage")
    words = forward if isinstance(forward, dict) else fields
    text = (text_or_none(words.get("content")) or "").strip()
    media = None if text else next((kind for key, kind in _media(words) if words.get(key)), None)
    reference = fields.get("reference")
    reference = reference if isinstance(reference, dict) and forward is None else {}
    target = _number(reference.get("messageId"))
    elsewhere = target is not None and reference.get("channelId") not in (None, channel)
    kind = str(fields.get("type", "Default"))
    reason = drop_reason(sender, text, media)
    if kind not in SPOKEN:
        reason = "call" if kind in ("Call", "3") else "service"
    return ChatMessage(
        last_time if seconds is None else seconds,
        sender,
        name,
        f"{FORWARDED}{text}" if forward and text else text,
        id=_number(fields.get("id")),
        zone=zone,
        reply_to=None if elsewhere else target,
        answers_elsewhere=elsewhere,
        edited=edited or 0,
        media=media,
        forwarded=bool(forward),
        drop_reason=reason,
        from_bot=author.get("isBot") is True,
        mentions=tuple(_mentioned(fields.get("mentions"))),
    )


def _mentioned(people: Any) -> Iterator[str]:
    """The names under which people are mentioned: the exporter writes @NAME into the text."""
    for person in people if isinstance(people, list) else ():
        name = _name(person) if isinstance(person, dict) else None
        if name:
            yield name


def _name(person: dict[str, Any]) -> str | None:
    return normalize_name(text_or_none(person.get("nickname")) or text_or_none(person.get("name")) or "") or None


def _media(fields: dict[str, Any]) -> list[tuple[str, str]]:
    """(key, what it holds in Russian), the files by the name of the first."""
    files = fields.get("attachments")
    first = files[0].get("fileName") if isinstance(files, list) and files and isinstance(files[0], dict) else ""
    kinds = {"фото": r"jpe?g|png|gif|webp|heic", "видео": "mp4|mov|webm|mkv", "голосовое": "ogg|opus|mp3|m4a|wav"}
    by_name = (kind for kind, endings in kinds.items() if re.search(rf"\.(?:{endings})$", str(first).lower()))
    return [("attachments", next(by_name, "файл")), ("stickers", "стикер"), ("poll", "опрос"), ("embeds", "вложение")]


def _number(value: Any) -> int | None:
    """Discord's ids are numbers as text."""
    return int(value) if isinstance(value, str | int) and re.fullmatch(r"\d{1,20}", str(value)) else None
