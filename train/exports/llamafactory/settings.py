"""Our settings in LLaMA-Factory's words (version 0.9.5), and an account of those that it has no word for."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from train.core.config import Config, Training
from train.exports.llamafactory.templates import Choice

ATTENTION = {"sdpa": "sdpa", "eager": "disabled", "flash_attention_2": "fa2", "flash_attention_3": "fa3"}
TRANSLATED = ("max_length", "activation_checkpointing", "assistant_only_loss", "bf16", "fp16", "use_cpu")
WITHOUT_WORD = {
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
"""Settings that are left out, and why."""
ONLY_OURS = ("eval_packing", "packing_strategy", "pad_to_multiple_of", "padding_free", "shuffle_dataset")
NEWER = ("dataloader_in_order", "dataloader_multiprocessing_context")
"""Fields of SFTConfig that LLaMA-Factory's trainer does not know; it refuses a file with an unknown key."""


def model_settings(config: Config, place: str, revision: str | None) -> dict[str, Any]:
    """Which base, and how it is loaded. `place`: Hub id or absolute folder."""
    model = config.model
    settings: dict[str, Any] = {"model_name_or_path": place}
    if revision:
        settings["model_revision"] = revision
    if model.load_in_4bit:
        settings |= {"quantization_method": "bnb", "quantization_bit": 4, "quantization_type": "nf4"}
        settings["double_quantization"] = True
    settings["flash_attn"] = ATTENTION.get(model.attn_implementation, "auto")
    settings["trust_remote_code"] = model.trust_remote_code
    return settings


def template_settings(choice: Choice | None) -> dict[str, Any]:
    """Without a template that fits LLaMA-Factory reads the tokenizer's own as well as it can."""
    if choice is None:
        return {}
    return {"template": choice.template.name} | ({} if choice.thinking else {"enable_thinking": False})


def lora_settings(config: Config, targets: Sequence[str] | None, left_out: dict[str, str]) -> dict[str, Any]:
    """`targets`: names of the layers that a regular expression of ours stands for."""
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
    """The section `training`. Whatever transformers' own trainer knows goes over under its name."""
    training = config.training
    given = {*Training.model_fields, *training.model_fields_set}
    settings: dict[str, Any] = {"cutoff_len": training.max_length}
    for name in (name for name in type(training).model_fields if name in given and name not in TRANSLATED):
        value = getattr(training, name)
        if value is None and name not in training.model_fields_set:
            continue
        if name in WITHOUT_WORD or name in ONLY_OURS or name in NEWER:
            if value != type(training).model_fields[name].default:
                left_out[f"training.{name}"] = WITHOUT_WORD.get(name, "it does not know it")
        else:
            settings[name] = value
    if not evaluate:
        settings |= {"eval_strategy": "no", "eval_on_start": False}
    if not training.assistant_only_loss:
        settings["train_on_prompt"] = True
    settings["disable_gradient_checkpointing"] = not training.activation_checkpointing
    return settings | precision_settings(config, left_out)


def precision_settings(config: Config, left_out: dict[str, str]) -> dict[str, Any]:
    """LLaMA-Factory holds the base in the type that it computes in; without either it takes float32 on a CPU."""
    training, dtype = config.training, config.model.dtype
    if training.use_cpu:
        if dtype in ("bfloat16", "float16"):
            left_out["model.dtype"] = f"{dtype} on a CPU: it takes float32 there"
        return {"use_cpu": True} | ({"bf16": True} if training.bf16 else {})
    if training.bf16 is not None or training.fp16 is not None:
        found = "bf16" if training.bf16 else "fp16" if training.fp16 else None
    else:
        found = {"float16": "fp16", "float32": None}.get(dtype, "bf16")
    if dtype == "float32":
        left_out["model.dtype"] = "float32: it holds a 16-bit base in 16 bit"
    return {found: True} if found else {}


def sampling_settings(config: Config, saved: dict[str, Any]) -> dict[str, Any]:
    """How answers are sampled. `saved`: the generation_config.json that goes with the model."""
    return config.generation.model_dump() | {"top_k": top_k_of(saved)}


def top_k_of(saved: Mapping[str, Any]) -> int:
    """Sample from so many of the likeliest tokens; unset it is 50 in transformers."""
    found = saved.get("top_k")
    return 50 if found is None else int(found)


def named_targets(pattern: str, tensors: Collection[str]) -> list[str] | None:
    """Full names of the layers that PEFT takes for a regular expression; None for a word that is none."""
    if pattern == "all-linear":
        return None
    modules = {name.removesuffix(".weight") for name in tensors if name.endswith(".weight")}
    return sorted(name for name in modules if re.fullmatch(pattern, name)) or None
