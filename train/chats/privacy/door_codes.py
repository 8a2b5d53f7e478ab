"""Codes that open a door: what a keypad, an intercom, a gate or a key box takes, near a word for one."""

import re
from collections.abc import Iterator

from train.chats.privacy.morphology import is_counted
from train.chats.privacy.patterns import NO_UNIT, Finding, any_case

BOX = r"(?:сейф|ключниц|(?:лок|кей|ки|лог|код)[\s-]?бокс|lock\s?box|key\s?box|бокс\w?\sс\sключ)"
DOOR = (
    r"(?:домофон|калитк|подъезд|подьезд|двер[ьие]|ворот|шлагбаум|парад(?:н|к|ух)|консьерж|тамбур|замк|замок|паркинг|лифт|вахт|"
    rf"чердак|подвал|кодов|в\sдом(?!\w)|во\sдвор|вход(?!ящ)|войти|зайти|{BOX})\w{{0,3}}"
)
KEY = r"(?:реш[её]т(?:к[ауи]|очк[ауи])|зв[её]зд(?:очк)?[ауи]|диез|х[еэ]штег|ключ(?:ик)?|вызов)"
"""A key of a keypad, told in words."""
KEYS_OF_A_DOOR = (
    r"(?:[#*][0-9]{1,4}[#*]|(?=(?:[#*]{0,2}[0-9]){3})(?=[#*]{0,2}[0-9]{0,5}[#*])[#*]{0,2}[0-9]{1,5}"
    r"(?:[#*][0-9]{1,5}){0,3}[#*]?)"
)
"""Digits with a hash or a star among them, as a keypad has them: `*28*4`."""
SIZE = r"[0-9]{2,4}\s?\*\s?(?:19|20|21)[0-9]{1,2}(?![0-9])"
"""Of a door, width and height: `80*200`."""
LETTER_AMONG = r"[0-9]{1,4}(?:\s?[кkвb#*]\s?[0-9]{3,5}|(?:[кkвb][0-9]{1,5}){1,3}[кkвb]?)|[0-9]{4,5}[кkвb]"
DOOR_CODE = rf"(?!{SIZE})(?:{KEYS_OF_A_DOOR}|{LETTER_AMONG}|[вbкk][0-9]{{3,6}}[#*]?)"
PRESS = (
    r"(?:наб[еи]р\w+|жм[иёу]\w*|нажм\w+|нажа\w+|нажима\w+|тыка\w+|тыкн\w+|ввод\w+|введ\w+|вбей\w{0,2}|вбива\w+|дав[иь]\w*|"
    r"открыва\w+(?:\s(?:на|по|с|через))?|комбинаци\w|код\w{0,2}|кодик\w{0,2}|ключ\w{0,2}|цифр[ыа]\w{0,2}|кнопк\w|кнопочк\w|клавиш\w|"
    r"пищи\w*|звон\w{1,4})"
)
NUMBER = r"(?<![\w#*])(?<![.,:-])"
DOOR_CODES = [
    any_case(rf"(?<!\w){DOOR}[^0-9\n]{{0,25}}?(?<![\w#*])(?P<value>{DOOR_CODE})(?![\w-])"),
    any_case(rf"(?<!\w){PRESS}[^0-9\n]{{0,20}}?(?<![\w#*])(?P<value>{DOOR_CODE})(?![\w-])"),
    any_case(rf"(?<![\w#*])(?P<value>{KEYS_OF_A_DOOR}|{LETTER_AMONG})(?=\s(?:это\s)?(?:на|от|в|у|для|код)\s?{DOOR})"),
    any_case(
        rf"(?<!\w)(?:{DOOR}[^0-9\n]{{0,14}}(?<!\w)код\w{{0,2}}|код\w{{0,2}}[^0-9\n]{{0,14}}{DOOR}|"
        r"набер\w+ в домофон\w*)(?!\w)"
        rf"[^0-9\n]{{0,24}}{NUMBER}(?P<value>[0-9]{{3,6}})(?![\w-]|[:.,][0-9]){NO_UNIT}"
    ),
    any_case(
        rf"(?<!\w)код\w{{0,2}}\s?(?:[:=—–-]|это|такой)?\s?{NUMBER}(?P<value>[0-9]{{3,6}})(?=,?\s(?:от|на|в|для|у)?\s?{DOOR})"
    ),
    any_case(
        rf"(?<!\w)(?:дверь|калитка|ворота|парадная|подъезд|домофон|замок|шлагбаум|тамбур|{BOX})\s?:\s?(?P<value>[0-9]{{3,6}})(?![\w-]){NO_UNIT}"
    ),
    any_case(r"(?<!\w)домофон\W{1,3}[0-9]{1,4}\W{1,3}(?:ключ|код|вызов|потом)\W{1,3}(?P<value>[0-9]{3,6})(?![\w-])"),
    any_case(rf"(?<!\w){PRESS}\s(?P<value>[кkвb]\s[0-9]{{3,5}})(?![\w-]|[:.,][0-9]){NO_UNIT}"),
]
TOGETHER = r"(?:одновременно|вместе|разом|сразу|в\sодин\sмомент)"
PRESSED_TOGETHER = any_case(
    rf"(?<!\w){PRESS}\s(?P<value>[0-9](?:(?:\s?[,+-]\s?|\s?и\s|\s)[0-9]){{1,4}}\s{TOGETHER})(?!\w)"
    rf"|(?<!\w)кноп\w+\s(?P<after>[0-9](?:(?:\s?[,+-]\s?|\s?и\s|\s)[0-9]){{1,4}})(?![\w-]|[:.,][0-9])(?=[^\n]{{0,20}}{TOGETHER})"
)
KEYPAD = any_case(r"(?<![\w-])(?P<value>[0-9]{1,3}[кkвb][0-9]{4})(?![\w-])")
PRESSED = any_case(
    rf"(?<!\w){PRESS}[^0-9\n]{{0,20}}(?<![\w.,-])(?P<value>[0-9]{{3,6}}|[0-9](?:(?:[\s,+-]{{1,2}}|\s?и\s)[0-9]){{2,5}})(?![\w-]|[:.,][0-9]){NO_UNIT}"
)
"""What is pressed or dialled, near a door."""
KEYS_TOGETHER = any_case(
    rf"(?<![\w.,-])(?P<value>[0-9](?:(?:\s?[,+-]\s?|\s?и\s|\s)[0-9]){{1,4}}\s(?:(?:надо|нужно|жми|нажать|нажми|зажми|зажать)\s)?{TOGETHER})"
    rf"|(?<!\w)(?:кнопк\w|зажм\w+|зажима\w+|зажать|жм[иёу]\w*|нажм\w+)\s{TOGETHER}?\s?(?P<after>[0-9]{{2,5}}|[0-9](?:(?:\s?[,+-]\s?|\s?и\s|\s)[0-9]){{1,4}})(?![\w-]|[:.,][0-9]){NO_UNIT}"
)
KEYS_IN_WORDS = any_case(
    rf"(?<![\w.,-])(?P<value>(?:{KEY}\s)?[0-9]{{1,6}}(?:,?\s(?:(?:и|потом|затем|далее|дальше)\s)?{KEY}(?:\s[0-9]{{1,6}})?){{1,2}}|{KEY}\s[0-9]{{2,6}})(?![\w-]|[:.,][0-9])"
)
"""`решётка 4021`, `45 ключ 1234`."""
DOOR_WITH_CODE = (
    rf"(?:калитк|ворот(?!ник)|шлагбаум|парад(?:н|к|ух)|тамбур|замок|замк[еау](?!\w)|домофон|чердак|подвал|{BOX}|кодов\w+\sпанел|"
    r"(?:в|на|от|у|к)\s(?:[а-яё]{2,12}\s)?(?:под[ъь]езд|двер|вход)|(?:перв|втор|трет|входн|внешн|наружн|внутренн|нижн|верхн)\w{1,4}\sдвер)\w{0,4}"
)
OF_IT = (
    r"(?:на|от|у|в|во|для|ко?|снт|кп|днп|код\w{0,2}|цифр\w|двор\w|дом\w?|перв\w{2,3}|втор\w{2,3}|трет\w{2,3}|нижн\w{2,3}|"
    r"верхн\w{2,3}|входн\w{2,3}|внешн\w{2,3}|задн\w{2,3}|главн\w{2,3}|это|вот|такой|там|нас|наш\w?|теперь|сейчас|новый|стоит|"
    r"калитк\w|ворот\w{0,2}|двер\w|дач\w|участк\w|пос[её]лк\w|с|ключ\w{0,3}|кодов\w{2,3}|зам(?:ок|ке|ка)|висит|вис)"
)
AT_A_DOOR = any_case(
    rf"(?<!\w)(?P<door>{DOOR_WITH_CODE})(?P<gap>(?:\W{{1,3}}{OF_IT}(?!\w)){{0,4}}(?P<other>(?:\W{{1,3}}[а-яё]{{2,12}}){{0,2}})\W{{1,3}}){NUMBER}(?P<value>[0-9]{{3,6}})(?![\w-]|[:.,][0-9]|\s?[хx*×№]){NO_UNIT}"
)
"""Beside a door and nothing but small words between."""
PRICE = any_case(
    r"(?<!\w)(?:стои\w*|цен\w|куп\w+|постав\w+|установ\w+|продам|продаё?т\w*|обош\w+|за|с|размер\w*|ширин\w|высот\w|\w*плат\w+|взнос\w*|долг\w?|абонент\w*|обслуж\w+|тариф\w?|квитанц\w*|кабинет\w?|этаж\w?|офис\w?|аудитор\w+|сек|вес\w*)(?!\w)"
)
INTERCOM = any_case(
    rf"(?<!\w)домофон\w{{0,2}}\s?[:—–-]?\s?(?:(?:кв\w{{0,6}}|{PRESS}|номер\w?)\W{{1,3}}){{0,2}}(?P<value>[0-9]{{2,3}})(?=\s?(?:[,.;)(!\n]|$|и\s|пото|я\s|жд|откр))"
    r"|(?<!\w)(?:наб[еи]р\w+|жм[иёу]\w*|нажм\w+|звони\w*|кв\w{0,6})\s(?:кв\w{0,6}\s)?(?P<before>[0-9]{2,3})\s(?:в|на|по)\sдомофон"
)
"""The flat that is called at a door."""
DOOR_NEAR = 60
PUBLIC_NUMBERS = ("101", "102", "103", "104", "112", "115", "122", "911")
"""Whom everybody calls: never personal, and a row that names them must keep them."""
DOOR_WORD = any_case(rf"(?<!\w){DOOR}")
KEY_WORD = any_case(KEY)
PRESS_WORD = any_case(rf"(?<!\w){PRESS}")


