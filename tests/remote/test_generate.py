"""govor generate and review: plan, gates, provenance, over real HTTP to a stand-in on loopback."""

import json
import os
import re
import socket
import stat
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY, govor
from tests.remote.test_asking import completion
from tests.scripts.stand_in import StandIn
from train.chats.provenance import read_provenance, row_hash
from train.chats.readers import read_rows
from train.chats.rows import text_of
from train.chats.split import read_split, split
from train.core.config import load_config
from train.core.errors import DataError
from train.evaluation.leakage import FREE_WORDS, longest_copies
from train.remote.gates import Gates, Made
from train.remote.generate import questions_in
from train.remote.generation_plan import cells, load_plan, shares
from train.remote.journal import Reply

PLANS = sorted((REPOSITORY / "configs/generate").glob("*.yaml"))
LINES = (REPOSITORY / "data/natasha.jsonl").read_text(encoding="utf-8").splitlines()
PLAN = {
    "rows": 12,
    "domains": {"работа": 2, "семья": 1},
    "askers": {"студентка": 1},
    "kinds": {"вопрос": 1},
    "lengths": {"коротко": 1},
    "questions": "Придумай {count} вопросов о теме {domain}.\n{examples}\nJSON",
    "answers": "{system} Отвечай так же.",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # busy disks take 60 ms for one


@pytest.fixture
def rows() -> Path:
    """200 of the shipped rows; what the others say is what the stand-in answers."""
    Path("rows.jsonl").write_text("\n".join(LINES[:200]) + "\n", encoding="utf-8")
    Path("plan.yaml").write_text(yaml.safe_dump(PLAN, allow_unicode=True), encoding="utf-8")
    return Path("rows.jsonl")


@pytest.fixture
def server():
    """Asked for questions it lists three, asked one it answers: both from rows that nobody else has seen."""
    others = [json.loads(line)["messages"][1:3] for line in LINES[200:]]
    answers = {question["content"]: answer["content"] for question, answer in others}
    pool = iter(others)

    def answer(request):
        asked = request.json()["messages"][-1]["content"]
        if asked.startswith("Придумай"):
            listed = [
                {"question": next(pool)[0]["content"], "probability": 0.1}
                for _ in range(int(re.search(r"\d+", asked)[0]))
            ]
            return 200, completion(f"Вот:\n{json.dumps(listed, ensure_ascii=False)}", (50, 50))
        return 200, completion(answers[asked], (100, 100))

    stand_in = StandIn(answer)
    yield stand_in
    stand_in.close()


def generate(server, *more: str, files: tuple[str, ...] = ("rows.jsonl",)):
    options = ("--via", f"{server.url}/v1", "--model", "m", "--plan", "plan.yaml", "-o", "more.jsonl")
    return govor("generate", *files, *options, *more)


class TestGenerate:
    def test_rows_come_from_the_plan(self, rows, server):
        result = generate(server, "--max-tokens", "200000")
        assert result.exit_code == 0, result.output
        made = read_rows(Path("more.jsonl"))
        assert 10 <= len(made) <= 12
        assert re.search(r"by domain: работа \d of 8, семья \d of 4", result.output)
        assert {text_of(row.messages[0]) for row in made} == {json.loads(LINES[0])["messages"][0]["content"]}
        known = read_provenance(Path())
        assert set(known) == {row_hash(row) for row in made}
        entry = known[row_hash(made[0])]
        assert entry["source"] == "generated" and entry["model"] == "m" and entry["reviewed"] is None
        trained = {row_hash(row) for row in split(read_rows(rows), 0.1, 42).train}
        assert entry["parents"] and set(entry["parents"]) <= trained
        assert re.match(r"127\.0\.0\.1:\d+, model m: at most \d+ requests, [\d,]+ tokens in and", result.stderr)

        # the same once more asks nothing and makes the same
        first, asked = Path("more.jsonl").read_bytes(), len(server.requests)
        assert "is there already: --force" in generate(server, "--max-tokens", "200000").output
        assert generate(server, "--max-tokens", "200000", "--force").exit_code == 0
        assert Path("more.jsonl").read_bytes() == first and len(server.requests) == asked
        assert stat.S_IMODE(Path("more.journal.jsonl").stat().st_mode) == 0o600

        # nothing of the held-out rows was sent
        held_out = split(read_rows(rows), 0.1, 42).held_out
        texts = [(row.line, text_of(m)) for row in held_out for m in row.messages if m["role"] != "system"]
        sent = [m["content"] for request in server.requests for m in request.json()["messages"]]
        assert len(held_out) > 10 and max(copy.words for copy in longest_copies(sent, texts)) < FREE_WORDS

    def test_a_small_budget_stops_it(self, rows, server):
        result = generate(server, "--max-tokens", "5000")
        assert "stopped: the next request could exceed the budget" in result.output
        used = int(re.search(r"spent: ([\d,]+) tokens of 5,000 tokens", result.output)[1].replace(",", ""))
        assert 0 < used <= 5_000

    def test_a_dry_run_opens_no_socket(self, rows, monkeypatch):
        opened = []
        monkeypatch.setattr(socket, "socket", lambda *_, **__: opened.append(1))
        for plan in ("plan.yaml", *map(str, PLANS)):
            monkeypatch.chdir(REPOSITORY if plan != "plan.yaml" else Path.cwd())
            file = "data/medical.jsonl" if "medical" in plan else "data/natasha.jsonl"
            options = ("--via", "http://127.0.0.1:9/v1", "--model", "m", "--plan", plan, "-o", "/tmp/none.jsonl")
            result = govor("generate", file if plan != "plan.yaml" else "rows.jsonl", *options, "--dry-run")
            assert result.exit_code == 0 and re.match(r"127\.0\.0\.1:9, model m: at most \d+ requests", result.stdout)
        assert not opened

    def test_money_needs_a_price_and_something_must_stop_it(self, rows, server):
        assert "no price is known for m" in generate(server, "--budget", "2USD").output
        assert "say where to stop" in generate(server).output
        assert not server.requests

    def test_a_text_that_quotes_a_held_out_row_is_refused(self, rows, server):
        held_out = split(read_rows(rows), 0.1, 42).held_out[0]
        Path("book.txt").write_text(f"Глава.\n\n{text_of(held_out.messages[-1])}", encoding="utf-8")
        result = generate(server, "--max-tokens", "9999", files=("rows.jsonl", "book.txt"))
        assert "is in a held-out row: take it out" in result.output and not server.requests


class TestPlan:
    @pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
    def test_shipped_plans_hold_their_quotas(self, path):
        plan = load_plan(path)
        made = cells(plan, plan.rows)
        for name in ("domain", "asker", "kind", "length"):
            counts = Counter(getattr(cell, name) for cell in made)
            assert counts == +Counter(shares(getattr(plan, f"{name}s"), plan.rows))
        assert "{count}" in plan.questions and "{examples}" in plan.questions and "{system}" in plan.answers

    def test_every_problem_is_named(self, rows):
        Path("bad.yaml").write_text(yaml.safe_dump({**PLAN, "rows": 0, "parameters": {"n": 3}, "x": 1}))
        result = govor("generate", "rows.jsonl", "--via", "local", "--model", "m", "--plan", "bad.yaml", "-o", "a")
        assert result.exit_code == 2
        for part in ("rows: ", "n: govor sets it itself", "x: "):
            assert part in result.output

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ('```json\n[{"question": "а?", "probability": 0.5}, {"question": "б?", "probability": 0.1}]\n```', "б? а?"),
            ('["а?", "б?"]', "а? б?"),
            ("1. Первый вопрос?\n2) Второй вопрос?", "Первый вопрос? Второй вопрос?"),
            ('[{"question": "обрыв', ""),
        ],
    )
    def test_lists_of_questions(self, text, found):
        assert " ".join(questions_in(Reply(text, "stop", (0, 0)))) == found


