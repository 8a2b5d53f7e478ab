"""Chat requests in all the forms that clients send: read, or refused by the name of the field; never a 500."""

import asyncio
import json
import sys
import time
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from train.core.config import Generation
from train.core.errors import MachineError
from train.serving import routes
from train.serving.answering import MAX_BODY_BYTES
from train.serving.api_errors import ApiError, install_error_handlers, read_request
from train.serving.chat_request import ChatRequest, sampling_of
from train.serving.engine import Engine
from train.serving.guard import Access
from train.serving.response_store import ResponseStore
from train.serving.routes import chat_routes, make_app
from train.serving.serve import listen, run_app
from train.serving.stream import read_chunks
from train.serving.transformers_serve import TransformersServeApi, grammar_of
from train.serving.vllm import VllmApi

USER = {"role": "user", "content": "Кто я?"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
DEEP = json.loads('{"a":' * 40 + "1" + "}" * 40)
HALF = "\ud83d"


def a_message(**entries) -> dict:
    return {"messages": [USER, {**USER, **entries}]}


def an_answer(*calls) -> dict:
    return {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": list(calls)}]}


REFUSED = [
    # half an emoji wherever a text stands
    (a_message(content=f"Привет {HALF}"), "messages[1].content"),
    (a_message(content=[{"type": "text", "text": HALF}]), "messages[1].content"),
    (a_message(name=HALF), "messages[1].name"),
    (an_answer({**CALL, "id": HALF}), "messages[1].tool_calls[0]"),
    ({"stop": HALF}, "stop"),
    ({"stop": ["a", HALF]}, "stop"),
    ({"model": HALF}, "model"),
    ({"tools": [{"type": "function", "function": {"name": HALF}}]}, "tools"),
    ({"user": HALF}, "user"),
    ({"metadata": {HALF: "x"}}, "metadata"),
    ({HALF: 1}, ""),
    # wrong types
    (a_message(role=None), "messages[1].role"),
    (a_message(role=5), "messages[1].role"),
    (a_message(role=["user"]), "messages[1].role"),
    (a_message(role={"a": 1}), "messages[1].role"),
    (a_message(role="robot"), "messages[1].role"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    (a_message(content=5), "messages[1].content"),
    (a_message(content={"text": "x"}), "messages[1].content"),
    (a_message(content=True), "messages[1].content"),
    (a_message(content=None), "messages[1].content"),
    (a_message(content=[5]), "messages[1].content"),
    (a_message(content=[{"type": "text", "text": None}]), "messages[1].content"),
    (a_message(content=[{"type": "text", "text": ["x"]}]), "messages[1].content"),
    (a_message(content=[{"type": "image_url", "image_url": {"url": "x"}}]), "messages[1].content"),
    (a_message(name=5), "messages[1].name"),
    (a_message(tool_call_id=[]), "messages[1].tool_call_id"),
    (a_message(refusal=5), "messages[1].refusal"),
    ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": "f"}]}, "messages[1].tool_calls"),
    ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": {"a": 1}}]}, "messages[1].tool_calls"),
    (an_answer("f"), "messages[1].tool_calls[0]"),
    (an_answer(None), "messages[1].tool_calls[0]"),
    (an_answer({"function": None}), "messages[1].tool_calls[0]"),
    (an_answer({"function": ["f"]}), "messages[1].tool_calls[0]"),
    (an_answer({"function": {"name": None, "arguments": "{}"}}), "messages[1].tool_calls[0]"),
    (an_answer({"function": {"name": "f", "arguments": {"a": 1}}}), "messages[1].tool_calls[0]"),
    (an_answer({"function": {"name": "f", "arguments": "{"}}), "messages[1].tool_calls[0]"),
    (an_answer({"function": {"name": "f", "arguments": "[1]"}}), "messages[1].tool_calls[0]"),
    (an_answer({"function": {"name": "f", "arguments": "[" * 10_000}}), "messages[1].tool_calls[0]"),
    (an_answer(CALL, {**CALL, "id": 5}), "messages[1].tool_calls[1]"),
    (an_answer(CALL, {**CALL, "type": "code"}), "messages[1].tool_calls[1]"),
    (an_answer({**CALL, "more": DEEP}), "messages[1].tool_calls[0]"),
    ({"messages": ["Кто я?"]}, "messages"),
    ({"messages": {"0": USER}}, "messages"),
    ({"messages": None}, "messages"),
    ({"tools": {"a": 1}}, "tools"),
    ({"tools": ["f"]}, "tools"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"tools": [{"type": "function", "function": {"name": 5}}]}, "tools"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools"),
    ({"tools": [{"type": "code_interpreter"}]}, "tools"),
    ({"tool_choice": 5}, "tool_choice"),
    ({"tool_choice": "f"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": "f"}}, "tool_choice"),
    ({"tool_choice": []}, "tool_choice"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": ["text"]}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}}, "response_format"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": []}, "stream_options"),
    ({"stop": 5}, "stop"),
    ({"stop": [5]}, "stop"),
    ({"logit_bias": {"a": 1}}, "logit_bias.a"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"seed": 1.5}, "seed"),
    # numbers that are none, tiny or huge
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": float("inf")}, "temperature"),
    ({"temperature": 1e-300}, "temperature"),
    ({"temperature": 5e-324}, "temperature"),
    ({"temperature": 1e-7}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"repetition_penalty": 1e-300}, "repetition_penalty"),
    ({"repetition_penalty": 1e300}, "repetition_penalty"),
    ({"top_k": 2**31}, "top_k"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"seed": 2**63}, "seed"),
    ({"logit_bias": {"5": 1e300}}, "logit_bias.5"),
    ({"logit_bias": {"5": float("nan")}}, "logit_bias.5"),
    ({"metadata": {"a": float("inf")}}, "metadata.a"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"a": float("nan")}}}},
        "response_format.json_schema.schema.a",
    ),
]
BOUNDS = {
    "model": ("x" * 512, "x" * 513),
    "messages": ([USER] * 4096, [USER] * 4097),
    "stream": (True, None),
    "stream_options": ({"include_usage": True}, None),
    "max_tokens": (2**31 - 1, 2**31),
    "max_completion_tokens": (2**31 - 1, 2**31),
    "temperature": (2, 2.1),
    "top_p": (1, 1.1),
    "top_k": (2**31 - 1, 2**31),
    "min_p": (1, 1.1),
    "repetition_penalty": (100, 101),
    "frequency_penalty": (2, 2.1),
    "presence_penalty": (2, 2.1),
    "seed": (2**63 - 1, 2**63),
    "stop": (["x" * 64] * 4, ["x"] * 5),
    "n": (128, 129),
    "logprobs": (True, None),
    "top_logprobs": (20, 21),
    "logit_bias": ({str(n): 1 for n in range(4096)}, {str(n): 1 for n in range(4097)}),
    "modalities": (["text"], ["text"] * 2),
    "response_format": (
        {"type": "json_schema", "json_schema": {"schema": {"d": "x" * 60_000}}},
        {"type": "json_schema", "json_schema": {"schema": {"d": "x" * 70_000}}},
    ),
    "tools": ([TOOL] * 128, [TOOL] * 129),
    "tool_choice": ({"type": "function", "function": {"name": "x" * 4000}},
                    {"type": "function", "function": {"name": "x" * 4096}}),
    "chat_template_kwargs": ({"enable_thinking": "x" * 4000}, {"enable_thinking": "x" * 4096}),
    "min_tokens": (2**31 - 1, 2**31),
    "stop_token_ids": ([1] * 64, [1] * 65),
    "ignore_eos": (True, None),
    "skip_special_tokens": (False, None),
    "spaces_between_special_tokens": (False, None),
    "include_stop_str_in_output": (True, None),
    "include_reasoning": (False, None),
    "bad_words": (["x" * 64] * 128, ["x"] * 129),
    "allowed_token_ids": ([1] * 4096, [1] * 4097),
    "structured_outputs": ({"grammar": "x" * 65_000}, {"grammar": "x" * 2**16}),
    "guided_json": ({"a": "x" * 65_000}, {"a": "x" * 2**16}),
    "guided_regex": ("x" * 4096, "x" * 4097),
    "guided_choice": (["x" * 4096] * 128, ["x"] * 129),
    "guided_grammar": ("x" * 2**14, "x" * (2**14 + 1)),
    "guided_whitespace_pattern": ("x" * 4096, "x" * 4097),
    "priority": (2**31 - 1, 2**31),
    "cache_salt": ("x" * 256, "x" * 257),
    "vllm_xargs": ({"a": "x" * 4000}, {"a": "x" * 2**12}),
}  # fmt: skip
"""Field → what it may just be, and what is too much; None: it has no size."""
MORE_BOUNDS = [
    ({"stop": "x" * 64}, {"stop": "x" * 65}),
    ({"stop": ["x" * 64]}, {"stop": ["x", "x" * 65]}),
    ({"bad_words": ["x" * 64]}, {"bad_words": ["x", "x" * 65]}),
    ({"stop_token_ids": [2**31 - 1]}, {"stop_token_ids": [2**31]}),
    ({"stop_token_ids": [0]}, {"stop_token_ids": [-1]}),
    ({"allowed_token_ids": [0]}, {"allowed_token_ids": []}),
    ({"guided_choice": ["x"]}, {"guided_choice": []}),
    ({"chat_template_kwargs": {"enable_thinking": False}}, {"chat_template_kwargs": {"chat_template": "x"}}),
    (a_message(name="x" * 256), a_message(name="x" * 257)),
    (a_message(tool_call_id="x" * 256), a_message(tool_call_id="x" * 257)),
    (a_message(content="x" * 4 * 2**20), a_message(content="x" * (4 * 2**20 + 1))),
    (a_message(content=[{"text": "x"}] * 1024), a_message(content=[{"text": "x"}] * 1025)),
    (a_message(refusal="x" * 4 * 2**20), a_message(refusal="x" * (4 * 2**20 + 1))),
    (an_answer(*[CALL] * 128), an_answer(*[CALL] * 129)),
    ({"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 250_000}}]},
     {"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 270_000}}]}),
    ({"tools": [{**TOOL, "a": DEEP["a"]["a"]["a"]["a"]["a"]["a"]["a"]["a"]["a"]["a"]["a"]["a"]}]},
     {"tools": [{**TOOL, "a": DEEP}]}),
]  # fmt: skip


def body(entries: dict) -> bytes:
    return json.dumps({"model": "x", "messages": [USER]} | entries).encode()


@pytest.mark.parametrize(("entries", "param"), REFUSED)
def test_refused_by_the_field(entries, param):
    with pytest.raises(ApiError) as caught:
        read_request(ChatRequest, body(entries))
    assert (caught.value.status, caught.value.param) == (400, param), str(caught.value)
    assert "Value error" not in str(caught.value) and len(str(caught.value)) < 600
    json.dumps(caught.value.body(), ensure_ascii=False).encode()


def test_the_same_over_http():
    """As an answer with x-request-id, whether the model is there or not."""
    client = TestClient(make_app([], Access()), base_url="http://localhost")
    for entries, param in REFUSED:
        response = client.post("/v1/chat/completions", content=body(entries))
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)
        assert response.headers["x-request-id"]


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"model": "\xed\xa0\xbd"}', b"1" * 10_000,
                                 b'{"model": ' + b"[" * 900 + b"NaN" + b"]" * 900 + b"}"])  # fmt: skip
