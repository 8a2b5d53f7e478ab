"""Base model, tokenizer and adapter: the only place that loads weights."""

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, NamedTuple

from train.core.config import Config, Generation, Lora, Model
from train.core.errors import BaseError, MachineError, RunError
from train.core.runs import Run
from train.plan.shapes import given_folder

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
GENERATION_FILE = "generation_config.json"
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")  # an old base names them in config.json alone
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Settings that only sampling uses."""
OFF = "TORCHDYNAMO_DISABLE"
TEMPLATE_FILE = "chat_template.jinja"  # transformers prefers it to the template inside tokenizer_config.json


class Precision(NamedTuple):
    """In which types a model is held and computed."""

    weights: Any
    """torch.dtype of the base weights; of what NF4 weights are unpacked to."""
    autocast: Literal["bf16", "fp16"] | None


def find_base(model: Model) -> Path:
    """Local folder of the base: the given one, or the Hub's files in the local cache, downloaded if need be.

    From here on only that folder is read, so that nothing later asks the network again.
    """
    if folder := given_folder(model):
        return folder
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = ["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model"]
    patterns += ["README.md", "LICENSE*", "NOTICE*", "USE_POLICY*"]  # whoever passes the weights on needs them
    try:
        return Path(snapshot_download(model.name_or_path, revision=model.revision, allow_patterns=patterns))
    except LocalEntryNotFoundError:
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
        raise BaseError(
            f"{model.name_or_path} is not in the local cache and {reason}: "
            "download it where there is a network, or give a local folder as model.name_or_path"
        ) from None
    except Exception as error:  # repository not found, gated, revision unknown, no room, cut off, …
        summary = str(error).strip().split("\n", 1)[0]
        raise BaseError(f"{model.name_or_path} could not be fetched from the Hub: {summary}") from None


def base_revision(base: Path) -> str | None:
    """Commit of a base that came from the Hub: the name of its folder in the cache."""
    return base.name if base.parent.name == "snapshots" else None


def require_device(config: Config) -> None:
    """MachineError where the config needs a GPU and there is none."""
    import torch

    if config.training.use_cpu or torch.cuda.is_available():
        return
    if torch.accelerator.is_available() and not config.model.load_in_4bit:
        return
    wanted = "NF4 (model.load_in_4bit) on a CUDA GPU" if config.model.load_in_4bit else "a GPU"
    raise MachineError(
        f"{config.name} wants {wanted}, and torch {torch.__version__} sees none: check nvidia-smi and that torch is a "
        "CUDA build, or add training.use_cpu=true to train on the CPU (slow)"
    )


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


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a base or adapter folder."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise BaseError(f"{folder}: its tokenizer cannot be loaded: {_first_line(error)}") from None


def load_base(model: Model, base: Path, precision: Precision, *, use_cpu: bool, sharded: bool = False) -> Any:
    """The base model from a local folder, on its device, in the given type, 4-bit if the config says so.

    `sharded`: FSDP will place it, so it stays on the CPU.
    """
    import torch
    from transformers import AutoModelForCausalLM

    quantization = nf4_config(precision.weights, sharded=sharded) if model.load_in_4bit else None
    device = "cpu" if use_cpu or not torch.accelerator.is_available() else int(os.environ.get("LOCAL_RANK", "0"))
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            base,
            dtype=precision.weights,
            quantization_config=quantization,
            attn_implementation=model.attn_implementation,
            device_map=None if sharded else {"": device},
            trust_remote_code=model.trust_remote_code,
        )
        for module in loaded.modules():
            # bitsandbytes 0.50 repacks a CPU layer's weights when it first runs in eval mode, for a kernel that has no
            # gradient: training after an evaluation would go on with wrong gradients. It asks this attribute first.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        return loaded
    except torch.OutOfMemoryError:
        raise MachineError(f"{model.name_or_path} does not fit the GPU: try model.load_in_4bit=true") from None
    except Exception as error:  # not a causal language model, damaged files, an attention that is not installed
        raise BaseError(f"{model.name_or_path} cannot be loaded: {_first_line(error)}") from None


def nf4_config(dtype: Any, *, sharded: bool = False) -> Any:
    """transformers' settings of NF4 with double quantisation, unpacked to `dtype`."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype if sharded else None,  # FSDP shards tensors of one type only
    )


def lora_config(lora: Lora) -> Any:
    """PEFT's LoraConfig of the section."""
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", **lora.model_dump())


def put_over_unchanged_base(folder: Path, initial: dict[str, Any]) -> None:
    """Rewrite a saved adapter whose first weights (`initial`) were taken out of the base to one over the base itself.

    W' = (W - s·B₀A₀) + s·BA = W + s·[B, -B₀][A; A₀]: an adapter of twice the rank with the same scaling s.
    """
    import torch
    from peft import LoraConfig
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    for name, first in initial.items():
        if ".lora_A." in name:
            weights[name] = torch.cat([weights[name], first.to(weights[name])], dim=0)
        elif ".lora_B." in name:
            weights[name] = torch.cat([weights[name], -first.to(weights[name])], dim=1)
    save_file(weights, file, metadata={"format": "pt"})
    config = LoraConfig.from_pretrained(folder)
    config.r, config.init_lora_weights = 2 * config.r, True
    config.lora_alpha *= 2**0.5 if config.use_rslora else 2  # s is lora_alpha / √r, or lora_alpha / r
    config.save_pretrained(folder)


