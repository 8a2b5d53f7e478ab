"""Chat with models behind OpenAI APIs that the studio was given, and what a person says of their answers.

feedback.jsonl holds rows in OpenAI's form for preference tuning, `{"input": {"messages": […]}, "preferred_output":
[…], "non_preferred_output": […]}`, where both answers are known, and `{"messages": […], "liked": true or false}` for a
thumb alone.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx2
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from train.core.files import append_line
from train.serving.api_errors import ApiError, read_request
from train.studio.routing import StudioRoute, require_json

FEEDBACK = "feedback.jsonl"
TIMEOUT = httpx2.Timeout(None, connect=10)  # an answer may take any time
Text = Annotated[str, Field(max_length=200_000)]


class Turn(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: Text


class Asked(BaseModel):
    """What a model is asked."""

    model_config = ConfigDict(extra="forbid")
    server: str
    model: str
    messages: list[Turn] = Field(min_length=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)


class Feedback(BaseModel):
    """What was said of an answer: better than another one, or a thumb."""

    model_config = ConfigDict(extra="forbid")
    messages: list[Turn] = Field(min_length=1)
    """The conversation before the answer."""
    answer: Text
    """The one that is liked or not; beside `worse` the better one."""
    worse: Text | None = None
    liked: bool = True


def feedback_row(said: Feedback) -> dict[str, Any]:
    """The row of feedback.jsonl."""
    before = [turn.model_dump() for turn in said.messages]
    answer = {"role": "assistant", "content": said.answer}
    if said.worse is None:
        return {"messages": [*before, answer], "liked": said.liked}
    worse = {"role": "assistant", "content": said.worse}
    return {"input": {"messages": before}, "preferred_output": [answer], "non_preferred_output": [worse]}


def feedback_file(folder: Path) -> Path:
    """Where a project's feedback is kept: data/feedback.jsonl, or in the folder itself where it has no data/."""
    return (folder / "data" if (folder / "data").is_dir() else folder) / FEEDBACK


def chat_routes(folder: Path, servers: Sequence[str], key: str | None) -> APIRouter:
    """Models of the servers, answers as they are written, feedback. `folder`: the project that keeps feedback."""
    routes = APIRouter(prefix="/studio/chat", route_class=StudioRoute, include_in_schema=False)
    known = {_base(url): url for url in servers}
    headers = {"authorization": f"Bearer {key or 'none'}"}

    @routes.get("/models")
    async def models() -> Any:
        async with httpx2.AsyncClient(trust_env=False, timeout=5) as client:
            return {"servers": await asyncio.gather(*(_models(client, base, headers) for base in known))}

    @routes.post("/answer")
    async def answer(request: Request) -> Response:
        require_json(request)
        asked = read_request(Asked, await request.body())
        base = _base(asked.server)
        if base not in known:
            given = ", ".join(known.values()) or "none"
            raise ApiError(403, f"{asked.server}: not a server that the studio was given (--server URL): {given}")
        body = {**asked.model_dump(exclude={"server"}, exclude_none=True), "stream": True}
        client = httpx2.AsyncClient(trust_env=False, timeout=TIMEOUT)
        try:
            upstream = await client.send(
                client.build_request("POST", f"{base}/chat/completions", json=body, headers=headers), stream=True
            )
            if upstream.status_code != 200:
                raise ApiError(502, f"{asked.server}: {_message(await upstream.aread(), upstream.status_code)}")
        except (httpx2.HTTPError, ApiError) as error:
            await client.aclose()
            if isinstance(error, ApiError):
                raise
            raise ApiError(502, f"{asked.server}: cannot be reached: {error}") from None
        return StreamingResponse(_passed_on(client, upstream), media_type="text/event-stream")

    @routes.post("/feedback")
    async def feedback(request: Request) -> Any:
        require_json(request)
        row = feedback_row(read_request(Feedback, await request.body()))
        path = feedback_file(folder)
        await asyncio.to_thread(append_line, path, json.dumps(row, ensure_ascii=False))
        return {"file": str(path)}

    return routes


def _base(url: str) -> str:
    base = url.rstrip("/")
    return base if base.endswith("/v1") else f"{base}/v1"


async def _models(client: httpx2.AsyncClient, base: str, headers: dict[str, str]) -> dict[str, Any]:
    """{"server", "models": [{"id", "system"}, …], "problem"}."""
    try:
        response = await client.get(f"{base}/models", headers=headers)
        response.raise_for_status()
        listed = [
            {"id": str(model["id"]), "system": (model.get("metadata") or {}).get("system_message")}
            for model in response.json()["data"]
        ]
    except (httpx2.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {"server": base, "models": [], "problem": f"{base}: {error or 'no answer'}"}
    return {"server": base, "models": listed, "problem": None}


async def _passed_on(client: httpx2.AsyncClient, upstream: httpx2.Response) -> AsyncIterator[bytes]:
    """The server's events as they come; when the page leaves, the model stops."""
    try:
        async for piece in upstream.aiter_bytes():
            yield piece
    except httpx2.HTTPError as error:
        message = json.dumps({"error": {"message": f"the answer broke off: {error}"}})
        yield f"\n\ndata: {message}\n\n".encode()
    finally:
        await upstream.aclose()
        await client.aclose()


def _message(body: bytes, status: int) -> str:
    """What a server says is wrong."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"answered {status}"
