"""The result of a training, complete or absent, and whether it renders prompts as it was trained."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from train.core.config import Config
from train.core.files import complete_folder
from train.core.runs import Run
from train.encoding.held_out import prompt_differences
from train.encoding.loss_mask import render
from train.encoding.rows import Encoding
from train.models.load import load_run_tokenizer
from train.models.save import copy_tokenizer, put_over_unchanged_base, write_generation_config


def checkpoint_bytes(trainer: Any) -> int:
    """Trained weights and Adam's two sums, in float32."""
    return 12 * sum(int(parameter.numel()) for parameter in trainer.model.parameters() if parameter.requires_grad)


def adapter_state_dict(model: Any) -> dict[str, Any]:
    """The trained weights of a model that FSDP has spread, whole and on the CPU in the first process; empty in others.

    The frozen base stays where it is: accelerate's own would gather it too, several times the memory of a GPU.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    gathered = get_model_state_dict(model, options=options)  # with a head that is tied to the embedding
    return {name: weight for name, weight in gathered.items() if name in trained}


def save_result(trainer: Any, run: Run, base: Path, tokenizer: Any, config: Config) -> None:
    """adapter/, or merged/ after full tuning; complete or absent. Every process takes part, the first one writes."""
    weights = trainer.accelerator.get_state_dict(trainer.model)  # gathers what FSDP has spread
    if not trainer.accelerator.is_main_process:
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    with complete_folder(run.adapter if config.lora else run.merged) as folder:
        if config.lora:
            for adapter in model.peft_config.values():
                adapter.base_model_name_or_path = config.model.name_or_path
            model.save_pretrained(folder, state_dict=weights)
            if trainer.initial_adapter:
                put_over_unchanged_base(folder, trainer.initial_adapter)
            (folder / "README.md").unlink(missing_ok=True)  # PEFT's card is a form to fill in
        else:
            model.save_pretrained(folder, state_dict=weights)
        copy_tokenizer(base, tokenizer, folder)
        write_generation_config(base, tokenizer, config.generation, run.end_of_turn(), folder)


def check_saved_prompts(run: Run, eval_set: Encoding, today: datetime) -> None:
    """Render the held-out prompts as a server does, from the files just saved; what differs is said and recorded."""
    served = load_run_tokenizer(run)
    differing = prompt_differences(
        lambda messages, tools: render(served, messages, tools=tools, today=today),
        eval_set.rows,
        eval_set.encoded,
        served.decode,
    )
    count = len(eval_set.rows)
    print(f"parity: {count - len(differing)} of {count} held-out prompts render as trained", file=sys.stderr)
    for line, reason in differing[:5]:
        print(f"parity: held-out row at line {line}: {reason}", file=sys.stderr)
    run.update_manifest(parity={"prompts": count, "differing": [line for line, _ in differing]})
