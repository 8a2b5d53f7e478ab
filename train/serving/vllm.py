"""vLLM: base + adapters, or a whole model, in an environment of its own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.chats.rows import Message
from train.core.errors import GovorError
from train.serving.chat_request import ChatRequest, Sampling
from train.serving.engine import ask
from train.serving.engine_api import Dialect, Served

OURS = ("--host", "--port", "--api-key", "--served-model-name", "--chat-template")
"""Flags that govor gives it; another value would part the two."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that --max-lora-rank takes."""
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
BASE = "base:"
"""The base's name inside the engine: no run can have it."""
SHARED = ("frequency_penalty", "presence_penalty", "seed", "n", "logprobs", "top_logprobs", "logit_bias",
          "response_format", "tools", "tool_choice")  # fmt: skip
"""What it takes from the client as OpenAI words it."""


class VLLM(Dialect):
    title = "vLLM"
    cuts_stop = True
    takes_tools = True

    def body(self, model: str, request: ChatRequest, sampling: Sampling, stop: Sequence[int]) -> dict[str, Any]:
        body = request.model_dump(include=set(SHARED), exclude_none=True)
        settings = {"temperature": 1.0} | sampling["settings"] if sampling["do_sample"] else sampling["settings"]
        return {
            **body,
            **({} if sampling["do_sample"] else {"temperature": 0}),
            **settings,
            "model": model,
            "max_tokens": sampling["max_new_tokens"],
            "stream_options": {"include_usage": True},  # every answer is taken as a stream, and counted
            "stop": request.stops(),
            "stop_token_ids": list(stop),
        }

    def context(self, served: Served) -> int:
        facts = served.engine.facts
        if "context" not in facts:
            models = ask(served.engine, "/v1/models")["data"]
            facts["context"] = next(int(model["max_model_len"]) for model in models if model["max_model_len"])
        return facts["context"]

    def prompt_ids(self, served: Served, messages: Sequence[Message], tools: Any) -> list[int]:
        body = {"model": served.model, "messages": messages, "tools": tools}
        return list(ask(served.engine, "/tokenize", body)["tokens"])

    def answered_ids(self, served: Served, messages: Sequence[Message]) -> list[int] | int:
        body = {"model": served.model, "messages": messages, "max_tokens": 1, "return_token_ids": True}
        return list(ask(served.engine, "/v1/chat/completions", body)["prompt_token_ids"])


def command(
    program: str, folder: Path, template: Path, adapters: dict[str, Path], *, dtype: str, flags: Sequence[str]
) -> list[str]:
    """`vllm serve` of the model in a folder, with adapters by name; without its port. `flags` are the user's."""
    if taken := [flag for flag in flags if flag.partition("=")[0] in OURS]:
        raise GovorError(f"{taken[0]} behind -- goes to vLLM, where govor sets it: put govor's own options before --")
    words = [program, "serve", str(folder), "--host", "127.0.0.1", "--served-model-name", BASE]
    words += ["--chat-template", str(template), "--dtype", dtype, "--disable-uvicorn-access-log"]
    if adapters:
        rank = max(rank_of(path) for path in adapters.values())
        modules = [json.dumps({"name": name, "path": str(path)}) for name, path in adapters.items()]
        words += ["--enable-lora", "--max-lora-rank", str(next(r for r in RANKS if r >= rank))]
        words += ["--max-loras", str(min(len(adapters), 4)), "--max-cpu-loras", str(len(adapters))]
        words += ["--lora-modules", *modules]
    if not any(flag.startswith("--max-model-len") for flag in flags):
        words += ["--max-model-len", "auto"]  # what the memory holds
    return [*words, *flags]


def rank_of(adapter: Path) -> int:
    return int(json.loads((adapter / "adapter_config.json").read_bytes())["r"])


def loads(adapter: Path) -> bool:
    """Whether it serves such an adapter unmerged."""
    config = json.loads((adapter / "adapter_config.json").read_bytes())
    plain = not any(config.get(name) for name in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern"))
    return plain and config["r"] <= RANKS[-1]
