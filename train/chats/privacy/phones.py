"""Phones without the form of one: ten bare digits, local ones, spelled or dictated ones."""

import re
from collections.abc import Iterator
from itertools import pairwise

from train.chats.privacy.id_numbers import inn_valid, snils_valid
from train.chats.privacy.patterns import DIGIT, NO_UNIT, Finding, any_case

PHONE_WORDS = {
    **dict.fromkeys(("ноль", "нуль"), "0"), "один": "1", "одна": "1", "два": "2", "две": "2", "три": "3", "четыре": "4",
    "пять": "5", "шесть": "6", "семь": "7", "восемь": "8", "девять": "9", "десять": "10", "одиннадцать": "11",
    "двенадцать": "12", "тринадцать": "13", "четырнадцать": "14", "пятнадцать": "15", "шестнадцать": "16",
    "семнадцать": "17", "восемнадцать": "18", "девятнадцать": "19", "двадцать": "20", "тридцать": "30", "сорок": "40",
    "пятьдесят": "50", "шестьдесят": "60", "семьдесят": "70", "восемьдесят": "80", "девяносто": "90", "сто": "100",
    "двести": "200", "триста": "300", "четыреста": "400", "пятьсот": "500", "шестьсот": "600", "семьсот": "700",
    "восемьсот": "800", "девятьсот": "900",
}  # fmt: skip
REPEATED = {"нол": "0", "нул": "0", "единиц": "1", "двойк": "2", "тройк": "3", "четв": "4", "пят": "5", "шест": "6",
            "сем": "7", "восьм": "8", "девят": "9"}  # fmt: skip
