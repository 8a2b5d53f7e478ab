"""Bytes that training holds on each GPU, from the config and the base's shapes.

Weights, gradients and optimizer states are counted tensor by tensor, as transformers, PEFT and bitsandbytes allocate
them. Activations are an estimate: what autograd keeps of each layer, checked against what it keeps on a CPU (at an 8B's
width over 36 layers 8.0 MB a token, 13.3 with lora_dropout, 0.3 with checkpointing), and scratch of the backward pass.
The planned peak was 1.00 to 1.03 of a whole LoRA step's on a CPU, 1.2 to 1.3 of a full one's; none was measured on
a GPU.
"""

import re
from collections.abc import Sequence
from math import ceil, prod
from typing import NamedTuple

from train.core.config import Config
from train.plan.shapes import WRITER, Shape, Shapes

GIB = 2**30
TILE = 4096, 32768  # logits that TRL's fused head has at a time: tokens × vocabulary
COPIES_ON_CPU = 7  # float32 copies of a tile that TRL makes without Triton (measured)
SCRATCH = 1.5  # layers' activations that the backward pass needs beside those kept (measured on a CPU)
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
    """What the loss (a tile of logits) or the backward pass through a layer needs, whichever is larger."""
    workspace: int
    """16-bit copies of weights: NF4 layers while they are used, float32 ones under autocast."""
    evaluation: int
    """What the longest evaluation batch needs beside base, adapter and optimizer."""

    @property
    def weights(self) -> int:
        return self.base + self.adapter

    @property
    def peak(self) -> int:
        held = self.weights + self.optimizer
        step = self.gradients + self.activations + self.scratch + self.workspace
        return held + max(step, self.evaluation + self.workspace)


def memory(config: Config, workload: Workload) -> Memory:
    """The bytes of each part, for one process that holds the whole model (one GPU, or each under DDP)."""
    shapes, training = workload.shapes, config.training
    trained = trained_shapes(config, shapes)
    held = weight_bytes(config)
    layer = layer_bytes(config, shapes)
    passing = SCRATCH * layer + (layer if training.activation_checkpointing else 0)  # what was not kept is made anew
    tokens = training.per_device_train_batch_size * workload.longest
    evaluated = training.per_device_eval_batch_size * workload.longest_held_out
    return Memory(
        base=base_bytes(config, shapes),
        adapter=4 * sum(map(prod, trained)) if config.lora else 0,  # PEFT and govor hold adapters in float32
        gradients=(4 if config.lora else held) * sum(map(prod, trained)),
        optimizer=optimizer_bytes(config, shapes),
        activations=tokens * activation_bytes(config, shapes) + _scores(config, shapes, workload.longest),
        scratch=max(int(tokens * passing), _loss(config, shapes, tokens)),
        workspace=_workspace(config, shapes),
        evaluation=max(evaluated * layer, _loss(config, shapes, evaluated)) if evaluated else 0,
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


def layer_bytes(config: Config, shapes: Shapes) -> int:
    """Bytes of activations a token that autograd keeps of the widest layer.

    In 16 bits: a copy of every trained layer's input, the outputs of layers that read the residual stream (queries,
    keys, values, gate, up), attention's output and the activated gate, and a float32 copy of every norm's input. With
    dropout the adapters keep their masked inputs in float32. Without autocast inputs are shared.
    """
    each = 2 if computes_in_16_bit(config) else 4
    tuned = shapes.targets(config.lora) if config.lora else shapes.linears
    widest = 0
    for layer, names in _layers(shapes).items():
        linear = {name: shapes.tensors[name] for name in names if name in shapes.linears}
        readers = {name: out for name, (out, _) in linear.items() if not WRITER.search(name)}
        written = sum(into for name, (_, into) in linear.items() if name not in readers)
        queries = next((into for name, (_, into) in linear.items() if name.endswith("o_proj.weight")), 0)
        if config.training.per_device_train_batch_size > 1:  # padded: every query gets its own key and value
            readers = {n: max(out, queries) if re.search(r"[kv]_proj\.", n) else out for n, out in readers.items()}
        inputs = sum(into for name, (_, into) in linear.items() if name in tuned)
        if each == 4:
            inputs = sum({into for _, into in linear.values()}) + shapes.hidden
        total = each * (inputs + written + sum(readers.values()))
        total += (4 if config.lora else 8) * _normed(shapes, names)
        if config.lora and config.lora.lora_dropout:
            total += 4 * sum(into for name, (_, into) in linear.items() if name in tuned)
        total += each * config.lora.r * sum(name in tuned for name in linear) if config.lora else 0
        widest = max(widest, total + _experts(shapes, layer))
    return widest


def activation_bytes(config: Config, shapes: Shapes) -> int:
    """Bytes of activations a token over the whole model; with checkpointing only what enters each layer."""
    stream = (2 if weight_bytes(config) == 2 else 4) * shapes.hidden
    if config.training.activation_checkpointing:
        return stream * shapes.layers
    return layer_bytes(config, shapes) * shapes.layers


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


def _loss(config: Config, shapes: Shapes, tokens: int) -> int:
    """The last hidden states with their gradient, a tile of logits and, where the head is trained, its gradient."""
    each = 2 if computes_in_16_bit(config) else 4
    rows = min(tokens, TILE[0])
    copies = 4 * COPIES_ON_CPU * min(shapes.vocabulary, TILE[1]) if config.training.use_cpu else 0
    head = 0 if config.lora else 4 * prod(shapes.head)
    return tokens * shapes.hidden * (2 * each + 4) + rows * (each * TILE[1] + copies) + head


def _workspace(config: Config, shapes: Shapes) -> int:
    """Bytes of 16-bit weights beside the stored ones.

    These are the largest NF4 layer, and under autocast every float32 layer that is kept for the backward pass.
    """
    sizes = [prod(shape) for shape in shapes.linears.values()]
    if config.model.load_in_4bit:
        return weight_bytes(config) * max(sizes, default=0)
    if weight_bytes(config) == 4 and computes_in_16_bit(config):
        kept = config.lora is None or not config.training.activation_checkpointing
        return 2 * (sum(sizes) if kept else max(sizes, default=0))
    return 0
