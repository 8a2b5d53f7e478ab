"""The memory of a training step on a card, by torch's count of what it would allocate; needs no GPU.

python scripts/gpu_check/simulate.py configs/natasha.yaml --rows 1x723 --rows 4x2048 training.kernels=off
python scripts/gpu_check/simulate.py configs/natasha-24gb.yaml --rows 2x2048 "training.kernels=[head,lora_qkv,lora_mlp]"
python scripts/gpu_check/simulate.py configs/natasha-24gb.yaml --rows 1x512 --shape num_hidden_layers=8

The step of the config, forward and back, runs over tensors that have a shape and no contents (torch's FakeTensorMode):
transformers' model, PEFT's adapter, bitsandbytes' NF4 layers, govor's kernels and TRL's head, as tuning/trainer.py puts
them together. Each storage is counted from its first appearance to its end, rounded up to 512 bytes as the caching
allocator does. Prints a JSON line for each --rows: GiB allocated, and GiB that `govor plan` foresees.

What a CPU build of torch does otherwise than CUDA is put right by hand: attention (`FlashAttention`), NF4's unpacking
(`AllocatedBytes`), TRL's head (compat.py) and autocast. Not counted: the CUDA context, cuBLAS' workspace (8 to 32 MiB),
fragmentation, DDP's buckets. Adam's sums are counted as allocated before the step. varlen is not simulated.
"""

import gc
import json
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import click
import torch
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from train.core import compat
from train.core.config import Config, load_config
from train.core.errors import GovorError
from train.models.load import lora_config, nf4_config, quiet_libraries, unwrap
from train.plan.fit import with_options
from train.plan.memory import GIB, Workload, memory, weight_bytes
from train.plan.shapes import Shapes, find_shapes, of_config
from train.tuning.kernels import PUT_IN
from train.tuning.kernels.self_check import Refused

ATTENTION = "simulated"
BLOCK = 512
"""Bytes to which the caching allocator rounds."""
TRAINED = 0.5
"""Share of the tokens that are trained, where none is given: about that of chats."""


class Simulated(NamedTuple):
    """Bytes allocated on the card."""

    held: int
    """Weights, adapter and optimizer states, before the step."""
    kept: int
    """What the forward pass leaves to the backward pass, with the loss."""
    peak: int
    at: str
    """The operation at which the peak was reached."""
    kernels: list[str]
    """Those that ran."""


def simulate(config: Config, shapes: Shapes, batch: int, length: int, trained: float = TRAINED) -> Simulated:
    """A step over `batch` rows of `length` tokens, of which the share `trained` is scored; accumulated, two passes."""
    counted, empty = AllocatedBytes(trained), skeleton(config, shapes)
    with as_on_cuda(), compat.fake_tensors(), counted:
        model, kernels = build(config, empty)
        states = [torch.empty_like(p) for p in model.parameters() if p.requires_grad for _ in range(2)]
        if "8bit" in config.training.optim:
            states = [state.to(torch.uint8) for state in states]
        gc.collect()
        held = counted.peak = counted.now
        ids = torch.zeros(batch, length, dtype=torch.int64)
        inputs = {"input_ids": ids, "labels": torch.zeros_like(ids), "use_cache": False}
        for _ in range(min(2, config.training.gradient_accumulation_steps)):  # the second finds the first's gradients
            with torch.autocast("cpu", torch.bfloat16), torch.autocast("cuda", torch.bfloat16):
                if "head" in kernels:
                    loss = model(**inputs, trained_loss=True)["loss_sum"]
                else:
                    loss = -model(**inputs, fused_lm_head=True).log_probs.sum()
            kept = counted.now - held
            (loss / 100).backward()
            del loss
        return Simulated(held, kept, counted.peak, counted.at, kernels)


def wanted(config: Config) -> list[str]:
    """The kernels that the config names, in the order in which they can be put in, but varlen."""
    names = config.training.kernels
    return [name for name in PUT_IN if not isinstance(names, str) and name in names and name != "varlen"]


