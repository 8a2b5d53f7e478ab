"""Reads message_1.json, message_2.json, … of Instagram's and Facebook's download, newest first, a folder a chat.

Every byte of UTF-8 stands in them as a character of its own (`\\u00d0\\u0094`): Meta writes them so.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from train.chats.json_streams import events, seconds_in, text_or_none, value_at
from train.chats.messages import Chat, ChatMessage, chat_type, drop_reason, named, normalize_name
from train.chats.sources import Sample, Source
from train.core.errors import GovorError

LACKS = "replies and ids are not in it: an answer belongs to what was said before it, people are known by name"
MEDIA = {
    "audio_files": "голосовое", "photos": "фото", "videos": "видео", "gifs": "гифка", "sticker": "стикер",
    "files": "файл", "share": "вложение",
}  # fmt: skip
SERVICE = re.compile(
    r"(?:liked a message|reacted .{1,20} to (?:your|a|their|his|her) message.*"
    r"|.{0,80} (?:sent (?:an attachment|a photo|a video|a voice message)|named the group .*|added .* to the group"
    r"|left the group)"
    r"|нравится сообщение|отреагировал.*|.{0,80} отправил\S* (?:вложение|фото|видео|голосовое сообщение))\.?\s*",
    re.IGNORECASE | re.DOTALL,
)
"""What the app writes as if somebody had said it."""


def fits(sample: Sample) -> bool:
    keys = ("participants", "messages")
    return (
        sample.start.startswith("{")
        and all(re.search(rf'"{key}"\s*:\s*\[', sample.text) for key in keys)
        and '"chats"' not in sample.text
    )


def read_chats(files: Sequence[Source]) -> Iterator[ChatMessage | Chat]:
    """The messages of one chat, the oldest first, and the chat; in memory is a file of it at a time."""
    name, people, count, time = None, set[str](), 0, 0
    for source in reversed(files):  # message_1.json holds the latest
        header: dict[str, Any] = {}
        messages = []
        stream = events(source)
        for prefix, event, value in stream:
            if prefix == "title" and event == "string":
                header["title"] = value
            elif prefix == "participants.item.name" and event == "string":
                people.add(_mended(value))
            elif prefix == "messages.item" and event == "start_map":
                messages.append(_message(value_at(stream, event, value)))
        name = normalize_name(_mended(header.get("title", ""))) or name
        if messages and messages[0].time > messages[-1].time:
            messages.reverse()
        for message in messages:
            time = message.time or time
            people |= {message.name} if message.name else set()
            count += 1
            yield message._replace(time=time)
    if not count:
        raise GovorError(f"{files[0]}: no messages in it")
    yield Chat(name, chat_type(len(people)), None, count, named(name) if name in people and len(people) < 3 else None)


def _message(fields: dict[str, Any]) -> ChatMessage:
    name = normalize_name(_mended(text_or_none(fields.get("sender_name")) or "")) or None
    text = _mended(text_or_none(fields.get("content")) or "").strip()
    media = next((kind for key, kind in MEDIA.items() if fields.get(key)), None)
    service = SERVICE.fullmatch(text) is not None
    if service and media:
        text = ""
    sender = named(name) if name else None
    media = None if text else media
    reason = "call" if "call_duration" in fields else drop_reason(sender, text, media)
    if service and not media and reason is None:
        reason = "service"
    if fields.get("is_unsent") is True:
        reason = "deleted"
    return ChatMessage(
        seconds_in(fields.get("timestamp_ms"), 1000) or 0, sender, name, text, media=media, drop_reason=reason
    )


def _mended(text: str) -> str:
    """The text whose bytes of UTF-8 were taken for characters."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return text
