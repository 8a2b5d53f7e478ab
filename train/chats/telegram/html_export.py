"""Reads the pages of a Telegram Desktop export as HTML: messages.html, messages2.html, … of one folder are one chat.

They hold what result.json holds but for ids of people and kinds of some media: people are known by name.
"""

import re
from collections.abc import Iterator, Sequence

from train.chats.html_pages import Element, by_class, elements, first, has_class, is_html, text_of_element
from train.chats.messages import FORWARDED, Chat, ChatMessage, chat_type, drop_reason, named, normalize_name, seconds_of
from train.chats.sources import Sample, Source

LACKS = "people have no ids in it and are known by name: export as JSON where two have the same one"
MEDIA = {
    "media_voice_message": "голосовое", "media_video": "видео", "video_file_wrap": "видео", "animated_wrap": "гифка",
    "media_audio_file": "музыка", "sticker_wrap": "стикер", "media_photo": "фото", "photo_wrap": "фото",
    "media_poll": "опрос", "media_location": "место", "media_live_location": "место", "media_contact": "контакт",
    "media_file": "файл", "media_wrap": "вложение",
}  # fmt: skip
"""By class, what a message holds, in Russian; the first that is found."""
TITLES = {"Sticker": "стикер", "Video message": "кружок", "Animation": "гифка"}
"""By the title beside media that are not in the export."""
DATE = re.compile(r"(\d\d)\.(\d\d)\.(\d{4}) (\d\d):(\d\d):(\d\d)(?: UTC([+-])(\d\d):?(\d\d))?")
REPLY = re.compile(r"#go_to_message(\d+)")
DELETED = "Deleted Account"
"""The name of whoever has none any more; result.json has null."""
VIA = re.compile(r"\s+via @\w+$")


def fits(sample: Sample) -> bool:
    return is_html(sample) and "page_wrap" in sample.text and 'class="history"' in sample.text


def read_chats(files: Sequence[Source]) -> Iterator[ChatMessage | Chat]:
    """The messages of the pages, in their order, and the chat."""
    name: str | None = None
    senders: set[str] = set()
    count = time = 0
    last: ChatMessage | None = None
    for page in files:
        for element in elements(page, "page_header", "message", tag="div"):
            if has_class(element, "page_header"):
                name = name or normalize_name(text_of_element(first(element, "text"))) or None
                continue
            identifier = re.fullmatch(r"message(-?\d+)", element.get("id") or "")
            if identifier and int(identifier[1]) < 0:  # a day's heading
                continue
            message = _message(element, int(identifier[1]) if identifier else None, last, time)
            if has_class(element, "default"):
                last = message
            senders |= {message.sender} if message.sender and message.drop_reason != "service" else set()
            count, time = count + 1, message.time
            yield message
    kind = chat_type(len(senders))
    yield Chat(name, kind, None, count, named(name) if name and kind == "personal_chat" else None)


def _message(element: Element, id_: int | None, last: ChatMessage | None, time: int) -> ChatMessage:
    """The message; `last`: the one before, whose sender a joined one has."""
    inside = by_class(element)
    seconds, zone = _time(next((inner.get("title") or "" for inner in inside.get("date", ())), ""))
    seconds = time if seconds is None else seconds
    if not has_class(element, "default"):
        opens_topic = " created topic " in text_of_element(element)
        return ChatMessage(seconds, None, id=id_, zone=zone, drop_reason="service", opens_topic=opens_topic)
    forward = next((inner for inner in inside.get("forwarded", ()) if has_class(inner, "body")), None)
    own_name = next((inner for inner in inside.get("from_name", ()) if not _is_in(inner, forward)), None)
    name = normalize_name(text_of_element(own_name, without="date"))
    via_bot = VIA.search(name) is not None
    name = VIA.sub("", name)
    joined = has_class(element, "joined") and not name and last is not None
    sender, shown = named(name) if name else None, None if name in ("", DELETED) else name
    if joined and last is not None:
        sender, shown = last.sender, last.name
    reply = next(iter(inside.get("reply_to", ())), None)
    link = next((a.get("href") or "" for a in reply.iter("a")), "") if reply is not None else ""
    target = REPLY.search(link)
    body = next(iter(inside.get("text", ())), None)
    text = text_of_element(body)
    media = None if text else _media(inside)
    if media == "стикер" and not text:
        text = _emoji(inside)
        media = None if text else media
    call = "media_call" in inside
    reason = "call" if call else "bot" if via_bot else drop_reason(sender, text, media)
    return ChatMessage(
        seconds,
        sender,
        shown,
        f"{FORWARDED}{text}" if forward is not None and text else text,
        id=id_,
        zone=zone,
        reply_to=int(target[1]) if target else None,
        answers_elsewhere=reply is not None and target is None,
        media=media,
        forwarded=forward is not None,
        drop_reason=reason,
        from_bot="bot_buttons_table" in inside and forward is None and not via_bot,
        mentions=_mentions(body),
    )


def _mentions(body: Element | None) -> tuple[str, ...]:
    """The names in the text by which people without a @name are mentioned."""
    links = () if body is None else body.iter("a")
    return tuple(text_of_element(link) for link in links if "ShowMentionName" in (link.get("onclick") or ""))


def _is_in(element: Element, outer: Element | None) -> bool:
    return outer is not None and any(ancestor is outer for ancestor in element.iterancestors())


def _media(inside: dict[str, list[Element]]) -> str | None:
    """What the message holds instead of a text; None where it holds nothing."""
    titles = map(text_of_element, inside.get("title", ()))
    by_title = next((TITLES[title] for title in titles if title in TITLES), None)
    return by_title or next((kind for name, kind in MEDIA.items() if name in inside), None)


def _emoji(inside: dict[str, list[Element]]) -> str:
    """The emoji of a sticker, which stands before its size: `😂, 12.1 KB`."""
    status = text_of_element(next(iter(inside.get("status", ())), None))
    emoji = status.partition(",")[0].strip()
    return emoji if emoji and not any(character.isalnum() for character in emoji) else ""


def _time(title: str) -> tuple[int | None, int]:
    """(seconds since 1970, seconds ahead of UTC); without a zone, as before 2022, the time is taken as UTC."""
    match = DATE.search(title)
    if match is None:
        return None, 0
    day, month, year, hour, minute, second = (int(match[group]) for group in range(1, 7))
    zone = (int(match[8]) * 3600 + int(match[9]) * 60) * (-1 if match[7] == "-" else 1) if match[7] else 0
    zone = zone if abs(zone) < 86400 else 0
    return seconds_of((year, month, day, hour, minute, second), zone), zone
