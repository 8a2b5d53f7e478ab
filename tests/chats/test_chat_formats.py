"""Chats of every program that is read: the same talk becomes the same rows, and what each writes in its own way."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import sample_exports as made
from sample_exports import discord_message, instagram_message, telegram_message, telegram_page, vk_message

from tests.conftest import REPOSITORY
from train.chats.chat_exports import find_exports, what_is_lacking
from train.chats.rows import text_of
from train.chats.telegram.collect_export import collect_exports
from train.chats.telegram.dialogues import Selection, collect_dialogues
from train.chats.telegram.participants import find_persona, survey_exports
from train.core.errors import GovorError

ROWS = ["Ты дома?\nПозвони, как сможешь «на минутку» / Дома. <3 & звоню!\nСейчас / А что на ужин? / Борщ"]


def collected(*paths: Path, persona: str = "Катя", **options):
    survey = survey_exports(paths)
    found = collect_dialogues(survey, find_persona(survey, [persona]), Selection(**options))
    report = found.report
    assert report.messages_read == report.messages_kept + report.dropped.total()
    return found


def turns(found) -> list[str]:
    return [" / ".join(text_of(message) for message in row.messages) for row in found.rows]


def written(tmp_path: Path, content: str | bytes, name: str) -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


FILES = {
    "messages.html": made.telegram_html(),
    "_chat.txt": made.whatsapp(iphone=True),
    "WhatsApp Chat with Мама.txt": made.whatsapp(),
    "messages/123/messages0.html": made.vk(),
    "channel.json": made.discord(),
    "inbox/mama_1/message_1.json": made.instagram(),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", ["file", "folder", "zip"])
def test_the_same_talk_gives_the_same_rows(name, where, tmp_path):
    path = written(tmp_path, FILES[name], f"in/{name}")
    if where == "zip":
        path = tmp_path / "Archive.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(tmp_path / "in" / name, name)
            archive.writestr("photos/1.jpg", b"\xff\xd8\xff")
    persona = "Вы" if "123" in name else "Катя"
    found = collected(tmp_path / "in" if where == "folder" else path, persona=persona)
    assert turns(found) == ROWS
    [dialogue] = found.dialogues
    assert dialogue.chat_type == "personal_chat"
    expected = {"in": "_chat", "zip": "_chat"}.get(where, "_chat") if name == "_chat.txt" else "Мама"
    assert dialogue.channel == expected


def test_everything_at_once_is_one_collection(tmp_path):
    for number, (name, content) in enumerate(FILES.items()):
        written(tmp_path, content, f"all/{number}/{name}")
    written(tmp_path, b"\x89PNG", "all/photo.png")
    written(tmp_path, '{"version": 3}', "all/settings.json")
    survey = survey_exports([tmp_path / "all"])
    personas = [who.id for who in survey.participants if who.names[:1] == ("Катя",)] + ["Вы"]
    found = collect_dialogues(survey, find_persona(survey, personas))
    assert turns(found)[0] == ROWS[0] and found.report.channels == len(FILES)
    lacking = what_is_lacking(survey.exports)
    assert [line.split("'")[0] for line in lacking] == ["Instagram", "Telegram", "VK", "WhatsApp"]


# Telegram's pages

VOICE = """<div class="media_wrap clearfix"><div class="media clearfix pull_left media_voice_message">
<div class="body"><div class="title bold">Voice message</div>
<div class="status details">00:41</div></div></div></div>"""
STICKER = """<div class="media_wrap clearfix"><div class="media clearfix pull_left media_photo"><div class="body">
<div class="title bold">Sticker</div><div class="status details">{}, 12.1 KB</div></div></div></div>"""
PHOTO = '<div class="media_wrap clearfix"><a class="photo_wrap clearfix pull_left" href="photos/1.jpg"></a></div>'
CALL = '<div class="media_wrap clearfix"><div class="media clearfix pull_left media_call success"></div></div>'
FORWARD = """<div class="pull_left forwarded userpic_wrap"></div><div class="forwarded body"><div class="from_name">
РБК<span class="date details" title="01.01.2020 10:05:00 UTC+03:00"> 01.01.2020</span></div>
<div class="text">Ставка выросла</div></div>"""
REPLY = """<div class="reply_to details">In reply to <a href="{}#go_to_message{}">this message</a></div>"""


def pages(tmp_path: Path, *each: str, name: str = "Мама") -> Path:
    for number, messages in enumerate(each, 1):
        written(tmp_path, telegram_page(messages, name), f"chat/messages{number if number > 1 else ''}.html")
    return tmp_path / "chat"


def test_pages_follow_each_other_by_number(tmp_path):
    each = [telegram_message(n, "Мама" if n % 2 else "Катя", str(n)) for n in range(1, 13)]
    folder = pages(tmp_path, *each)
    assert turns(collected(folder)) == [" / ".join(map(str, range(1, 13)))]
    [export] = find_exports([folder / "messages3.html"])
    assert len(export.files) == 12, "a page stands for its chat"


def test_what_a_page_says_of_a_message(tmp_path):
    folder = pages(
        tmp_path,
        telegram_message(1, "Мама", "Раз")
        + telegram_message(2, "Катя", "Два")
        + telegram_message(3, "Мама", body=VOICE)
        + telegram_message(4, "Катя", "Ответ на голосовое")
        + telegram_message(5, "Мама", body=STICKER.format("😂"))
        + telegram_message(6, "Катя", "ахаха")
        + telegram_message(7, None, "и ещё")
        + telegram_message(8, "Мама", body=FORWARD)
        + telegram_message(9, None, "Видела?")
        + telegram_message(10, "Катя", "Видела")
        + telegram_message(11, "Мама", body=CALL)
        + telegram_message(12, "Катя", "Поговорили")
        + telegram_message(13, "Мама", "Фото ниже", body=PHOTO)
        + telegram_message(14, "Катя via @gif ", "гифка"),
        telegram_message(15, "Мама", "А это?")
        + telegram_message(16, "Мама", "И это?")
        + telegram_message(17, "Катя", "Да", body=REPLY.format("", 15))
        + telegram_message(18, "Катя", "Раз", body=REPLY.format("messages.html", 13)),
    )  # fmt: skip
    found = collected(folder)
    assert turns(found) == [
        "Раз / Два", "😂 / ахаха\nи ещё / переслано: Ставка выросла\nВидела? / Видела", "А это? / Да"
    ]  # fmt: skip
    dropped = +found.report.dropped
    assert (dropped["answer_to_media"], dropped["answer_to_call"], dropped["bot"]) == (1, 1, 1)
    assert dropped["media_without_text"] == 1 and dropped["call"] == 1


def test_a_group_of_pages_keeps_people_apart(tmp_path):
    messages = [("Оля", "Кто был?"), ("Игорь", "Как доехать?"), ("Катя", "Автобусом")]
    folder = pages(tmp_path, "".join(telegram_message(n, *said) for n, said in enumerate(messages, 1)), name="Дача")
    assert turns(collected(folder)) == ["Оля: Кто был?\nИгорь: Как доехать? / Автобусом"]


def test_topics_of_a_forum_are_talks_of_their_own(tmp_path):
    head = '<div class="message service" id="message{}"><div class="body details">Оля created topic «{}»</div></div>'
    folder = pages(
        tmp_path,
        head.format(1, "Дом")
        + head.format(2, "Дача")
        + telegram_message(3, "Оля", "Кто дома?", body=REPLY.format("", 1))
        + telegram_message(4, "Игорь", "Кто на даче?", body=REPLY.format("", 2))
        + telegram_message(5, "Катя", "Я дома", body=REPLY.format("", 1)),
    )
    assert turns(collected(folder)) == ["Кто дома? / Я дома"]


def test_json_is_preferred_to_pages_beside_it(tmp_path):
    folder = pages(tmp_path, telegram_message(1, "Мама", "Раз") + telegram_message(2, "Катя", "Два"))
    messages = [
        {"id": n, "type": "message", "date_unixtime": str(made.START + 60 * n), "from": who, "from_id": "user7"[:n + 3],
         "text": text} for n, (who, text) in enumerate([("Мама", "Раз"), ("Катюша", "Два")], 1)
    ]  # fmt: skip
    chat = {"name": "Мама", "type": "personal_chat", "id": 2, "messages": messages}
    written(tmp_path, json.dumps(chat), "chat/result.json")
    assert [export.format.name for export in find_exports([folder])] == ["Telegram's JSON"]
    assert turns(collected(folder, persona="Катюша")) == ["Раз / Два"]


# WhatsApp

LRM = "\u200e"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"{LRM}[12.02.2025, 14:24:00] Мама: {LRM}изображение отсутствует", "media_without_text"),
        (f"[12.02.2025, 14:24:00] Мама: {LRM}audio omitted", "media_without_text"),
        ("12.02.2025, 14:24 - Мама: <Без медиафайлов>", "media_without_text"),
        ("12.02.2025, 14:24 - Мама: <Media omitted>", "media_without_text"),
        (f"12.02.2025, 14:24 - Мама: {LRM}IMG-20250212-WA0001.jpg (файл добавлен)", "media_without_text"),
        (
            f"[12.02.2025, 14:24:00] Мама: {LRM}<attached: 00000012-AUDIO-2025-02-12.opus>",
            "media_without_text",
        ),
        ("12.02.2025, 14:24 - Мама: местоположение: https://maps.google.com/?q=1,2", "media_without_text"),
        ("12.02.2025, 14:24 - Мама: POLL:\nКуда?\nOPTION: туда (1 vote)", "media_without_text"),
        ("12.02.2025, 14:24 - Мама: Данное сообщение удалено", "deleted"),
        ("12.02.2025, 14:24 - Мама: This message was deleted", "deleted"),
        (f"[12.02.2025, 14:24:00] Мама: {LRM}Пропущенный аудиозвонок", "call"),
        ("12.02.2025, 14:24 - Пропущенный видеозвонок", "call"),
        ("12.02.2025, 14:24 - Мама: Missed voice call", "call"),
        (f"[12.02.2025, 14:24:00] Мама: {LRM}image absente", "unsupported"),
        ("12.02.2025, 14:24 - Мама: Ожидание сообщения. Это может занять некоторое время.", "unsupported"),
        ("12.02.2025, 14:24 - Мама: Waiting for this message. This may take a while.", "unsupported"),
        ("12.02.2025, 14:24 - Мама: Это сообщение удалено", "deleted"),
        (
            f"[12.02.2025, 14:24:00] Мама: Смета.pdf • {LRM}3 страницы {LRM}<прикреплено: 00000012-Смета.pdf>",
            "media_without_text",
        ),
        ("12.02.2025, 14:24 - Мама: <Média vynechány>", "media_without_text"),
        (f"[12.02.2025, 14:24:00] Мама: {LRM}Вы изменили код безопасности", "service"),
        ('12.02.2025, 14:24 - Мама изменила тему с "Дом" на "Дача: лето"', "service"),
        ("12.02.2025, 14:24 - Сообщения и звонки защищены сквозным шифрованием. Подробнее.", "service"),
    ],
)
def test_what_whatsapp_writes_instead_of_words(line, reason, tmp_path):
    before, after = "12.02.2025, 14:2{} - {}: {}\n", "12.02.2025, 14:25 - Катя: Ясно\n"
    text = before.format(0, "Мама", "Раз") + before.format(1, "Катя", "Два") + line + "\n" + after
    found = collected(written(tmp_path, text, "chat.txt"))
    assert found.report.dropped[reason] == 1
    if reason == "service":  # it does not stand between
        assert turns(found) == ["Раз / Два\nЯсно"]
    else:
        assert turns(found) == ["Раз / Два"]
        answer = {"media_without_text": "answer_to_media", "call": "answer_to_call"}.get(reason, "answer_to_left_out")
        assert found.report.dropped[answer] == 1


@pytest.mark.parametrize(
    ("stamp", "day"),
    [
        ("[{d}.{m}.2025, 14:00:0{n}] ", "dmy"), ("{d}/{m}/2025, 14:00 - ", "dmy"), ("{m}/{d}/25, 2:00 PM - ", "mdy"),
        ("{m}/{d}/25, 2:00\u202fPM - ", "mdy"), ("2025-{m}-{d}, 14:00 - ", "ymd"),
        ("[{d}/{m}/25, 2:00:0{n} PM] ", "dmy"),
        ("{d}.{m}.25, 14:00 - ", "dmy"), ("{d}.{m}.2025 в 14:00 - ", "dmy"),
        ("{d}.{m}.25, 2:00\u202fПП - ", "dmy"), ("{d}/{m}/25, 2:00 p.\xa0m. - ", "dmy"),
        ("{d}/{m}/25, 2:00\u202fpm - ", "dmy"), ("{d}.{m}.25 14:00 - ", "dmy"), ("{d}/{m}/25 14.00 - ", "dmy"),
    ],
)  # fmt: skip
def test_dates_are_read_in_the_order_of_the_chat(stamp, day, tmp_path):
    """Of 3 to 6 February: only that time goes on tells the order, no number is above 12."""
    lines = [stamp.format(d=f"{3 + n:02}", m="02", n=n) + f"{'Катя' if n % 2 else 'Мама'}: {n}" for n in range(4)]
    found = collected(written(tmp_path, "\n".join(lines), "chat.txt"), answer_within=30)
    assert [dialogue.date[:13] for dialogue in found.dialogues] == ["2025-02-03T14", "2025-02-05T14"], day
    assert turns(found) == ["0 / 1", "2 / 3"]


def test_lines_captions_edits_and_names(tmp_path):
    text = (
        "12.02.2025, 14:20 - Мама: IMG-20250212-WA0001.jpg (файл добавлен)\nПодпись: вот\n\n12 лет назад\n"
        "12.02.2025, 14:21 - Катя: Точно: он <This message was edited>\n"
        "12.02.2025, 14:22 - +7 900 000-00-00: видео отсутствует у меня\n"
        "12.02.2025, 14:23 - Катя: <script> и {скобки}\n"
    )
    found = collected(written(tmp_path, text, "Чат WhatsApp с контактом Семья.txt"))
    assert turns(found) == [
        "Мама: Подпись: вот\n\n12 лет назад / Точно: он / +7 900 000-00-00: видео отсутствует у меня / "
        "<script> и {скобки}"
    ]  # fmt: skip
    assert found.dialogues[0].channel == "Семья" and found.dialogues[0].chat_type == "private_group"


def test_names_with_quotes_labels_behind_captions_and_mentions(tmp_path):
    text = (
        f'[12.02.2025, 14:20:00] Вася "Бык": Смотри: вот {LRM}изображение отсутствует\n'
        "[12.02.2025, 14:21:00] Катя: @\u2068Пётр Иванов\u2069, глянь\n"
        '[12.02.2025, 14:22:00] Катя изменила тему с "Дом: раз" на "Дом: два"\n'
    )
    file = written(tmp_path, text, "_chat.txt")
    found = collected(file)
    assert turns(found) == ["Смотри: вот / @Пётр Иванов, глянь"] and found.report.dropped["service"] == 1
    assert list(survey_exports([file]).mentions.values()) == [["Пётр Иванов"]]


def test_two_exports_of_one_chat_count_once(tmp_path):
    name = "WhatsApp Chat with Мама.txt"
    early = written(tmp_path, made.whatsapp(made.TALK[:3]), f"1/{name}")
    late = written(tmp_path, made.whatsapp(), f"2/{name}")
    found = collected(early, late)
    assert turns(found) == [
        "Ты дома?\nПозвони, как сможешь «на минутку» / Дома. <3 & звоню!\nСейчас",
        "А что на ужин? / Борщ",
    ]
    assert found.report.dropped["duplicate"] == 3


def test_an_archive_is_never_unpacked_to_the_disk_and_bounded(tmp_path, monkeypatch):
    path = tmp_path / "WhatsApp Chat - Мама.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../_chat.txt", made.whatsapp(iphone=True))
    before = sorted(tmp_path.parent.rglob("*"))
    found = collected(path)
    assert turns(found) == ROWS and found.dialogues[0].channel == "Мама"
    assert sorted(tmp_path.parent.rglob("*")) == before
    monkeypatch.setattr("train.chats.sources.MOST_UNPACKED", 300)
    with pytest.raises(GovorError, match=r"1 files that unpack to .* GB: unpack it yourself"):
        collected(path)


@pytest.mark.parametrize("content", [b"PK\x03\x04 and no more", b"PK\x03\x04" + b"\x00" * 60])
def test_a_damaged_archive_is_named(content, tmp_path):
    with pytest.raises(GovorError, match="not a whole zip archive"):
        collected(written(tmp_path, content, "chat.zip"))


def test_a_locked_archive_is_named(tmp_path):
    path = tmp_path / "chat.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("_chat.txt", made.whatsapp())
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag of encrypted contents
    with pytest.raises(GovorError, match="the archive has a password"):
        collected(written(tmp_path, bytes(content), "chat.zip"))


# VK


def test_vk_has_the_newest_first_and_pages_of_fifty(tmp_path):
    attached = '<div class="attachment"><div class="attachment__description">{}</div></div>'
    late = [
        vk_message(5, "Мама", "", attached.format("Голосовое сообщение")), vk_message(6, None, "Ответ на голосовое"),
        vk_message(7, "Мама", "С фото", attached.format("Фотография")), vk_message(8, None, "Вижу"),
        vk_message(9, None, "", attached.format("Стикер")),
    ]  # fmt: skip
    early = [vk_message(1, "Мама", "Раз"), vk_message(2, None, "Два"), vk_message(3, "Мама", "Три & [id5|ещё]"),
             vk_message(4, None, "Четыре 😀")]  # fmt: skip
    written(tmp_path, made.vk_page(early), "Archive/messages/123/messages50.html")
    written(tmp_path, made.vk_page(late), "Archive/messages/123/messages0.html")
    written(tmp_path, made.vk_page([vk_message(1, "Оля", "?", peer=9), vk_message(2, None, "!")], "Оля"),
            "Archive/messages/9/messages0.html")  # fmt: skip
    found = collected(tmp_path / "Archive", persona="Вы")
    assert turns(found) == ["? / !", "Раз / Два / Три & ещё / Четыре 😀", "С фото / Вижу"]
    assert found.report.by_channel.keys() == {"Мама", "Оля"}
    assert found.report.dropped["answer_to_media"] == 1 and found.report.dropped["media_without_text"] == 2
    other = collected(tmp_path / "Archive", persona="vk123")
    assert turns(other) == ["Два / Три & ещё", "Ответ на голосовое / С фото"], "nothing stands before her first"


# Discord, Instagram, ChatGPT


def test_discord_replies_calls_bots_and_forwards(tmp_path):
    katya, bot = "Катя", {"id": "7", "name": "bot", "isBot": True}
    to = {"messageId": "1", "channelId": "1", "guildId": None}
    messages = [
        discord_message(1, "Оленька", "Кто был?"), discord_message(2, "Игорь", "Как доехать?"),
        discord_message(3, katya, "Я", type="Reply", reference=to), discord_message(4, "x", "!", author=bot),
        discord_message(5, katya, "Автобусом", type="Reply", reference={**to, "messageId": "2"}),
        discord_message(6, "Игорь", "", attachments=[{"fileName": "кот.png"}]), discord_message(7, katya, "Милый"),
        discord_message(8, "Игорь", "", type="ChannelPinnedMessage"),
        discord_message(9, "Игорь", "", forwardedMessage={"content": "Новость"}), discord_message(10, katya, "Ого"),
        discord_message(11, katya, "чужое", type="Reply", reference={**to, "messageId": "77"}),
    ]  # fmt: skip
    found = collected(written(tmp_path, made.discord(messages, "GuildTextChat"), "c.json"))
    assert turns(found) == ["Оленька: Кто был? / Я / Игорь: Как доехать? / Автобусом", "переслано: Новость / Ого"]
    dropped = +found.report.dropped
    assert dropped == {"bot": 1, "media_without_text": 1, "answer_to_media": 1, "service": 1, "answer_to_absent": 1}


def test_instagram_is_mended_and_read_backwards(tmp_path):
    late = [
        instagram_message(4, "Мама", None, photos=[{"uri": "x"}]), instagram_message(5, "Катя", "Красиво"),
        instagram_message(6, "Мама", "Liked a message"), instagram_message(7, "Мама", "Где ты? 😀"),
        instagram_message(8, "Катя", "Тут"),
        instagram_message(9, "Мама", "Мама sent an attachment.", share={"link": "x"}),
        instagram_message(10, "Катя", "Читала"),
    ]  # fmt: skip
    early = [instagram_message(1, "Мама", "Раз"), instagram_message(2, "Катя", "Два")]
    for number, messages in ((1, late), (2, early)):
        written(tmp_path, made.instagram(messages), f"inbox/mama/message_{number}.json")
    found = collected(tmp_path / "inbox")
    assert turns(found) == ["Раз / Два", "Где ты? 😀 / Тут"]
    assert +found.report.dropped == {"media_without_text": 2, "answer_to_media": 2, "service": 1}


def test_chatgpt_is_the_branch_that_was_last(tmp_path):
    found = collected(written(tmp_path, made.chatgpt(), "conversations.json"), persona="assistant")
    assert turns(found) == ["Привет / Здравствуйте / Что здесь? / Кот"]
    assert +found.report.dropped == {"service": 2, "other_branch": 1}
    assert turns(collected(tmp_path / "conversations.json", persona="user")) == ["Здравствуйте / Что здесь?"]


def test_what_was_said_aloud_to_chatgpt_is_said_and_citations_are_not(tmp_path):
    def node(key, parent, role, *parts):
        content = {"content_type": "multimodal_text", "parts": parts}
        return key, {"parent": parent, "message": {"author": {"role": role}, "create_time": 1, "content": content}}

    said = [{"content_type": "audio_transcription", "text": "Который час?"}, {"content_type": "audio_asset_pointer"}]
    nodes = [node("a", None, "user", *said), node("b", "a", "assistant", "Полдень \ue200cite\ue202t0\ue201【1†a】.")]
    file = written(tmp_path, json.dumps([{"mapping": dict(nodes), "current_node": "b"}]), "conversations.json")
    assert turns(collected(file, persona="assistant")) == ["Который час? / Полдень."]


def test_claude_is_the_branch_that_was_last(tmp_path):
    found = collected(written(tmp_path, made.claude(), "conversations.json"), persona="assistant")
    assert turns(found) == ["Привет / Здравствуйте"]
    assert +found.report.dropped == {"other_branch": 1, "media_without_text": 1, "answer_to_media": 1}
    thought = made.claude_message(2, "assistant", "Да", "Полдень.")
    thought["content"].insert(0, {"type": "thinking", "thinking": "Который час?"})
    older = [made.claude_message(1, "human", "Уже полдень?"), thought, made.claude_message(3, "system", "!")]
    file = written(tmp_path, made.claude(older), "older/conversations.json")
    found = collected(file, persona="assistant")
    assert turns(found) == ["Уже полдень? / Да\nПолдень."] and +found.report.dropped == {"service": 1}


def test_an_empty_chat_stops_nothing(tmp_path):
    written(tmp_path, made.instagram(), "inbox/mama_1/message_1.json")
    empty = {"participants": [{"name": "a"}], "messages": [], "title": "a"}
    written(tmp_path, json.dumps(empty), "message_requests/a_2/message_1.json")
    written(tmp_path, telegram_page("", name="Пусто"), "chats/chat_1/messages.html")
    found = collected(tmp_path)
    assert turns(found) == ROWS and found.report.channels == 3


def test_calls_on_instagram_and_encrypted_chats_of_messenger(tmp_path):
    talk = [("Мама", "Ты дома?"), ("Катя", "Да"), ("Мама", "Мама started an audio call"), ("Мама", "Audio call ended")]
    messages = [instagram_message(n, *said) for n, said in enumerate(talk)]
    people = [{"name": "Мама"}, {"name": "Катя"}]
    file = written(tmp_path, json.dumps({"participants": people, "messages": messages}), "message_1.json")
    assert turns(collected(file)) == ["Ты дома? / Да"] and collected(file).report.dropped["call"] == 2
    for name in ("Мама", "Папа"):
        said = [{"senderName": "Катя", "text": "Да", "timestamp": 9000, "isUnsent": False, "media": []},
                {"senderName": name, "text": f"{name}?", "timestamp": 8000, "isUnsent": False}]  # fmt: skip
        chat = {"participants": [name, "Катя"], "threadName": f"{name}_7", "messages": said}
        written(tmp_path, json.dumps(chat), f"e2e/{name}_7.json")
    found = collected(tmp_path / "e2e")
    assert turns(found) == ["Мама? / Да", "Папа? / Да"] and [d.channel for d in found.dialogues] == ["Мама", "Папа"]


def test_whoever_is_mentioned_by_name_is_known_to_the_scrubber(tmp_path):
    link = '<div class="text"><a href="" onclick="return ShowMentionName()">Пётр</a>, глянь</div>'
    pages = written(tmp_path, telegram_page(telegram_message(1, "Мама", body=link)), "messages.html")
    message = discord_message(1, "Мама", "@Пётр, глянь") | {"mentions": [{"id": "9", "name": "p", "nickname": "Пётр"}]}
    channel = {"guild": {}, "channel": {"id": "1", "type": "DirectTextChat"}, "messages": [message]}
    discord = written(tmp_path, json.dumps(channel), "d/discord.json")
    for file in (pages, discord):
        assert list(survey_exports([file]).mentions.values()) == [["Пётр"]]


def test_scrubbing_and_the_account_hold_for_every_format(tmp_path, capsys):
    text = made.whatsapp([("Ольга Зайцева", "Я Ольга Зайцева, телефон +7 916 123-45-67"), ("Катя", "Привет, Ольга!")])
    path = written(tmp_path, text, "Чат WhatsApp с контактом Ольга Зайцева.txt")
    options = {"slug": "katya", "system": None, "scrub": True, "force": False}
    collect_exports([path], ["Катя"], tmp_path / "out", Selection(), **options)
    files = "".join(file.read_text() for file in (tmp_path / "out").iterdir() if "replace" not in file.name
                    and "private" not in file.name)  # fmt: skip
    assert "916" not in files and "Зайцев" not in files and "Катя" not in files.replace("katya", "")
    printed = capsys.readouterr().out
    assert "2 kept (100%)" in printed and "WhatsApp's text: replies and ids are not in it" in printed


def test_pages_are_read_in_the_memory_of_a_message(tmp_path):
    """A page of 40 MB that no program writes, and one a hundredth of it: the second peak is the first's."""
    code = """
import sys, resource
from pathlib import Path
from train.chats.telegram.html_export import read_chats
for path in sys.argv[1:]:
    count = sum(1 for _ in read_chats([Path(path)]))
    print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    paths = []
    for count in (200, 20_000):
        body = "".join(telegram_message(n, "Мама" if n % 2 else "Катя", "слово " * 150) for n in range(1, count + 1))
        paths.append(written(tmp_path, telegram_page(body), f"{count}.html"))
    command = [sys.executable, "-c", code, *map(str, paths)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    (_, small), (count, big) = (map(int, line.split()) for line in run.stdout.splitlines())
    assert count == 20_001 and big - small < paths[1].stat().st_size / 4


def test_a_talk_is_named_to_who_takes_it_for_rows(tmp_path):
    from train.chats.checks import check_file

    for name, content in FILES.items():
        path = written(tmp_path, content, name)
        [problem] = check_file(path).errors
        assert f"govor collect {path} --persona NAME" in problem.message, name
    with zipfile.ZipFile(tmp_path / "chat.zip", "w") as archive:
        archive.writestr("_chat.txt", made.whatsapp())
    [problem] = check_file(tmp_path / "chat.zip").errors
    assert problem.message.startswith("a zip of WhatsApp's text: govor collect")
    rows = written(tmp_path, '{"instruction": "а", "output": "б"}\n', "rows.jsonl")
    with pytest.raises(GovorError, match="rows in alpaca format, no chats"):
        find_exports([rows])
