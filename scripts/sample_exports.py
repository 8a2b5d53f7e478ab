"""Exports of chats, written as the programs write them that people use; for tests and fuzz_data.py."""

import json
from datetime import UTC, datetime
from html import escape
from typing import Any

START = 1_700_000_000
MOSCOW = 3 * 3600
Said = tuple[str, str]
"""(name, text)"""
TALK: list[Said] = [
    ("Мама", "Ты дома?\nПозвони, как сможешь «на минутку»"),
    ("Катя", "Дома. <3 & звоню!"),
    ("Катя", "Сейчас"),
    ("Мама", "А что на ужин?"),
    ("Катя", "Борщ"),
]


def clock(minute: int) -> datetime:
    return datetime.fromtimestamp(START + MOSCOW + 60 * minute, UTC).replace(tzinfo=None)


def telegram_page(messages: str, name: str = "Мама") -> str:
    """A page as Telegram Desktop 5 writes it."""
    return f"""<!DOCTYPE html>
<html>
 <head><meta charset="utf-8"/><title>Exported Data</title></head>
 <body onload="CheckLocation();">
  <div class="page_wrap">
   <div class="page_header"><div class="content"><div class="text bold">
{escape(name)}
   </div></div></div>
   <div class="page_body chat_page">
    <div class="history">
     <div class="message service" id="message-1"><div class="body details">
14 November 2023
     </div></div>
{messages}
    </div>
   </div>
  </div>
 </body>
</html>
"""


def telegram_message(
    id_: int, name: str | None, text: str = "", *, body: str = "", classes: str = "", minute: int | None = None
) -> str:
    """A message of a page; without a name it is joined to the one before."""
    title = f"{clock(id_ if minute is None else minute):%d.%m.%Y %H:%M:%S} UTC+03:00"
    who = f'<div class="from_name">\n{escape(name)} \n</div>' if name else ""
    words = f'<div class="text">\n{escape(text).replace(chr(10), "<br>")}\n</div>' if text else ""
    picture = '<div class="pull_left userpic_wrap"><div class="userpic userpic1"></div></div>' if name else ""
    return f"""
     <div class="message default clearfix{"" if name else " joined"} {classes}" id="message{id_}">
      {picture}<div class="body">
       <div class="pull_right date details" title="{title}">
{title[11:16]}
       </div>
       {who}{body}{words}
      </div>
     </div>"""


def telegram_html(talk: list[Said] = TALK) -> str:
    return telegram_page("".join(telegram_message(at, *said) for at, said in enumerate(talk, 1)))


def whatsapp(talk: list[Said] = TALK, *, iphone: bool = False) -> str:
    dates = [
        clock(at).strftime("%d.%m.%Y, %H:%M:%S" if iphone else "%d.%m.%Y, %H:%M") for at in range(1, len(talk) + 1)
    ]
    form = "[{}] {}: {}\n" if iphone else "{} - {}: {}\n"
    return "".join(form.format(date, *said) for date, said in zip(dates, talk, strict=True))


MONTHS = "янв фев мар апр мая июн июл авг сен окт ноя дек".split()  # noqa: SIM905


def vk_message(id_: int, name: str | None, text: str, kludges: str = "", peer: int = 123) -> str:
    """A message of the archive; without a name one's own."""
    time = clock(id_)
    date = f"{time.day} {MONTHS[time.month - 1]} {time.year} в {time:%H:%M:%S}"
    who = f'<a href="https://vk.com/id{peer}">{escape(name)}</a>' if name else "Вы"
    inner = escape(text).replace("\n", "<br>")
    return f"""<div class='item'><div class='item__main'><div class="message" data-id="{id_}">
  <div class="message__header">{who}, {date}</div>
  <div>{inner}<div class="kludges">{kludges}</div></div>
</div></div></div>"""


def vk_page(messages: list[str], name: str = "Мама") -> bytes:
    """A page with the newest message first."""
    page = f"""<!DOCTYPE html><html><head><meta charset="windows-1251"><title>VK</title></head><body>
<div class="wrap"><div class="header"><a class="ui_crumb" href="../index.html">Профиль</a>
<div class="ui_crumb">{escape(name)}</div></div>{"".join(reversed(messages))}</div></body></html>"""
    return page.encode("cp1251", errors="xmlcharrefreplace")


def vk(talk: list[Said] = TALK) -> bytes:
    return vk_page([vk_message(at, name if name != "Катя" else None, text) for at, (name, text) in enumerate(talk, 1)])


def discord_message(id_: int, name: str, text: str, **more: Any) -> dict[str, Any]:
    author = {"id": str(10**17 + sum(map(ord, name))), "name": name.lower(), "discriminator": "0000", "nickname": name,
              "color": None, "isBot": False, "roles": [], "avatarUrl": "x.png"}  # fmt: skip
    return {
        "id": str(id_), "type": "Default", "timestamp": clock(id_).isoformat() + "+03:00", "timestampEdited": None,
        "callEndedTimestamp": None, "isPinned": False, "content": text, "author": author, "attachments": [],
        "embeds": [], "stickers": [], "reactions": [], "mentions": [], **more,
    }  # fmt: skip


