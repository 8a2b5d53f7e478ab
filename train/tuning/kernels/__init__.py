"""What makes training faster than plain TRL, each piece with its off switch (`training.kernels`).

    varlen     rows of a batch end to end, not padded, and attention that keeps them apart   attention.py
    head       the loss at the trained positions alone, in one pass                          head.py
    lora_qkv   LoRA of queries, keys and values in one function that keeps less              lora.py
    lora_mlp   LoRA of a SwiGLU block in one function that keeps less                        lora.py
    norm       RMSNorm that keeps its input alone                                            norm.py

Each is tried on the model before the first step (self_check.py): loss and gradients must come out as without it, or it
is taken off again and named.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any, get_args

from train.core.compat import attn_implementation
from train.core.config import Kernel
from train.models.load import unwrap
from train.tuning.kernels import attention, head, lora, norm
from train.tuning.kernels.self_check import Refused, SelfCheck

ON_BY_DEFAULT: dict[str, tuple[Kernel, ...]] = {
    "cpu": ("varlen", "head", "lora_qkv", "lora_mlp"),
    "cuda": ("varlen", "lora_qkv", "lora_mlp"),
}
"""Kernels that `auto` tries, by device. On a CPU they were measured to be faster; on CUDA each run times a step with
them and one without (tuning/trainer.py), and the head is TRL's, whose Triton kernels score the trained tokens alone."""


def switch_on(
    model: Any,
    wanted: str | Iterable[Kernel],
    *,
    autocast: Any = None,
    checkpointing: bool = True,
    longest: int | None = None,
    sharded: bool = False,
    loud: bool = True,
) -> set[Kernel]:
    """Put kernels into a model, PEFT's or a plain one; returns those that run.

    `wanted`: auto, off, or names. `autocast`, `checkpointing` and `longest` (tokens of a row): as training will have
    them, see SelfCheck. A kernel that cannot run is named on stderr, where `loud`; with `auto` only if it failed its
    trial, for it was not asked for.
    """
    device = next(model.parameters()).device.type
    chosen = ON_BY_DEFAULT.get(device, ()) if wanted == "auto" else () if wanted == "off" else tuple(wanted)
    names = [name for name in get_args(Kernel) if name in chosen]  # in an order in which they can be put in
    if not names:
        return set()
    try:
        if sharded:
            raise Refused("the weights are spread over several GPUs")
        trial = SelfCheck(model, autocast, checkpointing=checkpointing, longest=longest)
    except Refused as reason:
        _say(names, reason, loud and wanted != "auto")
        return set()
    try:
        _put_in(model, names, trial)
        return set(names)
    except Refused:  # one of them cannot run: each by itself
        running: set[Kernel] = set()
    for name in names:
        try:
            _put_in(model, [name], trial, running)
            running.add(name)
        except Refused as reason:
            _say([name], reason, loud and (wanted != "auto" or reason.tried))
    return running


def _put_in(model: Any, names: Iterable[Kernel], trial: SelfCheck, running: Iterable[Kernel] = ()) -> None:
    """Put the kernels in beside those that are running; Refused, and the model as it was, where one cannot run."""
    undo = restorer(model)
    try:
        for name in names:
            PUT_IN[name](model)
        there = {*running, *names}
        trial.check(flat="varlen" in there, head="head" in names)
    except Refused:
        undo()
        raise


def _say(names: Iterable[Kernel], reason: Refused, loud: bool) -> None:
    for name in names if loud else ():
        print(f"kernel {name} is off: {reason}", file=sys.stderr, flush=True)


def restorer(model: Any) -> Callable[[], None]:
    """A function that makes the model what it is now."""
    base = unwrap(model)
    forwards = [(module, module.__dict__.get("forward")) for module in model.modules()]
    implementation = attn_implementation(base)

    def undo() -> None:
        for module, forward in forwards:
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = forward
        if attn_implementation(base) != implementation:
            base.set_attn_implementation(implementation)

    return undo


def _varlen(model: Any) -> None:
    base = unwrap(model)
    if attn_implementation(base) not in ("sdpa", attention.NAME):
        raise Refused(f"model.attn_implementation is {attn_implementation(base)}")
    attention.put_in(base)


def _head(model: Any) -> None:
    if reason := head.refusal(unwrap(model)):
        raise Refused(reason)
    head.fuse_head(unwrap(model))


def _lora_qkv(model: Any) -> None:
    def parts(module: Any) -> list[Any]:
        return [getattr(module, name, None) for name in ("q_proj", "k_proj", "v_proj")]

    _fuse("attention with q_proj, k_proj and v_proj", model, parts, lambda module: lora.fuse_readers(parts(module)))


def _lora_mlp(model: Any) -> None:
    def parts(module: Any) -> list[Any]:
        is_swiglu = type(getattr(module, "act_fn", None)).__name__ in ("SiLU", "SiLUActivation")
        return [getattr(module, name, None) if is_swiglu else None for name in ("gate_proj", "up_proj", "down_proj")]

    _fuse("SwiGLU block with gate_proj, up_proj and down_proj", model, parts, lora.fuse_swiglu)


def _fuse(what: str, model: Any, parts: Callable[[Any], list[Any]], fuse: Callable[[Any], None]) -> None:
    """Fuse every module whose parts are all there, tuned at least in part, and none that PEFT must run."""
    fused, reasons = 0, [f"the model has no {what} that an adapter tunes"]
    for module in list(model.modules()):
        layers = parts(module)
        if any(layer is None for layer in layers) or not any(hasattr(layer, "lora_A") for layer in layers):
            continue
        if refusals := [reason for reason in map(lora.refusal, layers) if reason]:
            reasons.append(refusals[0])
            continue
        fuse(module)
        fused += 1
    if not fused:
        raise Refused(reasons[-1])


def _norm(model: Any) -> None:
    norms = [
        module
        for module in model.modules()
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")
    ]
    if not norms or any(module.weight.requires_grad for module in norms):
        raise Refused("its norms are trained" if norms else "the model has no RMSNorm as Llama's")
    if any("forward" in vars(module) for module in norms):
        raise Refused("its norms are replaced already (training.use_liger_kernel)")
    for module in norms:
        norm.fuse_norm(module)


PUT_IN: dict[Kernel, Callable[[Any], None]] = {
    "varlen": _varlen, "head": _head, "lora_qkv": _lora_qkv, "lora_mlp": _lora_mlp, "norm": _norm,
}  # fmt: skip
