"""Passwords, keys and tokens, by the word beside them or by their form."""

import re

from train.chats.privacy.morphology import analyse, is_known
from train.chats.privacy.patterns import NO_UNIT, any_case

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
    any_case(
        rf"(?<!\w){PASSWORD}(?!\w){WORDS_BETWEEN}{IS}"
        rf"(?<![\w-])(?P<value>(?=[^\s,;]{{0,60}}(?:[^\W\d]|[0-9]{{4}})){TOKEN}){NO_UNIT}"
    ),
    any_case(
        r"(?<!\w)(?:пароль|пасс\w{0,4}|password|pass|пин|pin)\s?[:=]\s?"
        r"(?P<value>(?=[^\s]{0,60}[A-Za-z])[A-Za-z0-9_!#$%&*+.@^~-]{5,40})"
    ),
    any_case(rf"(?<!\w){PASSWORD}(?!\w)[^\n.!?;]{{1,60}}?(?<![\w./@-])(?P<value>{STRONG})(?![\w./@])"),
    any_case(
        rf"(?<![\w./@-])(?P<value>{STRONG})\s?[\s(—–:,=-]{{1,3}}(?:(?:это|вот|мой|наш|новый|старый|твой|ваш|тут)\s){{0,2}}"
        rf"(?:{PASSWORD}|ключ\w?)(?!\w)(?!\s(?:не|забы)|\W{{1,3}}{TOKEN})"
    ),
    any_case(
        r"(?<!\w)(?:временн\w{2,3}|нов\w{2,3}|постав\w{2,4}|сменил\w?|поменял\w?|придумал\w?)\s(?:на\s)?"
        rf"(?<![\w./@-])(?P<value>{STRONG})(?=[^\n]{{1,40}}парол)"
    ),
    any_case(
        rf"(?<!\w)(?:вай[\s-]?фа[йяе]\w?|wi-?fi|вифи|вафл[ия]|роутер\w{{0,2}}){WORDS_BETWEEN}{IS}(?<![\w-])"
        rf"(?P<value>(?=[^\s,;]{{6}})(?:(?=[^\s,;]{{0,60}}[^\W\d]){TOKEN}|[0-9]{{8,20}}))(?!\w|[,\s]{{1,3}}(?:пар|ключ|пас|pas))"
    ),
]
KEYS = [
    any_case(
        rf"(?<!\w){WIFI}(?!\w)[^\n]{{0,40}}?(?<!\w)(?:ключ\w?|код\w?|{PASSWORD})(?!\w){WORDS_BETWEEN}{IS}(?<![\w-])"
        rf"(?P<value>(?=[^\s,;]{{6}}){TOKEN}){NO_UNIT}"
    ),
    any_case(
        r"(?<!\w)(?:ключ\w?|key)\s(?:от|к|для)\s(?:вай\w+|wi-?fi|вифи|роутера|сет\w+|сейф\w|кабинет\w|аккаунт\w|акк\w{0,2})\W{1,3}"
        rf"(?P<value>{TOKEN}){NO_UNIT}"
    ),
]
SECRET_WORDS_TOLD = [
    any_case(
        r"(?<!\w)(?:кодов|секретн|контрольн)\w{2,3}\s(?:слов\w{1,2}|фраз\w)\s?(?:[:=—–-]|это|[«\"'])\s?[«\"']?"
        r"(?P<value>[\w-]{4,30})"
    ),
]
WORD_PASSWORDS = [
    any_case(
        r"(?<!\w)(?:пароль|пасс|password|pass)(?:\s(?:от|на|к|для)\s[\w-]{2,14}|\s(?:такой|простой|новый|наш|мой))?"
        r"(?P<sign>\s?[:=]\s?|\s?[—–-]\s|\s(?:это\s)?)[«\"']?(?P<value>[А-Яа-яЁё]{4,30}|[A-Za-z]{4,30})(?![\w#!$%&*+@^~-]|\.\w)"
    ),
    any_case(rf"(?<!\w)(?:{PASSWORD}|{WIFI})(?!\w)[^\n.!?;]{{1,40}}?(?<!\w)(?P<value>[а-яё]{{10,30}})(?![\w-])"),
]
"""Passwords of letters alone: what stands there must be no word of the sentence."""
NO_PASSWORD = any_case(
    r"(?:wi-?fi|vpn|e?mail|icloud|apple|google|gmail|admin|windows|instagram|telegram|steam|zoom|reset|login|username|парол|роутер|вай)"
)
API_KEYS = [
    any_case(
        r"(?<!\w)(?:api|апи|эйпиай|токен\w{0,2}|token|secret\w*|секрет\w{0,3}|access|ключ\w{0,2}|key|bearer)(?!\w)[^\n]{0,40}?(?<![\w/.=+-])"
        r"(?P<value>(?=\S{0,80}[0-9])(?=\S{0,80}[a-z])[A-Za-z0-9][A-Za-z0-9_+/=.-]{18,200})(?!\w)"
    ),
]
TOKENS = re.compile(
    r"(?<![\w-])(?:[0-9]{8,10}:[A-Za-z0-9_-]{30,}|sk-[A-Za-z0-9_-]{20,}|vk1\.a\.[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|"
    r"hf_[A-Za-z0-9]{30,}|AIza[A-Za-z0-9_-]{30,})"
)


def is_password(match: re.Match[str]) -> bool:
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
