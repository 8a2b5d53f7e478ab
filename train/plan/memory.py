"""Bytes that training holds on each GPU, from the config and the base's shapes.

Weights, gradients and optimizer states are counted tensor by tensor, as transformers, PEFT and bitsandbytes allocate
them. Activations are an estimate: what autograd keeps of each layer, and the most that the loss or the way back through
a layer needs beside it. For a GPU it was fitted to steps that scripts/gpu_check/simulate.py runs on tensors without
contents and counts as torch's allocator would (figures: tests/plan/test_simulated.py); for a CPU it was checked against
whole steps measured there. None of it was measured on a GPU.
"""

import re
from collections.abc import Sequence
from math import ceil, prod
from typing import NamedTuple

from train.core.config import Config, Kernel
from train.plan.families import Shape
from train.plan.shapes import WRITER, Shapes

GIB = 2**30
TILE = 4096, 32768  # logits that TRL's fused head has at a time: tokens × vocabulary
COPIES_ON_CPU = 7  # float32 copies of a tile that TRL makes without Triton (measured)
SCRATCH_ON_CPU = 1.5  # layers' activations that the backward pass needs beside those kept (measured)
NORM = 20  # bytes a token and hidden number on the way back through a norm: float32 numbers and their gradients
KERNEL_TILE = 2**24  # logits that govor's head has at a time (TILE in tuning/kernels/head.py)
KERNELS: frozenset[Kernel] = frozenset(("lora_qkv", "lora_mlp"))  # those that matter here of what auto tries on a GPU
SMALL = 4096  # bitsandbytes keeps the states of smaller tensors in float32
CODES = 16 * 4 + 256 * 4 + 4  # of an NF4 weight: its 16 values, the 256 of its scales, their mean


class Workload(NamedTuple):
    """What memory depends on besides the config."""

    shapes: Shapes
    longest: int
    """Tokens of the longest training row, at most training.max_length."""
    longest_held_out: int = 0


def workload_of(config: Config, shapes: Shapes, lengths: Sequence[int], held_out: Sequence[int]) -> Workload:
    """The workload of rows with these numbers of tokens. A packed row is as long as training.max_length."""
    limit = config.training.max_length
    packing = bool(getattr(config.training, "packing", None))
    packing_eval = getattr(config.training, "eval_packing", None)
    packing_eval = packing if packing_eval is None else packing_eval
    return Workload(
        shapes,
        limit if packing else min(limit, max(lengths, default=0)),
        limit if packing_eval and held_out else min(limit, max(held_out, default=0)),
    )


class Memory(NamedTuple):
    """Bytes on each GPU at the worst moment of a step."""

    base: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    """Kept from the forward pass for the backward pass."""
    scratch: int
    """What the loss (a tile of logits) or the backward pass through a layer needs besides, whichever is larger."""
    workspace: int
    """16-bit copies of weights: NF4 layers while they are used, float32 ones under autocast."""
    evaluation: int
    """What the longest evaluation batch needs beside base, adapter and optimizer."""

    never_at_once: int = 0
    """Of gradients and activations: the backward pass makes the ones layer by layer as it frees the others.

    With more than one pass a step the gradients stay from pass to pass, so it is 0.
    """

    @property
    def weights(self) -> int:
        return self.base + self.adapter

    @property
    def peak(self) -> int:
        held = self.weights + self.optimizer
        step = self.gradients + self.activations - self.never_at_once + self.scratch + self.workspace
        return held + max(step, self.evaluation + self.workspace)


def memory(config: Config, workload: Workload) -> Memory:
    """The bytes of each part, for one process that holds the whole model (one GPU, or each under DDP).

    `training.kernels: auto` on a GPU: of a step with kernels and one without, the larger, since which of them run is
    known only on the card.
    """
    if config.training.kernels != "auto" or config.training.use_cpu:
        return _memory(config, workload, kernels_of(config, workload.shapes))
    chosen = _only_possible(config, workload.shapes, KERNELS)
    return max((_memory(config, workload, kernels) for kernels in (frozenset(), chosen)), key=lambda found: found.peak)


def kernels_of(config: Config, shapes: Shapes) -> frozenset[Kernel]:
    """The kernels that the config names and the base and the adapter allow."""
    wanted = config.training.kernels
    return frozenset() if isinstance(wanted, str) else _only_possible(config, shapes, frozenset(wanted))


