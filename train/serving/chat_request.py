"""A chat request: its fields with their bounds, its messages as templates take them, and how the answer is sampled."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypedDict, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from train.chats.rows import Message, text_of
from train.core.config import Generation
from train.serving.api_errors import bounded_json, without_nulls

IGNORED_FIELDS = (
    "guided_decoding_backend", "metadata", "moderation", "parallel_tool_calls", "prediction", "prompt_cache_key",
    "prompt_cache_options", "prompt_cache_retention", "reasoning_effort", "safety_identifier", "service_tier", "store",
    "user", "verbosity",
)  # fmt: skip
"""Fields that clients send along and that change nothing here: OpenAI's, and the one that once chose among the
grammar engines of vLLM."""
Role = Literal["system", "developer", "user", "assistant", "tool"]
Name = Annotated[str, Field(max_length=256)]
Text = Annotated[str, Field(max_length=4 * 2**20)]
Stop = Annotated[str, Field(max_length=64)]
"""A stop sequence. OpenAI has at most four and says nothing of their length; an engine compares each with every token
of its vocabulary, so a long one would keep all other clients waiting."""
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
MaxTokens = Annotated[int, Field(ge=1, lt=2**31)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[StrictStr, Field(max_length=512)]], Field(max_length=16)
]
"""OpenAI's metadata of an object."""
LEAST_TEMPERATURE = 1e-6
"""Below it, but for 0, scores divided by the temperature leave the numbers that an engine can hold."""


def _temperature(value: float) -> float:
    if 0 < value < LEAST_TEMPERATURE:
        raise ValueError(f"expected 0, or {LEAST_TEMPERATURE} and more")
    return value


RENDERING = ("messages", "conversation", "tools", "documents", "chat_template", "tokenize", "add_generation_prompt",
             "continue_final_message", "return_dict", "return_tensors")  # fmt: skip
"""What the engine itself says to the renderer of a template, so `chat_template_kwargs` may not."""


def _template_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    if taken := [name for name in RENDERING if name in kwargs]:
        raise ValueError(f"{taken[0]} is not the template's to be told: expected what the model's own template reads")
    return kwargs


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """A function call of an earlier answer, as it came."""
    function = call.get("function")
    try:
        arguments = json.loads(function["arguments"] or "{}")  # type: ignore[index]
        if not isinstance(function["name"], str) or not isinstance(arguments, dict):  # type: ignore[index]
            raise TypeError
    except (TypeError, KeyError, ValueError, RecursionError):
        raise ValueError("expected a function with a name and arguments as JSON text") from None
    if not isinstance(call.get("id"), str | None) or call.get("type") not in (None, "function"):
        raise ValueError("expected a text as id, and the type function")
    return call


class ChatMessage(BaseModel):
    """One message of the conversation; what clients send back with an answer of ours is ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")

    role: Role
    name: Name | None = None
    tool_call_id: Name | None = None
    refusal: Text | None = None
    tool_calls: (
        Annotated[list[Annotated[dict[str, Any], AfterValidator(_call), bounded_json(2**20)]], Field(max_length=128)]
        | None
    ) = None
    content: Any = Field(default=None, validate_default=True)
    """Text, or a list of text parts; nothing beside function calls."""

    @field_validator("content")
    @classmethod
    def _readable(cls, content: Any, info: ValidationInfo) -> Any:
        if isinstance(content, list):
            texts: list[Any] = [
                part.get("text", part.get("refusal")) if isinstance(part, dict) else None for part in content
            ]
            if not all(isinstance(text, str) for text in texts):
                raise ValueError("the model reads text parts only")
            if len(content) > 1024 or sum(map(len, texts)) > 4 * 2**20:
                raise ValueError("expected at most 1024 parts and 4194304 characters")
        elif content is None:
            if not info.data.get("tool_calls") and info.data.get("refusal") is None:
                raise ValueError("expected text")
        elif not isinstance(content, str):
            raise ValueError("expected text")
        elif len(content) > 4 * 2**20:
            raise ValueError("expected at most 4194304 characters")
        return content


class StreamOptions(BaseModel):
    """OpenAI's `stream_options`."""

    model_config = ConfigDict(strict=True, extra="ignore")
    include_usage: bool = False

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        return without_nulls(cls, body)


