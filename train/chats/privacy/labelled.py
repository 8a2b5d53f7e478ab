"""Finds what people type beside a word that names it: passwords, codes, cards, dates of birth, plates, dictated phones.

Most of these have no form of their own, so the word before or after decides: `код из смс 4829` is a secret, `код товара
4829` is none. What has a form that nothing else has (a wallet, a token, an IBAN, co-ordinates) needs no word.
"""

import re
from collections.abc import Callable, Iterator

from train.chats.privacy.accounts import CARD_NUMBER, CARD_WORD, SEED_PHRASES, WALLETS, find_accounts, find_card_parts
from train.chats.privacy.birth_dates import BIRTH_DATES, SPOKEN_BIRTH_DATES
from train.chats.privacy.codes import find_codes
from train.chats.privacy.door_codes import find_door_codes
from train.chats.privacy.nicks import (
    MAIL_WITHOUT_AT,
    MAIL_WORDS,
    NETWORK_WORDS,
    NICKS,
    NICKS_WITH_NUMBER,
    SPOKEN_EMAILS,
    is_nick,
    is_spoken_email,
)
from train.chats.privacy.papers import MEETING_WORDS, MEETINGS, PAPER_WORDS, PAPERS, PASSPORT_LINES, find_policies
from train.chats.privacy.passwords import (
    API_KEYS,
    KEYS,
    LOCK_CODES,
    LOGIN_AND_PASSWORD,
    NETWORK_NAME,
    PASSWORDS,
    SECRET_WORDS_TOLD,
    SPELLED_PASSWORDS,
    TOKENS,
    WORD_PASSWORDS,
    find_next_secrets,
    is_password,
)
from train.chats.privacy.patterns import DIGIT, Finding, value_span
from train.chats.privacy.phones import find_dictated, find_phones
from train.chats.privacy.plates import find_plates
from train.chats.privacy.positions import ARCS, IP6, find_positions
from train.core.secrets import find_secrets

LATIN = re.compile("[A-Za-z]")
SECRET_RUN = re.compile("[A-Za-z0-9_.-]{16}")
SECRET_WORDS = ("://", "key", "token", "secret", "passw", "парол")
"""A run of such characters or one of the words is what no secret lacks: most of a chat is not searched for forms."""
PASSWORD_WORDS = (
    "парол", "порол", "пасс", "пас ", "пасв", "pass", "psw", "pwd", "pw", "пин", "pin", "parol", "вайф", "вай ф",
    "вай-ф",
    "wi", "вифи", "вафл", "роутер", "доступа", "-код", "сетк", "сеть", "сети ", "тернет", " инет", "ssid", "хотсп",
    "логин",
)  # fmt: skip
WITH_DIGITS: list[tuple[tuple[str, ...], list[re.Pattern[str]], str]] = [
    (
        (
            "рожд",
            "род",
            "др",
            "д.",
            "д р",
            "г.",
            "гр",
            "г р",
            "днюх",
            "днюш",
            "birth",
            "dob",
            "born",
            "bday",
            "варен",
            "д/р",
            "исполн",
            "стукн",
            "вич",
            "вна",
            "чна",
            "ваш",
            "именин",
        ),
        BIRTH_DATES,
        "date",
    ),
    (("api", "апи", "эйпи", "ток", "tok", "secr", "секр", "acces", "ключ", "key", "bear"), API_KEYS, "secret"),
    (("ключ", "key", "сет", "вай", "wi", "вифи", "вафл", "роутер", "ssid", "доступа", "хотсп"), KEYS, "secret"),
    (("код", "пар", "пор", "пин", "pin", "блокиров", "открыва", "комбинац", "цифр"), LOCK_CODES, "secret"),
    (MEETING_WORDS, MEETINGS, "number"),
    (("live:", "#", "диск", "id", "ид", "айди", "вк", "vk"), NICKS_WITH_NUMBER, "nick"),
    (PAPER_WORDS, PAPERS, "number"),
    (("сери", "паспорт"), [PASSPORT_LINES], "passport"),
    ((), WALLETS, "wallet"),
    ((), [TOKENS], "secret"),
    (("°", "градус"), ARCS, "place"),
    (("::", ":"), [IP6], "ip"),
]
"""Words of which one must be there, patterns, kind."""
WITHOUT_DIGITS: list[tuple[tuple[str, ...], list[re.Pattern[str]], str]] = [
    (PASSWORD_WORDS, PASSWORDS, "secret"),
    (PASSWORD_WORDS, SPELLED_PASSWORDS, "secret"),
    (PASSWORD_WORDS, WORD_PASSWORDS, "word"),
    (("кодов", "секретн", "контрольн"), SECRET_WORDS_TOLD, "secret"),
    (("рожд", "родил", "др ", "днюх", "днюш", "г.р"), SPOKEN_BIRTH_DATES, "date"),
    (("сид", "seed", "мнемо", "фраз", "recovery"), SEED_PHRASES, "seed"),
    (MAIL_WORDS, SPOKEN_EMAILS, "email"),
    ((".ru", ".com"), MAIL_WITHOUT_AT, "email"),
    (NETWORK_WORDS, NICKS, "nick"),
]
CYRILLIC = {words: tuple(word for word in words if not word.isascii() or word == "@") for words, *_ in WITHOUT_DIGITS}
WITHOUT_LATIN = [
    (CYRILLIC[words], patterns, kind)
    for words, patterns, kind in WITHOUT_DIGITS
    if kind not in ("nick", "seed") and CYRILLIC[words]
]
"""The same for a text without Latin letters, which most of a chat is."""
HAS_CARD_PART = re.compile("[0-9]{3}|[0-9] ?[/.-] ?[0-9]")
CARD_WORDS = ("срок", "до ", "цифр", "циферк", "сзади", "оборот", "обратн", "exp", "valid", "действ")
ACCEPTED: dict[str, Callable[[re.Match[str]], bool]] = {"nick": is_nick, "word": is_password, "email": is_spoken_email}
"""Kinds whose matches are looked at once more."""


