"""Finds what people type beside a word that names it: passwords, codes, cards, dates of birth, plates, dictated phones.

Most of these have no form of their own, so the word before or after decides: `код из смс 4829` is a secret, `код товара
4829` is none. What has a form that nothing else has (a wallet, a token, an IBAN, co-ordinates) needs no word.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from train.chats.privacy.morphology import analyse, word_set
from train.core.secrets import find_secrets

Finding = tuple[int, int, int, str]
"""(rank, start, end, kind), as other finders give it."""


def _any_case(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


TOKEN = r"(?=[^\s,;]{0,60}[0-9_])(?!802\.)[A-Za-zА-Яа-яЁё0-9_!#$%&*+.@^~-]{4,40}"
"""What a password looks like: no spaces, and a digit or a low line."""
WORDS_BETWEEN = r"(?:[\s(—–:=-]{1,3}(?:[а-яё]{1,14}|wi-?fi|[a-z]{3,8}(?=\s))){0,4}?"
IS = r"\s{0,2}(?:[:=—–-]|это|такой)?\s{0,2}"
PASSWORDS = [
    _any_case(
        rf"(?<!\w)(?:парол[ьяеюи]м?|пасс(?:ворд)?|password|passwd|pwd|pass|пин(?:-?\s?код\w{{0,2}})?){WORDS_BETWEEN}{IS}"
        rf"(?<![\w-])(?P<value>(?=[^\s,;]{{0,60}}(?:[^\W\d]|[0-9]{{4}})){TOKEN})(?!\s?(?:год|раз|руб|дн|мин))"
    ),
    _any_case(
        r"(?<!\w)(?:пароль|пасс|password|pass)\s?[:=]\s?(?P<value>(?=[^\s]{0,60}[A-Za-z])[A-Za-z0-9_!#$%&*+.@^~-]{5,40})"
    ),
    _any_case(
        rf"(?<!\w)(?:вай[\s-]?фа[йяе]\w?|wi-?fi|вифи|вафл[ия]|роутер\w{{0,2}}){WORDS_BETWEEN}{IS}(?<![\w-])"
        rf"(?P<value>(?=[^\s,;]{{6}})(?:(?=[^\s,;]{{0,60}}[^\W\d]){TOKEN}|[0-9]{{8,20}}))"
    ),
]
DOOR = r"(?:домофон|калитк|подъезд|двер[ьие]|ворот|шлагбаум)\w{0,3}"
DOOR_CODE = r"[0-9]{1,4}\s?[кkвb#*]\s?[0-9]{3,5}|[вbкk#][0-9]{3,5}|#?[0-9]{3,6}[*#]"
DOOR_CODES = [
    _any_case(rf"(?<!\w){DOOR}[^0-9\n]{{0,25}}?(?<![\w#])(?P<value>{DOOR_CODE})(?![\w-])"),
    _any_case(
        rf"(?<!\w)(?:{DOOR}[^0-9\n]{{0,12}}код\w{{0,2}}|код\w{{0,2}}[^0-9\n]{{0,12}}{DOOR}|набер\w+ в домофон\w*)"
        r"[^0-9\n]{0,8}(?P<value>[0-9]{3,6})(?![\w-])"
    ),
    _any_case(rf"(?<!\w)код\w{{0,2}}{IS}(?P<value>[0-9]{{3,6}})(?=\s(?:от|на|в|для)?\s?{DOOR})"),
    _any_case(r"(?<![\w-])(?P<value>[0-9]{1,3}[кk][0-9]{4})(?![\w-])"),
    _any_case(r"(?<!\w)домофон\W{1,3}[0-9]{1,4}\W{1,3}(?:ключ|код|вызов|потом)\W{1,3}(?P<value>[0-9]{3,6})(?![\w-])"),
]
ONE_TIME = _any_case(
    r"смс|sms|подтвержд|вход|приш[её]?л|прислал|сообщ|телеграм|банк|госуслуг|никому|ваш код|продикту|авториз"
)
CODE = r"(?P<value>[0-9]{4,8}|[0-9]{3}[\s-][0-9]{3}|[0-9]{2}-[0-9]{2}(?:-[0-9]{2})?)(?![\w-])(?!\s?(?:руб|₽|шт|год))"
ONE_TIME_CODES = [
    _any_case(
        rf"(?<!\w)код(?:а|ом|у|ы|ик)?(?!\w)(?!\s(?:товар|ошибк|город|стран|регион))[^0-9\n]{{0,28}}(?<![\w.-]){CODE}"
    ),
    _any_case(rf"(?<!\w)(?:смс|sms|пришл[оа]|пришел|пришёл)(?!\w)[^0-9\n]{{0,12}}{CODE}(?=[^\n]{{0,25}}никому)"),
]
MONTH = (
    r"(?:янв(?:аря)?|фев(?:раля)?|марта|апр(?:еля)?|мая|июня|июля|авг(?:уста)?|сент(?:ября)?|окт(?:ября)?|"
    r"ноя(?:бря)?|дек(?:абря)?)"
)
YEAR = r"(?:19[2-9][0-9]|20[0-9]{2})"
DATE = (
    rf"(?:[0-9]{{1,2}}[./-][0-9]{{1,2}}[./-](?:{YEAR}|[0-9]{{2}})|[0-9]{{1,2}}\s{MONTH}(?!\w)(?:\s{YEAR}(?:\sг(?:ода|\.))?)?"
    rf"|{YEAR})(?![\w/-])"
)
BORN = (
    r"(?<!\w)(?:(?:дат[аыуе]|день|дня|год|число)\s(?:(?:моего|его|её|ее)\s)?рожд\w{0,4}\.?|д\.?\s?р\.?|др|родил(?:ась|ся|ись)|"
    r"год(?:а|у)?\sрожд\w+)(?!\w)"
)
BIRTH_DATES = [
    _any_case(rf"{BORN}[^0-9\n]{{0,22}}(?<![\w.])(?P<value>{DATE})"),
    _any_case(rf"(?<![\w.])(?P<value>{DATE})\s?(?:г\.\s?р\.?|года\sрожд\w+|г\.\sрожд\w+)"),
]
PLATE_LETTER = "[АВЕКМНОРСТУХABEKMHOPCTYX]"
PLATE = _any_case(
    rf"(?<![\w-])(?P<value>(?P<first>{PLATE_LETTER})(?P<gap>\s?)[0-9]{{3}}\s?(?P<series>{PLATE_LETTER}{{2}})\s?"
    r"(?:[1279][0-9]{2}|0[1-9]|[1-9][0-9]))(?![\w-])"
)
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?:\s?[A-Z0-9]{4}){2,7}(?:\s?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
IBAN_LENGTHS = {
    "AE": 23, "AM": 28, "AT": 20, "AZ": 28, "BE": 16, "BG": 22, "BY": 28, "CH": 21, "CY": 28, "CZ": 24, "DE": 22,
    "EE": 20, "ES": 24, "FI": 18, "FR": 27, "GB": 22, "GE": 22, "GR": 27, "HU": 28, "IE": 22, "IL": 23, "IT": 27,
    "KZ": 20, "LT": 20, "LV": 21, "MD": 24, "ME": 22, "NL": 18, "PL": 28, "PT": 25, "RO": 24, "RS": 22, "SE": 24,
    "SI": 19, "SK": 24, "TR": 26, "UA": 29,
}  # fmt: skip
"""Country → characters of its account numbers (ISO 13616 registry)."""
BASE58 = "[1-9A-HJ-NP-Za-km-z]"
WALLET = re.compile(
    rf"(?<![\w/=-])(?:(?=\S{{0,100}}[a-z])(?=\S{{0,100}}[A-Z])(?=\S{{0,100}}[0-9])[13]{BASE58}{{25,34}}|(?:bc1|ltc1|tb1)[a-z0-9]{{25,87}}|0x[0-9a-fA-F]{{40}}|"
    rf"(?=\S{{0,100}}[a-z])(?=\S{{0,100}}[0-9])T{BASE58}{{33}}|(?=\S{{0,100}}[a-z])(?=\S{{0,100}}[A-Z])[EU]Q[A-Za-z0-9_-]{{46}}|4[0-9AB]{BASE58}{{93}})(?![\w-])"
)
TOKENS = re.compile(
    r"(?<![\w-])(?:[0-9]{8,10}:[A-Za-z0-9_-]{30,}|sk-[A-Za-z0-9_-]{20,}|vk1\.a\.[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|"
    r"hf_[A-Za-z0-9]{30,}|AIza[A-Za-z0-9_-]{30,})"
)
DEGREES = r"-?[0-9]{1,3}\.[0-9]{4,}"
PLACES = [
    re.compile(rf"(?<![\w.,-])(?:N\s?)?(?P<lat>{DEGREES})\s?[,;]?\s?(?:[EW]\s?)?(?P<lon>{DEGREES})(?![\w.]*[0-9])"),
    _any_case(
        r"(?<!\w)ш(?:ир(?:ота)?\.?)?\W{0,3}(?P<lat>[0-9]{1,2}\.[0-9]{3,})\W{1,3}д(?:олг(?:ота)?\.?)?\W{0,3}(?P<lon>[0-9]{1,3}\.[0-9]{3,})"
    ),
]
PLACES.append(
    _any_case(
        r"(?<![\w.])(?P<lat>[0-9]{1,2}\.[0-9]{3,})\s?°?\s?с\.?\s?ш\.?[\s,;]{0,3}"
        r"(?P<lon>[0-9]{1,3}\.[0-9]{3,})\s?°?\s?в\.?\s?д(?!\w)"
    )
)
ARC = r"[0-9]{1,3}°\s?[0-9]{1,2}['′’]\s?[0-9]{1,2}(?:[.,][0-9]+)?(?:[\"″”]|'')?\s?"
ARCS = _any_case(rf"(?<!\w){ARC}[NSСЮ][\s.,сш]{{0,6}}{ARC}[EWВЗ]")
OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
IP = re.compile(rf"(?<![\w.:-])(?P<ip>(?:{OCTET}\.){{3}}{OCTET})(?::[0-9]{{2,5}})?(?![\w.-]*[0-9])")
IP6 = _any_case(
    r"(?<![\w:.])(?=[0-9a-f:]*[0-9a-f]{3})(?:(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|(?:[0-9a-f]{1,4}:){1,6}:(?:[0-9a-f]{1,4}:){0,5}[0-9a-f]{1,4})(?![\w:])"
)
NO_IP = _any_case(r"(?:верси|python|питон|пункт|п\.|обнов|гост|раздел|глав|v\.?)\w*[\s№:]*(?:до\s)?$")
IP_WORD = _any_case(r"(?<!\w)(?:ip|айпи\w{0,3}|сервер\w{0,2}|сервак\w{0,2}|хост\w{0,2}|vpn)(?!\w)")
POLICY = _any_case(
    r"(?<!\w)(?:полис\w{0,2}|омс|енп)(?!\w)[^0-9\n]{0,30}(?P<value>[0-9]{4}(?:[\s-]?[0-9]{4}){3})(?![\w-])"
)
PAPERS = _any_case(
    r"(?<!\w)(?:ву|права|водительск\w{2,3}(?:\sудостоверени\w)?|стс|птс|кпп)\W{1,3}(?:номер\W{1,2})?"
    r"(?P<value>[0-9]{2}\s?[0-9а-яa-z]{2}\s?[0-9]{6}|[0-9]{9})(?![\w-])"
)
"""Driving licence, papers of a car, the tax code of a company's branch."""
NETWORK = (
    r"(?:телег[аеуи]|телеграмм?[аеу]?|тг|tg|telegram|инст[аеуы]|инстаграмм?[аеу]?|insta(?:gram)?|скайпе?|skype|вк|vk|вконтакте|"
    r"дискорде?|discord|тикток\w?|твиттер\w?|ник|юзернейм)"
)
NICKS = [
    _any_case(
        rf"(?<!\w){NETWORK}(?:\s(?:в|мой|моя|у меня|я|это)(?:\s{NETWORK})?)?(?:(?P<sign>\s?[:=—–-]\s?)|\s{{1,2}})"
        r"(?P<value>@?(?=[A-Za-z0-9_.]{4})_*[A-Za-z][A-Za-z0-9_.]*[A-Za-z0-9_])(?![\w@/]|\.[A-Za-z])"
    )
]
NO_NICK = _any_case(
    r"(?:bot|desktop|premium|stories|story|reels?|online|web|music|video|ads|live|direct|post|channel|shop)s?$"
)
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
NUMBER_WORD = (
    rf"(?:{'|'.join(sorted(PHONE_WORDS, key=len, reverse=True))}|(?:нол|нул)(?:я|ей|ика)|"
    r"единиц[аы]?|двойк[аи]|двоек|тройк[аи]|троек|"
    r"четв[её]рк[аи]|(?:пят|шест|сем|восьм|девят)[её]рк[аи])"
)
DICTATED = _any_case(rf"(?<!\w)(?:плюс\s)?{NUMBER_WORD}(?:[\s,.-]{{1,3}}{NUMBER_WORD}){{4,}}(?!\w)")
SPELLED = _any_case(
    r"(?<![\w-])(?P<sign>\+\s?)?(?P<digits>[789](?:[\s._/-]{1,2}[0-9]{1,4}){3,10})(?![\w-])(?!\s?(?:руб|₽|км|шт|лет|раз))"
)
BARE = _any_case(
    r"(?<!заказ )(?<!заявка )(?<!трек )(?<!\w)номер\w{0,2}"
    r"(?!\s(?:заказ|трек|договор|заявк|товар|отправ|посылк|накладн|чек|счет|счёт|брон|билет|дела))"
    r"(?:\s[а-яё]{2,14}){0,2}\s?[:=—–-]?\s?(?P<value>9[0-9]{9})(?![\w-])"
)
LOCAL = _any_case(
    r"(?<!\w)(?:тел(?:ефон\w{0,2})?\.?|домашн\w{1,3}|городск\w{1,3}|факс|(?:по)?звони(?:те|шь|л\w?)?|набер\w{1,3}|набир\w{2,4}|"
    r"номер(?!\s(?:заказ|трек|договор|заявк|дела|дома|квартир|чертеж))|рабочий|диспетчер\w{0,3}|регистратур\w)(?!\w)[^0-9\n]{0,24}"
    r"(?<![\w-])(?P<value>[0-9]{1,3}[\s-][0-9]{2}[\s-][0-9]{2})(?![\w-])(?!\s?(?:руб|₽|шт))"
)
PROVIDER = (
    r"(?:[a-z0-9-]{2,30}|яндекс|майл|мейл|мэйл|маил|гмейл|гмаил|джимейл|инбокс|рамблер|лист|бк|почта|аутлук|айклауд)"
)
DOT = r"(?:\s?\.\s?|\s?\(?(?:точка|dot)\)?\s?|\[(?:dot|точка)\])"
AT = r"(?:\s?@\s?|\s?[\[(]?\s?собак[аиу]\s?[\])]?\s?|\s?\(?собачк[аиу]\)?\s?|\s?[\[(](?:at|эт)[\])]\s?|\sat\s)"
SPOKEN_EMAIL = _any_case(
    rf"(?<![\w.-])\w[\w.+-]*(?:\s(?:тире|дефис|минус|точка|подч[её]ркивание|нижнее\sподч[её]ркивание)\s\w+){{0,3}}{AT}{PROVIDER}"
    rf"{DOT}(?:ru|ру|com|ком|net|нет|org|орг|ua|by|kz|me|рф|su)(?!\w)"
    rf"|(?<![\w.-])\w[\w.+-]*{AT}(?:mail|yandex|gmail|list|inbox|bk|rambler|яндекс|ме?[ий]л|мэйл|гмейл|джимейл|инбокс|рамблер)"
    r"\s(?:ru|ру|com|ком)(?!\w)"
)
STREETS = word_set(
    """
    мира победы труда свободы революции дружбы космонавтов строителей металлургов октября мая молодёжи молодежи
    энтузиастов комсомола пионеров партизан авиаторов химиков энергетиков учителей ветеранов декабристов
    """
)
HOUSE_AND_FLAT = _any_case(
    r"(?<![\w-])(?P<street>[а-яё][а-яё-]{3,30}),?\s(?P<house>[1-9][0-9]{0,2}[а-в]?(?:[кс/]\s?[0-9]{1,2})?)"
    r"(?:\s?[-–]\s?|,\s)(?P<flat>[1-9][0-9]{0,3})(?![\w-]|[:.,][0-9])"
    r"(?!\s?(?:мин|час|ч\b|км|руб|₽|%|лет|год|дн|раз|чел|шт|тыс|балл|января|февраля|марта|апреля|мая|июн|июл|августа|сент|окт|нояб|дек))"
)
EXPIRY = re.compile(
    r"(?<![\w/.])(?P<date>(?:0[1-9]|1[0-2])[/.](?:2[0-9]|3[0-9]))(?![\w/.]*[0-9])(?:[\s,;]{1,3}(?P<code>[0-9]{3})(?![\w-]))?"
)
NAMED_EXPIRY = _any_case(
    r"(?<!\w)(?:срок\s(?:действия|карты)|(?:действует|действительна|годна)\sдо)\W{1,3}"
    r"(?P<date>(?:0[1-9]|1[0-2])[/.][23][0-9])(?![\w/.]*[0-9])"
)
CARD_CODE = _any_case(
    r"(?<!\w)(?:(?:cvv2?|cvc2?|цвв|цвс|свв|свс)(?:\s?-?код)?|три\sцифры|код)\W{0,3}(?P<code>[0-9]{3})(?![\w-])"
)
CARD_WORD = _any_case(r"(?<!\w)(?:cvv|cvc|цвв|цвс|свв|свс|карт[аыуео])")
CARD_NUMBER = re.compile(r"(?<![0-9])[0-9]{4}(?:[\s-]?[0-9]{4}){3}(?![0-9])")


