"""One tool's training job for bench_train.py, in a process and an environment of its own: no import of ours up here.

    python scripts/bench_train_worker.py govor|trl|llamafactory|unsloth SPEC.json REPORT.json

SPEC: see `bench_train.Job`. REPORT: when every step ended (seconds since the epoch, and of the processor), what was
logged, GPU memory.
The stopwatch is the same for all: it is a callback of transformers' Trainer, which every one of the tools runs through.
"""

import atexit
import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any


def main(tool: str, spec_file: str, report_file: str) -> None:
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    watch(Path(report_file))
    {"govor": govor, "trl": trl, "llamafactory": llamafactory, "unsloth": unsloth}[tool](spec)


def watch(report: Path) -> None:
    """Note the time after every step, and what is logged."""
    import torch
    from transformers import Trainer, TrainerCallback

    begun: list[float] = []
    steps: list[float] = []
    processor: list[float] = []
    logged: list[dict[str, Any]] = []

    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.time()

    class Stopwatch(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            begun.append(now())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps.append(now())
            processor.append(time.process_time())

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            numbers = {key: value for key, value in (logs or {}).items() if isinstance(value, int | float)}
            logged.append({"step": state.global_step, **numbers})

    train = Trainer.train

    def watched(self: Any, *more: Any, **named: Any) -> Any:
        self.add_callback(Stopwatch())
        return train(self, *more, **named)

    Trainer.train = watched

    def write() -> None:
        memory = None
        if torch.cuda.is_available():
            memory = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        found = {
            "begun": begun,
            "steps": steps,
            "processor": processor,
            "logs": logged,
            "memory": memory,
            "device": device,
        }
        report.write_text(json.dumps(found), encoding="utf-8")

    atexit.register(write)


def govor(spec: dict[str, Any]) -> None:
    """The verb itself, from the rows."""
    script = Path(__file__).resolve().parents[1] / "train/sft.py"
    sys.argv = [str(script), spec["govor_config"]]
    sys.path.insert(0, str(script.parent))  # as Python does for a script
    runpy.run_path(str(script), run_name="__main__")


def sixteen_bits() -> Any:
    """The 16-bit type that the card computes in by itself, as govor takes it: a torch.dtype."""
    import torch

    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def common(spec: dict[str, Any]) -> dict[str, Any]:
    """Settings that have one name everywhere."""
    import torch

    sixteen = None if spec["cpu"] else sixteen_bits()
    return {
        "output_dir": spec["out"],
        "max_steps": spec["steps"],
        "per_device_train_batch_size": spec["batch"],
        "gradient_accumulation_steps": 1,
        "learning_rate": spec["learning_rate"],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "optim": "adamw_torch_fused",
        "logging_steps": spec["logging_steps"],
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": spec["cpu"],
        "bf16": sixteen == torch.bfloat16,
        "fp16": sixteen == torch.float16,
        "seed": 42,
    }


def trl(spec: dict[str, Any]) -> None:
    """SFTTrainer as its documentation shows it, over the ids that govor makes."""
    import torch
    from datasets import load_from_disk
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    dtype = torch.float32 if spec["cpu"] else sixteen_bits()
    quantization = None
    if spec["load_in_4bit"]:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    device = None if spec["cpu"] else {"": 0}
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(
            spec["base"], dtype=dtype, quantization_config=quantization, device_map=device
        ),
        args=SFTConfig(
            **common(spec),
            max_length=spec["max_length"],
            train_sampling_strategy="sequential",
            activation_checkpointing=spec["checkpointing"],
            use_liger_kernel=spec["use_liger_kernel"],
        ),
        train_dataset=load_from_disk(spec["tokenized"])["train"].remove_columns("attention_mask"),
        processing_class=AutoTokenizer.from_pretrained(spec["base"]),
        peft_config=LoraConfig(r=spec["r"], lora_alpha=spec["lora_alpha"], target_modules="all-linear"),
    )
    trainer.train()
    trainer.save_model()


def llamafactory(spec: dict[str, Any]) -> None:
    """`llamafactory-cli train` in this process, over the same ids."""
    from llamafactory.train.tuner import run_exp

    given = {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": spec["base"],
        "tokenized_path": spec["tokenized"],
        "dataset": "none",
        "template": "empty",
        "cutoff_len": spec["max_length"],
        "disable_shuffling": True,
        "finetuning_type": "lora",
        "lora_rank": spec["r"],
        "lora_alpha": spec["lora_alpha"],
        "lora_target": "all",
        "flash_attn": "sdpa",
        "disable_gradient_checkpointing": not spec["checkpointing"],
        "overwrite_output_dir": True,
    }
    if spec["load_in_4bit"]:
        given |= {"quantization_bit": 4, "quantization_method": "bnb", "double_quantization": True}
    run_exp(given | common(spec))


def unsloth(spec: dict[str, Any]) -> None:
    """As Unsloth's notebooks do it, over the same ids. It needs a GPU; nobody of us has run it."""
    from unsloth import FastLanguageModel  # isort: skip (it patches what is imported behind it)
    from datasets import load_from_disk
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = FastLanguageModel.from_pretrained(
        spec["base"], max_seq_length=spec["max_length"], load_in_4bit=spec["load_in_4bit"]
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=spec["r"],
        lora_alpha=spec["lora_alpha"],
        lora_dropout=0,
        use_gradient_checkpointing="unsloth" if spec["checkpointing"] else False,
    )
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**common(spec), max_length=spec["max_length"], train_sampling_strategy="sequential"),
        train_dataset=load_from_disk(spec["tokenized"])["train"].remove_columns("attention_mask"),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main(*sys.argv[1:])
