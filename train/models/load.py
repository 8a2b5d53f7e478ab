"""Base model, tokenizer and adapter: the only place that loads weights."""

import gc
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from train.core import compat
from train.core.config import Config, Lora, Model
from train.core.errors import BaseError, ConfigError, MachineError, RunError
from train.core.progress import progress
from train.core.runs import Run
from train.models.base import language_config, one_template, read_json, run_base

HEADROOM = 3 * 2**29
"""Bytes kept free on the device and in memory beside a model's weights: activations, logits, other programs."""
ALL_LINEAR = "all-linear"
"""Every linear layer but the head, among target modules."""


class Precision(NamedTuple):
    """The types in which a model is held and computed."""

    weights: Any
    """torch.dtype of the base weights; of what NF4 weights are unpacked to."""
    autocast: Literal["bf16", "fp16"] | None


def require_device(config: Config) -> None:
    """MachineError where the config needs a GPU and torch can use none; ConfigError for NF4 under FSDP."""
    import torch

    if config.model.load_in_4bit and compat.launched_with_fsdp():  # accelerate's issue 3874
        raise ConfigError(
            "model.load_in_4bit: under FSDP every process would hold the whole base: launch with "
            "configs/accelerate/ddp.yaml (a 4-bit base on each GPU), or shard 16-bit weights (model.load_in_4bit=false)"
        )
    if config.training.use_cpu:
        return
    if torch.cuda.is_available():
        card, cards = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if card >= cards:
            raise MachineError(
                f"process {card + 1} on this machine finds no GPU of its own, for torch sees {cards}: start no more "
                f"processes than that (--num_processes {cards}), or let more be seen by CUDA_VISIBLE_DEVICES"
            )
        require_compiled_for(torch.cuda.get_device_capability(card), torch.cuda.get_arch_list())
        return
    if torch.accelerator.is_available() and not config.model.load_in_4bit:
        return
    wanted = "NF4 (model.load_in_4bit) on a CUDA GPU" if config.model.load_in_4bit else "a GPU"
    raise MachineError(
        f"{config.name} wants {wanted}, and torch {torch.__version__} sees none: check nvidia-smi and that torch is a "
        "CUDA build, or add training.use_cpu=true to train on the CPU (slow)"
    )


