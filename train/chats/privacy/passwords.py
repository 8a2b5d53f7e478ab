"""Passwords, keys and tokens, by the word beside them or by their form."""

import re
from collections.abc import Iterator

from train.chats.privacy.morphology import analyse, is_known
from train.chats.privacy.patterns import NO_UNIT, Finding, any_case

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
    r"(?:п[ао]р[оа]л(?:[ьяеюи]м?|ьчик\w?|[иея]к\w?|ям\w?|ей)?|пасс(?:ворд\w?|код\w?)?|пас(?:ворд\w?|код)|пас(?=\s[^\s,;]{0,20}[0-9])|"
    r"pass(?:code|word|wd)?|psw|pwd|pw(?=:)|parol(?!\w)|пин(?:-?\s?код\w{0,2})?|pin(?:-?code)?|код\w?[\s-](?:парол\w|доступа)|п[иэ]к-?код|"
    r"фраза[\s-]пароль|парольная\sфраза)"
)
WIFI = (
    r"(?:вай[\s-]?фа[йяеию]\w?|wi-?fi|вифи\w?|вафл[ияюе]|роутер\w{0,2}|сетк[аеиу]|сет[ьи]|ssid|"
    r"точк[аи]\sдоступа|хотспот\w?|интернет\w?|инет\w?)"
)
PASSWORDS = [
    any_case(
        rf"(?<!\w){PASSWORD}(?!\w){WORDS_BETWEEN}{IS}"
        rf"(?<![\w-])(?P<value>(?=[^\s,;]{{0,60}}(?:[^\W\d]|[0-9]{{4}})){TOKEN}){NO_UNIT}"
    ),
    any_case(
        r"(?<!\w)(?:п[ао]р[ао]ль?|запарол\w{2,8}|пасс?\w{0,4}|password|pass|пин|pin|pwd|psw|pw)\s?[:=]\s?"
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
        rf"(?P<value>(?=[^\s,;]{{6}})(?:(?=[^\s,;]{{0,60}}[^\W\d]){TOKEN}|[0-9]{{8,20}}))(?![\w-]|[,\s]{{1,3}}(?:пар|ключ|пас|pas)|\s?[/|]\s?\w)"
    ),
    any_case(
        rf"(?<!\w)(?:{PASSWORD}|{WIFI}|логин\w{{0,2}})(?!\w)[^0-9\n]{{0,30}}(?<!\w)(?P<value>(?:[A-Za-z]{{3,20}}\s[0-9]{{2,8}}|[0-9]{{2,8}}\s[A-Za-z]{{3,20}}))"
        r"(?=\s(?:слитн|без\sпробел|вместе|в\sодно))"
    ),
]
SPELLED = (
    r"(?:слитно|без\sпробел\w+|вс[её]\s(?:маленьк|больш|слитн|вместе|строчн|капс)\w*|(?:мал|бол|с\sбол|с\sмал)\w{3,8}\s(?:букв|б\.)\w*|"
    r"латиниц\w+|латинск\w+|(?:на|в|по)\s?англ\w*|английск\w+|на\sанглийск\w+|на\sрусск\w+|русск\w+\s(?:букв|раскладк)\w*|"
    r"капсом|одним\sсловом|транслит\w*|в\sкавычках|без\sкавычек)"
)
"""How to write what was just told: only of a password it is said."""
SPELLED_PASSWORDS = [
    any_case(
        rf"(?<!\w)(?:{PASSWORD}|{WIFI})(?!\w)(?:\s(?:от|на|к|для|у)\s[\w-]{{2,14}})?(?:\s(?:такой|это|простой|новый|наш|мой|теперь|вот))?\s?(?:[:=—–-]\s?|,\s|\s)"
        rf"(?!(?:не|без|забы\w+|смен\w+|должен)(?!\w))[«\"']?(?P<value>[\w-]{{3,20}}(?:\s[\w-]{{1,20}}){{0,5}}?)[»\"']?,?\s\(?{SPELLED}"
    ),
    any_case(
        rf"(?<!\w)(?:{PASSWORD})\sтакой:\s(?P<value>[а-яёa-z0-9]{{2,20}}(?:\s[а-яёa-z0-9]{{1,20}}){{1,7}}?)(?=\s?(?:[,.;)(\n]|$|слитн))"
    ),
]
SITE = (
    rf"(?:{WIFI}|админк\w|админ\w{{0,2}}|акк(?:аунт\w?|а|у|ом)?|уч[её]тк\w|логин\w{{0,2}}|доступ\w?|вход\w?|стим\w?|steam|нетфликс\w?|netflix|"
    r"кинопоиск\w?|иви|ivi|окко|okko|спотифай\w?|spotify|ютуб\w?|почт\w|мейл\w?|инст\w{1,3}|вк|дневник\w?|эжд|мэш|госуслуг\w?|"
    r"лк|личн\w{2,3}\sкабинет\w{0,2}|зум\w?|эпик\w?|айклауд\w?|apple\sid|впн|vpn|прокси|сервер\w{0,2}|сервак\w?|rdp|ssh|ftp|"
    r"базы?|хостинг\w?|crm|1с|камер\w{1,2}|мегого|амедиатек\w|литрес\w?|скайп\w?|дискорд\w?|вход|заход\w{0,3}|учи\.?ру|"
    r"онлайн\w{0,3}|сайт\w{0,2}|приложени\w|подписк\w|профил\w|компьютер\w?|комп\w?|ноут\w?|репозитори\w|сетевой|сетк\w)"
)
LOGIN_AND_PASSWORD = [
    any_case(
        rf"(?<!\w){SITE}(?!\w)(?:[\s:,—–-]{{1,3}}[а-яё]{{1,14}}){{0,3}}?[\s:,—–-]{{1,3}}(?<![\w@.-])(?P<login>[A-Za-z][\w.@+-]{{2,40}})"
        r"\s?[/|\\:;]\s?(?P<value>(?![^\s]{0,40}@[\w-]+\.)(?=\S{0,40}[A-Za-z])[A-Za-z0-9_!#$%&*+@^~-]{4,40})(?![\w./@])"
    ),
    any_case(
        rf"(?<!\w){SITE}(?!\w)(?:[\s:,—–-]{{1,3}}[а-яё]{{1,14}}){{0,2}}?[\s:,—–-]{{1,3}}(?<![\w@.-])(?P<login>[\w.+-]{{2,40}}@[\w.-]{{3,40}}|[A-Za-z][\w.-]{{2,30}}),?\s(?P<value>{STRONG})(?![\w./@])"
    ),
    any_case(
        rf"(?<!\w)(?:логин\w?|login|user(?:name)?|юзер\w?|лог)\W{{1,3}}(?P<login>(?!(?:admin|root|user|guest)\W)[A-Za-z0-9][\w.@+-]{{2,40}}),?\s(?:и\s|а\s)?{PASSWORD}(?!\w){IS}(?P<value>[A-Za-z0-9_!#$%&*+.@^~-]{{4,40}})"
    ),
]
NETWORK_NAME = any_case(r"(?:вай|wi|вифи|вафл|сет|ssid|точк|хотсп)")
KEYS = [
    any_case(
        rf"(?<!\w){WIFI}(?!\w)[^\n]{{0,40}}?(?<!\w)(?:ключ\w?|код\w?|{PASSWORD})(?!\w){WORDS_BETWEEN}{IS}(?<![\w-])"
        rf"(?P<value>(?=[^\s,;]{{6}}){TOKEN}){NO_UNIT}"
    ),
    any_case(
        r"(?<!\w)(?:ключ\w?|key)\s(?:(?:от|к|для)\s)?(?:вай\w+|wi-?fi|вифи|роутера|сет\w+|сейф\w|кабинет\w|аккаунт\w|акк\w{0,2})\W{1,3}"
        rf"(?P<value>{TOKEN}){NO_UNIT}"
    ),
]
LOCKED = (
    r"(?:(?:раз)?блокировк\w|экран\w{0,2}|телефон\w?|тел\w?|айфон\w?|iphone|планшет\w?|айпад\w?|ноут\w*|комп\w{0,6}|архив\w?|сейф\w?|чемодан\w?|"
    r"сигнализаци\w|сигналк\w|велозам\w{1,3}|замк\w\sвел\w+|сим\w?|симк\w|банкомат\w?|банк\w?|сбер\w{0,4}|приложени\w|карт\w{1,2}|"
    r"дневник\w?|родительск\w+\s\w+|телевизор\w?|телик\w?|приставк\w|шкафчик\w?|ячейк\w|камер\w\sхранени\w|самокат\w?|файл\w?|папк\w)"
)
LOCK_CODES = [
    any_case(
        rf"(?<!\w)(?:(?:код\w{{0,2}}|кодик|{PASSWORD}|комбинаци\w|цифр\w)\s(?:(?:от|на|к|для|у)\s)?(?:[а-яё]{{2,10}}\s)?{LOCKED}|{LOCKED}\s(?:код|{PASSWORD})|(?:раз)?блокировк\w(?:\s{LOCKED})?|(?:чемодан|сейф|замок|телефон|планшет|шкафчик)\sоткрыва\w+(?:\sна)?)"
        rf"(?!\w){IS}(?:[а-яё]{{2,8}}\s)?(?<![\w.-])(?P<value>[0-9]{{3,8}}|[0-9](?:[\s-][0-9]){{3,5}})(?![\w-]|[:.,][0-9]|\s[0-9]){NO_UNIT}"
    ),
]
"""Of a telephone's screen, a suitcase, an alarm."""
SECRET_WORDS_TOLD = [
    any_case(
        r"(?<!\w)(?:кодов|секретн|контрольн)\w{2,3}\s(?:слов\w{1,2}|фраз\w)\s?(?:[:=—–-]|это|[«\"'])\s?[«\"']?"
        r"(?P<value>[\w-]{4,30})"
    ),
]
WORD_PASSWORDS = [
    any_case(
        r"(?<!\w)(?:п[ао]р[ао]ль?(?:чик)?|пасс?|password|pass)(?:\s(?:от|на|к|для)\s[\w-]{2,14}|\s(?:такой|простой|новый|наш|мой))?"
        r"(?P<sign>\s?[:=]\s?|\s?[—–-]\s|\s(?:это\s)?)[«\"']?(?P<value>[А-Яа-яЁё]{4,30}|[A-Za-z]{4,30}[!#$%&*+@^~]{0,4})(?![\w#!$%&*+@^~-]|\.\w)"
    ),
    any_case(rf"(?<!\w)(?:{PASSWORD}|{WIFI})(?!\w)[^\n.!?;]{{1,40}}?(?<!\w)(?P<value>[а-яё]{{10,30}})(?![\w-])"),
    any_case(rf"(?<!\w){WIFI}(?P<sign>\s?[:=]?\s?)(?P<value>[A-Za-z]{{8,30}})(?=\s?(?:$|[,.;)\n]))"),
]
"""Passwords of letters alone: what stands there must be no word of the sentence."""
NO_PASSWORD = any_case(
    r"(?:wi-?fi|vpn|e?mail|icloud|apple|google|gmail|admin(?!admin)|windows|instagram|telegram|steam|zoom|reset|login|username|парол|роутер|вай|"
    r"keenetic|mikrotik|xiaomi|huawei|rostelecom|beeline|megafon|domru|tplink|asus|zyxel|dlink|internet|unifi|starlink|tenda|mercusys)"
)
API_KEYS = [
    any_case(
        r"(?<!\w)(?:api|апи|эйпиай|токен\w{0,2}|token|secret\w*|секрет\w{0,3}|access|ключ\w{0,2}|key|bearer)(?!\w)[^\n]{0,40}?(?<![\w/.=+-])"
        r"(?P<value>(?=\S{0,80}[0-9])(?=\S{0,80}[a-z])[A-Za-z0-9][A-Za-z0-9_+/=.-]{18,200})(?!\w)"
    ),
]
TOKENS = re.compile(
    r"(?<![\w-])(?:(?:bot)?[0-9]{8,10}:[A-Za-z0-9_-]{30,}|sk-[A-Za-z0-9_-]{20,}|vk1\.a\.[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|"
    r"hf_[A-Za-z0-9]{30,}|AIza[A-Za-z0-9_-]{30,})"
)
NEXT_SECRET = any_case(
    r"[,;.]?\s(?:а|и|потом|затем|или|либо|ну\sа|второй|другой|(?=на\s(?:втор|трет|друг|внутр|верхн)))(?:\s?(?P<to>на|в|во|от|для|к|с|у)|\s(?:потом|затем|ещё|еще|раз|второй|другой)){0,3}"
    r"(?:\s[а-яё]{3,14}){0,2}\s?[:—-]?\s?(?<![\w.-])(?P<value>[0-9]{3,8}|" + STRONG + r")(?![\w-]|[:.,][0-9])" + NO_UNIT
)
"""A second secret in the same breath: `код 4471, потом ещё раз 1733`, `пароль kot1987, а на архив 0000`."""


def find_next_secrets(text: str, found: list[Finding]) -> Iterator[Finding]:
    """What follows a found secret as one more of its kind: of as many digits, or told what it is for."""
    for _, start, end, kind in found:
        match = NEXT_SECRET.match(text, end) if kind == "secret" else None
        if match is None:
            continue
        first, second = text[start:end], match["value"]
        alike = second.isdigit() and first.isdigit() and len(first) == len(second)
        year = re.fullmatch("(?:19|20)[0-9]{2}", second) is not None
        if alike or not (second.isdigit() and (match["to"] is None or year or not first.isalnum())):
            yield 1, *match.span("value"), "secret"


PLEASE = ("плиз", "плис", "пжлст", "пжалуйста", "пожалста", "пожалуста")


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
    line_start = match.string[: match.start()].rpartition("\n")[2].strip() == ""
    alone = line_start and ends and "nomn" in analyse(word)[0].tag and analyse(word)[0].score > 0.4
    return noun and ((marked and ends) or alone or (not is_known(word) and word.lower() not in PLEASE))
