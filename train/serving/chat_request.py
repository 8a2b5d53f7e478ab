"""A chat request: its fields, its messages as templates take them, and how the answer is sampled."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from train.chats.rows import Message, text_of
from train.core.config import Generation
from train.serving.api_errors import ApiError

IGNORED_FIELDS = (
    "metadata", "moderation", "parallel_tool_calls", "prediction", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "reasoning_effort", "safety_identifier", "service_tier", "store", "user", "verbosity",
)  # fmt: skip
"""OpenAI's fields that clients send along and that change nothing here."""
SERVED_ROLES = {"system", "developer", "user", "assistant", "tool"}
Penalty = Annotated[float, Field(ge=-2, le=2)]


class StreamOptions(BaseModel):
    """OpenAI's `stream_options`."""

    model_config = ConfigDict(strict=True, extra="ignore")
    include_usage: bool = False


class ChatRequest(BaseModel):
    """POST /v1/chat/completions: OpenAI's fields and, under vLLM's names, a few samplers that OpenAI lacks."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    logit_bias: dict[str, float] | None = None
    modalities: list[Literal["text"]] | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_ignored(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        return {name: value for name, value in body.items() if name not in IGNORED_FIELDS}

    def stop_sequences(self) -> list[str]:
        """The stop sequences, without empty ones, which stop nothing."""
        return [text for text in ([self.stop] if isinstance(self.stop, str) else self.stop or []) if text]


class Sampling(TypedDict):
    """How to sample one answer, in the names of transformers' GenerationConfig."""

    max_new_tokens: int
    do_sample: bool
    settings: dict[str, float | int]
    """temperature, top_p, …; where do_sample is False, only those that greedy decoding uses too."""


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The messages as training hands them to a template: text alone, and no role that templates do not know.

    ApiError 400 where a message cannot be read so.
    """
    return [_plain(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _plain(message: Mapping[str, Any], path: str) -> Message:
    content_path = f"{path}.content"
    role, content = message.get("role"), message.get("content")
    if role not in SERVED_ROLES:
        roles = ", ".join(sorted(SERVED_ROLES))
        raise ApiError(400, f"Invalid '{path}.role': {role!r}; known are {roles}.", param=f"{path}.role")
    calls = message.get("tool_calls")
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, dict) or not isinstance(part.get("text") or part.get("refusal"), str):
                raise ApiError(400, f"Invalid '{content_path}': the model reads text parts only.", param=content_path)
    elif not isinstance(content, str) and not (content is None and (calls or isinstance(message.get("refusal"), str))):
        raise ApiError(400, f"Invalid '{content_path}': expected text.", param=content_path)
    text = text_of(cast(Message, message))
    plain: dict[str, Any] = {"role": "system" if role == "developer" else role, "content": text}
    if calls:
        plain["tool_calls"] = [_call(call, f"{path}.tool_calls[{index}]") for index, call in enumerate(calls)]
    plain |= {key: message[key] for key in ("name", "tool_call_id") if isinstance(message.get(key), str)}
    return cast(Message, plain)


def _call(call: Any, path: str) -> Any:
    try:
        if isinstance(call["function"]["name"], str):
            json.loads(call["function"]["arguments"] or "{}")
            return call
    except (TypeError, KeyError, ValueError):
        pass
    raise ApiError(400, f"Invalid '{path}': expected a function with a name and arguments as JSON text.", param=path)


def sampling_of(request: ChatRequest, generation: Generation, tokens_left: int) -> Sampling:
    """The client's settings over those of the run. `tokens_left`: what the context leaves for the answer."""
    settings = generation.model_dump()
    longest = request.max_completion_tokens or request.max_tokens or settings["max_new_tokens"]
    do_sample = settings["do_sample"] if request.temperature is None else request.temperature > 0
    samplers = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    settings |= {name: value for name in samplers if (value := getattr(request, name)) is not None}
    greedy = ("repetition_penalty",)
    used = {name: value for name, value in settings.items() if name in (samplers if do_sample else greedy)}
    if used.get("top_k", 1) <= 0:  # all tokens: -1 in vLLM, 0 in transformers
        used["top_k"] = 0
    return {"max_new_tokens": min(longest, tokens_left), "do_sample": do_sample, "settings": used}