def test_what_is_no_json(raw):
    with pytest.raises(ApiError) as caught:
        read_request(ChatRequest, raw)
    assert caught.value.status == 400


def test_every_field_has_a_bound():
    assert set(BOUNDS) == set(ChatRequest.model_fields)
    pairs = [({name: most}, {name: beyond}) for name, (most, beyond) in BOUNDS.items() if beyond is not None]
    for most, beyond in [*pairs, *MORE_BOUNDS]:
        assert read_request(ChatRequest, body(most))
        with pytest.raises(ApiError) as caught:
            read_request(ChatRequest, body(beyond))
        assert caught.value.status == 400 and caught.value.param


def test_null_asks_for_nothing():
    """Clients write it for fields that they do not use, also for those that nobody here knows."""
    unknown = {"foo": None, "functions": None, "web_search_options": None}
    unused = dict.fromkeys(set(ChatRequest.model_fields) - {"model", "messages"})
    assert read_request(ChatRequest, body(unknown | unused)) == read_request(ChatRequest, body({}))
    for entries, param in (({"foo": 0}, "foo"), ({"foo": False}, "foo"), ({"model": None}, "model")):
        with pytest.raises(ApiError) as caught:
            read_request(ChatRequest, body(entries))
        assert (caught.value.status, caught.value.param) == (400, param)


