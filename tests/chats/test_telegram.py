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
from train.chats.checks import check_file
from train.chats.rows import is_trained, text_of
from train.chats.telegram.collect_export import write_collected
from train.chats.telegram.dialogues import MAX_CHARS, MAX_TURNS, collect_dialogues
from train.chats.telegram.export import TelegramChat, _ValidJson, read_export
from train.chats.telegram.participants import find_persona, survey_export
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
        path = write(value)
        found = survey_export(path)
        collected = collect_dialogues(path, find_persona(found, persona), survey=found, **options)
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
    assert [item for item in read_export(path) if isinstance(item, TelegramChat)] == [
        TelegramChat(None, "saved_messages", 1, 1),
        TelegramChat(None, "personal_chat", 5, 2),
    ]
    collected = collect_dialogues(path, find_persona(survey_export(path), "Наташа"))
    assert turns(collected) == ["Привет / Кто это?"]  # a deleted account is somebody all the same
    assert [speaker.label for speaker in collected.dialogues[0].participants] == ["user5", "Наташа"]
    assert reasons(collected) == {"nothing_to_answer": 1}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "empty"),
        ("<!DOCTYPE html><html>", "an HTML page"),
        ("[]", "no JSON object"),
        ('{"messages": [{"role": "user", "content": "Привет"}]}', "no chats in it"),
        ('{"about": "", "contacts": {"list": []}}', "no chats in it"),
        ('{"chats": {"list": []}}', "no chats in it"),
        ('{"name": "Иван", "id": 2, "messages": [{"id": 1, "text": "тайна', "ends in the middle"),
        ('{"name": "Иван", "id": 2, "messages": [{"id": 1, "text": тайна}]}', "JSON is broken"),
        ('{"name": "Иван", "id": 2, "messages": []}\n{"name": "Иван"}', "JSON is broken"),
        (f'{{"id": {"1" * 5000}}}', "JSON is broken"),
    ],
)
def test_other_files_are_named_in_one_line(write, content, expected):
    with pytest.raises(GovorError) as caught:
        survey_export(write(content))
    assert expected in str(caught.value) and "result.json" in str(caught.value)
    assert "\n" not in str(caught.value) and "тайна" not in str(caught.value)


def test_folders(tmp_path, write):
    for name, expected in (("messages.html", "HTML"), ("result.json", "give the file in it"), (None, "no such file")):
        folder = tmp_path / str(name)
        if name:
            folder.mkdir()
            (folder / name).write_text("")
        with pytest.raises(GovorError, match=expected):
            survey_export(folder)


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
        found = survey_export(path)
        collected = collect_dialogues(path, find_persona(found, "1"), survey=found, scrub=str.upper)
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
        found = survey_export(path)
        collected = collect_dialogues(path, find_persona(found, "1"), survey=found)
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
    found = survey_export(path)
    expected = ("user1", ("Наташа", "Натали й"), 2, frozenset({0}))
    for wanted in ("user1", "1", " Наташа ", "Натали й"):
        assert find_persona(found, wanted) == expected
    assert find_persona(found, "7").id == find_persona(found, "Новости").id == "channel7"


def test_a_name_of_two_people_is_refused(write):
    one = chat(say(1, "user5", "Да?", **{"from": "Анна"}), say(2, NATASHA, "Да"))
    two = chat(*(say(n, "user6", "Да?", **{"from": "Анна"}) for n in range(3)))
    with pytest.raises(GovorError) as caught:
        find_persona(survey_export(write(full(one, two))), "Анна")
    assert "2 people are called 'Анна'" in str(caught.value)
    assert str(caught.value).endswith("\n  Анна: user6, 3 messages\n  Анна: user5, 1 messages")


def test_a_persona_that_wrote_nothing(write):
    found = survey_export(write(group(service(1, OLGA, "pin_message"), say(2, IVAN, "Да?"), say(3, IVAN, "Нет?"))))
    assert [(who.id, who.messages) for who in found.participants] == [(OLGA, 0), (IVAN, 2)]
    for wanted, expected in (("Ольга", "'Ольга' has written nothing"), ("Пётр", "nobody is called 'Пётр'")):
        with pytest.raises(GovorError, match=expected) as caught:
            find_persona(found, wanted)
        assert str(caught.value).endswith("those who write most:\n  Иван: user2, 2 messages")


def test_the_name_of_a_personal_chat_is_its_partners(write):
    messages = (say(1, NATASHA, "Ау?"), say(2, IVAN, "Что?", **{"from": None}))
    found = survey_export(write(chat(*messages, name="Ваня Петров")))
    assert [(who.id, who.names) for who in found.participants] == [(NATASHA, ("Наташа",)), (IVAN, ("Ваня Петров",))]
    assert find_persona(found, "Ваня Петров").messages == 1


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
                say(1, NATASHA, "Есть кто?"),
                say(2, IVAN, "Я"),
                service(3, OLGA, "pin_message"),
                {"id": 4, "type": "unsupported"},
                say(5, IVAN, "Новость", forwarded_from="Новости"),
                say(6, IVAN, "Новость", forwarded_from=None),
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
    assert turns(collected) == ["Я, Иван / Вот"]
    assert reasons(collected) == Counter(
        nothing_to_answer=2, service=2, unsupported=1, forwarded=2, bot=5, media_without_text=1, empty=1,
        sender_unknown=1, duplicate=1, after_last_answer=1, persona_silent=1,
    )  # fmt: skip
    assert (collected.report.channels, collected.report.messages_read) == (3, 20)
    assert collected.report.share_kept == 2 / 20


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
    assert turns(collected) == ["Раз\nДва\nТри / А\nБ"]
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
    assert turns(taken(chat(say(1, IVAN, "Раз", 0), say(2, NATASHA, "А", 361)))) == []
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
    assert turns(collected) == ["Когда приедешь? / В пятницу / Жду / Ага"]


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
    assert turns(collected) == ["Кто забыл зонт? / Зонт мой", "Кто пойдёт в лес? / Я / И я в лес / Отлично"]