DIGIT = re.compile("[0-9]")
SECRET_RUN = re.compile("[A-Za-z0-9_.-]{16}")
SECRET_WORDS = ("://", "key", "token", "secret", "passw", "парол")
"""A run of such characters or one of the words is what no secret lacks: most of a chat is not searched for forms."""


def find_labelled(text: str) -> Iterator[Finding]:
    """Everything of these kinds; where two overlap, the lower rank is right."""
    lower = text.lower()
    if DIGIT.search(text):
        yield from _with_digits(text, lower)
    for word, patterns, kind in WITHOUT_DIGITS:
        if any(map(lower.__contains__, word)):
            for pattern in patterns:
                for match in pattern.finditer(text):
                    if kind == "nick" and not _is_nick(match):
                        continue
                    if kind != "email" or _is_spoken_email(match[0].lower()):
                        yield 0, *_value(match), kind
    if any(map(lower.__contains__, SECRET_WORDS)) or SECRET_RUN.search(text):
        yield from ((1, secret.start, secret.end, "secret") for secret in find_secrets(text))
    if lower.count(" ") >= 4:
        yield from _dictated(text, lower)


def find_short_addresses(text: str) -> Iterator[tuple[int, int]]:
    """Spans of addresses as a taxi gets them: street, house and flat in figures, `ленина 15-42`."""
    for match in HOUSE_AND_FLAT.finditer(text) if DIGIT.search(text) else ():
        if _is_street(match["street"]):
            yield match.span()