"""`три пятёрки`: how such a word begins → its digit."""
SPELLINGS = (
    ("ь", ""),
    ("дц", "ц"),
    ("цц", "ц"),
    ("ё", "е"),
    ("пиисят", "пятдесят"),
    ("шиисят", "шестдесят"),
    ("шесот", "шестсот"),
)
"""As they are typed in haste: `двацать`, `восемдесят`, `пиисят`."""
TYPED = [*PHONE_WORDS, "пиисят", "шиисят", "шесот"]
MISSPELT = [word.replace("ь", "ь?").replace("дц", "[дц]ц?") for word in sorted(TYPED, key=len, reverse=True)]
NUMBER_WORD = (
    rf"(?:{'|'.join(MISSPELT)}|(?:нол|нул)(?:я|ей|ика)|"
    r"единиц[аы]?|двойк[аи]|двоек|тройк[аи]|троек|"
    r"четв[её]рк[аи]|(?:пят|шест|сем|восьм|девят)[её]рк[аи])"
)
BETWEEN = r"[\s,.()–—-]{1,3}(?:(?:потом|затем|дальше|далее|и|код|снова|опять|ещё\sраз)\s)?"
DICTATED = any_case(rf"(?<!\w)(?:плюс\s)?{NUMBER_WORD}(?:{BETWEEN}{NUMBER_WORD}){{3,20}}(?!\w)")
MIXED = any_case(
    rf"(?<![\w-])\+?(?=[^\n]{{0,40}}[0-9])(?:{NUMBER_WORD}|[0-9]{{1,4}})(?:{BETWEEN}(?:{NUMBER_WORD}|[0-9]{{1,4}})){{3,10}}(?![\w-])"
)
"""A phone in words and digits."""
SPELLED = any_case(
    r"(?<![\w-])(?P<sign>\+\s?)?(?P<digits>[789](?:[\s._/-]{1,3}[0-9]{1,4}){3,10}|[78]9[0-9]?(?:[\s._/-]{1,3}[0-9]{1,4}){3,9})(?![\w-])(?!\s?(?:руб|₽|км|шт|лет|раз))"
)
NOT_A_PHONE = (
    r"заказ|трек|договор|заявк|товар|отправ|посылк|накладн|(?<!\w)чек|счет|счёт|брон|билет|(?<!\w)дела|инн|артик|штрих|код|просмотр|"
    r"инвойс|оплач|населен|подписч|сери[яию]|огрн|инвентар|расход|бюджет|тикет|обращени|ваучер|купон|модел|снилс|(?<!\w)(?:id|ид|айди|uid)(?!\w)|"
    r"лицев|чертеж|чертёж|серийн|imei|тираж|лот|участ|объявл|вакан|квитанц|полис"
)
OTHER_NUMBER = any_case(rf"(?:{NOT_A_PHONE}|квартир)[^0-9\n]{{0,24}}$")
OTHER_NEAR = any_case(rf"(?:{NOT_A_PHONE}|http|[=_{{}}<>\"])")
LONE = any_case(
    r"(?:(?<=^)|(?<=[\n(])|(?<=[а-яё,:;.)—–-]\s))(?<![0-9]\s)(?P<value>9[0-9]{9}|375(?:25|29|33|44)[0-9]{7}|380[3-9][0-9]{8}|99[68][0-9]{9})(?![\w-]|[:.,][0-9]|\s?[0-9])"
    + NO_UNIT
)
"""Beside no word at all; what else has ten digits and begins with a nine is told apart by the words near it."""
BARE = [
    any_case(
        r"(?<!\w)(?:номер\w{0,3}|сбп|перевод\w{0,2}|перев[её]д\w+|перевест\w*|переки[нд]\w+|ски[нд]\w+|заки[нд]\w+|ки[нд][ьуа]\w{0,3}|кинь\w{0,2}|"
        r"пополн\w+|симк\w{1,3}|набер\w*|наби[рв]\w+|(?:по|пере|до)?звон\w*|маякн\w+|звякн\w+|ватсап\w?|вотсап\w?|ватс?ап\w?|whats\s?app|"
        r"вайбер\w?|телег\w|тг|связ[иь]\w?|контакт\w*|пиши\w{0,2}|моб\w*|сотов\w+|тел\w*|тлф|смс\w*|сим\w?)(?!\w)[^0-9\n]{0,28}(?<![\w.,+-])"
        r"(?P<value>9[0-9]{9})(?![\w-])"
    ),
    any_case(
        r"(?<![\w.,+-])(?<![78]\s)(?P<value>9[0-9]{9})(?=\W{1,4}(?:(?:это|вот|мой|новый|наш|мамин|её|его|рабочий|личный)\s){0,3}"
        r"(?:номер|телефон|тел(?!\w)|моб|сотов|симк|мой|звон|пиши|набир|набер|ватсап|вотсап|вайбер|тг(?!\w)|телег|сбп|сбер|тиньк|альфа|втб|перевод|"
        r"мама|папа|муж|жена))"
    ),
]
LOCAL_NUMBER = r"[0-9](?:[\s-]{0,2}[0-9]){4,6}(?![\w-]|[:.,/][0-9]|\s?[0-9])"
LOCAL_PLACE = (
    r"(?:домашн\w{1,3}|городск\w{1,3}|стационарн\w{1,3}|факс\w?|рабоч\w{2,3}|диспетчер\w{0,5}|регистратур\w|вахт\w{0,5}|вахтёр\w?|"
    r"аварийк\w|аварийн\w+|при[её]мн\w{1,3}|деканат\w?|секретар\w{1,2}|консьерж\w{0,2}|справочн\w{1,3}|поликлиник\w|управл[яе]\w+|жэк\w?|"
    r"паспортн\w+\sстол\w?|бухгалтери\w|кадр\w{1,2}|офис\w?|аптек\w|учительск\w{2}|охран\w|такси|лифт[её]р\w?|стоматологи\w|военкомат\w?|"
    r"больниц\w|госпитал\w|роддом\w?|травмпункт\w?|скор\w{2,3}|ветеринар\w*|ветклиник\w|клиник\w|садик\w?|школ\w|гимнази\w|лице[йя]|"
    r"кружок|кружк\w|ремонт\w?|мастерск\w{2,3}|ателье|парикмахерск\w{2,3}|салон\w?|прачечн\w{2,3}|химчистк\w|магазин\w?|касс\w|ресепшен\w?|"
    r"ресепшн|гостиниц\w|отел\w|хостел\w?|вокзал\w?|автовокзал\w?|библиотек\w|доставк\w|пиццери\w|соцзащит\w|пенсионн\w{2,3}|налогов\w{2,3}|"
    r"полици\w|участков\w{2,3}|дежурн\w{2,3}|опек\w|администраци\w|ритуал\w*|сантехник\w?|электрик\w?|газовик\w{0,2}|горгаз\w?|водоканал\w?|тсж|ук|"
    r"общаг\w|общежити\w|запись|на\sдом|терапевт\w?|врач\w?|доктор\w?|стационар\w?|отделени\w|почт\w|детск\w{2}|взросл\w{2}|тренер\w?|"
    r"сторож\w?|морг|тепло\w*|свет\w?|газ\w?|интернат\w?|лаборатори\w|мфц|загс\w?|нотариус\w?|юрист\w?|автосервис\w?|шиномонтаж\w?)"
)
LOCAL_GAP = r"[^0-9\n]{0,24}?"
LOCALS = [
    any_case(
        r"(?<!\w)(?:тел(?:ефон\w{0,2})?\.?|телефончик|(?:по|до|пере)?звони(?:те|шь|л\w?|ть)?|звон\w{1,3}|звякни\w{0,2}|наб[еи]р\w{1,4}|"
        rf"номер(?!\s(?:{NOT_A_PHONE}|квартир|дома))(?:ок)?|{LOCAL_PLACE})(?!\w){LOCAL_GAP}(?<![\w.,+-])(?P<value>{LOCAL_NUMBER}){NO_UNIT}"
    ),
    any_case(
        rf"(?<!\w){LOCAL_PLACE}(?!\w)[^0-9\n]{{0,30}}?(?<![\w.,+-])(?P<value>[0-9]{{1,3}}-[0-9]{{2}}-[0-9]{{2}})(?![\w-]|[:.,/][0-9]|\s?[0-9]){NO_UNIT}"
    ),
    any_case(
        rf"(?<![\w.,+№)-])(?<![0-9)][\s-])(?P<value>[1-9][0-9]{{2}}-[0-9]{{2}}-[0-9]{{2}})(?![\w-]|[:.,/][0-9]|\s?[0-9]|\s?[xх×]){NO_UNIT}"
    ),
    any_case(
        rf"(?<![\w.,+-])(?<![0-9)][\s-])(?P<value>[0-9]{{1,3}}[\s-][0-9]{{2}}[\s-][0-9]{{2}})(?=\W{{1,4}}(?:(?:это|вот|наш|мой|там)\s){{0,2}}"
        rf"(?:номер|телефон|{LOCAL_PLACE}|звони))"
    ),
]
NOT_FOR_LOCAL = any_case(
    rf"(?<!\w)(?:за(?!\w)|стои\w*|цен\w|день|график|стаж|куп\w+|прода\w+|почти|около|минимум|счет|счёт|парти\w+|размер\w*|рост|модел\w|пропорци\w|объ[её]м\w*|параметр\w|квартир|{NOT_A_PHONE})"
)
SOLID_LABEL = any_case(rf"(?<!\w)(?:{LOCAL_PLACE}|тел|телефон\w?|(?:по)?звони\w*|наб[еи]р\w+)(?!\w)")
SPOKEN_LABEL = any_case(r"(?<!\w)(?:код|смс|sms|парол|пин|домофон|прод[ие]кт|дикт|эсэмэс|цифр|вв[оеё]д|вбей|вбив)")
LABEL_BEFORE = any_case(
    r"(?<!\w)(?:тел(?:ефон\w{0,4})?\.?|номер\w{0,2}|домашн\w+|городск\w+|(?:по|пере)?звони\w{0,2}|наб[еи]р\w+|личн\w{2,3}|рабоч\w{2,3}|мобильн\w{2,3}|сотов\w{2,3}|"
    r"запис\w+|пиши|контакт\w?)\W{1,3}(?:\w+\W{1,2}){0,3}$"
)


