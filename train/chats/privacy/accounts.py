"""Accounts and cards: IBAN, wallets, a card's expiry date and its code."""

import re
from collections.abc import Iterator

from train.chats.privacy.patterns import NO_UNIT, Finding, any_case, value_span

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
MIXED = r"(?=\S{0,100}[a-z])(?=\S{0,100}[A-Z])(?=\S{0,100}[0-9])"
WALLETS = [
    re.compile(
        rf"(?<![\w/=-])(?:{MIXED}[13]{BASE58}{{25,34}}|(?:bc1|ltc1|tb1)[a-z0-9]{{25,87}}|(?:addr1|cosmos1|bnb1|osmo1|terra1)[a-z0-9]{{38,110}}|0x[0-9a-fA-F]{{40}}|"
        rf"(?=\S{{0,100}}[a-z])(?=\S{{0,100}}[0-9])T{BASE58}{{33}}|(?=\S{{0,100}}[a-z])(?=\S{{0,100}}[A-Z])[EU]Q[A-Za-z0-9_-]{{46}}|4[0-9AB]{BASE58}{{93}}|"
        rf"{MIXED}(?:[LMDAX]{BASE58}{{33}}|r{BASE58}{{24,34}}))(?![\w-])"
    ),
    any_case(
        r"(?<!\w)(?:кош[еа]л[её]?\w*|wallet|крипт\w+|сол(?:ана|ану|ане|аны)?|solana|sol|phantom|фантом|адрес\w?|биток\w?|биткоин\w?|btc|эфир\w{0,3}|eth|usdt|"
        rf"юсдт|тез?ер\w?|ton|трон\w?|trx|trc-?20|erc-?20|bep-?20|монеро|xmr|додж\w*|ltc|xrp|near|дот|тон)(?!\w)[^0-9\n]{{0,24}}?(?<![\w/=.-])(?P<value>(?-i:{MIXED}{BASE58}{{32,64}}))(?![\w-])"
    ),
    any_case(
        r"(?<!\w)(?:ю-?мани|юmoney|yoomoney|яндекс[\s.-]?(?:деньг\w+|кош\w+)|кош[её]л[её]?\w+|яд)\W{1,3}(?:\w+\W{1,2}){0,2}(?P<value>4100[0-9]{8,13})(?!\w)"
    ),
    any_case(
        r"(?<!\w)(?:web\s?money|веб\s?мани|вм|wm[zre]?|кош[её]л[её]?\w+|киви|qiwi)\W{1,3}(?:\w+\W{1,2}){0,2}(?P<value>[ZRUEBX][0-9]{12})(?!\w)"
    ),
]
"""By their form, or of other coins and services after a word for them."""
SEED_PHRASES = [
    any_case(
        r"(?<!\w)(?:сид|seed|мнемо\w+|фраз[аыу](?:\s(?:восстановления|от\sкош\w+))?|recovery|резервн\w+\sфраз\w)(?:[\s-]фраз\w|\sphrase)?\W{1,3}(?P<value>[a-z]{3,8}(?:[\s,]{1,2}(?:[0-9]{1,2}[.)]\s?)?[a-z]{3,8}){11,23})(?!\w)"
    ),
]
"""The words that restore a wallet."""
EXPIRY_DATE = r"(?P<date>(?:0[1-9]|1[0-2])\s?[/.-]\s?(?:20)?[23][0-9])(?![\w/.]*[0-9])"
EXPIRY = re.compile(rf"(?<![\w/.-]){EXPIRY_DATE}(?:[\s,;/]{{1,3}}(?P<code>[0-9]{{3}})(?![\w-]))?")
CVC = r"c{1,2}v{1,2}[ck]?2?|cvv2?|cvc2?|csc|ц[вц][вцк]|цвс|свв|свс|свк|сивиси|сививи|си-?ви-?(?:си|ви)"
NAMED_EXPIRY = any_case(
    r"(?<!\w)(?:срок(?:\s(?:действия|карты|до))?|(?:действ\w+|действительна|годна|годен)\sдо|exp(?:iry|ires)?|valid(?:\sthru)?|thru|до|дата)"
    r"\W{1,3}(?P<date>(?:0[1-9]|1[0-2])\s?[/.\s-]?\s?(?:20)?[23][0-9])(?![\w/.]*[0-9])"
)
BACK = r"(?:обратк\w|оборот\w|обратной(?:\sстороне|\sстороны)?|задней(?:\sстороны|\sстороне)?|сзади|тыльной\sстороны)"
CARD_CODE = any_case(
    rf"(?<!\w)(?:{CVC}|(?:три|3)\s(?:послед\w+\s)?циф\w+|код|секретн\w+\sкод|обратк\w|(?:на|с)\s{BACK}|сзади|секретка)"
    rf"(?:\s?-?(?:код|(?:с|на)\s{BACK}|{BACK}|с\sзади|безопасности|(?:на\s)?карт[ыеу]|у\sнее|там|который|это|цифры?|такие|такой)){{0,4}}"
    r"\W{0,3}(?P<code>[0-9]{3}|[0-9]\s[0-9]\s[0-9])(?![\w-])"
)
CODE_OF_CARD = any_case(
    rf"(?<![\w.,/-])(?P<code>[0-9]{{3}})(?=\W{{1,3}}(?:(?:это|мой|код)\s){{0,2}}(?:{CVC}|(?:с|на)?\s?{BACK}))"
)
CVC_WORD = any_case(rf"(?<![a-zа-я])(?:{CVC})|циф|сзади|обор|обратн|тыльн")
BANK = (
    r"(?:карт[аыуеой]{1,2}|карточк\w|сбер\w{0,4}|тин[ье]к\w*|т-?банк\w?|альф[аеуы]\w?|втб|райф\w*|озон\w?|"
    r"виз[аыу]|visa|мир|mastercard|мастеркард|сч[её]т\w?)"
)
LAST_DIGITS = [
    any_case(
        rf"(?<!\w){BANK}(?!\w)[^0-9\n]{{0,20}}?(?:[*•·xх]{{1,4}}|\.{{2,4}}|…)\s?(?P<value>[0-9]{{4}})(?![\w-]|[:.,/][0-9])"
    ),
    any_case(
        r"(?<!\w)(?:(?:за|о)?канч\w+(?:ется|ивается|ется)?|конч\w+|заканч\w+|хвост\w*|последни[ех])(?:\s(?:карт\w{1,2}|номер\w?|у\sне[её]|мо[яей]|на|цифр\w{0,3}|4|четыре|это)){0,5}\W{1,3}"
        r"(?P<value>[0-9]{4})(?![\w-]|[:.,/][0-9])" + NO_UNIT
    ),
    any_case(
        r"(?<![\w.,/-])(?P<value>[0-9]{4})\s(?:(?:это\s)?(?:последни[ех]|хвост)(?!\w)|\w{0,2}канч|конч|\w{2}канч)"
    ),
    any_case(r"(?<![\w*#])[*•]{1,4}\s?(?P<value>[0-9]{4})(?![\w#*]|[:.,/][0-9])"),
]
"""Of a card, where the text speaks of one."""
MASKED = re.compile(
    r"(?<![\w.,-])[2-6][0-9]{3}[\s-]?(?:[0-9]{2}(?:[0-9]{2})?)?[\s-]?(?:[*•xXхХ]{2,4}[\s-]?|\.{3}\s?|…\s?){1,4}[0-9]{4}(?!\w)"
)
CARD_WORD = any_case(
    rf"(?<!\w)(?:{CVC}|карт(?:[аыуео]|оч)|сиви|сбер|тин[ье]к|альф|втб|озон|мир(?!\w)|visa|виз[аыу]|т-?банк|код\s(?:с|на)\s)"
)
CARD_NUMBER = re.compile(r"(?<![0-9])[0-9]{4}(?:[\s-]?[0-9]{4}){3}(?![0-9])")


def find_card_parts(text: str) -> Iterator[Finding]:
    """Expiry date, code and last digits of a card: they stand beside its number or its code, or words name them."""
    for pattern in (*LAST_DIGITS, MASKED) if CARD_WORD.search(text) else ():
        yield from ((1, *value_span(match), "secret") for match in pattern.finditer(text))
    has_number = CARD_NUMBER.search(text) is not None
    codes = [match for pattern in (CARD_CODE, CODE_OF_CARD) for match in pattern.finditer(text)]
    codes = [match for match in codes if has_number or CVC_WORD.search(match[0] + text[match.end() : match.end() + 12])]
    yield from ((1, *match.span("code"), "secret") for match in codes)
    has_number = has_number or bool(codes)
    for match in EXPIRY.finditer(text) if has_number else ():
        yield 1, *match.span("date"), "secret"
        if match["code"]:
            yield 1, *match.span("code"), "secret"
    for match in NAMED_EXPIRY.finditer(text):
        if has_number or (match[0][:2].lower() != "до" and "дата" not in match[0].lower()):
            yield 1, *match.span("date"), "secret"


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
