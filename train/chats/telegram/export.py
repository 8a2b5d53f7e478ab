"""Reads a Telegram Desktop export (result.json): its messages, one at a time.

A full export holds its chats in `chats.list` and `left_chats.list`; the export of a single chat is the chat itself.
The file is streamed: memory does not grow with it.
"""

import calendar
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import IO, Any

import ijson
from ijson.common import ObjectBuilder

from train.chats.messages import FORWARDED, LAST_SECOND, PRIVATE, Chat, ChatMessage, drop_reason, normalize_name
from train.chats.sources import Sample, ShallowJson, Source, json_fault
from train.core.errors import GovorError

HOW_TO = "in Telegram Desktop: a chat's ⋮ → Export chat history, or Settings → Advanced → Export Telegram data; JSON"
LISTED = {f"{chats}.list.item" for chats in ("chats", "left_chats")}  # in ijson's spelling; a single chat stands at ""
MESSAGES = {"messages.item", *(f"{place}.messages.item" for place in LISTED)}
HEADERS = {f"{place}{key}": key for place in ("", *(f"{p}." for p in LISTED)) for key in ("name", "type", "id")}
PLAIN_KEYS = {
    "id", "type", "date", "date_unixtime", "edited", "edited_unixtime", "from", "from_id", "author", "reactions",
    "reply_to_message_id", "reply_to_peer_id", "text", "text_entities",
}  # fmt: skip
"""Keys of a message without media; every other key but those of a forward tells of some."""
FORWARD_KEYS = {"forwarded_from", "forwarded_from_id", "saved_from"}
MEDIA = {
    "voice_message": "голосовое", "video_message": "кружок", "video_file": "видео", "animation": "гифка",
    "audio_file": "музыка", "sticker": "стикер", "photo": "фото", "poll": "опрос", "location_information": "место",
    "contact_information": "контакт", "file": "файл",
}  # fmt: skip
"""By `media_type` or key of a message, what it is in Russian."""
CALLS = ("phone_call", "group_call", "conference_call")
"""Service messages after which people go on from what they said aloud."""


BEGINNING = re.compile(
    r'"(?:personal_information|chats|left_chats|frequent_contacts)"\s*:\s*\{'
    r'|"type"\s*:\s*"(?:personal_chat|bot_chat|saved_messages|replies|(?:private|public)_(?:group|supergroup|channel))"'
    r'|"(?:date_unixtime|from_id|text_entities)"\s*:'
)


class _ValidJson:
    """A byte stream whose `\\xHH`, which is how Telegram writes control characters, reads `\\u00HH`."""

    _escape = re.compile(rb"\\[\\x]")  # an escaped backslash is met as a pair, so what follows it is no escape

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._held = b""

    def read(self, size: int = -1) -> bytes:
        """At least one byte unless the file is at its end; rather more than `size` where it is mended."""
        if size == 0:
            return b""
        data = self._held + self._file.read(size)
        if data == b"\\":
            data += self._file.read(size)
        self._held = b""
        if (len(data) - len(data.rstrip(b"\\"))) % 2 and len(data) > 1:
            data, self._held = data[:-1], data[-1:]  # the escape's other half is in the next chunk
        return self._escape.sub(lambda m: b"\\u00" if m[0] == b"\\x" else m[0], data)


def fits(sample: Sample) -> bool:
    """Whether the beginning is that of a whole export or of a chat's."""
    return sample.start.startswith("{") and BEGINNING.search(sample.text) is not None


def read_chats(files: Sequence[Source]) -> Iterator[ChatMessage | Chat]:
    """The chats of every file, see `read_export`."""
    for file in files:
        yield from read_export(file)


def read_export(path: Source) -> Iterator[ChatMessage | Chat]:
    """Each chat's messages in the order of the file, and after them the chat itself.

    GovorError where the file is not a whole Telegram export.
    """
    header: dict[str, Any] = {}
    builder: ObjectBuilder | None = None
    count = chats = time = 0
    single = False
    for prefix, event, value in _events(path):
        if builder is None and prefix not in MESSAGES:
            if prefix in HEADERS and event in ("string", "number"):
                header[HEADERS[prefix]] = value
            elif prefix == "messages":
                single = True
            elif event == "end_map" and (prefix in LISTED or (single and header and not prefix)):
                yield _chat(header, count)
                chats, header, count, time = chats + 1, {}, 0, 0
            continue
        builder = builder or ObjectBuilder()
        builder.event(event, value)
        if prefix in MESSAGES and event not in ("start_map", "start_array", "map_key"):
            message = _message(builder.value, header.get("id"), time)
            builder, time, count = None, message.time, count + 1
            yield message
    if not chats:
        raise GovorError(f"{path}: not a Telegram export: no chats in it ({HOW_TO})")


def _events(path: Source) -> Iterator[tuple[str, str, Any]]:
    """ijson's events of the file, or a GovorError that says what the file is instead."""
    if not path.is_file():
        raise GovorError(_no_file(path))
    with path.open("rb") as file:
        start = file.read(1024)
        if start.startswith(b"\xef\xbb\xbf"):
            file.seek(3)
            start = start[3:]
        else:
            file.seek(0)
        if not start.lstrip().startswith(b"{"):
            kind = "an HTML page" if start.lstrip().startswith(b"<") else "no JSON object"
            raise GovorError(f"{path}: {kind if start else 'empty'}, expected a Telegram export as JSON ({HOW_TO})")
        try:
            # use_float: ijson 3.6 crashes on an integer of thousands of digits without it
            yield from ijson.parse(ShallowJson(_ValidJson(file)), use_float=True)
        except (ijson.JSONError, ValueError) as error:
            place = f"{json_fault(error)} near byte {file.tell()}"
            raise GovorError(f"{path}: not a whole Telegram export, {place}: export or copy it again") from None