def _only_possible(config: Config, shapes: Shapes, kernels: frozenset[Kernel]) -> frozenset[Kernel]:
    """Without those that tuning/kernels/ would refuse, as far as config and shapes tell."""
    unlike_llama = str(shapes.config.get("model_type")).startswith("gemma")  # another norm, another activation
    refused: set[Kernel] = set()
    if config.lora is None:
        refused |= {"lora_qkv", "lora_mlp", "norm"}
    elif config.lora.lora_dropout or config.lora.use_dora:
        refused |= {"lora_qkv", "lora_mlp"}
    if unlike_llama or not any(name.endswith(".gate_proj.weight") for name in shapes.linears):
        refused.add("lora_mlp")
    if unlike_llama:
        refused.add("norm")
    if not any(name.endswith(".q_proj.weight") for name in shapes.linears):
        refused.add("lora_qkv")
    return kernels - refused


def _memory(config: Config, workload: Workload, kernels: frozenset[Kernel]) -> Memory:
    shapes, training = workload.shapes, config.training
    trained = sum(map(prod, trained_shapes(config, shapes)))
    layer = layer_bytes(config, shapes, workload.longest, kernels)
    tokens = training.per_device_train_batch_size * workload.longest
    evaluated = training.per_device_eval_batch_size * workload.longest_held_out
    activations = tokens * activation_bytes(config, shapes, layer) + _scores(config, shapes, workload.longest)
    gradients = (4 if config.lora else weight_bytes(config)) * trained
    at_once = training.gradient_accumulation_steps > 1  # the gradients of one pass wait while the next goes forward
    apart = 0 if at_once else min(activations, gradients) * (shapes.layers - 1) // shapes.layers
    workspace = _workspace(config, shapes, kernels)
    passing = tokens * (layer if training.activation_checkpointing else 0)  # what was not kept is made anew
    passing += _passing(config, shapes, tokens, layer, kernels) + workspace
    none_yet = 0 if at_once or training.use_cpu else gradients - apart
    loss = _loss(config, shapes, tokens, kernels) - none_yet
    return Memory(
        base=base_bytes(config, shapes),
        adapter=4 * trained if config.lora else 0,  # PEFT and govor hold adapters in float32
        gradients=gradients,
        optimizer=optimizer_bytes(config, shapes),
        activations=activations,
        scratch=max(passing, loss) - workspace,
        workspace=workspace,
        evaluation=max(evaluated * layer, _loss(config, shapes, evaluated, kernels)) if evaluated else 0,
        never_at_once=apart,
    )


def weight_bytes(config: Config) -> int:
    """Bytes of a base weight that is not 4-bit; `auto` as `resolve_precision` (models/load.py) settles it."""
    if config.model.dtype != "auto":
        return 4 if config.model.dtype == "float32" else 2
    return 4 if config.training.use_cpu or config.lora is None else 2


def computes_in_16_bit(config: Config) -> bool:
    """Whether layers run in a 16-bit type, by their weights or by autocast."""
    training = config.training
    if training.bf16 is not None or training.fp16 is not None:
        return bool(training.bf16 or training.fp16) or weight_bytes(config) == 2
    return not training.use_cpu or weight_bytes(config) == 2


def trained_shapes(config: Config, shapes: Shapes) -> list[Shape]:
    """Shapes of the parameters that are trained: the adapter's, or all."""
    return shapes.adapter(config.lora) if config.lora else list(shapes.tensors.values())


def base_bytes(config: Config, shapes: Shapes) -> int:
    """Bytes of the base's weights.

    NF4 with double quantisation: half a byte a weight, a byte for each block of 64, a float32 for each 256 of those,
    and two tables of codes a layer; what is no linear layer, and the head, stay as they are.
    """
    each = weight_bytes(config)
    if not config.model.load_in_4bit:
        return each * shapes.parameters
    total = 0
    for name, shape in shapes.tensors.items():
        if name in shapes.linears:
            blocks = ceil(prod(shape) / 64)
            total += ceil(prod(shape) / 2) + blocks + 4 * ceil(blocks / 256) + CODES
        else:
            total += each * prod(shape)
    return total


def optimizer_bytes(config: Config, shapes: Shapes) -> int:
    """Bytes of the optimizer's states, by its name in transformers; an unknown one counts as Adam in float32.

    8-bit states have a float32 for each block of 256 and a table of 256 codes; bitsandbytes keeps tensors below 4096
    weights, and transformers embeddings, in float32. Paged states are counted too, though they may leave the GPU.
    """
    name = config.training.optim
    trained = trained_shapes(config, shapes)
    each = 4 if config.lora else weight_bytes(config)
    if name in ("sgd", "lomo"):
        return 0
    if name == "adafactor":
        return 4 * sum(sum(shape) if len(shape) == 2 else prod(shape) for shape in trained)
    sums = 1 if re.search("lion|adagrad|rmsprop", name) else 3 if "ademamix" in name else 2
    if "8bit" not in name:
        wide = 4 if re.search("32bit|bnb", name) else each
        return (sums * wide * sum(map(prod, trained))) + (0 if "32bit" in name else 4 * len(trained))
    total = sums * 256 * 4
    for shape in trained:
        small = prod(shape) < SMALL or (config.lora is None and shape == shapes.embedding)
        total += sums * (4 * prod(shape) if small else prod(shape) + 4 * ceil(prod(shape) / 256))
    return total


