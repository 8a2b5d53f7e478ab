"""Finds phones, cards, passports, tax, pension and registration numbers, and bank accounts.

A number counts by its form and, where it has one, its check digit; the words beside it decide the rest. `паспорт`,
`ИНН`, `тел.` … claim a number that could be several things, `заказ`, `артикул`, `трек` … say that it is none of them.
"""

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

SPACE = "[ \u00a0\u2009\u202f\t]"
DASH = "[-\u2010-\u2015\u2212]"
GAP = f"(?:{SPACE}|{DASH}|[.])"
LEFT = rf"(?<![A-Za-z0-9_])(?<![0-9](?:[.,/]|{DASH}))"
RIGHT = rf"(?![A-Za-z0-9_])(?!(?:[.]|{DASH})[0-9])"
LABELS = {
    "phone": r"тел(?:ефон\w*|\.|(?![а-яё]))|сот(?:ов\w+|\.)|моб(?:ил\w+|\.)|\w*звон\w*|наб(?:ер|ир)\w+|"
    r"в[ао]т?с?апп?\w*|whats ?app|viber|вайбер\w*|смс\w*|sms|контакт\w*|симк\w+|"
    r"(?:мо|тво|сво|наш|ваш|его|е[её]|их)\w* номер\w*|"
    r"номер\w* (?:для|тел|моб)\w*|мой(?=\W*$)|пиши(?:те)?(?![а-яё])",
    "card": r"карт\w+|card|visa|виз[ауы]\b|мир\b|сбер\w*|тин(?:ьк|[её]к)\w*|альфа\w*|мастеркард\w*|"
    r"mastercard|кредитк\w*|"
    r"втб\b|райф\w*|cvv|cvc|цвв|exp\b",
    "passport": r"пас?сп(?:орт\w*|\.|\b)|загран\w*|сери[яию]\b|сер\.",
    "inn": r"инн(?:ка|а|у|ом|ку)?(?![а-яё])|inn\b",
    "snils": r"снилс\w*|страхов\w+ (?:свид|номер)\w*|пенсионн\w+ (?:свид|страх|фонд)\w*|зел[её]н\w+ карточ\w+",
    "ogrn": r"огрн\w*|ogrn\w*",
    "account": r"р/с|к/с|сч[её]т\w*|р/сч\w*|реквизит\w*|бик\b",
}
LABEL = re.compile("|".join(rf"(?P<{kind}>\b(?:{words}))" for kind, words in LABELS.items()))
LABEL_AFTER = re.compile(rf"[\s(—–-]{{1,3}}(?:(?:это|мой|моя|вот|наш)\s)*(?:{LABEL.pattern})(?!\W{{0,3}}[0-9])")
OTHER = (
    r"\b(?:заказ(?!чик)|артик|арт\.|штрих|трек|накладн|товар|ean\b|imei|isbn|iccid|инвойс|договор|заявк|тикет|лота?\b|"
    r"кадастр|vin\b|брон[ьи]|билет|чека?\b|инвентар|постановл|uuid|коммит|лицев\w+ сч[её]т|u?id\b|кода?\b|"
    r"посылк|отправлен|верси|лояльност|скидочн|дисконт|бонусн)\w*"
)
NEAR_OTHER = re.compile(OTHER + r"(?:[\s-]+[а-яёa-z]+){0,2}[\s:№#=.-]*$")
NEXT_TO_OTHER = re.compile(OTHER + r"(?:[\s-]номер\w*)?[\s:№#=.-]*$")
UNIT = re.compile(
    r"\s{0,2}(?:руб|р(?:\.|(?![а-яё]))|₽|\$|€|%|тыс|млн|млрд|тенге|сум(?![а-яё])|донг|шт|кг|км|мм|см|м(?![а-яё])|гб|мб|"
    r"человек|лет(?![а-яё])|просмотр|подписч|экз|знак|шаг)"
)
ISLAND = re.compile(r"[+(]?[0-9](?:[^0-9\n]{0,12}[0-9]){5,}")
"""Where numbers may stand; most of a chat has none."""


