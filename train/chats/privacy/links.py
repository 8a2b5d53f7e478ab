"""Finds e-mail addresses, links to people, documents and calls, and @nicks; links to anything else stay."""

import re
from collections.abc import Iterator

EMAIL = re.compile(
    r"(?<![A-Za-z0-9_])[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
    r"|(?<!\w)\w[\w.+-]{0,63}@(?:[\w-]{1,63}\.){1,8}[а-яё]{2,12}(?!\w)",
    re.IGNORECASE,
)
NICK = re.compile(r"(?<![\w@/])@([A-Za-z0-9_]{1,32}(?:\.[A-Za-z0-9_]{1,32}){0,4})(?![A-Za-z0-9_@]|/\w)")
NOT_A_NICK = re.compile(
    r"(?:g?mail|yandex|inbox|list|bk|rambler|icloud|outlook|all|everyone|here|channel|online|admins?|media|import|charset|font-face|keyframes|property|staticmethod|classmethod|"
    r"dataclass|override|deprecated|param|return|[0-9_.]+|.{1,2}|.*\.(?:ru|com|net|org|рф|su|by|kz|ua|io|dev|me))$",
    re.IGNORECASE,
)
CODE_LINE = re.compile(r"\(?[^\n]{0,80}\n\s{0,20}(?:@|def |class |async |public |private )")
OTHER_PAGES = {
    r"t\.me|telegram\.(?:me|dog)": "addstickers|addemoji|addtheme|addlist|share|proxy|socks|setlanguage|bg|iv|login",
    r"vk\.(?:com|ru)|vkontakte\.ru": r"feed|im|al_\w+|settings|support|dev|about|terms|search|apps?\d*|games|music|"
    r"stickers|login|audio\S*|video\S*|clips?\S*|restore|away|share|market\S*|(?:club|public|event)\d+|"
    r"(?:wall|photo|topic|album|doc)-\S*",
    r"instagram\.com|instagr\.am": "p|reels?|explore|tv|accounts|about|direct|legal",
    r"wa\.me": "qr",
    r"facebook\.com|fb\.com|fb\.me|m\.me": r"watch|groups|events|marketplace|help|photo|share\w*|login|policies|reel",
    r"ok\.ru|odnoklassniki\.ru": "video|group|music|games?|live|dk|help|feed|messages",
    r"twitter\.com|x\.com": "home|explore|search|i|hashtag|intent|share|settings",
}
"""By site: paths that lead to no person; all others do."""
PROFILES = {
    r"(?:api|chat|web)\.whatsapp\.com": "send|[A-Za-z0-9]{15}",
    r"tiktok\.com|threads\.(?:net|com)": "@",
    r"youtube\.com": "@|(?:c|user|channel)/",
    r"linkedin\.com": "in/",
    r"steamcommunity\.com": "(?:id|profiles)/",
    r"snapchat\.com": "add/",
    r"twitch\.tv": r"(?!(?:directory|downloads|p|jobs|turbo|settings|videos)(?:[/?]|$))\w",
    r"s\.team": "p/",
    r"github\.com": r"(?!(?:features|topics|explore|search|login|about|settings|marketplace|trending)/?$)[\w-]+/?$",
}
"""By site: how a path begins that leads to a person; no others do."""
DOCUMENTS = {
    r"docs\.google\.com": "(?:document|spreadsheets|presentation|forms)/",
    r"drive\.google\.com": "(?:file|drive|open)",
    r"forms\.gle|forms\.yandex\.(?:ru|com)|docs\.yandex\.(?:ru|com)|notion\.so|miro\.com": r"\w",
    r"disk(?:\.360)?\.yandex\.(?:ru|com)|yadi\.sk|cloud\.mail\.ru|1drv\.ms|(?:www\.)?dropbox\.com|mega\.nz": r"\w",
    r"we\.tl|photos\.app\.goo\.gl|onedrive\.live\.com|[a-z0-9-]+\.sharepoint\.com|fex\.net|dropmefiles\.com|files\.fm|forms\.office\.com|"
    r"coda\.io|padlet\.com|jamboard\.google\.com|lucid\.app|gist\.github\.com|[a-z0-9-]+\.notion\.site|"
    r"gofile\.io|terabox\.com": r"(?!(?:pricing|about|login)(?:[/?]|$))[\w~:?]",
    r"figma\.com": r"(?:file|design|proto|board|slides)/",
    r"airtable\.com": r"(?:shr|app|tbl|inv)\w",
    r"trello\.com": r"[bc]/",
    r"wetransfer\.com": r"downloads/",
    r"canva\.com": r"design/",
    r"icloud\.com": r"(?:iclouddrive|pages|numbers|keynote|notes|sharedalbum|photos)/",
    r"photos\.google\.com": r"(?:share|album)/",
    r"pastebin\.com": r"(?!(?:tools|faq|login|signup|archive|doc_\w+)(?:[/?]|$))\w{6}",
    r"[a-z0-9-]+\.bitrix24\.(?:ru|com|by|kz)": r"(?:~|docs/|disk/|video/|company/)",
    r"overleaf\.com": r"(?:project|read)/",
    r"colab\.research\.google\.com": r"drive/",
    r"[a-z0-9-]+\.atlassian\.net": r"\w",
    r"app\.asana\.com": r"0/",
}
"""By site: how a path begins that leads to a document."""
CALLS = {
    r"(?:[a-z0-9-]+\.)?zoom(?:gov)?\.(?:us|com)": r"(?:j|my|w|s|wc|webinar|meeting|launch|rec)/",
    r"meet\.google\.com": r"(?!(?:about|landing|new|tel)(?:[/?]|$))\w",
    r"g\.co": "meet/",
    r"teams\.microsoft\.com": "(?:l/|meet/|dl/|_#/)",
    r"teams\.live\.com": "(?:meet/|l/)",
    r"[a-z0-9-]+\.webex\.com": r"(?:meet|join|wbxmjs|webappng|[\w-]+/j\.php|[\w-]+/[jm]/)",
    r"meet\.jit\.si|8x8\.vc|jitsi\.[a-z0-9.-]+\.[a-z]{2,6}|meet\.[a-z0-9-]+\.(?:ru|com|org|net|su|by|kz)": r"\w",
    r"whereby\.com": r"(?!(?:information|pricing|blog|user|org|signup|download|product|about)(?:[/?]|$))\w",
    r"discord\.gg": r"\w",
    r"discord(?:app)?\.com": "(?:invite|channels|users)/",
    r"telemost(?:\.360)?\.yandex\.(?:ru|com)": r"(?:j|live)/",
    r"(?:[a-z0-9-]+\.)?sferum\.ru": r"(?:\?|call|c/|join)",
    r"vk\.me|web\.vk\.me": r"(?:join|call)/",
    r"(?:[a-z0-9-]+\.)?(?:jazz\.sber|salutejazz)\.ru": r"(?!(?:about|download|help|pricing)(?:[/?]|$))\w",
    r"[a-z0-9-]+\.ktalk\.ru|talk\.kontur\.ru": r"\w",
    r"join\.skype\.com|meet\.lync\.com": r"\w",
    r"(?:[a-z0-9-]+\.)?mts-link\.ru|(?:events|my)\.webinar\.ru": r"(?:j/|event/|[0-9])",
    r"dion\.vc": "(?:event|room)/",
    r"(?:[a-z0-9-]+\.)?trueconf\.(?:ru|com|name)": r"(?:c|j|webrtc)/",
    r"(?:app\.|global\.)?(?:gotomeeting|gotomeet)\.(?:com|me)|bluejeans\.com": r"(?:join/|[0-9])",
    r"facetime\.apple\.com": r"join",
    r"call\.whatsapp\.com": "(?:voice|video)/",
    r"signal\.link": "call",
    r"app\.slack\.com": "huddle/",
    r"pruffme\.com|contour\.talk|talky\.io|stream\.wb\.ru|[a-z0-9-]+\.clickmeeting\.com|gather\.town|"
    r"app\.gather\.town|[a-z0-9-]+\.etutorium\.com": r"\w",
    r"(?:app\.)?chime\.aws": r"(?:meetings/|[0-9])",
    r"yandex\.ru/telemost": r"\w",
    r"calendly\.com|cal\.com": r"(?!(?:pricing|about|login|features|signup|blog|help|integrations)(?:[/?]|$))[\w-]+/\w",
    r"max\.ru|maxcalls\.ru|calls\.okcdn\.ru": r"(?:join|call|c|u)/",
}
"""By site: how a path begins that leads to a call, as the invitations of these services have it."""
SITES = {
    **{site: rf"(?!(?:{pages})(?:[/?.]|$))[\w+]" for site, pages in OTHER_PAGES.items()},
    **PROFILES,
    **DOCUMENTS,
    **CALLS,
}
LINK = re.compile(
    r"(?<![\w@.-])(?:tg://(?:resolve|user|openmessage|join|privatepost|contact)\?[A-Za-z0-9_=&+%-]+|(?:https?://)?"
    rf"(?:(?:www|m|mobile|new|[a-z]{{2}})\.)?({'|'.join(SITES)})/([A-Za-z0-9_.~:/?#@$&*+=%!-]+))",
    re.IGNORECASE,
)


def find_contacts(text: str) -> Iterator[tuple[int, int, int, str]]:
    """(rank, start, end, kind) of every e-mail address, link and nick; where two overlap, the lower rank is right."""
    for match in LINK.finditer(text) if "/" in text else ():
        if match[1] is None or _is_profile(match[1], match[2]):
            end = match.start() + len(match[0].rstrip(".,:?!*~-"))
            yield (
                0,
                match.start(),
                end,
                "document" if match[1] and _pattern_of(match[1]) in (DOCUMENTS | CALLS) else "link",
            )
    if "@" in text:
        yield from ((0, *match.span(), "email") for match in EMAIL.finditer(text))
        for match in NICK.finditer(text):
            if not NOT_A_NICK.match(match[1]) and not CODE_LINE.match(text, match.end()):
                yield 1, *match.span(), "nick"


def _is_profile(site: str, path: str) -> bool:
    return bool(re.match(SITES[_pattern_of(site)], path.rstrip(".,:?!*~-"), re.IGNORECASE))


def _pattern_of(site: str) -> str:
    return next(pattern for pattern in SITES if re.fullmatch(pattern, site, re.IGNORECASE))
