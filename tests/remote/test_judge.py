"""govor eval --judge and review --judge: verdicts over real HTTP from a stand-in on loopback."""

import json
import os
import random
import re
from pathlib import Path

import pytest
import yaml

from tests.conftest import govor
from tests.remote.test_asking import completion
from tests.remote.test_generate import generated, rows  # noqa: F401 (fixtures)
from tests.scripts.stand_in import StandIn
from train.chats.provenance import row_hash
from train.chats.readers import read_rows
from train.chats.rows import text_of
from train.core.errors import ConfigError
from train.encoding.held_out import held_out_rows
from train.evaluation.judge import Evaluation, judge_answers
from train.evaluation.sampling import held_out_prompts
from train.remote.answers import FOLDER
from train.remote.journal import Reply
from train.remote.judge import RUBRIC, judge_run, length_controlled, load_rubric, read_pairs
from train.remote.services import find_model
from train.remote.votes import Votes, pairs_of

NAMES = ["accuracy", "relevance", "completeness", "in_character",
         "provocative", "supportive", "metaphorical", "direct", "deep"]  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # busy disks take 60 ms for one


@pytest.fixture
def serve():
    """Call it with what a judge says to a request's text: its URL and what it was asked."""
    servers = []

    def start(says):
        servers.append(StandIn(lambda request: (200, completion(says(request.json()["messages"][0]["content"])))))
        return f"{servers[-1].url}/v1#judge", servers[-1].requests

    yield start
    for server in servers:
        server.close()


def parts(text: str) -> dict[str, str]:
    """The answers in a request, by their headings."""
    found = re.search(r"Ответ A:\n(.*?)\n\nОтвет B:\n(.*?)\n\nКакой ответ лучше", text, re.DOTALL)
    if found:
        return {"first": found[1], "second": found[2]}
    return {"answer": re.search(r"Оцениваемый ответ:\n(.*?)\n\nОцени его", text, re.DOTALL)[1]}


@pytest.fixture
def evaluated(run):
    """(run, evaluation): the base says «База …», the tuned model what the persona really said, and a word more."""
    real = [prompt.real for prompt in held_out_prompts(held_out_rows(run))]
    base = [answer._replace(text=f"База {number}") for number, answer in enumerate(real)]
    tuned = [answer._replace(text=f"{answer.text} Ну.") for answer in real]
    run.evaluation.mkdir(exist_ok=True)
    return run, Evaluation(None, None, judge_answers(None, real, base, tuned, 1))


def judged(evaluated, judge: str, **how):
    options = {"rubric_file": None, "votes": None, "budget": None, "max_tokens": None, "dry_run": False, **how}
    return judge_run(*evaluated, judge, **options)


def sensible(text: str) -> str:
    """Likes what ends in «Ну.», dislikes «База»."""
    shown = parts(text)
    if "answer" in shown:
        score = 1 if shown["answer"].startswith("База") else 4
        return f"Вот: {json.dumps(dict.fromkeys(NAMES, score))}"
    return json.dumps({"better": "A" if shown["first"].endswith("Ну.") else "B"})


