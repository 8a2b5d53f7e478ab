"""Every field of SFTConfig: it works, or a config that sets it is refused by its name before anything starts."""

import math
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from train.core.config import OWNED, config_class, load_config
from train.core.errors import ConfigError
from train.core.runs import Run
from train.models.load import resolve_precision
from train.models.save import TOKENIZER_FILES
from train.sft import train
from train.tuning.arguments import trl_arguments

FIELDS = {
    name: field
    for name, field in config_class().model_fields["training"].annotation.model_fields.items()
    if name not in OWNED
}

LOSS_OR_DATA = [
    {"loss_type": "dft"},
    {"label_smoothing_factor": 0.1},
    {"label_smoothing_factor": 0.1, "loss_type": "dft"},
    {"loss_type": "dft", "kernels": "off", "average_tokens_across_devices": False},
    {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": 2, "bf16": True},
    {"packing": True, "packing_strategy": "wrapped", "eval_packing": True, "loss_type": "dft"},
    {"packing": True, "eval_packing": False, "max_length": 400, "padding_free": True},
    {"assistant_only_loss": False, "per_device_train_batch_size": 3, "dataloader_drop_last": True},
    {"shuffle_dataset": True, "pad_to_multiple_of": 8, "kernels": "off", "pad_token": "<|im_end|>"},
    {"train_sampling_strategy": "sequential", "data_seed": 7, "full_determinism": True, "seed": 3},
    {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 2, "dataloader_persistent_workers": True,
     "dataloader_multiprocessing_context": "fork", "dataloader_in_order": False, "dataloader_pin_memory": False},
    {"neftune_noise_alpha": 5.0, "activation_checkpointing": True,
     "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    {"optim": "adafactor", "include_num_input_tokens_seen": "all", "skip_memory_metrics": False,
     "lr_scheduler_type": "reduce_lr_on_plateau", "max_grad_norm": 0.0, "eval_delay": 1},
]  # fmt: skip
"""Settings that change the loss or the rows' way to it, or what is counted on that way; each trains for a moment."""

OTHERS = {
    "learning_rate": 1e-3, "num_train_epochs": 0.5, "per_device_eval_batch_size": 2, "max_steps": 1,
    "lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2.0}, "warmup_steps": 2, "weight_decay": 0.1,
    "adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-6, "optim": "galore_adamw", "optim_args": "rank=4",
    "optim_target_modules": "all-linear", "torch_compile": True, "torch_compile_backend": "eager",
    "torch_compile_mode": "default", "tf32": False,
    "fp16": False, "use_liger_kernel": False, "liger_kernel_config": {"rope": True}, "torch_empty_cache_steps": 1,
    "activation_checkpointing_kwargs": {"use_reentrant": False}, "activation_offloading": False,
    "logging_strategy": "no", "logging_steps": 0.5, "logging_first_step": True, "log_on_each_node": False,
    "log_level": "error", "log_level_replica": "error", "report_to": "none", "run_name": "r", "project": "p",
    "trackio_space_id": "a/b", "trackio_bucket_id": "a", "trackio_static_space_id": "a",
    "eval_strategy": "no", "eval_steps": 1, "eval_on_start": False, "eval_accumulation_steps": 1,
    "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "save_only_model": True,
    "save_on_each_node": True, "load_best_model_at_end": False, "metric_for_best_model": "eval_loss",
    "greater_is_better": False, "ignore_data_skip": True, "accelerator_config": {"split_batches": True},
    "ddp_find_unused_parameters": True, "ddp_bucket_cap_mb": 1, "ddp_broadcast_buffers": True,
    "ddp_static_graph": True, "ddp_backend": "gloo", "ddp_timeout": 60, "debug": "underflow_overflow",
    "router_aux_loss_coef": 0.0, "use_cpu": True, "fit": None,
}  # fmt: skip
"""Settings that the walk has SFTConfig take, without a training: torch.compile alone would take minutes."""


def losses(run: Run, name: str = "loss") -> list[float]:
    return [entry[name] for entry in run.metrics() if name in entry]


def test_the_walk_leaves_no_field_out():
    walked = {name for settings in LOSS_OR_DATA for name in settings} | {*OTHERS} | {"activation_checkpointing"}
    assert {*FIELDS} - walked == set()


@pytest.mark.filterwarnings("ignore:`label_smoothing_factor` is deprecated")
@pytest.mark.parametrize("settings", LOSS_OR_DATA, ids=lambda settings: ",".join(settings))
def test_what_changes_the_loss_or_the_rows_trains(settings, write_config):
    steps = {"max_steps": 2, "save_strategy": "no"}
    run = train(load_config(write_config(training={**steps, **settings})))
    curve = losses(run) + losses(run, "eval_loss")
    assert len(losses(run)) == 2 and all(map(math.isfinite, curve))
    weights = load_file(run.adapter / "adapter_model.safetensors")
    assert any(weight.abs().max() > 0 for name, weight in weights.items() if "lora_B" in name)


@pytest.mark.parametrize("kernels", ["auto", "off"])
def test_a_mixture_of_experts_trains_by_its_router_loss_too(kernels, write_config, base):
    sizes = {"hidden_size": 64, "moe_intermediate_size": 32, "intermediate_size": 64, "vocab_size": 600}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2}
    Qwen3MoeForCausalLM(Qwen3MoeConfig(num_hidden_layers=2, pad_token_id=0, **sizes, **heads)).save_pretrained("moe")
    for name in (*TOKENIZER_FILES, "chat_template.jinja"):
        if (base / name).is_file():
            shutil.copy(base / name, "moe")
    lora = {"target_modules": ["q_proj", "v_proj"]}
    training = {"max_steps": 2, "save_strategy": "no", "kernels": kernels}
    model = {"name_or_path": "moe"}
    run = train(load_config(write_config(model=model, lora=lora, training=training)))
    plain = {**training, "router_aux_loss_coef": 0.0}
    without = train(load_config(write_config(name="plain", model=model, lora=lora, training=plain)))
    assert losses(run)[0] > losses(without)[0]


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_every_other_field_is_taken(name, write_config):
    settings = {name: OTHERS[name]}
    if name == "ddp_backend":
        pytest.skip("needs the launcher: test_machines.py trains with it")
    settings |= {
        "optim_target_modules": {"optim": "galore_adamw"},
        "optim": {"optim_target_modules": "all-linear"},
    }.get(name, {})
    config = load_config(write_config(training=settings))
    try:
        arguments = trl_arguments(config, Run(Path("runs/x")), resolve_precision(config), evaluate=True)
    except ConfigError as error:  # a package or a card that is not here: said by name before anything starts
        assert name.removeprefix("training.") in str(error) or "galore" in str(error)
        return
    if hasattr(arguments, name) and name not in ("use_cpu", "eval_strategy", "report_to", "lr_scheduler_type"):
        taken = getattr(arguments, name)
        assert taken == settings[name] or str(settings[name]) in str(taken) or name in ("accelerator_config", "debug")