def require_function(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if not isinstance(function, dict):
        raise ValueError("expected functions, each with a name")
    function = {name: value for name, value in function.items() if value is not None}
    if tool.get("type") != "function" or not isinstance(function.get("name"), str) or not function["name"]:
        raise ValueError("expected functions, each with a name")
    if not isinstance(function.get("parameters", {}), dict) or not isinstance(function.get("description", ""), str):
        raise ValueError("expected a text as description and an object as parameters of a function")
    return {**tool, "function": function}


def require_choice(choice: Any) -> Any:
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    named = isinstance(function, dict) and isinstance(function.get("name"), str)
    if not named and choice not in ("none", "auto", "required"):
        raise ValueError("expected none, auto, required or a function by its name")
    return choice


def require_format(form: dict[str, Any]) -> dict[str, Any]:
    if form.get("type") not in ("text", "json_object", "json_schema"):
        raise ValueError("expected the type text, json_object or json_schema")
    schema = form.get("json_schema")
    if form["type"] == "json_schema" and not (
        isinstance(schema, dict) and isinstance(schema.get("schema") or {}, dict)
    ):
        raise ValueError("expected an object as json_schema")
    return form


class VllmFields(BaseModel):
    """Fields that vLLM alone has, under its names; https://docs.vllm.ai, "OpenAI-Compatible Server".

    `guided_json` and its kin are those of earlier versions, which today's takes as `structured_outputs`.
    """

    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(_template_kwargs), bounded_json(2**12)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    include_reasoning: bool | None = None
    bad_words: Annotated[list[Stop], Field(max_length=128)] | None = None
    allowed_token_ids: Annotated[list[TokenId], Field(min_length=1, max_length=4096)] | None = None
    structured_outputs: Annotated[dict[str, Any], bounded_json(2**16)] | None = None
    guided_json: Annotated[dict[str, Any] | str, bounded_json(2**16)] | None = None
    guided_regex: Annotated[str, Field(max_length=4096)] | None = None
    guided_choice: (
        Annotated[list[Annotated[str, Field(max_length=4096)]], Field(min_length=1, max_length=128)] | None
    ) = None
    guided_grammar: Annotated[str, Field(max_length=2**14)] | None = None
    guided_whitespace_pattern: Annotated[str, Field(max_length=4096)] | None = None
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    cache_salt: Name | None = None
    vllm_xargs: Annotated[dict[str, Any], bounded_json(2**12)] | None = None


class AnswerRequest(VllmFields):
    """What every request for an answer may have: OpenAI's fields and, under vLLM's names, samplers that OpenAI lacks.

    Every field has a bound: what one client sends must not keep the others waiting.
    """

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    ignored: ClassVar[Collection[str]] = IGNORED_FIELDS

    model: Annotated[str, Field(max_length=512)]
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2), AfterValidator(_temperature)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=4096),
        ]
        | None
    ) = None

    @model_validator(mode="before")
    @classmethod
    def _without_ignored(cls, body: Any) -> Any:
        """What asks for something."""
        asking = without_nulls(cls, body)
        return {name: asking[name] for name in asking if name not in cls.ignored} if isinstance(asking, dict) else body

    def stop_sequences(self) -> list[str]:
        """The stop sequences, without empty ones, which stop nothing."""
        return [text for text in ([self.stop] if isinstance(self.stop, str) else self.stop or []) if text]

    def sampling_fields(self) -> dict[str, Any]:
        """The fields that every request for an answer has, as far as they are set."""
        return self.model_dump(include=set(AnswerRequest.model_fields), exclude_none=True)


class ChatRequest(AnswerRequest):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    response_format: Annotated[dict[str, Any], AfterValidator(require_format), bounded_json(2**16)] | None = None
    tools: (
        Annotated[
            list[Annotated[dict[str, Any], AfterValidator(require_function)]],
            Field(max_length=128),
            bounded_json(2**18),
        ]
        | None
    ) = None
    tool_choice: Annotated[Any, AfterValidator(require_choice), bounded_json(2**12)] = None

    def plain_messages(self) -> list[Message]:
        """The messages as training hands them to a template."""
        return plain_messages([cast(Message, message.model_dump(exclude_none=True)) for message in self.messages])


class Sampling(TypedDict):
    """How to sample one answer, in the names of transformers' GenerationConfig."""

    max_new_tokens: int
    do_sample: bool
    settings: dict[str, float | int]
    """temperature, top_p, …; where do_sample is False, only those that greedy decoding uses too."""


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The messages as training hands them to a template: text alone, and no role that templates do not know."""
    return [_plain(message) for message in messages]


def _plain(message: Mapping[str, Any]) -> Message:
    role, text = message["role"], text_of(cast(Message, message))
    plain: dict[str, Any] = {"role": "system" if role == "developer" else role, "content": text}
    plain |= {key: message[key] for key in ("tool_calls", "name", "tool_call_id") if message.get(key)}
    return cast(Message, plain)


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
