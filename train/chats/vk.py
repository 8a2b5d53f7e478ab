"""Reads VK's archive of one's own data: messages/PEER/messages0.html, messages50.html, … in cp1251, newest first.

One's own messages stand under «Вы». Forwarded messages and replies are named in it, not shown.
"""

import re
from collections.abc import Iterator, Sequence

from train.chats.html_pages import Element, elements, first, has_class, is_html, text_of_element
from train.chats.messages import Chat, ChatMessage, chat_type, drop_reason, named, normalize_name, seconds_of
from train.chats.sources import Sample, Source, folder_name
from train.core.errors import GovorError

LACKS = "replies and the clock's zone are not in it; what you wrote stands under «Вы»"
GROUPS = 2_000_000_000  # numbers of conversations of several begin here
MONTHS = {
    name: number
    for names in ("янв фев мар апр мая июн июл авг сен окт ноя дек", "jan feb mar apr may jun jul aug sep oct nov dec")
    for number, name in enumerate(names.split(), 1)
} | {"май": 5}
DATE = re.compile(
    r"(\d{1,2}) ([^\W\d]{3})[^\W\d]*\.? (\d{4}) (?:в|at|, )\s*(\d{1,2}):(\d\d)(?::(\d\d))?\s*([ap]m)?", re.I
)
MENTION = re.compile(r"\[(?:id|club|public)\d+\|([^\]\n]+)\]")
ADDRESS = re.compile(r"vk\.(?:com|ru)/(?:id|(public|club|event))?([\w.]+)")
MEDIA = {
    "голосовое": "голосовое|voice", "кружок": "видеосообщение", "видео": "видео|video", "музыка": "аудио|audio",
    "стикер": "стикер|sticker", "фото": "фото|photo", "опрос": "опрос|poll", "место": "карта|место|map|location",
    "звонок": "звонок|call", "файл": "файл|документ|file|document",
}  # fmt: skip
"""By what it is in Russian, how the description of an attachment begins."""


def fits(sample: Sample) -> bool:
    return is_html(sample) and "message__header" in sample.text


def read_chats(files: Sequence[Source]) -> Iterator[ChatMessage | Chat]:
    """The messages of one conversation, the oldest first, and the chat."""
    found: list[ChatMessage] = []
    name = None
    for page in files:
        for element in elements(page, "ui_crumb", "message"):
            if has_class(element, "ui_crumb"):  # the last of the way to the page
                name = normalize_name(text_of_element(element)) or name
            else:
                found.append(_message(element))
    if not found:
        raise GovorError(f"{files[0]}: no messages of a VK conversation in it")
    times = [message.time for message in found]
    if times[0] >= times[-1]:
        found.reverse()
    found.sort(key=lambda message: message.time)  # those of one second stay in their order
    time = 0
    for message in found:
        time = message.time or time
        yield message._replace(time=time)
    folder = folder_name(files[0])
    peer = int(folder) if re.fullmatch(r"-?\d{1,15}", folder) else None
    senders = {message.sender for message in found if message.sender and message.drop_reason != "service"}
    kind = "private_group" if peer is not None and peer > GROUPS else chat_type(len(senders))
    partner = f"vk{peer}" if kind == "personal_chat" and peer is not None else None
    others = [message.name for message in found if message.sender == partner and message.name]
    yield Chat(name or next(iter(others), None), kind, peer, len(found), partner)


def _message(element: Element) -> ChatMessage:
    header = first(element, "message__header")
    heading = text_of_element(header, without="message-edited")
    link = next(header.iter("a"), None) if header is not None else None
    date = DATE.search(heading)
    name = normalize_name((heading[: date.start()] if date else heading).strip(" ,"))
    address = ADDRESS.search(link.get("href") or "") if link is not None else None
    sender: str | None
    if address:
        sender, shown = f"vk{'-' * bool(address[1])}{address[2]}", name or None
    elif link is not None:
        sender, shown = named(name) if name else None, name or None
    else:
        sender, shown = name or None, None  # «Вы» is no name that could be scrubbed
    body = header.getnext() if header is not None else None
    text = MENTION.sub(r"\1", text_of_element(body, without="kludges"))
    kinds = [text_of_element(e) for e in element.iterdescendants() if has_class(e, "attachment__description")]
    media = next((kind for kind in map(_kind, kinds)), None)
    is_service = any(has_class(e, "im_srv_lnk") or has_class(e, "im_srv_mess") for e in element.iterdescendants())
    shown_media = None if text else media
    reason = "service" if is_service else "call" if media == "звонок" else drop_reason(sender, text, shown_media)
    identifier = element.get("data-id") or ""
    return ChatMessage(
        _time(date) or 0,
        sender,
        shown,
        text,
        id=int(identifier) if re.fullmatch(r"\d{1,15}", identifier) else None,
        media=shown_media,
        drop_reason=reason,
    )


def _kind(description: str) -> str:
    return next((kind for kind, start in MEDIA.items() if re.match(start, description, re.I)), "вложение")


def _time(match: re.Match[str] | None) -> int | None:
    """Seconds since 1970, the clock taken as UTC's."""
    month = MONTHS.get(match[2].lower()) if match else None
    if match is None or month is None:
        return None
    hour = int(match[4]) % 12 + 12 * (match[7].lower() == "pm") if match[7] else int(match[4])
    return seconds_of((int(match[3]), month, int(match[1]), hour, int(match[5]), int(match[6] or 0)))