def layer_bytes(config: Config, shapes: Shapes, longest: int = 0, kernels: frozenset[Kernel] = frozenset()) -> int:
    """Bytes of activations a token that autograd keeps of the widest layer, in rows of `longest` tokens.

    In 16 bits: the inputs of trained layers (one for those that read the same), the outputs of layers that read the
    residual stream (queries, keys, values, gate, up), the activated gate, and a float32 copy of every norm's input.
    With dropout each adapter keeps its own masked input and the mask. In float32 a norm's output is kept once more. On
    a CPU attention's output is copied, and with padding every query gets its own key and value, as it does on a GPU
    under a sliding window's mask, which is kept as well. Of the kernels lora_mlp keeps neither activated gate nor
    product, norm its input alone, of which a fused reader makes its own input anew.
    """
    each, cpu = (2 if computes_in_16_bit(config) else 4), config.training.use_cpu
    tuned = shapes.targets(config.lora) if config.lora else shapes.linears
    masked = not cpu and 0 < _window(shapes) < longest
    dropout = bool(config.lora and config.lora.lora_dropout)
    widest = 0
    for layer, names in _layers(shapes).items():
        linear = {name: shapes.tensors[name] for name in names if name in shapes.linears}
        readers = {name: out for name, (out, _) in linear.items() if not WRITER.search(name)}
        writers = {name: into for name, (_, into) in linear.items() if name not in readers}
        queries = next((into for name, into in writers.items() if name.endswith("o_proj.weight")), 0)
        if masked or (cpu and config.training.per_device_train_batch_size > 1):
            readers = {n: max(out, queries) if re.search(r"[kv]_proj\.", n) else out for n, out in readers.items()}
        fused = {name for name in linear if _is_fused(name, kernels)}
        inputs = {  # of the layers that read the same
            (name.rsplit(".", 2)[0] if name in readers and not dropout else name): into
            for name, (_, into) in linear.items()
            if name in tuned and not (name in fused and (name in writers or "norm" in kernels))
        }
        activated = sum(
            into for name, into in writers.items() if name not in fused and (cpu or not name.endswith("o_proj.weight"))
        )
        taken = each * sum(inputs.values())
        if each == 4:
            taken = each * (sum({into for _, into in linear.values()}) + shapes.hidden)
        if dropout:
            taken += (each if cpu else 1) * sum(inputs.values())  # the mask: a CPU keeps it as numbers
        total = taken + each * (activated + sum(readers.values())) + (2 * longest if masked else 0)
        total += (2 if "norm" in kernels else 4 if config.lora else 8) * _normed(shapes, names)
        total += each * config.lora.r * sum(name in tuned for name in linear) if config.lora else 0
        widest = max(widest, total + _experts(shapes, layer))
    return widest


def _is_fused(name: str, kernels: frozenset[Kernel]) -> bool:
    """Whether a kernel runs the layer together with its neighbours."""
    if re.search(r"\.[qkv]_proj\.weight$", name):
        return "lora_qkv" in kernels
    return "lora_mlp" in kernels and re.search(r"\.(gate|up|down)_proj\.weight$", name) is not None


def _window(shapes: Shapes) -> int:
    """Tokens to which some layer's attention is limited; 0 for all."""
    return int(shapes.config.get("sliding_window") or 0) if shapes.config.get("use_sliding_window", True) else 0


def activation_bytes(config: Config, shapes: Shapes, layer: int) -> int:
    """Bytes of activations a token over the whole model, of `layer` in each.

    With checkpointing only what enters each layer.
    """
    if config.training.activation_checkpointing:
        return (2 if weight_bytes(config) == 2 else 4) * shapes.hidden * shapes.layers
    return layer * shapes.layers