def test_null_within_a_field_asks_for_nothing():
    function = {"name": "f", "description": None, "parameters": None, "strict": None}
    schema = {"name": "a", "schema": None, "strict": None}
    asked = {
        "stream_options": {"include_usage": None},
        "tools": [{"type": "function", "function": function}],
        "response_format": {"type": "json_schema", "json_schema": schema},
    }
    request = read_request(ChatRequest, body(asked))
    assert request.stream_options and request.stream_options.include_usage is False
    assert request.tools == [{"type": "function", "function": {"name": "f"}}]


VLLM_S_OWN = [
    ({"chat_template_kwargs": {"enable_thinking": False}}, {"chat_template_kwargs": {"enable_thinking": False}}),
    ({"min_tokens": 3}, {"min_tokens": 3}),
    ({"stop_token_ids": [7]}, {"stop_token_ids": [5, 7]}),
    ({"stop_token_ids": [7], "ignore_eos": True}, {"stop_token_ids": [7], "ignore_eos": True}),
    ({"skip_special_tokens": False}, {"skip_special_tokens": False}),
    ({"bad_words": ["нет"]}, {"bad_words": ["нет"]}),
    ({"allowed_token_ids": [1, 2]}, {"allowed_token_ids": [1, 2]}),
    ({"structured_outputs": {"regex": "а+"}}, {"structured_outputs": {"regex": "а+"}}),
    ({"guided_json": {"type": "object"}}, {"structured_outputs": {"json": {"type": "object"}}}),
    ({"priority": 5, "cache_salt": "x"}, {"priority": 5, "cache_salt": "x"}),
    ({"guided_json": "{}"}, {"structured_outputs": {"json": "{}"}}),
    ({"guided_choice": ["да", "нет"]}, {"structured_outputs": {"choice": ["да", "нет"]}}),
    (
        {"guided_json": {}, "guided_whitespace_pattern": " ?", "guided_decoding_backend": "outlines"},
        {"structured_outputs": {"json": {}, "whitespace_pattern": " ?"}},
    ),
]


