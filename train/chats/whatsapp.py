"""Reads a chat that WhatsApp exported as text, from Android or an iPhone, in Russian or English.

    [12.02.2025, 14:23:01] Мама: Ты дома?          iPhone
    12.02.2025, 14:23 - Мама: Ты дома?             Android

A line that does not begin so belongs to the message before it. Whether 02/03 is the second of March or the third of
February is told by the whole chat: by a number above 12, else by the order in which time runs on.
"""

import io
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from train.chats.checks import LONGEST_LINE
from train.chats.messages import Chat, ChatMessage, chat_type, drop_reason, named, normalize_name, seconds_of
from train.chats.sources import Sample, Source, folder_name, open_unpacked
from train.core.errors import GovorError

MARKS = "\u200e\u200f\u202a\u202b\u202c\u2066\u2067\u2068\u2069\ufeff"
"""Left-to-right marks and their kin, which WhatsApp puts everywhere."""
LINE = re.compile(
    rf"[{MARKS}]*\[?(\d{{1,4}})[./-](\d{{1,2}})[./-](\d{{1,4}}),? (?:(?:в|at) )?"
    rf"(\d{{1,2}})[:.](\d\d)(?:[:.](\d\d))?"
    rf"(?:[ \u202f\xa0]?([AaPpДдПп][. \u202f\xa0]{{0,2}}[MmПп]\.?))?(?:\] | - )(.*)",
    re.DOTALL,
)
GONE = r"(?:omitted|отсутствует|пропущен\w*|не добавлен\w*)"
LABELS = {
    "голосовое": rf"(?:audio|voice message|аудиофайл|аудио|голосовое сообщение) {GONE}",
    "кружок": rf"(?:video note|видеосообщение) {GONE}",
    "видео": rf"(?:video|видео) {GONE}",
    "гифка": rf"GIF(?:-файл)? {GONE}",
    "стикер": rf"(?:sticker|стикер) {GONE}",
    "фото": rf"(?:image|photo|изображение|фото) {GONE}",
    "контакт": rf"(?:contact card|карточка контакта|контакт) {GONE}",
    "файл": rf"(?:[^\n]* )?(?:document|документ|файл) {GONE}",
    "место": r"(?:live )?(?:location|местоположение|геопозиция)(?: shared)?: https?://\S+",
    "опрос": r"(?:POLL|ОПРОС):\s.*",
    "вложение": r"<[^<>\n]{3,40}>|null",  # <Media omitted>, <Без медиафайлов>, and so in every language
}
"""By kind, what WhatsApp writes instead of what was sent."""
FILES = {
    "голосовое": r"(?:\d+-)?(?:PTT|AUDIO)-.+|.+\.opus",
    "гифка": r"(?:\d+-)?GIF-.+",
    "видео": r"(?:\d+-)?VID(?:EO)?-.+|.+\.(?:mp4|mov|3gp)",
    "стикер": r"(?:\d+-)?(?:STK|STICKER)-.+|.+\.webp",
    "фото": r"(?:\d+-)?(?:IMG|PHOTO)-.+|.+\.(?:jpe?g|png|heic)",
    "контакт": r".+\.vcf",
}
"""By kind, the names of files that are exported too."""
BY_LABEL, BY_FILE = (
    {kind: re.compile(pattern, re.IGNORECASE | re.DOTALL) for kind, pattern in table.items()}
    for table in (LABELS, FILES)
)
IN_BRACKETS = re.compile(r"<(?:attached|прикреплено|вложено): ([^>\n]+)>", re.IGNORECASE)
NAMED_FILE = re.compile(
    r"([^\n]+\.\w{2,5}) \((?:file attached|файл добавлен|файл прикреплён)\)(?:\n(.*))?", re.IGNORECASE | re.DOTALL
)
PAGES = re.compile(r"[^\n]+\.\w{2,5} • \d+ \w+")  # an iPhone's words on a document
MENTION = re.compile(r"@\u2068([^\u2068\u2069\n]{1,80})\u2069")
EDITED = re.compile(r"\s*<(?:this message was edited|сообщение изменено)>$", re.IGNORECASE)
DELETED = re.compile(
    r"this message was deleted(?: by admin .*)?|you deleted this message(?: as admin)?"
    r"|(?:данное |это )?сообщение удалено(?: админом .*)?|вы удалили (?:данное|это) сообщение",
    re.IGNORECASE,
)
WAITING = re.compile(
    r"waiting for this message\b.*|ожидание (?:этого )?сообщения\. это может занять .*", re.I | re.DOTALL
)
"""What stands for a message that this telephone could not decrypt."""
CALL = re.compile(
    r"(?:missed|silenced|пропущенный)(?: group| групповой)? ?(?:voice call|video call|call|\w*звонок)\b.*"
    r"|(?:voice|video) call[,.].*|(?:аудио|видео)звонок(?:[,.].*| без ответа)",
    re.IGNORECASE | re.DOTALL,
)
SERVICE = re.compile(
    r"messages and calls are|сообщения и звонки|.*(?:security code|код безопасности|disappearing|исчезающ|blocked"
    r"|заблокир|pinned|закрепил|created|создал|changed|измен[еи]|added|добав|joined|присоедин|left|вышел|вышла|покинул|removed"
    r"|исключ|admin|админ|phone number|номер телефона)",
    re.IGNORECASE | re.DOTALL,
)
"""What an iPhone writes under somebody's name, in English and Russian, that stands between nothing."""
CHAT_NAME = re.compile(r"(?:WhatsApp Chat (?:with|-)|Чат WhatsApp (?:с контактом|с группой|с|-))\s+(.+)", re.IGNORECASE)
LACKS = "replies and ids are not in it: an answer belongs to what was said before it, people are known by name"


