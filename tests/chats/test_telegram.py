"""Telegram exports, written here as Telegram Desktop writes them, become dialogues and rows."""

import csv
import io
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from train.chats.chat_exports import find_exports
from train.chats.checks import check_file
from train.chats.messages import Chat, ChatMessage
from train.chats.readers import read_rows
from train.chats.rows import is_trained, text_of
from train.chats.statistics_page import channels_of
from train.chats.telegram.collect_export import words_filter, write_collected
from train.chats.telegram.dialogues import MAX_CHARS, MAX_TURNS, Selection, collect_dialogues
from train.chats.telegram.exchanges import pair
from train.chats.telegram.export import _ValidJson, read_export
from train.chats.telegram.participants import find_persona, survey_exports
from train.chats.telegram.sessions import Sessions
from train.core.errors import GovorError

NATASHA, IVAN, OLGA, BOT = "user1", "user2", "user3", "user9"
NAMES = {NATASHA: "Наташа", IVAN: "Иван", OLGA: "Ольга", BOT: "Rose"}
START = 1_700_000_000


def telegram_json(value) -> str:
    """JSON as Telegram Desktop writes it: `\\x0B` for a control character."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    code = {"b": "08", "f": "0C"}
    return re.sub(
        r"\\(\\|b|f|u00([01][0-9a-f]))",
        lambda m: m[0] if m[1] == "\\" else "\\x" + (m[2] or code[m[1]]).upper(),
        text,
    )


def say(id_, sender, text="", minute=None, **more):
    """A message of a chat; one a minute, unless its minute is given."""
    seconds = START + 60 * (id_ if minute is None else minute)
    local = datetime.fromtimestamp(seconds + 3 * 3600, UTC).replace(tzinfo=None)  # exported in Moscow
    return {
        "id": id_,
        "type": "message",
        "date": local.isoformat(),
        "date_unixtime": str(seconds),
        "from": NAMES.get(sender, sender),
        "from_id": sender,
        "text": text,
        "text_entities": [{"type": "plain", "text": text}] if text else [],
        **more,
    }


def service(id_, actor, action, minute=None, **more):
    message = say(id_, actor, minute=minute)
    del message["from"], message["from_id"]
    return {**message, "type": "service", "actor": NAMES[actor], "actor_id": actor, "action": action, **more}


def chat(*messages, name="Иван", type="personal_chat", id=2):  # noqa: A002
    return {"name": name, "type": type, "id": id, "messages": list(messages)}


def group(*messages, **header):
    return chat(*messages, **{"name": "Дача", "type": "private_supergroup", "id": 77, **header})


def full(*chats, left=()):
    return {
        "about": "Here is the data you requested.",
        "personal_information": {"user_id": 1, "first_name": "Наташа", "last_name": ""},
        "contacts": {"about": "", "list": [{"user_id": 2, "first_name": "Иван", "phone_number": "+7 900 000 00 00"}]},
        "chats": {"about": "This page lists all chats.", "list": list(chats)},
        "left_chats": {"about": "", "list": list(left)},
    }


@pytest.fixture
def write(tmp_path):
    def write(value, name="result.json"):
        path = tmp_path / name
        path.write_text(value if isinstance(value, str) else telegram_json(value), encoding="utf-8")
        return path

    return write


@pytest.fixture
def taken(write):
    """What is collected from an export."""

    def taken(value, persona="1", **options):
        scrub, system = options.pop("scrub", None), options.pop("system", None)
        personas = [persona] if isinstance(persona, str) else persona
        values = value if isinstance(value, tuple) else (value,)
        found = survey_exports([write(each, f"result{number}.json") for number, each in enumerate(values)])
        persona = find_persona(found, personas)
        collected = collect_dialogues(found, persona, Selection(**options), scrub=scrub, system=system)
        assert_adds_up(collected)
        return collected

    return taken


def assert_adds_up(collected):
    report = collected.report
    assert report.messages_read == report.messages_kept + report.dropped.total()
    assert report.messages_kept == sum(len(dialogue.turns) for dialogue in collected.dialogues)
    assert (report.dialogues, report.rows) == (len(collected.dialogues), len(collected.rows))
    assert [row.line for row in collected.rows] == list(range(1, report.rows + 1))
    assert all(count > 0 for count in (+report.dropped).values()) and min(report.dropped.values(), default=0) >= 0


def turns(collected):
    """Each row as `user text / assistant text / …`; an answer of weight 0 in brackets."""
    return [
        " / ".join(text_of(m) if m.get("weight", 1) else f"({text_of(m)})" for m in row.messages)
        for row in collected.rows
    ]


def reasons(collected):
    return +collected.report.dropped  # without zeros


# The file


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 7))
def test_control_characters_are_mended_in_chunks_of_any_size(text, size):
    text = text + "\x0b\\x0B\\\x0b\\\\\x1f"
    stream = _ValidJson(io.BytesIO(telegram_json({"text": text}).encode()))
    chunks = list(iter(lambda: stream.read(size), b""))
    assert json.loads(b"".join(chunks)) == {"text": text}


def test_control_characters_reach_the_row(taken):
    collected = taken(chat(say(1, IVAN, "а\x0bб\\x0B\\"), say(2, NATASHA, "\x01в\x1f")))
    assert turns(collected) == ["а\x0bб\\x0B\\ / \x01в"]  # \x1f is white space


def test_full_export_with_left_chats_and_single_chat(taken):
    one = chat(say(1, IVAN, "Привет"), say(2, NATASHA, "И тебе"))
    two = group(say(1, OLGA, "Где все?"), say(2, NATASHA, "Ушли"))
    assert turns(taken(full(one, left=[two]))) == ["Привет / И тебе", "Где все? / Ушли"]
    assert turns(taken(one)) == ["Привет / И тебе"]
    assert turns(taken(dict(reversed(one.items())))) == ["Привет / И тебе"]  # its header after the messages


def test_chats_without_a_name(write):
    own = {"type": "saved_messages", "id": 1, "messages": [say(1, NATASHA, "Купить хлеба")]}
    gone = chat(say(1, "user5", "Привет", **{"from": None}), say(2, NATASHA, "Кто это?"), name=None, id=5)
    path = write(full(own, gone))
    assert [item for item in read_export(path) if isinstance(item, Chat)] == [
        Chat(None, "saved_messages", 1, 1),
        Chat(None, "personal_chat", 5, 2, "user5"),
    ]
    collected = collect_dialogues(found := survey_exports([path]), find_persona(found, ["Наташа"]))
    assert turns(collected) == ["Привет / Кто это?"]  # a deleted account is somebody all the same
    assert [speaker.label for speaker in collected.dialogues[0].participants] == ["user5", "Наташа"]
    assert reasons(collected) == {"nothing_to_answer": 1}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "empty"),
        ("<!DOCTYPE html><html>", "an HTML page"),
        ("[]", "no export of chats"),
        ('{"messages": [{"role": "user", "content": "Привет"}]}', "rows in openai format, no chats"),
        ('{"about": "", "contacts": {"list": []}}', "no chats in it"),
        ('{"chats": {"list": []}}', "no chats in it"),
        ('{"name": "Иван", "id": 2, "messages": [{"id": 1, "text": "тайна', "ends in the middle"),
        ('{"name": "Иван", "id": 2, "messages": [{"id": 1, "text": тайна}]}', "JSON is broken"),
        ('{"type": "personal_chat", "id": 2, "messages": []}\n{"name": "Иван"}', "JSON is broken"),
        (f'{{"id": {"1" * 5000}}}', "JSON is broken"),
    ],
)
def test_other_files_are_named_in_one_line(write, content, expected):
    with pytest.raises(GovorError) as caught:
        survey_exports([write(content)])
    assert expected in str(caught.value) and "result.json" in str(caught.value)
    assert "\n" not in str(caught.value) and "тайна" not in str(caught.value)


def test_a_folder_is_all_the_exports_in_it(tmp_path):
    for number in range(3):
        folder = tmp_path / f"all/ChatExport_2026-11-{number + 10}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(telegram_json(chat(say(1, IVAN, f"{number}?"), say(2, NATASHA, "Да"))))
        (folder / "photos").mkdir()
    found = find_exports([tmp_path / "all", tmp_path / "all/ChatExport_2026-11-11/result.json"])
    assert [export.path.parent.name[-2:] for export in found] == ["10", "11", "12"]
    survey = survey_exports([tmp_path / "all"])
    assert [len(survey.chats), find_persona(survey, ["1"])[0].messages] == [3, 3]
    for name, expected in (("messages.html", "a folder without chats"), ("notes.txt", "a folder without chats")):
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        (folder / name).write_text("")
        with pytest.raises(GovorError, match=expected):
            find_exports([folder])
    with pytest.raises(GovorError, match="no such file"):
        survey_exports([tmp_path / "gone.json"])


def test_the_same_chat_in_two_exports_counts_once(taken):
    early = chat(say(1, IVAN, "Раз?"), say(2, NATASHA, "А"))
    late = chat(say(1, IVAN, "Раз?"), say(2, NATASHA, "А"), say(3, IVAN, "Два?", 900), say(4, NATASHA, "Б", 901))
    collected = taken((early, late))
    assert turns(collected) == ["Раз? / А", "Два? / Б"]
    assert reasons(collected) == {"duplicate": 2}


def test_byte_order_mark(taken):
    assert turns(taken("\ufeff" + telegram_json(chat(say(1, IVAN, "Да?"), say(2, NATASHA, "Нет"))))) == ["Да? / Нет"]


VALID = telegram_json(
    full(chat(say(1, IVAN, "Пр\x0bивет \\"), say(2, NATASHA, "И тебе", reply_to_message_id=1)))
).encode()


@settings(deadline=None)
@given(
    st.one_of(
        st.binary(),
        st.binary().map(b"{".__add__),
        st.integers(0, len(VALID)).map(lambda end: VALID[:end]),
        st.tuples(st.integers(0, len(VALID)), st.binary(max_size=5)).map(
            lambda cut: VALID[: cut[0]] + cut[1] + VALID[cut[0] + len(cut[1]) :]
        ),
    )
)
def test_damaged_files_are_errors_of_ours(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(data)
    try:
        found = survey_exports([path])
        collected = collect_dialogues(found, find_persona(found, ["1"]), scrub=str.upper)
    except GovorError as error:
        assert str(path) in str(error)
    else:
        assert_adds_up(collected)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "type"]), inner, max_size=2),
)
FIELDS = ["id", "type", "date", "date_unixtime", "edited_unixtime", "from", "from_id", "text", "text_entities",
          "reply_to_message_id", "reply_to_peer_id", "actor_id", "action", "forwarded_from", "media_type"]  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), ANYTHING) | ANYTHING, max_size=6), ANYTHING, ANYTHING)
def test_values_of_unexpected_types_are_left_out(tmp_path_factory, messages, id_, name):
    messages = [{**say(n, IVAN, "?"), **m} if isinstance(m, dict) else m for n, m in enumerate(messages)]
    value = full(group(say(100, OLGA, "Да?"), *messages, say(101, NATASHA, "Да"), name=name, id=id_))
    path = tmp_path_factory.getbasetemp() / "odd.json"
    path.write_text(json.dumps(value, ensure_ascii=True), encoding="utf-8")
    try:
        found = survey_exports([path])
        collected = collect_dialogues(found, find_persona(found, ["1"]))
    except GovorError as error:
        assert "broken" in str(error)  # an integer of more than 64 bits, half of a pair
    else:
        assert_adds_up(collected)
        assert collected.report.messages_read == len(messages) + 2


# The persona


def test_persona_by_id_and_by_each_of_its_names(write):
    path = write(
        full(
            chat(say(1, IVAN, "Да?"), say(2, NATASHA, "Да"), say(3, NATASHA, "Нет", **{"from": "Натали \u0438\u0306"})),
            group(say(1, "channel7", "Пост", **{"from": "Новости"})),
        )
    )
    found = survey_exports([path])
    expected = ("user1", ("Наташа", "Натали й"), 2, frozenset({0}))
    for wanted in ("user1", "1", " Наташа ", "Натали й"):
        assert find_persona(found, [wanted]) == [expected]
    assert [account.id for account in find_persona(found, ["7", "Новости"])] == ["channel7"]


def test_a_name_of_two_people_is_refused(write):
    one = chat(say(1, "user5", "Да?", **{"from": "Анна"}), say(2, NATASHA, "Да"))
    two = chat(*(say(n, "user6", "Да?", **{"from": "Анна"}) for n in range(3)))
    with pytest.raises(GovorError) as caught:
        find_persona(survey_exports([write(full(one, two))]), ["Анна"])
    assert "2 people are called 'Анна'" in str(caught.value)
    assert str(caught.value).endswith("\n  Анна: user6, 3 messages\n  Анна: user5, 1 messages")


def test_a_persona_that_wrote_nothing(write):
    talk = group(service(1, OLGA, "pin_message"), say(2, IVAN, "Да?"), say(3, IVAN, "Нет?"))
    found = survey_exports([write(talk)])
    assert [(who.id, who.messages) for who in found.participants] == [(OLGA, 0), (IVAN, 2)]
    for wanted, expected in (("Ольга", "'Ольга' has written nothing"), ("Пётр", "nobody is called 'Пётр'")):
        with pytest.raises(GovorError, match=expected) as caught:
            find_persona(found, [wanted])
        assert str(caught.value).endswith("those who write most:\n  Иван: user2, 2 messages")


def test_the_name_of_a_personal_chat_is_its_partners(write):
    messages = (say(1, NATASHA, "Ау?"), say(2, IVAN, "Что?", **{"from": None}))
    found = survey_exports([write(chat(*messages, name="Ваня Петров"))])
    assert [(who.id, who.names) for who in found.participants] == [(NATASHA, ("Наташа",)), (IVAN, ("Ваня Петров",))]
    assert find_persona(found, ["Ваня Петров"])[0].messages == 1


def test_old_exports_hold_numbers_and_no_unix_time(taken):
    messages = [say(1, IVAN, "Да?", from_id=2), say(2, NATASHA, "Да", from_id=1), say(3, IVAN, "Ау?", 800, from_id=2)]
    for message in messages:
        del message["date_unixtime"], message["text_entities"]
    collected = taken(chat(*messages))
    assert turns(collected) == ["Да? / Да"]
    assert reasons(collected) == {"persona_silent": 1}
    assert collected.dialogues[0].date == "2023-11-15T01:14:20+00:00"


# What is left out


def test_every_reason_is_counted(taken):
    collected = taken(
        full(
            group(
                {"id": 4, "type": "unsupported"},
                say(1, NATASHA, "Есть кто?"),
                say(2, IVAN, "Я"),
                service(3, OLGA, "pin_message"),
                say(20, IVAN, "Переслали?"),
                say(5, IVAN, "Новость", forwarded_from="Новости"),
                say(6, IVAN, "Новость", forwarded_from=None),
                say(21, NATASHA, "Да"),
                say(22, IVAN, media_type="voice_message", file="v.ogg"),
                say(23, NATASHA, "Слышу"),
                service(24, IVAN, "phone_call"),
                say(25, NATASHA, "Договорились"),
                say(26, IVAN, "Спишь?"),
                say(7, NATASHA, "Гифка", via_bot="@gif"),
                say(8, BOT, "Правила чата"),
                say(9, NATASHA, file="(File not included. Change data exporting settings to download.)",
                    media_type="sticker", sticker_emoji="👍"),
                say(10, NATASHA, "Вот", photo="(File not included. …)", width=1, height=1),
                say(11, NATASHA, " \n"),
                {k: v for k, v in say(12, IVAN, "Кто я?").items() if k != "from_id"},
                say(2, IVAN, "Я, Иван", edited_unixtime=str(START + 999)),
                say(13, "user8", "Завтра дождь", inline_bot_buttons=[[{"type": "callback", "text": "Ещё"}]]),
                say(14, OLGA, "Курс доллара", from_id="user7", **{"from": "CurrencyBot"}),
                say(15, IVAN, "Спасибо"),
            ),
            chat(say(1, BOT, "Привет"), say(2, NATASHA, "/start"), name="Rose", type="bot_chat", id=9),
            group(say(1, OLGA, "Без неё"), service(2, OLGA, "pin_message"), id=78),
        )
    )  # fmt: skip
    assert turns(collected) == ["Я, Иван\nПереслали?\nпереслано: Новость\nпереслано: Новость / Да"]
    assert reasons(collected) == Counter(
        nothing_to_answer=2, service=2, unsupported=1, bot=5, media_without_text=1, empty=1, answer_to_media=1,
        sender_unknown=1, duplicate=1, after_last_answer=1, persona_silent=1, after_own_media=2, call=1,
        answered_without_words=1, answer_to_call=1,
    )  # fmt: skip
    assert (collected.report.channels, collected.report.messages_read) == (3, 27)
    assert collected.report.share_kept == 5 / 27


def test_a_persona_that_is_a_bot_is_no_bot(taken):
    assert turns(taken(group(say(1, IVAN, "/rules"), say(2, BOT, "Не шуметь"), id=9, type="bot_chat"), "9")) == [
        "/rules / Не шуметь"
    ]


def test_text_comes_from_entities_then_text_then_its_list(taken):
    mixed = ["Смотри ", {"type": "link", "text": "ya.ru"}, {"type": "text_link", "text": " тут", "href": "http://x"}]
    collected = taken(
        chat(
            say(1, IVAN, "x", text_entities=[{"type": "bold", "text": "О"}, {"type": "plain", "text": "го"}]),
            say(2, NATASHA, text=mixed, text_entities=[]),
            say(3, IVAN, text=mixed[:1]),
            say(4, NATASHA, text="Ага", text_entities=[{"type": "custom_emoji", "text": " "}]),
        )
    )
    assert turns(collected) == ["Ого / Смотри ya.ru тут / Смотри / Ага"]


# Sessions


def test_consecutive_messages_are_one_turn_and_people_share_the_users_turn(taken):
    collected = taken(
        group(say(1, IVAN, "Раз"), say(2, IVAN, "Два"), say(3, OLGA, "Три"), say(4, NATASHA, "А"), say(5, NATASHA, "Б"))
    )
    assert turns(collected) == ["Иван: Раз\nДва\nОльга: Три / А\nБ"]
    dialogue = collected.dialogues[0]
    assert [(turn.speaker, turn.role) for turn in dialogue.turns] == [
        ("Иван", "user"), ("Иван", "user"), ("Ольга", "user"), ("Наташа", "assistant"), ("Наташа", "assistant")
    ]  # fmt: skip
    assert dialogue.turns[0].time == dialogue.date == "2023-11-15T01:14:20+03:00"
    assert [tuple(speaker) for speaker in dialogue.participants] == [
        ("Иван", "other"), ("Ольга", "other"), ("Наташа", "persona")
    ]  # fmt: skip


def test_a_gap_of_days_and_seconds_parts_sessions(taken):
    day = 24 * 60
    messages = [say(1, IVAN, "Раз"), say(2, NATASHA, "А"), say(3, IVAN, "Два", day + 1), say(4, NATASHA, "Б", day + 2)]
    assert turns(taken(chat(*messages))) == ["Раз / А", "Два / Б"]  # timedelta.seconds would be near 0
    assert turns(taken(chat(*messages), gap_hours=24)) == ["Раз / А / Два / Б"]
    assert turns(taken(chat(say(1, IVAN, "Раз", 0), say(2, NATASHA, "А", 360)))) == ["Раз / А"]
    assert turns(taken(group(say(1, IVAN, "Раз", 0), say(2, NATASHA, "А", 361)))) == []
    with pytest.raises(GovorError, match="above 0"):
        taken(chat(*messages), gap_hours=0)


def test_a_reply_joins_the_session_that_it_answers(taken):
    late = 5000
    collected = taken(
        chat(
            say(1, IVAN, "Когда приедешь?"),
            say(2, IVAN, media_type="voice_message", file="v.ogg"),
            say(3, NATASHA, "В пятницу", late, reply_to_message_id=2),
            say(4, IVAN, "Жду", late + 1),
            say(5, NATASHA, "Ага", late + 2),
        )
    )
    assert turns(collected) == ["Жду / Ага"]
    assert reasons(collected) == {"media_without_text": 1, "answer_to_media": 2}


def test_between_two_a_late_reply_takes_the_talk_along(taken):
    messages = [say(1, IVAN, "Где зонт?"), say(2, IVAN, "Идём?", 5000), say(3, NATASHA, "Идём", 5001)]
    reply = say(4, NATASHA, "У меня", 5002, reply_to_message_id=1)
    collected = taken(chat(*messages, reply, say(5, IVAN, "Захвати", 5003), say(6, NATASHA, "Ладно", 5004)))
    assert turns(collected) == ["Где зонт? / У меня / Захвати / Ладно", "Идём? / Идём"]


def test_in_a_group_the_others_go_on_with_their_own_talk(taken):
    today = 5000
    collected = taken(
        group(
            say(1, IVAN, "Кто забыл зонт?"),
            say(2, OLGA, "Кто пойдёт в лес?", today),
            say(3, NATASHA, "Я", today + 1),
            say(4, NATASHA, "Зонт мой", today + 2, reply_to_message_id=1),
            say(5, IVAN, "И я в лес", today + 3),
            say(6, NATASHA, "Отлично", today + 4),
        )
    )
    assert turns(collected) == [
        "Кто забыл зонт? / Зонт мой", "Ольга: Кто пойдёт в лес? / Я / Иван: И я в лес / Отлично"
    ]  # fmt: skip


def test_a_reply_to_another_chat_answers_nothing_here(taken):
    messages = [say(1, IVAN, "Раз"), say(2, NATASHA, "А"), say(3, OLGA, "Два", 5000)]
    answer = say(4, NATASHA, "Б", 5001, reply_to_message_id=1)
    for elsewhere in ({"reply_to_peer_id": "channel5"}, {"reply_to_message_id": 999}):
        collected = taken(group(*messages, {**answer, **elsewhere}))
        assert turns(collected) == ["Раз / А"]
        assert reasons(collected) == {"answer_to_absent": 1, "after_last_answer": 1}
    assert turns(taken(group(*messages, {**answer, "reply_to_peer_id": "channel77"}))) == ["Раз / А\nБ"]


def test_topics_are_talks_of_their_own(taken):
    collected = taken(
        group(
            service(1, IVAN, "topic_created", title="Рыбалка"),
            service(2, IVAN, "topic_created", title="Грибы"),
            say(3, IVAN, "Клюёт?", reply_to_message_id=1),
            say(4, OLGA, "Белых много?", reply_to_message_id=2),
            say(5, IVAN, "Что на ужин?"),
            say(6, BOT, "Не флудить", reply_to_message_id=3, inline_bot_buttons=[[{"type": "callback", "text": "Ок"}]]),
            say(7, NATASHA, "Щука", reply_to_message_id=1),
            say(8, NATASHA, "Полно", reply_to_message_id=4),
            say(9, NATASHA, "Уха"),
            say(10, OLGA, "А лисичек?", reply_to_message_id=2),
            say(11, NATASHA, "Мало", reply_to_message_id=10),
            say(12, IVAN, "А окунь?", 5000, reply_to_message_id=1),
            say(13, NATASHA, "Нет", 5001, reply_to_message_id=1),
        )
    )
    assert sorted(turns(collected)) == sorted(
        ["Клюёт? / Щука", "Белых много? / Полно / А лисичек? / Мало", "Что на ужин? / Уха", "А окунь? / Нет"]
    )


def test_bots_keep_no_session_alive(taken):
    hours = [say(n, "user8", "Курс", 60 * n, **{"from": "Курс Bot"}) for n in range(2, 20)]
    collected = taken(group(say(1, IVAN, "Спите?", 60), *hours, say(20, NATASHA, "Уже нет", 1200)))
    assert turns(collected) == []
    assert reasons(collected) == {"bot": 18, "persona_silent": 1, "nothing_to_answer": 1}


# An answer belongs to its question

VOICE = {"media_type": "voice_message", "file": "v.ogg", "duration_seconds": 3}
PHOTO = {"photo": "(File not included. …)", "width": 1, "height": 1}
POLL = {"poll": {"question": "Кто за?", "closed": False, "total_voters": 1, "answers": []}}


@pytest.mark.parametrize(
    ("media", "label"),
    [(VOICE, "голосовое"), (PHOTO, "фото"), (POLL, "опрос"), ({"media_type": "video_message"}, "кружок"),
     ({"media_type": "animation", "file": "a.mp4"}, "гифка"), ({"location_information": {"latitude": 1.0}}, "место"),
     ({"contact_information": {"first_name": "Пётр"}}, "контакт"), ({"file": "a.pdf"}, "файл"),
     ({"media_type": "sticker", "file": "s.webp"}, "стикер"), ({"giveaway_information": {}}, "вложение")],
)  # fmt: skip
def test_what_answers_media_is_left_out_or_stands_behind_its_label(media, label, taken):
    value = chat(
        say(1, IVAN, "Раз?"), say(2, NATASHA, "А"), say(3, IVAN, **media), say(4, NATASHA, "Б"), say(5, NATASHA, "В"),
        say(6, IVAN, "Два?"), say(7, NATASHA, "Г"),
    )  # fmt: skip
    collected = taken(value)
    assert turns(collected) == ["Раз? / А", "Два? / Г"], "never joined to the answer before"
    assert reasons(collected) == {"media_without_text": 1, "answer_to_media": 2}
    assert turns(taken(value, media_labels=True)) == [f"Раз? / А / [{label}] / Б\nВ / Два? / Г"]


@pytest.mark.parametrize("media", [VOICE, PHOTO, POLL, {"via_bot": "@gif"}])
def test_her_own_media_is_never_trained_and_ends_her_turn(media, taken):
    value = chat(
        say(1, IVAN, "Раз?"), say(2, NATASHA, "А"), say(3, NATASHA, **media), say(4, NATASHA, "смотри"),
        say(5, IVAN, "Два?"), say(6, NATASHA, **media), say(7, NATASHA, "вот так"),
        say(8, IVAN, "Три?"), say(9, NATASHA, "Б"),
    )  # fmt: skip
    collected = taken(value)
    assert turns(collected) == ["Раз? / А", "Три? / Б"]
    left_out = "bot" if "via_bot" in media else "media_without_text"
    assert reasons(collected) == {left_out: 2, "after_own_media": 2, "answered_without_words": 1}
    if media is VOICE:
        labelled = taken(value, media_labels=True)
        assert turns(labelled) == ["Раз? / А", "Два? / ([голосовое]) / Три? / Б"]


def test_a_caption_is_text_and_a_sticker_its_emoji(taken):
    value = chat(
        say(1, IVAN, "Это мы", **PHOTO), say(2, NATASHA, "Красиво"),
        say(3, IVAN, media_type="sticker", sticker_emoji="😂"),
        say(4, NATASHA, media_type="sticker", sticker_emoji="🙈"),
    )  # fmt: skip
    assert turns(taken(value)) == ["Это мы / Красиво / 😂 / 🙈"]


def test_a_forward_is_context_as_text_and_never_learned(taken):
    forward = {"forwarded_from": "Новости"}
    value = chat(
        say(1, IVAN, "Кофе подорожал", **forward), say(2, NATASHA, "Пью чай"), say(3, IVAN, **forward, **VOICE),
        say(4, NATASHA, "Слышала"), say(5, IVAN, "Что нового?"), say(6, NATASHA, "Снег в мае", **forward),
        say(7, NATASHA, "вот"), say(8, IVAN, "Ого"), say(9, NATASHA, "Ага"),
    )  # fmt: skip
    assert turns(taken(value)) == [
        "переслано: Кофе подорожал / Пью чай", "Что нового? / (переслано: Снег в мае) / Ого / Ага"
    ]  # fmt: skip


def test_replies_go_with_what_they_answer(taken):
    value = group(
        say(1, IVAN, "Как доехать?"), say(2, OLGA, "Кто пробовал борщ?"), say(3, "user5", "Сколько стоит?"),
        say(4, NATASHA, "Пересолен", reply_to_message_id=2), say(5, NATASHA, "и остыл"),
        say(6, NATASHA, "На автобусе", reply_to_message_id=1), say(7, OLGA, **VOICE),
        say(8, NATASHA, "Сорок рублей", reply_to_message_id=3), say(9, NATASHA, "Ну да", reply_to_message_id=7),
        say(10, NATASHA, "Ещё раз: на автобусе", reply_to_message_id=1),
    )  # fmt: skip
    collected = taken(value)
    assert turns(collected) == [
        "Ольга: Кто пробовал борщ? / Пересолен / Иван: Как доехать? / На автобусе / "
        "user5: Сколько стоит? / Сорок рублей"
    ]
    assert reasons(collected) == {
        "media_without_text": 1,
        "answer_to_media": 1,
        "second_answer": 1,
        "answer_unclear": 1,
    }


def test_her_reply_to_herself_goes_on_only_at_once(taken):
    value = chat(
        say(1, IVAN, "Раз?"), say(2, NATASHA, "А"), say(3, NATASHA, "точнее, Б", reply_to_message_id=2),
        say(4, IVAN, "Два?"), say(5, NATASHA, "и ещё", reply_to_message_id=2), say(6, IVAN, "Три?"),
        say(7, NATASHA, "В"),
    )  # fmt: skip
    collected = taken(value)
    assert turns(collected) == ["Раз? / А\nточнее, Б / Два?\nТри? / В"]
    assert reasons(collected) == {"nothing_to_answer": 1}


def test_most_answers_to_what_is_not_here_are_a_topic(taken):
    messages = [say(n, NATASHA if n % 2 else IVAN, f"{n}", reply_to_message_id=900) for n in range(30)]
    assert len(turns(taken(group(*messages)))) == 1
    assert turns(taken(chat(*messages))) == [], "there are no topics between two"


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        # her reply into an old session, then more of it, while others talk: what adds to it is left out
        ((say(1, IVAN, "Как прошло?"), say(2, OLGA, "Эх"), say(10, IVAN, "Футбол?", 600), say(11, OLGA, "Я", 601),
          say(12, NATASHA, "Взяли!", 602, reply_to_message_id=1), say(13, NATASHA, "Выхожу во вторник", 603)),
         ["Как прошло? / Взяли!"]),
        # somebody's reply to an old message stays where the talk is
        ((say(1, IVAN, "В субботу?"), say(10, OLGA, "Где зонт?", 1000),
          say(11, IVAN, "Так во сколько?", 1001, reply_to_message_id=1), say(12, NATASHA, "В шесть", 1002)),
         ["Ольга: Где зонт?\nИван: Так во сколько? / В шесть"]),
        # after a reply to an older question the next words may answer either
        ((say(1, IVAN, "Как мама?"), say(2, IVAN, "Во сколько?"), say(3, NATASHA, "Хорошо", reply_to_message_id=1),
          say(4, NATASHA, "В семь"), say(5, IVAN, "Спишь?"), say(6, NATASHA, "Да")),
         ["Как мама? / Хорошо / Во сколько?\nСпишь? / Да"]),
        # words beside a voice message do not say what it said
        ((say(1, IVAN, "Ты где?"), say(2, IVAN, media_type="voice_message"), say(3, IVAN, "?"),
          say(4, NATASHA, "Согласна"),
          say(5, IVAN, "Ок?"), say(6, NATASHA, "Ок")),
         ["Ок? / Ок"]),
        # a forward as a reply answers its own target alone
        ((say(1, IVAN, "Где отчёт?"), say(2, OLGA, "Скинь мем"), say(3, NATASHA, "Мем", forwarded_from="Мемы",
          reply_to_message_id=2), say(4, NATASHA, "Отчёт в почте", reply_to_message_id=1)),
         ["Ольга: Скинь мем / (переслано: Мем) / Иван: Где отчёт? / Отчёт в почте"]),
        # three who answer a message that is not here make no topic of it
        ((say(1, IVAN, "Жаль", reply_to_message_id=900), say(2, OLGA, "Да", reply_to_message_id=900),
          say(3, IVAN, "Футбол?"), say(4, NATASHA, "Соболезную", reply_to_message_id=900)),
         []),
    ],
)  # fmt: skip
def test_where_it_is_not_certain_nothing_is_paired(messages, expected, taken):
    assert turns(taken(group(*messages))) == expected


def test_between_two_a_reply_of_the_other_loses_no_question(taken):
    value = chat(
        say(1, IVAN, "Где паспорт?"), say(2, NATASHA, "В столе"), say(3, IVAN, "Ты дома?", 1000),
        say(4, IVAN, "Нашёл, спасибо", 1001, reply_to_message_id=2), say(5, NATASHA, "Да, дома", 1002),
    )  # fmt: skip
    assert turns(taken(value)) == ["Где паспорт? / В столе", "Ты дома?\nНашёл, спасибо / Да, дома"]


def test_what_an_earlier_export_held_still_stands_between(taken):
    day = chat(say(2, NATASHA, "Доброе утро", 1), say(3, IVAN, "Кстати, как мама?", 1435))
    whole = chat(
        say(1, IVAN, "Ты купила билеты?", 0), say(2, NATASHA, "Доброе утро", 1),
        say(3, IVAN, "Кстати, как мама?", 1435), say(4, NATASHA, "Лучше, выписали", 1445),
    )  # fmt: skip
    assert turns(taken((day, whole))) == []
    other_account = chat(say(1, IVAN, "Привет с нового", 50), say(2, "user5", "И тебе", 51))
    first = chat(say(1, IVAN, "Привет", 0), say(2, NATASHA, "Привет", 1))
    assert turns(taken((first, other_account), persona=("1", "5"))) == ["Привет / Привет", "Привет с нового / И тебе"]


def test_after_a_call_nothing_is_known(taken):
    value = chat(
        say(1, IVAN, "Можно позвонить?"), service(2, NATASHA, "phone_call"), say(3, NATASHA, "Тогда до завтра")
    )
    assert reasons(taken(value)) == {"call": 1, "answer_to_call": 2}


def test_next_morning_is_still_an_answer_between_two(taken):
    hours = 60
    value = chat(
        say(1, IVAN, "Заберёшь?", 0), say(2, NATASHA, "Да", 10 * hours), say(3, IVAN, "Спасибо", 10 * hours + 1)
    )
    assert turns(taken(value)) == ["Заберёшь? / Да"]
    assert turns(taken(value, answer_within=9)) == []
    assert turns(taken(chat(say(1, IVAN, "Заберёшь?", 0), say(2, NATASHA, "Да", 37 * hours)))) == []
    reply = say(2, NATASHA, "Да", 100 * hours, reply_to_message_id=1)
    assert turns(taken(chat(say(1, IVAN, "Заберёшь?", 0), reply))) == ["Заберёшь? / Да"]
    finished = chat(
        say(1, IVAN, "Раз?", 0), say(2, NATASHA, "А", 1), say(3, NATASHA, "Доброе утро", 10 * hours),
        say(4, IVAN, "Два?", 10 * hours + 1), say(5, NATASHA, "Б", 10 * hours + 2),
    )  # fmt: skip
    assert turns(taken(finished)) == ["Раз? / А", "Два? / Б"]


# Which messages are wanted


def test_several_accounts_are_one_persona(taken):
    one = chat(say(1, IVAN, "Ты где?"), say(2, NATASHA, "Дома"))
    two = chat(say(1, OLGA, "А теперь?"), say(2, "user777", "Новый номер"), name="Ольга", id=3)
    collected = taken(full(one, two), persona=("1", "777"))
    assert turns(collected) == ["Ты где? / Дома", "А теперь? / Новый номер"]
    assert {speaker.label for d in collected.dialogues for speaker in d.participants} == {"Иван", "Ольга", "Наташа"}
    labels = taken(full(one, two), persona=("1", "777"), scrub=str).dialogues[1].participants
    assert [speaker.label for speaker in labels] == ["other-3", "persona"]


def test_part_of_a_name_does_where_it_fits_one(write):
    people = [("user1", "Наташа Волкова"), ("user2", "Иван"), ("user3", "Алёна Иванова")]
    path = write(group(*(say(n, id_, "?", **{"from": name}) for n, (id_, name) in enumerate(people))))
    found = survey_exports([path])
    for wanted, expected in (("наташа", "user1"), ("Волкова", "user1"), ("алена", "user3"), ("Иван", "user2")):
        assert find_persona(found, [wanted])[0].id == expected
    with pytest.raises(GovorError, match=r"nobody is called 'Наташка'.* did you mean 'Наташа Волкова'"):
        find_persona(found, ["Наташка"])
    two = write(group(*(say(n, f"user{n}", "?", **{"from": f"Анна {n}"}) for n in (5, 6))), "two.json")
    with pytest.raises(GovorError, match="'Анна' fits 2 people: give the id:\n  Анна 5: user5"):
        find_persona(survey_exports([two]), ["Анна"])


def test_words_dates_and_a_limit_leave_messages_out(taken, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("\ufeffпароль\nпин код\n\n", encoding="utf-8")
    day = 24 * 60
    value = chat(
        say(1, IVAN, "Раз?", 0), say(2, NATASHA, "А", 1), say(3, IVAN, "Какой Пароль?", 2), say(4, NATASHA, "Б", 3),
        say(5, IVAN, "Паролями не делюсь", 4), say(6, NATASHA, "ПИН  код 1234", 5), say(7, NATASHA, "забудь", 6),
        say(8, IVAN, "Два?", day), say(9, NATASHA, "В", day + 1), say(10, IVAN, "Три?", day + 2),
        say(11, NATASHA, "Г", day + 3),
    )  # fmt: skip
    collected = taken(value, leave_out=words_filter(words))
    assert turns(collected) == ["Раз? / А", "Два? / В / Три? / Г"]
    assert reasons(collected) == {
        "leave_out": 2, "answer_to_left_out": 1, "answered_without_words": 1, "after_own_media": 1
    }  # fmt: skip
    first = date(2023, 11, 15)
    assert turns(taken(value, until=first)) == [
        "Раз? / А / Какой Пароль? / Б / Паролями не делюсь / ПИН  код 1234\nзабудь"
    ]
    collected = taken(value, since=date(2023, 11, 16))
    assert turns(collected) == ["Два? / В / Три? / Г"] and reasons(collected) == {"outside_dates": 7}
    collected = taken(value, most_exchanges=1)
    assert turns(collected) == ["Три? / Г"] and reasons(collected) == {"over_chat_limit": 9}
    with pytest.raises(GovorError, match="no words in it"):
        words.write_text("\n")
        words_filter(words)


def test_every_channel_is_counted(taken):
    value = full(
        chat(say(1, IVAN, "Раз?"), say(2, NATASHA, "А")),
        group(say(1, OLGA, "Два?"), say(2, NATASHA, "Б"), say(3, OLGA, "?")),
    )
    counts = taken(value).report.by_channel
    assert counts == {
        "Иван": {"dialogues": 1, "rows": 1, "messages": 2}, "Дача": {"dialogues": 1, "rows": 1, "messages": 2}
    }  # fmt: skip


# Rows


def test_a_long_dialogue_is_cut_and_nothing_is_trained_twice(taken):
    pairs = 50
    messages = [say(n, NATASHA if n % 2 else IVAN, f"{'Ответ' if n % 2 else 'Вопрос'} {n // 2}") for n in range(100)]
    collected = taken(chat(*messages), system="Ты — Наташа.")
    assert [len(row.messages) for row in collected.rows] == [MAX_TURNS + 1, MAX_TURNS + 1, 100 - 40 - 38 + 2 + 1]
    first, second, third = (row.messages for row in collected.rows)
    assert first[0] == second[0] == {"role": "system", "content": "Ты — Наташа."}
    assert second[1:3] == [first[-2], {**first[-1], "weight": 0}]
    assert third[1:3] == [second[-2], {**second[-1], "weight": 0}]
    trained = [text_of(m) for row in collected.rows for m in row.messages if is_trained(m)]
    assert trained == [f"Ответ {n}" for n in range(pairs)]
    assert len(collected.dialogues) == 1 and len(collected.dialogues[0].turns) == 100


def test_much_text_is_cut_and_where_context_does_not_fit_a_dialogue_ends(taken):
    said = [say(n, NATASHA if n % 2 else IVAN, str(n) * 700) for n in range(6)]
    collected = taken(chat(*said))
    assert [[text_of(m)[0] for m in row.messages] for row in collected.rows] == [list("0123"), list("2345")]
    assert all(sum(len(text_of(m)) for m in row.messages) <= MAX_CHARS for row in collected.rows)
    said = [say(n, NATASHA if n % 2 else IVAN, str(n) * 1500) for n in range(4)]
    collected = taken(chat(*said))
    assert [[text_of(m)[0] for m in row.messages] for row in collected.rows] == [list("01"), list("23")]
    assert [len(dialogue.turns) for dialogue in collected.dialogues] == [2, 2]


def test_what_was_said_long_before_an_answer_is_left_out(taken):
    noise = [say(n, IVAN if n % 2 else OLGA, f"{n:03} " + "слово " * 16) for n in range(200)]
    collected = taken(group(*noise, say(200, NATASHA, "А")))
    question = text_of(collected.rows[0].messages[0])
    assert question.endswith(noise[-1]["text"].strip()) and MAX_CHARS - 200 < len(question) <= MAX_CHARS
    assert reasons(collected) == {"long_before_answer": 200 - len(question.split("\n"))}
    whole = "х" * (MAX_CHARS + 96)
    assert turns(taken(chat(say(1, IVAN, "Раз"), say(2, IVAN, whole), say(3, NATASHA, "А")))) == [f"{whole} / А"]


def test_scrubbing_reaches_every_text_and_people_get_labels(taken):
    value = full(
        chat(say(1, IVAN, "Наташа, тайна"), say(2, NATASHA, "Тайна?"), say(3, IVAN, "секрет"), say(4, NATASHA, "Да")),
        group(
            say(1, OLGA, "тайна"),
            say(3, NATASHA, "Ладно"),
            say(4, IVAN, "секрет"),
            say(5, OLGA, "Ау?"),
            name="Дача тайна",
        ),
    )

    def scrub(text):
        return re.sub("(?i)тайна", "[…]", text).replace("секрет", " ")

    collected = taken(value, scrub=scrub)
    assert turns(collected) == ["Наташа, […] / […]?", "[…] / Ладно"]
    assert reasons(collected) == {"empty": 2, "answer_to_left_out": 1, "after_last_answer": 1}
    assert [dialogue.channel for dialogue in collected.dialogues] == ["other-1", "Дача […]"]
    assert [[speaker.label for speaker in dialogue.participants] for dialogue in collected.dialogues] == [
        ["other-1", "persona"],
        ["other-3", "persona"],
    ]
    assert "Иван" not in repr(collected) and "Ольга" not in repr(collected)


def test_people_of_one_name_are_told_apart(taken):
    said = [
        say(1, "user5", "Раз", **{"from": "Анна"}),
        say(2, "user6", "Два", **{"from": "Анна"}),
        say(3, NATASHA, "А"),
    ]
    labels = [speaker.label for speaker in taken(group(*said)).dialogues[0].participants]
    assert labels == ["Анна (user5)", "Анна (user6)", "Наташа"]


# Files


def test_no_message_is_a_formula_in_the_table(taken, working_folder):
    formula = '=HYPERLINK("http://evil.example";"x")'
    collected = taken(full(chat(say(1, IVAN, formula), say(2, NATASHA, "-1"))))
    written = write_collected(collected, working_folder / "out", "наташа", force=False)
    with written[2].open(encoding="utf-8-sig", newline="") as file:
        assert [line["text"] for line in csv.DictReader(file)] == [f"'{formula}", "'-1"]


def test_three_files_are_written_and_not_over_others(taken, working_folder):
    quoted = 'Раз;\n«два», "три"'
    one = chat(say(1, IVAN, quoted), say(2, NATASHA, "А"))
    collected = taken(full(one, group(say(1, OLGA, "Да?"), say(2, NATASHA, "Да"))))
    out = working_folder / "out"
    written = write_collected(collected, out, "наташа", force=False)
    today = date.today().isoformat()
    assert [path.name for path in written] == [
        f"наташа_finetuning_{today}.jsonl", f"наташа_dialogs_dataset_{today}.json", f"наташа_dialogs_{today}.csv"
    ]  # fmt: skip
    assert sorted(out.iterdir()) == sorted(written)
    rows = [json.loads(line) for line in written[0].read_text(encoding="utf-8").splitlines()]
    assert rows == [{"messages": row.messages} for row in collected.rows]
    dialogues = json.loads(written[1].read_text(encoding="utf-8"))
    assert dialogues[0]["channel"] == "Иван" and dialogues[0]["date"] == "2023-11-15T01:14:20+03:00"
    assert [row.messages for row in read_rows(written[1])] == [row["messages"] for row in rows], "read as rows, too"
    assert channels_of(written[1]) == channels_of(written[0]) == {"Иван": 1, "Дача": 1}
    assert dialogues[1]["participants"] == [
        {"label": "Ольга", "role": "other"}, {"label": "Наташа", "role": "persona"}
    ]  # fmt: skip
    assert written[2].read_bytes().startswith(b"\xef\xbb\xbf")
    with written[2].open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(line["dialogue"], line["channel"], line["speaker"], line["role"], line["text"]) for line in table] == [
        ("1", "Иван", "Иван", "user", quoted),
        ("1", "Иван", "Наташа", "assistant", "А"),
        ("2", "Дача", "Ольга", "user", "Да?"),
        ("2", "Дача", "Наташа", "assistant", "Да"),
    ]

    written[1].unlink()
    before = written[0].read_bytes()
    with pytest.raises(GovorError, match=r"finetuning.*jsonl is there already: --force"):
        write_collected(collected._replace(rows=[]), out, "наташа", force=False)
    assert written[0].read_bytes() == before and not written[1].exists()
    write_collected(collected._replace(rows=[], dialogues=[]), out, "наташа", force=True)
    assert written[0].read_bytes() == b"" and json.loads(written[1].read_bytes()) == []
    with pytest.raises(GovorError, match="may hold letters"):
        write_collected(collected, out, "../наташа", force=False)


# Size

WORDS = "да нет может завтра приеду куплю хлеба позвони маме ладно смешно «ой» \\ 😀 \x01".split()  # noqa: SIM905
CHATS, MESSAGES = 27, 25_509


def talk(rng, id_, people, minute, kept):
    """One message of a random talk, and what `CollectReport` calls it: None for a turn."""
    sender = rng.choice(people)
    text = " ".join(rng.choices(WORDS, k=rng.randint(1, 25))).strip() or "да"
    message = say(id_, sender, text, minute)
    if kept and rng.random() < 0.2:
        message["reply_to_message_id"] = rng.choice(kept[-50:])
    if rng.random() < 0.05:
        message["edited_unixtime"] = str(START + 60 * minute + 30)
    kind = rng.random()
    if kind < 0.02:
        action = rng.choice(["phone_call", "pin_message", "topic_created"])
        return service(id_, IVAN, action, minute), "call" if action == "phone_call" else "service"
    if kind < 0.03:
        return {"id": id_, "type": "unsupported"}, "unsupported"
    if kind < 0.06:
        return {**message, "forwarded_from": rng.choice([None, "Новости"])}, "bot" if sender == BOT else None
    if kind < 0.08:
        return {**message, "via_bot": "@gif"}, "bot"
    if kind < 0.15:
        media = {"text": "", "text_entities": [], "media_type": rng.choice(["voice_message", "video_message"])}
        return {**message, **media}, "media_without_text"
    if kind < 0.16:
        return {**message, "text": "", "text_entities": []}, "empty"
    if kind < 0.17:
        return {k: v for k, v in message.items() if k not in ("from", "from_id")}, "sender_unknown"
    if sender == BOT:
        return message, "bot"
    if kind < 0.3:
        parts = [{"type": "plain", "text": text}, {"type": "link", "text": " ya.ru"}]
        return {**message, "text": [text, parts[1]], "text_entities": parts}, None
    if kind < 0.35:
        return {**message, "from": None}, None
    return message, None


def write_big(path, seed, chats, messages):
    """A full export of `chats` chats with `messages` messages, streamed to disk; the reasons known beforehand."""
    rng = random.Random(seed)
    expected = Counter()
    with path.open("w", encoding="utf-8") as file:
        file.write('{\n "about": "…",\n "chats": {\n  "about": "…",\n  "list": [')
        for number in range(chats):
            left = messages // chats + (number < messages % chats)
            partner = 100 + number
            people = [NATASHA, f"user{partner}"] if number % 3 else [NATASHA, IVAN, OLGA, BOT, f"user{partner}"]
            kind, name = ("personal_chat", f"Друг {number}") if number % 3 else ("private_supergroup", f"Чат {number}")
            if number == 0:
                kind, name, partner, people = "bot_chat", "Rose", 9, [BOT]
            header = telegram_json({"name": name, "type": kind, "id": partner})[:-2]
            file.write(f'{"," if number else ""}{header},\n "messages": [')
            minute, kept = 0, []
            for id_ in range(left):
                minute += rng.choice([0, 1, 1, 2, 5, 30, 700])
                message, reason = talk(rng, id_, people, minute, kept)
                expected[reason] += 1
                kept += [id_] if reason is None else []
                file.write(("," if id_ else "") + telegram_json(message))
            file.write("]}")
        file.write("]\n }\n}")
    return expected


@pytest.mark.slow
@pytest.mark.alone
def test_a_big_export_is_collected_in_time_and_adds_up(tmp_path):
    path = tmp_path / "result.json"
    expected = write_big(path, seed=1, chats=CHATS, messages=MESSAGES)
    started = time.perf_counter()
    found = survey_exports([path])
    collected = collect_dialogues(found, find_persona(found, ["Наташа"]))
    assert time.perf_counter() - started < 10
    assert_adds_up(collected)
    report = collected.report
    assert (report.channels, report.messages_read) == (CHATS, MESSAGES)
    of_message = {reason: report.dropped[reason] for reason in expected if reason is not None}
    assert of_message == {reason: count for reason, count in expected.items() if reason is not None}
    assert report.messages_read == report.messages_kept + report.dropped.total() == expected.total()
    assert report.messages_kept > 0.5 * expected[None] and report.dropped["duplicate"] == 0

    answered = sum(
        turn.role == "assistant" and turn.trained for dialogue in collected.dialogues for turn in dialogue.turns
    )
    trained = sum(len(text_of(m).split("\n")) for row in collected.rows for m in row.messages if is_trained(m))
    assert answered == trained  # every answer once
    rows, dialogues, table = write_collected(collected, tmp_path / "out", "natasha", force=False)
    checked = check_file(rows)
    assert (checked.examples, checked.errors, checked.warnings) == (report.rows, [], [])
    assert len(json.loads(dialogues.read_bytes())) == report.dialogues
    with table.open(encoding="utf-8-sig", newline="") as file:
        assert sum(1 for _ in csv.DictReader(file)) == report.messages_kept


PEAK = """
import re, sys
from pathlib import Path
from train.chats.telegram.dialogues import collect_dialogues
from train.chats.telegram.participants import find_persona, survey_exports

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