class TestGates:
    def test_planted_rows_are_caught_and_real_ones_are_not(self):
        parts = split(read_rows(REPOSITORY / "data/natasha.jsonl"), 0.1, 42)
        answers = [text_of(m) for row in parts.train for m in row.messages if m["role"] == "assistant"]
        long = [text for text in answers if len(text) > 200]
        held_out = [text_of(row.messages[-1]) for row in parts.held_out]
        off = (
            "Данная проблема является достаточно распространённой. В соответствии с рекомендациями специалистов "
            "необходимо осуществлять регулярное планирование мероприятий по улучшению взаимоотношений.",
            "Благодарим Вас за обращение. Ваш запрос принят в работу. Ответ будет предоставлен в течение трёх дней.",
            "**Шаг 1:** проанализируйте ситуацию. **Шаг 2:** выпишите преимущества. **Шаг 3:** примите решение.",
            "Отличный вопрос! Важно понимать, что каждый человек уникален, и универсального решения не существует. "
            "Тем не менее, существует ряд эффективных стратегий, способствующих улучшению состояния.",
            "Как языковая модель, я не могу давать психологические консультации. Рекомендую обратиться к "
            "квалифицированному специалисту, который поможет разобраться в данной ситуации.",
        )
        english = "You are asking two different things, and only one of them is yours. Which one would you keep?"
        planted = {
            "row": [Made("что делать?", "") for _ in range(3)] + [Made("как быть?", long[0], True) for _ in range(3)],
            "script": [Made("что мне делать?", f"{english} {number}") for number in range(6)],
            "length": [Made("что мне делать?", "Ну да.")] * 3 + [Made("как мне быть?", " ".join(long[9:14]))] * 3,
            "personal": [
                Made("как тебе позвонить?", f"{text[:150]} Пиши на natasha{number}@mail.ru или +7 916 123-45-6{number}")
                for number, text in enumerate(long[20:27])
            ],
            "repeated": [Made("что мне делать?", text[:-4] + " вот.") for text in long[30:40]],
            "held_out": [
                Made("что мне делать?", f"Смотри. {' '.join(text.split()[3:17])}. А дальше решай, кому ты это обещала.")
                for text in held_out[:10]
            ],
            "style": [Made("что мне делать?", text) for text in off],
        }
        whole = [made for rows in planted.values() for made in rows]
        caught = [verdict.refused for verdict in Gates(parts.train, parts.held_out, 100, 10).rows(whole)]
        print(f"planted rows caught: {sum(why is not None for why in caught)} of {len(whole)}")
        assert len(whole) == 50 and sum(why is not None for why in caught) >= 49
        expected = [reason for reason, rows in planted.items() for _ in rows]
        assert sum(why == reason for why, reason in zip(caught, expected, strict=True)) >= 45

        real = [
            Made(text_of(row.messages[at - 1]), text_of(message))
            for row in parts.held_out
            for at, message in enumerate(row.messages)
            if message["role"] == "assistant"
        ]
        refused = [verdict.refused for verdict in Gates(parts.train, [], len(real), 10).rows(real)]
        print(f"real answers refused: {sum(why is not None for why in refused)} of {len(real)}")
        assert len(real) == 48 and sum(why is not None for why in refused) <= 0.05 * len(real)

    def test_openings_are_capped(self):
        parts = split(read_rows(REPOSITORY / "data/natasha.jsonl"), 0.1, 42)
        same = "Смотри, что выходит."
        rest = [text_of(row.messages[2]) for row in parts.held_out][:20]
        verdicts = Gates(parts.train, [], 20, 0).rows(
            [Made("как быть дальше?", f"{same} {text[:300]}") for text in rest]
        )
        assert Counter(verdict.refused for verdict in verdicts)["opening"] >= 15

    def test_another_script_than_cyrillic(self):
        parts = split(read_rows(REPOSITORY / "data/medical.jsonl"), 0.2, 42)
        gates = Gates(parts.train, [], 10, 0)
        real = [Made(text_of(row.messages[0]), text_of(row.messages[1])) for row in parts.held_out]
        assert gates.script == "CJK" and all(verdict.refused is None for verdict in gates.rows(real))


