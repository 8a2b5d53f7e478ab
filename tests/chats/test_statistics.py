"""`govor analyze`: exact numbers on small rows; topics against given labels; a page that stands by itself."""

import csv
import io
import json
import random
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.conftest import REPOSITORY
from train.chats.learned_topics import learn_topics
from train.chats.readers import read_rows
from train.chats.rows import Row, row_to_object, text_of
from train.chats.rules import row_problems
from train.chats.statistics import CRITERIA, GOOD_ROW, good_of, statistics
from train.chats.statistics_page import to_terminal, write_json, write_page
from train.chats.statistics_words import ENGLISH, RUSSIAN
from train.chats.topics import NO_TOPIC, load_topics, split_words
from train.core.errors import DataError, GovorError
from train.core.pages import language_of_locale

TOPICS = load_topics()
ANSWER = "Сядь у окна, налей чаю и скажи вслух, чего ты ждёшь от этой зимы."
OTHERS = [
    "Верни ему ключи в пятницу, а дверь закрой сама, без чужих рук и советов.",
    "Корабль не тонет от воды вокруг, он тонет от той, что пустил внутрь трюма.",
    "Положи телефон в ящик стола на сутки и посмотри, кто первым соскучится.",
]


def row(*texts: str, line: int = 1, **last) -> Row:
    """A row of turns, the user's first; `last` is added to the last message."""
    messages = [{"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(texts)]
    return Row(line, [*messages[:-1], {**messages[-1], **last}])


def measure(*rows: Row, topics=TOPICS, **options):
    return statistics(rows, topics=topics, **options)


def failing(*rows: Row) -> dict[str, int]:
    return {criterion: count for criterion, count in measure(*rows).quality.failed.items() if count}


def test_rows_messages_turns_and_lengths():
    system = {"role": "system", "content": "Не в счёт." * 100}
    first = row("а" * 10, "б" * 100)
    stats = measure(first._replace(messages=[system, *first.messages]), row("а" * 30, "б" * 200, "а" * 20, "б" * 300))
    assert (stats.rows, stats.messages) == (2, 6)
    assert (stats.turns.mean, stats.turns.max, stats.turns.counts, stats.turns.edges) == (
        1.5,
        2,
        [1, 1],
        [0.5, 1.5, 2.5],
    )
    user, assistant = stats.user.characters, stats.assistant.characters
    assert (user.count, user.mean, user.median, user.max) == (3, 20, 20, 30)
    assert (user.p5, user.p95) == (pytest.approx(11), pytest.approx(29))
    assert (assistant.count, assistant.mean, assistant.median, assistant.max) == (3, 200, 200, 300)
    assert sum(user.counts) == 3


def test_a_long_tail_is_counted_not_drawn():
    stats = measure(*(row("а" * 10, ANSWER, line=n) for n in range(99)), row("а" * 100_000, ANSWER))
    spread = stats.user.characters
    assert (spread.max, spread.beyond, sum(spread.counts)) == (100_000, 1, 99)
    assert spread.edges[-1] < 100


def test_tokens_only_where_they_can_be_counted():
    rows = [row("а", "б" * length) for length in (10, 20, 30)]
    assert measure(*rows).tokens is None
    counted = measure(*rows, count_tokens=lambda row: len(text_of(row.messages[-1])), max_length=20).tokens
    assert (counted.rows.mean, counted.max_length, counted.rows_over_max_length) == (20, 20, 1)
    assert measure(*rows, count_tokens=lambda row: 1).tokens.rows_over_max_length is None


def test_channels_are_those_given():
    stats = measure(row("а", ANSWER), channels={"telegram": 3, "vk": 1})
    assert {name: (share.rows, share.share) for name, share in stats.channels.items()} == {
        "telegram": (3, 0.75),
        "vk": (1, 0.25),
    }
    assert measure(row("а", ANSWER)).channels is None


@pytest.mark.parametrize(
    ("text", "holds", "ends"),
    [
        ("Кто ты?", 1, 1),
        ("Кто ты? Скажи.", 1, 0),
        ("«Кто ты?» 🙂))", 1, 1),
        ("Правда?!..", 1, 1),
        ("https://site.ru/?page=2", 0, 0),
        ("Скажи.", 0, 0),
    ],
)
def test_questions(text, holds, ends):
    side = measure(row("?", text)).assistant
    assert (side.question_share, side.closing_question_share) == (holds, ends)


@pytest.mark.parametrize(
    ("text", "emoji", "smile"),
    [
        ("Привет)", 0, 1),
        ("жаль((", 0, 1),
        ("(да :) вот)", 0, 1),
        ("Так (и вот так).", 0, 0),
        ("1) чай\n 2) сон", 0, 0),
        ("буду в 5)", 0, 1),
        ("Тепло ❤️", 1, 0),
        ("🇷🇺", 1, 0),
        ("👍🏽)", 1, 1),
        ("№ 5 — 10 % ©", 0, 0),
    ],
)
def test_emoji_and_bracket_smiles(text, emoji, smile):
    side = measure(row("а", text)).assistant
    assert (side.emoji_share, side.bracket_smile_share) == (emoji, smile)


def test_each_side_by_itself_and_messages_without_text():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asked = Row(1, [
        {"role": "user", "content": "Как?)"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "?"},
        {"role": "assistant", "content": [{"type": "text", "text": "Та"}, {"type": "text", "text": "к."}]},
    ])  # fmt: skip
    stats = measure(asked, row("", "Да."))
    assert (stats.user.messages, stats.user.without_text, stats.user.question_share) == (2, 1, 1)
    assert (stats.user.bracket_smile_share, stats.assistant.bracket_smile_share) == (1, 0)
    assert (stats.assistant.messages, stats.assistant.without_text) == (3, 1)
    assert (stats.assistant.question_share, stats.assistant.characters.mean) == (0, 3.5)
    silent = Row(1, [{"role": "assistant", "content": None, "tool_calls": [call]}])
    assert (measure(silent).user.characters, measure(silent).assistant.emoji_share) == (None, None)


def test_vocabulary():
    found = measure(row("слон", "Кошка ловит кошек, и они поймали её! 12 раз. Ёж"), row("", "кошка")).vocabulary
    assert (found.words, found.distinct_forms) == (10, 9)  # кошка ловит кошек и они поймали её раз ёж
    assert (found.ratio_words, found.type_token_ratio) == (10, pytest.approx(0.9))
    assert found.content_lemmas[0] == ("кошка", 3)
    assert {lemma for lemma, _ in found.content_lemmas} == {"кошка", "ловить", "поймать", "раз", "еж"}


def test_type_token_ratio_is_measured_on_the_first_words(monkeypatch):
    monkeypatch.setattr("train.chats.topics.RATIO_WORDS", 4)
    found = measure(row("", "дом дом"), row("", "дом сад лес")).vocabulary
    assert (found.words, found.ratio_words, found.type_token_ratio) == (5, 4, 0.5)


@pytest.mark.parametrize("word", ["не" * 5000, "𗀀", "cat", "не-" * 5000 + "кот"])
def test_words_that_pymorphy_must_not_see(word):
    assert [(found.form, found.lemma, found.is_content) for found in split_words(word)] == [(word, word, False)]


def test_words_in_other_encodings_and_cases():
    assert [found.lemma for found in split_words("ЕЩЕ и\u0306ога")] == ["еще", *(w.lemma for w in split_words("йога"))]


def test_duplicates():
    texts = [ANSWER, ANSWER, ANSWER.replace("зимы", "весны"), *OTHERS]
    found = measure(*(row("Что делать?", text, line=n) for n, text in enumerate(texts))).duplicates
    assert (found.exact_rows, found.near_rows, found.near_groups) == (1, 2, 1)


def test_rows_that_differ_in_their_tool_calls_are_no_duplicates():
    def calling(arguments: str) -> Row:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
        return Row(1, [{"role": "assistant", "content": None, "tool_calls": [call]}])

    found = measure(calling('{"city": "Казань", "days": 3}'), calling('{"text": "совсем другое дело"}')).duplicates
    assert (found.exact_rows, found.near_rows) == (0, 0)


def test_personal_data():
    stats = measure(row("Пиши на anna.petrova@example.com", ANSWER), row("Пиши.", OTHERS[0]))
    assert stats.personal_data.rows == 1
    assert sum(stats.personal_data.found.values()) == 1
    assert stats.quality.failed["personal_data"] == 1


def test_personal_data_in_the_system_message_and_in_tool_calls():
    system = {"role": "system", "content": "Моя почта anna.petrova@example.com"}
    function = {"name": "mail", "arguments": '{"to": "oleg.ivanov@example.com"}'}
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]}
    assert sum(measure(Row(1, [system, call])).personal_data.found.values()) == 2


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("Что делать?", ANSWER)], {}),
        ([row("Что делать?", "б" * 40)], {}),
        ([row("Что делать?", "б" * 39)], {"answer_length": 1}),
        ([row("Что делать?", "б" * 2000)], {}),
        ([row("Что делать?", "б" * 2001)], {"answer_length": 1}),
        ([row("Что делать?", "7" * 30 + "б" * 20)], {"not_letters": 1}),
        ([row("Что делать?", " 7" * 25 + "б" * 25)], {}),
        ([row(f"Скажи: {ANSWER} Да?", ANSWER.upper())], {"echo": 1}),
        ([row("Что делать?", ANSWER), row("Что делать?", ANSWER)], {"near_duplicate": 1}),
        ([row("Что делать?", ANSWER, weight=7)], {"invalid": 1}),
        ([Row(1, [{"role": "user", "content": "?"},
                  {"role": "assistant", "content": "да", "weight": 0}, *row("Как?", ANSWER).messages])], {}),
    ],
)  # fmt: skip
def test_quality(rows, expected):
    stats = measure(*rows)
    assert failing(*rows) == expected
    assert stats.quality.good.rows == len(rows) - bool(expected)
    assert stats.quality.good.share == stats.quality.good.rows / len(rows)


