"""Finds postal addresses: a street and its house, with what follows (квартира) and stands before (индекс, город).

A street alone, a town alone and `5 этаж` are no addresses. A number without `д.` or `кв.` is a house only where no
unit, month, time or other noun follows it (`на проспекте Мира 12 минут`).
"""

import re
from collections.abc import Iterator

from train.chats.privacy.morphology import analyse, is_part_of_speech

UPPER, LETTER = "[А-ЯЁ]", "[А-Яа-яЁё]"
STREET = re.compile(
    r"(?<![\w-])(?:ул(?:иц[аеуы]|ицей)?|пр(?:осп(?:ект\w{0,2})?|-?к?т\w?|-д|оезд\w{0,2})?|пер(?:еул(?:ок|к\w{1,2}))?|"
    r"б(?:-р|ул(?:ьв(?:ар\w{0,2})?)?)|жк|ш(?:оссе)?|наб(?:ережн\w{2,3})?|пл(?:ощад\w{1,2})?|туп(?:ик\w{0,2})?|алле\w{1,2}|"
    r"мкр\w?|микрорайон\w{0,2}|кв-л|квартал\w{0,2}|снт|днп|тракт\w{0,2}|лини\w{1,2}|дер(?:евн\w{1,2})?|сел[оеау]|"
    r"пос(?:[её]л(?:ок|к\w{1,2}))?|станиц\w{1,2}|хутор\w?|[сдп](?=\.))(?![\w-])\.?",
    re.IGNORECASE,
)
PLAIN = re.compile(r"(?:ул|просп|пр-|пер(?:\.|еул)|б-р|бул|жк|наб\.|мкр|микрор|снт|днп)", re.IGNORECASE)
"""Markers that make a street of a name in lower case too; `ш`, `линия`, `площадь` … need a capital letter."""
VILLAGE = re.compile(r"(?:дер|сел|пос|станиц|хутор|[сдп]\.)", re.IGNORECASE)
"""Markers of a village or settlement: they need a capital letter, and `д.` before the number."""
NOT_IN_A_NAME = (
    r"(?!(?:в|на|и|а|но|не|с|со|у|к|до|от|по|за|из|о|об|же|бы|ли|есть|где|как|что|там|тут|уже|это|опять|снова|был[аио]?|"
    r"(?:пере|за|от)кры\w+|стоит|стоят|идёт|идет|всего|почти|около|теперь|больше|через|после|часов|ровно)(?!\w))"
)
STREET_WORD = rf"{NOT_IN_A_NAME}{LETTER}[\w.-]{{0,30}}"
STREET_NAME = (
    rf"(?:[0-9]{{1,2}}(?=,)|[«\"]?(?:[0-9]{{1,4}}(?:-?{LETTER}{{1,2}})?\s{{1,2}})?"
    rf"{STREET_WORD}(?:\s{{1,2}}{STREET_WORD}){{0,3}}?[»\"]?)"
)
HOUSE_NUMBER = (
    rf"[0-9]{{1,4}}(?![0-9])(?:{LETTER}(?![\w])|\s[АБВГД](?!\w))?(?:\s?[/–-]\s?[0-9]{{1,4}}(?![0-9]){LETTER}?(?!\w)){{0,2}}"
    r"(?:\s?(?:к|с|корп|стр)\.?\s?[0-9]{1,2}(?![0-9]))?(?![:.,][0-9]|[0-9])"
)
HOUSE_WORD = r"(?:(?:д(?:ом[аеу]?)?|вл(?:адение)?|уч(?:аст(?:ок|ке|ка))?|корпус)(?:\.\s?|\s{1,2}|(?=[0-9])))"
HOUSE = rf"(?:\s?,\s{{0,2}}|\s{{1,2}}|(?<=\.))(?P<marker>{HOUSE_WORD})?(?:№\s?)?(?P<house>{HOUSE_NUMBER})"
FLAT = r"(?:кв(?:артир[аеуы])?|оф(?:ис)?)(?:\.\s?|\s{0,2})№?\s?[0-9]{1,4}(?![0-9])"
PART = (
    rf"(?:{FLAT}|(?:к(?:орп(?:ус)?)?|стр(?:оение)?|лит(?:ера?)?|п(?:од(?:ъ|ь)?езд|од)?|эт(?:аж)?|домофон|комн(?:ата)?|"
    rf"пом(?:ещение)?|с)(?:\.\s?|(?<=[а-яё]{{3}})\s|(?<=эт)\s)№?\s?[0-9]{{1,4}}{LETTER}?(?!\w)|"
    r"[0-9]{1,2}(?:-?[а-я]{1,2})?\s(?:подъезд|этаж)(?!\w))"
)
TAIL = rf"(?:[\s,;]{{1,3}}{PART}){{0,6}}"
NOT_A_HOUSE = re.compile(
    r"\s{0,2}(?:мин(?!\w)|минут|час|сек|ч(?!\w)|км|м(?!\w)|мет(?:р|ро)|руб|р(?!\w)|₽|%|лет|год|дн[яеё]|день|дней|раз|человек|"
    r"квадрат|кв\.?\s?м|полос|машин|числ|январ|феврал|март|апрел|ма[йя](?!\w)|июн|июл|август|сентябр|октябр|ноябр|декабр|"
    r"дом(?:а|ов)(?!\w)|тыс|балл|остановк|секунд|недел|месяц|век|штук|шт(?!\w)|улиц)"
)
AFTER_STREET = re.compile(rf"\s{{0,2}}(?P<name>{STREET_NAME}){HOUSE}(?P<tail>{TAIL})", re.IGNORECASE)
AFTER_NAME = re.compile(rf"{HOUSE}(?P<tail>{TAIL})", re.IGNORECASE)
NAME_BEFORE = re.compile(
    rf"(?<!\w)(?:[0-9]{{1,3}}-?{LETTER}{{1,2}}\s)?(?:(?<=[йя]\s)|{LETTER}[\w-]{{2,30}}"
    r"(?:[ыио]й|[ао]я|ую|о[мйе]|[ео]е|ск\w{1,3})\s{1,2})$",
    re.IGNORECASE,
)
ANY_FLAT = re.compile(rf"(?<!\w){FLAT}(?P<tail>{TAIL})", re.IGNORECASE)
TWO_WORDS = r"(?:(?:мал|больш|стар|нов|верхн|нижн|средн|красн)(?:ая|ой|ую|яя|ей|юю)|[0-9]{1,2}-?(?:я|ая|й|ой|ую))"
"""What a street's name of two words begins with: `Малая Посадская`."""
BEFORE_FLAT = re.compile(
    rf"(?:(?<![\w-])(?:{TWO_WORDS}\s)?(?P<name>(?!(?:дом|корпус|участ|влад)){LETTER}[\w-]{{2,30}})\s?,?\s)?"
    rf"(?P<marker>(?<!\w){HOUSE_WORD})?(?<![\w.,-]){HOUSE_NUMBER}"
    r"(?:[\s,]{1,3}(?:к|корп(?:ус)?|стр(?:оение)?|лит(?:ера?)?|под(?:ъезд|ъ)?|эт(?:аж)?)\.?\s?[0-9]{1,3}[а-я]?){0,3}[\s,]{1,3}$",
    re.IGNORECASE,
)
PLACE_WORD = (
    r"(?:г(?:ор(?:од)?)?|с(?:ело)?|д(?:ер(?:евня)?)?|пос(?:[её]лок)?|п(?:гт)?|р\.?п|ст(?:-ца|аница)?|х(?:утор)?|обл|"
    r"респ(?:ублика)?)(?:\.\s?|\s)"
)
REGION_WORD = r"\s(?:обл(?:асть|асти)?|край|р-н|район|респ(?:ублика)?)(?![\w-])\.?"
PLACE_BEFORE = re.compile(
    rf"(?:(?<![\w-])(?P<word>{PLACE_WORD})?(?P<place>(?:(?:{UPPER}[\w-]{{1,30}}[еяй]|Санкт)\s)?{UPPER}[\w-]{{1,30}}|{LETTER}[\w-]{{2,30}})"
    rf"(?P<region>{REGION_WORD})?|(?<![\w-])[0-9]{{6}})\s?,?\s{{1,2}}$"
)
INDEX = re.compile(
    r"(?<!\w)индекс\w{0,2}\s?[:=—–-]?\s{0,2}(?P<index>[1-6][0-9]{5})(?!\w)"
    r"(?!\s{0,2}(?:у|по)?\s?(?:акци|бирж|пункт|товар))",
    re.IGNORECASE,
)


