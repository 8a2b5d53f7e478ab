"""Plates of cars; of other vehicles only in a text about one."""

import re
from collections.abc import Iterator

from train.chats.privacy.patterns import Finding, any_case

PLATE_LETTER = "[АВЕКМНОРСТУХABEKMHOPCTYX]"
REGION = r"(?:[1279][0-9]{2}|0[1-9]|[1-9][0-9])"
RUS = r"(?:\s?(?:rus|рус)(?!\w))?"
PLATE = any_case(
    rf"(?<![\w-])(?P<value>(?P<first>{PLATE_LETTER})(?P<gap>\s?)[0-9]{{3}}\s?(?P<series>{PLATE_LETTER}{{2}})\s?[/|]?\s?{REGION}(?![\w-]){RUS})"
)
OTHER_PLATES = any_case(
    rf"(?<![\w-])(?P<value>(?:[0-9]{{4}}\s?(?P<series>{PLATE_LETTER}{{2}})\s?[/|]?\s?{REGION}|{PLATE_LETTER}{{2}}\s?[0-9]{{3,4}}\s?[/|]?\s?{REGION}|"
    rf"{PLATE_LETTER}[0-9]{{3}}{PLATE_LETTER}{{2}}|{PLATE_LETTER}\s[0-9]{{3}}\s{PLATE_LETTER}{{2}}|"
    rf"[0-9]{{3}}\s?[A-Z]{{2,3}}\s?(?:0[1-9]|1[0-9]|20)|[A-ZАВЕКМНОРСТІХ]{{2}}\s?[0-9]{{4}}\s?[A-ZАВЕКМНОРСТІХ]{{2}}|"
    rf"[0-9]{{4}}\s?[A-ZАВЕІКМНОРСТХ]{{2}}\s?-\s?[1-7])(?![\w-]){RUS})"
)
"""Plates of motorcycles, trailers and taxis, without their region, of neighbours: only in a text about a vehicle."""
VEHICLE = any_case(
    r"гос\.?\s?номер|(?<!\w)номер\w{0,3}(?!\w)(?!\s(?:рейс|заказ|дом|кварт|поезд|вагон))|машин|(?<!\w)авто(?!\w)|тачк|такс|мото|скутер|"
    r"мопед|байк|прицеп|пропуск|парк(?:ов|ан)|водител|газел|(?<!\w)г/н"
)


def is_plate(match: re.Match[str]) -> bool:
    """Whether it is no measure behind a preposition: `в 100 км 20`."""
    measure = match["gap"] and match["first"] in "вскоу" and match["series"].lower() in ("км", "см", "мм")
    return not measure


def find_plates(text: str) -> Iterator[Finding]:
    for match in PLATE.finditer(text):
        if is_plate(match):
            yield 0, *match.span(), "plate"
    if VEHICLE.search(text):
        for match in OTHER_PLATES.finditer(text):
            if (match["series"] or "").lower() not in ("км", "см", "ам", "ем"):
                yield 1, *match.span(), "plate"
