"""Where somebody is: co-ordinates and IP addresses."""

import re
from collections.abc import Iterator

from train.chats.privacy.patterns import Finding, any_case

DEGREES = r"-?[0-9]{1,3}\.[0-9]{4,}"
COMMA_DEGREES = r"-?[0-9]{2,3},[0-9]{4,}"
SIDE = r"\s?°?\s?(?:[NSEWСЮЗВ]|с\.?\s?ш\.?|ю\.?\s?ш\.?|в\.?\s?д\.?|з\.?\s?д\.?)?"
PLACES = [
    re.compile(
        rf"(?<![\w.,-])(?:[NS]\s?)?(?P<lat>{DEGREES}){SIDE}\s?[,;/|]?\s{{0,2}}(?:[EW]\s?)?(?P<lon>{DEGREES}){SIDE}(?![\w.]*[0-9])"
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
        r"(?<!\w)(?:координат\w*|коорд\w?|геопозици\w|гео(?:метк\w|точк\w)|геолокаци\w|локаци\w|навигатор\w?|gps)(?!\w)[^0-9\n]{0,20}"
        r"(?P<lat>-?[0-9]{1,2}[.,][0-9]{2,})°?\s?[,;/|]?\s{0,2}(?P<lon>-?[0-9]{1,3}[.,][0-9]{2,})"
    ),
]
ARC = r"[0-9]{1,3}°\s?[0-9]{1,2}(?:[.,][0-9]+)?['′’]\s?(?:[0-9]{1,2}(?:[.,][0-9]+)?(?:[\"″”]|'')?)?\s?"
ARCS = any_case(rf"(?<!\w)(?:[NSСЮ]\s?{ARC}[\s,;]{{0,3}}[EWВЗ]\s?{ARC}|{ARC}[NSСЮ]?[\s.,сш]{{0,6}}{ARC}[EWВЗ]?)")
OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
IP = re.compile(rf"(?<![\w.:-])(?P<ip>(?:{OCTET}\.){{3}}{OCTET})(?::[0-9]{{2,5}})?(?![\w.-]*[0-9])")
IP6 = any_case(
    r"(?<![\w:.])(?=[0-9a-f:]*[0-9a-f]{3})(?:(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|(?:[0-9a-f]{1,4}:){1,6}:(?:[0-9a-f]{1,4}:){0,5}[0-9a-f]{1,4})(?![\w:])"
)
NO_IP = any_case(r"(?:верси|python|питон|пункт|п\.|обнов|гост|раздел|глав|v\.?)\w*[\s№:]*(?:до\s)?$")
IP_WORD = any_case(r"(?<!\w)(?:ip|айпи\w{0,3}|сервер\w{0,2}|сервак\w{0,2}|хост\w{0,2}|vpn)(?!\w)")


def find_positions(text: str) -> Iterator[Finding]:
    for pattern in PLACES if "." in text or "," in text else ():
        for match in pattern.finditer(text):
            latitude, longitude = (abs(float(match[name].replace(",", "."))) for name in ("lat", "lon"))
            if min(latitude, longitude) <= 90 and max(latitude, longitude) <= 180:
                yield 0, *match.span(), "place"
    for match in IP.finditer(text) if text.count(".") >= 3 else ():
        high = any(int(octet) >= 64 for octet in match["ip"].split("."))
        named = IP_WORD.search(text[max(0, match.start() - 24) : match.start()])
        if (high or named) and not NO_IP.search(text[max(0, match.start() - 24) : match.start()]):
            yield 0, *match.span(), "ip"