def _value(match: re.Match[str]) -> tuple[int, int]:
    """Where the match's value stands, without the full stop or mark behind it."""
    start, end = match.span("value" if "value" in match.re.groupindex else 0)
    return start, start + len(match.string[start:end].rstrip(".,?"))


def _with_digits(text: str, lower: str) -> Iterator[Finding]:
    for words, patterns, kind in WITH_DIGITS:
        if not words or any(map(lower.__contains__, words)):
            for pattern in patterns:
                yield from ((2, *_value(match), kind) for match in pattern.finditer(text))
    if "код" in lower or "никому" in lower:
        for pattern in ONE_TIME_CODES if ONE_TIME.search(text) else ():
            yield from ((1, *match.span("value"), "secret") for match in pattern.finditer(text))
    for match in IBAN.finditer(text):
        if _is_iban(re.sub(r"\s", "", match[0])):
            yield 0, *match.span(), "account"
    for match in PLATE.finditer(text):
        if _is_plate(match):
            yield 0, *match.span(), "plate"
    for pattern in PLACES if "." in text else ():
        for match in pattern.finditer(text):
            if abs(float(match["lat"])) <= 90 and abs(float(match["lon"])) <= 180:
                yield 0, *match.span(), "place"
    for match in IP.finditer(text) if text.count(".") >= 3 else ():
        high = any(int(octet) >= 64 for octet in match["ip"].split("."))
        named = IP_WORD.search(text[max(0, match.start() - 24) : match.start()])
        if (high or named) and not NO_IP.search(text[max(0, match.start() - 24) : match.start()]):
            yield 0, *match.span(), "ip"
    for match in SPELLED.finditer(text):
        if _is_spelled_phone(match):
            yield 2, *match.span(), "phone"
    if CARD_WORD.search(text) or "срок" in lower or "до " in lower or CARD_NUMBER.search(text):
        yield from _card_parts(text)


