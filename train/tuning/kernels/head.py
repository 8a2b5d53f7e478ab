"""The loss at the trained positions alone, a tile of logits at a time, its gradient made in the same pass.

TRL's head computes every position where there is no Triton (of chats about half are trained), each tile twice, with a
dozen passes over it; this one computes a tile once and keeps of it the gradient of the hidden states.

A head with an adapter is called as the module that it is, tile by tile: both functions read `lm_head.weight` and would
neither see nor train the adapter.
"""

import functools
import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from train.core.compat import tuner_layer_class

IGNORE_INDEX = -100
TILE = 2**24  # logits at a time: 64 MiB in float32
SCALES = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


class TrainedLoss(torch.autograd.Function):
    """(sum of the negative log-likelihoods in float32, how many targets are the likeliest token)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, learn: bool
    ) -> tuple[Tensor, Tensor]:
        """hidden [tokens, width], weight [vocabulary, width], targets [tokens]. `learn`: a backward pass will come."""
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        with torch.autocast(kind, enabled=False):
            return _forward(ctx, hidden, weight.to(dtype), bias, targets, learn)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d: Tensor, _: Any) -> tuple[Any, ...]:
        gradients = iter(ctx.saved_tensors)
        found = [next(gradients).mul_(d).to(dtype) if dtype else None for dtype in ctx.dtypes]
        return *found, None, None


def _forward(
    ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, learn: bool
) -> tuple[Tensor, Tensor]:
    wanted = [learn and need for need in ctx.needs_input_grad[:3]]
    loss = torch.zeros((), device=hidden.device, dtype=torch.float32)
    correct = torch.zeros((), device=hidden.device, dtype=torch.int64)
    dhidden = torch.empty_like(hidden, dtype=weight.dtype) if wanted[0] else None
    dweight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
    dbias = torch.zeros_like(bias, dtype=torch.float32) if wanted[2] and bias is not None else None
    rows = _tile_rows(len(hidden), weight.shape[0])
    for start in range(0, len(hidden), rows):
        x, y = hidden[start : start + rows].to(weight.dtype), targets[start : start + rows, None]
        logits = (x @ weight.t()).float()
        if bias is not None:
            logits += bias.float()
        at_target = logits.gather(1, y)
        highest, best = logits.max(1, keepdim=True)
        correct += (best == y).sum()
        odds = logits.sub_(highest).exp_()
        total = odds.sum(1, keepdim=True)
        loss += (total.log() + highest - at_target).sum()
        if not any(wanted):
            continue
        slope = odds.div_(total).scatter_add_(1, y, at_target.new_full((), -1.0).expand_as(at_target))
        if dbias is not None:
            dbias += slope.sum(0)
        slope = slope.to(weight.dtype)
        if dhidden is not None:
            torch.mm(slope, weight, out=dhidden[start : start + rows])
        if dweight is not None:
            dweight += (slope.t() @ x).float()
    ctx.dtypes = [
        tensor.dtype if need and tensor is not None else None
        for need, tensor in zip(wanted, (hidden, weight, bias), strict=True)
    ]
    ctx.save_for_backward(*(d for d in (dhidden, dweight, dbias) if d is not None))
    ctx.mark_non_differentiable(correct)
    return loss, correct


def _tile_rows(tokens: int, vocabulary: int) -> int:
    """Tokens a tile, in tiles of about the same size: torch's product of one or two rows on a CPU adds up a vocabulary
    of 262,144 naively, and their gradient is 3e-4 off; from 8 rows on it is 7e-7."""
    tiles = -(-tokens // max(1, TILE // vocabulary))
    return -(-tokens // max(1, tiles)) or 1


def _through(head: nn.Module, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """What `TrainedLoss` returns, by the module: a tile's logits are made again in the backward pass."""

    def scored(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(x).float()
        return functional.cross_entropy(logits, y, reduction="sum"), (logits.argmax(1) == y).sum()

    rows = _tile_rows(len(hidden), head.weight.shape[0])
    tiles = zip(hidden.split(rows), targets.split(rows), strict=True)
    losses, correct = zip(*(checkpoint(scored, x, y, use_reentrant=False) for x, y in tiles), strict=True)
    return torch.stack(losses).sum(), torch.stack(correct).sum()


def refusal(model: Any) -> str | None:
    """Why the model's loss is more than a linear head and a cross-entropy; None where it is that."""
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    for name in SCALES:
        if getattr(config, name, None) not in (None, 1, 1.0):
            return f"the model's logits are changed by {name}"
    if type(head) is not nn.Linear and not is_tuned(model):
        return f"its head is a {type(head).__name__}"
    if config is not model.config:
        return "the model reads more than text"
    return None


def is_tuned(model: Any) -> bool:
    """Whether the head carries an adapter."""
    return isinstance(model.get_output_embeddings(), tuner_layer_class())


def fuse_head(model: Any) -> None:
    """`model(…, labels=…, trained_loss=True)` returns {"loss_sum", "correct", "trained"} and no logits."""
    original = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *more: Any, trained_loss: bool = False, **named: Any) -> Any:
        if not trained_loss:
            return original(*more, **named)
        labels = named.pop("labels")[:, 1:]
        kept = labels != IGNORE_INDEX
        hidden = self.base_model(*more, **named).last_hidden_state[:, :-1]
        head, learn = self.get_output_embeddings(), torch.is_grad_enabled()
        if is_tuned(self):
            loss_sum, correct = _through(head, hidden[kept], labels[kept])
        else:
            loss_sum, correct = TrainedLoss.apply(hidden[kept], head.weight, head.bias, labels[kept], learn)
        return {"loss_sum": loss_sum, "correct": correct, "trained": kept.sum()}

    model.forward = types.MethodType(forward, model)


def score_tuned_head(model: Any) -> None:
    """`model(…, labels=…, fused_lm_head=True)` as TRL's head answers it, for a head that carries an adapter.

    Log-probability, entropy, mean logit and whether the label is the likeliest token, each [rows, tokens - 1], 0 where
    nothing is trained.
    """
    original = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *more: Any, fused_lm_head: bool = False, **named: Any) -> Any:
        if not fused_lm_head:
            return original(*more, **named)
        labels = named.pop("labels")[:, 1:]
        kept = labels != IGNORE_INDEX
        hidden = self.base_model(*more, **named).last_hidden_state[:, :-1][kept]
        head = self.get_output_embeddings()
        rows = _tile_rows(len(hidden), head.weight.shape[0])
        tiles = zip(hidden.split(rows), labels[kept].split(rows), strict=True)
        parts = [checkpoint(_scores, head, x, y, use_reentrant=False) for x, y in tiles]
        found = [torch.cat(part) for part in zip(*parts, strict=True)]
        names = ("log_probs", "entropy", "mean_logits", "is_top1")
        spread = {
            name: value.new_zeros(kept.shape).masked_scatter(kept, value)
            for name, value in zip(names, found, strict=True)
        }
        return types.SimpleNamespace(**spread, label_mask=kept, aux_loss=None)

    model.forward = types.MethodType(forward, model)


def _scores(head: nn.Module, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    logits = head(hidden).float()
    log_probs = logits.log_softmax(1)
    entropy = -(log_probs.exp() * log_probs).sum(1)
    top = logits.argmax(1) == targets
    return log_probs.gather(1, targets[:, None])[:, 0], entropy.detach(), logits.mean(1).detach(), top
