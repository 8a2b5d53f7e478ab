"""train/remote: journal, budget, retries, over real HTTP to a stand-in on loopback, with OpenAI's SDK."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.scripts.stand_in import StandIn
from train.core.errors import ConfigError, DataError, GovorError, RunError
from train.remote import asking
from train.remote.asking import Asker, Request
from train.remote.budget import Budget, Usage, open_budget
from train.remote.journal import open_journal
from train.remote.services import SERVICES, Endpoint, TokenPrice, find_endpoint, price_of

KEY = "sk-" + "very-secret-0123456789"  # in two pieces: the scanner of secrets looks through this repository


def completion(text: str, used: tuple[int, int] | None = (10, 5), finish: str = "stop") -> dict:
    """An answer in OpenAI's form."""
    usage = used and {"prompt_tokens": used[0], "completion_tokens": used[1], "total_tokens": sum(used)}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def requests(count: int) -> list[Request]:
    return [Request([{"role": "user", "content": f"Вопрос {number}"}], 20, {}) for number in range(count)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short pauses; and no waiting for the disk, which outlives all but the loss of power, and no test sees that."""
    monkeypatch.setattr(asking, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def serve():
    """Call it with what answers a request: a server; closed after the test."""
    servers = []

    def start(answer) -> StandIn:
        servers.append(StandIn(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def endpoint_of(server: StandIn, price: TokenPrice | None = None) -> Endpoint:
    return Endpoint(f"{server.url}/v1", "m", SERVICES["local"], KEY, price)


def ask(server: StandIn, count: int, budget: Budget | None = None, journal: str = "journal.jsonl"):
    """(replies, asker) of so many requests."""
    with open_journal(Path(journal)) as opened:
        asker = Asker(endpoint_of(server), opened, budget or Budget(None, None, in_money=False))
        return asker.ask(requests(count), "asked"), asker


def echo(request) -> tuple[int, dict]:
    return 200, completion(f"Ответ: {request.json()['messages'][-1]['content']}")


class TestJournal:
    def test_nothing_is_asked_twice(self, serve):
        server = serve(echo)
        first, _ = ask(server, 6)
        again, asker = ask(server, 8)
        assert again[:6] == first
        assert [reply.text for reply in again] == [f"Ответ: Вопрос {number}" for number in range(8)]
        assert len(server.requests) == 8
        assert asker.budget.spent == 8 * 15  # of both runs

    def test_neither_key_nor_question_is_in_it(self, serve):
        ask(serve(echo), 2)
        text = Path("journal.jsonl").read_text(encoding="utf-8")
        assert "sk-very" not in text and '"Вопрос' not in text
        assert Path("journal.jsonl").stat().st_mode & 0o077 == 0

    def test_a_torn_line_and_a_request_without_an_answer(self, serve):
        server = serve(echo)
        ask(server, 3)
        path = Path("journal.jsonl")
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        answered = [line for line in lines if "answered" in line]
        torn = answered[-1].encode()[: len(answered[-1].encode()) // 2]  # within a letter of two bytes, perhaps
        path.write_bytes("".join(line for line in lines if line != answered[-1]).encode() + torn)
        replies, asker = ask(server, 3)
        assert all(replies) and len(server.requests) == 4
        most = requests(1)[0].most()
        assert asker.budget.spent == 3 * 15 + sum(most)  # what was cut off may have been paid
        assert all(ask(server, 3)[0]) and len(server.requests) == 4

    def test_another_file_is_refused(self, serve):
        Path("journal.jsonl").write_text('{"messages": []}\n', encoding="utf-8")
        with pytest.raises(DataError, match=r"journal\.jsonl:1: no line of a journal"):
            ask(serve(echo), 1)

    def test_one_process_at_a_time(self):
        with (
            open_journal(Path("a.jsonl")),
            pytest.raises(RunError, match="another process"),
            open_journal(Path("a.jsonl")),
        ):
            pass

    @pytest.mark.long
    def test_kills_change_no_answer(self, serve, tmp_path):
        """20 kills in 200 requests: every answer as without, and no more paid twice than were under way."""
        wanted, killed = 0, threading.Event()

        def answer(request):
            if len(server.requests) >= wanted:
                killed.wait(60)
            return echo(request)

        server = serve(answer)
        program = f"""
import sys; sys.path[:0] = [{str(REPOSITORY)!r}]
import openai
from tests.remote.test_asking import *
class S: url = {server.url!r}
os.fsync = lambda descriptor: None
for line in sys.stdin:
    child = os.fork()
    if not child:
        texts = [reply.text for reply in ask(S, 200)[0]]
        Path("texts.json").write_text(json.dumps(texts))
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""
        command = [sys.executable, "-c", program]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        with subprocess.Popen(command, **pipes) as nursery:

            def start() -> int:
                nursery.stdin.write("\n")
                nursery.stdin.flush()
                return int(nursery.stdout.readline())

            chance = random.Random(3)
            for _ in range(20):
                killed.clear()
                wanted = len(server.requests) + chance.randint(2, 9)
                child = start()
                while len(server.requests) < wanted:
                    time.sleep(0.002)
                os.kill(child, signal.SIGKILL)
                assert int(nursery.stdout.readline()) == signal.SIGKILL
                killed.set()
            wanted = 10_000
            start()
            assert int(nursery.stdout.readline()) == 0
            nursery.stdin.close()
        assert json.loads(Path("texts.json").read_text()) == [f"Ответ: Вопрос {number}" for number in range(200)]
        assert 200 < len(server.requests) <= 200 + 20 * asking.CONCURRENCY


class TestBudget:
    def test_it_is_never_exceeded(self, serve):
        """50 random budgets, in tokens and in money, with answers of any length and without `usage` at times."""
        chance = random.Random(7)

        def answer(request):
            words = chance.randint(1, 20)
            return 200, completion("слово " * words, (chance.randint(1, 40), words) if chance.random() < 0.8 else None)

        server = serve(answer)
        stopped = 0
        for number in range(50):
            in_money = number % 2 == 1
            limit = Decimal(chance.randint(1, 4000)) / 1_000_000 if in_money else chance.randint(1, 2000)
            budget = Budget(limit, TokenPrice(0.8, 3.2), in_money=in_money)
            seen = len(server.requests)
            replies, asker = ask(server, 12, budget, f"journal{number}.jsonl")
            assert budget.spent <= limit and budget.reserved == 0
            assert sum(reply is not None for reply in replies) == len(server.requests) - seen
            assert asker.out_of_budget == (None in replies)
            stopped += asker.out_of_budget
        assert 10 < stopped < 50

    def test_what_others_leave_is_used(self, serve):
        """Reserved are 150 tokens a request, used 15: room for one at a time is room for many."""
        most = sum(requests(1)[0].most())
        replies, _ = ask(serve(echo), 10, Budget(most + 9 * 15, None, in_money=False))
        assert all(replies)

    @pytest.mark.parametrize("text", ["2USD", "2", "$2", "2.00 usd"])
    def test_money(self, text):
        endpoint = Endpoint("https://api.openai.com/v1", "m", SERVICES["openai"], "k", TokenPrice(1, 2))
        assert open_budget(endpoint, text, None).limit == 2

    def test_money_without_a_price_is_refused(self):
        endpoint = Endpoint("https://api.moonshot.ai/v1", "kimi-k2.6", SERVICES["kimi"], "k", None)
        with pytest.raises(ConfigError, match=r"no price is known for kimi-k2\.6 at .*: give --max-tokens"):
            open_budget(endpoint, "2USD", None)
        assert open_budget(endpoint, None, 1000).limit == 1000

    def test_no_tokenizer_makes_more_of_a_text(self, words):
        for text in ("Привет, как ты?", "体温38.3度", "👩‍🚀🙂", "plain words"):
            assert 0 < len(words.encode(text).ids) <= Request([{"role": "user", "content": text}], 1, {}).most().input


class TestFaults:
    def test_a_storm_ends_with_every_failure_counted(self, serve, monkeypatch):
        monkeypatch.setattr(asking, "TIMEOUT", 5)
        chance, lock = random.Random(5), threading.Lock()
        sent = Counter()

        def answer(request):
            with lock:
                kind = chance.choice(["429", "500", "html", "cut", "empty", "hang", "fine", "fine", "fine"])
                kind = "fine" if kind == "hang" and sent["hang"] == 2 else kind
                sent[kind] += 1
            if kind == "429":
                return 429, {"error": {"message": "slow down"}}, {"retry-after-ms": "3"}
            if kind == "500":
                return 500, {"error": {"message": "oh"}}
            if kind == "html":
                return 200, "<html>"
            if kind == "cut":
                return None
            if kind == "empty":
                return 200, {"choices": []}
            if kind == "hang":
                time.sleep(6)
            return echo(request)

        replies, asker = ask(serve(answer), 60)
        assert asker.failures == {
            "status 429": sent["429"],
            "status 500": sent["500"],
            "no answer in OpenAI's form": sent["html"] + sent["empty"],
            "connection cut": sent["cut"],
            "timeout": sent["hang"],
        }
        assert sum(reply is None for reply in replies) == asker.unanswered
        assert sum(reply is not None for reply in replies) == sent["fine"] > 50
        assert asker.budget.reserved == 0

    @pytest.mark.parametrize("header", [{"retry-after": "1"}, {"retry-after-ms": "1000"}])
    def test_retry_after_is_kept(self, serve, header):
        times = []

        def answer(request):
            times.append(time.monotonic())
            return (429, {"error": {}}, header) if len(times) == 1 else echo(request)

        assert all(ask(serve(answer), 1)[0])
        assert times[1] - times[0] >= 1.0

    def test_too_long_a_wait_ends_it(self, serve):
        server = serve(lambda request: (429, {"error": {}}, {"retry-after": "7200"}))
        with pytest.raises(GovorError, match=r"wants 7200 s of silence"):
            ask(server, 1)

    @pytest.mark.parametrize(
        ("status", "error", "message"),
        [
            (401, {"message": f"bad key {KEY}"}, r"answers 401: bad key \*\*\*; set GOVOR_API_KEY"),
            (404, {"message": "no model"}, "answers 404: no model; is there a model m"),
            (429, {"message": "pay", "code": "insufficient_quota"}, "answers 429: pay"),
            (307, {}, "sends elsewhere"),
        ],
    )
    def test_what_no_request_can_survive(self, serve, status, error, message):
        server = serve(lambda request: (status, {"error": error}, {"location": "http://127.0.0.1:1/"}))
        with pytest.raises(ConfigError, match=message):
            ask(server, 20)
        assert len(server.requests) <= asking.CONCURRENCY
        assert ask(serve(echo), 20, journal="journal.jsonl")[1].budget.spent <= 20 * 15 + 4 * 200

    def test_a_request_that_is_refused_is_not_repeated(self, serve):
        server = serve(lambda request: (400, {"error": {"code": "content_filter", "message": "Вопрос 1 is bad"}}))
        replies, asker = ask(server, 3)
        assert replies == [None] * 3 and len(server.requests) == 3
        assert asker.failures == {"status 400 (content_filter)": 3} and asker.unanswered == 3
        assert asker.budget.spent == 0

    def test_a_server_that_only_fails_ends_it(self, serve):
        server = serve(lambda request: (503, {}))
        with pytest.raises(GovorError, match=r"30 failures in a row, the last: status 503"):
            ask(server, 50)
        assert len(server.requests) <= asking.PATIENCE + asking.CONCURRENCY

    def test_a_server_that_is_not_there(self, serve):
        server = serve(echo)
        server.close()
        with pytest.raises(GovorError, match="not reachable"):
            ask(server, 50)

    def test_nothing_is_logged(self, serve):
        program = f"""
import sys; sys.path[:0] = [{str(REPOSITORY)!r}]
from tests.remote.test_asking import *
class S: url = {serve(echo).url!r}
assert all(ask(S, 2)[0])
"""
        result = subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "OPENAI_LOG": "debug"}, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        printed = result.stdout + result.stderr
        assert not any(text in printed for text in ("Вопрос", "Ответ", "sk-very", "u0412"))
        assert not printed or printed.startswith("asked: ")  # the progress of a slow machine