def _card_parts(text: str) -> Iterator[Finding]:
    """Expiry date and code of a card: both stand beside its number, or after words that name them."""
    has_number = CARD_NUMBER.search(text) is not None
    for match in EXPIRY.finditer(text) if has_number else ():
        yield 1, *match.span("date"), "secret"
        if match["code"]:
            yield 1, *match.span("code"), "secret"
    for match in NAMED_EXPIRY.finditer(text):
        yield 1, *match.span("date"), "secret"
    for match in CARD_CODE.finditer(text):
        if has_number or match[0][:3].lower() not in ("код",):
            yield 1, *match.span("code"), "secret"


def _is_iban(account: str) -> bool:
    """Whether it has its country's length, or the check digits of ISO 7064 (MOD 97-10) are right."""
    if IBAN_LENGTHS.get(account[:2]) == len(account):
        return True
    return int("".join(str(int(ch, 36)) for ch in account[4:] + account[:4])) % 97 == 1 and len(account) >= 15


def _is_plate(match: re.Match[str]) -> bool:
    """Whether it is no measure behind a preposition: `в 100 км 20`."""
    measure = match["gap"] and match["first"] in "вскоу" and match["series"].lower() in ("км", "см", "мм")
    return not measure


def _is_nick(match: re.Match[str]) -> bool:
    nick = match["value"]
    if NO_NICK.match(nick) or nick.lower() in ("http", "https", "www"):
        return False
    return bool(match["sign"] or nick.startswith("@") or re.search(r"[0-9_.]", nick))