def test_a_reply_to_another_chat_answers_nothing_here(taken):
    messages = [say(1, IVAN, "Раз"), say(2, NATASHA, "А"), say(3, OLGA, "Два", 5000)]
    answer = say(4, NATASHA, "Б", 5001, reply_to_message_id=1)
    assert turns(taken(group(*messages, {**answer, "reply_to_peer_id": "channel5"}))) == ["Раз / А", "Два / Б"]
    assert turns(taken(group(*messages, {**answer, "reply_to_peer_id": "channel77"}))) == ["Раз / А\nБ"]
    assert turns(taken(group(*messages, {**answer, "reply_to_message_id": 999}))) == ["Раз / А", "Два / Б"]


def test_topics_are_talks_of_their_own(taken):
    collected = taken(
        group(
            service(1, IVAN, "topic_created", title="Рыбалка"),
            service(2, IVAN, "topic_created", title="Грибы"),
            say(3, IVAN, "Клюёт?", reply_to_message_id=1),
            say(4, OLGA, "Белых много?", reply_to_message_id=2),
            say(5, IVAN, "Что на ужин?"),
            say(6, BOT, "Не флудить", reply_to_message_id=3, via_bot="@rose"),
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


def test_much_text_is_cut_and_context_that_does_not_fit_is_left_out(taken):
    said = [say(n, NATASHA if n % 2 else IVAN, str(n) * 700) for n in range(6)]
    collected = taken(chat(*said))
    assert [[text_of(m)[0] for m in row.messages] for row in collected.rows] == [list("0123"), list("2345")]
    assert all(sum(len(text_of(m)) for m in row.messages) <= MAX_CHARS for row in collected.rows)
    said = [say(n, NATASHA if n % 2 else IVAN, str(n) * 1500) for n in range(4)]
    assert [[text_of(m)[0] for m in row.messages] for row in taken(chat(*said)).rows] == [list("01"), list("23")]


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
        group(say(1, OLGA, "тайна"), say(2, NATASHA, "секрет"), say(3, NATASHA, "Ладно"), name="Дача тайна"),
    )

    def scrub(text):
        return re.sub("(?i)тайна", "[…]", text).replace("секрет", " ")

    collected = taken(value, scrub=scrub)
    assert turns(collected) == ["Наташа, […] / […]?\nДа", "[…] / Ладно"]
    assert reasons(collected) == {"empty": 2}
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
        return service(id_, IVAN, rng.choice(["phone_call", "pin_message", "topic_created"]), minute), "service"
    if kind < 0.03:
        return {"id": id_, "type": "unsupported"}, "unsupported"
    if kind < 0.06:
        return {**message, "forwarded_from": rng.choice([None, "Новости"])}, "forwarded"
    if kind < 0.08:
        return {**message, "via_bot": "@gif"}, "bot"
    if kind < 0.15:
        media = {"text": "", "text_entities": [], "media_type": "sticker", "sticker_emoji": "👍", "file": "s.webp"}
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


def test_a_big_export_is_collected_in_time_and_adds_up(tmp_path):
    path = tmp_path / "result.json"
    expected = write_big(path, seed=1, chats=CHATS, messages=MESSAGES)
    started = time.perf_counter()
    found = survey_export(path)
    collected = collect_dialogues(path, find_persona(found, "Наташа"), survey=found)
    assert time.perf_counter() - started < 10
    assert_adds_up(collected)
    report = collected.report
    assert (report.channels, report.messages_read) == (CHATS, MESSAGES)
    of_message = {reason: report.dropped[reason] for reason in expected if reason is not None}
    assert of_message == {reason: count for reason, count in expected.items() if reason is not None}
    ours = ("persona_silent", "nothing_to_answer", "after_last_answer", "long_before_answer", "duplicate")
    assert report.messages_kept + sum(report.dropped[reason] for reason in ours) == expected[None]
    assert report.messages_kept > 0.5 * expected[None] and report.dropped["duplicate"] == 0

    answered = sum(turn.role == "assistant" for dialogue in collected.dialogues for turn in dialogue.turns)
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
from train.chats.telegram.participants import find_persona, survey_export

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

for path in map(Path, sys.argv[1:]):  # the first file pays for what is imported and allocated once
    before = peak()
    found = survey_export(path)
    surveyed = peak() - before
    collected = collect_dialogues(path, find_persona(found, "1"), survey=found)
    print(surveyed, peak() - before, collected.report.messages_read)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's count of a process's peak memory")
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
