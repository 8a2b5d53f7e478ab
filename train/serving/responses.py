"""POST /v1/responses: a thin translation onto chat, so the same request gives the same tokens; GET and DELETE.

The events, in the order in which OpenAI sends them: response.created, response.in_progress; for each item
output_item.added, content_part.added, its deltas, its done, content_part.done, output_item.done; then
response.completed, response.incomplete or response.failed. (developers.openai.com, "Streaming events")
"""

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Annotated, Any, Literal, cast
from uuid import uuid4

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from train.chats.rows import Message
from train.serving.answering import Answering, EventStream, finish, read_body
from train.serving.api_errors import ApiError, errors_renamed, read_request
from train.serving.chat_request import ChatRequest
from train.serving.response_request import FIELDS_OF_CHAT, ResponseRequest, answer_message, input_items
from train.serving.response_store import ResponseStore
from train.serving.stream import Chunk, Delta

Item = dict[str, Any]
TEXT_PARTS = {"message": "output_text", "reasoning": "reasoning_text"}
"""Kind of an item → the type of its part."""


def add_response_routes(routes: APIRouter, answering: Answering, store: ResponseStore) -> None:
    """Add the routes of responses: create, count, retrieve, list input items, delete."""

    def conversation(request: ResponseRequest) -> tuple[list[dict[str, Any]], ChatRequest]:
        """(the messages so far without the instructions, the chat request); reads the store."""
        earlier: list[Any] = []
        if request.previous_response_id is not None:
            previous = store.find(request.previous_response_id)
            if previous is None:
                text = f"Previous response with id '{request.previous_response_id}' not found."
                raise ApiError(400, text, param="previous_response_id", code="previous_response_not_found")
            earlier = list(previous.messages)
        messages = [*earlier, *request.messages(lambda id_: _stored_item(store, id_))]
        try:
            return messages, request.chat_request(messages)
        except ValidationError as error:
            text = error.errors()[0]["msg"]
            raise ApiError(400, f"Invalid 'input': {text[0].lower()}{text[1:]}.", param="input") from None

    @routes.post("/v1/responses")
    async def create(http: Request) -> Response:
        request = await asyncio.to_thread(read_request, ResponseRequest, await read_body(http))
        messages, chat = await asyncio.to_thread(conversation, request)
        with errors_renamed(FIELDS_OF_CHAT):
            served = await answering.find(http, request.model)
            answer = await answering.begin(http, served, chat)
        writer = ResponseWriter(request, served.name)

        async def whole() -> Response:
            async for chunk in answer.chunks:
                writer.feed(chunk)
            writer.end()
            await keep()
            return JSONResponse(writer.response)

        async def keep() -> None:
            if request.store:
                ended = cast("list[Message]", [*messages, *answer_message(writer.response["output"])])
                await asyncio.to_thread(store.add, writer.response, ended)

        async def events() -> AsyncIterator[str]:
            try:
                yield writer.start()
                async for chunk in answer.chunks:
                    yield writer.feed(chunk)
                last = writer.end()
                await keep()
                yield last
            except ApiError as error:
                yield writer.fail(str(error))
            except sqlite3.Error:
                yield writer.fail("The server could not store the response; `store: false` does without.")

        return EventStream(events(), answer.upstream) if request.stream else await finish(http, answer, whole())

    @routes.post("/v1/responses/input_tokens")
    async def count(http: Request) -> Any:
        request = await asyncio.to_thread(read_request, ResponseRequest, await read_body(http))
        _, chat = await asyncio.to_thread(conversation, request)
        with errors_renamed(FIELDS_OF_CHAT):
            return await answering.count(http, chat)

    @routes.get("/v1/responses/{response_id}")
    async def retrieve(response_id: str, http: Request) -> Response:
        if http.query_params.get("stream") not in (None, "false"):
            raise ApiError(400, "A stored response cannot be streamed again: leave out 'stream'.", param="stream")
        stored = await asyncio.to_thread(store.find, response_id)
        if stored is None:
            raise _no_response(response_id)
        return Response(stored.object.encode(), media_type="application/json")

    @routes.get("/v1/responses/{response_id}/input_items")
    async def list_input_items(
        response_id: str,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
        after: Annotated[str | None, Query(max_length=128)] = None,
    ) -> Any:
        stored = await asyncio.to_thread(store.find, response_id)
        if stored is None:
            raise _no_response(response_id)
        items = input_items(json.loads(stored.object), stored.messages)[:: 1 if order == "asc" else -1]
        ids = [item["id"] for item in items]
        if after is not None and after not in ids:
            raise ApiError(400, f"No item with the id '{after}' in this list: 'after'.", param="after")
        start = 0 if after is None else ids.index(after) + 1
        page = items[start : start + limit]
        first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
        more = start + limit < len(items)
        return {"object": "list", "data": page, "first_id": first, "last_id": last, "has_more": more}

    @routes.delete("/v1/responses/{response_id}")
    async def delete(response_id: str) -> Any:
        if not await asyncio.to_thread(store.delete, response_id):
            raise _no_response(response_id)
        return {"id": response_id, "object": "response", "deleted": True}