def _is_spoken_email(address: str) -> bool:
    """Whether it is no talk of a dog: `наша собака mail.ru` has neither Latin letters before nor a `точка` after."""
    return not re.match("[а-яё]+ собак", address) or "точка" in address


def _is_spelled_phone(match: re.Match[str]) -> bool:
    """Whether the digits, apart by one or a few, are a phone and no count: `7 8 9 10 11 12 13`."""
    groups = re.findall("[0-9]+", match["digits"])
    digits = "".join(groups)
    if all(int(b) - int(a) in (1, -1) for a, b in pairwise(groups)):
        return False
    if len(digits) == 11 and digits[0] in "78" and digits[1] in "93489":
        return bool(match["sign"]) or digits[1] == "9" or len(set(map(len, groups))) == 1
    return len(digits) == 10 and digits[0] == "9" and len(groups) == 10


def _dictated(text: str, lower: str) -> Iterator[Finding]:
    """Phones in words, ten digits or eleven; local ones of five to seven after a word that names them."""
    if not any(map(lower.__contains__, ("пят", "вос", "сем", "девят", "нол"))):
        return
    for match in DICTATED.finditer(text):
        digits = _digits_of(re.findall(r"\w+", match[0].lower()))
        named = LABEL_BEFORE.search(text[max(0, match.start() - 24) : match.start()])
        national = len(digits) == 11 and digits[0] in "78" and digits[1] in "3489"
        if national or (len(digits) == 10 and digits[0] in "3489") or (named and 5 <= len(digits) <= 7):
            yield 0, *match.span(), "phone"


