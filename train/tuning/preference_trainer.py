"""TRL's DPOTrainer as govor sets it up."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from train.core import compat
from train.core.config import Config
from train.core.errors import ConfigError
from train.encoding.loss_mask import Encoded
from train.encoding.pairs import EncodedPairs
from train.models.load import Precision, unwrap
from train.tuning.assemble import put_together
from train.tuning.common_trainer import CommonTrainer
from train.tuning.kernels import head
from train.tuning.rehearsal import Rehearsal, may_run_out_of_memory

DpoTrainer: Any = compat.trainer_class("DPOTrainer")
MEASURES = ("rewards/margins", "rewards/accuracies")
"""TRL's names: beta times how much more the preferred answer has gained over the reference than the other, in nats; the
share of the pairs in which that is above 0."""


class PreferenceTrainer(CommonTrainer, DpoTrainer):
    """DPOTrainer whose margin and accuracy count every pair alike; TRL weighs batches alike, whatever is in them.

    `counts`: of train and eval since the last line, [pairs, sum of the margins, pairs told rightly].
    """

    def compute_loss(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        loss = super().compute_loss(model, inputs, *more, **named)
        mode, pairs = "train" if self.model.training else "eval", len(inputs["input_ids"]) // 2
        counted = [pairs, *(pairs * self.last_metric(mode, name) for name in MEASURES)]
        seen = self.counts.get(mode)
        self.counts[mode] = torch.tensor(counted, dtype=torch.float64) + (0 if seen is None else seen)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = "train" if self.model.training else "eval"
        if mode in self.counts:
            pairs, *sums = self.counts.pop(mode).tolist()
            for name, total in zip(MEASURES, sums, strict=True):
                self.add_metric(mode, name, total / pairs)
        super().log(logs, start_time)


def build_preference_trainer(
    config: Config,
    base: Path,
    tokenizer: Any,
    precision: Precision,
    arguments: Any,
    train_set: EncodedPairs,
    eval_set: EncodedPairs,
) -> Any:
    """Base, adapter and pairs in TRL's DPOTrainer.

    The reference is the base, or with lora.start_from that run's adapter, which lies beside the new one as `ref`.
    """
    eval_dataset = dataset(eval_set) if eval_set.other else None
    more = (dataset(train_set), eval_dataset)
    trainer = put_together(PreferenceTrainer, config, base, tokenizer, precision, arguments, *more)
    if precision.autocast:
        compat.keep_input_types(trainer.model)
    causal = unwrap(trainer.model)
    if head.is_tuned(causal):  # TRL's head would pass its adapter by
        if reason := head.refusal(causal):
            raise ConfigError(f"lora.target_modules: an adapter on the head cannot be trained here: {reason}")
        head.score_tuned_head(causal)
    if getattr(config.training, "train_sampling_strategy", None) is None:
        arguments.train_sampling_strategy = "group_by_length"
    if may_run_out_of_memory(trainer, config, base):
        trainer.add_callback(Rehearsal(trainer, config, base))
    return trainer


def dataset(pairs: EncodedPairs) -> Dataset:
    """The pairs under the names that DPOTrainer gives to token ids."""

    def answer(encoded: Encoded) -> list[int]:
        start, end = encoded.answers[-1]
        return encoded.input_ids[start:end]

    preferred = pairs.preferred.encoded
    sides = zip(preferred, pairs.other, strict=True)
    return Dataset.from_dict(
        {
            "prompt_ids": [encoded.input_ids[: encoded.answers[-1][0]] for encoded in preferred],
            "chosen_ids": [answer(encoded) for encoded in preferred],
            "rejected_ids": [answer(encoded) for encoded in pairs.other],
            "length": [len(one.input_ids) + len(two.input_ids) for one, two in sides],
        }
    )
