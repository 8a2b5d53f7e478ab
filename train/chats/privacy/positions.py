"""Where somebody is: co-ordinates and IP addresses."""

import re
from collections.abc import Iterator

from train.chats.privacy.patterns import Finding, any_case

PLACE_WORD = (
    r"(?:координат\w*|коорд\w*|геопозици\w|гео(?:метк\w|точк\w|данн\w+)?|geo|геолокаци\w|локаци\w|навигатор\w?|навик\w?|gps|жпс|метк\w|точк\w|пин|"
    r"широт\w|долгот\w|место|мест[ае]|дач\w|лагер\w|стоянк\w|палатк\w|пляж\w?|парковк\w|клад\w?|встреч\w+|встретимся|едь|езжай|тут|здесь|кинул\w?|ll)"
)
DEGREES = r"-?[0-9]{1,3}\.[0-9]{4,}"
COMMA_DEGREES = r"-?[0-9]{2,3},[0-9]{4,}"
SIDE = r"\s?°?\s?(?:[NSEWСЮЗВ]|с\.?\s?ш\.?|ю\.?\s?ш\.?|в\.?\s?д\.?|з\.?\s?д\.?)?"
PLACES = [
    re.compile(
        rf"(?<![\w.,-])(?:[NS]\s?)?(?P<lat>{DEGREES}){SIDE}\s?(?:[,;/|]|%2[Cc])?\s{{0,2}}(?:[EW]\s?)?(?P<lon>{DEGREES}){SIDE}(?![\w.]*[0-9])"
    ),
    re.compile(
        rf"(?<![\w.,-])(?P<lat>{COMMA_DEGREES}){SIDE}(?:\s?[;/|]\s?|,?\s{{1,2}})(?P<lon>{COMMA_DEGREES}){SIDE}(?![\w.]*[0-9])"
    ),
    any_case(
        r"(?<!\w)(?:ш(?:ир(?:ота)?\.?)?|lat(?:itude)?)\W{0,3}(?P<lat>-?[0-9]{1,2}[.,][0-9]{3,})\W{1,3}"
        r"(?:д(?:олг(?:ота)?\.?)?|lo?ng?(?:itude)?)\W{0,3}(?P<lon>-?[0-9]{1,3}[.,][0-9]{3,})"
    ),
    any_case(
        r"(?<![\w.])(?P<lat>[0-9]{1,2}\.[0-9]{2,})\s?°?\s?(?:[сc]\.?\s?ш\.?|N)[\s,;]{0,3}"
        r"(?P<lon>[0-9]{1,3}\.[0-9]{2,})\s?°?\s?(?:в\.?\s?д|E)(?!\w)"
    ),
    any_case(
        r"(?<!\w)(?:координат\w*|коорд\w*|геопозици\w|гео(?:метк\w|точк\w|данн\w+)?|geo|геолокаци\w|локаци\w|навигатор\w?|gps|жпс)(?!\w)[^0-9\n]{0,24}"
        r"(?P<lat>-?[0-9]{1,2}[.,][0-9]{2,})°?\s?(?:[,;/|]|и(?=\s))?\s{0,2}(?P<lon>-?[0-9]{1,3}[.,][0-9]{2,})"
    ),
    any_case(
        r"(?<![\w.,-])(?P<lat>-?[0-9]{1,2}[.,][0-9]{2,})°?\s?(?:[,;/|]|и(?=\s))?\s{0,2}(?P<lon>-?[0-9]{1,3}[.,][0-9]{2,})(?![\w.,]*[0-9])"
        r"(?=\s?[(—–,-]?\s?(?:это\s|наши\s|мои\s)?(?:координат|коорд|гео(?:л|п|т|м)|gps))"
    ),
    any_case(
        r"(?<![\w.])(?:[NS]|с\.?\s?ш\.?)\s?(?P<lat>[0-9]{1,2}[.,][0-9]+)\s?°?[\s,;/]{0,3}(?:[EW]|в\.?\s?д\.?)\s?(?P<lon>[0-9]{1,3}[.,][0-9]+)(?!\w)"
    ),
    any_case(
        r"(?<![\w.])(?P<lat>[0-9]{1,2}[.,][0-9]+)\s?°?\s?(?:[NS]|с\.?\s?ш\.?)[\s,;/]{1,3}(?P<lon>[0-9]{1,3}[.,][0-9]+)\s?°?\s?(?:[EW]|в\.?\s?д\.?)(?!\w)"
    ),
]
NEAR_PLACE = re.compile(
    r"(?<![\w.,-])(?P<lat>[4-7][0-9][.,][0-9]{3})°?\s?[,;/|]?\s{0,2}(?P<lon>[0-9]{2,3}[.,][0-9]{3})(?![\w.,]*[0-9])"
)
PLACE_NEAR = any_case(rf"(?<!\w){PLACE_WORD}(?!\w)")
"""Of three decimals, as one could measure anything: in Russia and near it, in a text that speaks of a place."""
NO_PLACE = any_case(
    r"курс|доллар|евро|кг|грам|литр|тонн|цен[аы]|руб|верси|результ|секунд|коэф|балл|показан|сч[её]тчик|кубов|вес(?!\w)"
)
ARC = r"[0-9]{1,3}°\s?[0-9]{1,2}(?:[.,][0-9]+)?['′’]\s?(?:[0-9]{1,2}(?:[.,][0-9]+)?(?:[\"″”]|'')?)?\s?"
END = r"(?:[вз]\.?\s?д\.?|[EWВЗ](?!\w))?"
IN_WORDS = (
    r"[0-9]{1,3}\s?(?:градус\w{0,2}|°)\s(?:и\s)?[0-9]{1,2}(?:[.,][0-9]+)?\s?мин\w{0,4}"
    r"(?:\s[0-9]{1,2}(?:[.,][0-9]+)?\s?сек\w{0,4})?"
)
ARCS = [
    any_case(rf"(?<!\w)(?:[NSСЮ]\s?{ARC}[\s,;]{{0,3}}[EWВЗ]\s?{ARC}|{ARC}[NSСЮ]?[\s.,сш]{{0,7}}{ARC}{END})"),
    any_case(
        rf"(?<!\w){IN_WORDS}\s(?:северн\w+|южн\w+|с\.?\s?ш\.?)(?:\sшироты)?[\s,и]{{1,4}}{IN_WORDS}\s(?:восточн\w+|западн\w+|[вз]\.?\s?д\.?)(?:\sдолготы)?"
    ),
]
OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
IP = re.compile(rf"(?<![\w.:-])(?P<ip>(?:{OCTET}\.){{3}}{OCTET})(?::[0-9]{{2,5}})?(?![\w.-]*[0-9])")
IP6 = any_case(
    r"(?<![\w:.])(?=[0-9a-f:]*[0-9a-f]{3})(?:(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|(?:[0-9a-f]{1,4}:){1,6}:(?:[0-9a-f]{1,4}:){0,5}[0-9a-f]{1,4})(?![\w:])"
)
SPOKEN_IP = any_case(
    rf"(?<!\w)(?:ip|айпи\w{{0,4}}|адрес)\W{{1,3}}(?:такой\W{{1,2}}|мой\W{{1,2}})?(?P<value>{OCTET}(?:(?:[\s.,]|\sточка\s){OCTET}){{3}})(?![\w-]|[.,][0-9]|\s[0-9])"
)
SPACED_IP = re.compile(
    rf"(?<![\w.,-])(?<![.,]\s)(?P<ip>{OCTET}(?:\s\.\s?{OCTET}(?![0-9])){{3}})(?![\w-]|\s?[.,]\s?[0-9])"
)
LOOPBACK = re.compile(r"(?:127|0)\.")
PRIVATE = re.compile(r"(?:10|192\.168|169\.254|172\.(?:1[6-9]|2[0-9]|3[01]))\.")
POINTED_AT = any_case(r"(?:(?<!\w)(?:ip|айпи\w{0,4}|адрес\w{0,2}|на|по)\W{1,3}(?:\w{1,20}\W{1,3}){0,2}|@|//)$")
"""Before an address of a home network that somebody gives: alone it is the same in every home."""
MAC = any_case(r"(?<![\w:-])(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}(?![\w:-])")
NO_IP = any_case(r"(?:верси|python|питон|пункт|п\.|обнов|гост|раздел|глав|v\.?)\w*[\s№:]*(?:до\s)?$")
IP_WORD = any_case(
    r"(?<!\w)(?:ip|айпи\w{0,4}|серв(?:ер|ак)?\w{0,2}|хост\w{0,2}|vpn|впн|принтер\w?|роутер\w{0,2}|камер\w|шлюз\w?|ping|пинг\w{0,4}|ssh|rdp|nas|нас|"
    r"dns|днс|локалк\w|сет[ьи]|порт|прокси|proxy|тачк\w|машин\w|комп\w{0,2}|нод\w|кластер\w?|gateway|host)(?!\w)"
)


