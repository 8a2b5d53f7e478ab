"""POST /v1/completions, put to the model as a chat: every model here has learned turns, not bare text.

The prompt is what the user says. The answer's `metadata` says so.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BeforeValidator, Field

from train.serving.answering import Answering, EventStream, finish, read_body
from train.serving.api_errors import ApiError, errors_renamed, read_request
from train.serving.chat_request import AnswerRequest, ChatRequest, MaxTokens, StreamOptions, Text
from train.serving.stream import Chunk, join_chunks

MOST_PROMPTS = 32
TRANSLATED = {"translated_to": "chat", "prompt_is": "the user's message"}
"""The answer's `metadata`."""


def _prompts(value: Any) -> Any:
    if isinstance(value, list) and any(isinstance(one, int | list) for one in value):
        raise ValueError("this server takes text, no token ids")
    return [value] if isinstance(value, str) else value


def _unsupported(value: Any) -> Any:
    if value not in (False, ""):
        raise ValueError("this server cannot do that, since it puts the prompt to the model as a chat")
    return value


Unsupported = Annotated[Any, AfterValidator(_unsupported)]


class CompletionRequest(AnswerRequest):
    """POST /v1/completions."""

    prompt: Annotated[list[Text], BeforeValidator(_prompts), Field(min_length=1, max_length=MOST_PROMPTS)]
    max_tokens: MaxTokens | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    best_of: Literal[1] | None = None
    echo: Unsupported = None
    logprobs: Unsupported = None
    suffix: Unsupported = None

    def chat_requests(self) -> list[ChatRequest]:
        """A request for each prompt."""
        shared = self.sampling_fields() | {"n": self.n, "max_tokens": self.max_tokens}
        return [
            ChatRequest.model_validate({**shared, "messages": [{"role": "user", "content": prompt}]})
            for prompt in self.prompt
        ]


def add_completion_route(routes: APIRouter, answering: Answering) -> None:
    """Add the route POST /v1/completions."""

    @routes.post("/v1/completions")
    async def complete(http: Request) -> Response:
        request = await asyncio.to_thread(read_request, CompletionRequest, await read_body(http))
        if request.stream and len(request.prompt) > 1:
            raise ApiError(400, "Several prompts cannot be streamed: send them apart.", param="stream")
        with errors_renamed({"messages": "prompt"}):
            served = await answering.find(http, request.model)
            answers = []
            for chat in request.chat_requests():
                answer = await answering.begin(http, served, chat)
                if request.stream:
                    usage = bool(request.stream_options and request.stream_options.include_usage)
                    return EventStream(_events(answer.chunks, usage=usage), answer.upstream)
                answers.append(await finish(http, answer, join_chunks(answer.chunks)))
        return JSONResponse(_joined(answers, request.n or 1))


def _joined(answers: Sequence[dict[str, Any]], n: int) -> dict[str, Any]:
    """The answers to the prompts, `n` to each, as one completion."""
    choices = [
        _choice(choice["message"].get("content") or "", at * n + choice["index"], choice["finish_reason"])
        for at, answer in enumerate(answers)
        for choice in answer["choices"]
    ]
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    usage = {name: sum(answer["usage"][name] for answer in answers) for name in counts}
    return {**_head(answers[0]["created"], answers[0]["model"]), "choices": choices, "usage": usage}


async def _events(chunks: AsyncIterator[Chunk], *, usage: bool) -> AsyncIterator[str]:
    """A chat's chunks as those of a completion. `usage`: send it in the last one."""
    head: dict[str, Any] = {}
    try:
        async for chunk in chunks:
            head = head or _head(chunk["created"], chunk["model"])
            choices = [_choice(c["delta"].get("content", ""), c["index"], c["finish_reason"]) for c in chunk["choices"]]
            choices = [choice for choice in choices if choice["text"] or choice["finish_reason"]]
            if choices or (usage and not chunk["choices"]):
                more = {"usage": None if chunk["choices"] else chunk.get("usage")} if usage else {}
                yield _event({**head, "choices": choices, **more})
        yield "data: [DONE]\n\n"
    except ApiError as error:
        yield _event(error.body())


def _head(created: int, model: str) -> dict[str, Any]:
    id_ = f"cmpl-{uuid4().hex}"
    return {"id": id_, "object": "text_completion", "created": created, "model": model, "metadata": TRANSLATED}


def _choice(text: str, index: int, finish_reason: str | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish_reason}


def _event(content: Any) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
