"""What each verb needs on the card, from training to serving. Estimates: none was measured on a GPU."""

from math import prod
from typing import NamedTuple

from train.core.config import Config
from train.plan.memory import Memory, Workload, base_bytes, layer_bytes, trained_shapes
from train.plan.shapes import Shapes

SCORED = 12  # bytes a logit where a whole row is scored: 16-bit twice, float32 and its log-softmax


class Need(NamedTuple):
    """The card's memory that a verb takes, at the least."""

    verb: str
    bytes: int
    loads: str
    """What lies on the card."""


def needs(config: Config, workload: Workload, training: Memory) -> list[Need]:
    """The verbs in the order in which they are run.

    eval scores the longest held-out row, chat answers the longest row with `generation.max_new_tokens`, serve holds one
    such dialogue. merge itself works on the CPU; its check runs both models layer by layer where they do not fit.
    """
    shapes = workload.shapes
    adapter = sum(map(prod, trained_shapes(config, shapes))) if config.lora else 0
    layer = layer_bytes(config, shapes, workload.longest)
    dialogue = workload.longest + config.generation.max_new_tokens
    cache = dialogue * cache_bytes(shapes)
    tuned = base_bytes(config, shapes) + 4 * adapter + training.workspace
    scoring = workload.longest_held_out * (layer + SCORED * shapes.vocabulary)
    base = "NF4 base" if config.model.load_in_4bit else "base"
    found = [
        Need("train", training.peak, f"{base}, adapter, optimizer" if config.lora else "all weights, optimizer"),
        Need(
            "eval",
            tuned + max(scoring, cache + dialogue * layer),
            f"{base} + adapter" if config.lora else "all weights",
        ),
        Need("chat", tuned + cache + dialogue * layer, f"{base} + adapter" if config.lora else "all weights"),
    ]
    if config.lora:
        one_layer = 2 * (shapes.parameters - prod(shapes.embedding)) // shapes.layers
        check = one_layer + 2 * prod(shapes.head) + scoring
        found.append(Need("merge", check, "its check: one layer at a time, head, activations"))
    if config.model.load_in_4bit:
        found.append(Need("serve", base_bytes(config, shapes) + 2 * adapter + cache, "NF4 base + adapter, by vLLM"))
    else:
        found.append(Need("serve", 2 * shapes.parameters + cache, "merged weights in 16 bits"))
    return found


def cache_bytes(shapes: Shapes) -> int:
    """Bytes a token of 16-bit keys and values over all layers."""
    heads = int(shapes.config.get("num_key_value_heads") or shapes.heads)
    return 2 * 2 * heads * shapes.head_dim * shapes.layers