class TestServices:
    def test_keys_and_prices(self, monkeypatch):
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(ConfigError, match=r"no key for OpenAI: set OPENAI_API_KEY in the environment or in \.env"):
            find_endpoint("openai", "gpt-4.1-mini", Path())
        Path(".env").write_text("OPENAI_API_KEY='abc'\n", encoding="utf-8")
        endpoint = find_endpoint("https://api.openai.com/v1", "gpt-4.1-mini-2025-04-14", Path())
        assert (endpoint.key, endpoint.price, endpoint.host) == ("abc", TokenPrice(0.8, 3.2), "api.openai.com")
        assert price_of(SERVICES["kimi"], "kimi-k2.6") is None

    @pytest.mark.parametrize(
        ("via", "url"),
        [
            ("127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
            ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
            ("https://example.org/api/v3", "https://example.org/api/v3"),
            ("local", "http://127.0.0.1:8000/v1"),
        ],
    )
    def test_urls(self, via, url):
        assert find_endpoint(via, "m", Path()).url == url

    @pytest.mark.parametrize("via", ["ftp://x", "x", "https://" + "user:secret@example.org/v1", "google"])
    def test_urls_that_are_none(self, via):
        with pytest.raises(ConfigError) as error:
            find_endpoint(via, "m", Path())
        assert "secret" not in str(error.value)


def test_money_adds_up():
    budget = Budget(Decimal(1), TokenPrice(0.1, 0.2), in_money=True)
    for _ in range(10):
        assert budget.reserve(Usage(1_000_000, 0))
    assert not budget.reserve(Usage(1, 0))  # floats would leave a little room
