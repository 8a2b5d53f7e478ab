"""An engine's stream of chunks → OpenAI's: the public name, thoughts apart, stop sequences cut, usage on request."""

import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict
from uuid import uuid4

import httpx2

from train.serving.api_errors import ApiError, not_ready, unloaded
from train.serving.engine import Engine

THINK_START, THINK_END = "<think>", "</think>"
FAILED = "The engine failed while it answered."


class Delta(TypedDict, total=False):
    """What a chunk adds to the message of a choice."""

    role: str
    content: str
    reasoning_content: str
    tool_calls: list[dict[str, Any]]


class Choice(TypedDict):
    """What a chunk says of one of the answers to a request."""

    index: int
    delta: Delta
    logprobs: dict[str, Any] | None
    finish_reason: str | None


class Chunk(TypedDict):
    """A chat.completion.chunk as OpenAI sends it."""

    id: str
    object: str
    created: int
    model: str
    choices: list[Choice]
    usage: NotRequired[dict[str, Any] | None]


async def open_stream(client: httpx2.AsyncClient, url: str, key: str, body: dict[str, Any]) -> httpx2.Response:
    """The engine's response once it begins to answer; ApiError where it refuses."""
    request = client.build_request("POST", url, json=body, headers={"authorization": f"Bearer {key}"})
    try:
        response = await client.send(request, stream=True)
        if response.status_code == 200:
            return response
        try:
            raw = await response.aread()
        finally:
            await response.aclose()
    except httpx2.HTTPError:
        raise not_ready() from None
    if not 400 <= response.status_code < 500:
        raise ApiError(500, FAILED)
    try:
        tree = json.loads(raw)
        error = tree.get("error", {})
        message, param = (error["message"], error.get("param")) if error else (str(tree["detail"]), None)
    except (ValueError, KeyError, TypeError, AttributeError):
        message, param = "The engine refused the request.", None
    raise ApiError(400, message, param=param)


async def read_chunks(response: httpx2.Response, engine: Engine) -> AsyncIterator[dict[str, Any]]:
    """The chunks of an engine's stream, as it sends them; ApiError where it breaks off."""
    try:
        async for event in httpx2.EventSource(response):
            if event.data == "[DONE]":
                return
            chunk = json.loads(event.data)
            if "error" in chunk:
                raise ApiError(500, FAILED)
            yield chunk
    except (httpx2.HTTPError, ValueError):
        raise (unloaded() if engine.stopping else ApiError(500, FAILED)) from None


@dataclass
class AnswerText:
    """The text of one answer as it comes in: separates thoughts from the answer and ends it at a stop sequence."""

    stops: Sequence[str]
    thinking: bool | None = None
    """Whether a thought is open, as the prompt may have left it; None while that is not known."""
    stopped: bool = False
    """Whether a stop sequence has ended the answer."""
    _pending: str = ""
    _begun: bool = False
    """Whether anything but white space has come since the last mark of a thought."""

    def feed(self, text: str, *, last: bool = False) -> Delta:
        """Take in text; what is now certain, as a delta's `reasoning_content` and `content`."""
        self._pending += text
        thought = content = ""
        if self.thinking is None:
            head = self._pending.lstrip()
            if head.startswith(THINK_START):
                self.thinking, self._pending = True, head.removeprefix(THINK_START)
            elif last or not THINK_START.startswith(head):
                self.thinking, self._begun = False, True
        if self.thinking:
            self._pending, closed, rest = self._pending.partition(THINK_END)
            thought = self._take((THINK_END,), last=last or bool(closed))
            if closed:
                self.thinking, self._begun, self._pending = False, False, rest
        if self.thinking is False and not self.stopped:
            cuts = [at for stop in self.stops if (at := self._pending.find(stop)) >= 0]
            if cuts:
                self._pending, self.stopped = self._pending[: min(cuts)], True
            content = self._take(self.stops, last=last or self.stopped)
        delta: Delta = {}
        if thought:
            delta["reasoning_content"] = thought
        if content:
            delta["content"] = content
        return delta

    def _take(self, marks: Sequence[str], *, last: bool) -> str:
        """Take what has come, less an end that may grow into one of the marks."""
        if not self._begun:
            self._pending = self._pending.lstrip()
        growing = (n for mark in marks for n in range(1, len(mark)) if self._pending.endswith(mark[:n]))
        end = len(self._pending) - (0 if last else max(growing, default=0))
        text, self._pending = self._pending[:end], self._pending[end:]
        self._begun = self._begun or bool(text)
        return text


