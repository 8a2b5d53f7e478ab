"""Base, adapter and rows put together in one of TRL's trainers."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import set_seed

from train.core import compat
from train.core.config import Config, Lora
from train.core.errors import ConfigError
from train.models.load import Precision, load_base, lora_config
from train.tuning.resume import load_start
from train.tuning.save import adapter_state_dict


def put_together(
    trainer_class: Any,
    config: Config,
    base: Path,
    tokenizer: Any,
    precision: Precision,
    arguments: Any,
    train_set: Dataset,
    eval_set: Dataset | None,
) -> Any:
    """A trainer of that class; ConfigError where the libraries refuse the adapter, the tracker or the optimizer."""
    disable_progress_bars()
    sharded = compat.launched_with_fsdp()
    model = load_base(config.model, base, precision, use_cpu=config.training.use_cpu, sharded=sharded)
    if arguments.ddp_find_unused_parameters is None:  # only experts may have no part in a batch
        arguments.ddp_find_unused_parameters = any(name.endswith("experts") for name, _ in model.named_modules())
    adapter = lora_config(config.lora, model) if config.lora else None
    try:
        hides_head = adapter is not None and tunes_head(model, adapter)
        if adapter and (hides_head or (config.dpo and config.lora and config.lora.start_from)):
            if hides_head and config.lora and config.lora.changes_base:
                raise ConfigError(_head_in_base(config.lora))
            set_seed(arguments.seed)  # as TRL does
            model, adapter = get_peft_model(model, adapter), None
        if hides_head:  # TRL refuses a tuned head, so it sees the one below
            head = model.get_output_embeddings().get_base_layer()
            model.get_output_embeddings = lambda: head
        trainer = trainer_class(
            model=model,
            args=arguments,
            train_dataset=train_set,
            eval_dataset=eval_set,
            processing_class=tokenizer,
            peft_config=adapter,
        )
    except ValueError as error:  # no layer of that name, a combination that TRL refuses, …
        raise ConfigError(str(error).strip().split("\n", 1)[0]) from None
    except (RuntimeError, ImportError) as error:
        if "install" not in str(error):
            raise
        raise ConfigError(f"training.report_to or training.optim: {str(error).strip()}") from None
    if hides_head:
        del model.get_output_embeddings
    if config.lora:
        _settle_adapter(trainer, config, config.lora, sharded=sharded)
    return trainer


def _settle_adapter(trainer: Any, config: Config, lora: Lora, *, sharded: bool) -> None:
    """The adapter's types, first weights and way to disk."""
    compat.save_adapter_alone(trainer.model)
    if sharded:
        trainer.accelerator.get_state_dict = adapter_state_dict  # for checkpoints and the result
    if config.model.load_in_4bit:
        for parameter in trainer.model.parameters():  # TRL has put the adapter, and so Adam's sums, into bfloat16
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.float32)
    if lora.start_from:
        for name in trainer.model.peft_config:  # for preference tuning also the one that answers are compared with
            load_start(trainer.model, lora, name)
    if lora.changes_base:
        weights = get_peft_model_state_dict(trainer.model, save_embedding_layers=False)
        trainer.initial_adapter = {name: weight.detach().cpu().clone() for name, weight in weights.items()}


def _head_in_base(lora: Lora) -> str:
    return (
        f"lora.init_lora_weights: {lora.init_lora_weights} begins in the base's weights, and the head's may be the "
        "embeddings' as well: leave the head out of lora.target_modules"
    )


def tunes_head(model: Any, adapter: LoraConfig) -> bool:
    """Whether the adapter's target modules name the head."""
    head = model.get_output_embeddings()
    return any(module is head and compat.is_target(adapter, name) for name, module in model.named_modules())