def test_a_row_may_fail_in_several_ways_and_counts_once():
    rows = [row("7" * 10, "7" * 5), row("Что делать?", ANSWER)]
    assert failing(*rows) == {"answer_length": 1, "not_letters": 1, "echo": 1}
    assert measure(*rows).quality.good.rows == 1


def test_nothing_to_measure():
    with pytest.raises(DataError, match="no rows"):
        measure()


def topics_of(text: str, yaml: str) -> list[str]:
    Path("topics.yaml").write_text(yaml, encoding="utf-8")
    stats = measure(row(text, "да"), topics=load_topics(Path("topics.yaml")))
    return [topic for topic, share in stats.topics.items() if share.rows]


PLAIN = "topics: {море: [волна, плыть], былое: [прошлая жизнь, вот да]}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Волны, волнами!", ["море"]),
        ("Плыву по волнам", ["море"]),
        ("Волна.", [NO_TOPIC]),
        ("О прошлой жизни", ["былое"]),
        ("Прошлый раз жизнь", [NO_TOPIC]),
        ("Прошлых жизней и волн — плыви", ["море", "былое"]),
        ("", [NO_TOPIC]),
    ],
)
def test_topics_by_dictionary_form(text, expected):
    assert topics_of(text, PLAIN) == expected


def test_min_hits_and_shares():
    assert topics_of("Волна", "min_hits: 1\n" + PLAIN) == ["море"]
    assert topics_of("Волна волна", "min_hits: 3\n" + PLAIN) == [NO_TOPIC]
    stats = measure(row("Что?", "Вода да."), row("Смысл жизни и карма", "Так."))
    assert stats.topics["духовный рост"].share == 0.5
    assert stats.topics[NO_TOPIC].rows == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.yaml:1: expected `min_hits: 2` and `topics:`"),
        ("- a\n", "t.yaml:1: expected `min_hits: 2` and `topics:`"),
        ("min_hits: 2\n", "t.yaml: no topics"),
        ("topics:\n", "t.yaml:1: topics: expected topic names"),
        ("topics:\n  a: [b\n", "t.yaml:3: not valid YAML"),
        ("topics: \x00", "t.yaml: not valid YAML"),
        ("[" * 5000, "t.yaml:1: not valid YAML"),
        ("topics:\n  a: слово\n", "t.yaml:2: topic 'a': expected a list of words"),
        ("topics:\n  a: []\n", "t.yaml:2: topic 'a': expected a list of words"),
        ("topics:\n  a:\n    - слово\n    - '?!'\n", "t.yaml:4: topic 'a': expected a word"),
        ("topics:\n  a:\n    - слово\n    - [x]\n", "t.yaml:4: topic 'a': expected a word"),
        ("topics:\n  a: [b]\n  a: [c]\n", "t.yaml:3: topic 'a' stands here again"),
        ("topics:\n  без темы: [b]\n", "t.yaml:2: 'без темы' is the name for rows without"),
        ("topics:\n  '': [b]\n", "t.yaml:2: expected a topic's name"),
        ("topics:\n  a: [b]\nmin_hit: 2\n", "t.yaml:3: unknown key 'min_hit'"),
        ("topics:\n  a: [b]\nmin_hits: 0\n", "t.yaml:3: min_hits: expected a whole number"),
        ("topics:\n  a: [b]\nmin_hits: [1]\n", "t.yaml:3: min_hits: expected a whole number"),
    ],
)
def test_bad_topics(text, message):
    Path("t.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(GovorError) as caught:
        load_topics(Path("t.yaml"))
    assert message in str(caught.value)


def test_topic_files_that_cannot_be_read():
    Path("t.yaml").write_bytes("topics: {море: [волна]}".encode("cp1251"))
    for path, message in ((Path("t.yaml"), "not UTF-8"), (Path("no.yaml"), "no such file"), (Path(), "a folder")):
        with pytest.raises(GovorError, match=message):
            load_topics(path)


def test_words_that_yaml_would_read_as_something_else():
    Path("t.yaml").write_text("topics: {1984: [no, да, on]}", encoding="utf-8")
    assert load_topics(Path("t.yaml")).phrases == {"1984": [("no",), ("да",), ("on",)]}


def test_topics_agree_with_the_labels_beside_the_rows():
    """Micro F1, measured: 0.56 on all rows; 0.51 on those whose texts nobody looked at while writing the lists (every
    second one; its score was seen once before a last addition, and was 0.50 then). Naming the most frequent topic for
    every row would give 0.37.
    """
    rows = read_rows(REPOSITORY / "data/natasha.jsonl")
    with (REPOSITORY / "data/natasha_topics.csv").open(encoding="utf-8") as file:
        labels = [set(record["topics"].split("; ")) for record in csv.DictReader(file)]
    assert set(TOPICS.phrases) == set().union(*labels)

    def micro_f1(numbers: range) -> float:
        counts: Counter[str] = Counter()
        for number in numbers:
            text = " ".join(text_of(m) for m in rows[number].messages if m["role"] != "system")
            found = set(TOPICS.matching([word.lemma for word in split_words(text)]))
            counts += Counter(both=len(found & labels[number]), all=len(found) + len(labels[number]))
        return 2 * counts["both"] / counts["all"]

    assert micro_f1(range(len(rows))) >= 0.55
    assert micro_f1(range(1, len(rows), 2)) >= 0.50


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(["", ")(", ANSWER, "а-то?"])
said = text.filter(str.strip)
parts = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": said}), min_size=1, max_size=3)
user = st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "developer"]), "content": text | parts})
answer = st.fixed_dictionaries({"role": st.just("assistant"), "content": said | parts}, optional={"weight": st.just(1)})
refusal = st.fixed_dictionaries({"role": st.just("assistant"), "content": st.none(), "refusal": said})
call = st.builds(
    lambda value: {"role": "assistant", "content": None, "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"x": value})}}
    ]},
    text,
)  # fmt: skip
called = st.builds(lambda call, said: [call, {"role": "tool", "tool_call_id": "c", "content": said}], call, text)
turns = st.lists(st.one_of(user.map(lambda m: [m]), answer.map(lambda m: [m]), called), max_size=4)
any_row = st.builds(lambda turns, last: Row(1, [*chain.from_iterable(turns), last]), turns, answer | refusal | call)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(any_row, min_size=1, max_size=4))
def test_any_valid_rows_are_measured(rows):
    assert not any(problem for row in rows for problem in row_problems(1, row_to_object(row)))
    stats = measure(*rows, count_tokens=lambda row: len(row.messages), max_length=2)
    assert stats.quality.failed["invalid"] == 0
    assert sum(stats.turns.counts) + stats.turns.beyond == stats.rows == len(rows)
    assert 0 <= stats.quality.good.share <= 1
    assert sum(share.rows for share in stats.topics.values()) >= len(rows)
    Console(file=io.StringIO()).print(to_terminal(stats))
    write_json(stats, Path("stats.json"), force=True)
    assert json.loads(Path("stats.json").read_bytes())["rows"] == len(rows)


