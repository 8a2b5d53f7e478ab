"""TRL's SFTTrainer as govor sets it up."""

import math
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import torch
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler, set_seed
from trl import SFTConfig

from train.core import compat
from train.core.config import Config, Kernel
from train.core.errors import ConfigError
from train.core.files import settle_folder
from train.core.runs import PARTIAL, Run, clear_partial_checkpoint, rotate_checkpoints
from train.encoding.loss_mask import Encoded
from train.models.load import Precision, load_base, lora_config, unwrap
from train.tuning.divergence import Divergence
from train.tuning.kernels import attention, head, restorer, switch_on
from train.tuning.kernels.batches import ByLength, lengths
from train.tuning.kernels.self_check import checkpointed
from train.tuning.processes import say
from train.tuning.rehearsal import Rehearsal, may_run_out_of_memory
from train.tuning.resume import load_start
from train.tuning.save import adapter_state_dict

TIMED = ("cuda",)  # devices on which a run finds out by itself whether its kernels are faster
BaseTrainer: Any = compat.sft_trainer_class()


class Trainer(BaseTrainer):
    """SFTTrainer that writes checkpoints aside and renames them, and counts without waiting for the device."""

    kernels: frozenset[Kernel] = frozenset()
    """Kernels that run, see kernels/."""
    masks_nothing = False
    """Whether padding needs no mask: it is on the right, and trained tokens look to the left alone.

    Without a mask plain attention takes its fast path.
    """
    scores_trained = False
    """Whether the loss is computed as kernels/head.py does."""
    initial_adapter: dict[str, Any] | None = None
    """The adapter before the first step, where its initialization has taken a part out of the base's weights."""
    lr_scheduler: Any
    divergence: Divergence | None = None
    """Looks at every step."""
    _aside: Path | None = None
    _saved_at = -1

    def __init__(self, *more: Any, **named: Any) -> None:
        super().__init__(*more, **named)
        # transformers' own would delete copies of checkpoints too that were put by under other names
        self.save_total_limit, self.args.save_total_limit = self.args.save_total_limit, None
        # Of train and eval since the last line: [nats, tokens right, tokens trained, all tokens]
        self.counts: dict[str, torch.Tensor] = {}

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

    def training_step(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        loss = super().training_step(model, inputs, *more, **named)
        if self.divergence:
            self.divergence.saw(loss, inputs)
        return loss

    def saw_gradient(self, norm: Any) -> None:
        if self.divergence:
            self.divergence.saw_gradient(norm)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Trainer's, whose warm-up would make the first step one of size 0: here it is half as long as the second."""
        there: Any = self.lr_scheduler
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if there is None and isinstance(scheduler, LambdaLR):
            scheduler = self.lr_scheduler = begun_above_zero(scheduler)
        return scheduler

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

    def train_sampler(self, rows: Any) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return None
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return ByLength(lengths(rows), batch, seed)

    def checkpoint_folder(self) -> Path:
        return self._aside or Path(self.args.output_dir)

    def save_checkpoint(self, save: Callable[[], None]) -> None:
        if self._saved_at == self.state.global_step:  # asked to stop in mid-epoch: the epoch's end comes at once
            return
        self._saved_at = self.state.global_step
        folder = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        self._aside = folder / PARTIAL
        if self.args.should_save:
            clear_partial_checkpoint(folder)
        self.accelerator.wait_for_everyone()
        try:
            save()
        finally:
            aside, self._aside = self._aside, None
        self.accelerator.wait_for_everyone()  # each process writes its own random state
        if self.args.should_save:
            if self.state.best_global_step:
                self.state.best_model_checkpoint = str(folder / f"checkpoint-{self.state.best_global_step}")
                self.state.save_to_json(str(aside / name / "trainer_state.json"))
            settle_folder(aside / name, folder / name)
            aside.rmdir()
            rotate_checkpoints(folder, self.save_total_limit, self.state.best_global_step)
        self.accelerator.wait_for_everyone()

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no card: TRL would write one into the checkpoint folder at every save."""


def begun_above_zero(scheduler: LambdaLR) -> LambdaLR:
    """The schedule, but where it begins at 0 it begins at half of its second step, or at the peak if that is 0 too."""

    def from_above(factor: Callable[[int], float]) -> Callable[[int], float]:
        def at(step: int) -> float:
            try:
                return factor(step)
            except ZeroDivisionError:  # transformers' polynomial, where every step is one of warm-up
                return 0.0

        return lambda step: at(step) if step or at(0) else at(1) / 2 or 1.0

    for group, peak in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, strict=True):
        group["lr"] = peak
    return LambdaLR(scheduler.optimizer, [from_above(factor) for factor in scheduler.lr_lambdas])


def sft_config(config: Config, run: Run, precision: Precision, *, evaluate: bool, resumed: bool = False) -> Any:
    """TRL's SFTConfig: the section `training`, and what govor settles itself.

    `evaluate`: there are held-out rows. `resumed`: the loss before the first step is known already.
    ConfigError where SFTConfig refuses a value, or the schedule or the optimizer would when training begins.
    """
    training = config.training
    fields = {name: getattr(training, name) for name in type(training).model_fields if name not in ("fit", "kernels")}
    given = {name: value for name, value in fields.items() if value is not None or name in training.model_fields_set}
    given.setdefault("logging_nan_inf_filter", False)  # it waits for the device at every forward pass
    given |= {
        "output_dir": str(run.checkpoints),
        "bf16": precision.autocast == "bf16",
        "fp16": precision.autocast == "fp16",
        "assistant_only_loss": False,  # the rows come with labels, see encoding/loss_mask.py
        "disable_tqdm": True,
    }
    if given.get("use_liger_kernel") and find_spec("liger_kernel") is None:
        raise ConfigError("training.use_liger_kernel: pip install liger-kernel first (it needs a GPU and Triton)")
    if not evaluate:
        given |= {"eval_strategy": "no", "eval_on_start": False}
    if resumed:
        given["eval_on_start"] = False
    if "activation_checkpointing" not in SFTConfig.__dataclass_fields__:  # transformers < 5.20
        given["gradient_checkpointing"] = given.pop("activation_checkpointing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            arguments = SFTConfig(**given)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"training: {str(error).strip()}") from None
    require_schedule(arguments)
    return arguments


def require_schedule(arguments: Any) -> None:
    """ConfigError where Trainer could not make the schedule or its optimizer: it makes both after the run folder."""
    weight = torch.nn.Linear(1, 1)
    try:
        get_scheduler(
            arguments.lr_scheduler_type,
            torch.optim.SGD(weight.parameters(), lr=arguments.learning_rate),
            num_warmup_steps=arguments.get_warmup_steps(10),
            num_training_steps=10,
            scheduler_specific_kwargs=dict(arguments.lr_scheduler_kwargs or {}),
        )
    except (ValueError, TypeError, AttributeError) as error:
        name = str(getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type))
        reason = str(error).strip().split("\n", 1)[0]
        raise ConfigError(f"training.lr_scheduler_type={name}, lr_scheduler_kwargs: {reason}") from None
    try:
        Trainer.get_optimizer_cls_and_kwargs(arguments, weight)
    except (ValueError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        name = str(getattr(arguments.optim, "value", arguments.optim))
        reason = str(error).strip().split("\n", 1)[0]
        raise ConfigError(f"training.optim={name}, optim_args: {reason}") from None


def build_trainer(
    config: Config,
    base: Path,
    tokenizer: Any,
    precision: Precision,
    arguments: Any,
    train_set: list[Encoded],
    eval_set: list[Encoded],
) -> Any:
    """Base, adapter and rows in TRL's trainer."""
    disable_progress_bars()

    def dataset(encoded: list[Encoded]) -> Any:
        return Dataset.from_dict({"input_ids": [e.input_ids for e in encoded], "labels": [e.labels for e in encoded]})

    sharded = compat.launched_with_fsdp()
    model = load_base(config.model, base, precision, use_cpu=config.training.use_cpu, sharded=sharded)
    if arguments.ddp_find_unused_parameters is None:  # only experts may have no part in a batch
        arguments.ddp_find_unused_parameters = any(name.endswith("experts") for name, _ in model.named_modules())
    adapter = lora_config(config.lora, model) if config.lora else None
    tuned_head = None
    try:
        if adapter and tunes_head(model, adapter):  # which TRL refuses, so it does not see it
            if config.lora and config.lora.changes_base:
                raise ConfigError(
                    f"lora.init_lora_weights: {config.lora.init_lora_weights} begins in the base's weights, and the "
                    "head's may be the embeddings' as well: leave the head out of lora.target_modules"
                )
            set_seed(arguments.seed)  # as TRL does
            model, adapter = get_peft_model(model, adapter), None
            tuned_head = model.get_output_embeddings()
            model.get_base_model().set_output_embeddings(tuned_head.get_base_layer())
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=dataset(train_set),
            eval_dataset=dataset(eval_set) if eval_set else None,
            processing_class=tokenizer,
            peft_config=adapter,
        )
    except ValueError as error:  # no layer of that name, a combination that TRL refuses, …
        raise ConfigError(str(error).strip().split("\n", 1)[0]) from None
    except (RuntimeError, ImportError) as error:
        if "install" not in str(error):
            raise
        raise ConfigError(f"training.report_to or training.optim: {str(error).strip()}") from None
    if tuned_head is not None:
        model.get_base_model().set_output_embeddings(tuned_head)
    if config.lora:
        compat.save_adapter_alone(trainer.model)
        if sharded:
            trainer.accelerator.get_state_dict = adapter_state_dict  # for checkpoints and the result
    if config.model.load_in_4bit:
        for parameter in trainer.model.parameters():  # TRL has put the adapter, and so Adam's sums, into bfloat16
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.float32)
    if config.lora and config.lora.start_from:
        load_start(trainer.model, config.lora)
    if config.lora and config.lora.changes_base:
        weights = get_peft_model_state_dict(trainer.model, save_embedding_layers=False)
        trainer.initial_adapter = {name: weight.detach().cpu().clone() for name, weight in weights.items()}
    make_fast(trainer, config, precision, sharded=sharded)
    if may_run_out_of_memory(trainer, config, base):
        trainer.add_callback(Rehearsal(trainer, config, base))
    return trainer


def tunes_head(model: Any, adapter: LoraConfig) -> bool:
    """Whether the adapter's target modules name the head."""
    head = model.get_output_embeddings()
    return any(module is head and compat.is_target(adapter, name) for name, module in model.named_modules())


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