class TestJudgeRun:
    def test_scores_and_pairs(self, evaluated, serve, capsys):
        run, evaluation = evaluated
        count = len(evaluation.judgement.real)
        url, requests = serve(sensible)
        found = judged(evaluated, url)
        assert len(requests) == 5 * count
        assert list(found.scores) == NAMES
        for name in NAMES:
            assert [found.scores[name][side].value for side in ("real", "base", "tuned")] == [4, 1, 4]
            assert found.change[name].value == 3
        assert (found.wins.value, found.ties, found.pairs, found.same_place) == (1, 0, count, 0)
        printed = capsys.readouterr().out
        assert "tuned better than base: 100%" in printed and "position bias: 0%" in printed
        told = json.loads((run.evaluation / "judge.json").read_text())
        assert told["scores"]["deep"]["change"]["value"] == 3 and told["pairs"]["tuned_better"]["value"] == 1
        asked = len(requests)
        judged(evaluated, url)
        assert len(requests) == asked  # nothing is asked twice

    def test_a_judge_that_always_says_a(self, evaluated, serve):
        found = judged(evaluated, serve(lambda text: '{"better": "A"}')[0])
        assert found.same_place == 1 and found.ties == found.pairs and found.wins.value == 0.5
        assert found.scores["accuracy"]["tuned"] is None

    def test_verdicts_that_cannot_be_read_are_counted(self, evaluated, serve):
        found = judged(evaluated, serve(lambda text: "Трудно сказать.")[0])
        assert found.unreadable == 5 * len(evaluated[1].judgement.real) and found.wins is None and found.pairs == 0

    def test_agreement_with_people(self, evaluated, serve):
        """A person who votes as the judge does, but for every fifth pair."""
        folder = FOLDER / "trial"
        folder.mkdir(parents=True)
        entries = [
            {"prompt": [{"role": "user", "content": f"Вопрос {n}"}], "real": None,
             "answers": {"one": {"text": f"Ответ {n} Ну."}, "two": {"text": f"База {n}"}}} for n in range(20)
        ]  # fmt: skip
        text = "\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
        (folder / "answers.jsonl").write_text(text, encoding="utf-8")
        from train.remote.answers import read_answers

        with (folder / "votes.jsonl").open("a+", encoding="utf-8") as file:
            votes = Votes(pairs_of(read_answers(FOLDER / "trial")), file)
            for at, pair in enumerate(votes.pairs):
                better = "first" if pair.texts[0].endswith("Ну.") else "second"
                votes.vote(at, better if at % 5 else "tie")
        found = judged(evaluated, serve(sensible)[0], votes="trial")
        assert found.votes[0] == pytest.approx(0.8) and found.votes[2] == 20 and 0.5 < found.votes[1] < 0.8
        with pytest.raises(ConfigError, match="two is among those that it would judge"):
            judged(evaluated, "http://127.0.0.1:1#two", votes="trial")

    @pytest.mark.parametrize("name", ["done", "DONE", "owner/done"])
    def test_the_tuned_model_is_no_judge(self, evaluated, name):
        with pytest.raises(ConfigError, match="among those that it would judge: name another judge"):
            judged(evaluated, f"http://127.0.0.1:1#{name}")

    def test_the_tuned_model_by_a_jobs_server_s_name_is_no_judge(self, evaluated):
        name = "ft:gpt-4o-mini-2024-07-18:local:ночь:a1b2c3d4"
        with pytest.raises(ConfigError, match="among those that it would judge: name another judge"):
            judged(evaluated, f"http://127.0.0.1:1#{name}", names=[name, f"{name}:ckpt-step-2"])

    def test_the_model_that_made_rows_is_no_judge(self, evaluated):
        run = evaluated[0]
        train_file = Path("rows.jsonl").absolute()
        train_file.write_bytes(run.config().data.train_file.read_bytes())
        config = yaml.safe_load(run.config_file.read_text(encoding="utf-8"))
        config["data"] |= {"train_file": str(train_file), "unreviewed": True}
        run.config_file.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
        entries = [{"row": row_hash(row), "source": "generated", "model": "gpt-4.1-2025-04-14", "reviewed": "seen"}
                   for row in read_rows(train_file)]  # fmt: skip
        Path("rows.provenance.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        for grown in ("", "\n"):  # which rows of a changed file were trained is not known
            train_file.write_text(train_file.read_text(encoding="utf-8") + grown, encoding="utf-8")
            with pytest.raises(ConfigError, match=r"gpt-4\.1 has made rows of .*: name another judge"):
                judged(evaluated, "http://127.0.0.1:1#gpt-4.1")

    def test_a_dry_run_asks_nothing_and_a_hosted_judge_needs_a_limit(self, evaluated, serve, capsys, monkeypatch):
        url, requests = serve(sensible)
        assert judged(evaluated, url, dry_run=True) is None
        assert re.search(r"model judge: at most \d+ requests", capsys.readouterr().out) and not requests
        monkeypatch.setenv("OPENAI_API_KEY", "k")
        with pytest.raises(ConfigError, match="say where to stop"):
            judged(evaluated, "openai:gpt-4.1")


class TestVerdicts:
    def test_the_rubric_that_is_shipped(self):
        assert list(load_rubric(None).scored) == NAMES
        text = RUBRIC.read_text(encoding="utf-8")
        for place in ("{persona}", "{prompt}", "{answer}", "{real}", "{criteria}", "{first}", "{second}"):
            assert place in text.split("criteria:", 1)[1]

    @pytest.mark.parametrize(
        ("one", "other", "value", "places"),
        [
            ("A", "B", 1.0, (1, 0)),
            ("B", "A", 0.0, (0, 1)),
            ("A", "A", 0.5, (1, 1)),
            ("tie", "TIE", 0.5, (0.5, 0.5)),
            ("A", "tie", 0.5, (1, 0.5)),
            ("А", "В", 1.0, (1, 0)),
            ("A", "C", None, None),
        ],
    )
    def test_both_orders(self, one, other, value, places):
        replies = [Reply(json.dumps({"better": said}), "stop", (1, 1)) for said in (one, other)]
        assert read_pairs(replies) == [(value, places)]

    def test_a_judge_that_likes_length_alone(self):
        """Tuned answers are twice as long and win 80 of 100 for that alone: at equal length about 50 %."""
        chance = random.Random(5)
        lengths = [chance.gauss(0.7, 0.7) for _ in range(400)]
        values = [float(length > 0) if chance.random() < 0.95 else 0.5 for length in lengths]
        found = length_controlled(values, lengths, list(range(400)))
        plain = sum(values) / len(values)
        print(f"a judge of length alone: {plain:.0%} as it is, {found.value:.0%} at equal length")
        assert plain > 0.78 and found.low < 0.5 < found.high and found.high - found.low < 0.4
        better = length_controlled([1.0] * 30 + [0.0] * 10, [0.0] * 40, list(range(40)))
        assert better.value == pytest.approx(0.75, abs=0.02)


class TestReview:
    def test_the_worst_come_first(self, generated, serve):  # noqa: F811
        texts = [text_of(row.messages[-1]) for row in read_rows(generated)]

        def says(text: str) -> str:
            at = next(number for number, answer in enumerate(texts) if answer.strip() in text)
            return json.dumps(
                {"follows": 1 if at == 7 else 5, "in_character": 4, "fragment": at == 3, "private": False}
            )

        url, requests = serve(says)
        arguments = ("more.jsonl", "--sample", "2", "-o", "good.jsonl", "--judge", url)
        dry = govor("review", *arguments, "--dry-run")
        assert dry.exit_code == 0 and "at most 10 requests" in dry.output and not requests
        result = govor("review", *arguments, input="ny")
        assert result.exit_code == 0, result.output
        assert "10 different rows judged: does not follow 1, fragment 1" in result.output
        assert result.output.index("does not follow\n") < result.output.index("judge: 3 of 5: fragment")
        assert "2 of 2 rows seen, the worst by the judge: 1 good, 0 edited, 1 dropped" in result.output
        assert "of all" not in result.output  # the worst say nothing of the others
        kept = [text_of(row.messages[-1]) for row in read_rows(Path("good.jsonl"))]
        assert kept == texts[:7] + texts[8:]
        dropped = [json.loads(line) for line in Path("good.dropped.jsonl").read_text().splitlines()]
        assert [(entry["line"], entry["why"]) for entry in dropped] == [(8, ["a person said n", "does not follow"])]

    def test_what_is_private_or_empty_is_sent_nowhere(self, serve):
        good = [{"role": "user", "content": "Как ты?"}, {"role": "assistant", "content": "Живу."}]
        private = [{"role": "user", "content": "Телефон?"}, {"role": "assistant", "content": "+7 916 123-45-67"}]
        lines = [json.dumps({"messages": messages}, ensure_ascii=False) for messages in (good, private)]
        Path("own.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        url, requests = serve(lambda text: '{"follows": 5, "in_character": 5, "fragment": false, "private": false}')
        result = govor("review", "own.jsonl", "-o", "good.jsonl", "--judge", url, input="ny")
        assert result.exit_code == 0, result.output
        assert "2 different rows judged: private 1" in result.output and len(requests) == 1
        assert "916" not in requests[0].content.decode() and "judge: 0 of 5: private" in result.output
        assert len(read_rows(Path("good.jsonl"))) == 1

    def test_who_made_the_rows_does_not_judge_them(self, generated):  # noqa: F811
        known = Path("more.provenance.jsonl")
        lines = [json.dumps({**json.loads(line), "model": "kimi-k2.6"}) for line in known.read_text().splitlines()]
        known.write_text("\n".join(lines), encoding="utf-8")
        result = govor("review", "more.jsonl", "-o", "x.jsonl", "--judge", "http://127.0.0.1:1#kimi-k2.6")
        assert result.exit_code == 2 and "kimi-k2.6 has made rows of more.jsonl: name another judge" in result.stderr


def test_judges_are_named_in_three_ways(monkeypatch):
    monkeypatch.setenv("KIMI_API_KEY", "k")
    assert find_model("kimi:kimi-k2.6", Path()).url == "https://api.moonshot.ai/v1"
    assert find_model("127.0.0.1:8000#a#b", Path()).model == "a#b"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("eval", "x", "--judge", "local:m", "--quick"), "--judge does not go with --quick"),
        (("eval", "x", "--votes", "trial"), "are for a judge: give --judge too"),
        (("review", "x", "-o", "y", "--dry-run"), "are for a judge: give --judge URL#MODEL too"),
    ],
)
def test_options_that_need_each_other(arguments, said):
    result = govor(*arguments)
    assert result.exit_code == 2 and said in result.stderr