class Fetches(HTMLParser):
    """Everything on a page that a browser would fetch, and the page's text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: Counter[str] = Counter()
        self.words = ""

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "data", "srcset", "action") and not value.startswith("#"):
                self.found.append(value)
            if name == "style" and re.search(r"url\((?!#)", value):
                self.found.append(value)

    def handle_data(self, data):
        self.words += data


def evil_stats():
    yaml = "topics: {'<script>alert(1)</script> [bold]$\\alpha$': [чай, окно]}"
    Path("evil.yaml").write_text(yaml, encoding="utf-8")
    rows = [row("Что делать?", text, line=n) for n, text in enumerate([ANSWER, *OTHERS])]
    return measure(*rows, topics=load_topics(Path("evil.yaml")), channels={"<img src=http://x/>": 4},
                   count_tokens=lambda row: 7, max_length=5)  # fmt: skip


def test_page_stands_by_itself_and_escapes_names():
    write_page(evil_stats(), Path("out/page.html"))
    text = Path("out/page.html").read_text(encoding="utf-8")
    page = Fetches()
    page.feed(text)
    assert page.found == []
    assert not re.search(r"@import|url\((?!#)", text)
    assert (page.tags["script"], page.tags["img"], page.tags["link"]) == (0, 0, 0)
    assert page.tags["svg"] == 4  # turns, tokens, characters of user and assistant
    assert "<script>alert(1)</script> [bold]" in page.words
    assert "<img src=http://x/>" in page.words
    for criterion in CRITERIA.values():
        assert criterion.replace("`", "") in page.words, "code has a font instead of backticks"
    assert list(Path("out").iterdir()) == [Path("out/page.html")]


def test_terminal_shows_names_as_they_are_and_the_definition():
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(to_terminal(evil_stats()))
    shown = console.export_text()
    assert "<script>alert(1)</script> [bold]$" in shown
    assert "Good, failing nothing: 4 of 4 rows (100.0%)." in shown
    assert "rows longer than 5 tokens" in shown
    for criterion in CRITERIA.values():
        assert criterion in shown


def test_json_holds_everything():
    write_json(evil_stats(), Path("out/dataset_stats.json"))
    found = json.loads(Path("out/dataset_stats.json").read_bytes())
    assert found["tokens"]["rows_over_max_length"] == 4
    assert found["quality"]["definition"] == GOOD_ROW
    assert found["quality"]["good"] == {"rows": 4, "share": 1.0}
    assert found["channels"] == {"<img src=http://x/>": {"rows": 4, "share": 1.0}}


@pytest.mark.parametrize("write", [write_json, write_page])
def test_files_are_not_overwritten_unasked(write):
    path = Path("out")
    path.write_text("kept", encoding="utf-8")
    stats = evil_stats()
    with pytest.raises(GovorError, match="--force"):
        write(stats, path)
    assert path.read_text(encoding="utf-8") == "kept"
    write(stats, path, force=True)
    assert path.read_text(encoding="utf-8") != "kept"


def test_chat_text_is_on_no_page():
    """Single words are; sentences are not."""
    stats = evil_stats()
    write_page(stats, Path("page.html"))
    write_json(stats, Path("stats.json"))
    for path in ("page.html", "stats.json"):
        assert not any(answer[:20] in Path(path).read_text(encoding="utf-8") for answer in [ANSWER, *OTHERS])


# Topics from the rows themselves, what is good, languages

PLANTED = {
    "кредит": "кредит банк платёж процент ипотека долг карта ставка заём вклад деньги рубль",
    "сад": "грядка рассада теплица помидор огурец дача лопата семена урожай яблоня полив сорняк",
    "врач": "врач больница таблетка анализ давление температура горло кашель рецепт укол диагноз",
    "поезд": "поезд вокзал билет вагон отпуск море отель рейс аэропорт чемодан виза пляж",
}
COMMON = "день человек дело время вопрос ответ совет дом утро вечер думать знать сказать хотеть понимать Марина Игорь"


def planted_rows(count: int, seed: int) -> tuple[list[str], list[Row]]:
    rng = random.Random(seed)
    names, rows = [], []
    for line in range(1, count + 1):
        name = rng.choice(list(PLANTED))
        words = rng.choices(PLANTED[name].split(), k=rng.randint(3, 6)) + rng.choices(COMMON.split(), k=7)
        rng.shuffle(words)
        names.append(name)
        rows.append(row(" ".join(words[:6]), " ".join(words[6:]), line=line))
    return names, rows


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_planted_topics_are_found(seed):
    names, rows = planted_rows(400, seed)
    texts = [
        [word.lemma for text in map(text_of, each.messages) for word in split_words(text) if not word.is_name]
        for each in rows
    ]
    learned = learn_topics(texts)
    by_topic: dict[str | None, Counter[str]] = {}
    for name, topic in zip(names, learned, strict=True):
        by_topic.setdefault(topic, Counter())[name] += 1
    assert len(by_topic) == 4, "as many as were planted"
    assert sum(counts.most_common(1)[0][1] for counts in by_topic.values()) >= 0.9 * 400
    for topic, counts in by_topic.items():
        planted = {word.lemma for word in split_words(PLANTED[counts.most_common(1)[0][0]])}
        assert len(topic.split(", ")) == 3 and set(topic.split(", ")) <= planted
    assert learned == learn_topics(texts)


def test_topics_of_the_rows_are_the_default_and_names_are_none():
    _, rows = planted_rows(400, 1)
    topics = statistics(rows).topics
    assert sum(share.rows for share in topics.values()) == 400
    assert not any(name in topic for topic in topics for name in ("марина", "игорь"))


def test_a_handful_of_rows_has_no_topics():
    assert list(statistics([row("Что?", ANSWER)]).topics) == [NO_TOPIC]


def test_what_is_good_is_the_users_to_say():
    rows = [row("Что делать?", "б" * 30, line=4), row("Как?", "Пиши на a@b.ru, жду. " + ANSWER, line=9)]
    failed = measure(*rows).quality.rows
    assert [(each.line, each.reasons) for each in failed] == [
        (4, {"answer_length": "30"}),
        (9, {"personal_data": "email"}),
    ]
    quality = measure(*rows, good=good_of(["min_answer=20", "max_answer=50"])).quality
    assert [each.line for each in quality.rows] == [9]
    assert "each of 20 to 50 characters" in quality.definition


@pytest.mark.parametrize("setting", ["shortest=3", "min_answer=viele", "min_letters=3", "min_answer=9000", "x"])
def test_bad_settings_of_good(setting):
    with pytest.raises(GovorError, match="--good"):
        good_of([setting])


def test_a_failing_count_leads_to_its_rows():
    stats = measure(row("Что делать?", "б" * 30, line=4), row("Как?", ANSWER, line=5))
    write_page(stats, Path("page.html"), title="my.jsonl, 2026-11-29")
    text = Path("page.html").read_text(encoding="utf-8")
    assert "<title>my.jsonl, 2026-11-29: 2 rows</title>" in text
    assert '<a href="#fails-answer_length">1</a>' in text and 'id="fails-answer_length"' in text
    assert '<td class="number">4</td><td class="number">30</td>' in text
    assert "<code>sed -n 4p FILE</code> shows line 4" in text
    assert 'href="#fails-echo"' not in text
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(to_terminal(stats))
    assert "Rows with answers too short or too long" in console.export_text()


def test_every_text_of_the_page_is_there_in_russian():
    """A text without Russian wording would be a KeyError; every row fails something, so that all texts are met."""
    rows = [row("7" * 10, "7" * 5, weight=7), row("Как?", "a@b.ru"), *[row("Что делать?", "б" * 100)] * 300]
    stats = measure(*rows, channels={"Дача": 3}, count_tokens=lambda row: len(row.messages[0]["content"]), max_length=5)
    write_page(stats, Path("page.html"), title="x", lang="ru")
    text = Path("page.html").read_text(encoding="utf-8")
    assert '<html lang="ru">' in text and "302 строк" in text
    assert not re.search(r"[A-Z]{3,} [a-z_]+|rows|row is", re.sub("(?s)<svg.*?</svg>|<style.*?</style>", "", text))
    assert set(ENGLISH) <= set(RUSSIAN)


@pytest.mark.parametrize(("value", "lang"), [("ru_RU.UTF-8", "ru"), ("en_US.UTF-8", "en"), ("de_DE", "en")])
def test_language_by_locale(monkeypatch, value, lang):
    for name in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", value)
    assert language_of_locale() == lang


MEASURED = """
import json, resource, sys, time
from pathlib import Path
import datasketch, numpy, pymorphy3, scipy.sparse.linalg
from train.chats.readers import read_rows
from train.chats.statistics import statistics