HINTS = (
    "домоф", "калит", "дъезд", "дьезд", "двер", "ворот", "шлагб", "парад", "тамбур", "замо", "замк", "лифт", "вход",
    "сейф", "бокс", "box",
    "код", "наб", "жм", "нажи", "ключ", "кноп", "комбинац", "двор", "консь", "вахт", "паркинг", "чердак", "подвал",
    "открыва", "тык", "введ",
)  # fmt: skip
"""One of them stands near every code but `38к0199`, which is looked for in all texts."""


def find_door_codes(text: str, lower: str) -> Iterator[Finding]:
    yield from ((2, *match.span("value"), "secret") for match in KEYPAD.finditer(text))
    if not any(map(lower.__contains__, HINTS)):
        return
    for pattern in DOOR_CODES:
        for match in pattern.finditer(text):
            if match["value"] not in PUBLIC_NUMBERS:
                yield 2, *match.span("value"), "secret"
    for match in PRESSED_TOGETHER.finditer(text):
        yield 2, *match.span("value" if match["value"] else "after"), "secret"
    for match in INTERCOM.finditer(text) if "домофон" in lower else ():
        name = "value" if match["value"] else "before"
        if match[name] not in PUBLIC_NUMBERS:
            yield 2, *match.span(name), "secret"
    door = DOOR_WORD.search(text)
    if not door and not PRESS_WORD.search(text):
        return
    for match in KEYS_IN_WORDS.finditer(text):
        near = _near(text, match)
        if (sum(map(str.isdigit, match[0])) > 2 or len(KEY_WORD.findall(match[0])) > 1) and (
            DOOR_WORD.search(near) or PRESS_WORD.search(near)
        ):
            yield 2, *match.span("value"), "secret"
    if not door:
        return
    for pattern in (PRESSED, KEYS_TOGETHER):
        for match in pattern.finditer(text):
            name = "value" if match["value"] else "after"
            if match[name] not in PUBLIC_NUMBERS and DOOR_WORD.search(_near(text, match)):
                yield 2, *match.span(name), "secret"
    for match in AT_A_DOOR.finditer(text):
        if match["value"] not in PUBLIC_NUMBERS and _is_code_at_a_door(match):
            yield 2, *match.span("value"), "secret"


def _near(text: str, match: re.Match[str]) -> str:
    return text[max(0, match.start() - DOOR_NEAR) : match.end() + DOOR_NEAR]


def _is_code_at_a_door(match: re.Match[str]) -> bool:
    """Whether a number beside a door is no price, year or count: `калитка 4500`, `в 2019`, `120 квартир`."""
    value, before = match["value"], match.string[max(0, match.start() - 30) : match.start("value")]
    year = re.fullmatch("(?:19|20)[0-9]{2}", value) and match["gap"].lower().endswith((" в ", " с "))
    told = re.search(
        r"(?<!\w)(?:на|от|у)\s(?:\w+\s)?$|теперь|код",
        match.string[max(0, match.start() - 12) : match.start()] + match["gap"],
        re.IGNORECASE,
    )
    price = (re.fullmatch("[1-9][0-9]{0,3}00", value) and not told) or PRICE.search(before)
    if match["other"] and (len(value) < 4 or re.fullmatch("(?:19|20)[0-9]{2}", value)):
        return False
    after = match.string[match.end("value") : match.end("value") + 24]
    return not year and (not price or "код" in match["gap"].lower()) and not is_counted(after)