def load_tuned(run: Run, *, use_cpu: bool = False) -> tuple[Any, Any]:
    """(model, tokenizer) of a finished run for inference: base + adapter as trained, or the fully tuned model."""
    config = _on_cpu(run.config()) if use_cpu else run.config()
    precision = resolve_precision(config)
    if not run.adapter.exists():
        return load_merged(run, use_cpu=use_cpu), load_tokenizer(run.merged)
    from peft import PeftModel

    base = load_base(config.model, run_base(run), precision, use_cpu=config.training.use_cpu)
    return PeftModel.from_pretrained(base, run.adapter).eval(), load_tokenizer(run.adapter)


def load_merged(run: Run, folder: Path | None = None, *, use_cpu: bool = False) -> Any:
    """The run's whole model: merged, or fully tuned. `folder`: where it lies, if not in merged/."""
    config = _on_cpu(run.config()) if use_cpu else run.config()
    folder = folder or run.merged
    if not folder.exists():
        raise RunError(f"{run.path} has no merged model yet: govor merge {run.path}")
    whole = config.model.model_copy(update={"name_or_path": str(folder), "load_in_4bit": False})
    return load_base(whole, folder, resolve_precision(config), use_cpu=config.training.use_cpu).eval()


def _on_cpu(config: Config) -> Config:
    return config.model_copy(update={"training": config.training.model_copy(update={"use_cpu": True})})


def run_base(run: Run) -> Path:
    """The base that the run was trained on; BaseError where the one found now is another."""
    model = run.config().model
    trained_on = run.manifest()["base"]
    base = Path(trained_on["path"])
    if not (base / "config.json").is_file():  # the run has moved to another machine, or the cache was emptied
        base = find_base(model.model_copy(update={"revision": trained_on["revision"] or model.revision}))
    if weights_fingerprint(base) != trained_on["weights"]:
        raise BaseError(f"{model.name_or_path} has changed since {run.path} was trained on it: its weights differ")
    return base


def weights_fingerprint(base: Path) -> dict[str, str]:
    """sha256 over size, first and last MiB of every weights file: tells one base from another."""
    found = {}
    for file in sorted(base.glob("*.safetensors")):
        with file.open("rb") as handle:
            length = handle.seek(0, os.SEEK_END)
            digest = hashlib.sha256(str(length).encode())
            for start in (0, max(0, length - 2**20)):
                handle.seek(start)
                digest.update(handle.read(2**20))
        found[file.name] = digest.hexdigest()
    return found


def copy_tokenizer(base: Path, tokenizer: Any, target: Path) -> None:
    """The base's tokenizer files verbatim, and its chat template frozen beside them."""
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, target / name)
    (target / TEMPLATE_FILE).write_text(tokenizer.chat_template, encoding="utf-8")


def write_generation_config(
    base: Path, tokenizer: Any, generation: Generation, stop: Collection[int], folder: Path
) -> None:
    """generation_config.json: the config's settings over the base's own, so that every engine samples alike and stops.

    `stop`: ids that end a turn, besides those that the base names.
    """

    def read(name: str) -> dict[str, Any]:
        return json.loads((base / name).read_bytes()) if (base / name).is_file() else {}

    model = read("config.json")
    saved = {key: model[key] for key in SPECIAL_IDS if model.get(key) is not None}
    saved |= read(GENERATION_FILE) | generation.model_dump()
    if not generation.do_sample:  # beside it GenerationConfig calls invalid what only sampling uses
        saved = {key: value for key, value in saved.items() if key not in SAMPLING}
    saved.pop("max_length", None)  # max_new_tokens stands instead
    ends = saved.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if not set(stop) <= set(ends):
        saved["eos_token_id"] = [*dict.fromkeys([*ends, *stop])]
    if saved.get("pad_token_id") is None:
        saved["pad_token_id"] = min(stop) if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    (folder / GENERATION_FILE).write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")


def quiet_libraries() -> None:
    """Leave the terminal to us: no bars of the libraries, none of their notices to each other's developers."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # offers a package that would download kernels
    warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")  # govor's merge parts them
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|accelerate)\.")


def import_peft(config: Config) -> None:
    """Import PEFT and with it bitsandbytes, which has torch's compiler loaded to wrap four functions of its own.

    They stand in for kernels that a device lacks. Where the config has no use for them the compiler stays out: it would
    be a second before the first step. Later calls of torch.compile work as ever.
    """
    if config.model.load_in_4bit or "torch" not in config.training.optim or OFF in os.environ:
        return
    os.environ[OFF] = "1"
    try:
        import peft  # noqa: F401 (to be there)
    finally:
        del os.environ[OFF]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