def require_compiled_for(capability: tuple[int, int], architectures: Sequence[str]) -> None:
    """MachineError where torch has no code for a card of that compute capability.

    `architectures`: what torch was built for. Machine code (sm_XY) runs on cards of the same major version from that
    minor one on, intermediate code (compute_XY) on every later card. Other names, as ROCm's gfx942, tell nothing.
    """
    import torch

    known = [found for name in architectures if (found := re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", name))]
    for found in known:
        built = int(found[2]), int(found[3])
        if built <= capability and (found[1] == "compute" or built[0] == capability[0]):
            return
    if not known:
        return
    card = ".".join(map(str, capability))
    raise MachineError(
        f"torch {torch.__version__} has no code for this card (compute capability {card}; it has "
        f"{', '.join(architectures)}): install a build of torch for an older CUDA, or train on the CPU with "
        "training.use_cpu=true (slow)"
    )


def precision_warning(base: Path, precision: Precision) -> str | None:
    """A line on a base that is known to overflow in the type that it is computed in; None where there is none."""
    family = str(language_config(base).get("model_type", ""))
    if precision.autocast == "fp16" and family.startswith("gemma"):
        return (
            f"warning: {family} is known to overflow in float16, and this GPU has no bfloat16: watch the loss, or take "
            "a base of another family"
        )
    return None


def resolve_precision(config: Config) -> Precision:
    """The types that the config asks for, with `auto` settled for this machine."""
    import torch

    cpu = config.training.use_cpu or not torch.accelerator.is_available()
    bf16 = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    sixteen = torch.bfloat16 if bf16 else torch.float16
    if config.model.dtype != "auto":
        weights = getattr(torch, config.model.dtype)
    elif cpu or config.lora is None:  # full tuning: steps of 1e-5 are lost in 16-bit weights
        weights = torch.float32
    else:
        weights = sixteen
    if config.training.bf16 is not None or config.training.fp16 is not None:
        return Precision(weights, "bf16" if config.training.bf16 else "fp16" if config.training.fp16 else None)
    if cpu:
        return Precision(weights, None)
    return Precision(weights, "bf16" if weights == torch.bfloat16 or (weights == torch.float32 and bf16) else "fp16")


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a base or adapter folder. `trust_remote_code`: run code that lies there, where it needs any."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        reason = _needs_code(error) or _first_line(error)
        raise BaseError(f"{folder}: its tokenizer cannot be loaded: {reason}") from None
    if isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = one_template(tokenizer.chat_template)
    return tokenizer


def load_model_config(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """transformers' configuration of the model in a folder. `trust_remote_code`: as of `load_tokenizer`."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        reason = _needs_code(error) or _first_line(error)
        raise BaseError(f"{folder / 'config.json'} cannot be loaded: {reason}") from None


def _needs_code(error: Exception) -> str | None:
    """What to do where transformers does not load what it would have to run code for; None for other errors."""
    if "trust_remote_code" not in str(error):
        return None
    return (
        "it brings Python code that would have to run: read it, then say model.trust_remote_code=true in your config, "
        "or --trust-remote-code with a run"
    )


def require_safe_adapter(adapter: Path) -> dict[str, Any]:
    """The adapter's config; RunError where loading the adapter could run code, or where it is damaged.

    Pickled weights are code, PEFT imports the module that `megatron_core` names, and reads pickles that some kinds of
    `init_lora_weights` name.
    """
    file = adapter / "adapter_config.json"
    settings = read_json(file)
    if not settings:
        raise RunError(f"{file}: it is not there, or not a JSON object: the adapter is damaged")
    if (adapter / "adapter_model.bin").exists() and not (adapter / "adapter_model.safetensors").is_file():
        raise RunError(f"{adapter} has no adapter_model.safetensors; pickled weights (.bin) are never read")
    core = settings.get("megatron_core")
    named = [name for name in ("megatron_config", "corda_config", "eva_config") if settings.get(name)]
    named += ["megatron_core"] * (core not in (None, "megatron.core"))
    if named:
        raise RunError(f"{file}: {named[0]} names code or files to load, which govor does not do: it never wrote that")
    return settings


def load_base(
    model: Model,
    base: Path,
    precision: Precision,
    *,
    use_cpu: bool,
    sharded: bool = False,
    offload: bool = False,
    advice: str | None = None,
) -> Any:
    """The base model from a local folder, on its device, in the given type, 4-bit if the config says so.

    `sharded`: FSDP will place it, so it stays on the CPU. `offload`: layers that do not fit the device wait in memory
    or, where that does not suffice either, in the files they came from, and are fetched when they compute; NF4 layers
    cannot. `advice`: what to do where it does not fit, for the MachineError.
    """
    import torch
    from transformers import AutoModelForCausalLM

    quantised = "quantization_config" in read_json(base / "config.json")  # such weights are loaded as they are
    quantization = (
        {"quantization_config": nf4_config(precision.weights)} if model.load_in_4bit and not quantised else {}
    )
    device = model_device(use_cpu=use_cpu)
    placement: dict[str, Any] = {"device_map": None if sharded else {"": device}}
    if offload and not model.load_in_4bit and (limits := free_memory(device)):
        placement = {"device_map": "auto", "max_memory": limits}
    try:
        with progress(f"loading {model.name_or_path}"):
            loaded = AutoModelForCausalLM.from_pretrained(
                base,
                dtype=precision.weights,
                **quantization,
                attn_implementation=model.attn_implementation,
                trust_remote_code=model.trust_remote_code,
                use_safetensors=True,  # the others are pickles, which run code
                **placement,
            )
        compat.forbid_cpu_repacking(loaded)
        return loaded
    except torch.OutOfMemoryError:
        if advice is None and not model.load_in_4bit:
            raise MachineError(f"{model.name_or_path} does not fit the GPU: try model.load_in_4bit=true") from None
        advice = advice or "choose a smaller base, or free what else takes its memory"
        in_nf4 = " even in NF4" * model.load_in_4bit
        raise MachineError(f"{model.name_or_path} does not fit the GPU{in_nf4}: {advice}") from None
    except Exception as error:  # not a causal language model, damaged files, an attention that is not installed
        reason = _needs_code(error) or _first_line(error)
        raise BaseError(f"{model.name_or_path} cannot be loaded: {reason}") from None


def model_device(*, use_cpu: bool) -> int | str:
    """Where a model computes: "cpu", or the index of this process's accelerator."""
    import torch

    return "cpu" if use_cpu or not torch.accelerator.is_available() else int(os.environ.get("LOCAL_RANK", "0"))


def free_memory(device: int | str) -> dict[int | str, int]:
    """Bytes that weights may take on the device and in memory, HEADROOM left free on each; empty where unknown."""
    from accelerate.utils import get_max_memory

    free = get_max_memory()
    if device not in free:
        return {}
    return {place: max(0, free[place] - HEADROOM) for place in dict.fromkeys((device, "cpu"))}


def bring_home(model: Any) -> None:
    """Give every module of a model that was loaded with `offload` its weights for good, on the CPU; for small models.

    Where a module's weights were on its device already they stay there.
    """
    from accelerate.hooks import remove_hook_from_module
    from accelerate.utils import align_module_device, has_offloaded_params, set_module_tensor_to_device

    for module in model.modules():
        values: dict[str, Any] = {}
        if has_offloaded_params(module):
            with align_module_device(module, "cpu"):
                values = {name: parameter.data for name, parameter in module.named_parameters(recurse=False)}
        remove_hook_from_module(module)
        for name, value in values.items():
            set_module_tensor_to_device(module, name, "cpu", value=value)


def nf4_config(dtype: Any) -> Any:
    """transformers' settings of NF4 with double quantisation, unpacked to `dtype`."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def lora_config(lora: Lora, model: Any) -> Any:
    """PEFT's LoraConfig of the section for this base; ConfigError where a target module names no layer of it."""
    from peft import LoraConfig

    settings = lora.model_dump(exclude={"start_from"}) | {"target_modules": resolve_targets(lora.target_modules, model)}
    return LoraConfig(task_type="CAUSAL_LM", **settings)


def resolve_targets(wanted: str | list[str], model: Any) -> str | list[str]:
    """The target modules as PEFT takes them: all-linear among others is spelled out, and every entry fits a layer.

    PEFT itself is content when one of them does.
    """
    from peft import LoraConfig

    names = [name for name, _ in model.named_modules()]
    for entry in [wanted] if isinstance(wanted, str) else wanted:
        if entry.lower() == ALL_LINEAR or entry.rsplit(".", 1)[-1] in compat.fused_experts(model):
            continue
        alone = LoraConfig(target_modules=entry if isinstance(wanted, str) else [entry])
        if not any(compat.is_target(alone, name) for name in names):
            leaves = sorted({name.rsplit(".", 1)[-1] for name in compat.linear_layers(model)})
            as_list = f"; a name goes in a list: [{entry}]" if isinstance(wanted, str) and entry in leaves else ""
            raise ConfigError(
                f"lora.target_modules: {entry!r} names no layer of the base; it has {', '.join(leaves)}{as_list}"
            )
    if isinstance(wanted, str) or not any(entry.lower() == ALL_LINEAR for entry in wanted):
        return wanted
    others = {entry for entry in wanted if entry.lower() != ALL_LINEAR}
    return sorted(compat.linear_layers(model) | others)


def unwrap(model: Any) -> Any:
    """The model inside PEFT's, or itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def load_run_tokenizer(run: Run, folder: Path | None = None) -> Any:
    """The tokenizer of a finished run. `folder`: where it lies, if not beside what training left.

    RunError where the chat template that training froze there is gone.
    """
    folder = folder or (run.adapter if run.adapter.exists() else run.merged)
    tokenizer = load_tokenizer(folder, trust_remote_code=run.trust_remote_code)
    if not tokenizer.chat_template:
        raise RunError(f"{folder / 'chat_template.jinja'}: training left a template there, and it is gone or empty")
    return tokenizer


def load_tuned(run: Run, *, use_cpu: bool = False, in_4bit: bool = True, offload: bool = False) -> tuple[Any, Any]:
    """(model, tokenizer) of a finished run for inference: base + adapter as trained, or the fully tuned model.

    `in_4bit`: false for the base in 16 bits where it was trained in NF4. `offload`: as of `load_base`.
    """
    config = _on_cpu(run.config()) if use_cpu else run.config()
    precision = resolve_precision(config)
    if not run.adapter.exists():
        return load_merged(run, use_cpu=use_cpu), load_run_tokenizer(run, run.merged)
    import_peft(config)
    import torch
    from peft import PeftModel

    require_safe_adapter(run.adapter)
    model = config.model if in_4bit else config.model.model_copy(update={"load_in_4bit": False})
    use_cpu = config.training.use_cpu
    offload = offload and _is_plain_lora(run.adapter)
    advice = None if in_4bit else f"govor merge {run.path} --device cpu"
    base = load_base(model, run_base(run), precision, use_cpu=use_cpu, offload=offload, advice=advice)
    places = set(getattr(base, "hf_device_map", {}).values())
    if len(places) > 1 or "disk" in places:
        # PEFT would place the model anew and write the base's files again, over them unless they lie in the Hub's
        # cache. The hooks stand on the layers that it wraps, so they serve as they are; but it puts an adapter where
        # its layer's weight is, and that of a layer which waits elsewhere is nowhere.
        del base.hf_device_map
        nothing = torch.zeros((), device=model_device(use_cpu=use_cpu))

        def placed(weight: Any) -> Any:
            here = nothing.to(weight.dtype).expand(weight.shape)
            return torch.nn.Parameter(here, requires_grad=False) if weight.device.type == "meta" else weight

        compat.replace_parameters(base, placed)
    try:
        tuned = PeftModel.from_pretrained(base, run.adapter).eval()
    except Exception as error:  # damaged weights or settings, or those of another base
        raise RunError(f"{run.adapter} cannot be loaded over its base: {_first_line(error)}") from None
    return tuned, load_run_tokenizer(run, run.adapter)


def adapter_settings(adapter: Path) -> Any:
    """The adapter's config as PEFT reads it; RunError where it is damaged or names code."""
    from peft import PeftConfig

    require_safe_adapter(adapter)
    try:
        return PeftConfig.from_pretrained(adapter)
    except Exception as error:
        raise RunError(f"{adapter / 'adapter_config.json'}: damaged: {_first_line(error)}") from None


def _is_plain_lora(adapter: Path) -> bool:
    """Whether the adapter only adds to what its layers give, and so works on layers whose weights come and go."""
    from peft import LoraConfig

    config = adapter_settings(adapter)
    others = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication")
    return (
        isinstance(config, LoraConfig) and config.bias == "none" and not any(getattr(config, o, None) for o in others)
    )


def load_merged(run: Run, folder: Path | None = None, *, use_cpu: bool = False, offload: bool = False) -> Any:
    """The run's whole model: merged, or fully tuned. `folder`: where it lies, if not in merged/.

    `offload`: as of `load_base`.
    """
    config = _on_cpu(run.config()) if use_cpu else run.config()
    folder = folder or run.merged
    if not folder.exists():
        raise RunError(f"{run.path} has no merged model yet: govor merge {run.path}")
    whole = config.model.model_copy(update={"name_or_path": str(folder), "load_in_4bit": False})
    advice = f"govor merge --device cpu, and for use govor export {run.path} --to gguf"
    use_cpu = config.training.use_cpu
    return load_base(whole, folder, resolve_precision(config), use_cpu=use_cpu, offload=offload, advice=advice).eval()


def _on_cpu(config: Config) -> Config:
    return config.model_copy(update={"training": config.training.model_copy(update={"use_cpu": True})})


def quiet_libraries() -> None:
    """Leave the terminal to us: no bars of the libraries, none of their notices to each other's developers."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # offers a package that would download kernels
    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)  # says that layers were offloaded, as asked
    warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")  # govor's merge parts them
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|accelerate)\.")


def import_peft(config: Config) -> None:
    """Import PEFT and with it bitsandbytes, which has torch's compiler loaded to wrap four functions of its own.

    They stand in for kernels that a device lacks. Where the config has no use for them the compiler stays out: it would
    be a second before the first step. Later calls of torch.compile work as ever.
    """
    if "peft" in sys.modules:
        return
    gc.disable()  # it would walk again and again through a million objects, all of which stay
    try:
        if not config.model.load_in_4bit and "torch" in config.training.optim:
            compat.import_peft_without_compiler()
        else:
            import peft  # noqa: F401 (to be there)
    finally:
        gc.freeze()
        gc.enable()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