FRACTION = re.compile("[0-9][.,][0-9]")


def find_positions(text: str) -> Iterator[Finding]:
    for pattern in PLACES if FRACTION.search(text) else ():
        for match in pattern.finditer(text):
            latitude, longitude = (abs(float(match[name].replace(",", "."))) for name in ("lat", "lon"))
            if min(latitude, longitude) <= 90 and max(latitude, longitude) <= 180:
                yield 0, *match.span(), "place"
    for match in NEAR_PLACE.finditer(text):
        near = text[max(0, match.start() - 40) : match.end() + 20]
        alone = match[0] == text.strip()
        if (alone or PLACE_NEAR.search(near)) and not NO_PLACE.search(near):
            yield 0, *match.span(), "place"
    for match in SPOKEN_IP.finditer(text):
        yield 0, *match.span("value"), "ip"
    yield from ((0, *match.span(), "ip") for match in MAC.finditer(text))
    if text.count(".") < 3:
        return
    for match in (match for pattern in (IP, SPACED_IP) for match in pattern.finditer(text)):
        high = any(int(octet) >= 64 for octet in match["ip"].split("."))
        named = IP_WORD.search(text[max(0, match.start() - 30) : match.end() + 20])
        before = text[max(0, match.start() - 40) : match.start()]
        everywhere = PRIVATE.match(match["ip"]) and not POINTED_AT.search(before)
        if LOOPBACK.match(match["ip"]) or everywhere or NO_IP.search(before[-24:]):
            continue
        if high or named:
            yield 0, *match.span(), "ip"
