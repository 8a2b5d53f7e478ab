"""An engine's stream of chunks → OpenAI's: the public name, thoughts apart, stop sequences cut, usage where asked."""

import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx2

from train.serving.api_errors import ApiError, not_ready

Chunk = dict[str, Any]
OPEN, CLOSE = "<think>", "</think>"
FAILED = "The engine failed while it answered."


async def open_stream(client: httpx2.AsyncClient, url: str, key: str, body: Chunk) -> httpx2.Response:
    """The engine's response once it has agreed to answer; ApiError where it has not."""
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


async def read_chunks(response: httpx2.Response) -> AsyncIterator[Chunk]:
    """The chunks of a stream; ApiError where the engine breaks off."""
    try:
        async for event in httpx2.EventSource(response):
            if event.data == "[DONE]":
                return
            chunk = json.loads(event.data)
            if "error" in chunk:
                raise ApiError(500, FAILED)
            yield chunk
    except (httpx2.HTTPError, ValueError):
        raise ApiError(500, FAILED) from None


@dataclass
class Speech:
    """The text of one answer as it comes in: what is thought, what is said, where a stop sequence ends it."""

    stops: Sequence[str]
    thinking: bool | None = None
    """None: not yet known. The prompt may have opened the thought already."""
    stopped: bool = False
    _pending: str = ""
    _begun: bool = False
    """Whether something but white space has come since the last mark."""

    def feed(self, text: str, *, last: bool = False) -> dict[str, str]:
        """What is now certain, as a delta's `reasoning_content` and `content`."""
        self._pending += text
        delta = {}
        if self.thinking is None:
            head = self._pending.lstrip()
            if head.startswith(OPEN):
                self.thinking, self._pending = True, head.removeprefix(OPEN)
            elif last or not OPEN.startswith(head):
                self.thinking, self._begun = False, True
        if self.thinking:
            self._pending, closed, rest = self._pending.partition(CLOSE)
            delta["reasoning_content"] = self._take((CLOSE,), last=last or bool(closed))
            if closed:
                self.thinking, self._begun, self._pending = False, False, rest
        if self.thinking is False and not self.stopped:
            cuts = [at for stop in self.stops if (at := self._pending.find(stop)) >= 0]
            if cuts:
                self._pending, self.stopped = self._pending[: min(cuts)], True
            delta["content"] = self._take(self.stops, last=last or self.stopped)
        return {name: text for name, text in delta.items() if text}

    def _take(self, marks: Sequence[str], *, last: bool) -> str:
        """What has come, less an end that may grow into one of the marks."""
        if not self._begun:
            self._pending = self._pending.lstrip()
        growing = (n for mark in marks for n in range(1, len(mark)) if self._pending.endswith(mark[:n]))
        end = len(self._pending) - (0 if last else max(growing, default=0))
        taken, self._pending = self._pending[:end], self._pending[end:]
        self._begun = self._begun or bool(taken)
        return taken


async def as_openai(
    chunks: AsyncIterator[Chunk], model: str, *, stops: Sequence[str], thinking: bool | None
) -> AsyncIterator[Chunk]:
    """The chunks as OpenAI has them, the last with the usage and no choices; ApiError where the engine breaks off.

    `stops`: what the engine leaves in the answer. `thinking`: see `Speech`.
    """
    frame = {"id": f"chatcmpl-{uuid4().hex}", "object": "chat.completion.chunk", "created": int(time.time())}
    frame["model"] = model
    speeches: dict[int, Speech] = {}
    finished: set[int] = set()
    usage = None
    async for chunk in chunks:
        usage = chunk.get("usage") or usage
        choices = []
        for choice in chunk["choices"]:
            at, reason, given = choice["index"], choice.get("finish_reason"), choice["delta"]
            speech = speeches.setdefault(at, Speech(stops, thinking))
            delta: Chunk = {name: given[name] for name in ("role", "tool_calls") if given.get(name)}
            thought = given.get("reasoning_content") or given.get("reasoning")  # where the engine tells them apart
            delta |= speech.feed(given.get("content") or "", last=reason is not None)
            delta |= {"reasoning_content": thought} if thought else {}
            if "role" in delta:
                delta.setdefault("content", "")
            if reason is not None:
                finished.add(at)
                reason = "stop" if speech.stopped else reason
            if delta or reason:
                choices.append(
                    {"index": at, "delta": delta, "logprobs": choice.get("logprobs"), "finish_reason": reason}
                )
        if choices:
            yield {**frame, "choices": choices}
    if finished != set(speeches) or not finished:
        raise ApiError(500, FAILED)
    yield {**frame, "choices": [], "usage": usage}


async def whole(chunks: AsyncIterator[Chunk]) -> Chunk:
    """One answer of OpenAI's chunks."""
    choices: dict[int, Chunk] = {}
    answer: Chunk = {}
    async for chunk in chunks:
        answer = {**chunk, "object": "chat.completion"}
        for part in chunk["choices"]:
            message: Chunk = {"role": "assistant", "content": None, "refusal": None}
            empty = {"index": part["index"], "message": message, "logprobs": None, "finish_reason": None}
            choice = choices.setdefault(part["index"], empty)
            _extend(choice["message"], part["delta"])
            choice["finish_reason"] = part["finish_reason"] or choice["finish_reason"]
            if part["logprobs"]:
                known = choice["logprobs"] or {"content": [], "refusal": None}
                choice["logprobs"] = {**known, "content": known["content"] + (part["logprobs"].get("content") or [])}
    return {**answer, "choices": [choices[at] for at in sorted(choices)]}


def _extend(message: Chunk, delta: Chunk) -> None:
    for name in ("content", "reasoning_content"):
        if name in delta:
            message[name] = (message.get(name) or "") + delta[name]
    for call in delta.get("tool_calls", ()):
        calls = message.setdefault("tool_calls", [])
        while len(calls) <= call["index"]:
            calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
        known = calls[call["index"]]
        known["id"] = call.get("id") or known["id"]
        for name in ("name", "arguments"):
            known["function"][name] += call.get("function", {}).get(name) or ""


async def as_events(chunks: AsyncIterator[Chunk], *, usage: bool) -> AsyncIterator[str]:
    """OpenAI's chunks as server-sent events. `usage`: send it before the end, and null until then."""
    try:
        async for chunk in chunks:
            if chunk["choices"]:
                yield _event({**chunk, "usage": None} if usage else chunk)
            elif usage:
                yield _event(chunk)
        yield "data: [DONE]\n\n"
    except ApiError as error:
        yield _event(error.body())


def _event(tree: Chunk) -> str:
    return f"data: {json.dumps(tree, ensure_ascii=False)}\n\n"
