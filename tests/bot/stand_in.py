"""A stand-in for Telegram's Bot API, a server on loopback that keeps state, and a light model behind OpenAI's API."""

import asyncio
import json
import socket
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

TOKEN = "1234567890:AAHd0-this_is_the_token_of_a_test1"
ME = {"id": 1234567890, "is_bot": True, "first_name": "Наташа", "username": "natasha_bot"}
CONTEXT, ANSWER = 400, 60
"""Tokens that the light model reads, and that an answer may have."""


@dataclass
class Shown:
    """A message of the bot's."""

    id: int
    chat: int
    text: str
    keyboard: Any
    reply_to: int | None
    edits: int = 0


@dataclass
class Telegram:
    """What the Bot API remembers. Its methods may be called from the test's thread."""

    pending: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Updates that were not acknowledged yet."""
    shown: dict[int, list[Shown]] = field(default_factory=lambda: defaultdict(list))
    """The bot's messages by chat, in the order in which they were sent."""
    toasts: list[str | None] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    refusals: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    """(status, body) with which the next sends and edits are answered, the last first."""
    refused: set[str] = field(default_factory=set)
    """Methods that are refused each time."""
    unknown: dict[str, Any] = field(default_factory=dict)
    """What the bot's messages have when they are sent, of a newer Bot API."""
    acknowledged: int = 0
    closing: bool = False
    on_acknowledge: Any = None
    """Called with the ids that a poll acknowledges."""
    _ids: int = 1000
    _update: int = 500_000

    def write(self, user: int, text: str | None, *, chat: int | None = None, language: str = "ru", **more: Any) -> int:
        """A user writes to the bot, or in a group; the update's id."""
        self._ids += 1
        where = {"id": chat or user, "type": "private" if chat is None else "supergroup"}
        sender = {"id": user, "is_bot": False, "first_name": f"U{user}", "language_code": language}
        message = {"message_id": self._ids, "date": int(time.time()), "chat": where, "from": sender, **more}
        return self._deliver("message", message | ({"text": text} if text is not None else {}))

    def press(self, user: int, shown: Shown, button: str) -> int:
        """A user presses the button of a message whose label this is."""
        keys = [key for row in shown.keyboard["inline_keyboard"] for key in row]
        data = next(key["callback_data"] for key in keys if key["text"] == button)
        sender = {"id": user, "is_bot": False, "first_name": f"U{user}", "language_code": "ru"}
        chat = {"id": shown.chat, "type": "private" if shown.chat > 0 else "supergroup"}
        message = {"message_id": shown.id, "date": int(time.time()), "chat": chat, "from": ME, "text": shown.text}
        query = {"id": str(self._update), "from": sender, "chat_instance": "1", "data": data, "message": message}
        return self._deliver("callback_query", query)

    def _deliver(self, kind: str, content: dict[str, Any]) -> int:
        self._update += 1
        self.pending[self._update] = {"update_id": self._update, kind: content}
        return self._update

    def wait(self, done, seconds: float = 600) -> None:
        """Wait until something is so."""
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, f"not within {seconds} s; {len(self.pending)} updates wait"
            time.sleep(0.05)

    def settle(self, seconds: float = 600) -> None:
        """Wait until every update is acknowledged."""
        self.wait(lambda: not self.pending, seconds)

    def texts(self, chat: int) -> list[str]:
        return [message.text for message in self.shown[chat]]

    async def answer(self, method: str, form: dict[str, Any]) -> tuple[int, Any]:
        """(status, result) of a method."""
        self.calls[method] += 1
        if method.lower() in ("sendmessage", "editmessagetext") and self.refusals:
            return self.refusals.pop()
        if method in self.refused:
            return 403, {"description": "Forbidden: bot was blocked by the user тайна"}
        match method.lower():
            case "getme":
                return 200, ME
            case "getupdates":
                return 200, await self._updates(form)
            case "sendmessage":
                if not form["text"].strip() or len(form["text"].encode("utf-16-le")) > 8192:
                    return 400, {"description": "Bad Request: message is too long"}
                self._ids += 1
                reply = json.loads(form["reply_parameters"])["message_id"] if "reply_parameters" in form else None
                keyboard = json.loads(form["reply_markup"]) if "reply_markup" in form else None
                sent = Shown(self._ids, int(form["chat_id"]), form["text"], keyboard, reply)
                self.shown[sent.chat].append(sent)
                return 200, self._message(sent) | self.unknown
            case "editmessagetext":
                found = [one for one in self.shown[int(form["chat_id"])] if one.id == int(form["message_id"])]
                if not found:
                    return 400, {"description": "Bad Request: message to edit not found"}
                keyboard = json.loads(form["reply_markup"]) if "reply_markup" in form else None
                if (found[0].text, found[0].keyboard) == (form["text"], keyboard):
                    return 400, {"description": "Bad Request: message is not modified"}
                found[0].text, found[0].keyboard, found[0].edits = form["text"], keyboard, found[0].edits + 1
                return 200, self._message(found[0])
            case "deletemessage":
                chat = int(form["chat_id"])
                self.shown[chat] = [one for one in self.shown[chat] if one.id != int(form["message_id"])]
            case "answercallbackquery":
                self.toasts.append(form.get("text"))
        return 200, True

    async def _updates(self, form: dict[str, Any]) -> list[dict[str, Any]]:
        offset, end = int(form.get("offset", 0)), time.monotonic() + float(form.get("timeout", 0))
        gone = [id_ for id_ in self.pending if id_ < offset]
        if gone and self.on_acknowledge:
            self.on_acknowledge(gone)
        for id_ in gone:
            del self.pending[id_]
        self.acknowledged += len(gone)
        while not (self.pending or self.closing) and time.monotonic() < end:
            await asyncio.sleep(0.05)
        return [self.pending[id_] for id_ in sorted(self.pending)[: int(form.get("limit", 100))]]

    def _message(self, sent: Shown) -> dict[str, Any]:
        chat = {"id": sent.chat, "type": "private" if sent.chat > 0 else "supergroup"}
        return {"message_id": sent.id, "date": int(time.time()), "chat": chat, "from": ME, "text": sent.text}