class _Line(NamedTuple):
    """The first line of a message."""

    numbers: tuple[int, int, int]
    """Of the date, in the order in which they stand."""
    hour: int
    minute: int
    second: int
    rest: str
    """The name and the text, or what WhatsApp says itself."""
    american: bool
    """Whether the clock has twelve hours and slashes part the date."""


def fits(sample: Sample) -> bool:
    """Whether one of the first lines begins a message, and the first one of the file does."""
    lines = [line for line in sample.text.splitlines()[:5] if line.strip(MARKS + " ")]
    return bool(lines) and _parse(lines[0]) is not None


def read_chats(files: Sequence[Source]) -> Iterator[ChatMessage | Chat]:
    """The chat's messages and the chat; GovorError where there is none."""
    for source in files:
        order, senders = _survey(source)
        count = time = 0
        for line in _messages(source):
            count, seconds = count + 1, _seconds(line, order)
            time = time if seconds is None else seconds
            yield _message(line, time)
        if not count:
            raise GovorError(f"{source}: no WhatsApp chat: no line begins with a date, a time and a name")
        yield Chat(_chat_name(source), chat_type(senders), None, count)


def _survey(source: Source) -> tuple[str, int]:
    """(order of a date's numbers, among dmy, mdy and ymd, number of people who write).

    A date that is none speaks against an order as much as time that runs backward; then the shorter time counts, in
    which a talk goes on from day to day, and last that mostly Americans write 2/12/25, 2:22 PM.
    """
    senders: set[str] = set()
    orders = ("dmy", "mdy", "ymd")
    wrong, first, last = dict.fromkeys(orders, 0), dict.fromkeys(orders, 0), dict.fromkeys(orders, 0)
    american = False
    for line in _messages(source):
        american = american or line.american
        for order in orders:
            seconds = _seconds(line, order)
            wrong[order] += seconds is None or seconds < last[order]
            if seconds is not None:
                first[order] = first[order] or seconds
                last[order] = seconds
        sender, text = _parted(line.rest)
        if sender and _content(text)[2] != "service":
            senders.add(sender)
    likely = ("mdy" if american else "dmy", "dmy", "mdy", "ymd")
    order = min(likely, key=lambda order: (wrong[order], last[order] - first[order]))
    return order, len(senders)


def _messages(source: Source) -> Iterator[_Line]:
    """Every message with all its lines."""
    current: _Line | None = None
    parts: list[str] = []
    size = 0
    with open_unpacked(source) as packed:
        file = io.TextIOWrapper(packed, encoding="utf-8-sig", errors="replace", newline="\n")
        while text := file.readline(LONGEST_LINE):
            line = _parse(text.rstrip("\r\n"))
            if line is None:
                size += len(text)
                if size < LONGEST_LINE:
                    parts.append(text.rstrip("\r\n"))
                continue
            if current is not None:
                yield current._replace(rest="\n".join([current.rest, *parts]))
            current, parts, size = line, [], 0
    if current is not None:
        yield current._replace(rest="\n".join([current.rest, *parts]))


