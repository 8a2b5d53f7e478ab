"""Finds what people type beside a word that names it: passwords, codes, cards, dates of birth, plates, dictated phones.

Most of these have no form of their own, so the word before or after decides: `код из смс 4829` is a secret, `код товара
4829` is none. What has a form that nothing else has (a wallet, a token, an IBAN, co-ordinates) needs no word.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from train.chats.privacy.addresses import PART
from train.chats.privacy.id_numbers import inn_valid
from train.chats.privacy.morphology import analyse, is_known, word_set
from train.core.secrets import find_secrets

Finding = tuple[int, int, int, str]
"""(rank, start, end, kind), as other finders give it."""


def _any_case(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


NO_UNIT = (
    r"(?!\s?(?:₽|%|(?:год\w{0,2}|г|раза?|руб\w{0,3}|р|дн\w{1,2}|день|мин\w{0,3}|час\w{0,2}|шт\w{0,2}|к|тыс\w{0,3}|лет|символ\w*|"
    r"строк\w?|км|кг|мм|м|гб|мб|чел\w*|балл\w{0,2}|знак\w{0,2}|цифр\w?|ггц)(?!\w)))"
)
"""Nothing after a number that it counts."""
TOKEN = r"(?=[^\s,;]{0,60}[0-9_])(?!802\.)[A-Za-zА-Яа-яЁё0-9_!#$%&*+.@^~-]{4,40}"
"""What a password looks like: no spaces, and a digit or a low line."""
STRONG = (
    r"(?!(?:iphone|ipad|windows|win|wpa|sha|md|utf|mp|wifi|wi-fi|tp-link|redmi|galaxy|android|ios|vpn|http)[\w-]*(?!\w))"
    r"(?=[^\s,;]{0,40}[A-Za-z])(?=[^\s,;]{0,40}[0-9])[A-Za-z0-9_!#$%&*+@^~-]{6,40}"
)
"""A password that shows without a word directly before it: Latin letters with digits."""
WORDS_BETWEEN = r"(?:[\s(—–:,=-]{1,3}(?:[а-яё]{1,14}|wi-?fi|[a-z]{3,8}(?=\s))){0,4}?"
IS = r"\s{0,2}(?:[:=—–-]|это|такой)?\s{0,2}"
PASSWORD = (
    r"(?:парол[ьяеюи]м?|парольчик\w?|паролик\w?|пасс(?:ворд\w?|код\w?)?|pass(?:code|word|wd)?|pwd|пин(?:-?\s?код\w{0,2})?|pin(?:-?code)?|"
    r"код\w?[\s-](?:парол\w|доступа)|п[иэ]к-?код)"
)
WIFI = (
    r"(?:вай[\s-]?фа[йяеию]\w?|wi-?fi|вифи\w?|вафл[ияюе]|роутер\w{0,2}|сетк[аеиу]|сет[ьи]|ssid|"
    r"точк[аи]\sдоступа|хотспот\w?)"
)
PASSWORDS = [
    _any_case(
        rf"(?<!\w){PASSWORD}(?!\w){WORDS_BETWEEN}{IS}"
        rf"(?<![\w-])(?P<value>(?=[^\s,;]{{0,60}}(?:[^\W\d]|[0-9]{{4}})){TOKEN}){NO_UNIT}"
    ),
    _any_case(
        r"(?<!\w)(?:пароль|пасс\w{0,4}|password|pass|пин|pin)\s?[:=]\s?"
        r"(?P<value>(?=[^\s]{0,60}[A-Za-z])[A-Za-z0-9_!#$%&*+.@^~-]{5,40})"
    ),
    _any_case(rf"(?<!\w){PASSWORD}(?!\w)[^\n.!?;]{{1,60}}?(?<![\w./@-])(?P<value>{STRONG})(?![\w./@])"),
    _any_case(
        rf"(?<![\w./@-])(?P<value>{STRONG})\s?[\s(—–:,=-]{{1,3}}(?:(?:это|вот|мой|наш|новый|старый|твой|ваш|тут)\s){{0,2}}"
        rf"(?:{PASSWORD}|ключ\w?)(?!\w)(?!\s(?:не|забы)|\W{{1,3}}{TOKEN})"
    ),
    _any_case(
        r"(?<!\w)(?:временн\w{2,3}|нов\w{2,3}|постав\w{2,4}|сменил\w?|поменял\w?|придумал\w?)\s(?:на\s)?"
        rf"(?<![\w./@-])(?P<value>{STRONG})(?=[^\n]{{1,40}}парол)"
    ),
    _any_case(
        rf"(?<!\w)(?:вай[\s-]?фа[йяе]\w?|wi-?fi|вифи|вафл[ия]|роутер\w{{0,2}}){WORDS_BETWEEN}{IS}(?<![\w-])"
        rf"(?P<value>(?=[^\s,;]{{6}})(?:(?=[^\s,;]{{0,60}}[^\W\d]){TOKEN}|[0-9]{{8,20}}))(?!\w|[,\s]{{1,3}}(?:пар|ключ|пас|pas))"
    ),
]
KEYS = [
    _any_case(
        rf"(?<!\w){WIFI}(?!\w)[^\n]{{0,40}}?(?<!\w)(?:ключ\w?|код\w?|{PASSWORD})(?!\w){WORDS_BETWEEN}{IS}(?<![\w-])"
        rf"(?P<value>(?=[^\s,;]{{6}}){TOKEN}){NO_UNIT}"
    ),
    _any_case(
        r"(?<!\w)(?:ключ\w?|key)\s(?:от|к|для)\s(?:вай\w+|wi-?fi|вифи|роутера|сет\w+|сейф\w|кабинет\w|аккаунт\w|акк\w{0,2})\W{1,3}"
        rf"(?P<value>{TOKEN}){NO_UNIT}"
    ),
]
SECRET_WORDS_TOLD = [
    _any_case(
        r"(?<!\w)(?:кодов|секретн|контрольн)\w{2,3}\s(?:слов\w{1,2}|фраз\w)\s?(?:[:=—–-]|это|[«\"'])\s?[«\"']?"
        r"(?P<value>[\w-]{4,30})"
    ),
]
WORD_PASSWORDS = [
    _any_case(
        r"(?<!\w)(?:пароль|пасс|password|pass)(?:\s(?:от|на|к|для)\s[\w-]{2,14}|\s(?:такой|простой|новый|наш|мой))?"
        r"(?P<sign>\s?[:=]\s?|\s?[—–-]\s|\s(?:это\s)?)[«\"']?(?P<value>[А-Яа-яЁё]{4,30}|[A-Za-z]{4,30})(?![\w#!$%&*+@^~-]|\.\w)"
    ),
    _any_case(rf"(?<!\w)(?:{PASSWORD}|{WIFI})(?!\w)[^\n.!?;]{{1,40}}?(?<!\w)(?P<value>[а-яё]{{10,30}})(?![\w-])"),
]
"""Passwords of letters alone: what stands there must be no word of the sentence."""
NO_PASSWORD = _any_case(
    r"(?:wi-?fi|vpn|e?mail|icloud|apple|google|gmail|admin|windows|instagram|telegram|steam|zoom|reset|login|username|парол|роутер|вай)"
)
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
    _any_case(rf"(?<!\w){DOOR}[^0-9\n]{{0,25}}?(?<![\w#*])(?P<value>{DOOR_CODE})(?![\w-])"),
    _any_case(rf"(?<!\w){PRESS}[^0-9\n]{{0,20}}?(?<![\w#*])(?P<value>{DOOR_CODE})(?![\w-])"),
    _any_case(
        rf"(?<!\w)(?:{DOOR}[^0-9\n]{{0,12}}код\w{{0,2}}|код\w{{0,2}}[^0-9\n]{{0,12}}{DOOR}|набер\w+ в домофон\w*)"
        r"[^0-9\n]{0,8}(?P<value>[0-9]{3,6})(?![\w-])"
    ),
    _any_case(rf"(?<!\w)код\w{{0,2}}{IS}(?P<value>[0-9]{{3,6}})(?=\s(?:от|на|в|для)?\s?{DOOR})"),
    _any_case(r"(?<![\w-])(?P<value>[0-9]{1,3}[кkвb][0-9]{4})(?![\w-])"),
    _any_case(
        rf"(?<!\w)(?:дверь|калитка|ворота|парадная|подъезд|домофон|замок|шлагбаум|тамбур)\s?:\s?(?P<value>[0-9]{{3,6}})(?![\w-]){NO_UNIT}"
    ),
    _any_case(r"(?<!\w)домофон\W{1,3}[0-9]{1,4}\W{1,3}(?:ключ|код|вызов|потом)\W{1,3}(?P<value>[0-9]{3,6})(?![\w-])"),
]
PRESSED = _any_case(
    rf"(?<!\w){PRESS}[^0-9\n]{{0,20}}(?<![\w.,-])(?P<value>[0-9]{{3,6}}|[0-9](?:(?:[\s,+-]{{1,2}}|\s?и\s)[0-9]){{2,5}})(?![\w-]|[:.,][0-9]){NO_UNIT}"
)
"""What is pressed or dialled, near a door."""
INTERCOM = _any_case(
    rf"(?<!\w)домофон\w{{0,2}}\s?[:—–-]?\s?(?:(?:кв\w{{0,6}}|{PRESS})\W{{1,3}})?(?P<value>[0-9]{{2,3}})(?=\s?(?:[,.;)(!\n]|$))"
    r"|(?<!\w)(?:наб[еи]р\w+|жм[иёу]\w*|нажм\w+|звони\w*)\s(?P<before>[0-9]{2,3})\s(?:в|на|по)\sдомофон"
)
"""The flat that is called at a door."""
DOOR_NEAR = 60
PUBLIC_NUMBERS = ("101", "102", "103", "104", "112", "115", "122", "911")
"""Whom everybody calls: never personal, and a row that names them must keep them."""
DOOR_WORD = _any_case(rf"(?<!\w){DOOR}")
NO_CODE = (
    r"(?!\w?\w?\w?\s(?:товар|ошибк|город|стран|регион|дресс|подразд|окпд|оквэд|тн\s?вэд|категори|цвет|краск|операц|услуг|бюджет|"
    r"на\sревью|на\sгит|программ|направлен|специальност))"
)
NOT_ONE_TIME = _any_case(
    r"ошиб|error|промо|скидк|купон|артикул|товар|домен|статус|http|строк|коммит|регион|сервис|дресс|подразд|оквэд|окпд|краск|"
    r"выдан|паспорт"
)
ONE_TIME = _any_case(
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
    _any_case(rf"(?<!\w){CODE_WORD}[^0-9\n]{{0,28}}(?<![\w.-]){CODE}"),
    _any_case(rf"(?<!\w){SMS}(?!\w)[^0-9\n]{{0,20}}(?<![\w.-]){CODE}"),
    _any_case(rf"(?<!\w){ENTER}(?!\w)[^0-9\n]{{0,14}}(?<![\w.-]){CODE}"),
    _any_case(
        rf"(?<![\w.,:+-]){CODE}(?=\W{{1,4}}(?:(?:это|вот|твой|мой|ваш|тебе|пришел|пришёл|тут|лови|держи)\s){{0,2}}"
        rf"(?:{CODE_WORD}|(?:из|с|в|по)\s{SMS}|{SMS}|никому|для\s(?:входа|подтвержд)|на\sвход))"
    ),
    _any_case(rf"(?<!\w)(?:смс|sms|пришл[оа]|пришел|пришёл)(?!\w)[^0-9\n]{{0,12}}{CODE}(?=[^\n]{{0,25}}никому)"),
]
"""In a text that speaks of messages, of signing in or of confirming something."""
PLAIN_CODES = [
    _any_case(
        rf"(?<!\w){CODE_WORD}\s?(?:[:=—–-]|это|такой|вот|твой|мой)?\s?(?<![\w.-])(?P<value>[0-9]{{4,8}}|[0-9]{{3}}[\s-][0-9]{{3}})"
        rf"(?![\w-]|[:.,/][0-9]|\s[0-9]){NO_UNIT}"
    ),
    _any_case(
        rf"(?<!\w){CAME}(?!\w)[^0-9\n]{{0,14}}(?<![\w.-])(?P<value>[0-9]{{3}}-[0-9]{{3}}|[0-9]{{2}}-[0-9]{{2}}-[0-9]{{2}})(?![\w-])"
    ),
]
CAME_CODE = _any_case(rf"(?<!\w){CAME}(?!\w)[^0-9\n]{{0,20}}(?<![\w.-]){CODE}")
CODE_NEAR = _any_case(r"смс|sms|(?<!\w)код(?!екс)|(?<!\w)вход|подтвержд|вводи|введи|никому|авториз|госуслуг")
GOOGLE_CODE = re.compile(r"(?<![\w-])G-(?P<value>[0-9]{6})(?![\w-])")
CODE_WORDS = (
    "код", "никому", "смс", "sms", "эсэмэс", "вво", "введ", "ввел", "ввёл", "вбе", "вби", "дикту", "приш", "присл",
    "2fa", "прилет", "одноразов", "otp", "двухфактор", "аутентиф", "лови", "держи", "скинул", "выслал", "отправил",
    "пуш", "приход", "упал",
)  # fmt: skip
API_KEYS = [
    _any_case(
        r"(?<!\w)(?:api|апи|эйпиай|токен\w{0,2}|token|secret\w*|секрет\w{0,3}|access|ключ\w{0,2}|key|bearer)(?!\w)[^\n]{0,40}?(?<![\w/.=+-])"
        r"(?P<value>(?=\S{0,80}[0-9])(?=\S{0,80}[a-z])[A-Za-z0-9][A-Za-z0-9_+/=.-]{18,200})(?!\w)"
    ),
]
MONTH = (
    r"(?:янв(?:аря|арь)?|фев(?:р|раля|раль)?|март?а?|апр(?:еля|ель)?|ма[яй]|июн[яь]?|июл[яь]?|авг(?:уста?)?|сен(?:т|тября|тябрь)?|"
    r"окт(?:ября|ябрь)?|ноя(?:б|бря|брь)?|дек(?:абря|абрь)?)\.?"
)
YEAR = r"(?:19[2-9][0-9]|20[0-9]{2})"
SHORT_YEAR = r"(?:[4-9][0-9]|[0-2][0-9])(?:-?го)?"
DAY, MONTH_NUMBER = r"(?:0?[1-9]|[12][0-9]|3[01])", r"(?:0?[1-9]|1[0-2])"
YEAR_END = r"(?:-?г[оа]|\sг(?:ода|\.)?(?!\w))?"
DATE = (
    rf"(?:[0-9]{{1,2}}\s?[./-]\s?[0-9]{{1,2}}\s?[./-]\s?(?:{YEAR}|[0-9]{{2}}(?![0-9]))|{YEAR}[./-]{MONTH_NUMBER}[./-]{DAY}|"
    rf"{DAY}\s{MONTH_NUMBER}\s(?:{YEAR}|[0-9]{{2}}(?![0-9]))|"
    rf"(?:0[1-9]|[12][0-9]|3[01])(?:0[1-9]|1[0-2])(?:{YEAR}|[0-9]{{2}}(?![0-9]))|{YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])|"
    rf"[0-9]{{1,2}}(?:-?го|-?ое)?\s?{MONTH}(?!\w)(?!\s1[0-8][0-9]{{2}})(?:\s(?:{YEAR}|{SHORT_YEAR}(?![\w:.])){YEAR_END})?|{YEAR})"
    r"(?![\w/-])"
)
ORDINAL = (
    r"(?:(?:двадцать|тридцать)\s)?(?:перв|втор|трет[ьи]|четв[её]рт|пят|шест|седьм|восьм|девят|десят|[а-я]{2,7}надцат|двадцат|тридцат)"
    r"(?:ого|его|ое|е)"
)
TENS = r"(?:двадцать|тридцать|сорок|пятьдесят|шестьдесят|семьдесят|восемьдесят|девяносто)"
SPOKEN_YEAR = (
    rf"(?:(?:тысяча\sдевятьсот|две\sтысячи|двухтысячн\w+)\s?)?(?:{TENS}\s)?(?:[а-яё]{{4,15}}(?:ого|"
    rf"его))(?:\sгода(?!\sрожд))?"
)
SPOKEN_DATE = rf"{ORDINAL}\s{MONTH}(?!\w)(?:\s(?:{SPOKEN_YEAR}|{YEAR}{YEAR_END}))?"
BORN = (
    r"(?<!\w)(?:(?:дат[аыуе]|день|дня|год|число)\s(?:(?:моего|его|её|ее)\s)?рожд\w{0,4}\.?|рождени[ея]|д\.?\s?р\.?|др|"
    r"родил(?:ась|ся|ись)|род\.|рожд\.|г\.?\s?р\.?|днюх[аиу]|год(?:а|у)?\sрожд\w+|день\sваренья|birth(?:day|date)?|dob)(?!\w)"
)
NOT_A_PERSON = r"(?!\s(?:фирм|компани|город|сайт|магазин|организац|проект|канал|школ))"
OWNER = r"(?:(?:это|вот|-|—|–|мо[яйёией]+|у\s[а-яё]+|её|ее|его|сына|дочки|дочери|мамы|папы|мужа|жены)\s?){0,3}"
BORN_AFTER = (
    r"(?:г\.?\s?р\.?(?!\w)|года?\sрожд\w+|г\.\sрожд\w+|рожд\.|рождени[яе](?!\w)|"
    r"(?:дат[аы]|день)\sрожд\w+|др(?!\w)|д\.\s?р\.|(?:я\s|она?\s)?родил(?:ась|ся))"
)
BIRTH_DATES = [
    _any_case(rf"{BORN}{NOT_A_PERSON}[^0-9\n]{{0,22}}(?<![\w.])(?P<value>{DATE})"),
    _any_case(rf"(?<![\w.,/-])(?P<value>{DATE})[\s,(—–-]{{0,3}}{OWNER}{BORN_AFTER}"),
    _any_case(
        r"(?<!\w)родил(?:ась|ся)\s(?:я\s)?в\s(?P<value>[4-9][0-9](?:-?о?м)?(?:\s(?:году|г\.?))?)(?![\w:.,/-])(?!\s?[0-9])"
    ),
]
SPOKEN_BIRTH_DATES = [
    _any_case(rf"{BORN}{NOT_A_PERSON}[^0-9\n.!?]{{0,22}}?(?<!\w)(?P<value>{SPOKEN_DATE})(?!\w)"),
    _any_case(rf"(?<!\w)(?P<value>{SPOKEN_DATE})[\s,(—–-]{{0,3}}{OWNER}{BORN_AFTER}"),
]
PLATE_LETTER = "[АВЕКМНОРСТУХABEKMHOPCTYX]"
REGION = r"(?:[1279][0-9]{2}|0[1-9]|[1-9][0-9])"
RUS = r"(?:\s?(?:rus|рус)(?!\w))?"
PLATE = _any_case(
    rf"(?<![\w-])(?P<value>(?P<first>{PLATE_LETTER})(?P<gap>\s?)[0-9]{{3}}\s?(?P<series>{PLATE_LETTER}{{2}})\s?[/|]?\s?{REGION}(?![\w-]){RUS})"
)
OTHER_PLATES = _any_case(
    rf"(?<![\w-])(?P<value>(?:[0-9]{{4}}\s?(?P<series>{PLATE_LETTER}{{2}})\s?[/|]?\s?{REGION}|{PLATE_LETTER}{{2}}\s?[0-9]{{3,4}}\s?[/|]?\s?{REGION}|"
    rf"{PLATE_LETTER}[0-9]{{3}}{PLATE_LETTER}{{2}}|{PLATE_LETTER}\s[0-9]{{3}}\s{PLATE_LETTER}{{2}}|"
    rf"[0-9]{{3}}\s?[A-Z]{{2,3}}\s?(?:0[1-9]|1[0-9]|20)|[A-ZАВЕКМНОРСТІХ]{{2}}\s?[0-9]{{4}}\s?[A-ZАВЕКМНОРСТІХ]{{2}}|"
    rf"[0-9]{{4}}\s?[A-ZАВЕІКМНОРСТХ]{{2}}\s?-\s?[1-7])(?![\w-]){RUS})"
)
"""Plates of motorcycles, trailers and taxis, without their region, of neighbours: only in a text about a vehicle."""
VEHICLE = _any_case(
    r"гос\.?\s?номер|(?<!\w)номер\w{0,3}(?!\w)(?!\s(?:рейс|заказ|дом|кварт|поезд|вагон))|машин|(?<!\w)авто(?!\w)|тачк|такс|мото|скутер|"
    r"мопед|байк|прицеп|пропуск|парк(?:ов|ан)|водител|газел|(?<!\w)г/н"
)
IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AM": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24,
    "FI": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28,
    "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20, "MR": 27, "MT": 31, "MU": 30,
    "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24,
    "SC": 31, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip
"""Country → characters of its account numbers (ISO 13616 registry)."""
IBAN_START = _any_case(r"(?<![A-Za-z0-9])(?P<country>[A-Z]{2})\s?[0-9]{2}(?=[\s-]?[A-Z0-9])")
IBAN_REST = {n: _any_case(rf"(?:[\s-]?[A-Z0-9]){{{n - 4}}}(?![A-Za-z0-9])") for n in {*IBAN_LENGTHS.values()}}
IBAN_WORD = _any_case(r"iban|ибан|сч[её]т|реквизит|перев|account")
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
COMMA_DEGREES = r"-?[0-9]{2,3},[0-9]{4,}"
SIDE = r"\s?°?\s?(?:[NSEWСЮЗВ]|с\.?\s?ш\.?|ю\.?\s?ш\.?|в\.?\s?д\.?|з\.?\s?д\.?)?"
PLACES = [
    re.compile(
        rf"(?<![\w.,-])(?:[NS]\s?)?(?P<lat>{DEGREES}){SIDE}\s?[,;/|]?\s{{0,2}}(?:[EW]\s?)?(?P<lon>{DEGREES}){SIDE}(?![\w.]*[0-9])"
    ),
    re.compile(
        rf"(?<![\w.,-])(?P<lat>{COMMA_DEGREES}){SIDE}(?:\s?[;/|]\s?|,?\s{{1,2}})(?P<lon>{COMMA_DEGREES}){SIDE}(?![\w.]*[0-9])"
    ),
    _any_case(
        r"(?<!\w)(?:ш(?:ир(?:ота)?\.?)?|lat(?:itude)?)\W{0,3}(?P<lat>-?[0-9]{1,2}[.,][0-9]{3,})\W{1,3}"
        r"(?:д(?:олг(?:ота)?\.?)?|lo?ng?(?:itude)?)\W{0,3}(?P<lon>-?[0-9]{1,3}[.,][0-9]{3,})"
    ),
    _any_case(
        r"(?<![\w.])(?P<lat>[0-9]{1,2}\.[0-9]{2,})\s?°?\s?(?:[сc]\.?\s?ш\.?|N)[\s,;]{0,3}"
        r"(?P<lon>[0-9]{1,3}\.[0-9]{2,})\s?°?\s?(?:в\.?\s?д|E)(?!\w)"
    ),
    _any_case(
        r"(?<!\w)(?:координат\w*|коорд\w?|геопозици\w|гео(?:метк\w|точк\w)|геолокаци\w|локаци\w|навигатор\w?|gps)(?!\w)[^0-9\n]{0,20}"
        r"(?P<lat>-?[0-9]{1,2}[.,][0-9]{2,})°?\s?[,;/|]?\s{0,2}(?P<lon>-?[0-9]{1,3}[.,][0-9]{2,})"
    ),
]
ARC = r"[0-9]{1,3}°\s?[0-9]{1,2}(?:[.,][0-9]+)?['′’]\s?(?:[0-9]{1,2}(?:[.,][0-9]+)?(?:[\"″”]|'')?)?\s?"
ARCS = _any_case(rf"(?<!\w)(?:[NSСЮ]\s?{ARC}[\s,;]{{0,3}}[EWВЗ]\s?{ARC}|{ARC}[NSСЮ]?[\s.,сш]{{0,6}}{ARC}[EWВЗ]?)")
OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
IP = re.compile(rf"(?<![\w.:-])(?P<ip>(?:{OCTET}\.){{3}}{OCTET})(?::[0-9]{{2,5}})?(?![\w.-]*[0-9])")
IP6 = _any_case(
    r"(?<![\w:.])(?=[0-9a-f:]*[0-9a-f]{3})(?:(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|(?:[0-9a-f]{1,4}:){1,6}:(?:[0-9a-f]{1,4}:){0,5}[0-9a-f]{1,4})(?![\w:])"
)
NO_IP = _any_case(r"(?:верси|python|питон|пункт|п\.|обнов|гост|раздел|глав|v\.?)\w*[\s№:]*(?:до\s)?$")
IP_WORD = _any_case(r"(?<!\w)(?:ip|айпи\w{0,3}|сервер\w{0,2}|сервак\w{0,2}|хост\w{0,2}|vpn)(?!\w)")
POLICY_NUMBER = r"(?P<value>[0-9](?:[\s-]?[0-9]){15})(?![\w-])"
POLICIES = [
    _any_case(
        rf"(?<!\w)(?:мед)?(?:полис\w{{0,2}}|омс|дмс|енп|страховк\w)(?!\w)[^0-9\n]{{0,40}}(?<![\w-]){POLICY_NUMBER}"
    ),
    _any_case(
        rf"(?<![\w-]){POLICY_NUMBER}(?=\W{{1,4}}(?:(?:это|вот|мой|номер|наш)\s){{0,3}}(?:мед)?(?:полис|омс|дмс|енп)(?!\w))"
    ),
]
PAPERS = _any_case(
    r"(?<!\w)(?:ву|права|водительск\w{2,3}(?:\sудостоверени\w)?|стс|птс|кпп)\W{1,3}(?:номер\W{1,2})?"
    r"(?P<value>[0-9]{2}\s?[0-9а-яa-z]{2}\s?[0-9]{6}|[0-9]{9})(?![\w-])"
)
"""Driving licence, papers of a car, the tax code of a company's branch."""
MEETING_WORDS = (
    "зум",
    "zoom",
    "конфер",
    "идентиф",
    "meeting",
    "телемост",
    "встреч",
    "созвон",
    "тимс",
    "teams",
    "пасскод",
    "passcode",
    "вебекс",
)
MEETINGS = [
    _any_case(
        r"(?<!\w)(?:зум\w{0,2}|zoom|конференци\w|идентификатор\w{0,2}|meeting|телемост\w{0,2}|встреч\w|созвон\w?|тимс\w?|teams|вебекс\w?)(?!\w)"
        r"[^0-9\n]{0,30}(?<![\w+-])(?P<value>[0-9]{3}[\s-]?[0-9]{3,4}[\s-]?[0-9]{3,4})(?![\w-]|[:.,][0-9])"
    ),
    _any_case(
        r"(?:зум|zoom|конференци|идентификатор|meeting|телемост|встреч|созвон|тимс|teams)[^\n]{0,60}"
        r"(?<!\w)(?:пасс?код|код\w?(?:\sдоступа)?|passcode|pwd|парол\w|пин|pin)\W{1,3}(?P<value>(?=\S{0,12}[0-9])[A-Za-z0-9]{3,12})(?!\w)"
    ),
]
"""The number of a meeting and its pass code."""
NETWORK = (
    r"(?:телег[аеуи]|телеграмм?[аеу]?|телеграмчик\w?|тг|tg|telegram|инст[аеуы]|инстаграмм?[аеу]?|insta(?:gram)?|скайпе?|skype|вк|vk|"
    r"вконтакте|контакте|дискорде?|дс|discord|тикток\w?|тик-ток\w?|tiktok|твиттер\w?|twitter|стиме?|steam|ютубе?|ютьюбе?|youtube|твиче?|"
    r"twitch|одноклассник\w{1,2}|вайбере?|viber|ватсапе?|вотсапе?|whatsapp|фейсбуке?|facebook|пинтересте?|тредс\w{0,2}|threads|гитхабе?|"
    r"github|макс(?=\s?[:=])|роблокс\w?|roblox|эпике?|epic|псн|psn|сигнале?|snapchat|снапе?|linkedin|линкедине?|ник(?:нейм)?|юзернейм|юзер|логин|аккаунт|акк)"
)
LINKING = r"(?:в|во|на|мой|моя|моё|у\sменя|меня|я|это|там|тоже|под|ником|есть|зовут|такой|вот|наш|её|его|новый|новая)"
NICK = r"@?(?=[A-Za-z0-9_.-]{4})_*[A-Za-z][A-Za-z0-9_.-]*[A-Za-z0-9_]"
NICKS = [
    _any_case(
        rf"(?<!\w){NETWORK}(?:,?\s(?:{LINKING}|{NETWORK}|(?<=в\s)[а-яё]{{3,9}})(?!\w)){{0,4}}(?:(?P<sign>\s?[:=—–]\s?|\s?-\s|-)|,?\s{{1,2}})"
        rf"(?P<value>{NICK})(?![\w@/]|\.[A-Za-z]|\#[0-9])"
    ),
    _any_case(
        rf"(?<!\w)(?P<sign>найди\w*|ищи\w*|найдешь|найдёшь|добавь\w*|добавляй\w*|подпи[шс]\w+|стукни\w*|мой\sник|моя|мой)\s(?:меня\s)?(?:в\s|во\s|на\s)?"
        rf"{NETWORK}\s(?:там\s|я\s|как\s|под\sником\s)?(?P<value>{NICK})(?![\w@/]|\.[A-Za-z]|\s[A-Za-z])"
    ),
    _any_case(
        rf"(?<![\w@/.#-])(?P<value>{NICK})(?P<after>\s?[—–,(-]?\s?)(?:это|мо[йя]|я\s?в|ник\sв|в|наш)\s(?:мо[йя]\s|наш\w?\s|ник\s)?(?:в\s)?{NETWORK}(?!\w)"
    ),
]
NICKS_WITH_NUMBER = [
    _any_case(r"(?<!\w)live:\.?[a-z0-9_.-]{4,}[a-z0-9_]"),
    _any_case(
        r"(?<![\w#])(?P<value>[A-Za-zА-Яа-яЁё0-9_.]{2,32}#[0-9]{4})(?!\w)(?=[^\n]*(?:диск|дис\b|discord|(?<!\w)дс(?!\w)|ник|battle|баттл))"
    ),
    _any_case(
        r"(?:диск\w*|discord|(?<!\w)дс(?!\w)|ник\w{0,3}|battle\w*|баттл\w*)[^\n]{0,30}?(?<![\w#])(?P<value>[A-Za-zА-Яа-яЁё0-9_.]{2,32}#[0-9]{4})(?!\w)"
    ),
    _any_case(
        rf"(?<!\w){NETWORK}(?!\w)[^0-9\n.!?]{{0,16}}?(?<!\w)(?:айди\w{{0,4}}|id|ид)\W{{0,3}}(?:такой\s|мой\s)?(?P<value>[0-9]{{5,17}})(?!\w)"
    ),
    _any_case(
        rf"(?<!\w)(?:айди\w{{0,4}}|id|ид|страниц\w|профил\w)(?:\s(?:мой|моя|у меня|в|во|на|это))*\s(?:в\s|"
        rf"во\s)?{NETWORK}\W{{1,3}}(?P<value>(?:id)?[0-9]{{5,17}})(?!\w)"
    ),
    _any_case(
        r"(?<!\w)(?:вк|vk|вконтакте)\s?[:—–-]?\s(?P<value>[0-9]{6,10})(?![\w-])(?!\s?(?:руб|подпис|участ|лайк|просм|чел|тыс))"
    ),
    _any_case(r"(?<![\w./=?&-])id[0-9]{6,10}(?!\w)"),
]
NO_NICK = _any_case(
    r"(?:.*bot|desktop|premium|stories|story|reels?|online|web|music|video|ads|live|direct|post|channel|shop|admin|root|user|guest|test|login|"
    r"error|http|https|www|beta|update|shorts?|api|mini|apps?|plus|pro|deck|lite|nitro|wave|business|messenger|windows|android|iphone|ipad|"
    r"macos|linux|version|photoshop|netflix|google|yandex)s?[0-9]{0,2}$"
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
DICTATED = _any_case(rf"(?<!\w)(?:плюс\s)?{NUMBER_WORD}(?:[\s,.-]{{1,3}}{NUMBER_WORD}){{3,}}(?!\w)")
MIXED = _any_case(
    rf"(?<![\w-])\+?(?=[^\n]{{0,40}}[0-9])(?:{NUMBER_WORD}|[0-9]{{1,4}})(?:[\s,.-]{{1,3}}(?:{NUMBER_WORD}|[0-9]{{1,4}})){{3,10}}(?![\w-])"
)
"""A phone in words and digits."""
SPELLED = _any_case(
    r"(?<![\w-])(?P<sign>\+\s?)?(?P<digits>[789](?:[\s._/-]{1,3}[0-9]{1,4}){3,10}|[78]9(?:[\s._/-]{1,3}[0-9]{1,2}){5,9})(?![\w-])(?!\s?(?:руб|₽|км|шт|лет|раз))"
)
NOT_A_PHONE = (
    r"заказ|трек|договор|заявк|товар|отправ|посылк|накладн|(?<!\w)чек|счет|счёт|брон|билет|(?<!\w)дела|инн|артик|штрих|код|просмотр|"
    r"населен|подписч|сери[яию]|огрн|лицев|чертеж|чертёж|квартир|серийн|imei|тираж|лот|участ|объявл|вакан|квитанц|полис"
)
OTHER_NUMBER = _any_case(rf"(?:{NOT_A_PHONE})[^0-9\n]{{0,24}}$")
BARE = [
    _any_case(
        r"(?<!\w)(?:номер\w{0,3}|сбп|перевод\w{0,2}|перев[её]д\w+|перевест\w*|переки[нд]\w+|ски[нд]\w+|заки[нд]\w+|ки[нд][ьуа]\w{0,3}|кинь\w{0,2}|"
        r"пополн\w+|симк\w{1,3}|набер\w*|наби[рв]\w+|(?:по|пере|до)?звон\w*|маякн\w+|звякн\w+|ватсап\w?|вотсап\w?|ватс?ап\w?|whats\s?app|"
        r"вайбер\w?|телег\w|тг|связ[иь]\w?|контакт\w*|пиши\w{0,2}|моб\w*|сотов\w+|тел\w*|тлф|смс\w*|сим\w?)(?!\w)[^0-9\n]{0,28}(?<![\w.,+-])"
        r"(?P<value>9[0-9]{9})(?![\w-])"
    ),
    _any_case(
        r"(?<![\w.,+-])(?<![78]\s)(?P<value>9[0-9]{9})(?=\W{1,4}(?:(?:это|вот|мой|новый|наш|мамин|её|его|рабочий|личный)\s){0,3}"
        r"(?:номер|телефон|тел(?!\w)|моб|сотов|симк|мой|звон|пиши|набир|набер|ватсап|вотсап|вайбер|тг(?!\w)|телег|сбп|сбер|тиньк|альфа|втб|перевод|"
        r"мама|папа|муж|жена))"
    ),
]
LOCAL_NUMBER = r"[0-9](?:[\s-]{0,2}[0-9]){4,6}(?![\w-]|[:.,/][0-9]|\s?[0-9])"
LOCAL_PLACE = (
    r"(?:домашн\w{1,3}|городск\w{1,3}|стационарн\w{1,3}|факс\w?|рабоч\w{2,3}|диспетчер\w{0,5}|регистратур\w|вахт\w{0,5}|вахтёр\w?|"
    r"аварийк\w|аварийн\w+|при[её]мн\w{1,3}|деканат\w?|секретар\w{1,2}|консьерж\w{0,2}|справочн\w{1,3}|поликлиник\w|управл[яе]\w+|жэк\w?|"
    r"паспортн\w+\sстол\w?|бухгалтери\w|кадр\w{1,2}|офис\w?|аптек\w|учительск\w{2}|охран\w)"
)
LOCAL_GAP = r"[^0-9\n]{0,24}?"
LOCALS = [
    _any_case(
        r"(?<!\w)(?:тел(?:ефон\w{0,2})?\.?|телефончик|(?:по|до|пере)?звони(?:те|шь|л\w?|ть)?|звон\w{1,3}|звякни\w{0,2}|наб[еи]р\w{1,4}|"
        rf"номер(?!\s(?:{NOT_A_PHONE}|дома))(?:ок)?|{LOCAL_PLACE})(?!\w){LOCAL_GAP}(?<![\w.,+-])(?P<value>{LOCAL_NUMBER}){NO_UNIT}"
    ),
    _any_case(
        rf"(?<![\w.,+-])(?<![0-9)][\s-])(?P<value>[0-9]{{1,3}}[\s-][0-9]{{2}}[\s-][0-9]{{2}})(?=\W{{1,4}}(?:(?:это|вот|наш|мой|там)\s){{0,2}}"
        rf"(?:номер|телефон|{LOCAL_PLACE}|звони))"
    ),
]
NOT_FOR_LOCAL = _any_case(
    rf"(?<!\w)(?:за|стои\w*|цен\w|день|график|стаж|куп\w+|прода\w+|почти|около|минимум|счет|счёт|парти\w+|{NOT_A_PHONE})"
)
SOLID_LABEL = _any_case(rf"(?<!\w)(?:{LOCAL_PLACE}|тел|телефон\w?|(?:по)?звони\w*|наб[еи]р\w+)(?!\w)")
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
HOUSE_NO = r"(?P<house>[1-9][0-9]{0,2}[а-в]?(?:\s?[кс/]\s?[0-9]{1,2})?)"
HOUSE_AND_FLAT = _any_case(
    rf"(?<![\w-])(?P<street>(?:8\sмарта|[19]\sмая|[0-9]{{2}}\sлет\s)?(?:(?<=8\sмарта)|(?<=\sмая)|[а-яё][а-яё-]{{3,30}})),?\s{HOUSE_NO}"
    r"(?:\s?[-–]\s?|,\s)(?P<flat>[1-9][0-9]{0,3})(?![\w-]|[:.,][0-9])"
    r"(?!\s?(?:мин|час|ч\b|км|руб|₽|%|лет|год|дн|раз|чел|шт|тыс|балл|стр|том(?!\w)|комнат|побед|парт|сет|ложк|стакан|недел|месяц|груп|класс|курс|смен|января|февраля|марта|апреля|мая|июн|июл|августа|сент|окт|нояб|дек))"
)
HOUSE_AND_PARTS = _any_case(rf"(?<![\w-])(?P<street>[а-яё][а-яё-]{{3,30}}),?\s{HOUSE_NO}(?:[\s,;]{{1,3}}{PART}){{1,6}}")
PARTS = _any_case(
    rf"(?<!\w)(?={PART}[^\n]{{0,40}}(?:подъезд|подьезд|этаж|домофон)|[^\n]{{0,40}}(?<!\w)кв(?!\w)){PART}(?:[\s,;]{{1,3}}{PART}){{1,6}}"
)
NO_STREETS = word_set(
    "первая вторая третья четвёртая четвертая пятая последняя следующая большая маленькая целая каждая такая какая"
)
SPORT = _any_case(
    r"кубк|кубок|матч|сч[её]т\w?|сери[яию]|лиг[аеиу]|чемпионат|обыгра|выигра|проигра|уступи|сыграл|тайм|период|финал|клуб|турнир|гол[аы]?(?!\w)"
)
EXPIRY_DATE = r"(?P<date>(?:0[1-9]|1[0-2])\s?[/.-]\s?(?:20)?[23][0-9])(?![\w/.]*[0-9])"
EXPIRY = re.compile(rf"(?<![\w/.-]){EXPIRY_DATE}(?:[\s,;/]{{1,3}}(?P<code>[0-9]{{3}})(?![\w-]))?")
NAMED_EXPIRY = _any_case(
    r"(?<!\w)(?:срок(?:\s(?:действия|карты|до))?|(?:действ\w+|действительна|годна|годен)\sдо|exp(?:iry|ires)?|valid(?:\sthru)?|thru|до|дата)"
    r"\W{1,3}(?P<date>(?:0[1-9]|1[0-2])\s?[/.\s-]?\s?(?:20)?[23][0-9])(?![\w/.]*[0-9])"
)
CARD_CODE = _any_case(
    r"(?<!\w)(?:cvv2?|cvc2?|csc|цвв|цвс|цвц|свв|свс|сивиси|сививи|(?:три|3)\sцифры|код|обратк\w|на\sобороте|сзади|секретка)"
    r"(?:\s?-?(?:код|(?:с|на)\s(?:обратк\w|оборот\w|обратной|задней\sстороны)|сзади|с\sзади|безопасности|карты|стороны|на\sобороте|у\sнее|там)){0,3}"
    r"\W{0,3}(?P<code>[0-9]{3})(?![\w-])"
)
CODE_OF_CARD = _any_case(
    r"(?<![\w.,/-])(?P<code>[0-9]{3})(?=\W{1,3}(?:это\s)?(?:cvv|cvc|цвв|цвс|свв|свс|сзади|на\sобороте|с\sобратк|код\sсзади))"
)
CARD_WORD = _any_case(r"(?<!\w)(?:cvv|cvc|цв[вс]|св[вс]|карт[аыуео]|сиви)")
CARD_NUMBER = re.compile(r"(?<![0-9])[0-9]{4}(?:[\s-]?[0-9]{4}){3}(?![0-9])")


DIGIT = re.compile("[0-9]")
LATIN = re.compile("[A-Za-z]")
SECRET_RUN = re.compile("[A-Za-z0-9_.-]{16}")
SECRET_WORDS = ("://", "key", "token", "secret", "passw", "парол")
"""A run of such characters or one of the words is what no secret lacks: most of a chat is not searched for forms."""


def find_labelled(text: str) -> Iterator[Finding]:
    """Everything of these kinds; where two overlap, the lower rank is right."""
    lower = text.lower()
    if DIGIT.search(text):
        yield from _with_digits(text, lower)
    latin = LATIN.search(text) is not None
    for word, patterns, kind in WITHOUT_DIGITS:
        if (latin or kind != "nick") and any(map(lower.__contains__, word)):
            for pattern in patterns:
                for match in pattern.finditer(text):
                    if (kind == "nick" and not _is_nick(match)) or (kind == "word" and not _is_password(match)):
                        continue
                    if kind != "email" or _is_spoken_email(match[0].lower()):
                        yield 0, *_value(match), "secret" if kind == "word" else kind
    if any(map(lower.__contains__, SECRET_WORDS)) or SECRET_RUN.search(text):
        yield from ((1, secret.start, secret.end, "secret") for secret in find_secrets(text))
    if lower.count(" ") >= 4:
        yield from _dictated(text, lower)


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


def _value(match: re.Match[str]) -> tuple[int, int]:
    """Where the match's value stands, without the full stop or mark behind it."""
    start, end = match.span("value" if "value" in match.re.groupindex else 0)
    return start, start + len(match.string[start:end].rstrip(".,?"))


def _with_digits(text: str, lower: str) -> Iterator[Finding]:
    for words, patterns, kind in WITH_DIGITS:
        if not words or any(map(lower.__contains__, words)):
            for pattern in patterns:
                yield from ((2, *_value(match), kind) for match in pattern.finditer(text))
    yield from _codes(text, lower)
    for match in IBAN_START.finditer(text):
        rest = IBAN_REST[IBAN_LENGTHS.get(match["country"].upper(), 16)].match(text, match.end())
        if rest and match["country"].upper() in IBAN_LENGTHS and _is_iban(text, match.start(), rest.end()):
            yield 0, match.start(), rest.end(), "account"
    for match in PLATE.finditer(text):
        if _is_plate(match):
            yield 0, *match.span(), "plate"
    for pattern in PLACES if "." in text or "," in text else ():
        for match in pattern.finditer(text):
            latitude, longitude = (abs(float(match[name].replace(",", "."))) for name in ("lat", "lon"))
            if min(latitude, longitude) <= 90 and max(latitude, longitude) <= 180:
                yield 0, *match.span(), "place"
    if VEHICLE.search(text):
        for match in OTHER_PLATES.finditer(text):
            if (match["series"] or "").lower() not in ("км", "см", "ам", "ем"):
                yield 1, *match.span(), "plate"
    for pattern in BARE:
        for match in pattern.finditer(text):
            before = text[max(0, match.start("value") - 40) : match.start("value")]
            if not OTHER_NUMBER.search(before) and not inn_valid(match["value"]):  # `find_numbers` takes those
                yield 2, *match.span("value"), "phone"
    for pattern in LOCALS:
        yield from ((2, *match.span("value"), "phone") for match in pattern.finditer(text) if _is_local(match))
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


def _codes(text: str, lower: str) -> Iterator[Finding]:
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


def _card_parts(text: str) -> Iterator[Finding]:
    """Expiry date and code of a card: both stand beside its number, or after words that name them."""
    has_number = CARD_NUMBER.search(text) is not None
    for match in EXPIRY.finditer(text) if has_number else ():
        yield 1, *match.span("date"), "secret"
        if match["code"]:
            yield 1, *match.span("code"), "secret"
    for match in NAMED_EXPIRY.finditer(text):
        if has_number or (match[0][:2].lower() != "до" and "дата" not in match[0].lower()):
            yield 1, *match.span("date"), "secret"
    for pattern in (CARD_CODE, CODE_OF_CARD):
        for match in pattern.finditer(text):
            if has_number or re.search("[cц]в|[cс]в|cv|сив", match[0].lower()) or "цифры" in match[0].lower():
                yield 1, *match.span("code"), "secret"


def _is_iban(text: str, start: int, end: int) -> bool:
    """Whether a run of its country's length is an account: its check digits (ISO 7064, MOD 97-10) are right, or it is
    written in one or in fours, or a word before names it."""
    written = text[start:end]
    account = re.sub(r"[\s-]", "", written).upper()
    if sum(map(str.isdigit, account)) < 8:
        return False
    if int("".join(str(int(ch, 36)) for ch in account[4:] + account[:4])) % 97 == 1:
        return True
    fours = all(len(group) == 4 for group in re.split(r"[\s-]", written)[:-1])
    return fours or IBAN_WORD.search(text[max(0, start - 40) : start]) is not None


def _is_plate(match: re.Match[str]) -> bool:
    """Whether it is no measure behind a preposition: `в 100 км 20`."""
    measure = match["gap"] and match["first"] in "вскоу" and match["series"].lower() in ("км", "см", "мм")
    return not measure


def _is_local(match: re.Match[str]) -> bool:
    """Whether it is a phone of five to seven digits and no price or count; one without gaps needs a plain label."""
    number, start = match["value"], match.start("value") - match.start()
    if start and NOT_FOR_LOCAL.search(match[0][:start]):
        return False
    groups = re.findall("[0-9]+", number)
    if len(groups) == 1:
        return SOLID_LABEL.match(match[0]) is not None and not number.endswith(("00", "90", "99"))
    in_digits = all(len(group) == 1 for group in groups)
    thousands = len(groups) == 2 and len(groups[1]) == 3 and "-" not in number
    return not thousands and (in_digits or "-" in number or len(groups) > 2)


def _is_password(match: re.Match[str]) -> bool:
    """Whether letters alone are a password: Latin ones after a sign or alone, Cyrillic ones that are no known word."""
    word = match["value"]
    if NO_PASSWORD.match(word):
        return False
    if "sign" not in match.re.groupindex:
        return not is_known(word) and str(analyse(word)[0].tag.POS) == "NOUN"
    marked = match["sign"].strip() in (":", "=")
    if word.isascii():
        return marked or len(word) > 4
    ends = re.match(r"[»\"']?\s?(?:$|[.,;)\n])", match.string[match.end() :]) is not None
    noun = str(analyse(word)[0].tag.POS) == "NOUN"
    return (marked and ends and noun) or (not is_known(word) and noun)


def _is_nick(match: re.Match[str]) -> bool:
    nick, groups = match["value"], match.re.groupindex
    if NO_NICK.match(nick) or (nick.count(".") == 1 and nick.lower().endswith((".ru", ".com", ".net", ".org"))):
        return False
    if "after" in groups:  # `krolik_77 это моя инста`; `iphone15 в тг обсудили` is none
        connected = re.search(r"(?:это|мо[йя]|ник|я в|наш)", match[0][len(nick) :].lower()) is not None
        return bool(re.search(r"[0-9_.]", nick)) and connected
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


def _digits_of(words: list[str]) -> str:
    """The digits that the words dictate: `девятьсот три`, 903; `ноль один`, 01; `три пятёрки`, 555."""
    digits, room, last = "", 0, ""  # room: how many digits of the number just said the next word may still replace
    for word in words:
        value = PHONE_WORDS.get(word)
        if word.isdigit():
            digits, room, last = digits + word, 0, ""
            continue
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


SPOKEN_LABEL = _any_case(r"(?<!\w)(?:код|смс|sms|парол|пин|домофон|прод[ие]кт|дикт|эсэмэс|цифр)")
LABEL_BEFORE = _any_case(
    r"(?<!\w)(?:тел(?:ефон\w{0,2})?\.?|номер\w{0,2}|домашн\w+|городск\w+|звони)\W{1,3}(?:\w+\W{1,2})?$"
)
WITH_DIGITS: list[tuple[tuple[str, ...], list[re.Pattern[str]], str]] = [
    ((), DOOR_CODES, "secret"),
    (("рожд", "род", "др", "д.", "д р", "г.", "гр", "г р", "днюх", "birth", "dob"), BIRTH_DATES, "date"),
    (("полис", "мс", "енп", "страхов"), POLICIES, "policy"),
    (("api", "апи", "эйпи", "ток", "tok", "secr", "секр", "acces", "ключ", "key", "bear"), API_KEYS, "secret"),
    (("ключ", "key", "сет", "вай", "wi", "вифи", "вафл", "роутер", "ssid", "доступа", "хотсп"), KEYS, "secret"),
    (MEETING_WORDS, MEETINGS, "number"),
    (("live:", "#", "диск", "id", "ид", "айди", "вк", "vk"), NICKS_WITH_NUMBER, "nick"),
    (("ву", "водит", "прав", "стс", "птс", "кпп"), [PAPERS], "number"),
    ((), [WALLET], "wallet"),
    ((), [TOKENS], "secret"),
    (("°",), [ARCS], "place"),
    (("::", ":"), [IP6], "ip"),
]
"""Words of which one must be there, patterns, kind."""
WITHOUT_DIGITS: list[tuple[tuple[str, ...], list[re.Pattern[str]], str]] = [
    (
        (
            "парол",
            "пасс",
            "pass",
            "pwd",
            "пин",
            "pin",
            "вайф",
            "вай-ф",
            "вай ф",
            "wi",
            "вифи",
            "вафл",
            "роутер",
            "доступа",
            "-код",
        ),
        PASSWORDS,
        "secret",
    ),
    (("кодов", "секретн", "контрольн"), SECRET_WORDS_TOLD, "secret"),
    (("парол", "pass", "вайф", "вай-ф", "вай ф", "wi", "вифи", "вафл"), WORD_PASSWORDS, "word"),
    (("рожд", "родил", " др ", "днюх", "г.р"), SPOKEN_BIRTH_DATES, "date"),
    (("собак", "собач", "@", "at"), [SPOKEN_EMAIL], "email"),
    (
        (
            "тел",
            "тг",
            "tg",
            "инст",
            "inst",
            "скай",
            "skyp",
            "вк",
            "vk",
            "конт",
            "ник",
            "дис",
            "дс",
            "тик",
            "твит",
            "юзер",
            "логин",
            "стим",
            "steam",
            "юту",
            "ютьюб",
            "tube",
            "tiktok",
            "twit",
            "твич",
            "одноклас",
            "вайб",
            "viber",
            "тсап",
            "whats",
            "facebook",
            "фейсб",
            "пинт",
            "тред",
            "thread",
            "hub",
            "хаб",
            "макс",
            "робл",
            "robl",
            "эпик",
            "epic",
            "псн",
            "psn",
            "сигнал",
            "снап",
            "snap",
            "акк",
            "линк",
            "linked",
            "disc",
        ),
        NICKS,
        "nick",
    ),
]
