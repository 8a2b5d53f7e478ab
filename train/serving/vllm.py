"""vLLM: base + adapters, or a whole model, in an environment of its own."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.chats.rows import Message
from train.core.errors import GovorError, RunError
from train.models.base import read_json
from train.serving.api_errors import ApiError
from train.serving.chat_request import ChatRequest, Sampling, VllmFields
from train.serving.engine import request_json
from train.serving.engine_api import Adapters, EngineApi, Served

GOVOR_FLAGS = ("--host", "--port", "--api-key", "--served-model-name", "--chat-template")
"""Flags that govor sets itself, so a user may not."""
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that --max-lora-rank takes."""
ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
"""Variables that keep it off the network."""
RUNTIME_ADAPTERS = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
"""Variables with which it takes in adapters while it runs; only who shows the engine's key can have it do so."""
LARGEST_SHARE = 0.9
"""Of a GPU's memory, for all engines together; vLLM's own default is 0.92."""
SMALLEST_SHARE = 0.01
"""With less it could not even start."""
MARGIN = 2**29
"""Bytes left free for each engine: its CUDA context, and what a desktop may take meanwhile. Not measured on a card."""
BASE_NAME = "base:"
"""The base's name inside the engine: no run can have it."""
IN_4BIT = ["--quantization", "bitsandbytes"]
"""Flags with which it packs 16-bit weights to NF4 while it loads them."""
TOOL_PARSERS = (("<function=", "qwen3_coder"), ("<tool_call>", "hermes"))
"""How a chat template writes calls of functions → vLLM's parser of them, without which it offers no functions."""
PASSED_ON = ("frequency_penalty", "presence_penalty", "seed", "n", "logprobs", "top_logprobs", "logit_bias",
          "response_format", "tools", "tool_choice",
          "chat_template_kwargs", "min_tokens", "ignore_eos", "skip_special_tokens", "spaces_between_special_tokens",
          "include_stop_str_in_output", "include_reasoning", "bad_words", "allowed_token_ids",
          "structured_outputs", "priority", "cache_salt", "vllm_xargs")  # fmt: skip
"""Fields that are passed on as they come: vLLM has them under OpenAI's names, or they are its own."""
GUIDED = "guided_"
"""What `json`, `regex`, `choice` and `grammar` of structured_outputs began with before vLLM 0.11, which later versions
silently ignore."""
WHITE_SPACE = "guided_whitespace_pattern"
"""No constraint of its own: what may stand between the parts of JSON."""


class VllmApi(EngineApi):
    """The API of `vllm serve`."""

    title = "vLLM"
    strips_stop = True
    supports_tools = True
    at_once = "many answers at once"

    def body(self, model: str, request: ChatRequest, sampling: Sampling, stop: Sequence[int]) -> dict[str, Any]:
        body = request.model_dump(include=set(PASSED_ON), exclude_none=True)
        for name in VllmFields.model_fields:
            if name.startswith(GUIDED) and name != WHITE_SPACE and (value := getattr(request, name)) is not None:
                if "structured_outputs" in body:
                    raise ApiError(400, f"'{name}' stands beside another constraint: give one of them.", param=name)
                body["structured_outputs"] = {name.removeprefix(GUIDED): value}
        if request.guided_whitespace_pattern is not None and "structured_outputs" in body:
            body["structured_outputs"]["whitespace_pattern"] = request.guided_whitespace_pattern
        ends = request.stop_token_ids or []
        settings = {"temperature": 1.0} | sampling["settings"] if sampling["do_sample"] else sampling["settings"]
        return {
            **body,
            **({} if sampling["do_sample"] else {"temperature": 0}),
            **settings,
            "model": model,
            "max_tokens": sampling["max_new_tokens"],
            "stream_options": {"include_usage": True},  # every answer is reserved as a stream, and counted
            "stop": request.stop_sequences(),
            "stop_token_ids": ends if request.ignore_eos else [*stop, *ends],
        }

    def context(self, served: Served) -> int:
        reported = served.engine.reported
        if "context" not in reported:
            models = request_json(served.engine, "/v1/models")["data"]
            reported["context"] = next(int(model["max_model_len"]) for model in models if model["max_model_len"])
        return reported["context"]

    def prompt_ids(
        self, served: Served, messages: Sequence[Message], tools: Any, kwargs: Mapping[str, Any] | None = None
    ) -> list[int]:
        body = {"model": served.model, "messages": messages, "tools": tools, "chat_template_kwargs": kwargs}
        return list(request_json(served.engine, "/tokenize", body)["tokens"])

    def answered_prompt(self, served: Served, messages: Sequence[Message]) -> list[int] | int:
        body = {"model": served.model, "messages": messages, "max_tokens": 1, "return_token_ids": True}
        return list(request_json(served.engine, "/v1/chat/completions", body)["prompt_token_ids"])