def skeleton(config: Config, shapes: Shapes) -> Any:
    """Base and adapter on the meta device, the layers of the kinds that loading makes."""
    from peft import get_peft_model
    from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

    AttentionInterface.register(ATTENTION, attention)
    dtype = torch.float32 if weight_bytes(config) == 4 else torch.bfloat16
    facts = {name: value for name, value in shapes.config.items() if name not in ("torch_dtype", "dtype")}
    with torch.device("meta"), compat.meta_creation():
        settings = AutoConfig.for_model(**facts)
        model = AutoModelForCausalLM.from_config(settings, dtype=dtype, attn_implementation=ATTENTION)
    if config.model.load_in_4bit:
        compat.quantize_layers(model, nf4_config(dtype), dtype)
        model.is_loaded_in_4bit = True
    return get_peft_model(model, lora_config(config.lora, model)) if config.lora else model


def build(config: Config, model: Any) -> tuple[Any, list[str]]:
    """(model with weights, checkpointing, head and kernels as tuning/trainer.py puts them in, names of those that run).

    Kernels are not tried before (switch_on), since nothing is computed here.
    """
    materialize(model)
    if config.training.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if config.lora:
            model.enable_input_require_grads()
    compat.fuse_head_and_loss(unwrap(model))
    compat.keep_input_types(model)
    kernels = []
    for name in wanted(config):
        with suppress(Refused):
            PUT_IN[name](model)
            kernels.append(name)
    return model.train(), kernels


def materialize(model: Any) -> None:
    """Put weights and buffers without contents, those of NF4 layers packed, in the place of the meta device's."""
    from bitsandbytes.nn import Linear4bit

    made: dict[int, nn.Parameter] = {}

    def parameter(old: nn.Parameter) -> nn.Parameter:
        if id(old) not in made:  # the head may be the embedding's weight
            made[id(old)] = nn.Parameter(torch.empty(old.shape, dtype=old.dtype), requires_grad=old.requires_grad)
        return made[id(old)]

    in_nf4 = [module for module in model.modules() if isinstance(module, Linear4bit)]
    for module in in_nf4:
        module.weight = None
    compat.replace_parameters(model, parameter)
    for module in in_nf4:
        module.weight = pack(torch.Size((module.out_features, module.in_features)), module.compute_dtype)
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def pack(shape: torch.Size, dtype: torch.dtype) -> nn.Parameter:
    """A weight as bitsandbytes holds it in NF4 with double quantisation."""
    from bitsandbytes.functional import QuantState

    blocks = ceil(shape.numel() / 64)
    scales = QuantState(
        absmax=torch.empty(ceil(blocks / 256)), code=torch.empty(256), blocksize=256, dtype=torch.float32
    )
    weight: Any = nn.Parameter(torch.empty(ceil(shape.numel() / 2), 1, dtype=torch.uint8), requires_grad=False)
    weight.quant_state = QuantState(
        absmax=torch.empty(blocks, dtype=torch.uint8), shape=shape, code=torch.empty(16), blocksize=64,
        quant_type="nf4", dtype=dtype, offset=torch.empty(()), state2=scales,
    )  # fmt: skip
    return weight


