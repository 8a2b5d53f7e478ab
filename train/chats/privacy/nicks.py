"""Nicknames in networks, and e-mail addresses as they are spoken."""

import re

from train.chats.privacy.patterns import any_case
from train.chats.privacy.phones import NUMBER_WORD

NETWORK = (
    r"(?:телег[аеуи]|телеграмм?[аеу]?|телеграмчик\w?|тг|tg|telegram|инст[аеуы]|инстаграмм?[аеу]?|insta(?:gram)?|скайпе?|skype|вк|vk|"
    r"вконтакте|контакте|дискорде?|дс|discord|тикток\w?|тик-ток\w?|tiktok|твиттер\w?|twitter|стиме?|steam|ютубе?|ютьюбе?|youtube|твиче?|"
    r"twitch|одноклассник\w{1,2}|вайбере?|viber|ватсапе?|вотсапе?|whatsapp|фейсбуке?|facebook|пинтересте?|тредс\w{0,2}|threads|гитхабе?|"
    r"github|макс(?=\s?[:=])|роблокс\w?|roblox|эпике?|epic|псн|psn|xbox|сигнале?|signal|snap(?:chat)?|снап(?:чат)?е?|телеге|тележк\w|тлг|инстик\w?|инст(?=\s?[:—-])|вкшк\w|вкашк\w|"
    r"лайк[еи]|likee|твич|бусти|boosty|патреон|patreon|бихенс\w?|behance|тиндере?|вичате?|wechat|фб|fb|майнкрафте?|minecraft|геншине?|genshin|"
    r"юз|nick(?:name)?|username|linkedin|линкедине?|ник(?:нейм)?|юзернейм|юзер|логин|аккаунт|акк)"
)
LINKING = r"(?:в|во|на|мой|моя|моё|у\sменя|меня|я|это|там|тоже|под|ником|есть|зовут|такой|вот|наш|её|его|новый|новая)"
NICK = r"@?(?=[A-Za-z0-9_.-]{4})_*[A-Za-z][A-Za-z0-9_.-]*[A-Za-z0-9_]"
NETWORK_WORDS = (
    "тел", "тг", "tg", "тлг", "инст", "inst", "скай", "skyp", "live:", "вк", "vk", "конт", "ник", "nick", "дис",
    "дс", "тик", "твит", "юз",
    "user", "логин", "стим", "steam", "юту", "ютьюб", "tube", "tiktok", "twit", "твич", "одноклас", "вайб", "viber",
    "тсап", "whats",
    "facebook", "фейсб", "фб", "fb", "пинт", "тред", "thread", "hub", "хаб", "макс", "робл", "robl", "эпик", "epic",
    "псн", "psn",
    "xbox", "сигнал", "signal", "снап", "snap", "акк", "линк", "linked", "disc", "лайк", "likee", "бусти", "boosty",
    "патр", "patr",
    "бихенс", "behance", "тинд", "вич", "wechat", "майнк", "mine", "genshin", "геншин",
)  # fmt: skip
NICKS = [
    any_case(r"(?<!\w)(?P<value>(?P<sign>live:)\.?[a-z0-9_.-]{4,40}[a-z0-9_])"),
    any_case(
        rf"(?<!\w){NETWORK}(?:,?\s(?:{LINKING}|{NETWORK}|(?<=в\s)[а-яё]{{3,9}})(?!\w)){{0,4}}(?:(?P<sign>\s?[:=—–]\s?|\s?-\s|-)|,?\s{{1,2}})"
        rf"(?P<value>{NICK})(?![\w@/]|\.[A-Za-z]|\#[0-9])"
    ),
    any_case(
        rf"(?<!\w){NETWORK}(?!\w)[^\n.!?]{{0,30}}?(?<!\w)с[оа]бак[аи]\s(?P<sign>)(?P<value>{NICK})(?![\w@/]|\.[A-Za-z]|\s(?:точка|тчк|dot))"
    ),
    any_case(
        rf"(?<!\w)(?P<sign>найди\w*|ищи\w*|найдешь|найдёшь|добавь\w*|добавляй\w*|подпи[шс]\w+|стукни\w*|мой\sник|моя|мой)\s(?:меня\s)?(?:в\s|во\s|на\s)?"
        rf"{NETWORK}\s(?:там\s|я\s|как\s|под\sником\s)?(?P<value>{NICK})(?![\w@/]|\.[A-Za-z]|\s[A-Za-z])"
    ),
    any_case(
        rf"(?<![\w@/.#-])(?P<value>{NICK})(?P<after>\s?[—–,(-]?\s?)(?:это|мо[йя]|я\s?в|ник\sв|в|наш)\s(?:мо[йя]\s|наш\w?\s|ник\s)?(?:в\s)?{NETWORK}(?!\w)"
    ),
]
NICKS_WITH_NUMBER = [
    any_case(
        r"(?<![\w#])(?P<value>[A-Za-zА-Яа-яЁё0-9_.]{2,32}#[0-9]{4})(?!\w)(?=[^\n]*(?:диск|дис\b|discord|(?<!\w)дс(?!\w)|ник|battle|баттл))"
    ),
    any_case(
        r"(?:диск\w*|discord|(?<!\w)дс(?!\w)|ник\w{0,3}|battle\w*|баттл\w*)[^\n]{0,30}?(?<![\w#])(?P<value>[A-Za-zА-Яа-яЁё0-9_.]{2,32}#[0-9]{4})(?!\w)"
    ),
    any_case(
        rf"(?<!\w){NETWORK}(?!\w)[^0-9\n.!?]{{0,16}}?(?<!\w)(?:айди\w{{0,4}}|id|ид)\W{{0,3}}(?:такой\s|мой\s)?(?P<value>[0-9]{{5,17}})(?!\w)"
    ),
    any_case(
        rf"(?<!\w)(?:айди\w{{0,4}}|id|ид|страниц\w{{0,2}}|профил\w|номер)(?:\s(?:мой|моя|у меня|в|во|на|это))*\s(?:в\s|"
        rf"во\s)?{NETWORK}\W{{1,3}}(?:номер\W{{1,2}}|такой\s)?(?P<value>(?:id)?[0-9]{{5,17}})(?!\w)"
    ),
    any_case(
        r"(?<!\w)(?:вк|vk|вконтакте)\s?[:—–-]?\s(?P<value>[0-9]{6,10})(?![\w-])(?!\s?(?:руб|подпис|участ|лайк|просм|чел|тыс))"
    ),
    any_case(r"(?<![\w./=?&-])id[0-9]{6,10}(?!\w)"),
]
NO_NICK = any_case(
    r"(?:.*bot|desktop|premium|stories|story|reels?|online|web|music|video|ads|live|direct|post|channel|shop|admin|root|user|guest|test|login|"
    r"error|http|https|www|beta|update|shorts?|api|mini|apps?|plus|pro|deck|lite|nitro|wave|business|messenger|windows|android|iphone|ipad|"
    r"macos|linux|version|photoshop|netflix|google|yandex)s?[0-9]{0,2}$"
)
MAIL_WORDS = ("собак", "сабак", "бачк", "@", " at ", "(at", "[at", "{at", "(эт", "[эт", " эт ", " гав ", "пёсик")
PROVIDER = (
    r"(?:g?mail|yandex|ya|g\smail|list|inbox|bk|rambler|icloud|outlook|hotmail|proton(?:mail)?|ukr|tut|яндекс\w?|м[еэа]?[ий]л|маил|"
    r"г\s?ма?[еэий]{1,2}л|дж[иы]?[\s-]?м[еэ][ий]л|жмейл|инбокс|лист|бк|рамблер|а[йи]\s?клауд|аутлук|хотм[еэ]йл|протон)"
)
OPEN, CLOSE = r"\s?[\[({<]\s?", r"\s?[\])}>]\s?"
DOT = rf"(?:\s?\.\s?|{OPEN}(?:точка|dot){CLOSE}|\s?(?:точка|тчк|dot)\s?)"
AT = (
    rf"(?:\s?@\s?|{OPEN}(?:с[оа]ба[кч]\w{{1,3}}|at|эт|ат){CLOSE}|\s?с[оа]ба(?:к[аиуе]|кен|чк[аиу])\s?|\s(?:at|эт|"
    r"гав|п[её]сик)\s)"
)
JOINED = r"(?:\s(?:тире|дефис|минус|точка|тчк|dot|dash|(?:нижн\w+\s)?под?ч[её]рк\w*|андерскор|underscore)\s|\s?[._-]\s)"
TOP = r"(?:ru|ру|com|ком|net|нет|org|орг|ua|юа|by|бай|kz|кз|me|рф|su|су|io|pro)(?!\w)"
SPOKEN_EMAILS = [
    any_case(
        rf"(?<![\w.-])\w[\w.+-]*(?:{JOINED}\w[\w.-]*){{0,4}}(?:\s{NUMBER_WORD}){{0,2}}{AT}(?:(?:{PROVIDER}|[a-zа-яё0-9-]{{2,30}}){DOT}|{PROVIDER}\s){TOP}"
    ),
    any_case(
        r"(?<![\w.@-])(?<![\w@]\s)[a-z0-9](?:\s[a-z0-9._-]){2,30}\s@(?:\s[a-z0-9.-]){2,30}?\s\.(?:\s[a-z]){2,3}(?!\w|\s[a-z](?!\w))"
    ),
]
"""The last: with a space after each letter."""
MAIL_WITHOUT_AT = [
    any_case(
        r"(?<!\w)(?:почт\w|мыло|[эе]?-?м[еэ][ий]л\w?|имейл\w?|емайл|e?-?mail|электронк\w)(?!\w)[^\n@]{0,12}?(?<!\w)"
        r"(?P<value>[a-z0-9][a-z0-9._-]{2,30}\s(?:mail|yandex|gmail|list|inbox|bk|rambler|ya|icloud)\.(?:ru|com))(?!\w)"
    ),
]
MAIL_BEFORE = any_case(
    r"(?<!\w)(?:почт\w|мыл[оа]|[эе]?-?м[еэ][ий]л\w?|имейл\w?|email|адрес\w?|электронк\w)\W{1,3}(?:\w+\W{1,2}){0,2}$"
)


def is_nick(match: re.Match[str]) -> bool:
    nick, groups = match["value"], match.re.groupindex
    if NO_NICK.match(nick) or (nick.count(".") == 1 and nick.lower().endswith((".ru", ".com", ".net", ".org"))):
        return False
    if "after" in groups:  # `krolik_77 это моя инста`; `iphone15 в тг обсудили` is none
        connected = re.search(r"(?:это|мо[йя]|ник|я в|наш)", match[0][len(nick) :].lower()) is not None
        return bool(re.search(r"[0-9_.]", nick)) and connected
    return bool(match["sign"] or nick.startswith("@") or re.search(r"[0-9_.]", nick))


def is_spoken_email(match: re.Match[str]) -> bool:
    """Whether it is no talk of a dog: `наша собака mail.ru` has neither Latin letters before nor a `точка` after."""
    address = match[0].lower()
    told = "точка" in address or MAIL_BEFORE.search(match.string[max(0, match.start() - 30) : match.start()])
    return not re.match(r"[а-яё]+ с[оа]ба", address) or bool(told)
