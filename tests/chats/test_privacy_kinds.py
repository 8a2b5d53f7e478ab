"""The kinds of personal data that people type: invented lines with precision and recall by kind.

A line of privacy_kinds.jsonl has the kind it was written for, the text, the names known in its chat and the values
that must go, in order; a look-alike has none. The lines were written from a list of kinds, before the detectors.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from train.chats.privacy.scrub import Scrubber, find_personal_data

FILE = Path(__file__).parent / "privacy_kinds.jsonl"
LABEL = 25  # characters by which a finding may reach beyond the value, for the label before it


def fits(finding: tuple[int, int], value: tuple[int, int]) -> bool:
    """Whether a finding touches a value and does not reach far beyond it."""
    (start, end), (first, last) = finding, value
    return start < last and first < end and first - start <= LABEL and end - last <= LABEL


def measured(file: Path) -> tuple[dict[str, tuple[int, float, float]], list[str]]:
    """Lines, precision and recall by kind and over all of them, and what went wrong.

    A value is found when findings cover all of it. A finding is right when it touches a value and does not reach far
    beyond it. Precision of a kind counts the findings in its lines; overall it counts the look-alikes' too.
    """
    lines: Counter[str] = Counter()
    right: Counter[str] = Counter()
    findings: Counter[str] = Counter()
    caught: Counter[str] = Counter()
    values: Counter[str] = Counter()
    wrong = []
    for line in file.read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        text, kinds = item["text"], (item["kind"], "all")
        found = [(start, end) for _, start, end in Scrubber(item["names"]).find(text)]
        expected, position = [], 0
        for value in item["values"]:
            start = text.index(value, position)
            position = start + len(value)
            expected.append((start, position))
        covered = {n for start, end in found for n in range(start, end)}
        good = [span for span in found if any(fits(span, value) for value in expected)]
        missed = [text[s:e] for s, e in expected if any(text[n].isalnum() for n in {*range(s, e)} - covered)]
        for kind in kinds:
            lines[kind] += 1
            right[kind] += len(good)
            findings[kind] += len(found)
            values[kind] += len(expected)
            caught[kind] += len(expected) - len(missed)
        if missed or len(good) < len(found):
            extra = [text[s:e] for s, e in found if (s, e) not in good]
            wrong.append(f"{item['kind']}: {text!r}: missed {missed}, extra {extra}")
    figures = {k: (lines[k], right[k] / (findings[k] or 1), caught[k] / (values[k] or 1)) for k in lines}
    return figures, wrong


def table(figures: dict[str, tuple[int, float, float]]) -> str:
    rows = [f"{kind:16}{n:>6}{precision:>11.3f}{recall:>8.3f}" for kind, (n, precision, recall) in figures.items()]
    return "\n".join([f"{'kind':16}{'lines':>6}{'precision':>11}{'recall':>8}", *rows])


def test_what_people_type_is_found():
    figures, wrong = measured(FILE)
    report = "\n".join(["", table(figures), *wrong])
    print(report)
    assert all(recall >= 0.9 for kind, (_, _, recall) in figures.items() if kind != "look_alike"), report
    _, precision, recall = figures["all"]
    assert precision >= 0.97 and recall >= 0.98, report


def test_the_second_set_is_found():
    """Another author's lines, which the rules were mended with in view; LOG.md has what was found in them before."""
    figures, wrong = measured(FILE.with_name("privacy_kinds_second.jsonl"))
    report = "\n".join(["", table(figures), *wrong])
    assert all(precision >= 0.97 and recall >= 0.8 for _, precision, recall in figures.values()), report
    assert figures["all"][2] >= 0.9, report


def test_the_third_set_is_found():
    """Lines of a third author; LOG.md has what was found in them at the first measurement, before the last rules."""
    figures, wrong = measured(FILE.with_name("privacy_kinds_third.jsonl"))
    report = "\n".join(["", table(figures), *wrong])
    _, precision, recall = figures["all"]
    assert precision >= 0.99 and recall >= 0.96, report
    assert all(recall >= 0.8 for kind, (_, _, recall) in figures.items() if kind != "look_alike"), report


def test_the_fourth_set_is_found():
    """Messy lines of a fourth author, which the last rules were made with in view; LOG.md has the first measurement."""
    figures, wrong = measured(FILE.with_name("privacy_kinds_fourth.jsonl"))
    report = "\n".join(["", table(figures), *wrong])
    _, precision, recall = figures["all"]
    assert precision >= 0.99 and recall >= 0.98, report
    assert all(recall >= 0.9 for kind, (_, _, recall) in figures.items() if kind != "look_alike"), report


