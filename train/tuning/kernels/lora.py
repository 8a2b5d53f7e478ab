"""LoRA forward and backward written out, for several layers that read the same input and for a whole SwiGLU block.

PEFT's layers leave to autograd every input, once a layer, and every product between. Here one function keeps the input
once, the gate, the up projection and the rank-r products (x A^T, a few numbers a token); the rest is made anew in the
backward pass. A base in NF4 is unpacked in both passes. Dropout, DoRA and trained base weights are left to PEFT.

Shapes: x [tokens, in], A [r, in], B [out, r], y = x W^T + bias + s (x A^T) B^T [tokens, out].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from train.core.compat import lora_variants
from train.tuning.kernels.norm import Normed, normed_from


class Layer(NamedTuple):
    """A frozen linear layer and what tunes it."""

    base: Any
    """nn.Linear, or bitsandbytes' Linear4bit."""
    a: Tensor | None
    b: Tensor | None
    scaling: float

    def weight(self, dtype: torch.dtype) -> Tensor:
        """[out, in], unpacked if need be."""
        weight = self.base.weight
        state = getattr(weight, "quant_state", None)
        if state is None:
            return weight.to(dtype)
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, state).to(dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(y, x A^T)."""
        bias = self.base.bias
        y = functional.linear(x, self.weight(x.dtype), None if bias is None else bias.to(x.dtype))
        if self.a is None or self.b is None:
            return y, None
        xa = x @ self.a.to(x.dtype).t()
        return y.addmm_(xa, self.b.to(x.dtype).t(), alpha=self.scaling), xa

    def backward(
        self, x: Tensor, xa: Tensor | None, dy: Tensor | None, dx: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """(gradient of A, of B, of x); that of x is added to `dx` in place where one is given."""
        if dy is None:
            return None, None, dx
        weight = self.weight(x.dtype)
        dx = dy @ weight if dx is None else dx.addmm_(dy, weight)
        del weight
        if self.a is None or self.b is None or xa is None:
            return None, None, dx
        dxa = (dy @ self.b.to(x.dtype)).mul_(self.scaling)
        dx.addmm_(dxa, self.a.to(x.dtype))
        da, db = dxa.t() @ x, (dy.t() @ xa).mul_(self.scaling)
        return da.to(self.a.dtype), db.to(self.b.dtype), dx


class _Kept(NamedTuple):
    """The common input of a function, as it is kept: itself, or what its norm made it from."""

    normed: bool
    dtype: torch.dtype

    @staticmethod
    def save(ctx: Any, x: Tensor, origin: Normed | None, *more: Tensor | None) -> None:
        ctx.kept = _Kept(origin is not None, x.dtype)
        ctx.save_for_backward(*(origin or (x,)), *more)

    def load(self, ctx: Any, shape: tuple[int, int]) -> tuple[Tensor, list[Any]]:
        """(input [tokens, in], the other saved tensors)."""
        saved = list(ctx.saved_tensors)
        if not self.normed:
            return saved[0], saved[1:]
        return Normed(*saved[:3]).again().to(self.dtype).reshape(shape), saved[3:]


class LoraReaders(torch.autograd.Function):
    """Tuned layers that read one input: queries, keys and values."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, origin: Normed | None, layers: Sequence[Layer], *_: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Forward through the layers; `_` takes their A and B once more, so that autograd knows them."""
        made = [layer.forward(x) for layer in layers]
        ctx.layers, ctx.shape = layers, x.shape
        ctx.set_materialize_grads(False)
        _Kept.save(ctx, x, origin, *(xa for _, xa in made))
        return tuple(y for y, _ in made)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *dys: Tensor | None) -> tuple[Any, ...]:
        x, products = ctx.kept.load(ctx, ctx.shape)
        dx, gradients = None, []
        for layer, xa, dy in zip(ctx.layers, products, dys, strict=True):
            da, db, dx = layer.backward(x, xa, None if dy is None else dy.to(x.dtype), dx)
            gradients += [da, db]
        return dx, None, None, *gradients


