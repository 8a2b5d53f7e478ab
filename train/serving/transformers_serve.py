"""`transformers serve`: a whole model, in our own environment."""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from train.chats.rows import Message
from train.core import compat
from train.serving.api_errors import ApiError
from train.serving.chat_request import ChatRequest, Sampling, VllmFields
from train.serving.engine import request_json
from train.serving.engine_api import EngineApi, Served
from train.serving.in_engine.govor_constraint import FIELD

ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
"""Variables that keep it off the network and its log short."""
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,), "logprobs": (False,), "top_logprobs": (0,), "frequency_penalty": (0,), "presence_penalty": (0,),
    "logit_bias": ({},), "tools": ([],), "tool_choice": ("none", "auto"),
    **dict.fromkeys(VllmFields.model_fields, ()), "chat_template_kwargs": ({},), "min_tokens": (0,),
    "stop_token_ids": ([],), "ignore_eos": (False,), "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,), "include_stop_str_in_output": (False,), "include_reasoning": (True,),
    "bad_words": ([],),
}  # fmt: skip
"""Fields that it would silently ignore → the values that ask for nothing."""
OPEN = {"additionalProperties", "unevaluatedProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"}
"""Keys of a JSON schema beside which it need not be an object of the named properties alone."""
VLLM_HAS_IT = "vLLM has it: pip install vllm in an environment of its own, which GOVOR_VLLM=ENV/bin/vllm names"


class TransformersServeApi(EngineApi):
    """The API of `transformers serve`."""

    title = "transformers serve"
    strips_stop = False
    supports_tools = False
    at_once = "one answer at a time"

    def body(self, model: str, request: ChatRequest, sampling: Sampling, stop: Sequence[int]) -> dict[str, Any]:
        for name, neutral in UNSUPPORTED.items():
            value = getattr(request, name)
            if value is not None and value not in neutral:
                message = f"'{name}' is not supported by this server's engine, transformers serve; {VLLM_HAS_IT}"
                raise ApiError(400, message, param=name, code="unsupported_parameter")
        settings: dict[str, Any] = {
            "max_new_tokens": sampling["max_new_tokens"],
            "do_sample": sampling["do_sample"],
            **sampling["settings"],
            "eos_token_id": list(stop),
            "pad_token_id": stop[0],
        }
        if (grammar := grammar_of(request.response_format)) is not None:
            settings[FIELD] = grammar
        if request.stop_sequences():
            settings["stop_strings"] = request.stop_sequences()
        body = {"model": model, "generation_config": json.dumps(settings)}
        return body if request.seed is None else body | {"seed": request.seed}

    def context(self, served: Served) -> int:
        return served.trained_context

    def prompt_ids(
        self, served: Served, messages: Sequence[Message], tools: Any, kwargs: Mapping[str, Any] | None = None
    ) -> list[int]:
        """By the code that the engine runs, in the environment that it runs in; it tells only the length itself."""
        processor = _processor(served.folder, served.trust_code)
        architecture = json.loads((served.folder / "config.json").read_bytes())["architectures"][0]
        inputs = compat.serve_inputs(processor, architecture, list(messages))
        rendered = processor.apply_chat_template(inputs, add_generation_prompt=True, tokenize=True, return_dict=True)
        return list(rendered["input_ids"])

    def answered_prompt(self, served: Served, messages: Sequence[Message]) -> list[int] | int:
        settings = json.dumps({"max_new_tokens": 1, "do_sample": False})
        body = {"model": served.model, "messages": messages, "generation_config": settings}
        return int(request_json(served.engine, "/v1/chat/completions", body)["usage"]["prompt_tokens"])


def grammar_of(form: Mapping[str, Any] | None) -> str | None:
    """The grammar of a `response_format`, which the engine holds the answer to; None where any text will do.

    ApiError where that cannot be done: without llguidance, or with a schema that it cannot hold an answer to.
    """
    if form is None or form["type"] == "text":
        return None
    try:
        from llguidance import LLMatcher
    except ImportError:
        message = (
            "'response_format' is not supported by this server's engine, transformers serve; with llguidance it is: "
            "pip install llguidance in the server's environment"
        )
        raise ApiError(400, message, param="response_format", code="unsupported_parameter") from None
    schema = form["json_schema"].get("schema", {}) if form["type"] == "json_schema" else {"type": "object"}
    grammar = LLMatcher.grammar_from_json_schema(_closed(schema), defaults={"whitespace_flexible": False})
    if problem := LLMatcher.validate_grammar(grammar):
        message = f"Invalid 'response_format': no answer can be held to this schema: {problem.splitlines()[0][:200]}"
        raise ApiError(400, message, param="response_format", code="invalid_value")
    return str(grammar)


def _closed(schema: Any) -> Any:
    """The schema without properties beside those that its objects name, where it leaves open whether there are any.

    A small model would add some until its tokens are spent, and vLLM's grammars have none either. The parts of an allOf
    stay open, since each of them names some of the properties alone.
    """
    if not isinstance(schema, dict):
        return schema
    closed: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "$defs", "definitions") and isinstance(value, dict):
            closed[key] = {name: _closed(inner) for name, inner in value.items()}
        elif key in ("anyOf", "oneOf", "prefixItems") and isinstance(value, list) and "properties" not in schema:
            closed[key] = [_closed(inner) for inner in value]
        else:
            closed[key] = _closed(value) if key == "items" else value
    if "properties" in schema and not OPEN & schema.keys():
        closed["additionalProperties"] = False
    return closed


def command(
    folder: str, *, dtype: str, use_cpu: bool, attention: str, trust_code: bool, in_4bit: bool = False
) -> list[str]:
    """The command line of `transformers serve` for the model in a folder, without its port.

    `in_4bit`: its weights are packed to NF4 while they are loaded.
    """
    arguments = [sys.executable, "-c", compat.SERVE_PROGRAM, "serve", folder, "--host", "127.0.0.1", "--dtype", dtype]
    arguments += ["--attn-implementation", attention] + ["--quantization", "bnb-4bit"] * in_4bit
    return arguments + ["--device", "cpu"] * use_cpu + ["--trust-remote-code"] * trust_code


@lru_cache(maxsize=8)
def _processor(folder: Path, trust_code: bool) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder, trust_remote_code=trust_code)


def splits_thoughts(tokenizer: Any, config: Any) -> bool:
    """Whether `transformers serve` itself separates thoughts from answers, as it does for some families."""
    return compat.serve_parses_answers(tokenizer, config)