async def openai_chunks(
    chunks: AsyncIterator[dict[str, Any]], model: str, *, stops: Sequence[str], thinking: bool | None
) -> AsyncIterator[Chunk]:
    """An engine's chunks as OpenAI has them, the last with the usage and no choices; ApiError where it breaks off.

    `stops`: stop sequences that the engine leaves in the answer. `thinking`: see `AnswerText`.
    """
    id_, created = f"chatcmpl-{uuid4().hex}", int(time.time())
    answers: dict[int, AnswerText] = {}
    finished: set[int] = set()
    usage = None

    def chunk_of(choices: list[Choice]) -> Chunk:
        return {
            "id": id_, "object": "chat.completion.chunk", "created": created, "model": model, "choices": choices,
        }  # fmt: skip

    async for chunk in chunks:
        usage = chunk.get("usage") or usage
        choices: list[Choice] = []
        for choice in chunk["choices"]:
            index, reason = choice["index"], choice.get("finish_reason")
            answer = answers.setdefault(index, AnswerText(stops, thinking))
            delta = _delta(choice["delta"], answer, last=reason is not None)
            if reason is not None:
                finished.add(index)
                reason = "stop" if answer.stopped else reason
            if delta or reason:
                logprobs = choice.get("logprobs")
                choices.append({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason})
        if choices:
            yield chunk_of(choices)
    if finished != set(answers) or not finished:
        raise ApiError(500, FAILED)
    yield {**chunk_of([]), "usage": usage}


def _delta(received: dict[str, Any], answer: AnswerText, *, last: bool) -> Delta:
    """A delta of an engine's as OpenAI has it; its text goes through `answer`."""
    delta: Delta = {}
    if received.get("role"):
        delta["role"] = received["role"]
    if received.get("tool_calls"):
        delta["tool_calls"] = received["tool_calls"]
    thought = received.get("reasoning_content") or received.get("reasoning")  # where the engine separates them
    delta |= answer.feed(received.get("content") or "", last=last)
    if thought:
        delta["reasoning_content"] = thought
    if "role" in delta:
        delta.setdefault("content", "")
    return delta


async def join_chunks(chunks: AsyncIterator[Chunk]) -> dict[str, Any]:
    """The chat.completion that OpenAI's chunks make together."""
    choices: dict[int, dict[str, Any]] = {}
    answer: dict[str, Any] = {}
    async for chunk in chunks:
        answer = {**chunk, "object": "chat.completion"}
        for part in chunk["choices"]:
            message = {"role": "assistant", "content": None, "refusal": None}
            empty = {"index": part["index"], "message": message, "logprobs": None, "finish_reason": None}
            choice = choices.setdefault(part["index"], empty)
            _extend(choice["message"], part["delta"])
            choice["finish_reason"] = part["finish_reason"] or choice["finish_reason"]
            if part["logprobs"]:
                logprobs = choice["logprobs"] or {"content": [], "refusal": None}
                content = logprobs["content"] + (part["logprobs"].get("content") or [])
                choice["logprobs"] = {**logprobs, "content": content}
    return {**answer, "choices": [choices[at] for at in sorted(choices)]}


def _extend(message: dict[str, Any], delta: Delta) -> None:
    """Add a delta to the message."""
    if "content" in delta:
        message["content"] = (message.get("content") or "") + delta["content"]
    if "reasoning_content" in delta:
        message["reasoning_content"] = (message.get("reasoning_content") or "") + delta["reasoning_content"]
    for call in delta.get("tool_calls", ()):
        calls = message.setdefault("tool_calls", [])
        while len(calls) <= call["index"]:
            calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
        joined = calls[call["index"]]
        joined["id"] = call.get("id") or joined["id"]
        for name in ("name", "arguments"):
            joined["function"][name] += call.get("function", {}).get(name) or ""


async def sse_events(chunks: AsyncIterator[Chunk], *, usage: bool) -> AsyncIterator[str]:
    """OpenAI's chunks as server-sent events. `usage`: send it in the last chunk, and null in those before."""
    try:
        async for chunk in chunks:
            if chunk["choices"]:
                yield _event({**chunk, "usage": None} if usage else chunk)
            elif usage:
                yield _event(chunk)
        yield "data: [DONE]\n\n"
    except ApiError as error:
        yield _event(error.body())


def _event(content: Any) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