def _digits_of(words: list[str]) -> str:
    """The digits that the words dictate: `девятьсот три`, 903; `ноль один`, 01; `три пятёрки`, 555."""
    digits, room, last = "", 0, ""  # room: how many digits of the number just said the next word may still replace
    for word in words:
        value = PHONE_WORDS.get(word)
        if value is None:
            digit = next((d for start, d in REPEATED.items() if word.startswith(start)), "")
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


def _is_street(word: str) -> bool:
    """Whether a street can be called so: a surname's genitive (`ленина`), an adjective (`садовая`), a known word."""
    cases = {"nomn", "accs", "loct"} if word[0].isupper() else {"nomn", "accs"}
    return word.lower() in STREETS or any(
        ("Surn" in parse.tag and parse.tag.case == "gent")
        or (parse.tag.POS == "ADJF" and parse.tag.gender == "femn" and parse.tag.case in cases and parse.score > 0.1)
        for parse in analyse(word)
    )


LABEL_BEFORE = _any_case(
    r"(?<!\w)(?:тел(?:ефон\w{0,2})?\.?|номер\w{0,2}|домашн\w+|городск\w+|звони)\W{1,3}(?:\w+\W{1,2})?$"
)
WITH_DIGITS: list[tuple[tuple[str, ...], list[re.Pattern[str]], str]] = [
    (("омоф", "калит", "дъезд", "двер", "ворот", "шлаг", "к", "k"), DOOR_CODES, "secret"),
    (("рожд", "родил", "р"), BIRTH_DATES, "date"),
    (("полис", "омс", "енп"), [POLICY], "policy"),
    (("номер",), [BARE], "phone"),
    (("ву", "водит", "прав", "стс", "птс", "кпп"), [PAPERS], "number"),
    ((), [LOCAL], "phone"),
    ((), [WALLET], "wallet"),
    ((), [TOKENS], "secret"),
    (("°",), [ARCS], "place"),
    (("::", ":"), [IP6], "ip"),
]
"""Words of which one must be there, patterns, kind."""
WITHOUT_DIGITS: list[tuple[tuple[str, ...], list[re.Pattern[str]], str]] = [
    (("парол", "пасс", "pass", "pwd", "пин", "фай", "фая", "фае", "wi", "вифи", "роутер"), PASSWORDS, "secret"),
    (("собак", "собач", "@", "at"), [SPOKEN_EMAIL], "email"),
    (
        ("тел", "тг", "tg", "инст", "inst", "скай", "skyp", "вк", "vk", "вконт", "ник", "диск", "тик", "твит", "юзер"),
        NICKS,
        "nick",
    ),
]
