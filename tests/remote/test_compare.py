"""govor compare and vote: over real HTTP to stand-ins on loopback, and the page in a real browser."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.conftest import REPOSITORY, govor
from tests.scripts.stand_in import StandIn
from train.chats.readers import stream_preferences
from train.core.pages import speaker
from train.remote.answers import Compared, read_answers
from train.remote.ballot import RUSSIAN, Voting, outlook
from train.remote.vote import vote_app
from train.remote.votes import Votes, agreement, bradley_terry, expected, pairs_of, tally

HOST = {"host": "127.0.0.1"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # busy disks take 60 ms for one


def stream(text: str, used: tuple[int, int] = (10, 5)) -> str:
    """An answer as the events of a stream, its usage in the last."""
    deltas = [{"choices": [{"index": 0, "delta": {"content": part}}]} for part in re.findall(r"\S+\s*", text)]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usage = {"prompt_tokens": used[0], "completion_tokens": used[1], "total_tokens": sum(used)}
    common = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    events = [*deltas, end, {"choices": [], "usage": usage}]
    return "".join(f"data: {json.dumps({**common, **event})}\n\n" for event in events) + "data: [DONE]\n\n"


@pytest.fixture
def server():
    """Says who is asked, in words of its own; the model «broken» fails, «cut» stops in the middle."""

    def answer(request):
        asked = request.json()
        if asked["model"] == "broken":
            return 404, {"error": {"message": "no such model"}}
        whole = stream(f"Отвечаю на «{asked['messages'][-1]['content']}» тоном {asked['model']}.", (20, 10))
        if asked["model"] == "cut" and len(stand_in.requests) % 2:
            whole = whole[: len(whole) // 2]
        return 200, whole

    stand_in = StandIn(answer)
    yield stand_in
    stand_in.close()


@pytest.fixture
def prompts() -> str:
    Path("prompts.txt").write_text("\n".join(f"Вопрос {number}?" for number in range(20)), encoding="utf-8")
    return "prompts.txt"


def compare(server: StandIn, *models: str, name: str = "trial", more: tuple[str, ...] = ()):
    urls = (f"{server.url}/v1#{model}" for model in models)
    return govor("compare", name, *urls, "--prompts", "prompts.txt", "--lang", "en", *more)


class TestCompare:
    def test_answers_speed_and_price_side_by_side(self, server, prompts):
        result = compare(server, "one", "two")
        assert result.exit_code == 0, result.output
        assert re.search(r"^answers +20 +20$", result.output, re.MULTILINE)
        assert re.search(r"^tokens of an answer +10 +10$", result.output, re.MULTILINE)
        assert re.search(r"^to the first token, s \(median\) +0\.\d+ +0\.\d+$", result.output, re.MULTILINE)
        assert re.search(r"^words an answer +\d", result.output, re.MULTILINE)
        compared = read_answers(Path("compare/trial"))
        assert compared.answers["two"][3] == "Отвечаю на «Вопрос 3?» тоном two."
        entry = json.loads(Path("compare/trial/answers.jsonl").read_text(encoding="utf-8").splitlines()[0])
        assert 0 < entry["answers"]["one"]["first"] <= entry["answers"]["one"]["seconds"]
        page = Path("compare/trial/compare.html").read_text(encoding="utf-8")
        assert "тоном one" in page and "light dark" in page and not re.search(r"(?:src|href)=", page)

        # the same once more asks nothing
        asked = len(server.requests)
        assert asked == 40 and compare(server, "one", "two").exit_code == 0 and len(server.requests) == asked

    def test_a_model_that_fails_leaves_the_others_whole(self, server, prompts):
        result = compare(server, "one", "broken", "two")
        assert result.exit_code == 1
        assert re.search(r"^answers +20 +0 +20$", result.output, re.MULTILINE)
        assert "broken: 127.0.0.1" in result.stderr and "answers 404: no such model" in result.stderr
        assert all(read_answers(Path("compare/trial")).answers["two"])

    def test_a_stream_that_is_cut_is_asked_again(self, server, prompts, monkeypatch):
        monkeypatch.setattr("train.remote.asking.FIRST_PAUSE", 0.001)
        assert compare(server, "cut").exit_code == 0
        answers = read_answers(Path("compare/trial")).answers["cut"]
        assert all(text.endswith("тоном cut.") for text in answers) and len(server.requests) > 30

    def test_one_budget_for_all(self, server, prompts):
        result = compare(server, "one", "two", more=("--max-tokens", "1500"))
        assert result.exit_code == 1 and "stopped: the next request could exceed the budget" in result.stderr
        assert 20 < len(server.requests) <= 50  # each has used 30

    def test_a_dead_server_leaves_the_others_whole(self, server, prompts, monkeypatch):
        monkeypatch.setattr("train.remote.asking.FIRST_PAUSE", 0.001)
        result = govor(
            "compare", "t", "http://127.0.0.1:9#dead", f"{server.url}#one", "--prompts", "prompts.txt", "--lang", "en"
        )
        assert (
            result.exit_code == 1 and "dead: 127.0.0.1:9: 6 failures in a row, the last: not reachable" in result.stderr
        )
        assert all(read_answers(Path("compare/t")).answers["one"]) and len(server.requests) == 20

    def test_dry_runs_open_no_socket(self, prompts, monkeypatch):
        Path("rows.jsonl").write_text((REPOSITORY / "data/natasha.jsonl").read_text(encoding="utf-8"))
        opened = []
        monkeypatch.setattr(socket, "socket", lambda *_, **__: opened.append(1))
        for arguments in (
            ("compare", "t", "http://127.0.0.1:9#m", "--prompts", "prompts.txt"),
            ("review", "rows.jsonl", "-o", "x.jsonl", "--judge", "http://127.0.0.1:9#m"),
        ):
            result = govor(*arguments, "--dry-run")
            assert result.exit_code == 0, result.output
            assert re.search(r"^127\.0\.0\.1:9, model m: at most \d+ requests", result.output, re.MULTILINE)
        assert not opened

    def test_a_dry_run_asks_nothing_and_writes_nothing(self, server, prompts):
        result = compare(server, "one", "two", more=("--dry-run",))
        assert result.exit_code == 0 and not server.requests and not Path("compare").exists()
        assert len(re.findall(r"at most 20 requests", result.stdout)) == 2

    def test_prices_of_a_hosted_model(self, server, prompts, monkeypatch):
        from train.remote import services

        hosted = services.Endpoint(
            f"{server.url}/v1", "gpt", services.SERVICES["openai"], "k", services.TokenPrice(1, 2)
        )
        monkeypatch.setattr("train.remote.compare.find_model", lambda text, folder: hosted)
        result = govor("compare", "t", "x", "--prompts", "prompts.txt", "--lang", "en", "--budget", "2USD")
        assert result.exit_code == 0, result.output
        assert re.search(r"^1,000 requests, USD +0\.04$", result.output, re.MULTILINE)  # (20 × 1 + 10 × 2) / 1000
        assert re.search(r"^a year \(100,000 requests\), USD +4$", result.output, re.MULTILINE)

    def test_another_comparison_is_not_overwritten(self, server, prompts):
        compare(server, "one", "two")
        result = compare(server, "one")
        assert result.exit_code == 2 and "holds answers of two" in result.stderr
        Path("prompts.txt").write_text("Другое?", encoding="utf-8")
        assert "asks other prompts" in compare(server, "one", "two").stderr
        assert compare(server, "one", "two", more=("--force",)).exit_code == 0

    @pytest.mark.parametrize("model", ["gpt-4", "http://127.0.0.1:1", "nobody:x", "http://127.0.0.1:1#"])
    def test_a_model_that_is_none(self, prompts, model):
        result = govor("compare", "t", model, "--prompts", "prompts.txt")
        assert result.exit_code == 2 and "expected URL#MODEL, openai:MODEL or kimi:MODEL" in result.stderr

    def test_held_out_prompts_are_asked_and_their_answers_stay(self, server, run):
        result = govor(
            "compare", "own", f"{server.url}/v1#one", "--prompts", "held-out", "--run", str(run.path), "--lang", "en"
        )
        assert result.exit_code == 0, result.output
        assert "the rows' own" in result.output
        held_out = [json.loads(line)["messages"] for line in run.held_out_file.read_text().splitlines()]
        last = held_out[0][-1]["content"]
        sent = [request.json()["messages"] for request in server.requests]
        assert held_out[0][:-1] in sent and not any(last in m["content"] for messages in sent for m in messages)
        assert "give --run RUN too" in govor("compare", "t", f"{server.url}#m", "--prompts", "held-out").stderr


def invented(models: int, prompts: int) -> Compared:
    """Answers that tell nothing of who gave them."""
    chance = random.Random(models)
    names = [f"model-{letter}" for letter in "xyzuvw"[:models]]
    questions = [[{"role": "user", "content": f"Вопрос {number}"}] for number in range(prompts)]
    said = {name: [f"Ответ {chance.random()}" for _ in range(prompts)] for name in names}
    return Compared(Path("compare/trial"), questions, said)


@pytest.fixture
def votes():
    """Call it with a comparison: its votes, kept in compare/trial."""
    opened = []

    def start(compared: Compared) -> Votes:
        Path("compare/trial").mkdir(parents=True, exist_ok=True)
        opened.append(Path("compare/trial/votes.jsonl").open("a+", encoding="utf-8"))  # noqa: SIM115
        return Votes(pairs_of(compared), opened[-1])

    yield start
    for file in opened:
        file.close()


class TestPairs:
    def test_sides_change_and_every_prompt_comes_before_any_comes_again(self):
        pairs = pairs_of(invented(3, 40))
        assert len(pairs) == 120
        for turn in range(3):
            assert {pair.prompt for pair in pairs[40 * turn : 40 * (turn + 1)]} == set(range(40))
        assert 40 < sum(pair.swapped for pair in pairs) < 80
        first = [pair.models[pair.swapped] for pair in pairs]
        assert all(25 < first.count(name) < 55 for name in set(first))

    def test_votes_hold_when_models_are_named_in_another_order(self, votes):
        compared = invented(2, 6)
        taken = votes(compared)
        for at in range(6):
            winner = "model-x"
            taken.vote(at, "first" if taken.pairs[at].models[0] == winner else "second")
        turned = compared._replace(answers=dict(reversed(compared.answers.items())))
        assert tally(compared, votes(compared)).duels[0].rate.value == 1
        assert tally(turned, votes(turned)).duels[0].rate.value == 0  # of the other one

    def test_an_answer_with_a_line_separator_is_one_line(self):
        entry = {"prompt": [{"role": "user", "content": "a\u2028b"}], "answers": {"x": {"text": "c\u2028d\x85"}}}
        Path("compare/t").mkdir(parents=True)
        Path("compare/t/answers.jsonl").write_text(json.dumps(entry, ensure_ascii=False) + "\n", encoding="utf-8")
        assert read_answers(Path("compare/t")).answers == {"x": ["c\u2028d\x85"]}

    def test_equal_answers_are_ties_and_missing_ones_are_nothing(self, votes):
        compared = invented(2, 4)
        compared.answers["model-x"][0] = compared.answers["model-y"][0]
        compared.answers["model-x"][1] = None
        assert len(pairs_of(compared)) == 2
        duel = tally(compared, votes(compared)).duels[0]
        assert (duel.votes, duel.ties, duel.rate.value) == (1, 1, 0.5)


class TestStatistics:
    def test_the_interval_covers_the_truth(self, votes):
        """1000 simulated voters of 0.7, 100 votes each: the interval covers in 93 of 100, also where some are ties."""
        compared = invented(2, 100)
        taken = votes(compared)
        mine = [pair.models[0] == "model-x" for pair in taken.pairs]
        for ties in (0.0, 0.2):
            covered, chance = 0, random.Random(7)
            for _ in range(1000):
                for pair, is_first in zip(taken.pairs, mine, strict=True):
                    better = chance.random() < (0.7 - ties / 2) / (1 - ties)
                    said = "first" if better == is_first else "second"
                    taken.said[pair.key] = "tie" if chance.random() < ties else said
                rate = tally(compared, taken).duels[0].rate
                covered += rate.low <= 0.7 <= rate.high
            print(f"ties {ties:.0%}: the interval covers in {covered} of 1000")
            assert covered >= 930

    def test_what_is_to_be_expected_is_said_before(self):
        assert round(expected(30)) == 18 and round(expected(100)) == 10
        compared = invented(2, 120)
        assert outlook(compared, pairs_of(compared), speaker("en", {})) == (
            "120 pairs. A win rate will be known to ±9 points after all of them, to ±18 after 30, to ±10 after 100."
        )
        three = invented(3, 20)
        assert outlook(three, pairs_of(three), speaker("en", {})).endswith("for each of 3 pairs of models.")
        assert "Пар: 60" in outlook(three, pairs_of(three), speaker("ru", RUSSIAN))

    @pytest.mark.long
    def test_bradley_and_terry_find_the_strengths(self):
        """Three models 0, 100 and 200 points apart; their intervals cover in 93 of 100."""
        truth = {"a": 100.0, "b": 0.0, "c": -100.0}
        covered = 0
        for seed in range(100):
            chance, outcomes = random.Random(seed), []
            for prompt in range(100):
                for pair in (("a", "b"), ("b", "c"), ("a", "c")):
                    wins = chance.random() < 1 / (1 + 10 ** ((truth[pair[1]] - truth[pair[0]]) / 400))
                    outcomes.append((prompt, pair, float(wins)))
            ratings = bradley_terry(list(truth), outcomes)
            assert next(iter(ratings)) == "a" and abs(sum(rating.value for rating in ratings.values())) < 1e-6
            covered += sum(rating.low <= truth[model] <= rating.high for model, rating in ratings.items())
        print(f"Bradley–Terry: {covered} of 300 intervals cover")
        assert covered >= 279

    def test_one_that_always_wins_has_a_rating(self):
        ratings = bradley_terry(["a", "b", "c"], [(n, ("a", "b"), 1.0) for n in range(10)])
        assert 200 < ratings["a"].value < 2000 and ratings["c"].value == pytest.approx(0, abs=300)

    def test_kappa(self):
        assert agreement([(1.0, 1.0), (0.0, 0.0), (1.0, 1.0), (0.0, 0.0)]) == (1.0, 1.0, 4)
        same, kappa, _ = agreement([(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
        assert (same, kappa) == (0.5, 0.0)


class TestVote:
    def test_no_answer_of_the_server_names_a_model_before_the_reveal(self, votes):
        compared = invented(3, 7)
        taken = votes(compared)
        client = TestClient(vote_app(Voting(compared, taken), "en"), headers=HOST, base_url="http://127.0.0.1")
        seen = [client.get("/"), client.get("/vote.js"), client.get("/nothing"), client.get("/texts?lang=ru")]
        seen.append(client.get("/state"))
        while (state := seen[-1].json())["at"] is not None:
            said = random.Random(state["at"]).choice(["left", "right", "tie", "skip"])
            seen.append(client.post("/vote", json={"at": state["at"], "said": said}))
        seen += [client.post("/back", json={"at": None}), client.post("/vote", json={"at": 99, "said": "tie"})]
        seen += [client.post("/vote", json={"at": 0, "said": "model-x"}), client.get("/state")]
        for answer in seen:
            assert "model-" not in answer.text + str(answer.headers), answer.url
        revealed = client.post("/reveal", json={})
        assert all(name in revealed.text for name in compared.answers) and "Bradley" in revealed.text
        assert client.get("/state").json() == revealed.json()
        assert "Брэдли" in client.get("/state?lang=ru").json()["result"][-3]
        assert client.post("/vote", json={"at": 0, "said": "left"}).status_code == 409

    def test_what_was_voted_for_wins(self, votes):
        compared = invented(2, 30)
        taken = votes(compared)
        client = TestClient(vote_app(Voting(compared, taken), "ru"), headers=HOST, base_url="http://127.0.0.1")
        state = client.get("/state").json()
        while state["at"] is not None:
            at = [text in compared.answers["model-y"] for text in state["answers"]].index(True)
            state = client.post("/vote", json={"at": state["at"], "said": ["left", "right"][at]}).json()
        assert tally(compared, taken).duels[0].rate.value == 0
        preferred = [row for row, _, _ in stream_preferences(Path("compare/trial/preferences.jsonl"))]
        assert len(preferred) == 30
        assert {row.preferred[0]["content"] for row in preferred} == set(compared.answers["model-y"])
        assert {row.other[0]["content"] for row in preferred} == set(compared.answers["model-x"])
        line = json.loads(Path("compare/trial/preferences.jsonl").read_text(encoding="utf-8").splitlines()[0])
        assert set(line) == {"input", "preferred_output", "non_preferred_output"}
        assert set(line["input"]) == {"messages", "tools", "parallel_tool_calls"}
        assert govor("validate", "compare/trial/preferences.jsonl").exit_code == 0

    def test_it_goes_on_where_it_was_left(self, votes):
        compared = invented(2, 5)
        client = TestClient(
            vote_app(Voting(compared, votes(compared)), "en"), headers=HOST, base_url="http://127.0.0.1"
        )
        for at in (0, 1):
            client.post("/vote", json={"at": at, "said": "left"})
        with Path("compare/trial/votes.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"pair": "torn')
        again = votes(compared)
        client = TestClient(vote_app(Voting(compared, again), "en"), headers=HOST, base_url="http://127.0.0.1")
        assert client.get("/state").json()["at"] == 2
        assert client.post("/back", json={"at": 2}).json()["at"] == 1
        assert client.post("/back", json={"at": 1}).json()["at"] == 0
        assert client.post("/vote", json={"at": 0, "said": "skip"}).json()["at"] == 2
        assert len(votes(compared).said) == 2 and list(votes(compared).said.values()).count("skip") == 1

    def test_other_pages_and_names_are_refused(self, votes):
        compared = invented(2, 5)
        client = TestClient(vote_app(Voting(compared, votes(compared)), "en"), base_url="http://127.0.0.1")
        assert client.get("/state", headers={"host": "evil.example"}).status_code == 403
        foreign = {"host": "127.0.0.1", "origin": "https://evil.example"}
        assert client.post("/vote", json={"at": 0, "said": "left"}, headers=foreign).status_code == 403
        assert "default-src 'none'" in client.get("/", headers=HOST).headers["content-security-policy"]

    def test_no_comparison(self):
        result = govor("vote", "nothing")
        assert result.exit_code == 2 and "no comparison nothing (compare: none here yet)" in result.stderr


class Browser:
    """Chromium over its debugging pipe: JSON messages that end in a zero byte."""

    def __init__(self, profile: Path) -> None:
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()

        def pipes() -> None:
            one, other = os.dup(to_read), os.dup(to_write)  # 3 and 4 may be among them
            os.dup2(one, 3)
            os.dup2(other, 4)

        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
                   f"--user-data-dir={profile}", "--no-first-run", "--disable-background-networking"]  # fmt: skip
        self._process = subprocess.Popen(
            command, close_fds=False, preexec_fn=pipes, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        self._number, self._rest, self.events = 0, b"", []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        session = getattr(self, "_session", None)
        os.write(self._write, json.dumps({**message, **({"sessionId": session} if session else {})}).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                self._rest += os.read(self._read, 65536)
            line, _, self._rest = self._rest.partition(b"\0")
            got = json.loads(line)
            if got.get("id") == self._number:
                assert "error" not in got, got
                return got["result"]
            self.events.append(got)

    def evaluate(self, expression: str):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def press(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def wait(self, expression: str) -> None:
        for _ in range(600):
            if self.evaluate(expression):
                return
            time.sleep(0.05)
        raise AssertionError(f"never true: {expression}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_a_person_votes_in_a_browser(server, prompts, tmp_path):
    """20 pairs by keyboard, with a reload and a restart of the server between; nothing outside is asked for."""
    import uvicorn

    compare(server, "one", "two")
    compared, browser = read_answers(Path("compare/trial")), Browser(tmp_path / "profile")

    def serve(port: int = 0):
        file = Path("compare/trial/votes.jsonl").open("a+", encoding="utf-8")  # noqa: SIM115
        app = vote_app(Voting(compared, Votes(pairs_of(compared), file)), "ru")
        running = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
        thread = threading.Thread(target=running.run)
        thread.start()
        while not running.started:
            time.sleep(0.02)
        return running, thread, running.servers[0].sockets[0].getsockname()[1]

    def count(done: int) -> str:
        return f"document.getElementById('count')?.textContent === '{done} / 20'"

    running, thread, port = serve()
    try:
        browser.call("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=True)
        browser.call("Page.navigate", url=f"http://127.0.0.1:{port}/")
        browser.wait(count(0))
        assert browser.evaluate("document.documentElement.scrollWidth") <= 400
        assert "±22" in browser.evaluate("document.body.innerText")
        keys = ["ArrowLeft", "ArrowRight", "ArrowDown", " "]
        for done in range(20):
            if done == 7:
                browser.call("Page.reload")
                browser.wait(count(7))
            if done == 12:
                running.should_exit = True
                thread.join()
                running, thread, _ = serve(port)
                browser.call("Page.reload")
                browser.wait(count(12))
            browser.press(keys[done % 4])
            browser.wait(count(done + 1))
        assert not re.search(r"\b(?:one|two)\b", browser.evaluate("document.querySelector('.keys').innerText"))
        browser.evaluate("document.querySelector('[data-said=reveal]').click()")
        browser.wait("!document.getElementById('result').hidden")
        told = browser.evaluate("document.body.innerText")
        assert "one" in told and "two" in told and "95" in told
        assert browser.evaluate("document.documentElement.scrollWidth") <= 400
    finally:
        running.should_exit = True
        thread.join()
        browser.close()
    said = [json.loads(line).get("said") for line in Path("compare/trial/votes.jsonl").read_text().splitlines()]
    assert [said.count(each) for each in ("tie", "skip")] == [5, 5] and len(said) == 21
    asked = [
        event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert asked and all(url.startswith(f"http://127.0.0.1:{port}/") for url in asked)
    bad = [event for event in browser.events if event["method"] in ("Runtime.exceptionThrown",)]
    bad += [e for e in browser.events if e["method"] == "Log.entryAdded" and "favicon" not in str(e)]
    assert bad == []