for path in map(Path, sys.argv[1:]):  # the first file pays for what is imported and allocated once
    before = peak()
    found = survey_exports([path])
    surveyed = peak() - before
    collected = collect_dialogues(found, find_persona(found, ["1"]))
    print(surveyed, peak() - before, collected.report.messages_read)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's count of a process's peak memory")
@pytest.mark.long
def test_memory_stays_far_below_the_size_of_the_file(tmp_path):
    small, big = tmp_path / "small.json", tmp_path / "big.json"
    write_big(small, seed=2, chats=12, messages=6000)
    head, chats = small.read_text(encoding="utf-8").split('"list": [')
    chats, tail = chats.removesuffix("]\n }\n}"), "]\n }\n}"
    with big.open("w", encoding="utf-8") as file:
        file.write(f'{head}"list": [{chats}')
        file.writelines(f",{chats}" for _ in range(21))
        file.write(tail)
    command = [sys.executable, "-c", PEAK, str(small), str(big)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    surveyed, whole, read = map(int, run.stdout.splitlines()[1].split())
    size = big.stat().st_size
    assert size > 55_000_000 and read == 132_000
    assert surveyed < size / 4  # 1 MB with ijson's C parser, 10 MB without
    assert whole < size / 4  # though half of it ends up in rows


@pytest.mark.slow
@pytest.mark.alone
def test_a_talk_that_never_rests_is_paired_in_time():
    """One session, as a busy group has: 0.15 s of computing; 9 s when each answer looked through all before."""
    sessions = Sessions(6 * 3600, 0, [NATASHA])
    for n in range(40_000):
        sender = NATASHA if n % 2 else IVAN
        sessions.add(ChatMessage(START + 60 * n, sender, NAMES[sender], str(n), id=n), by_person=True)
    [session] = sessions.sessions
    started = time.process_time()
    [stretch] = pair(session, [NATASHA]).stretches
    assert len(stretch) == 20_000 and time.process_time() - started < 2
