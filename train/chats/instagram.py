"""Reads message_1.json, message_2.json, … of Instagram's and Facebook's download, newest first, a folder a chat.

Every byte of UTF-8 stands in them as a character of its own (`\\u00d0\\u0094`): Meta writes them so. The end-to-end
encrypted chats of Messenger come in files of their own, NAME.json, with other keys and in plain UTF-8.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from train.chats.json_streams import events, seconds_in, value_at
from train.chats.messages import Chat, ChatMessage, chat_type, drop_reason, named, normalize_name
from train.chats.sources import Sample, Source

LACKS = "replies and ids are not in it: an answer belongs to what was said before it, people are known by name"
MEDIA = {
    "audio_files": "голосовое", "photos": "фото", "videos": "видео", "gifs": "гифка", "sticker": "стикер",
    "files": "файл", "share": "вложение", "media": "вложение",
}  # fmt: skip
SERVICE = re.compile(
    r"(?:liked a message|reacted .{1,20} to (?:your|a|their|his|her) message.*"
    r"|.{0,80} (?:sent (?:an attachment|a photo|a video|a voice message)|named the group .*|added .* to the group"
    r"|left the group)"
    r"|нравится сообщение|поставил\S* [«\"]нравится[»\"].*|отреагировал.*"
    r"|.{0,80} отправил\S* (?:вложение|фото|видео|голосовое сообщение))\.?\s*",
    re.IGNORECASE | re.DOTALL,
)
"""What the app writes as if somebody had said it."""
CALL = re.compile(
    r"(?:audio|video) (?:call|chat) ended|.{0,80} (?:started|missed) (?:an?|your) (?:audio |video )?(?:call|chat)"
    r"|(?:аудио|видео)(?:звонок|чат) заверш[её]н\S*",
    re.IGNORECASE,
)


def fits(sample: Sample) -> bool:
    return _has_lists(sample) and not fits_encrypted(sample)


def fits_encrypted(sample: Sample) -> bool:
    """Whether it is an end-to-end encrypted chat of Messenger."""
    return _has_lists(sample) and '"threadName"' in sample.text


def _has_lists(sample: Sample) -> bool:
    return (
        sample.start.startswith("{")
        and all(re.search(rf'"{key}"\s*:\s*\[', sample.text) for key in ("participants", "messages"))
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
            if prefix in ("title", "threadName") and event == "string":
                header["title"] = re.sub(r"_\d+$", "", value) if prefix == "threadName" else value
            elif prefix in ("participants.item.name", "participants.item") and event == "string":
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
    yield Chat(name, chat_type(len(people)), None, count, named(name) if name in people and len(people) < 3 else None)


def _message(fields: dict[str, Any]) -> ChatMessage:
    name = normalize_name(_mended(_text(fields, "sender_name", "senderName"))) or None
    text = _mended(_text(fields, "content", "text")).strip()
    media = next((kind for key, kind in MEDIA.items() if fields.get(key)), None)
    service = SERVICE.fullmatch(text) is not None
    if service and media:
        text = ""
    sender = named(name) if name else None
    media = None if text else media
    called = "call_duration" in fields or CALL.fullmatch(text.rstrip("."))
    reason = "call" if called else drop_reason(sender, text, media)
    if service and not media and reason is None:
        reason = "service"
    if True in (fields.get("is_unsent"), fields.get("isUnsent")):
        reason = "deleted"
    time = fields.get("timestamp_ms", fields.get("timestamp"))
    return ChatMessage(seconds_in(time, 1000) or 0, sender, name, text, media=media, drop_reason=reason)


def _text(fields: dict[str, Any], *keys: str) -> str:
    """The text of the first of the keys that has one."""
    return next((value for key in keys if isinstance(value := fields.get(key), str)), "")


def _mended(text: str) -> str:
    """The text whose bytes of UTF-8 were taken for characters."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return text