class Number:
    """A number in its text, and what stands beside it."""

    def __init__(self, text: str, match: re.Match[str]) -> None:
        self.text, self.match = text, match
        self.raw = match[0]
        self.groups = re.findall("[0-9]+", self.raw)
        self.digits = "".join(self.groups)

    @cached_property
    def before(self) -> str:
        """Up to 48 characters before it, in lower case; of the line before only where the number begins its own."""
        start = self.match.start()
        window = self.text[max(0, start - 48) : start].lower()
        line = window[window.rfind("\n") + 1 :]
        return line if line.strip() else window

    @cached_property
    def after(self) -> str:
        """Up to 32 characters after the number, in lower case."""
        return self.text[self.match.end() : self.match.end() + 32].lower()

    @cached_property
    def label(self) -> str | None:
        """The kind that the nearest word before it names, or one right after it; `other` for an order, an article, …"""
        if NEAR_OTHER.search(self.before):
            return "other"
        labels = [match.lastgroup for match in LABEL.finditer(self.before)]
        if labels:
            return labels[-1]
        after = LABEL_AFTER.match(self.after)
        return after.lastgroup if after else None

    @property
    def named(self) -> set[str | None]:
        """Every kind that words before it name, and the one right after it."""
        return {self.label, *(match.lastgroup for match in LABEL.finditer(self.before))}

    @property
    def has_unit(self) -> bool:
        """Whether a unit follows: roubles, kilometres, people, …"""
        return bool(UNIT.match(self.after))

    @property
    def dashes(self) -> int:
        return len(re.findall(DASH, self.raw))


class Rule(NamedTuple):
    """How numbers of one kind are written, and what else a number must fulfil."""

    kind: str
    pattern: re.Pattern[str]
    accept: Callable[[Number], bool]


def luhn_valid(digits: str) -> bool:
    """Whether the check digit of a payment card is right (Luhn's formula)."""
    return sum(sum(divmod(int(d) * (1 + n % 2), 10)) for n, d in enumerate(digits[::-1])) % 10 == 0


def inn_valid(digits: str) -> bool:
    """Whether the check digits of a tax number are right: one of a company (10 digits), two of a person (12)."""
    if len(digits) not in (10, 12) or digits.startswith("00"):
        return False
    weights = (3, 7, 2, 4, 10, 3, 5, 9, 4, 6, 8)
    return all(
        sum(w * int(d) for w, d in zip(weights[-n:], digits, strict=False)) % 11 % 10 == int(digits[n])
        for n in ((9,) if len(digits) == 10 else (10, 11))
    )


def snils_valid(digits: str) -> bool:
    """Whether the two check digits of a pension insurance number are right; up to 001-001-998 there are none."""
    if len(digits) != 11 or digits[:9] <= "001001998":
        return False
    return sum((9 - n) * int(d) for n, d in enumerate(digits[:9])) % 101 % 100 == int(digits[9:])


def ogrn_valid(digits: str) -> bool:
    """Whether the check digit of a registration number is right: 13 digits of a company, 15 of a sole trader."""
    first = {13: "15", 15: "34"}.get(len(digits), "")
    return bool(first) and digits[0] in first and int(digits[:-1]) % (len(digits) - 2) % 10 == int(digits[-1])


def _is_card(number: Number) -> bool:
    """Whether Luhn's formula and the prefix fit a card of this length; other prefixes only after the word `карта`."""
    if not luhn_valid(number.digits) or not number.digits.strip("0"):
        return False
    prefixes = {
        14: "30[0-5]|3[689]",
        15: "3[47]",
        16: "[3-6]|2[2-7]|8600|9860|9112|9417",
        17: "5[06-8]|6",
        18: "5[06-8]|6|220[0-4]",
        19: "4|5[06-8]|6|220[0-4]",
    }
    label = number.label
    fits = bool(re.match(prefixes.get(len(number.digits), "$"), number.digits))
    return label == "card" or (fits and label != "other")


def _is_long_card(number: Number) -> bool:
    return number.digits[0] in "56" and _is_card(number)


def _is_passport(number: Number) -> bool:
    """Whether it is series and number of a passport.

    Without the word `паспорт` it must be spaced as in the document, with the year of a real form.
    """
    label = number.label
    if label == "passport":
        return True
    spaced = len(number.groups) > 1 and not number.dashes
    year = int(number.digits[2:4])  # when the form was printed: from 1997, and no further than the next years
    return label not in ("other", "phone") and spaced and (year >= 97 or year <= 35) and not number.has_unit


def _is_foreign_passport(number: Number) -> bool:
    return "загран" in number.before


