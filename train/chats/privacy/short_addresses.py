"""Addresses as a taxi gets them: street, house and flat in figures, `ленина 15-42`."""

import re
from collections.abc import Iterator

from train.chats.privacy.addresses import PART
from train.chats.privacy.morphology import analyse, word_set
from train.chats.privacy.patterns import DIGIT, any_case

STREETS = word_set(
    """
    мира победы труда свободы революции дружбы космонавтов строителей металлургов октября мая молодёжи молодежи
    энтузиастов комсомола пионеров партизан авиаторов химиков энергетиков учителей ветеранов декабристов
    """
)
HOUSE_NO = r"(?P<house>[1-9][0-9]{0,2}[а-в]?(?:\s?[кс/]\s?[0-9]{1,2})?)"
HOUSE_AND_FLAT = any_case(
    rf"(?<![\w-])(?P<street>(?:8\sмарта|[19]\sмая|[0-9]{{2}}\sлет\s)?(?:(?<=8\sмарта)|(?<=\sмая)|[а-яё][а-яё-]{{3,30}})),?\s{HOUSE_NO}"
    r"(?:\s?[-–]\s?|,\s)(?P<flat>[1-9][0-9]{0,3})(?![\w-]|[:.,][0-9])"
    r"(?!\s?(?:мин|час|ч\b|км|руб|₽|%|лет|год|дн|раз|чел|шт|тыс|балл|стр|том(?!\w)|комнат|побед|парт|сет|ложк|стакан|недел|месяц|груп|класс|курс|смен|января|февраля|марта|апреля|мая|июн|июл|августа|сент|окт|нояб|дек))"
)
HOUSE_AND_PARTS = any_case(rf"(?<![\w-])(?P<street>[а-яё][а-яё-]{{3,30}}),?\s{HOUSE_NO}(?:[\s,;]{{1,3}}{PART}){{1,6}}")
PARTS = any_case(
    rf"(?<!\w)(?={PART}[^\n]{{0,40}}(?:подъезд|подьезд|этаж|домофон)|[^\n]{{0,40}}(?<!\w)кв(?!\w)){PART}(?:[\s,;]{{1,3}}{PART}){{1,6}}"
)
NO_STREETS = word_set(
    "первая вторая третья четвёртая четвертая пятая последняя следующая большая маленькая целая каждая такая какая"
)
SPORT = any_case(
    r"кубк|кубок|матч|сч[её]т\w?|сери[яию]|лиг[аеиу]|чемпионат|обыгра|выигра|проигра|уступи|сыграл|тайм|период|финал|клуб|турнир|гол[аы]?(?!\w)"
)


def find_short_addresses(text: str) -> Iterator[tuple[int, int]]:
    """Spans of addresses as a taxi gets them: street, house and flat in figures, `ленина 15-42`."""
    if not DIGIT.search(text):
        return
    spans: dict[int, int] = {}
    for match in HOUSE_AND_FLAT.finditer(text):
        near = text[max(0, match.start() - 30) : match.end() + 30]
        house = int(re.sub("[^0-9].*", "", match["house"]))
        holiday = match["street"][0].isdigit() and max(house, int(match["flat"])) < 32
        if not holiday and not SPORT.search(near) and _is_street(match["street"]):
            spans[match.start()] = match.end()
    lower = text.lower()
    if any(map(lower.__contains__, ("кв", "дъезд", "дьезд", "этаж", "домофон"))):
        for pattern in (HOUSE_AND_PARTS, PARTS):
            for match in pattern.finditer(text):
                if _is_street(match["street"]) if pattern is HOUSE_AND_PARTS else "кв" in match[0].lower():
                    spans[match.start()] = match.end()
    yield from spans.items()


def _is_street(word: str) -> bool:
    """Whether a street can be called so: a surname's genitive (`ленина`), an adjective (`садовая`), a known word."""
    cases = {"nomn", "accs", "loct"} if word[0].isupper() else {"nomn", "accs"}
    if word.lower() in NO_STREETS:
        return False
    return (
        word[0].isdigit()
        or word.lower() in STREETS
        or any(
            ("Surn" in parse.tag and parse.tag.case == "gent")
            or (
                parse.tag.POS == "ADJF" and parse.tag.gender == "femn" and parse.tag.case in cases and parse.score > 0.1
            )
            for parse in analyse(word)
        )
    )