class AllocatedBytes(compat.dispatch_mode_class()):
    """Counts the storages that are alive, and their sum's peak."""

    def __init__(self, trained: float) -> None:
        super().__init__()
        self.trained = trained
        self.now = self.peak = 0
        self.at = ""
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.index.Tensor and args[1][0].dtype == torch.bool:
            made = self._chosen(*args)
        else:
            made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage(), str(function))
        if function is torch.ops.bitsandbytes.gemm_4bit.default:
            # On CUDA it unpacks scales and weight for batches above some size, see bitsandbytes/backends/cuda/ops.py
            absmax, weight = 4 * args[3].numel() * 256, 2 * args[2][0] * args[2][1]
            self._peak(2 * absmax + weight, str(function))
        return made

    def _chosen(self, values: Tensor, indices: list[Tensor]) -> Tensor:
        """What a mask chooses: how many that are depends on contents, so a set share."""
        mask = indices[0]
        rest = values.shape[mask.ndim :]
        return values.new_empty(max(1, int(mask.numel() * self.trained)), *rest)

    def _count(self, storage: Any, what: str) -> None:
        key = id(storage)  # torch keeps one Python object for a storage
        if key in self._alive:
            return
        self._alive[key] = -(-storage.nbytes() // BLOCK) * BLOCK
        self.now += self._alive[key]
        weakref.finalize(storage, self._free, key)
        self._peak(0, what)

    def _peak(self, scratch: int, what: str) -> None:
        if self.now + scratch > self.peak:
            self.peak, self.at = self.now + scratch, what

    def _free(self, key: int) -> None:
        self.now -= self._alive.pop(key)


class FlashAttention(torch.autograd.Function):
    """What torch's flash attention allocates on cards of capability 8 and above: mha_fwd, mha_bwd of flash_api.cpp.

    It takes fewer keys and values than queries as they are. The backward pass sums the queries' gradient in float32,
    and makes the others' for every query's head.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, tokens, width = query.shape
        out = query.new_empty(batch, tokens, heads, width).transpose(1, 2)
        ctx.save_for_backward(query, key, value, out, query.new_empty(batch, heads, tokens, dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, *_ = ctx.saved_tensors
        scratch = [query.new_empty(query.shape, dtype=torch.float32)]
        if key.shape[1] != query.shape[1]:
            scratch += [torch.empty_like(query), torch.empty_like(query)]
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **more: Any) -> tuple[Tensor, None]:
    """Causal attention as transformers' `sdpa` runs it on CUDA without a mask.

    A row longer than a window gets a mask: keys and values are repeated, and the memory-efficient kernel keeps the mask
    as 16-bit numbers.
    """
    window = more.get("sliding_window")
    if window is not None and query.shape[2] > window:
        groups = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
        bias = query.new_empty(query.shape[0], 1, query.shape[2], query.shape[2])
        return MaskedAttention.apply(query, key, value, bias).transpose(1, 2), None
    return FlashAttention.apply(query, key, value).transpose(1, 2), None


class MaskedAttention(FlashAttention):
    """The same with a mask: what is kept beside it."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        ctx.bias = bias
        return FlashAttention.forward(ctx, query, key, value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *FlashAttention.backward(ctx, gradient), None


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Within the block autocast of CUDA can be on, as libraries ask, and TRL's head allocates as it does there."""
    no = mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    bf16 = mock.patch("torch.cuda.is_bf16_supported", lambda *_, **__: True)
    with no, bf16, compat.trl_head_as_on_cuda():
        yield


class Pair(click.ParamType):
    """Two words with a sign between them, the last of them a number."""

    name = "pair"

    def __init__(self, sign: str, first: type) -> None:
        self.sign, self.first = sign, first

    def convert(self, value: Any, parameter: Any, context: Any) -> tuple[Any, int]:
        first, _, second = value.partition(self.sign)
        try:
            return self.first(first), int(second)
        except ValueError:
            self.fail(f"{value!r} is not of the form {parameter.metavar}", parameter, context)


@click.command()
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]…")
@click.option("--rows", type=Pair("x", int), multiple=True, required=True, metavar="BATCHxTOKENS", help="Several too.")
@click.option("--trained", default=TRAINED, show_default=True, help="Share of the tokens that is trained.")
@click.option("--shape", type=Pair("=", str), multiple=True, metavar="FIELD=NUMBER", help="Replaces config.json's.")
def main(
    config: Path,
    overrides: tuple[str, ...],
    rows: tuple[tuple[int, int], ...],
    trained: float,
    shape: tuple[tuple[str, int], ...],
) -> None:
    """Print what a training step of CONFIG would allocate on a card, a JSON line for each --rows."""
    quiet_libraries()
    try:
        settled = load_config(config, overrides)
        shapes, _ = find_shapes(settled.model)
        if shape:
            shapes = of_config(shapes.config | dict(shape))
    except GovorError as error:
        raise click.ClickException(str(error)) from None
    for batch, length in rows:
        sized = with_options(settled, {"training.per_device_train_batch_size": batch})
        found = simulate(sized, shapes, batch, length, trained)
        planned = memory(sized, Workload(shapes, length)).peak
        sizes = {"held": found.held, "kept": found.kept, "peak": found.peak, "planned": planned}
        line = {"base": settled.model.name_or_path, "rows": f"{batch}x{length}", "trained": trained}
        line |= {name: round(size / GIB, 3) for name, size in sizes.items()}
        print(json.dumps({**line, "at": found.at, "kernels": found.kernels}), flush=True)


if __name__ == "__main__":
    main()
