"""Our settings under LLaMA-Factory's names (version 0.9.5), and an account of those that have no counterpart there."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from train.core.config import Config, Training
from train.core.errors import BaseError
from train.exports.llamafactory.templates import TemplateChoice

ATTENTION = {"sdpa": "sdpa", "eager": "disabled", "flash_attention_2": "fa2", "flash_attention_3": "fa3"}
TRANSLATED = ("max_length", "activation_checkpointing", "assistant_only_loss", "bf16", "fp16", "use_cpu")
NO_COUNTERPART = {
    "fit": "it chooses nothing by itself; the sizes given are used as they are",
    "kernels": "it has its own: enable_liger_kernel, use_unsloth",
    "packing": "the rows of tokenized/ stay apart; packing: true and neat_packing: true without tokenized_path pack",
    "loss_type": "it learns by plain cross entropy",
    "activation_offloading": "it has none",
    "activation_checkpointing_kwargs": "it checkpoints in its own way",
    "gradient_checkpointing_kwargs": "it checkpoints in its own way",
    "router_aux_loss_coef": "its own word is moe_aux_loss_coef, of another scale",
    "eos_token": "the chat template ends the turns",
    "pad_token": "it takes the tokenizer's own",
    "dataset_num_proc": "tokenized/ is ready",
}
"""Setting that is left out → why."""
TRL_ONLY = ("eval_packing", "packing_strategy", "pad_to_multiple_of", "padding_free", "shuffle_dataset")
"""Fields that TRL's SFTConfig adds to transformers' TrainingArguments and LLaMA-Factory does not have."""
NEWER_FIELDS = ("dataloader_in_order", "dataloader_multiprocessing_context")
"""Fields of TrainingArguments that are newer than LLaMA-Factory's transformers; it refuses an unknown key."""


def model_settings(config: Config, name_or_path: str, revision: str | None) -> dict[str, Any]:
    """Which base, and how it is loaded. `name_or_path`: Hub id or absolute folder."""
    model = config.model
    settings: dict[str, Any] = {"model_name_or_path": name_or_path}
    if revision:
        settings["model_revision"] = revision
    if model.load_in_4bit:
        settings |= {"quantization_method": "bnb", "quantization_bit": 4, "quantization_type": "nf4"}
        settings["double_quantization"] = True
    settings["flash_attn"] = ATTENTION.get(model.attn_implementation, "auto")
    settings["trust_remote_code"] = model.trust_remote_code
    return settings


def template_settings(choice: TemplateChoice | None) -> dict[str, Any]:
    """The template; empty without a fitting one, where LLaMA-Factory reads the tokenizer's own as well as it can."""
    if choice is None:
        return {}
    return {"template": choice.template.name} | ({} if choice.thinking else {"enable_thinking": False})


def lora_settings(config: Config, targets: Sequence[str] | None, left_out: dict[str, str]) -> dict[str, Any]:
    """The section `lora`. `targets`: names of the layers where the config has a regular expression."""
    lora = config.lora
    if lora is None:
        return {"finetuning_type": "full"}
    names = [lora.target_modules] if isinstance(lora.target_modules, str) else lora.target_modules
    settings: dict[str, Any] = {
        "finetuning_type": "lora",
        "lora_rank": lora.r,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "lora_target": "all" if names == ["all-linear"] else ",".join(targets or names),
    }
    if "lm_head" in (targets or names):
        left_out["lora.target_modules"] = (
            "lm_head: where a base's head and embeddings are one tensor (tie_word_embeddings) LLaMA-Factory adds the "
            "head's adapter to both, in chat and api as well: there use what `govor merge` makes"
        )
    settings |= {name: True for name in ("use_rslora", "use_dora") if getattr(lora, name)}
    init = str(lora.init_lora_weights)
    if init.startswith("pissa"):
        settings |= {"pissa_init": True, "pissa_iter": int(init[12:]) if init != "pissa" else -1}
    elif lora.init_lora_weights is not True:
        left_out["lora.init_lora_weights"] = f"{init}: it begins with B = 0, or with pissa"
    return settings


def training_settings(config: Config, left_out: dict[str, str], *, evaluate: bool) -> dict[str, Any]:
    """The section `training`: what transformers' own trainer knows goes over under its name."""
    training = config.training
    exported = {*Training.model_fields, *training.model_fields_set}
    settings: dict[str, Any] = {"cutoff_len": training.max_length}
    for name in (name for name in type(training).model_fields if name in exported and name not in TRANSLATED):
        value = getattr(training, name)
        if value is None and name not in training.model_fields_set:
            continue
        if name in NO_COUNTERPART or name in TRL_ONLY or name in NEWER_FIELDS:
            if value != type(training).model_fields[name].default:
                left_out[f"training.{name}"] = NO_COUNTERPART.get(name, "it does not know it")
        else:
            settings[name] = value
    if not evaluate:
        settings |= {"eval_strategy": "no", "eval_on_start": False}
    if not training.assistant_only_loss:
        settings["train_on_prompt"] = True
    settings["disable_gradient_checkpointing"] = not training.activation_checkpointing
    return settings | precision_settings(config, left_out)


def precision_settings(config: Config, left_out: dict[str, str]) -> dict[str, Any]:
    """bf16 or fp16: LLaMA-Factory holds the base in the type that it computes in; without either, float32 on a CPU."""
    training, dtype = config.training, config.model.dtype
    if training.use_cpu:
        if dtype in ("bfloat16", "float16"):
            left_out["model.dtype"] = f"{dtype} on a CPU: it takes float32 there"
        return {"use_cpu": True} | ({"bf16": True} if training.bf16 else {})
    if training.bf16 is not None or training.fp16 is not None:
        precision = "bf16" if training.bf16 else "fp16" if training.fp16 else None
    else:
        precision = {"float16": "fp16", "float32": None}.get(dtype, "bf16")
    if dtype == "float32":
        left_out["model.dtype"] = "float32: it holds a 16-bit base in 16 bit"
    return {precision: True} if precision else {}


def sampling_settings(config: Config, generation_config: dict[str, Any]) -> dict[str, Any]:
    """How answers are sampled. `generation_config`: the generation_config.json that goes with the model."""
    return config.generation.model_dump() | {"top_k": top_k_of(generation_config)}


def top_k_of(generation_config: Mapping[str, Any]) -> int:
    """The number of likeliest tokens to sample from; unset it is 50 in transformers. BaseError where it is none."""
    top_k = generation_config.get("top_k")
    if top_k is None:
        return 50
    if not isinstance(top_k, int) or top_k < 0:
        raise BaseError(f"generation_config.json: top_k is {top_k!r}, which is no number of tokens")
    return int(top_k)


def named_targets(pattern: str, tensors: Collection[str]) -> list[str] | None:
    """Full names of the layers that PEFT takes for a regular expression; None for `all-linear` and where none fits."""
    if pattern == "all-linear":
        return None
    modules = {name.removesuffix(".weight") for name in tensors if name.endswith(".weight")}
    return sorted(name for name in modules if re.fullmatch(pattern, name)) or None