def seconds(work):
    started = time.process_time()
    work()
    return time.process_time() - started

file = Path(sys.argv[1])
bare = lambda: [None for line in file.open("rb") if json.loads(line) is None]
took = [seconds(bare), seconds(bare), seconds(lambda: statistics(read_rows(file))), seconds(bare), seconds(bare)]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([took.pop(2), sum(took) / 4, peak]))
"""


@pytest.mark.alone
def test_a_hundred_thousand_rows(working_folder):
    """2 MB/s where a bare loop of json.loads reads 160 MB/s; and memory is that of the rows, and 300 MB."""
    words = (REPOSITORY / "train/evaluation/plain_russian.txt").read_text("utf-8").split()
    rng = random.Random(0)
    with Path("rows.jsonl").open("w", encoding="utf-8") as file:
        for line in range(100_000):
            row_of = row(*(" ".join(rng.choices(words, k=20)) for _ in range(2)), line=line)
            file.write(json.dumps(row_to_object(row_of), ensure_ascii=False) + "\n")
    megabytes = Path("rows.jsonl").stat().st_size / 1e6
    done = subprocess.run([sys.executable, "-c", MEASURED, "rows.jsonl"], capture_output=True, text=True, check=True)
    took, bare, peak = json.loads(done.stdout)
    print(f"{megabytes:.0f} MB: {megabytes / took:.2f} MB/s, {took / bare:.0f} bare loops, peak {peak:.0f} MB")
    assert took <= 80 * bare
    assert peak <= 300 + 8 * megabytes