def _no_response(id_: str) -> ApiError:
    return ApiError(404, f"Response with id '{id_}' not found.", param="response_id")


def _stored_item(store: ResponseStore, id_: str) -> Item:
    """An item of a stored response, by its id, which holds that of the response; ApiError where it is not here."""
    stored = store.find(f"resp_{id_.partition('_')[2].partition('_')[0]}")
    if stored is not None:
        response = json.loads(stored.object)
        for item in (*response["output"], *input_items(response, stored.messages)):
            if item["id"] == id_:
                return cast(Item, item)
    text = f"Item with id '{id_}' not found. Items are not persisted when `store` is set to false."
    raise ApiError(404, text, param="input")


class ResponseWriter:
    """Makes a response out of a chat's chunks; each method returns what it adds to the stream of events."""

    def __init__(self, request: ResponseRequest, model: str) -> None:
        self._key = uuid4().hex
        self._created = time.time()
        self._sequence = 0
        self._open: Item | None = None
        self._finish_reason: str | None = None
        self.response: dict[str, Any] = {
            "id": f"resp_{self._key}", "object": "response", "created_at": int(self._created), "status": "in_progress",
            "completed_at": None, "background": False, "error": None, "incomplete_details": None,
            "instructions": request.instructions, "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {}, "model": model, "output": [], "parallel_tool_calls": True,
            "previous_response_id": request.previous_response_id, "reasoning": {"effort": None, "summary": None},
            "service_tier": "default", "store": request.store, "temperature": request.temperature,
            "text": {"format": (request.text or {}).get("format") or {"type": "text"}},
            "tool_choice": request.tool_choice or "auto", "tools": request.tools or [], "top_p": request.top_p,
            "truncation": "disabled", "usage": None, "user": None,
        }  # fmt: skip

    def start(self) -> str:
        """The events before the answer."""
        return self._state("created") + self._state("in_progress")

    def feed(self, chunk: Chunk) -> str:
        """Take in a chunk of the chat."""
        if usage := chunk.get("usage"):
            self.response["usage"] = _usage(usage)
        events = ""
        for choice in chunk["choices"]:
            self._finish_reason = choice["finish_reason"] or self._finish_reason
            events += "".join(self._delta(choice["delta"]))
        return events

    def end(self) -> str:
        """The last events; the response is whole then."""
        events = "" if self.response["output"] else "".join(self._opened("message"))
        cut = self._finish_reason == "length"
        events += "".join(self._closed("incomplete" if cut else "completed"))
        self.response["status"] = "incomplete" if cut else "completed"
        self.response["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
        self.response["completed_at"] = None if cut else int(time.time())
        return events + self._state(self.response["status"])

    def fail(self, message: str) -> str:
        """The last event of an answer that breaks off."""
        self.response |= {"status": "failed", "error": {"code": "server_error", "message": message}}
        return self._state("failed")

    def _delta(self, delta: Delta) -> Iterator[str]:
        for kind, text in (("reasoning", delta.get("reasoning_content")), ("message", delta.get("content"))):
            if text:
                if self._open is None or self._open["type"] != kind:
                    yield from self._opened(kind)
                assert self._open is not None
                self._open["content"][0]["text"] += text
                yield self._of_part(f"{TEXT_PARTS[kind]}.delta", delta=text)
        for call in delta.get("tool_calls", ()):
            yield from self._call(call)

    def _call(self, call: Mapping[str, Any]) -> Iterator[str]:
        function = call.get("function", {})
        if self._open is None or self._open["type"] != "function_call" or call.get("id", self._open["call_id"]) not in (
            None, self._open["call_id"],
        ):  # fmt: skip
            more = {"call_id": call.get("id") or f"call_{uuid4().hex}", "name": "", "arguments": ""}
            yield from self._opened("function_call", name=function.get("name") or "", more=more)
        assert self._open is not None
        if arguments := function.get("arguments"):
            self._open["arguments"] += arguments
            yield self._of_item("function_call_arguments.delta", delta=arguments)

    def _opened(self, kind: str, *, name: str = "", more: Mapping[str, Any] | None = None) -> Iterator[str]:
        """Close the item that is open, and open one of this kind."""
        yield from self._closed("completed")
        output = self.response["output"]
        prefix = {"message": "msg", "reasoning": "rs", "function_call": "fc"}[kind]
        item: Item = {"id": f"{prefix}_{self._key}_{len(output)}", "type": kind, "status": "in_progress"}
        if kind == "function_call":
            item |= {**(more or {}), "name": name}
        else:
            item |= {"role": "assistant", "content": []} if kind == "message" else {"summary": [], "content": []}
        self._open = item
        output.append(item)
        yield self._of_output("added")
        if kind in TEXT_PARTS:
            part = {"type": TEXT_PARTS[kind], "text": ""}
            item["content"].append(part | ({"annotations": [], "logprobs": []} if kind == "message" else {}))
            yield self._of_part("content_part.added", part=item["content"][0])

    def _closed(self, status: str) -> Iterator[str]:
        item = self._open
        if item is None:
            return
        item["status"] = status
        if item["type"] in TEXT_PARTS:
            part = item["content"][0]
            yield self._of_part(f"{part['type']}.done", text=part["text"])
            yield self._of_part("content_part.done", part=part)
        else:
            yield self._of_item("function_call_arguments.done", arguments=item["arguments"], name=item["name"])
        yield self._of_output("done")
        self._open = None

    def _state(self, state: str) -> str:
        return self._event(state, response=self.response)

    def _of_output(self, what: str) -> str:
        return self._event(f"output_item.{what}", output_index=len(self.response["output"]) - 1, item=self._open)

    def _of_item(self, event: str, /, **fields: Any) -> str:
        assert self._open is not None
        at = len(self.response["output"]) - 1
        return self._event(event, item_id=self._open["id"], output_index=at, **fields)

    def _of_part(self, name: str, **fields: Any) -> str:
        if name.startswith("output_text."):
            fields["logprobs"] = []
        return self._of_item(name, content_index=0, **fields)

    def _event(self, name: str, /, **fields: Any) -> str:
        event = {"type": f"response.{name}", "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """A chat's usage in the names of responses; an engine that counts no thoughts or cached tokens has none."""
    prompt, answer = (usage.get(f"{kind}_tokens_details") or {} for kind in ("prompt", "completion"))
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": prompt.get("cached_tokens") or 0, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": answer.get("reasoning_tokens") or 0},
        "total_tokens": usage["total_tokens"],
    }