def test_the_fifth_set_is_found():
    """Lines of a fifth author, seen by the last rules; contracts and orders stay, as older sets say.

    LOG.md has the one measurement before.
    """
    figures, wrong = measured(FILE.with_name("privacy_kinds_fifth.jsonl"))
    report = "\n".join(["", table(figures), *wrong])
    _, precision, recall = figures["all"]
    assert precision >= 0.99 and recall >= 0.96, report
    assert all(recall >= 0.8 for kind, (_, _, recall) in figures.items() if kind != "look_alike"), report


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Vash kod: 4471", "4471"),
        ("вбивай ноль ноль семь три", "ноль ноль семь три"),
        ("Нижняя Красносельская, 35, стр. 9, этаж 3, кв. 12", "Нижняя Красносельская, 35, стр. 9, этаж 3, кв. 12"),
        ("жду на советской армии 12", "советской армии 12"),
        ("забанен 188 . 243 . 61 . 7", "188 . 243 . 61 . 7"),
        ("почта олег подчёркивание пять собака бк точка ру", "олег подчёркивание пять собака бк точка ру"),
        ("пишите: a n n a @ b k . r u", "a n n a @ b k . r u"),
        ("https://2gis.ru/geo/?m=82.920430%2C55.030200%2F16", "82.920430%2C55.030200"),
        ("машина белая, 412 ор регион 77", "412 ор регион 77"),
        ("паспорт 4517\n332918", "4517\n332918"),
        ("номер лицевого счёта: 12345678", "12345678"),
        ("инста собака nastya.run", "nastya.run"),
        ("камера на 192.168.1.64", "192.168.1.64"),
    ],
)
def test_what_the_fifth_set_taught_is_found_elsewhere(text, value):
    assert [text[span.start : span.end] for span in find_personal_data(text)] == [value]


@pytest.mark.parametrize(
    "text",
    [
        "192.168.1.1 не открывается",
        "на 127.0.0.1 крутится сервер",
        "список: 1 . 2 . 3 . 4",
        "kod oshibki 1045",
        "на 8 марта 21 - 22 градуса обещают",
        "в тг выложили, какая собака bigsize",
        "лицевой счёт пополнили на 15000 руб",
        "трек RA123456789RU в Твери",
    ],
)
def test_what_looks_like_the_fifth_set_stays(text):
    assert find_personal_data(text) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("такси на парковая 8, выхожу", "парковая 8"),
        ("заберите от карла маркса 18-44", "карла маркса 18-44"),
        ("мой теперь восем девятсот пять двести шестнадцать сорок четыре двацать", "восем девятсот пять"),
        ("Валера шиномонтаж 9871234455", "9871234455"),
        ("решётка 4021 и тяни калитку", "решётка 4021"),
        ("пароль: зелёный кот в шляпе слитно", "зелёный кот в шляпе"),
        ("муж родился в мае 84го", "в мае 84го"),
        ("подъехал, м228ас", "м228ас"),
    ],
)  # fmt: skip
def test_what_is_typed_in_haste_is_found(text, value):
    found = find_personal_data(text)
    assert len(found) == 1 and value in text[found[0].start : found[0].end], found


@pytest.mark.parametrize(
    "text",
    [
        "по ленина 2 аварии, стоим",
        "до победы 10 очков осталось",
        "полёт гагарина длился 108 минут",
        "калитка 4500 с установкой",
        "у подъезда 120 квартир ждут",
        "введи 3000 в поле сумма",
        "пришла зп 45000",
        "дай пароль плиз",
        "на канале 9031234567 подписчиков",
        "код урока 4512",
        "Il ne faut pas faire du bruit",
    ],
)
def test_what_is_counted_stays(text):
    assert find_personal_data(text) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("у калитки *7*31", "*7*31"),
        ("домофон 4#19 и ждите", "4#19"),
        ("домофон 45", "45"),
        ("домофон: 17, звоните дольше", "17"),
        ("набери 45 в домофон", "45"),
        ("замок: 379", "379"),
        ("нажми 2, 4 и 8 одновременно, дверь тугая", "2, 4 и 8"),
    ],
)
def test_what_is_pressed_at_a_door_is_found(text, value):
    assert [text[span.start : span.end] for span in find_personal_data(text)] == [value]


@pytest.mark.parametrize(
    "text",
    [
        "дверь 80*200",
        "лифт 110*210, широкий",
        "домофон 3 раза звонил",
        "домофон, 15 лет стоит",
        "домофон 500 рублей стоит",
        "в домофоне 20 кнопок",
        "звони 112 по домофону",
        "подъезд №123",
        "калитка 2*3 м",
    ],
)
def test_sizes_counts_and_prices_at_a_door_stay(text):
    assert find_personal_data(text) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("мой сотовый 79 26 5 5 1 40 11", "79 26 5 5 1 40 11"),
        ("тел 8 9 1 6.. 4 4 2.. 1 7.. 3 0", "8 9 1 6.. 4 4 2.. 1 7.. 3 0"),
        ("в дискорде sova_nik#3319", "sova_nik#3319"),
    ],
)
def test_phones_in_odd_groups_and_nicks_with_a_number(text, value):
    assert [text[span.start : span.end] for span in find_personal_data(text)] == [value]


@pytest.mark.parametrize("number", ["101", "102", "103", "104", "112"])
def test_numbers_of_help_stay(number):
    for text in ("набери {} и открой дверь врачам", "звони {}, домофон я открою", "срочно {}! код двери скажу им сама"):
        assert find_personal_data(text.format(number)) == []


def test_the_lines_are_broad():
    kinds = Counter(json.loads(line)["kind"] for line in FILE.read_text(encoding="utf-8").splitlines())
    assert kinds.total() >= 300
    assert kinds["look_alike"] >= 60


def test_what_no_data_lacks_passes_over_none():
    """`find_personal_data` does not search a text without any of it; a scrubber does, and finds nothing either."""
    files = sorted(FILE.parent.glob("privacy_*.jsonl"))
    texts = [json.loads(line)["text"] for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(texts) > 600
    for text in texts + [text.upper() for text in texts]:
        assert find_personal_data(text) == Scrubber().find(text)
