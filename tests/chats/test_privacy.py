"""Scrubbing: labelled chats with their precision and recall, and what holds for any text."""

import csv
import io
import json
import re
import time
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from train.chats.privacy.scrub import KINDS, PLACEHOLDER, Scrubber, find_personal_data, replacement_table
from train.chats.rows import Row
from train.chats.scrub_rows import scrub_row

ITEMS = REPOSITORY / "tests/chats"


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without punctuation and spaces around it."""
    inside = re.search(r"[\w@](?:.*\w)?", text[start:end], re.DOTALL)
    return (start + inside.start(), start + inside.end()) if inside else (start, end)


def labelled(item) -> Counter:
    found, position = Counter(), 0
    for entry in item["found"]:
        position = item["text"].index(entry["value"], position)
        found[entry["kind"], *trimmed(item["text"], position, position + len(entry["value"]))] += 1
        position += len(entry["value"])
    return found


@pytest.mark.parametrize("file", ["privacy_items.jsonl", "privacy_items_second.jsonl"])
def test_precision_and_recall(file):
    right, extra, missed, items = Counter(), Counter(), Counter(), Counter()
    wrong = []
    for line in (ITEMS / file).read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        expected = labelled(item)
        scrubber = Scrubber(item["names"], item["keep"])
        found = Counter((kind, *trimmed(item["text"], s, e)) for kind, s, e in scrubber.find(item["text"]))
        for counter, spans in ((right, found & expected), (extra, found - expected), (missed, expected - found)):
            counter.update(kind for kind, *_ in spans.elements())
        items.update({kind for kind, *_ in expected})
        if found != expected:
            wrong.append(f"{item['text']!r}: found {found - expected}, missed {expected - found}")
    lines = [f"{'kind':10}{'items':>6}{'precision':>11}{'recall':>8}"]
    figures = {}
    for kind in KINDS:
        n = right[kind]
        figures[kind] = (n / ((n + extra[kind]) or 1), n / ((n + missed[kind]) or 1))
        lines.append(f"{kind:10}{items[kind]:>6}{figures[kind][0]:>11.3f}{figures[kind][1]:>8.3f}")
    print("\n".join(["", file, *lines]))
    below = [kind for kind, (precision, recall) in figures.items() if precision < 0.97 or recall < 0.95]
    assert below == [], "\n".join([*lines, *wrong])


def test_the_labelled_set_is_broad():
    items = [json.loads(line) for line in (ITEMS / "privacy_items.jsonl").read_text(encoding="utf-8").splitlines()]
    counts = Counter(kind for item in items for kind in {entry["kind"] for entry in item["found"]})
    assert len(items) >= 300
    assert sum(not item["found"] for item in items) >= len(items) / 3
    assert counts.keys() == KINDS.keys()
    assert min(counts.values()) >= 20


# Numbers: checksums written a second time, as the authorities describe them.


def luhn(digits: str) -> bool:
    table_of_doubles = "0246813579"
    return sum(int(table_of_doubles[int(d)] if n % 2 else d) for n, d in enumerate(reversed(digits))) % 10 == 0


def control(digits: str, weights: list[int], modulus: int) -> int:
    return sum(int(d) * w for d, w in zip(digits, weights, strict=True)) % modulus


def valid_inn(digits: str) -> bool:
    if len(digits) == 10:
        return control(digits[:9], [2, 4, 10, 3, 5, 9, 4, 6, 8], 11) % 10 == int(digits[9])
    first = control(digits[:10], [7, 2, 4, 10, 3, 5, 9, 4, 6, 8], 11) % 10 == int(digits[10])
    return first and control(digits[:11], [3, 7, 2, 4, 10, 3, 5, 9, 4, 6, 8], 11) % 10 == int(digits[11])


def valid_snils(digits: str) -> bool:
    total = sum(int(d) * w for d, w in zip(digits, [9, 8, 7, 6, 5, 4, 3, 2, 1], strict=False))
    if total > 101:
        total %= 101
    return (0 if total in (100, 101) else total) == int(digits[9:])


def valid_ogrn(digits: str) -> bool:
    return int(digits[:-1]) % (11 if len(digits) == 13 else 13) % 10 == int(digits[-1])


VALID = {"card": luhn, "inn": valid_inn, "snils": valid_snils, "ogrn": valid_ogrn}
BODIES = {
    "card": r"(?:220[0-4][0-9]{2}|4[0-9]{5}|5[1-5][0-9]{4})[0-9]{9}",
    "inn": r"(?:[1-9][0-9]{8}|[1-9][0-9]{9})",
    "snils": r"[1-9][0-9]{8}",
    "ogrn": r"(?:[15][0-9]{11}|3[0-3][0-9]{12})",
}
CHECK_DIGITS = {"card": 1, "snils": 2, "ogrn": 1}
SENTENCES = ["{}", "вот {} держи", "записывай: {}, и не теряй", "скинула {}. Дошло?", "({})"]


@st.composite
def numbers(draw, kind):
    """A valid number of the kind."""
    body = draw(st.from_regex(BODIES[kind], fullmatch=True))
    count = CHECK_DIGITS.get(kind, 1 if len(body) == 9 else 2)
    return next(d for d in (body + f"{n:0{count}}" for n in range(10**count)) if VALID[kind](d))


def shaped(draw, kind, digits: str) -> str:
    if kind == "snils":
        return f"{digits[:3]}-{digits[3:6]}-{digits[6:9]} {digits[9:]}"
    if kind == "card":
        return draw(st.sampled_from(["", " ", "-"])).join(re.findall("....", digits))
    return digits


@pytest.mark.parametrize("kind", VALID)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_valid_numbers_are_found_and_others_are_not(kind, data):
    digits = data.draw(numbers(kind))
    sentence = data.draw(st.sampled_from(SENTENCES))
    written = shaped(data.draw, kind, digits)
    text = sentence.format(written)
    assert [(k, text[s:e]) for k, s, e in find_personal_data(text)] == [(kind, written)]
    position = data.draw(st.integers(0, len(digits) - 1))
    other = data.draw(st.sampled_from([d for d in "0123456789" if d != digits[position]]))
    changed = digits[:position] + other + digits[position + 1 :]
    assume(not VALID[kind](changed))  # remainders of 10 (100) and 0 give one check digit: one change in 99 stays valid
    assert kind not in [k for k, *_ in find_personal_data(sentence.format(shaped(data.draw, kind, changed)))]


# Any text

NAMES = ["Вера", "Маша Кузнецова", "Роман", "Ivan Petrov", "Мама", "Лев"]
FRAGMENTS = st.sampled_from(
    [
        *["вера", "Вера", "маша", "Маше", "роман", "Кузнецовой", "ivan", "мама", "льва", "привет", "сказал", "и"],
        *["ул.", "ленина", "Ленина", "д.", "кв.", "5", "12", "г.", "Казань", "индекс", "420111", "проспект"],
        *["паспорт", "инн", "снилс", "карта", "тел.", "заказ", "№", "+7", "8", "916", "5550123", "4508", "123456"],
        *["2202201234567890", "40817810", "000000000000", "@", "nick_1", "a@b.ru", "t.me/", "https://", "vk.com/id1"],
        *["<ИМЯ_1>", "<ТЕЛЕФОН_2>", "<", ">", ",", ".", "!", "-", "(", ")", " ", " ", "  ", "\n", "\u00a0", "😀", "х"],
    ]
)
TEXTS = st.one_of(
    st.lists(FRAGMENTS, max_size=25).map("".join),
    st.lists(FRAGMENTS, max_size=25).map(" ".join),
    st.text(st.sampled_from("0123456789 -+().,@/№дкиё"), max_size=60),
    st.text(max_size=60),
)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(TEXTS)
@pytest.mark.long
def test_scrubbing_twice_changes_nothing_more(text):
    scrubber = Scrubber(NAMES, keep=["Наташа"])
    once = scrubber.scrub(text)
    counts = scrubber.replaced
    assert scrubber.scrub(once) == once
    assert scrubber.replaced == counts
    assert Scrubber(NAMES, keep=["Наташа"]).scrub(once) == once


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_what_is_not_found_stays(text):
    scrubber = Scrubber(NAMES)
    found = scrubber.find(text)
    assert all(a.end <= b.start for a, b in pairwise(found))
    scrubbed = scrubber.scrub(text)
    assert (scrubbed == text) == (not found)
    issued = {entry.placeholder: entry.times for entry in scrubber.replaced}
    before, after = Counter(PLACEHOLDER.findall(text)), Counter(PLACEHOLDER.findall(scrubbed))
    assert after - before == Counter(issued)


# Placeholders


def test_one_value_has_one_placeholder():
    scrubber = Scrubber()
    text = "мой 8 (916) 555-01-23, он же +79165550123 и 7-916-555-01-23; второй +7 903 555-01-44"
    assert scrubber.scrub(text) == "мой <ТЕЛЕФОН_1>, он же <ТЕЛЕФОН_1> и <ТЕЛЕФОН_1>; второй <ТЕЛЕФОН_2>"
    assert scrubber.scrub("набери 89165550123") == "набери <ТЕЛЕФОН_1>"
    assert (
        scrubber.scrub("A@B.ru, a@b.ru, https://t.me/Kot_1 t.me/kot_1/")
        == "<ПОЧТА_1>, <ПОЧТА_1>, <ССЫЛКА_1> <ССЫЛКА_1>"
    )
    assert scrubber.replaced[:2] == [
        ("<ТЕЛЕФОН_1>", "phone", "8 (916) 555-01-23", 4),
        ("<ТЕЛЕФОН_2>", "phone", "+7 903 555-01-44", 1),
    ]


def test_a_person_has_one_placeholder():
    scrubber = Scrubber(["Ольга Сергеевна Климова", "Пётр", "Сергей"])
    text = "Ольга Сергеевна и петр пришли. Климовой сказали про Петра, сергею нет"
    assert scrubber.scrub(text) == "<ИМЯ_1> и <ИМЯ_2> пришли. <ИМЯ_1> сказали про <ИМЯ_2>, <ИМЯ_3> нет"
    assert [entry.original for entry in scrubber.replaced] == ["Ольга Сергеевна Климова", "Пётр", "Сергей"]


@pytest.mark.parametrize(
    ("name", "forms"),
    [
        ("Марина", "марина марины марине марину мариной марин марининого"),
        ("Лёва", "лёва Лева лёвы лёве лёву лёвой"),
        ("Пётр Шевченко", "петр Петра петру петром петре шевченко"),
        ("Толян", "толян толяна толяну толяном толяне"),
        ("Гульчехра", "гульчехра гульчехры гульчехре гульчехру гульчехрой"),
        ("Анна Белова", "Белова Беловой белову"),
        ("Илья Ким", "илья ильи илье илью ильёй"),
        ("Anya_92 🌸", "anya ANYA"),
    ],
)
def test_forms(name, forms):
    for form in forms.split():
        assert Scrubber([name]).scrub(f"а {form} где") == "а <ИМЯ_1> где", form


def test_the_persona_keeps_its_name():
    scrubber = Scrubber(["Наташа Иванова", "Оля"], keep=["Наташа"])
    assert scrubber.scrub("Наташе и Оле от Наташи Ивановой") == "Наташе и <ИМЯ_1> от Наташи <ИМЯ_2>"


def test_other_words_of_a_display_name():
    scrubber = Scrubber(["Саша из Работы", "Мой Мир"])
    assert (
        scrubber.scrub("саша, работы много, мир и мой дом из кирпича")
        == "<ИМЯ_1>, работы много, мир и мой дом из кирпича"
    )


# Rows


def test_rows():
    call = {"name": "book", "arguments": '{"who": "Ире", "phone": 89165550123, "seats": [2, "a@b.ru"]}'}
    row = Row(
        7,
        [
            {"role": "system", "content": "Ты Наташа."},
            {"role": "user", "name": "Ира", "content": [{"type": "text", "text": "я Ира, 8 916 555-01-23"}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": call}]},
            {"role": "tool", "tool_call_id": "c", "content": "Ире отправлено на a@b.ru"},
            {"role": "assistant", "content": "Готово, Ира", "weight": 1},
        ],
        [{"type": "function", "function": {"name": "book"}}],
    )
    before = json.dumps(row, ensure_ascii=False)
    clean = scrub_row(row, Scrubber(["Ира"], keep=["Наташа"]))
    assert json.dumps(row, ensure_ascii=False) == before
    assert (clean.line, clean.tools) == (7, row.tools)
    system, user, asked, told, last = clean.messages
    assert system["content"] == "Ты Наташа."
    assert user == {"role": "user", "name": "ИМЯ_1", "content": [{"type": "text", "text": "я <ИМЯ_1>, <ТЕЛЕФОН_1>"}]}
    arguments = json.loads(asked["tool_calls"][0]["function"]["arguments"])
    assert arguments == {"who": "<ИМЯ_1>", "phone": "<ТЕЛЕФОН_1>", "seats": [2, "<ПОЧТА_1>"]}
    assert told["content"] == "<ИМЯ_1> отправлено на <ПОЧТА_1>"
    assert last == {"role": "assistant", "content": "Готово, <ИМЯ_1>", "weight": 1}


@pytest.mark.parametrize("arguments", ['{"a": 1, "b": [true, null, 1.5]}', "не JSON", "", "[" * 5000])
def test_arguments_without_personal_data_stay_as_written(arguments):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    row = Row(1, [{"role": "assistant", "tool_calls": [call]}])
    assert scrub_row(row, Scrubber(["Ира"])) == row


def test_table_is_csv():
    scrubber = Scrubber(['Ира "Кот", Самара'])
    lines = [scrubber.scrub(line) for line in ("Ира, пиши на a@b.ru или a@b.ru", "пусто", "a@b.ru")]
    assert list(csv.reader(io.StringIO(replacement_table(scrubber, lines)))) == [
        ["placeholder", "kind", "original", "times", "lines"],
        ["<ИМЯ_1>", "name", 'Ира "Кот", Самара', "1", "1"],
        ["<ПОЧТА_1>", "email", "a@b.ru", "3", "1 3"],
    ]


# Speed


def processor_seconds(work) -> float:
    """The best of three, in seconds of this process alone."""
    taken = []
    for _ in range(3):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


@pytest.mark.alone
def test_a_megabyte_a_second_with_fifty_names():
    given_names = "Марина Дима Ольга Света Вера Роман Надежда Лев Алёна Гульнара Ильдар Иван Маша Лёша Юля Коля Слава"
    names = [f"{name} {surname}" for name in given_names.split() for surname in ("Белова", "Ким", "Кузнецов")][:50]
    lines = (REPOSITORY / "data/natasha.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [message["content"] for line in lines for message in json.loads(line)["messages"]]
    scrubber = Scrubber(names)
    scrubber.scrub("привет, Вера")  # loads the dictionary
    seconds = processor_seconds(lambda: [scrubber.scrub(text) for text in texts])
    assert sum(len(text.encode()) for text in texts) / 1e6 / seconds >= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    [
        *[
            "1",
            "1 ",
            "12-",
            "4276 ",
            "+7 ",
            "45 08 123456 ",
            "инн ",
            "(",
            " ",
            "\n",
            "-",
            "@",
            "a@",
            "a.",
            "@a.",
            "t.me/",
        ],
        *["https://", "<ИМЯ_", "<ИМЯ_1>", "ул. А ", "д. 5, кв. 1, ", "Мира, ", "Вера, ", "вера и ", "маша-"],
        *[
            "ленина 15 ",
            "дверь 12 ",
            "код 1234 ",
            "восемь 9 ",
            "на двери 123, на второй ",
            "роутер a/",
            "55.123, ",
            "омс 1",
            "тг собака a_1 ",
            "a @ b . ",
            "228 . 40 . ",
            "55.12345%2C",
            "серия 60 11\n",
            "31, стр. 2, ",
            "10.0.0.1 ",
        ],
    ],
)
@pytest.mark.long
def test_time_is_linear(unit):
    scrubber = Scrubber(NAMES)
    scrubber.scrub("привет, Вера")
    short, long = (unit * (size // len(unit)) for size in (20_000, 100_000))
    assert processor_seconds(lambda: scrubber.scrub(long)) <= 8 * processor_seconds(lambda: scrubber.scrub(short)) + 0.2
