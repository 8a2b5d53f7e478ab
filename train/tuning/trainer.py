"""TRL's SFTTrainer as govor sets it up."""

import math
import time
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import torch
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset

from train.core import compat
from train.core.config import Config, Kernel
from train.core.errors import ConfigError
from train.encoding.loss_mask import Encoded
from train.models.load import Precision, unwrap
from train.tuning.assemble import put_together
from train.tuning.common_trainer import CommonTrainer
from train.tuning.kernels import attention, head, restorer, switch_on
from train.tuning.kernels.batches import lengths
from train.tuning.kernels.self_check import checkpointed
from train.tuning.processes import say
from train.tuning.rehearsal import Rehearsal, may_run_out_of_memory

TIMED = ("cuda",)  # devices on which a run finds out by itself whether its kernels are faster
SftTrainer: Any = compat.trainer_class("SFTTrainer")


class Trainer(CommonTrainer, SftTrainer):
    """SFTTrainer that counts without waiting for the device: nats, tokens right, tokens trained, all tokens."""

    masks_nothing = False
    """Whether padding needs no mask: it is on the right, and trained tokens look to the left alone.

    Without a mask plain attention takes its fast path.
    """
    scores_trained = False
    """Whether the loss is computed as kernels/head.py does."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss, without its entropy and its waiting for the device at every forward pass."""
        if return_outputs or not self.is_plain():
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        mask = inputs.get("attention_mask")
        ids, inputs = inputs["input_ids"], {**inputs, "use_cache": False}
        tokens = torch.full((), ids.numel(), dtype=torch.int64, device=ids.device) if mask is None else mask.sum()
        if self.masks_nothing:
            inputs.pop("attention_mask", None)
        if self.scores_trained:
            made = model(**inputs, trained_loss=True)
            loss, correct, trained = made["loss_sum"], made["correct"], made["trained"]
        else:
            made = model(**inputs, fused_lm_head=True)
            loss, correct, trained = -made.log_probs.sum(), made.is_top1.sum(), made.label_mask.sum()
        counted = torch.stack([loss.detach().double(), correct, trained, tokens])
        mode = "train" if self.model.training else "eval"
        self.counts[mode] = self.counts[mode] + counted if mode in self.counts else counted
        loss = loss / (trained if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())  # DDP will take the mean
        return loss

    def is_plain(self) -> bool:
        """Whether the loss is the mean over the trained tokens and no more."""
        more = self.label_smoother or self.compute_loss_func or self.aux_loss_enabled or self.args.loss_type != "nll"
        parallel = self.accelerator.parallelism_config
        return not more and (parallel is None or not parallel.sp_enabled)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = "train" if self.model.training else "eval"
        if mode in self.counts:
            counted = self.accelerator.reduce(self.counts.pop(mode), "sum")
            nats, correct, trained, tokens = counted.tolist()
            if mode == "eval" and "eval_loss" in logs:  # transformers weighs batches alike, whatever is trained in them
                logs["eval_loss"] = nats / max(trained, 1)
            self.add_metric(mode, "mean_token_accuracy", correct / max(trained, 1))
            self.trained_tokens += int(tokens) // self.get_tp_size() if mode == "train" else 0
            self.add_metric(mode, "num_tokens", self.trained_tokens)
        super().log(logs, start_time)


def build_trainer(
    config: Config,
    base: Path,
    tokenizer: Any,
    precision: Precision,
    arguments: Any,
    train_set: list[Encoded],
    eval_set: list[Encoded],
) -> Any:
    """Base, adapter and rows in TRL's SFTTrainer."""

    def dataset(encoded: list[Encoded]) -> Any:
        return Dataset.from_dict({"input_ids": [e.input_ids for e in encoded], "labels": [e.labels for e in encoded]})

    eval_dataset = dataset(eval_set) if eval_set else None
    trainer = put_together(Trainer, config, base, tokenizer, precision, arguments, dataset(train_set), eval_dataset)
    make_fast(trainer, config, precision, sharded=compat.launched_with_fsdp())
    if may_run_out_of_memory(trainer, config, base):
        trainer.add_callback(Rehearsal(trainer, config, base))
    return trainer