def _is_local(match: re.Match[str]) -> bool:
    """Whether it is a phone of five to seven digits and no price or count; one without gaps needs a plain label."""
    number, start = match["value"], match.start("value") - match.start()
    before = match[0][:start] or match.string[max(0, match.start() - 30) : match.start()]
    if NOT_FOR_LOCAL.search(before):
        return False
    groups = re.findall("[0-9]+", number)
    if len(groups) == 1:
        return SOLID_LABEL.match(match[0]) is not None and not number.endswith(("00", "90", "99"))
    in_digits = all(len(group) == 1 for group in groups)
    thousands = len(groups) == 2 and len(groups[1]) == 3 and "-" not in number
    return not thousands and (in_digits or "-" in number or len(groups) > 2)


def _is_spelled_phone(match: re.Match[str]) -> bool:
    """Whether the digits, apart by one or a few, are a phone and no count: `7 8 9 10 11 12 13`."""
    groups = re.findall("[0-9]+", match["digits"])
    digits = "".join(groups)
    if all(int(b) - int(a) in (1, -1) for a, b in pairwise(groups)):
        return False
    thousands = set(map(len, groups[1:])) == {3} or snils_valid(digits)
    if len(digits) == 11 and digits[0] in "78" and digits[1] in "93489" and not thousands:
        return bool(match["sign"]) or digits[1] == "9" or len(set(map(len, groups))) == 1
    return len(digits) == 10 and digits[0] == "9" and len(groups) == 10


DICTATED_WORDS = (
    "девят",
    "восем",
    "восьм",
    "семь",
    "семн",
    "семде",
    "пять",
    "пятн",
    "пятде",
    "пятсо",
    "нол",
    "нул",
    "пиис",
)
"""One of them every dictated number has."""


