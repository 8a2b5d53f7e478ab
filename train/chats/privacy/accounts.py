"""Accounts and cards: IBAN, wallets, a card's expiry date and its code."""

import re
from collections.abc import Iterator

from train.chats.privacy.patterns import Finding, any_case

IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AM": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24,
    "FI": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28,
    "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20, "MR": 27, "MT": 31, "MU": 30,
    "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24,
    "SC": 31, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip
"""Country → characters of its account numbers (ISO 13616 registry)."""
IBAN_START = any_case(r"(?<![A-Za-z0-9])(?P<country>[A-Z]{2})\s?[0-9]{2}(?=[\s-]?[A-Z0-9])")
IBAN_REST = {n: any_case(rf"(?:[\s-]?[A-Z0-9]){{{n - 4}}}(?![A-Za-z0-9])") for n in {*IBAN_LENGTHS.values()}}
IBAN_WORD = any_case(r"iban|ибан|сч[её]т|реквизит|перев|account")
BASE58 = "[1-9A-HJ-NP-Za-km-z]"
WALLET = re.compile(
    rf"(?<![\w/=-])(?:(?=\S{{0,100}}[a-z])(?=\S{{0,100}}[A-Z])(?=\S{{0,100}}[0-9])[13]{BASE58}{{25,34}}|(?:bc1|ltc1|tb1)[a-z0-9]{{25,87}}|0x[0-9a-fA-F]{{40}}|"
    rf"(?=\S{{0,100}}[a-z])(?=\S{{0,100}}[0-9])T{BASE58}{{33}}|(?=\S{{0,100}}[a-z])(?=\S{{0,100}}[A-Z])[EU]Q[A-Za-z0-9_-]{{46}}|4[0-9AB]{BASE58}{{93}})(?![\w-])"
)
EXPIRY_DATE = r"(?P<date>(?:0[1-9]|1[0-2])\s?[/.-]\s?(?:20)?[23][0-9])(?![\w/.]*[0-9])"
EXPIRY = re.compile(rf"(?<![\w/.-]){EXPIRY_DATE}(?:[\s,;/]{{1,3}}(?P<code>[0-9]{{3}})(?![\w-]))?")
NAMED_EXPIRY = any_case(
    r"(?<!\w)(?:срок(?:\s(?:действия|карты|до))?|(?:действ\w+|действительна|годна|годен)\sдо|exp(?:iry|ires)?|valid(?:\sthru)?|thru|до|дата)"
    r"\W{1,3}(?P<date>(?:0[1-9]|1[0-2])\s?[/.\s-]?\s?(?:20)?[23][0-9])(?![\w/.]*[0-9])"
)
CARD_CODE = any_case(
    r"(?<!\w)(?:cvv2?|cvc2?|csc|цвв|цвс|цвц|свв|свс|сивиси|сививи|(?:три|3)\sцифры|код|обратк\w|на\sобороте|сзади|секретка)"
    r"(?:\s?-?(?:код|(?:с|на)\s(?:обратк\w|оборот\w|обратной|задней\sстороны)|сзади|с\sзади|безопасности|карты|стороны|на\sобороте|у\sнее|там)){0,3}"
    r"\W{0,3}(?P<code>[0-9]{3})(?![\w-])"
)
CODE_OF_CARD = any_case(
    r"(?<![\w.,/-])(?P<code>[0-9]{3})(?=\W{1,3}(?:это\s)?(?:cvv|cvc|цвв|цвс|свв|свс|сзади|на\sобороте|с\sобратк|код\sсзади))"
)
CARD_WORD = any_case(r"(?<!\w)(?:cvv|cvc|цв[вс]|св[вс]|карт[аыуео]|сиви)")
CARD_NUMBER = re.compile(r"(?<![0-9])[0-9]{4}(?:[\s-]?[0-9]{4}){3}(?![0-9])")


def find_card_parts(text: str) -> Iterator[Finding]:
    """Expiry date and code of a card: both stand beside its number, or after words that name them."""
    has_number = CARD_NUMBER.search(text) is not None
    for match in EXPIRY.finditer(text) if has_number else ():
        yield 1, *match.span("date"), "secret"
        if match["code"]:
            yield 1, *match.span("code"), "secret"
    for match in NAMED_EXPIRY.finditer(text):
        if has_number or (match[0][:2].lower() != "до" and "дата" not in match[0].lower()):
            yield 1, *match.span("date"), "secret"
    for pattern in (CARD_CODE, CODE_OF_CARD):
        for match in pattern.finditer(text):
            if has_number or re.search("[cц]в|[cс]в|cv|сив", match[0].lower()) or "цифры" in match[0].lower():
                yield 1, *match.span("code"), "secret"


def is_account(text: str, start: int, end: int) -> bool:
    """Whether a run of its country's length is an account: its check digits (ISO 7064, MOD 97-10) are right, or it is
    written in one or in fours, or a word before names it."""
    written = text[start:end]
    account = re.sub(r"[\s-]", "", written).upper()
    if sum(map(str.isdigit, account)) < 8:
        return False
    if int("".join(str(int(ch, 36)) for ch in account[4:] + account[:4])) % 97 == 1:
        return True
    fours = all(len(group) == 4 for group in re.split(r"[\s-]", written)[:-1])
    return fours or IBAN_WORD.search(text[max(0, start - 40) : start]) is not None


def find_accounts(text: str) -> Iterator[Finding]:
    for match in IBAN_START.finditer(text):
        rest = IBAN_REST[IBAN_LENGTHS.get(match["country"].upper(), 16)].match(text, match.end())
        if rest and match["country"].upper() in IBAN_LENGTHS and is_account(text, match.start(), rest.end()):
            yield 0, match.start(), rest.end(), "account"