def make_fast(trainer: Trainer, config: Config, precision: Precision, *, sharded: bool) -> None:
    """What the libraries do by default and costs time or memory, put right; then the kernels."""
    model, arguments = trainer.model, trainer.args
    causal = unwrap(model)
    if arguments.use_liger_kernel:
        compat.put_in_liger_kernels(model, arguments.liger_kernel_config)
        arguments.use_liger_kernel = False  # they are in, below govor's
    if trainer.is_plain():
        compat.fuse_head_and_loss(causal)  # over TRL's own, which makes the entropy that other losses log as well
    if precision.autocast:
        compat.keep_input_types(model)
    facts = causal.config.get_text_config()
    looks_back = getattr(facts, "is_causal", True) and not getattr(facts, "use_bidirectional_attention", False)
    trainer.masks_nothing = bool(looks_back) and config.model.attn_implementation == "sdpa"
    if trainer.masks_nothing and arguments.device.type == "cuda" and not attention.has_flash(arguments.device):
        attention.put_in(causal)  # without a mask transformers' own would keep tokens² numbers there
    use_kernels(trainer, config, precision, sharded=sharded)
    if head.is_tuned(causal):  # TRL's loss would pass its adapter by
        reason = head.refusal(causal) or (None if trainer.is_plain() else "the loss is not the plain one")
        if reason:
            raise ConfigError(f"lora.target_modules: an adapter on the head cannot be trained here: {reason}")
        if not trainer.scores_trained:
            head.fuse_head(causal)
        trainer.scores_trained = True
    padded = not (trainer.padding_free or arguments.packing)
    if padded and getattr(config.training, "train_sampling_strategy", None) is None:
        arguments.train_sampling_strategy = "group_by_length"


def use_kernels(trainer: Trainer, config: Config, precision: Precision, *, sharded: bool) -> None:
    """Put in the kernels that the config asks for; `auto` on a GPU keeps them only if a step is faster with them."""
    wanted, device = config.training.kernels, trainer.args.device
    autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision.autocast or "")
    checkpointing = config.training.activation_checkpointing
    timed = wanted == "auto" and device.type in TIMED and not sharded
    restore = restorer(trainer.model)
    padding_free = trainer.padding_free
    before = step_seconds(trainer, autocast, checkpointing=checkpointing) if timed else None
    running = switch_on(
        trainer.model,
        wanted,
        autocast=autocast,
        checkpointing=checkpointing,
        longest=trainer.args.max_length if trainer.args.packing else max(lengths(trainer.train_dataset), default=None),
        sharded=sharded,
        loud=trainer.accelerator.is_main_process,
    )
    if len({*gather_object([tuple(sorted(running))])}) > 1:
        restore()
        running = set()
        say(trainer.accelerator, "kernels are off: their trials did not end alike in all processes")

    def use(kernels: Iterable[Kernel]) -> None:
        trainer.kernels = frozenset(kernels)
        trainer.scores_trained = "head" in trainer.kernels
        trainer.padding_free = trainer.data_collator.padding_free = padding_free or (
            "varlen" in trainer.kernels and not trainer.args.packing
        )

    use(running)
    if before is None or not running:
        return
    after = step_seconds(trainer, autocast, checkpointing=checkpointing)
    [faster] = broadcast_object_list([after < before])
    if not faster:
        restore()
        use(())
    names = ", ".join(name for name in get_args(Kernel) if name in running)
    times = f"{after:.3g} s a step, {before:.3g} s without them"
    say(trainer.accelerator, f"kernels {names} are {'on' if faster else 'off'}: {times}")


def step_seconds(trainer: Trainer, autocast: torch.dtype | None, *, checkpointing: bool) -> float:
    """Seconds of forward and backward passes over a batch of rows of middling length; infinite without the memory.

    The shortest of three, after one that does not count. Nothing is learned.
    """
    tokens = lengths(trainer.train_dataset)
    order = sorted(range(len(tokens)), key=tokens.__getitem__)
    size = min(trainer.args.per_device_train_batch_size, len(order))
    start = (len(order) - size) // 2
    batch = trainer.data_collator([trainer.train_dataset[row] for row in order[start : start + size]])
    device, model = trainer.args.device, trainer.model
    batch = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    seconds = []
    try:
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            checkpointed(unwrap(model)) if checkpointing else nullcontext(),
        ):
            for _ in range(4):
                started = time.perf_counter()
                with torch.autocast(device.type, dtype=autocast) if autocast else nullcontext():
                    loss = trainer.compute_loss(model.train(), dict(batch))
                loss.backward()
                if device.type != "cpu":
                    torch.accelerator.synchronize()
                seconds.append(time.perf_counter() - started)
        return min(seconds[1:])
    except torch.OutOfMemoryError:  # the rehearsal will say what to do
        return math.inf
    finally:
        model.zero_grad()
        trainer.counts.clear()