def _no_file(path: Source) -> str:
    if not path.exists():
        return f"{path}: no such file"
    return f"{path}: not a file, expected the result.json of a Telegram export ({HOW_TO})"


def _chat(header: dict[str, Any], messages: int) -> Chat:
    """The chat from whatever its header holds."""
    name, kind, id_ = header.get("name"), header.get("type"), header.get("id")
    id_ = id_ if isinstance(id_, int) else None
    return Chat(
        normalize_name(name) or None if isinstance(name, str) else None,
        kind if isinstance(kind, str) else "",
        id_,
        messages,
        f"user{id_}" if kind in PRIVATE else None,
    )


def _message(raw: Any, chat_id: Any, last_time: int) -> ChatMessage:
    """The message from what the export holds, which need not be of the expected types."""
    fields: dict[str, Any] = raw if isinstance(raw, dict) else {}
    service = fields.get("type") == "service"
    who = "actor" if service else "from"
    name = fields.get(who)
    time, zone = _time(fields)
    id_, reply_to = fields.get("id"), fields.get("reply_to_message_id")
    peer = fields.get("reply_to_peer_id")
    elsewhere = peer is not None and re.sub(r"^[a-z]+", "", str(peer)) != str(chat_id)
    sender = _peer_id(fields.get(f"{who}_id"))
    text = _text(fields)
    if not text and fields.get("media_type") == "sticker" and isinstance(fields.get("sticker_emoji"), str):
        text = fields["sticker_emoji"].strip()
    forwarded = bool(FORWARD_KEYS & fields.keys())  # null where the source is deleted
    media = None if text else _media(fields)
    return ChatMessage(
        id=id_ if isinstance(id_, int) else None,
        time=last_time if time is None else time,
        zone=zone,
        sender=sender,
        name=normalize_name(name) or None if isinstance(name, str) else None,
        reply_to=reply_to if isinstance(reply_to, int) and not elsewhere else None,
        answers_elsewhere=elsewhere and isinstance(reply_to, int),
        edited=_seconds(fields.get("edited_unixtime")) or 0,
        text=f"{FORWARDED}{text}" if forwarded and text else text,
        media=media,
        forwarded=forwarded,
        drop_reason=_drop_reason(fields, sender, text, media),
        mentions=_mentions(fields),
        opens_topic=service and fields.get("action") == "topic_created",
        from_bot="inline_bot_buttons" in fields
        and (sender or "").startswith("user")
        and not fields.keys() & {"via_bot", "forwarded_from", "forwarded_from_id"},
    )


def _media(fields: dict[str, Any]) -> str | None:
    """What the message holds instead of a text; None where it holds nothing."""
    kind = fields.get("media_type")
    known = [MEDIA[kind]] if isinstance(kind, str) and kind in MEDIA else [MEDIA[key] for key in MEDIA if key in fields]
    return known[0] if known else "вложение" if fields.keys() - PLAIN_KEYS - FORWARD_KEYS else None


def _drop_reason(fields: dict[str, Any], sender: str | None, text: str, media: str | None) -> str | None:
    """The value of `ChatMessage.drop_reason`."""
    if fields.get("type") == "service":
        return "call" if fields.get("action") in CALLS else "service"
    if fields.get("type") != "message":
        return "unsupported"
    return "bot" if "via_bot" in fields else drop_reason(sender, text, media)


def _text(fields: dict[str, Any]) -> str:
    """The text, or the caption, without its formatting."""
    for key in ("text_entities", "text"):
        parts = fields.get(key)
        if isinstance(parts, str):
            parts = [parts]
        if isinstance(parts, list):
            texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
            text = "".join(text for text in texts if isinstance(text, str)).strip()
            if text:
                return text
    return ""


def _mentions(fields: dict[str, Any]) -> tuple[str, ...]:
    """The names in the text that are links to their bearers."""
    for key in ("text_entities", "text"):
        parts = fields.get(key)
        if isinstance(parts, list):
            named = [part for part in parts if isinstance(part, dict) and part.get("type") == "mention_name"]
            names = tuple(part["text"] for part in named if isinstance(part.get("text"), str))
            if names:
                return names
    return ()


def _peer_id(value: Any) -> str | None:
    """The id user123, channel123 or chat123; exports before 2021 hold the bare number of a user."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"user{value}"
    return value if isinstance(value, str) and value else None


def _time(fields: dict[str, Any]) -> tuple[int | None, int]:
    """(seconds since 1970, seconds ahead of UTC); a `date` alone, as exports before 2022 have it, is taken as UTC."""
    seconds = _seconds(fields.get("date_unixtime"))
    try:
        date = datetime.fromisoformat(fields["date"])
        written = calendar.timegm(date.timetuple())
        offset = date.utcoffset()
    except (KeyError, TypeError, ValueError, OverflowError):
        return seconds, 0
    if seconds is None:
        seconds = _seconds(written - (int(offset.total_seconds()) if offset else 0))
    zone = written - seconds if seconds is not None else 0
    return seconds, zone if abs(zone) < 86400 and zone % 900 == 0 else 0


def _seconds(value: Any) -> int | None:
    try:
        seconds = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < LAST_SECOND else None
