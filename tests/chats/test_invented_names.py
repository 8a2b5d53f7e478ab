"""Invented names: same gender, same grammatical form, one for each person of a chat; and whose names are replaced."""

import json
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from train.chats.privacy.given_names import sounds, to_cyrillic
from train.chats.privacy.scrub import Scrubber
from train.chats.telegram.collect_export import collect_exports
from train.chats.telegram.dialogues import Selection


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("Елена Викторовна Крылова", "с Еленой Викторовной Крыловой", "с Ириной Андреевной Соколовой"),
        ("Елена Крылова", "а Лена, Леночке и Ленке", "а Ира, Ирочке и Ирке"),
        ("Елена Крылова", "елену крылову, Лен!", "ирину соколову, Ир!"),
        ("Елена Крылова", "Крыловы приехали", "Соколовы приехали"),
        ("Елена Крылова", "lena, LENOCHKA", "ira, IROCHKA"),
        ("Лена", "без Елены", "без Ирины"),
        ("Мария Раевская", "от Марии Раевской Маше", "от Юлии Сосновской Юле"),
        ("Дмитрий Савин", "с Димоном, Димой и Дмитрием Савиным", "с Коляном, Колей и Николаем Соколовым"),
        ("Сергей Ким", "Серёге Киму", "Коле Ковальчуку"),
        ("Юлия Шевченко", "Юлии Шевченко", "Марии Бондаренко"),
        ("Андрей Мельник", "Андрею Мельнику", "Николаю Ковальчуку"),
        ("Ivan Petrov", "ivan petrov, у Вани Петрова", "nikolay sokolov, у Коли Соколова"),
        ("Илья", "Илье и с Ильёй", "Никите и с Никитой"),
        ("Саша", "Саше, с Сашей", "Жене, с Женей"),
        ("Саша Белова", "Саше, с Сашей", "Ире, с Ирой"),
        ("Мама", "Мама, привет", "Мама, привет"),
    ],
)
def test_a_name_becomes_another_in_the_same_form(name, text, expected):
    scrubber = Scrubber([name], keep=["Наташа"], invent=True)
    assert scrubber.scrub(text) == expected
    assert scrubber.scrub(expected) == expected, "invented names are nobody's"


def test_two_people_get_two_names_and_none_of_anybody_there():
    scrubber = Scrubber(["Елена", "Ирина", "Марина"], keep=["Ольга"], invent=True)
    replaced = scrubber.scrub("Елена и Ирина, Марина и Оля").split()
    assert replaced[-1] == "Оля"
    names = {word.strip(",") for word in replaced if len(word) > 1}
    assert len(names) == 4 and not names & {"Елена", "Ирина", "Марина", "Ольга"}
    assert scrubber.scrub("Елена и Ирина, Марина и Оля").split() == replaced


def test_a_chat_of_more_people_than_invented_names():
    names = ["Ирина", "Ольга", "Татьяна", "Людмила", "Екатерина", "Галина", "Анна", "Зинаида", "Елена", "Светлана"]
    scrubber = Scrubber(names, invent=True)
    for name in names:
        assert scrubber.scrub(name) != name


def test_the_personas_diminutives_stay():
    scrubber = Scrubber(["Наталья Белова"], keep=["Наташа Волкова"], invent=True)
    text = "Натуся, Наташке, Наталье от natasha"
    assert scrubber.scrub(text) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Елена", "на площади Ленина, читал Ленина"),
        ("Вера", "вера в людей"),
        ("Надежда", "надежда умирает последней"),
        ("Роман", "роман дочитан"),
        ("Артём", "тема закрыта, в тему"),
        ("Анатолий", "только толика правды"),
    ],
)
def test_words_that_look_like_names_stay(name, text):
    assert Scrubber([name], invent=True).scrub(text) == text


@pytest.mark.parametrize("latin", ["Julia", "yuliya", "Iuliia", "juliya"])
def test_one_name_in_many_spellings(latin):
    assert sounds(latin) == sounds("Юлия") and to_cyrillic(latin) == "юлия"


def collected(export: Path, **options) -> str:
    collect_exports(
        [export], ["Катя Лис"], Path("out"), Selection(), slug="k", system=None, scrub=True, force=True, **options
    )
    return next(Path("out").glob("k_finetuning_*.jsonl")).read_text(encoding="utf-8")


def test_who_is_mentioned_by_name_is_replaced(shared, working_folder):
    text = collected(shared("cases/telegram/e1_entities.json"))
    for leak in ("Оля", "Зайцева", "33-08-41", "4276380012345678", "@ola", "disk.yandex", "o@z.ru"):
        assert leak not in text, leak
    assert "Ирина Соколова" in text or "Ира Соколова" in text


def test_names_of_other_chats_stay(working_folder):
    def chat(number: int, other: str, *said: str) -> dict:
        people = [(f"user{number}", other), ("user1", "Катя Лис")]
        messages = [
            {"id": n, "type": "message", "date_unixtime": str(1_700_000_000 + 60 * n), "from_id": id_, "from": name,
             "text": text}
            for n, text in enumerate(said, 1)
            for id_, name in [people[(n + 1) % 2]]
        ]  # fmt: skip
        return {"name": other, "type": "personal_chat", "id": number, "messages": messages}

    chats = [
        chat(2, "Дима Савин", "Привет от Димы", "Дима, и Лене привет"),
        chat(3, "Лена", "Это Лена", "Лена, Дима пришёл?"),
    ]
    Path("result.json").write_text(json.dumps({"chats": {"list": chats}}, ensure_ascii=False), encoding="utf-8")
    text = collected(Path("result.json"))
    assert "Привет от Коли" in text and "Коля, и Лене привет" in text
    assert "Это Ира" in text and "Ира, Дима пришёл?" in text
    placeholders = collected(Path("result.json"), placeholders=True)
    assert "Привет от <ИМЯ_1>" in placeholders and "и Лене привет" in placeholders


def test_the_table_of_diminutives_has_every_name_once():
    import yaml

    path = REPOSITORY / "train/chats/privacy/diminutives.yaml"
    table = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert len(table["women"]) + len(table["men"]) >= 90
    for names in table.values():
        for full, words in names.items():
            assert full.lower() not in words.split() and len(words.split()) >= 2, full
