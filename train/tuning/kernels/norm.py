"""RMSNorm that keeps its input in the type it came in, and a number a row, where autograd keeps two float32 copies."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Normed(NamedTuple):
    """What a norm's output can be made from again."""

    x: Tensor
    rstd: Tensor
    """1 / √(mean of squares + eps), float32, [..., 1]."""
    weight: Tensor

    def again(self) -> Tensor:
        return self.weight * (self.x.float() * self.rstd).to(self.x.dtype)


class RmsNorm(torch.autograd.Function):
    """weight · x / √(mean(x²) + eps), computed in float32; the weight is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        wide = x.float()
        rstd = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True).add_(eps))
        ctx.save_for_backward(x, rstd, weight)
        ctx.mark_non_differentiable(rstd)
        ctx.set_materialize_grads(False)
        return weight * (wide * rstd).to(x.dtype), rstd

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor | None, _: Any) -> tuple[Tensor | None, None, None]:
        if dy is None:
            return None, None, None
        x, rstd, weight = ctx.saved_tensors
        straight = x.float() * rstd
        d = (dy * weight).float()
        d = d.sub_(straight.mul_((d * straight).mean(-1, keepdim=True))).mul_(rstd)
        return d.to(x.dtype), None, None


def normed_from(y: Tensor) -> Normed | None:
    """What `y` was made from, if a fused norm made it."""
    return getattr(y, "normed_from", None)


def fuse_norm(norm: Any) -> None:
    """Compute the norm with the function above, and let its reader know what it came from."""
    original = norm.forward

    def forward(x: Tensor, *more: Any, **named: Any) -> Any:
        if more or named or not torch.is_grad_enabled() or not x.requires_grad:
            return original(x, *more, **named)
        y, rstd = RmsNorm.apply(x, norm.weight, norm.variance_epsilon)
        y.normed_from = Normed(x, rstd, norm.weight)
        return y

    norm.forward = forward