def find_dictated(text: str, lower: str) -> Iterator[Finding]:
    """Phones in words, ten digits or eleven; local ones of five to seven after a word that names them."""
    if not any(map(lower.__contains__, DICTATED_WORDS)):
        return
    for match in DICTATED.finditer(text):
        digits = _digits_of(re.findall(r"\w+", match[0].lower()))
        named = LABEL_BEFORE.search(text[max(0, match.start() - 40) : match.start()])
        national = len(digits) == 11 and digits[0] in "78" and digits[1] in "3489"
        miscounted = 10 <= len(digits) <= 13 and (digits[:2] in ("89", "79") or (named and digits[0] == "9"))
        local = named and 5 <= len(digits) <= 7 and not DIGIT.search(text[match.end() : match.end() + 3])
        if national or miscounted or local or (len(digits) == 10 and digits[0] in "3489"):
            yield 0, *match.span(), "phone"
        elif _is_spoken_code(text, match, digits):
            yield 1, *match.span(), "secret"
    for match in MIXED.finditer(text) if DIGIT.search(text) else ():
        words = re.findall(r"\w+", match[0].lower())
        digits = _digits_of(words)
        if 10 <= len(digits) <= 11 and digits[0] in "789" and not all(map(str.isdigit, words)):
            yield 1, *match.span(), "phone"


def _is_spoken_code(text: str, match: re.Match[str], digits: str) -> bool:
    """Whether it is a code that is told in words: four to eight digits beside `код`, `смс`, `пароль`, …"""
    if not 4 <= len(digits) <= 8 or match[0].count(" ") < 3:
        return False
    before, after = text[max(0, match.start() - 34) : match.start()], text[match.end() : match.end() + 24]
    return bool(SPOKEN_LABEL.search(before) or SPOKEN_LABEL.match(re.sub(r"^\W*(?:это|вот)?\s?", "", after)))


def _normal(word: str) -> str:
    for typed, plain in SPELLINGS:
        word = word.replace(typed, plain)
    return word


NORMAL_WORDS = {_normal(word): value for word, value in PHONE_WORDS.items()}


def _digits_of(words: list[str]) -> str:
    """The digits that the words dictate: `девятьсот три`, 903; `ноль один`, 01; `три пятёрки`, 555."""
    digits, room, last = "", 0, ""  # room: how many digits of the number just said the next word may still replace
    for word in words:
        value = NORMAL_WORDS.get(_normal(word))
        if word.isdigit():
            digits, room, last = digits + word, 0, ""
            continue
        if value is None:
            digit = next((d for start, d in REPEATED.items() if word.startswith(start)), "")
            if not digit:
                continue
            times = int(last) if last in ("2", "3", "4") else 1
            digits = (digits[:-1] if times > 1 else digits) + digit * times
            room, last = 0, ""
            continue
        if 0 < len(value) <= room and value.strip("0"):
            digits = digits[: -len(value)] + value
        else:
            digits += value
        room = len(value) - len(value.rstrip("0")) if value.strip("0") else 0
        room, last = (0 if value == "10" else room), value
    return digits


ANOTHER_LOCAL = re.compile(r"[^0-9\n]{1,25}(?<![\w.,+-])(?P<value>[0-9]{1,3}-[0-9]{2}-[0-9]{2})(?![\w-]|[:.,/][0-9])")
FIVE_DIGITS = re.compile(r"[0-9](?:[\s._/-]{0,3}[0-9]){4}")
TEN_DIGITS = re.compile("[0-9]{10}")


def find_phones(text: str) -> Iterator[Finding]:
    """Phones in figures."""
    if not FIVE_DIGITS.search(text):
        return
    for pattern in BARE if TEN_DIGITS.search(text) else ():
        for match in pattern.finditer(text):
            before = text[max(0, match.start("value") - 40) : match.start("value")]
            if not OTHER_NUMBER.search(before) and not inn_valid(match["value"]):  # `find_numbers` takes those
                yield 2, *match.span("value"), "phone"
    for pattern in LOCALS:
        for match in pattern.finditer(text):
            if _is_local(match):
                yield 2, *match.span("value"), "phone"
                if other := ANOTHER_LOCAL.match(text, match.end("value")):
                    yield 2, *other.span("value"), "phone"
    for match in LONE.finditer(text):
        near = text[max(0, match.start() - 40) : match.end() + 30]
        if (
            not OTHER_NEAR.search(near)
            and len(set(match["value"])) > 2
            and not inn_valid(match["value"])
            and not match["value"].endswith("0000")
        ):
            yield 3, *match.span("value"), "phone"
    for match in SPELLED.finditer(text):
        if _is_spelled_phone(match):
            yield 2, *match.span(), "phone"