def _is_issuer(number: Number) -> bool:
    """Whether it is the code of the office that issued a passport: so named, or a `код` after the passport's number."""
    if re.search(r"код\w* подр|к/п|подразделен", number.before):
        return True
    start = number.match.start()
    earlier = number.text[max(0, start - 120) : start].lower()
    return bool(re.search(r"(?:пасп|[0-9]{2}\s?[0-9]{2}\D{1,3}[0-9]{6}\D).*\b(?:код|выдан)\b", earlier))


def _is_inn(number: Number) -> bool:
    label = number.label if inn_valid(number.digits) else "other"
    return label == "inn" or (label != "other" and len(number.groups) == 1 and not number.has_unit)


def _is_snils(number: Number) -> bool:
    label = number.label if snils_valid(number.digits) else "other"
    return label == "snils" or (label != "other" and len(number.groups) == 4 and not number.has_unit)


def _is_ogrn(number: Number) -> bool:
    label = number.label if ogrn_valid(number.digits) else "other"
    return label == "ogrn" or (label != "other" and len(number.groups) == 1)


def _is_account(number: Number) -> bool:
    """Whether digits six to eight are a currency: rouble, dollar, euro, yuan, …"""
    currencies = "810 643 840 978 156 826 756 392 398 933 974 784 949 051 417 860 944 972 981 036 124 344 702 356"
    return number.digits[5:8] in currencies.split()


def _is_phone(number: Number) -> bool:
    """Whether +7, 8 or 7 and ten digits are a phone.

    An amount is grouped otherwise (80 000 000 000) or has its unit after it.
    """
    digits, groups = number.digits, number.groups
    plus = number.raw.startswith("+")
    if digits[1] not in "3489" and not (digits[1] in "67" and (plus or len(groups) > 2)):
        return False
    if plus:
        return True
    if len(groups[0]) in (2, 3) or (len(groups[0]) == 1 and len(groups[1]) < 3) or number.has_unit:
        return False
    if NEXT_TO_OTHER.search(number.before):
        return "(" in number.raw or number.dashes > 2
    return len(groups) > 1 or digits.startswith(("8", "79")) or number.label == "phone"


def _is_foreign_phone(number: Number) -> bool:
    digits = number.digits
    return len(digits) >= 10 and digits[0] != "7" and not re.match("1[01]", digits) and not number.has_unit


def _is_short_phone(number: Number) -> bool:
    """Whether ten digits without 8 are a phone: in brackets, grouped 3-3-2-2, or in one where words say so."""
    label = number.label
    if label == "other" or number.has_unit:
        return False
    if len(number.groups) > 1:
        return number.digits[0] == "9" or label == "phone" or "(" in number.raw or number.dashes > 1
    return number.digits[0] == "9" and label == "phone"


def _is_local_phone(number: Number) -> bool:
    return number.label == "phone"


def _is_named(*kinds: str) -> Callable[[Number], bool]:
    """Tells numbers that a word names as one of the kinds; their check digits are wrong, or such a rule had them."""
    return lambda number: number.label != "other" and not number.has_unit and not number.named.isdisjoint(kinds)


CARD_PARTS = re.compile(
    r"[\s,;]{1,3}(?:(?:срок|до|годн\w+|действ\w+)\W{1,2}(?:до\s)?)?(?:0[1-9]|1[0-2])[/.][23][0-9](?!\w)"
)
CARD_NEAR = re.compile(r"срок|действует до|годна до|cvv|cvc|цвв|свв|exp\b|valid")
RUSSIAN_BANKS = re.compile(
    "220[0-4]|427[0-9]|546[09]|5479|5484|5536|5213|4377|4154|4779|5486|4790|5211|5559|4272|4622|5278|5543|4890|4893"
)
"""How cards of the greatest banks begin."""


def _is_unchecked_card(number: Number) -> bool:
    """Whether sixteen digits are called a card, or have its expiry date after them."""
    if number.label == "card" or (number.label != "other" and CARD_PARTS.match(number.after)):
        return True
    russian = re.match("220[0-4]|4|5[1-5]", number.digits) is not None
    fours = [len(group) for group in number.groups] == [4] * 4
    sure = fours or RUSSIAN_BANKS.match(number.digits) or CARD_NEAR.search(number.before + number.after)
    return russian and number.label is None and bool(sure)


