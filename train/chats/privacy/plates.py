"""Plates of cars; of other vehicles, in parts or in pieces only in a text about one."""

import re
from collections.abc import Iterator

from train.chats.privacy.patterns import Finding, any_case

PLATE_LETTER = "[АВЕКМНОРСТУХABEKMHOPCTYX]"
REGION = r"(?:[1279][0-9]{2}|0[1-9]|[1-9][0-9])"
REGION_WORD = r"(?:,?\s?рег(?:ион)?\.?)"
RUS = rf"(?:\s?(?:rus|рус)(?!\w)|{REGION_WORD}(?!\w))?"
PLATE = any_case(
    rf"(?<![\w-])(?P<value>(?P<first>{PLATE_LETTER})(?P<gap>\s?)[0-9]{{3}}\s?(?P<series>{PLATE_LETTER}{{2}}){REGION_WORD}?\s?[/|]?\s?{REGION}(?![\w-]){RUS})"
)
IN_PARTS = any_case(
    rf"(?<![\w-])(?P<value>(?P<first>{PLATE_LETTER})[\s.-]{{0,2}}[0-9]{{3}}[\s.-]{{0,2}}(?P<series>{PLATE_LETTER}[\s.-]?{PLATE_LETTER})[\s.,/|-]{{0,3}}(?:рег(?:ион)?\.?\s)?{REGION}(?![\w-]){RUS})"
)
WITHOUT_REGION = any_case(
    r"(?<![\w-])(?P<value>(?P<first>[авекмнорстух])[0-9]{3}(?P<series>[авекмнорстух]{2}))(?![\w-])"
)
MEASURES = ("км", "см", "мм", "ам", "ем", "кв", "вт", "ма", "мв")
LITTLE_WORDS = (
    "но",
    "ну",
    "он",
    "ах",
    "ух",
    "ох",
    "ем",
    "от",
    "во",
    "со",
    "ко",
    "то",
    "та",
    "те",
    "на",
    "не",
    "ни",
    "мы",
    "ам",
)
OTHER_PLATES = any_case(
    rf"(?<![\w-])(?P<value>(?:[0-9]{{4}}\s?(?P<series>{PLATE_LETTER}{{2}})\s?[/|]?\s?{REGION}|{PLATE_LETTER}{{2}}\s?[0-9]{{3,4}}\s?[/|]?\s?{REGION}|"
    rf"{PLATE_LETTER}[0-9]{{3}}{PLATE_LETTER}{{2}}|{PLATE_LETTER}\s[0-9]{{3}}\s(?P<last>{PLATE_LETTER}{{2}})|{PLATE_LETTER}-[0-9]{{3}}-{PLATE_LETTER}{{2}}|"
    rf"[0-9]{{3}}\s?{PLATE_LETTER}{{2}}(?:,?\s?регион|,?\sрег\.?)\s?{REGION}|[0-9]{{3}}\s?[A-Z]{{2,3}}\s?(?:0[1-9]|1[0-9]|20)|[A-ZАВЕКМНОРСТІХ]{{2}}\s?[0-9]{{4}}\s?[A-ZАВЕКМНОРСТІХ]{{2}}|"
    rf"[0-9]{{4}}\s?[A-ZАВЕІКМНОРСТХ]{{2}}\s?-\s?[1-7])(?![\w-]){RUS})"
)
"""Plates of motorcycles, trailers and taxis, without their region, of neighbours: only in a text about a vehicle."""
MAKES = (
    r"бмв|bmw|мерс|mercedes|ауди|audi|тойот|toyota|камри|королл|рав\s?4|киа|(?<!\w)kia|(?<!\w)рио(?!\w)|солярис|solaris|х[еуэ]нд[аэе]|hyundai|крет[аеуы]|"
    r"элантр|(?<!\w)лад[аеуы](?!\w)|lada|вест[аеуы](?!\w)|грант[аеуы](?!\w)|приор[аеуы]|калин[аеуы](?!\w)|нив[аеуы](?!\w)|ларгус|(?<!\w)ваз|логан|logan|дастер|duster|"
    r"рено|renault|(?<!\w)поло(?!\w)|шкод|skoda|октави|рапид|фольк|volkswagen|пассат|тигуан|гетц|мазд|mazda|нис+ан|nissan|кашкай|хонд|honda|лексус|"
    r"lexus|крузак|прадо|форд|ford|фокус|опел|opel|шевроле|chevrolet|нексия|матиз|дэу|ситро[еи]н|пежо|субар|мицубис|лансер|аутлендер|вольво|volvo|"
    r"чери|chery|хавал|haval|джили|geely|омод|уаз|девятк|четырк|седан|х[эе]тч|универсал|джип|кроссовер|внедорож|минивэн|микроавтобус|фур[аеуы](?!\w)|тойотк"
)
VEHICLE = any_case(
    r"гос\.?\s?номер|(?<!\w)номер\w{0,3}(?!\w)(?!\s(?:рейс|заказ|дом|кварт|поезд|вагон))|машин|(?<!\w)авто(?!\w)|автомоб|тачк|такс[иу]|такс(?!\w)|мото|мотик|мотоц|моцик|скутер|"
    r"мопед|байк|прицеп|пропуск|парк(?:ов|ан)|водител|газел|(?<!\w)г/н|(?<!\w)гос(?!\w)|бампер|поцарап|подрез|эвакуатор|(?<!\w)дтп|(?<!\w)гаи(?!\w)|гибдд|штраф|"
    rf"каршеринг|стоянк|за\sрулём|за\sрулем|подъе(?:хал|де)|белорус|украинск|казах|{MAKES}"
)


def is_plate(match: re.Match[str]) -> bool:
    """Whether it is no measure behind a preposition: `в 100 км 20`."""
    series = re.sub(r"[\s.-]", "", match["series"].lower())
    return not (match["first"] in "вскоу" and series in MEASURES and re.search(r"\s", match[0][:3]))


def find_plates(text: str) -> Iterator[Finding]:
    for match in PLATE.finditer(text):
        if is_plate(match):
            yield 0, *match.span(), "plate"
    for match in WITHOUT_REGION.finditer(text):
        if match["series"].lower() not in MEASURES:
            yield 1, *match.span(), "plate"
    others = [match for match in OTHER_PLATES.finditer(text) if _is_other_plate(match)]
    others += [match for match in IN_PARTS.finditer(text) if is_plate(match)]
    if others and VEHICLE.search(text):
        yield from ((1, *match.span(), "plate") for match in others)


def _is_other_plate(match: re.Match[str]) -> bool:
    series, last = (match["series"] or "").lower(), match["last"] or ""
    return series not in MEASURES and last.lower() not in MEASURES and last not in LITTLE_WORDS