def discord(messages: list[dict[str, Any]] | None = None, channel: str = "DirectTextChat") -> str:
    if messages is None:
        messages = [discord_message(at, *said) for at, said in enumerate(TALK, 1)]
    value = {
        "guild": {"id": "0", "name": "Direct Messages", "iconUrl": "x.png"},
        "channel": {"id": "1", "type": channel, "categoryId": None, "category": "Private", "name": "Мама"},
        "dateRange": {"after": None, "before": None}, "exportedAt": "2025-01-01T00:00:00+03:00",
        "messages": messages, "messageCount": len(messages),
    }  # fmt: skip
    return json.dumps(value, ensure_ascii=False, indent=2)


def meta(text: str) -> str:
    """The text as Meta writes it: a character for every byte of UTF-8."""
    return text.encode().decode("latin-1")


def instagram_message(id_: int, name: str, text: str | None, **more: Any) -> dict[str, Any]:
    message = {"sender_name": meta(name), "timestamp_ms": (START + 60 * id_) * 1000, **more,
               "is_geoblocked_for_viewer": False}  # fmt: skip
    return message if text is None else {**message, "content": meta(text)}


def instagram(messages: list[dict[str, Any]] | None = None) -> str:
    if messages is None:
        messages = [instagram_message(at, *said) for at, said in enumerate(TALK, 1)]
    value = {
        "participants": [{"name": meta("Мама")}, {"name": meta("Катя")}], "messages": messages[::-1],
        "title": meta("Мама"), "is_still_participant": True, "thread_path": "inbox/mama_1", "magic_words": [],
    }  # fmt: skip
    return json.dumps(value, indent=2)  # escapes and all


def chatgpt_node(
    key: str, parent: str | None, children: list[str], role: str, parts: list[Any], **more: Any
) -> dict[str, Any]:
    message = {
        "id": key, "author": {"role": role, "name": None, "metadata": {}}, "create_time": START + 60.5 * len(key),
        "content": {"content_type": "text", "parts": parts}, "status": "finished_successfully", "end_turn": True,
        "weight": 1.0, "metadata": {}, "recipient": "all", **more,
    }  # fmt: skip
    return {"id": key, "message": message, "parent": parent, "children": children}


def chatgpt() -> str:
    nodes = {
        "r": {"id": "r", "message": None, "parent": None, "children": ["s"]},
        "s": chatgpt_node("s", "r", ["uu"], "system", [""], metadata={"is_visually_hidden_from_conversation": True}),
        "uu": chatgpt_node("uu", "s", ["old", "new"], "user", ["Привет"]),
        "old": chatgpt_node("old", "uu", [], "assistant", ["Отвергнутый ответ"]),
        "new": chatgpt_node("new", "uu", ["tool"], "assistant", ["Здравствуйте"]),
        "tool": chatgpt_node("tool", "new", ["uuuuu"], "tool", ["42"]),
        "uuuuu": chatgpt_node(
            "uuuuu", "tool", ["aaaaaa"], "user", [{"content_type": "image_asset_pointer"}, "Что здесь?"],
            content={"content_type": "multimodal_text", "parts": [{"asset_pointer": "x"}, "Что здесь?"]},
        ),
        "aaaaaa": chatgpt_node("aaaaaa", "uuuuu", [], "assistant", ["Кот"]),
    }  # fmt: skip
    value = [{"title": "Чат", "create_time": START + 0.1, "update_time": 1.0, "mapping": nodes,
              "current_node": "aaaaaa", "conversation_id": "x"}]  # fmt: skip
    return json.dumps(value, ensure_ascii=False)


def claude_message(minute: int, sender: str, *said: str, parent: int | None = None, **more: Any) -> dict[str, Any]:
    """A message of Claude's export, without `parent` as exports before 2026 have it."""
    follows = {} if parent is None else {"parent_message_uuid": f"{parent:036}"}
    content = [{"type": "text", "text": text, "citations": []} for text in said]
    return {
        "uuid": f"{minute:036}", "text": "\n".join(said), "content": content, "sender": sender,
        "created_at": f"{clock(minute):%Y-%m-%dT%H:%M:%S}.000000Z", "attachments": [], "files": [], **follows, **more,
    }  # fmt: skip


def claude(messages: list[dict[str, Any]] | None = None) -> str:
    if messages is None:
        messages = [
            claude_message(1, "human", "Привет", parent=0), claude_message(2, "assistant", "Отвергнутый", parent=1),
            claude_message(3, "assistant", "Здравствуйте", parent=1),
            claude_message(4, "human", parent=3, text="", files=[{"file_name": "кот.png"}]),
            claude_message(5, "assistant", "Кот", parent=4),
        ]  # fmt: skip
    value = [{"uuid": "c1", "name": "Чат", "summary": "", "created_at": "2023-11-14T22:13:20.000000Z",
              "account": {"uuid": "a"}, "chat_messages": messages}]  # fmt: skip
    return json.dumps(value, ensure_ascii=False)