@pytest.mark.parametrize(("asked", "passed"), VLLM_S_OWN)
def test_what_vllm_alone_has_goes_to_vllm(asked, passed):
    request = read_request(ChatRequest, body(asked))
    sampling = sampling_of(request, Generation(), 10)
    assert passed.items() <= VllmApi().body("x", request, sampling, [5]).items()
    with pytest.raises(ApiError, match="not supported by this server's engine, transformers serve") as caught:
        TransformersServeApi().body("x", request, sampling, [5])
    assert caught.value.status == 400 and caught.value.param in asked


def test_json_without_llguidance_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ApiError, match="pip install llguidance") as caught:
        grammar_of({"type": "json_object"})
    assert (caught.value.status, caught.value.param) == (400, "response_format")
    assert grammar_of(None) is grammar_of({"type": "text"}) is None


def test_what_asks_for_nothing_passes_everywhere():
    neutral = {"chat_template_kwargs": {}, "min_tokens": 0, "stop_token_ids": [], "ignore_eos": False,
               "skip_special_tokens": True, "include_reasoning": True, "bad_words": []}  # fmt: skip
    request = read_request(ChatRequest, body(neutral))
    assert TransformersServeApi().body("x", request, sampling_of(request, Generation(), 10), [5])["model"] == "x"


def test_two_constraints_are_refused():
    request = read_request(ChatRequest, body({"guided_regex": "а", "guided_choice": ["а"]}))
    with pytest.raises(ApiError, match="give one of them"):
        VllmApi().body("x", request, sampling_of(request, Generation(), 10), [5])


def test_whole_characters_and_usual_numbers_pass():
    text = "👩‍👩‍👧‍👦 \\ud83d NaN 1e999 Infinity"
    request = read_request(ChatRequest, body(a_message(content=text) | {"temperature": 0.001, "seed": -1}))
    assert request.plain_messages()[1]["content"] == text
    settings = sampling_of(request, Generation(), 10)
    assert settings["do_sample"] and settings["settings"]["temperature"] == 0.001
    assert not sampling_of(read_request(ChatRequest, body({"temperature": 0})), Generation(), 10)["do_sample"]