@dataclass
class Model:
    """A model that answers by rule, counts words as tokens and remembers its prompts."""

    prompts: list[list[dict[str, str]]] = field(default_factory=list)
    slow: Any = lambda question: 0.0
    """Seconds that the answer to a question takes."""
    answers: Any = lambda question, temperature: f"{question}: вот ответ" + (" другой" if temperature else "")
    fails: int = 0
    """How many questions are to be refused yet."""

    @staticmethod
    def count(messages: list[dict[str, str]]) -> int:
        """Tokens of a prompt: its words, and four for each message."""
        return 3 + sum(4 + len(message["content"].split()) for message in messages)

    async def stream(self, body: dict[str, Any]):
        question = body["messages"][-1]["content"]
        words = self.answers(question, body.get("temperature")).split(" ")
        pause = self.slow(question) / len(words)
        for at, word in enumerate(words):
            if pause:
                await asyncio.sleep(pause)
            delta = {"content": word + " " * (at + 1 < len(words))}
            choice = {"index": 0, "delta": delta, "finish_reason": None, "logprobs": None}
            chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
            yield f"data: {json.dumps(chunk)}\n\n"
        yield "data: [DONE]\n\n"


class StandIn:
    """Both on one port, in a thread."""

    def __init__(self) -> None:
        self.telegram, self.model = Telegram(), Model()
        self.log: list[str] = []
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(self._app(), log_level="error", access_log=False, timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = self.telegram.closing = True
        self._thread.join(10)

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/bot{token}/{method}")
        async def bot_api(token: str, method: str, request: Request) -> JSONResponse:
            if token != TOKEN:
                return JSONResponse({"ok": False, "error_code": 401, "description": "Unauthorized"}, 401)
            status, result = await self.telegram.answer(method, dict(await request.form()))
            if status == 200:
                return JSONResponse({"ok": True, "result": result})
            return JSONResponse({"ok": False, "error_code": status, **result}, status)

        @app.get("/v1/models")
        async def models() -> Any:
            metadata = {"system_message": "Ты Наташа."}
            one = {"id": "natasha", "object": "model", "created": 1, "owned_by": "govor", "metadata": metadata}
            return {"object": "list", "data": [one]}

        @app.post("/v1/responses/input_tokens")
        async def count(request: Request) -> Any:
            tokens = self.model.count((await request.json())["input"])
            limits = {"context_length": CONTEXT, "max_output_tokens": ANSWER}
            return {"object": "response.input_tokens", "input_tokens": tokens, **limits}

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Any:
            body = await request.json()
            if self.model.fails:
                self.model.fails -= 1
                return JSONResponse({"error": {"message": f"нет: {body['messages'][-1]['content']}"}}, 400)
            self.model.prompts.append(body["messages"])
            return StreamingResponse(self.model.stream(body), media_type="text/event-stream")

        return app
