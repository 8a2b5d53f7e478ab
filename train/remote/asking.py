"""Asks a model many requests: never the same twice, within the budget, a few at a time, again where it makes sense."""

import asyncio
import hashlib
import json
import logging
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from train.chats.rows import Message, text_of
from train.core.errors import ConfigError, GovorError
from train.core.progress import progress
from train.remote.budget import Budget, Usage, money
from train.remote.journal import Journal, Reply
from train.remote.services import Endpoint, without_keys

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

CONCURRENCY = 4
ATTEMPTS = 6
FIRST_PAUSE = 1.0
"""Seconds before the second attempt; each further pause is twice as long, unless the server says how long."""
LONGEST_PAUSE = 600.0
TIMEOUT = 300.0
"""Seconds for a whole answer."""
PATIENCE = 30
"""Failures in a row, of any requests, after which nothing is asked any more; fewer where nobody ever answered."""
UNREACHABLE = "not reachable"
MESSAGE, FRAME = 16, 64
"""Tokens that a chat template writes around a message, and around the conversation, at most."""


STREAM: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
"""Parameters of a request whose answer is to come token by token."""


class Request(NamedTuple):
    """A conversation to be answered."""

    messages: list[Message]
    max_tokens: int
    """Longest answer."""
    parameters: dict[str, Any]
    """What else is sent, such as temperature; with STREAM the reply says when its first token came."""
    slot: int = 0
    """Tells requests apart that ask the same once more."""

    def key(self, endpoint: Endpoint) -> str:
        """What the journal knows it by."""
        parts = [endpoint.url, endpoint.model, self.messages, self.max_tokens, self.parameters, self.slot]
        return hashlib.sha256(json.dumps(parts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()

    def most(self) -> Usage:
        """Tokens at most: no tokenizer makes more of a text than it has bytes."""
        texts = [text_of(message) for message in self.messages]
        return Usage(FRAME + sum(MESSAGE + len(text.encode()) for text in texts), self.max_tokens)


class AttemptError(Exception):
    """An attempt without an answer. `used`: whether it may have to be paid for; `pause`: seconds that are asked for."""

    def __init__(self, why: str, *, used: bool, again: bool, pause: float | None = None) -> None:
        super().__init__(why)
        self.why, self.used, self.again, self.pause = why, used, again, pause


class Asker:
    """Asks one model, and keeps account."""

    def __init__(self, endpoint: Endpoint, journal: Journal, budget: Budget, concurrency: int = CONCURRENCY) -> None:
        self.endpoint, self.journal, self.budget, self.concurrency = endpoint, journal, budget, concurrency
        self.failures: Counter[str] = Counter()
        """Attempts without an answer, by reason."""
        self.unanswered = 0
        """Requests that were given up."""
        self.out_of_budget = False
        for used in journal.used:
            budget.charge(used)
        self._in_a_row = 0
        self._reached = False
        self._under_way = 0
        self._not_before = 0.0
        self._margin = 1.0

    def ask(self, requests: Sequence[Request], task: str) -> list[Reply | None]:
        """The reply to each request, None where there is none: given up, or no room was left in the budget.

        GovorError where it makes no sense to go on: a wrong key, no such model, a server that only fails. Replies until
        then are in the journal.
        """
        keys = [request.key(self.endpoint) for request in requests]
        todo = {key: request for key, request in zip(keys, requests, strict=True) if key not in self.journal.replies}
        if todo:
            asyncio.run(self._ask(todo, task))
        return [self.journal.replies.get(key) for key in keys]

    async def _ask(self, todo: dict[str, Request], task: str) -> None:
        queue = deque(todo.items())
        self._settled = asyncio.Event()
        with progress(task, len(todo), self.budget.describe) as update:

            async def work() -> None:
                while queue and not self.out_of_budget:
                    await self._answer(client, *queue.popleft())
                    update(len(todo) - len(queue) - self._under_way)

            async with open_client(self.endpoint) as client:
                try:
                    async with asyncio.TaskGroup() as group:
                        for _ in range(min(self.concurrency, len(todo))):
                            group.create_task(work())
                except* GovorError as errors:
                    raise errors.exceptions[0] from None

    async def _answer(self, client: "AsyncOpenAI", key: str, request: Request) -> None:
        """Ask until there is an answer, or asking again makes no sense."""
        most = request.most()
        most = most._replace(input=round(most.input * self._margin))
        for attempt in range(ATTEMPTS):
            while (wait := self._not_before - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if not await self._reserve(most):
                return
            self.journal.sent(key, most)
            self._under_way += 1
            used = most  # unless something better is known
            try:
                reply = await ask_once(client, self.endpoint, request, most)
                used, self._in_a_row, self._reached = reply.used, 0, True
                self._margin = max(self._margin, used.input / most.input)
                self.journal.answered(key, reply)
                return
            except GovorError:
                used = Usage(0, 0)
                self.journal.failed(key, "refused", used)
                raise
            except AttemptError as error:
                used = most if error.used else Usage(0, 0)
                self.journal.failed(key, error.why, used)
                self.failures[error.why] += 1
                self._in_a_row += 1
                self._require_patience(error)
                if not error.again:
                    break
                self._pause(error, attempt)
                pause = 0.0 if error.pause is not None else FIRST_PAUSE * 2**attempt
            finally:
                self._under_way -= 1
                self.budget.settle(most, used)
                self._settled.set()
            if attempt + 1 < ATTEMPTS:
                await asyncio.sleep(pause)
        self.unanswered += 1

    async def _reserve(self, most: Usage) -> bool:
        """Reserve what a request may take; where others under way hold the room, wait for what they leave."""
        while not self.out_of_budget and not self.budget.reserve(most):
            if not self._under_way:
                self.out_of_budget = True
            else:
                self._settled.clear()
                await self._settled.wait()
        return not self.out_of_budget

    def _pause(self, error: AttemptError, attempt: int) -> None:
        """Where the server says how long to wait, all wait."""
        if error.pause is None:
            return
        if error.pause > LONGEST_PAUSE:
            raise GovorError(f"{self.endpoint.host} wants {error.pause:.0f} s of silence: run it again after that")
        self._not_before = max(self._not_before, time.monotonic() + error.pause)

    def _require_patience(self, error: AttemptError) -> None:
        self._reached |= error.why != UNREACHABLE
        if self._in_a_row >= (PATIENCE if self._reached else ATTEMPTS * self.concurrency):
            raise GovorError(
                f"{self.endpoint.host}: {self._in_a_row} failures in a row, the last: {error.why}. The answers so far "
                "are kept: run it again"
            )

    def lines(self) -> list[str]:
        """The account, for people."""
        spent = [f"spent: {self.budget.describe()}"]
        if self.failures:
            reasons = ", ".join(f"{why} {count}" for why, count in self.failures.most_common())
            spent.append(f"failed attempts: {reasons}; requests given up: {self.unanswered}")
        if self.out_of_budget:
            spent.append("stopped: the next request could exceed the budget")
        return spent


def announce(endpoint: Endpoint, requests: int, most: Usage, budget: Budget, *, dry_run: bool) -> None:
    """Say before the first request where it goes, how many there will be, and what they can take at the most.

    On stdout where nothing else follows, else on stderr.
    """
    cost = f", {money(most, endpoint.price):.4f} USD" if endpoint.price else ""
    cost = cost or (", price not known" if not endpoint.is_here else "")
    limit = f"; stops at {budget.amount(budget.limit)}" if budget.limit is not None else ""
    known = f"; {budget.amount(budget.spent)} spent before" if budget.spent else ""
    text = (
        f"{endpoint.host}, model {endpoint.model}: at most {requests:,} requests, {most.input:,} tokens in and "
        f"{most.output:,} out{cost}{limit}{known}"
    )
    print(text, file=sys.stdout if dry_run else sys.stderr, flush=True)


def open_client(endpoint: Endpoint) -> "AsyncOpenAI":
    """The SDK's client: it follows no redirect, which would take the rows elsewhere, and logs nothing."""
    import openai

    tls = endpoint.url.startswith("https:")
    for name in ("openai", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)  # OPENAI_LOG=debug would log every row
    return openai.AsyncOpenAI(
        base_url=endpoint.url,
        api_key=endpoint.key or "none",  # the SDK insists on one; a local server without a key takes any
        max_retries=0,  # each attempt is reserved and counted
        timeout=TIMEOUT,
        http_client=openai.DefaultAsyncHttpxClient(
            trust_env=not endpoint.is_here,
            follow_redirects=False,
            verify=tls,  # without TLS there is nothing to verify, and the certificates need not be read
        ),
    )


async def ask_once(client: "AsyncOpenAI", endpoint: Endpoint, request: Request, most: Usage) -> Reply:
    """One attempt. AttemptError where there is no answer, GovorError where no request can succeed."""
    import httpx2
    import openai

    limit = "max_completion_tokens" if endpoint.service.name == "openai" else "max_tokens"
    sent: Any = {"messages": request.messages, limit: request.max_tokens, **request.parameters}
    started = time.monotonic()
    try:
        async with asyncio.timeout(TIMEOUT):
            answer = await client.chat.completions.create(model=endpoint.model, **sent)
            if request.parameters.get("stream"):
                return await _whole_stream(answer, most, started)
        choice = answer.choices[0]
        used, seconds = _used(answer.usage, most), time.monotonic() - started
        return Reply(choice.message.content or "", choice.finish_reason or "stop", used, None, seconds)
    except (openai.APITimeoutError, TimeoutError):
        raise AttemptError("timeout", used=True, again=True) from None
    except openai.APIConnectionError as error:
        never_sent = isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)
        raise AttemptError(UNREACHABLE if never_sent else "connection cut", used=not never_sent, again=True) from None
    except openai.APIStatusError as error:
        raise _of_status(error, endpoint) from None
    except httpx2.HTTPError:  # in the middle of a stream the SDK lets it through
        raise AttemptError("connection cut", used=True, again=True) from None
    except (openai.OpenAIError, AttributeError, ValueError, TypeError, IndexError):
        raise AttemptError("no answer in OpenAI's form", used=True, again=True) from None


async def _whole_stream(chunks: Any, most: Usage, started: float) -> Reply:
    """The reply that the chunks make; AttemptError where they stop before its end."""
    text, finish, used, first = "", None, most, None
    async for chunk in chunks:
        used = _used(chunk.usage, most) if chunk.usage else used
        for choice in chunk.choices[:1]:
            if choice.delta.content and first is None:
                first = time.monotonic() - started
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    if finish is None:
        raise AttemptError("connection cut", used=True, again=True)
    return Reply(text, finish, used, first, time.monotonic() - started)


def _used(usage: Any, most: Usage) -> Usage:
    """What the server says to have used; where it says nothing sensible, what was reserved."""
    try:
        prompt, completion = int(usage.prompt_tokens), int(usage.completion_tokens)
        total = int(usage.total_tokens or 0)
    except (AttributeError, TypeError, ValueError):
        return most
    if prompt < 0 or completion < 0:
        return most
    return Usage(prompt, max(completion, total - prompt))  # some count reasoning in the total alone


def _of_status(error: "APIStatusError", endpoint: Endpoint) -> Exception:
    """What an error status means: for all requests, for this one, or for now."""
    status = error.status_code
    if status in (401, 402, 403, 404) or error.code == "insufficient_quota":
        body = error.body.get("message") if isinstance(error.body, dict) else None
        message = without_keys(str(body or "without saying why"), endpoint.key)[:200]
        hint = f"; is there a model {endpoint.model}, and does the URL end in /v1?" if status == 404 else ""
        hint = f"; set {' or '.join(endpoint.service.keys)}" if status == 401 else hint
        return ConfigError(f"{endpoint.host} answers {status}: {message}{hint}")
    if status < 400:
        return ConfigError(f"{endpoint.host} sends elsewhere ({status}): give the URL that it means with --via")
    again = status >= 500 or status in (408, 409, 425, 429)
    pause = _retry_after(error.response.headers) if again else None
    about = [part for part in (error.code, error.param) if part and re.fullmatch(r"[\w.-]{1,40}", str(part))]
    why = f"status {status}" + (f" ({', '.join(about)})" if about else "")  # the message may quote the row
    return AttemptError(why, used=status == 504, again=again, pause=pause)


def _retry_after(headers: Any) -> float | None:
    """Seconds that the server asks to wait; None where it says nothing."""
    with suppress(KeyError, ValueError):
        return max(0.0, float(headers["retry-after-ms"]) / 1000)
    with suppress(KeyError, ValueError):
        return max(0.0, float(headers["retry-after"]))
    with suppress(KeyError, ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    return None