@pytest.mark.parametrize("name", sorted(OWNED))
def test_what_is_not_taken_is_refused_by_name(name, write_config):
    with pytest.raises(ConfigError, match=rf"x\.yaml:\d+: training\.{name} cannot be set: "):
        load_config(write_config(training={name: True}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"padding_free": True}, r"training\.padding_free.*kernels=\[varlen\]"),
        ({"packing_strategy": "wrapped"}, r"training\.packing_strategy.*training\.packing"),
        ({"dataloader_persistent_workers": True}, r"training\.dataloader_persistent_workers.*num_workers"),
        ({"dataloader_prefetch_factor": 2}, r"training\.dataloader_prefetch_factor.*num_workers"),
        ({"dataloader_multiprocessing_context": "spawn"}, r"training\.dataloader_multiprocessing_context.*num_workers"),
        ({"metric_for_best_model": "entropy"}, r"training\.metric_for_best_model.*eval_loss"),
        ({"save_strategy": "best"}, r"training\.save_strategy.*metric_for_best_model"),
        ({"optim_target_modules": "all-linear"}, r"training\.optim_target_modules.*galore"),
        ({"fp16": True}, r"training\.fp16 needs a GPU"),
        ({"activation_offloading": True}, r"training\.activation_offloading"),
        ({"optim_args": "betas=(0.9,0.9)"}, r"training\.optim=adamw_torch_fused, optim_args"),
        ({"optim": "galore_adamw", "optim_target_modules": "all-linear"}, r"training\.optim=galore_adamw"),
        ({"lr_scheduler_kwargs": {"nope": 1}}, r"training\.lr_scheduler_type=cosine, lr_scheduler_kwargs"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, r"training\.lr_scheduler_type=warmup_stable_decay"),
        ({"router_aux_loss_coef": 0.1}, "router_aux_loss_coef.*not a Mixture-of-Experts"),
        ({"pad_token": "nope"}, "pad_token"),
        ({"loss_type": "nope"}, "loss_type"),
    ],
)
def test_what_could_only_fail_later_is_refused_at_the_start(settings, message, write_config):
    with pytest.raises(ConfigError, match=message) as caught:
        train(load_config(write_config(training=settings)))
    assert "\n" not in str(caught.value)
    assert not Path("runs/x/config.yaml").exists()