def test_messages_reach_the_template_as_text():
    request = read_request(ChatRequest, body(an_answer(CALL)))
    assert request.plain_messages() == [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    parts = [{"type": "text", "text": "Кто "}, {"type": "text", "text": "я?"}]
    request = read_request(ChatRequest, body({"messages": [{"role": "developer", "content": parts}, USER]}))
    assert request.plain_messages() == [{"role": "system", "content": "Кто я?"}, USER]


def test_a_refused_body_is_read_to_its_end():
    """What closes the connection while the client still sends is a reset, and the client never sees the answer."""
    client = TestClient(make_app([], Access()), base_url="http://localhost")
    sent = 0

    def blocks():
        nonlocal sent
        for _ in range(20):
            sent += 2**20
            yield b"x" * 2**20

    response = client.post("/v1/chat/completions", content=blocks())
    assert response.status_code == 413 and sent == 20 * 2**20 > MAX_BODY_BYTES


def test_an_answer_that_is_cut_says_by_whom():
    """By an engine that failed, or by us: a training needs its memory."""
    engine = Engine("x", lambda port: [])

    async def broken():
        yield b"data: {}\n\n"
        raise httpx2.ReadError("gone")

    async def read() -> list:
        headers = {"content-type": "text/event-stream"}
        request = httpx2.Request("POST", "http://127.0.0.1")
        response = httpx2.Response(200, headers=headers, content=broken(), request=request)
        return [chunk async for chunk in read_chunks(response, engine)]

    with pytest.raises(ApiError) as failed:
        asyncio.run(read())
    engine.stop()
    with pytest.raises(ApiError) as cut:
        asyncio.run(read())
    assert (failed.value.status, cut.value.status, cut.value.code) == (500, 503, "model_unloaded")
    assert cut.value.headers["retry-after"]


def test_a_client_that_hangs_up_frees_what_prepares_its_answer():
    """It may wait for minutes until its model is loaded; no engine is then asked for an answer."""
    ended = []

    async def resolve(model: str):
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(model)

    app = FastAPI()
    app.include_router(chat_routes(resolve, ResponseStore(None)))
    install_error_handlers(app)
    messages = [{"type": "http.request", "body": body({}), "more_body": False}]

    async def receive():
        if messages:
            return messages.pop(0)
        await asyncio.sleep(0.1)
        return {"type": "http.disconnect"}

    async def send(message):
        pass

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [], "query_string": b""}
    began = time.monotonic()
    asyncio.run(app(scope, receive, send))
    assert ended == ["x"] and time.monotonic() - began < 5


def test_who_comes_while_the_engines_start_is_told_to_ask_again(monkeypatch):
    """By `govor serve`, which listens from the beginning; what keeps it from starting ends it."""
    monkeypatch.setattr(routes, "WAIT_FOR_START", 0.2)
    engine = Engine("x", lambda port: [])
    served: Any = SimpleNamespace(name="x", engine=engine, engine_api=TransformersServeApi(), created=1, system=None)
    answers = {}

    def prepare() -> None:
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx2.Client(base_url=base, trust_env=False, timeout=20) as client:
            answers["chat"] = client.post("/v1/chat/completions", content=body({"model": "x"}))
            answers["other"] = client.post("/v1/chat/completions", content=body({"model": "y"}))
            answers["models"], answers["health"] = client.get("/v1/models"), client.get("/health")
        raise MachineError("no engine starts")

    with closing(listen("127.0.0.1", 0, None)) as listener, pytest.raises(MachineError, match="no engine starts"):
        run_app([served], Access(), listener, prepare)
    chat = answers["chat"]
    assert (chat.status_code, chat.json()["error"]["code"]) == (503, "model_not_ready")
    assert 10 <= int(chat.headers["retry-after"]) <= 20
    assert (answers["other"].status_code, answers["models"].json()["data"][0]["id"]) == (404, "x")
    assert (answers["health"].status_code, answers["health"].json()["status"]) == (503, "starting")


def test_an_engine_that_comes_up_again_is_waited_for(monkeypatch):
    monkeypatch.setattr(routes, "WAIT_FOR_START", 0.5)
    engine = Engine("x", lambda port: [])
    engine.state = "starting"
    served: Any = SimpleNamespace(name="x", engine=engine, engine_api=TransformersServeApi(), created=1, system=None)
    with TestClient(make_app([served], Access()), base_url="http://localhost") as client:
        began = time.monotonic()
        refused = client.post("/v1/chat/completions", content=body({"model": "x"}))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert time.monotonic() - began >= 0.5
