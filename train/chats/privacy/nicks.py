"""Nicknames in networks, and e-mail addresses as they are spoken."""

import re

from train.chats.privacy.patterns import any_case

NETWORK = (
    r"(?:телег[аеуи]|телеграмм?[аеу]?|телеграмчик\w?|тг|tg|telegram|инст[аеуы]|инстаграмм?[аеу]?|insta(?:gram)?|скайпе?|skype|вк|vk|"
    r"вконтакте|контакте|дискорде?|дс|discord|тикток\w?|тик-ток\w?|tiktok|твиттер\w?|twitter|стиме?|steam|ютубе?|ютьюбе?|youtube|твиче?|"
    r"twitch|одноклассник\w{1,2}|вайбере?|viber|ватсапе?|вотсапе?|whatsapp|фейсбуке?|facebook|пинтересте?|тредс\w{0,2}|threads|гитхабе?|"
    r"github|макс(?=\s?[:=])|роблокс\w?|roblox|эпике?|epic|псн|psn|сигнале?|snapchat|снапе?|linkedin|линкедине?|ник(?:нейм)?|юзернейм|юзер|логин|аккаунт|акк)"
)
LINKING = r"(?:в|во|на|мой|моя|моё|у\sменя|меня|я|это|там|тоже|под|ником|есть|зовут|такой|вот|наш|её|его|новый|новая)"
NICK = r"@?(?=[A-Za-z0-9_.-]{4})_*[A-Za-z][A-Za-z0-9_.-]*[A-Za-z0-9_]"
NICKS = [
    any_case(
        rf"(?<!\w){NETWORK}(?:,?\s(?:{LINKING}|{NETWORK}|(?<=в\s)[а-яё]{{3,9}})(?!\w)){{0,4}}(?:(?P<sign>\s?[:=—–]\s?|\s?-\s|-)|,?\s{{1,2}})"
        rf"(?P<value>{NICK})(?![\w@/]|\.[A-Za-z]|\#[0-9])"
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
    any_case(r"(?<!\w)live:\.?[a-z0-9_.-]{4,}[a-z0-9_]"),
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
        rf"(?<!\w)(?:айди\w{{0,4}}|id|ид|страниц\w|профил\w)(?:\s(?:мой|моя|у меня|в|во|на|это))*\s(?:в\s|"
        rf"во\s)?{NETWORK}\W{{1,3}}(?P<value>(?:id)?[0-9]{{5,17}})(?!\w)"
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
PROVIDER = (
    r"(?:[a-z0-9-]{2,30}|яндекс|майл|мейл|мэйл|маил|гмейл|гмаил|джимейл|инбокс|рамблер|лист|бк|почта|аутлук|айклауд)"
)
DOT = r"(?:\s?\.\s?|\s?\(?(?:точка|dot)\)?\s?|\[(?:dot|точка)\])"
AT = r"(?:\s?@\s?|\s?[\[(]?\s?собак[аиу]\s?[\])]?\s?|\s?\(?собачк[аиу]\)?\s?|\s?[\[(](?:at|эт)[\])]\s?|\sat\s)"
SPOKEN_EMAIL = any_case(
    rf"(?<![\w.-])\w[\w.+-]*(?:\s(?:тире|дефис|минус|точка|подч[её]ркивание|нижнее\sподч[её]ркивание)\s\w+){{0,3}}{AT}{PROVIDER}"
    rf"{DOT}(?:ru|ру|com|ком|net|нет|org|орг|ua|by|kz|me|рф|su)(?!\w)"
    rf"|(?<![\w.-])\w[\w.+-]*{AT}(?:mail|yandex|gmail|list|inbox|bk|rambler|яндекс|ме?[ий]л|мэйл|гмейл|джимейл|инбокс|рамблер)"
    r"\s(?:ru|ру|com|ком)(?!\w)"
)


def is_nick(match: re.Match[str]) -> bool:
    nick, groups = match["value"], match.re.groupindex
    if NO_NICK.match(nick) or (nick.count(".") == 1 and nick.lower().endswith((".ru", ".com", ".net", ".org"))):
        return False
    if "after" in groups:  # `krolik_77 это моя инста`; `iphone15 в тг обсудили` is none
        connected = re.search(r"(?:это|мо[йя]|ник|я в|наш)", match[0][len(nick) :].lower()) is not None
        return bool(re.search(r"[0-9_.]", nick)) and connected
    return bool(match["sign"] or nick.startswith("@") or re.search(r"[0-9_.]", nick))


def is_spoken_email(address: str) -> bool:
    """Whether it is no talk of a dog: `наша собака mail.ru` has neither Latin letters before nor a `точка` after."""
    return not re.match("[а-яё]+ собак", address) or "точка" in address