def find_addresses(text: str) -> Iterator[tuple[int, int]]:
    """Spans of addresses, each with its town and index; they may overlap."""
    if not re.search("[0-9]", text):
        return
    for match in STREET.finditer(text):
        span = _street_first(text, match) or _name_first(text, match)
        if span:
            yield _with_places(text, span[0]), span[1]
    for match in ANY_FLAT.finditer(text):
        window = text[max(0, match.start() - 60) : match.start()]
        house = BEFORE_FLAT.search(window)
        if house and (house["marker"] or _is_street_name(house["name"])):
            name = house.start() if _is_street_name(house["name"]) else house.start("marker")
            yield _with_places(text, match.start() - len(window) + name), match.end()
    for match in INDEX.finditer(text):
        yield match.span("index")


def _street_first(text: str, street: re.Match[str]) -> tuple[int, int] | None:
    """Span of an address whose street marker comes first: `ул. Ленина, д. 5`."""
    match = AFTER_STREET.match(text, street.end())
    if not match:
        return None
    capital = re.search(UPPER, match["name"])
    if VILLAGE.match(street[0]):
        sure = bool(match["marker"] and capital)
    else:
        named = capital or (PLAIN.match(street[0]) and _is_street_name(match["name"].split()[-1]))
        sure = bool(match["marker"] or match["tail"] or named)
    return (street.start(), match.end()) if sure and not _counts_things(text, match) else None