class LoraSwiglu(torch.autograd.Function):
    """down(silu(gate(x)) · up(x)), each of the three tuned or not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, origin: Normed | None, layers: Sequence[Layer], *_: Tensor | None) -> Tensor:
        gate, up, down = layers
        (g, xa_gate), (u, xa_up) = gate.forward(x), up.forward(x)
        y, ha = down.forward(functional.silu(g).mul_(u))
        ctx.layers, ctx.shape = layers, x.shape
        _Kept.save(ctx, x, origin, g, u, xa_gate, xa_up, ha)
        return y

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, (g, u, xa_gate, xa_up, ha) = ctx.kept.load(ctx, ctx.shape)
        gate, up, down = ctx.layers
        s = functional.silu(g)
        da_down, db_down, dh = down.backward(s * u, ha, dy.to(x.dtype), None)
        du = s.mul_(dh)
        dg = torch.ops.aten.silu_backward(dh.mul_(u), g)
        da_gate, db_gate, dx = gate.backward(x, xa_gate, dg, None)
        da_up, db_up, dx = up.backward(x, xa_up, du, dx)
        return dx, None, None, da_gate, db_gate, da_up, db_up, da_down, db_down


def refusal(layer: Any) -> str | None:
    """Why PEFT must run this layer itself; None where it need not."""
    if not hasattr(layer, "lora_A"):
        return _base_refusal(layer)
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(active) != 1:
        return f"{len(active)} adapters are active"
    name = active[0]
    if variant := lora_variants(layer).get(name):
        return f"the adapter is a {type(variant).__name__.removesuffix('Variant')}"
    if getattr(layer.lora_dropout[name], "p", 0.0):
        return "lora.lora_dropout is not 0"
    if layer.lora_bias.get(name) or not isinstance(layer.lora_A[name], nn.Linear):
        return "the adapter is no pair of plain matrices"
    return _base_refusal(layer.get_base_layer())


def _base_refusal(base: Any) -> str | None:
    kind = type(base).__name__
    if kind == "Linear4bit":
        return None if getattr(base.weight, "quant_state", None) is not None else "its 4-bit weights are not packed yet"
    if type(base) is not nn.Linear:
        return f"a {kind} is no plain linear layer"
    if any(parameter.requires_grad for parameter in base.parameters()):
        return "its base weights are trained too"
    return None


def is_on(layer: Any) -> bool:
    """Whether the adapter takes part just now."""
    return not (getattr(layer, "disable_adapters", False) or getattr(layer, "merged", False))


def layer_of(layer: Any) -> Layer:
    """The layer with its active adapter."""
    if not hasattr(layer, "lora_A"):
        return Layer(layer, None, None, 0.0)
    name = next((name for name in layer.active_adapters if name in layer.lora_A), None)
    if name is None:
        return Layer(layer.get_base_layer(), None, None, 0.0)
    return Layer(
        layer.get_base_layer(), layer.lora_A[name].weight, layer.lora_B[name].weight, float(layer.scaling[name])
    )


def fuse_readers(modules: Sequence[Any]) -> None:
    """Let the first of the layers compute for all when they are called in turn with the same tensor."""
    originals = [module.forward for module in modules]
    ready: dict[int, Tensor] = {}
    read: list[Any] = [None]

    def first(x: Tensor, *more: Any, **named: Any) -> Any:
        ready.clear()
        read[0] = None
        if more or named or not all(map(is_on, modules)):
            return originals[0](x, *more, **named)
        outputs = _run(LoraReaders, x, [layer_of(module) for module in modules])
        ready.update(enumerate(outputs[1:], 1))
        read[0] = x
        return outputs[0]

    def other(number: int, x: Tensor, *more: Any, **named: Any) -> Any:
        if x is read[0] and number in ready and not more and not named:
            y = ready.pop(number)
            if not ready:
                read[0] = None  # or the input would live until the next step
            return y
        return originals[number](x, *more, **named)

    def forward_of(number: int) -> Any:
        return lambda x, *more, **named: other(number, x, *more, **named)

    modules[0].forward = first
    for number in range(1, len(modules)):
        modules[number].forward = forward_of(number)


def fuse_swiglu(block: Any) -> None:
    """Compute the block with one function."""
    modules, original = (block.gate_proj, block.up_proj, block.down_proj), block.forward

    def forward(x: Tensor, *more: Any, **named: Any) -> Any:
        if more or named or not all(map(is_on, modules)):
            return original(x, *more, **named)
        return _run(LoraSwiglu, x, [layer_of(module) for module in modules])

    block.forward = forward


def _run(function: Any, x: Tensor, layers: list[Layer]) -> Any:
    """The function over the flattened input, in the type that autocast asks for; outputs in the input's shape."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    matrices = [matrix for layer in layers for matrix in (layer.a, layer.b)]
    with torch.autocast(kind, enabled=False):
        made = function.apply(x.to(dtype).reshape(-1, x.shape[-1]), normed_from(x), layers, *matrices)
    if isinstance(made, Tensor):
        return made.view(*x.shape[:-1], made.shape[-1])
    return [y.view(*x.shape[:-1], y.shape[-1]) for y in made]
