"""Finds what people type beside a word that names it: passwords, codes, cards, dates of birth, plates, dictated phones.

Most of these have no form of their own, so the word before or after decides: `код из смс 4829` is a secret, `код товара
4829` is none. What has a form that nothing else has (a wallet, a token, an IBAN, co-ordinates) needs no word.
"""

import re
from collections.abc import Iterator

from train.chats.privacy.accounts import CARD_NUMBER, CARD_WORD, WALLET, find_accounts, find_card_parts
from train.chats.privacy.birth_dates import BIRTH_DATES, SPOKEN_BIRTH_DATES
from train.chats.privacy.codes import DOOR_CODES, find_codes
from train.chats.privacy.nicks import NICKS, NICKS_WITH_NUMBER, SPOKEN_EMAIL, is_nick, is_spoken_email
from train.chats.privacy.papers import MEETING_WORDS, MEETINGS, PAPERS, POLICIES
from train.chats.privacy.passwords import (
    API_KEYS,
    KEYS,
    PASSWORDS,
    SECRET_WORDS_TOLD,
    TOKENS,
    WORD_PASSWORDS,
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
WITH_DIGITS: list[tuple[tuple[str, ...], list[re.Pattern[str]], str]] = [
    ((), DOOR_CODES, "secret"),
    (("рожд", "род", "др", "д.", "д р", "г.", "гр", "г р", "днюх", "birth", "dob"), BIRTH_DATES, "date"),
    (("полис", "мс", "енп", "страхов"), POLICIES, "policy"),
    (("api", "апи", "эйпи", "ток", "tok", "secr", "секр", "acces", "ключ", "key", "bear"), API_KEYS, "secret"),
    (("ключ", "key", "сет", "вай", "wi", "вифи", "вафл", "роутер", "ssid", "доступа", "хотсп"), KEYS, "secret"),
    (MEETING_WORDS, MEETINGS, "number"),
    (("live:", "#", "диск", "id", "ид", "айди", "вк", "vk"), NICKS_WITH_NUMBER, "nick"),
    (("ву", "водит", "прав", "стс", "птс", "кпп"), [PAPERS], "number"),
    ((), [WALLET], "wallet"),
    ((), [TOKENS], "secret"),
    (("°",), [ARCS], "place"),
    (("::", ":"), [IP6], "ip"),
]
"""Words of which one must be there, patterns, kind."""
WITHOUT_DIGITS: list[tuple[tuple[str, ...], list[re.Pattern[str]], str]] = [
    (
        (
            "парол",
            "пасс",
            "pass",
            "pwd",
            "пин",
            "pin",
            "вайф",
            "вай-ф",
            "вай ф",
            "wi",
            "вифи",
            "вафл",
            "роутер",
            "доступа",
            "-код",
        ),
        PASSWORDS,
        "secret",
    ),
    (("кодов", "секретн", "контрольн"), SECRET_WORDS_TOLD, "secret"),
    (("парол", "pass", "вайф", "вай-ф", "вай ф", "wi", "вифи", "вафл"), WORD_PASSWORDS, "word"),
    (("рожд", "родил", " др ", "днюх", "г.р"), SPOKEN_BIRTH_DATES, "date"),
    (("собак", "собач", "@", "at"), [SPOKEN_EMAIL], "email"),
    (
        (
            "тел",
            "тг",
            "tg",
            "инст",
            "inst",
            "скай",
            "skyp",
            "вк",
            "vk",
            "конт",
            "ник",
            "дис",
            "дс",
            "тик",
            "твит",
            "юзер",
            "логин",
            "стим",
            "steam",
            "юту",
            "ютьюб",
            "tube",
            "tiktok",
            "twit",
            "твич",
            "одноклас",
            "вайб",
            "viber",
            "тсап",
            "whats",
            "facebook",
            "фейсб",
            "пинт",
            "тред",
            "thread",
            "hub",
            "хаб",
            "макс",
            "робл",
            "robl",
            "эпик",
            "epic",
            "псн",
            "psn",
            "сигнал",
            "снап",
            "snap",
            "акк",
            "линк",
            "linked",
            "disc",
        ),
        NICKS,
        "nick",
    ),
]


def find_labelled(text: str) -> Iterator[Finding]:
    """Everything of these kinds; where two overlap, the lower rank is right."""
    lower = text.lower()
    if DIGIT.search(text):
        yield from _with_digits(text, lower)
    latin = LATIN.search(text) is not None
    for word, patterns, kind in WITHOUT_DIGITS:
        if (latin or kind != "nick") and any(map(lower.__contains__, word)):
            for pattern in patterns:
                for match in pattern.finditer(text):
                    if (kind == "nick" and not is_nick(match)) or (kind == "word" and not is_password(match)):
                        continue
                    if kind != "email" or is_spoken_email(match[0].lower()):
                        yield 0, *value_span(match), "secret" if kind == "word" else kind
    if any(map(lower.__contains__, SECRET_WORDS)) or SECRET_RUN.search(text):
        yield from ((1, secret.start, secret.end, "secret") for secret in find_secrets(text))
    if lower.count(" ") >= 4:
        yield from find_dictated(text, lower)


def _with_digits(text: str, lower: str) -> Iterator[Finding]:
    for words, patterns, kind in WITH_DIGITS:
        if not words or any(map(lower.__contains__, words)):
            for pattern in patterns:
                yield from ((2, *value_span(match), kind) for match in pattern.finditer(text))
    yield from find_codes(text, lower)
    yield from find_accounts(text)
    yield from find_plates(text)
    yield from find_positions(text)
    yield from find_phones(text)
    if CARD_WORD.search(text) or "срок" in lower or "до " in lower or CARD_NUMBER.search(text):
        yield from find_card_parts(text)