def command(
    program: str, folder: Path, template: Path, adapters: Adapters | None, *, dtype: str, flags: Sequence[str]
) -> list[str]:
    """The command line of `vllm serve` for the model in a folder, with the adapters that are there; without its port.

    `flags`: the user's own. GovorError where they set what govor sets.
    """
    if own := [flag for flag in flags if flag.partition("=")[0] in GOVOR_FLAGS]:
        raise GovorError(f"{own[0]} behind -- goes to vLLM, where govor sets it: put govor's own options before --")
    arguments = [program, "serve", str(folder), "--host", "127.0.0.1", "--served-model-name", BASE_NAME]
    arguments += ["--chat-template", str(template), "--dtype", dtype, "--disable-uvicorn-access-log"]
    arguments += ["--middleware", "govor_engine_key.EngineKey"]
    if adapters:
        paths = {name: path for name, path in adapters.paths.items() if path.exists()}  # one may have been deleted
        modules = [json.dumps({"name": name, "path": str(path)}) for name, path in paths.items()]
        arguments += ["--enable-lora", "--max-lora-rank", str(next(r for r in LORA_RANKS if r >= adapters.rank))]
        arguments += [
            "--max-loras",
            str(min(adapters.count, 4)),
            "--max-cpu-loras",
            str(max(adapters.count, len(paths))),
        ]
        arguments += ["--lora-modules", *modules] if modules else []
    if not any(flag.startswith("--max-model-len") for flag in flags):
        arguments += ["--max-model-len", "auto"]  # as long as the memory allows
    return [*arguments, *flags]


def tool_flags(template: str, flags: Sequence[str]) -> list[str]:
    """The flags with which it offers functions to a model of that chat template, as far as TOOL_PARSERS go.

    None beside the user's own `flags` for it.
    """
    if any(flag.startswith(("--tool-call-parser", "--enable-auto-tool-choice")) for flag in flags):
        return []
    parser = next((parser for mark, parser in TOOL_PARSERS if mark in template), None)
    return ["--enable-auto-tool-choice", "--tool-call-parser", parser] if parser else []


def load_adapter(served: Served, name: str, adapter: Path) -> None:
    """Load another adapter into the engine that runs; it has it after its next start too. MachineError if it fails.

    That needs RUNTIME_ADAPTERS in the engine's environment.
    """
    assert served.adapters is not None
    if name in served.adapters.paths:
        return
    request_json(served.engine, "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(adapter)})
    served.adapters.paths[name] = adapter


def has_bitsandbytes(program: str) -> bool:
    """Whether the environment of that executable has what loads weights in NF4.

    Up to 0.27 that was vLLM itself, since then it is the package vllm-bnb-plugin (vllm-project/vllm#43529). True where
    the environment's packages are not found.
    """
    packages = list(Path(program).resolve().parent.parent.glob("lib*/python*/*-packages/vllm"))
    names = ("vllm/model_executor/layers/quantization/bitsandbytes*", "vllm_bnb_plugin*")
    found = [any(any(folder.parent.glob(name)) for name in names) for folder in packages]
    return any(found) or not found


def rank_of(adapter: Path) -> int:
    """The rank of an adapter; RunError where its adapter_config.json does not say."""
    rank = read_json(adapter / "adapter_config.json").get("r")
    if not isinstance(rank, int):
        raise RunError(f"{adapter / 'adapter_config.json'}: damaged: r is no whole number")
    return rank


def supports_adapter(config: Mapping[str, Any]) -> bool:
    """Whether vLLM can serve an adapter with that adapter_config.json over its base."""
    plain = not any(config.get(name) for name in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern"))
    return plain and config["r"] <= LORA_RANKS[-1]