def _parse(text: str) -> _Line | None:
    """The parts of a line that begins a message; None for another."""
    match = LINE.match(text)
    if match is None:
        return None
    hour, half = int(match[4]), (match[7] or "").lower()
    if half:
        hour = hour % 12 + 12 * half.startswith(("p", "п"))
    numbers = (int(match[1]), int(match[2]), int(match[3]))
    american = bool(match[7]) and match[7].isupper() and "/" in text[: match.start(4)]
    return _Line(numbers, hour, int(match[5]), int(match[6] or 0), match[8], american)


def _seconds(line: _Line, order: str) -> int | None:
    """Seconds since 1970 with the numbers read in that order, as if the clock were UTC's; None if it is no date."""
    date = dict(zip(order, line.numbers, strict=True))
    year = date["y"] + 2000 * (date["y"] < 100)
    if not 2009 <= year < 2100:  # WhatsApp began in 2009
        return None
    return seconds_of((year, date["m"], date["d"], line.hour, line.minute, min(line.second, 59)))


def _parted(rest: str) -> tuple[str | None, str]:
    """(the sender, the text); the sender is None where WhatsApp itself speaks."""
    name, colon, text = rest.partition(": ")
    if not colon and rest.rstrip().endswith(":"):  # an empty message
        name, colon, text = rest.rstrip()[:-1], ":", ""
    name = normalize_name(name.strip(MARKS + "~ \u202f\xa0"))
    # «Мама изменила тему на "Дача: весна"»: of a name such as Вася "Бык" both quotes stand before the colon
    quoted = "\n" in name or name.count('"') % 2 or any(name.count(a) != name.count(b) for a, b in ("«»", "“”"))
    if not colon or not name or len(name) > 80 or quoted:
        return None, rest
    return name, text


def _bare(text: str) -> str:
    return text.translate(dict.fromkeys(map(ord, MARKS))).strip()


def _content(text: str) -> tuple[str, str | None, str | None]:
    """(what the sender has written, what was sent instead or beside it, why it can be no turn)."""
    bare = EDITED.sub("", _bare(text))
    if DELETED.fullmatch(bare.rstrip(".")):
        return "", None, "deleted"
    if WAITING.fullmatch(bare):
        return "", None, "unsupported"
    if attached := IN_BRACKETS.search(bare):
        caption = IN_BRACKETS.sub("", bare).strip()
        return "" if PAGES.fullmatch(caption) else caption, _kind(BY_FILE, attached[1]) or "файл", None
    if file := NAMED_FILE.fullmatch(bare):
        return (file[2] or "").strip(), _kind(BY_FILE, file[1]) or "файл", None
    if label := _kind(BY_LABEL, bare):
        return "", label, None
    caption, mark, last = text.rpartition("\u200e")
    if mark and caption.strip() and (label := _kind(BY_LABEL, _bare(last))):  # an iPhone's label behind a caption
        return _bare(caption), label, None
    if CALL.fullmatch(bare):
        return "", None, "call"
    if text.startswith("\u200e"):  # WhatsApp's words; in other languages they may stand for a picture
        return "", None, "service" if SERVICE.match(bare) else "unsupported"
    return bare, None, None


def _kind(table: dict[str, re.Pattern[str]], text: str) -> str | None:
    return next((kind for kind, pattern in table.items() if pattern.fullmatch(text)), None)


def _message(line: _Line, time: int) -> ChatMessage:
    sender, text = _parted(line.rest)
    if sender is None:
        called = CALL.fullmatch(_bare(line.rest))
        return ChatMessage(time, None, drop_reason="call" if called else "service")
    words, media, reason = _content(text)
    media = None if words else media
    return ChatMessage(
        time,
        named(sender),
        sender,
        words,
        media=media,
        drop_reason=reason or drop_reason(sender, words, media),
        mentions=tuple(MENTION.findall(text)),
    )


def _chat_name(source: Source) -> str | None:
    """The chat's name by that of its file, or of the archive that holds `_chat.txt`."""
    root = getattr(source, "root", None)
    names = [source.name, getattr(root, "filename", None) or "", folder_name(source)]
    for name in names:
        stem = re.sub(r"(?:\.(?:txt|zip))+$", "", re.split(r"[/\\]", name)[-1], flags=re.IGNORECASE)
        if match := CHAT_NAME.fullmatch(stem):
            return normalize_name(match[1])
    return normalize_name(re.sub(r"\.(?:txt|zip)$", "", source.name)) or None
