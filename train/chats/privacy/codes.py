"""Codes to sign in or to open a door: digits that a word near them makes a secret."""

import re
from collections.abc import Iterator

from train.chats.privacy.passwords import IS
from train.chats.privacy.patterns import NO_UNIT, Finding, any_case

DOOR = (
    r"(?:домофон|калитк|подъезд|подьезд|двер[ьие]|ворот|шлагбаум|парадн|консьерж|тамбур|замк|замок|паркинг|лифт|вахт|"
    r"в\sдом(?!\w)|во\sдвор|вход(?!ящ)|войти)\w{0,3}"
)
KEYS_OF_A_DOOR = r"(?=(?:[#*]?[0-9]){3})(?=[0-9]{0,5}[#*])[#*]?[0-9]{1,5}(?:[#*][0-9]{1,5}){0,3}[#*]?"
"""Digits with a hash or a star among them, as a keypad has them: `*28*4`."""
SIZE = r"[0-9]{2,4}\s?\*\s?(?:19|20|21)[0-9]{1,2}(?![0-9])"
"""Of a door, width and height: `80*200`."""
DOOR_CODE = rf"(?!{SIZE})(?:{KEYS_OF_A_DOOR}|[0-9]{{1,4}}\s?[кkвb#*]\s?[0-9]{{3,5}}|[вbкk][0-9]{{3,6}}[#*]?)"
PRESS = (
    r"(?:наб[еи]р\w+|жм[иёу]\w*|нажм\w+|нажа\w+|нажима\w+|тыка\w+|тыкн\w+|ввод\w+|введ\w+|вбей\w{0,2}|вбива\w+|дав[иь]\w*|"
    r"открыва\w+(?:\s(?:на|по|с|через))?|комбинаци\w|код\w{0,2}|кодик\w{0,2}|ключ\w{0,2}|цифр[ыа]\w{0,2}|кнопк\w)"
)
DOOR_CODES = [
    any_case(rf"(?<!\w){DOOR}[^0-9\n]{{0,25}}?(?<![\w#*])(?P<value>{DOOR_CODE})(?![\w-])"),
    any_case(rf"(?<!\w){PRESS}[^0-9\n]{{0,20}}?(?<![\w#*])(?P<value>{DOOR_CODE})(?![\w-])"),
    any_case(
        rf"(?<!\w)(?:{DOOR}[^0-9\n]{{0,12}}код\w{{0,2}}|код\w{{0,2}}[^0-9\n]{{0,12}}{DOOR}|набер\w+ в домофон\w*)"
        r"[^0-9\n]{0,8}(?P<value>[0-9]{3,6})(?![\w-])"
    ),
    any_case(rf"(?<!\w)код\w{{0,2}}{IS}(?P<value>[0-9]{{3,6}})(?=\s(?:от|на|в|для)?\s?{DOOR})"),
    any_case(r"(?<![\w-])(?P<value>[0-9]{1,3}[кkвb][0-9]{4})(?![\w-])"),
    any_case(
        rf"(?<!\w)(?:дверь|калитка|ворота|парадная|подъезд|домофон|замок|шлагбаум|тамбур)\s?:\s?(?P<value>[0-9]{{3,6}})(?![\w-]){NO_UNIT}"
    ),
    any_case(r"(?<!\w)домофон\W{1,3}[0-9]{1,4}\W{1,3}(?:ключ|код|вызов|потом)\W{1,3}(?P<value>[0-9]{3,6})(?![\w-])"),
]
PRESSED = any_case(
    rf"(?<!\w){PRESS}[^0-9\n]{{0,20}}(?<![\w.,-])(?P<value>[0-9]{{3,6}}|[0-9](?:(?:[\s,+-]{{1,2}}|\s?и\s)[0-9]){{2,5}})(?![\w-]|[:.,][0-9]){NO_UNIT}"
)
"""What is pressed or dialled, near a door."""
INTERCOM = any_case(
    rf"(?<!\w)домофон\w{{0,2}}\s?[:—–-]?\s?(?:(?:кв\w{{0,6}}|{PRESS})\W{{1,3}})?(?P<value>[0-9]{{2,3}})(?=\s?(?:[,.;)(!\n]|$))"
    r"|(?<!\w)(?:наб[еи]р\w+|жм[иёу]\w*|нажм\w+|звони\w*)\s(?P<before>[0-9]{2,3})\s(?:в|на|по)\sдомофон"
)
"""The flat that is called at a door."""
DOOR_NEAR = 60
PUBLIC_NUMBERS = ("101", "102", "103", "104", "112", "115", "122", "911")
"""Whom everybody calls: never personal, and a row that names them must keep them."""
DOOR_WORD = any_case(rf"(?<!\w){DOOR}")
NO_CODE = (
    r"(?!\w?\w?\w?\s(?:товар|ошибк|город|стран|регион|дресс|подразд|окпд|оквэд|тн\s?вэд|категори|цвет|краск|операц|услуг|бюджет|"
    r"на\sревью|на\sгит|программ|направлен|специальност))"
)
NOT_ONE_TIME = any_case(
    r"ошиб|error|промо|скидк|купон|артикул|товар|домен|статус|http|строк|коммит|регион|сервис|дресс|подразд|оквэд|окпд|краск|"
    r"выдан|паспорт"
)
ONE_TIME = any_case(
    r"смс|sms|эсэмэс|подтвержд|(?<!\w)вход|войти|зайти|приш[её]?л|прислал|прилет|сообщ|телег|телеграм|госуслуг|"
    r"никому|ваш код|"
    r"прод[ие]кту|дикту|авториз|одноразов|двухфактор|2fa|otp|ватсап|вотсап|whatsapp|(?<!\w)вв[оё]д|введи|вбей|вбив|"
    r"аутентиф|верификац|сбер|тиньк|т-?банк|гугл|google|яндекс|вконтакте|(?<!\w)вк(?!\w)|авито|озон|пуш(?!к)"
)
CODE = (
    r"(?P<value>[0-9]{4,8}|[0-9]{3}[\s-][0-9]{3}|[0-9]{2}[\s-][0-9]{2}(?:[\s-][0-9]{2})?|[0-9](?:[\s-][0-9]){3,7})"
    rf"(?![\w-]|[:.,/][0-9]|\s[0-9]){NO_UNIT}"
)
CODE_WORD = rf"код(?:а|ом|у|ы|ик\w?|еш\w{{0,2}})?(?!\w){NO_CODE}"
SMS = r"(?:смс\w{0,4}|sms|эсэмэс\w*|пуш\w?|otp|2fa|аутентификатор\w?|двухфактор\w+|одноразов\w{2,3}(?:\s\w+)?)"
CAME = (
    r"(?:приш[её]?л[оаи]?|прислал[аи]?|прислали|прилетел[оа]?|приходит|упал[оа]?|скинул[аи]?|выслал[аи]?|отправил[аи]?)"
)
ENTER = (
    r"(?:вводи(?:те)?|введи(?:те)?|ввожу|ввёл|ввел[аи]?|вбей(?:те)?|вбивай(?:те)?|вбиваю|дикту[юй]\w{0,2}|"
    r"пиши|лови|держи)"
)
ONE_TIME_CODES = [
    any_case(rf"(?<!\w){CODE_WORD}[^0-9\n]{{0,28}}(?<![\w.-]){CODE}"),
    any_case(rf"(?<!\w){SMS}(?!\w)[^0-9\n]{{0,20}}(?<![\w.-]){CODE}"),
    any_case(rf"(?<!\w){ENTER}(?!\w)[^0-9\n]{{0,14}}(?<![\w.-]){CODE}"),
    any_case(
        rf"(?<![\w.,:+-]){CODE}(?=\W{{1,4}}(?:(?:это|вот|твой|мой|ваш|тебе|пришел|пришёл|тут|лови|держи)\s){{0,2}}"
        rf"(?:{CODE_WORD}|(?:из|с|в|по)\s{SMS}|{SMS}|никому|для\s(?:входа|подтвержд)|на\sвход))"
    ),
    any_case(rf"(?<!\w)(?:смс|sms|пришл[оа]|пришел|пришёл)(?!\w)[^0-9\n]{{0,12}}{CODE}(?=[^\n]{{0,25}}никому)"),
]
"""In a text that speaks of messages, of signing in or of confirming something."""
PLAIN_CODES = [
    any_case(
        rf"(?<!\w){CODE_WORD}\s?(?:[:=—–-]|это|такой|вот|твой|мой)?\s?(?<![\w.-])(?P<value>[0-9]{{4,8}}|[0-9]{{3}}[\s-][0-9]{{3}})"
        rf"(?![\w-]|[:.,/][0-9]|\s[0-9]){NO_UNIT}"
    ),
    any_case(
        rf"(?<!\w){CAME}(?!\w)[^0-9\n]{{0,14}}(?<![\w.-])(?P<value>[0-9]{{3}}-[0-9]{{3}}|[0-9]{{2}}-[0-9]{{2}}-[0-9]{{2}})(?![\w-])"
    ),
]
CAME_CODE = any_case(rf"(?<!\w){CAME}(?!\w)[^0-9\n]{{0,20}}(?<![\w.-]){CODE}")
CODE_NEAR = any_case(r"смс|sms|(?<!\w)код(?!екс)|(?<!\w)вход|подтвержд|вводи|введи|никому|авториз|госуслуг")
GOOGLE_CODE = re.compile(r"(?<![\w-])G-(?P<value>[0-9]{6})(?![\w-])")
CODE_WORDS = (
    "код", "никому", "смс", "sms", "эсэмэс", "вво", "введ", "ввел", "ввёл", "вбе", "вби", "дикту", "приш", "присл",
    "2fa", "прилет", "одноразов", "otp", "двухфактор", "аутентиф", "лови", "держи", "скинул", "выслал", "отправил",
    "пуш", "приход", "упал",
)  # fmt: skip


def find_codes(text: str, lower: str) -> Iterator[Finding]:
    """Codes to sign in or to open a door."""
    yield from ((0, *match.span("value"), "secret") for match in GOOGLE_CODE.finditer(text))
    for match in PRESSED.finditer(text) if DOOR_WORD.search(text) else ():
        near = text[max(0, match.start() - DOOR_NEAR) : match.end() + DOOR_NEAR]
        if match["value"] not in PUBLIC_NUMBERS and DOOR_WORD.search(near):
            yield 2, *match.span("value"), "secret"
    for match in INTERCOM.finditer(text) if "домофон" in lower else ():
        name = "value" if match["value"] else "before"
        if match[name] not in PUBLIC_NUMBERS:
            yield 2, *match.span(name), "secret"
    if not any(map(lower.__contains__, CODE_WORDS)) or NOT_ONE_TIME.search(text):
        return
    patterns = [
        *(ONE_TIME_CODES if ONE_TIME.search(text) else ()),
        *PLAIN_CODES,
        *([CAME_CODE] if CODE_NEAR.search(text) else ()),
    ]
    for pattern in patterns:
        yield from ((1, *match.span("value"), "secret") for match in pattern.finditer(text))