def _rule(kind: str, pattern: str, accept: Callable[[Number], bool]) -> Rule:
    return Rule(kind, re.compile(LEFT + pattern + RIGHT, re.IGNORECASE), accept)


WITHIN = f"(?:{GAP}|[()]){{0,3}}"
SIGN = rf",?{SPACE}{{0,2}}(?:№|N|no\.?|номер\w*|ном\.){SPACE}{{0,2}}"
RULES = [
    _rule("account", rf"(?:40[5-8]|42[0136]|30[12])(?:{GAP}?[0-9]){{17}}", _is_account),
    _rule("card", rf"[0-9]{{4}}(?:{GAP}{{1,2}}[0-9]{{4}}){{3}}{GAP}?[0-9]{{2,3}}", _is_long_card),
    _rule("card", rf"[0-9]{{4}}(?:{GAP}{{0,2}}[0-9]){{12}}", _is_card),
    _rule("card", rf"3[0-9]{{3}}{GAP}[0-9]{{6}}{GAP}[0-9]{{4,5}}", _is_card),
    _rule("card", "[0-9]{13,19}", _is_card),
    _rule("snils", rf"[0-9]{{3}}(?:{GAP}?[0-9]{{3}}){{2}}{GAP}{{0,2}}[0-9]{{2}}", _is_snils),
    _rule("ogrn", rf"[34](?:{GAP}?[0-9]){{14}}", _is_ogrn),
    _rule("ogrn", rf"[15](?:{GAP}?[0-9]){{12}}", _is_ogrn),
    _rule("inn", rf"[0-9]{{2}}(?:{GAP}?[0-9]){{10}}", _is_inn),
    _rule("inn", rf"[0-9]{{2}}(?:{GAP}?[0-9]){{8}}", _is_inn),
    _rule("phone", rf"(?:\+\s?7|[78])(?:{WITHIN}[0-9]){{10}}", _is_phone),
    _rule("phone", rf"\+\s?[1-9](?:{WITHIN}[0-9]){{8,14}}", _is_foreign_phone),
    _rule("phone", rf"\(?[3-9][0-9]{{2}}\)?{GAP}{{0,2}}[0-9]{{3}}(?:{GAP}?[0-9]{{2}}){{2}}", _is_short_phone),
    _rule("phone", rf"\([3-9][0-9]{{3}}\){GAP}{{0,2}}[0-9]{{2}}(?:{GAP}?[0-9]{{2}}){{2}}", _is_short_phone),
    _rule("phone", rf"[0-9]{{2,3}}(?:{DASH}[0-9]{{2}}){{2}}", _is_local_phone),
    _rule("passport", rf"[0-9]{{2}}{GAP}?[0-9]{{2}}(?:{GAP}{{0,2}}|{SIGN})[0-9]{{6}}", _is_passport),
    _rule("passport", rf"[0-9]{{2}}(?:{SPACE}?|{SIGN})[0-9]{{7}}", _is_foreign_passport),
    _rule("passport", f"[0-9]{{3}}{DASH}[0-9]{{3}}", _is_issuer),
    _rule("number", rf"[1-9][0-9]{{2}}(?:{GAP}{{0,2}}[0-9]){{13}}", _is_unchecked_card),
    _rule("number", rf"[0-9]{{3}}(?:{GAP}?[0-9]{{3}}){{2}}{GAP}{{0,2}}[0-9]{{2}}", _is_named("snils")),
    _rule("number", "(?:[0-9]{13}|[0-9]{15})", _is_named("ogrn")),
    _rule("number", rf"[0-9]{{2}}(?:{GAP}?[0-9]){{10}}", _is_named("inn")),
    _rule("number", rf"[0-9]{{2}}(?:{GAP}?[0-9]){{8}}", _is_named("inn")),
]
"""Where several fit, the first in this list wins; but before it any whose kind the text names."""


def find_numbers(text: str) -> Iterator[tuple[int, int, int, str]]:
    """(rank, start, end, kind) of every number; where two overlap, the lower rank is right."""
    for island in ISLAND.finditer(text):
        end = min(len(text), island.end() + 2)  # what may not follow a number is one or two characters
        for rank, rule in enumerate(RULES):
            position = island.start()
            while match := rule.pattern.search(text, position, end):
                position = match.start() + 1
                number = Number(text, match)
                if rule.accept(number):
                    position = match.end()
                    yield rank + len(RULES) * (number.label != rule.kind), *match.span(), rule.kind