@pytest.fixture
def generated(rows):
    """Ten generated rows in more.jsonl, with their provenance."""
    Path("more.jsonl").write_text("\n".join(LINES[250:260]) + "\n", encoding="utf-8")
    entries = [{"row": row_hash(row), "source": "generated", "reviewed": None} for row in read_rows(Path("more.jsonl"))]
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    Path("more.provenance.jsonl").write_text(lines, encoding="utf-8")
    return Path("more.jsonl")


def split_of(file: str, **data):
    tree = {"name": "x", "model": {"name_or_path": "b"}, "data": {"train_file": file, **data}}
    Path("config.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return read_split(load_config(Path("config.yaml")))


class TestProvenance:
    def test_unreviewed_rows_are_not_trained_on(self, generated):
        for file in ("more.jsonl", "all.jsonl"):
            Path("all.jsonl").write_bytes(Path("rows.jsonl").read_bytes() + generated.read_bytes())  # cat
            with pytest.raises(DataError, match=r"10 generated rows that nobody has reviewed \(lines .*: govor review"):
                split_of(file)
            assert split_of(file, unreviewed=True).train
        assert split_of("rows.jsonl").train

    def test_it_survives_another_format_in_another_folder(self, generated):
        Path("there").mkdir()
        assert govor("convert", "more.jsonl", "--to", "sharegpt", "-o", "there/rows.json.jsonl").exit_code == 0
        with pytest.raises(DataError, match="generated rows that nobody has reviewed"):
            split_of("there/rows.json.jsonl")


class TestReview:
    def test_a_sample_makes_the_rest_trainable(self, generated, monkeypatch):
        Path("edit.sh").write_text('#!/bin/sh\nprintf "Иначе сказано, и короче." > "$1"\n', encoding="utf-8")
        Path("edit.sh").chmod(0o755)
        monkeypatch.setenv("EDITOR", str(Path("edit.sh").resolve()))
        left = govor("review", "more.jsonl", "--sample", "5", "-o", "good.jsonl", input="ynq")
        assert left.exit_code == 1 and "2 of 5 rows seen: 1 good, 0 edited, 1 dropped" in left.output
        assert not Path("good.jsonl").exists()
        done = govor("review", "more.jsonl", "--sample", "5", "-o", "good.jsonl", input="eyy")
        assert done.exit_code == 0, done.output
        assert "5 of 5 rows seen: 3 good, 1 edited, 1 dropped; good: 60% (of all: 23%–88%)" in done.output
        kept = read_rows(Path("good.jsonl"))
        assert len(kept) == 9
        assert sum(text_of(row.messages[-1]) == "Иначе сказано, и короче." for row in kept) == 1
        known = read_provenance(Path())
        assert Counter(str(known[row_hash(row)]["reviewed"]).split(":")[0] for row in kept) == {
            "seen": 3,
            "edited": 1,
            "a sample": 5,
        }
        assert split_of("good.jsonl").train
        with pytest.raises(DataError, match="2 generated rows that nobody has reviewed"):
            split_of("more.jsonl")  # the row dropped, and the one edited, as they were

    def test_keys_of_a_russian_keyboard_and_one_back(self, generated):
        result = govor("review", "more.jsonl", "--sample", "2", "-o", "good.jsonl", input="тинн")
        assert result.exit_code == 0
        assert "2 of 2 rows seen: 2 good" in result.output