def _passing(config: Config, shapes: Shapes, tokens: int, layer: int, kernels: frozenset[Kernel]) -> int:
    """Bytes that the backward pass through a layer needs beside what was kept of it and `_workspace`.

    On a GPU the worst is the SwiGLU block. Without kernels two gradients of its inner width and one of the hidden, or
    while a weight is unpacked one less; with lora_mlp three, and the weight with them. Or a norm: its float32 numbers.
    """
    if config.training.use_cpu:
        return int(SCRATCH_ON_CPU * tokens * layer)
    each = 2 if computes_in_16_bit(config) else 4
    inner = max((into for name, (_, into) in shapes.linears.items() if WRITER.search(name)), default=0)
    inner = max(inner, max((_experts(shapes, name) // each for name in _layers(shapes)), default=0))
    if "lora_mlp" in kernels:
        return int(tokens * each * (3 * inner + 2.25 * shapes.hidden))
    unpacked = _workspace(config, shapes, kernels) if config.model.load_in_4bit else 0
    swiglu = tokens * each * (2 * inner + shapes.hidden) - min(unpacked, tokens * each * inner)
    return max(swiglu, tokens * NORM * shapes.hidden - unpacked)


def _layers(shapes: Shapes) -> dict[str, list[str]]:
    """Names of the tensors of each kind of layer once: the first of those whose shapes are alike."""
    layers: dict[str, list[str]] = {}
    for name in shapes.tensors:
        if found := re.match(r"(.*?\.(?:layers|h|blocks)\.\d+)\.", name):
            layers.setdefault(found[1], []).append(name)
    kinds: dict[tuple[Shape, ...], str] = {}
    for layer, names in layers.items():
        kinds.setdefault(tuple(shapes.tensors[name] for name in names), layer)
    return {layer: layers[layer] for layer in kinds.values()}


def _normed(shapes: Shapes, names: list[str]) -> int:
    """Numbers a token that the layer's norms take in."""
    width = 0
    for name in names:
        shape = shapes.tensors[name]
        if "norm" in name and len(shape) == 1 and name.endswith(".weight"):
            part = re.sub(r"([qk])_\w*norm\.weight$", r"\1_proj.weight", name)  # of every head
            width += shapes.tensors.get(part, shape)[0] if part != name else shape[0]
    return width


def _experts(shapes: Shapes, layer: str) -> int:
    """Bytes a token of a mixture's experts in the layer: inputs, gate, up and product of those it is sent to."""
    first = re.compile(rf"{re.escape(layer)}\..*\.experts\.0\.")
    inner = next((shape[0] for name, shape in shapes.tensors.items() if first.match(name)), 0)
    return int(shapes.config.get("num_experts_per_tok") or 1) * (8 * inner + 4 * shapes.hidden) if inner else 0


def _scores(config: Config, shapes: Shapes, longest: int) -> int:
    """Attention weights, which only the eager code keeps: float32 and 16-bit ones of every pair of tokens."""
    if config.model.attn_implementation != "eager":
        return 0
    layers = 1 if config.training.activation_checkpointing else shapes.layers
    return 6 * config.training.per_device_train_batch_size * shapes.heads * longest**2 * layers


def _loss(config: Config, shapes: Shapes, tokens: int, kernels: frozenset[Kernel]) -> int:
    """Bytes beside the layers' activations: the last norm's input, trained hidden states, logits, their gradients."""
    each = 2 if computes_in_16_bit(config) else 4
    rows = min(tokens, TILE[0])
    head = 0 if config.lora else 4 * prod(shapes.head)
    if config.training.use_cpu:
        copies = 4 * COPIES_ON_CPU * min(shapes.vocabulary, TILE[1])
        return tokens * shapes.hidden * (2 * each + 4) + rows * (each * TILE[1] + copies) + head
    normed = (
        4 if config.training.activation_checkpointing else 0
    )  # else in place of the first layer's, which keeps none
    if "head" in kernels:  # of two tiles: float32 and 16-bit logits each, as the second is made
        logits = (4 + each) * 2 * min(KERNEL_TILE, tokens * shapes.vocabulary) + tokens * shapes.hidden * each
    else:
        logits = rows * each * min(shapes.vocabulary, TILE[1]) + tokens * shapes.hidden * 4
    return tokens * shapes.hidden * (normed + each) + max(logits, tokens * shapes.hidden * NORM) + head


def _workspace(config: Config, shapes: Shapes, kernels: frozenset[Kernel]) -> int:
    """Bytes of 16-bit weights beside the stored ones.

    These are the largest NF4 layer with its scales in float32 (twice, in bitsandbytes), and under autocast the adapters
    and every float32 layer that is kept for the backward pass.
    """
    sizes = [prod(shape) for shape in shapes.linears.values()]
    kept = config.lora is None or not config.training.activation_checkpointing
    copies = 0
    if config.lora and computes_in_16_bit(config) and "lora_mlp" not in kernels:
        copies = 2 * sum(map(prod, shapes.adapter(config.lora))) // (1 if kept else shapes.layers)
    if config.model.load_in_4bit:
        return copies + (weight_bytes(config) * max(sizes, default=0)) * 17 // 16
    if weight_bytes(config) == 4 and computes_in_16_bit(config):
        return copies + 2 * (sum(sizes) if kept else max(sizes, default=0))
    return copies