def find_labelled(text: str) -> Iterator[Finding]:
    """Everything of these kinds; where two overlap, the lower rank is right."""
    lower = text.lower()
    found = [*_without_digits(text, lower)]
    if DIGIT.search(text):
        found += _with_digits(text, lower)
    yield from found
    yield from find_next_secrets(text, found)
    if any(map(lower.__contains__, SECRET_WORDS)) or SECRET_RUN.search(text):
        yield from ((1, secret.start, secret.end, "secret") for secret in find_secrets(text))
    if lower.count(" ") >= 4 or lower.count("-") >= 4:
        yield from find_dictated(text, lower)


def _without_digits(text: str, lower: str) -> Iterator[Finding]:
    latin = LATIN.search(text) is not None
    there: tuple[tuple[str, ...], bool] = (), False
    for words, patterns, kind in WITHOUT_DIGITS if latin else WITHOUT_LATIN:
        if words is not there[0]:
            there = words, any(map(lower.__contains__, words))
        if there[1]:
            for match in (match for pattern in patterns for match in pattern.finditer(text)):
                if ACCEPTED[kind](match) if kind in ACCEPTED else True:
                    yield 0, *value_span(match), "secret" if kind in ("word", "seed") else kind
    if latin and ("/" in text or DIGIT.search(text)):
        for pattern in LOGIN_AND_PASSWORD:
            for match in pattern.finditer(text):
                network = NETWORK_NAME.match(match[0])  # its name is shown to everybody
                yield from ((1, *match.span(name), "secret") for name in ("login", "value")[network is not None :])


def _with_digits(text: str, lower: str) -> Iterator[Finding]:
    for words, patterns, kind in WITH_DIGITS:
        if not words or any(map(lower.__contains__, words)):
            for pattern in patterns:
                yield from ((2, *value_span(match), kind) for match in pattern.finditer(text))
    if any(map(lower.__contains__, ("пол", "мс", "енп", "страхов"))):
        yield from find_policies(text)
    yield from find_codes(text, lower)
    yield from find_door_codes(text, lower)
    yield from find_accounts(text)
    yield from find_plates(text)
    yield from find_positions(text)
    yield from find_phones(text)
    if not HAS_CARD_PART.search(text):
        return
    if any(map(lower.__contains__, CARD_WORDS)) or CARD_WORD.search(text) or CARD_NUMBER.search(text):
        yield from find_card_parts(text)
