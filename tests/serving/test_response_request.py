"""What one request to /v1/responses or /v1/completions may ask: a bound for every field that chat requests lack."""

import json
import re

import pytest

from tests.serving.test_chat_request import DEEP, TOOL
from train.serving.api_errors import ApiError, read_request
from train.serving.chat_request import AnswerRequest, ChatRequest
from train.serving.completions import MOST_PROMPTS, CompletionRequest
from train.serving.response_request import ResponseRequest

FUNCTION = {"type": "function", **TOOL["function"]}
USER = {"role": "user", "content": "x"}


def schema(length: int) -> dict:
    return {"format": {"type": "json_schema", "name": "a", "schema": {"d": "x" * length}}}


RESPONSE = {
    "input": ([USER] * 4096, [USER] * 4097),
    "instructions": ("x" * 4 * 2**20, "x" * (4 * 2**20 + 1)),
    "previous_response_id": ("x" * 128, "x" * 129),
    "store": (False, 0),
    "metadata": ({"a": "x" * 512}, {"a": "x" * 513}),
    "max_output_tokens": (2**31 - 1, 2**31),
    "text": (schema(60_000), schema(70_000)),
    "tools": ([FUNCTION] * 128, [FUNCTION] * 129),
    "tool_choice": ({"type": "function", "name": "f"}, {"type": "function", "name": "f" * 5000}),
    "include": (["reasoning.encrypted_content"], ["x"]),
    "truncation": ("disabled", "auto"),
    "background": (False, True),
    "context_management": ([], DEEP),
    "conversation": ({}, "conv_1"),
    "max_tool_calls": (0, 1),
    "prompt": ({}, {"id": "pmpt_1"}),
    "top_logprobs": (0, 1),
}
COMPLETION = {
    "prompt": (["x"] * MOST_PROMPTS, ["x"] * (MOST_PROMPTS + 1)),
    "max_tokens": (2**31 - 1, 2**31),
    "stream_options": ({"include_usage": True}, {"include_usage": 2}),
    "n": (128, 129),
    "best_of": (1, 2),
    "echo": (False, True),
    "logprobs": (False, 1),
    "suffix": ("", "x"),
}
LONG = {"input": [{"role": "user", "content": "x" * (4 * 2**20 + 1)}]}


@pytest.mark.parametrize(
    ("model", "bounds", "least"),
    [(ResponseRequest, RESPONSE, {"input": "x"}), (CompletionRequest, COMPLETION, {"prompt": "x"})],
)
def test_every_field_of_its_own_has_a_bound(model: type[AnswerRequest], bounds: dict, least: dict):
    shared = set(AnswerRequest.model_fields)
    assert set(bounds) == set(model.model_fields) - shared and shared < set(ChatRequest.model_fields)

    def read(fields: dict) -> AnswerRequest:
        return read_request(model, json.dumps({"model": "x", **least, **fields}).encode())

    beyond = [*({name: value} for name, (_, value) in bounds.items()), *([LONG] if "input" in least else [])]
    for name, (most, _) in bounds.items():
        assert read({name: most})
    for fields in beyond:
        with pytest.raises(ApiError) as caught:
            read(fields)
        assert caught.value.status == 400 and re.match(r"\w*", caught.value.param or "")[0] in fields
    assert read(dict.fromkeys(bounds.keys() - least.keys())) == read({}), "null asks for nothing"