def _name_first(text: str, street: re.Match[str]) -> tuple[int, int] | None:
    """Span of an address whose street name comes first: `Невский пр., 88`."""
    match = AFTER_NAME.match(text, street.end())
    window = text[max(0, street.start() - 60) : street.start()]
    name = NAME_BEFORE.search(window) if match else None
    if not match or not name:
        return None
    sure = match["marker"] or match["tail"] or re.search(UPPER, name[0])
    if not sure or _counts_things(text, match):
        return None
    return street.start() - len(window) + name.start(), match.end()


def _counts_things(text: str, match: re.Match[str]) -> bool:
    """Whether the number counts something after it: `на проспекте Мира 12 минут`, `с улицы Ленина 2 автобуса`."""
    after = text[match.end() : match.end() + 24]
    if match["tail"]:
        return False
    if NOT_A_HOUSE.match(after.lower()):
        return True
    noun = re.match(r" ([а-яё]{3,})", after)
    bare_number = not match["marker"] and match["house"].isdigit()
    return noun is not None and bare_number and is_part_of_speech(noun[1], {"NOUN"})


def _is_street_name(word: str | None) -> bool:
    """Whether a street can have this name: capitalised, a person, a place, an adjective, a genitive (`победы`)."""
    if not word:
        return False
    if word[0].isupper() or any({"Surn", "Name", "Geox"} & parse.tag.grammemes for parse in analyse(word)):
        return True
    best = analyse(word)[0].tag
    return bool(best.POS == "ADJF" or (best.POS == "NOUN" and best.case == "gent"))


def _with_places(text: str, start: int) -> int:
    """Where the address begins: index, region and town before the street belong to it."""
    for _ in range(5):
        offset = max(0, start - 60)
        match = PLACE_BEFORE.search(text[offset:start])
        if not match:
            break
        if match["place"] and not match["region"] and not _is_place(match["word"] or "", match["place"]):
            break
        start = offset + match.start()
    return start


def _is_place(word: str, place: str) -> bool:
    """Whether it is a town: `г. Самара`, `Казань`; but not `с работы`, `с Машей`, `Привет`."""
    if place[0].isupper() and ("." in word or len(word) > 2 or word.lower() == "г "):
        return True
    if place.lower() in ("мск", "спб", "екб", "нск"):
        return True
    *first, last = place.split()
    town = any({"Geox", "nomn"} <= parse.tag.grammemes for parse in analyse(place) + analyse(last))
    return town and (not first or first[0] == "Санкт" or is_part_of_speech(first[0], {"ADJF"}))
