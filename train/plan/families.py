"""The shapes of every parameter that a config.json implies, for the families of bases written down here.

Names are those of transformers' own modules, whose code and defaults (5.23) are the source; tests/plan/test_plan.py
builds the models without weights and compares.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from train.core.errors import BaseError

Shape = tuple[int, ...]
Tensors = Iterator[tuple[str, Shape]]

TEXT_ONLY = ("qwen3_5", "qwen3_5_moe")
"""Bases with eyes that transformers leaves out where it loads a language model."""


@dataclass(frozen=True)
class Family:
    """What config.json does not say of an architecture, and what it may leave out."""

    tied: bool = False
    """Whether the head is the embedding's weight where config.json does not say."""
    head_dim: int | None = None
    qkv_bias: bool = False
    head_norms: bool = False
    """Norms of every head's query and key."""
    fused: bool = False
    """q, k and v are one layer, and so are gate and up."""
    gated: bool = False
    """q_proj makes a gate for attention's output as well."""
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")


GEMMA_NORMS = (*Family.norms, "pre_feedforward_layernorm", "post_feedforward_layernorm")
FAMILIES = {
    "llama": Family(),
    "mistral": Family(),
    "granite": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(head_dim=128, head_norms=True),
    "smollm3": Family(tied=True),
    "gemma": Family(tied=True, head_dim=256),
    "gemma2": Family(tied=True, head_dim=256, norms=GEMMA_NORMS),
    "gemma3_text": Family(tied=True, head_dim=256, head_norms=True, norms=GEMMA_NORMS),
    "gemma4_text": Family(tied=True, head_dim=256, head_norms=True, norms=GEMMA_NORMS),
    "phi3": Family(fused=True),
    "ministral3": Family(head_dim=128),
    "qwen3_5_text": Family(head_dim=256, head_norms=True, gated=True),
    "deepseek_v3": Family(),
}
"""Architecture of the language model, as `model_type` names it."""


def tensors_of(config: Mapping[str, Any]) -> Tensors:
    """Names and shapes of all parameters, tied ones once.

    `config`: the language model's part of config.json, see models/base.py; `vision_config` and `audio_config` beside it
    where the base has eyes and ears that are loaded with it. BaseError for a family that is not written down.
    """
    model_type, senses = str(config.get("model_type")), list(_senses(config))
    family = FAMILIES.get(model_type)
    unknown = next((kind for kind, _ in senses if kind not in SENSES), None if family else model_type)
    if family is None or unknown:
        raise BaseError(
            f"architecture {unknown}: config.json alone does not tell its shapes: download its safetensors files, "
            f"or choose one of {', '.join(FAMILIES)}"
        )
    try:
        body = "model.language_model" if senses else "model"
        yield from _language(config, model_type, family, body)
        for kind, settings in senses:
            yield from SENSES[kind](settings, config)
    except KeyError as error:
        raise BaseError(f"config.json of a {model_type} model has no {error.args[0]}") from None


def _senses(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(model_type, settings) of eyes and ears that are loaded with the language model."""
    if str(config.get("model_type")).removesuffix("_text") not in TEXT_ONLY:
        for name in ("vision_config", "audio_config"):
            if settings := config.get(name):
                yield str(settings.get("model_type")), settings


def _language(config: Mapping[str, Any], model_type: str, family: Family, body: str) -> Tensors:
    hidden, vocabulary = int(config["hidden_size"]), int(config["vocab_size"])
    layers = int(config["num_hidden_layers"])
    yield f"{body}.embed_tokens.weight", (vocabulary, hidden)
    kinds = config.get("layer_types") or ["full_attention"] * layers
    for number in range(layers):
        at, kind = f"{body}.layers.{number}", kinds[number % len(kinds)]
        if model_type == "gemma4_text":
            yield from _gemma4_layer(config, family, at, number, kind)
        elif model_type == "deepseek_v3":
            yield from _deepseek_layer(config, family, at, number)
        else:
            yield from _layer(config, family, at, kind)
    yield f"{body}.norm.weight", (hidden,)
    if model_type == "gemma4_text" and (width := int(config.get("hidden_size_per_layer_input") or 0)):
        rows = int(config.get("vocab_size_per_layer_input") or vocabulary)
        yield f"{body}.embed_tokens_per_layer.weight", (rows, layers * width)
        yield f"{body}.per_layer_model_projection.weight", (layers * width, hidden)
        yield f"{body}.per_layer_projection_norm.weight", (width,)
    if not config.get("tie_word_embeddings", family.tied):
        yield "lm_head.weight", (vocabulary, hidden)


def _linear(name: str, out: int, into: int, bias: bool = False) -> Tensors:
    yield f"{name}.weight", (out, into)
    if bias:
        yield f"{name}.bias", (out,)


def _norms(at: str, names: tuple[str, ...], width: int) -> Tensors:
    yield from ((f"{at}.{name}.weight", (width,)) for name in names)


def _swiglu(at: str, hidden: int, inner: int, *, fused: bool = False, bias: bool = False, end: str = "") -> Tensors:
    """`end`: what stands between a layer's name and its weight."""
    for name, width in [("gate_up_proj", 2 * inner)] if fused else [("gate_proj", inner), ("up_proj", inner)]:
        yield from _linear(f"{at}.{name}{end}", width, hidden, bias)
    yield from _linear(f"{at}.down_proj{end}", hidden, inner, bias)


def _attention(
    at: str, hidden: int, heads: int, kv_heads: int, head_dim: int, family: Family, *, bias: bool = False
) -> Tensors:
    q, kv = heads * head_dim, kv_heads * head_dim
    asked = 2 * q if family.gated else q
    parts = [("qkv_proj", q + 2 * kv)] if family.fused else [("q_proj", asked), ("k_proj", kv), ("v_proj", kv)]
    for name, width in parts:
        yield from _linear(f"{at}.{name}", width, hidden, bias or family.qkv_bias)
    yield from _linear(f"{at}.o_proj", hidden, q, bias)
    if family.head_norms:
        yield from _norms(at, ("q_norm", "k_norm"), head_dim)


def _layer(config: Mapping[str, Any], family: Family, at: str, kind: str) -> Tensors:
    hidden, heads, inner = (
        int(config[f"{name}"]) for name in ("hidden_size", "num_attention_heads", "intermediate_size")
    )
    head_dim = int(config.get("head_dim") or family.head_dim or hidden // heads)
    if kind == "linear_attention":
        yield from _linear_attention(config, f"{at}.linear_attn")
    else:
        kv_heads = int(config.get("num_key_value_heads") or heads)
        bias = bool(config.get("attention_bias"))
        yield from _attention(f"{at}.self_attn", hidden, heads, kv_heads, head_dim, family, bias=bias)
    yield from _swiglu(f"{at}.mlp", hidden, inner, fused=family.fused, bias=bool(config.get("mlp_bias")))
    yield from _norms(at, family.norms, hidden)


def _linear_attention(config: Mapping[str, Any], at: str) -> Tensors:
    """Qwen's gated delta net."""
    hidden = int(config["hidden_size"])
    key_heads, key_dim, value_heads, value_dim, kernel = (
        int(config[f"linear_{name}"])
        for name in ("num_key_heads", "key_head_dim", "num_value_heads", "value_head_dim", "conv_kernel_dim")
    )
    keys, values = key_heads * key_dim, value_heads * value_dim
    yield from ((f"{at}.{name}", (value_heads,)) for name in ("dt_bias", "A_log"))
    yield f"{at}.conv1d.weight", (2 * keys + values, 1, kernel)
    yield f"{at}.norm.weight", (value_dim,)
    yield from _linear(f"{at}.out_proj", hidden, values)
    widths = {"qkv": 2 * keys + values, "z": values, "b": value_heads, "a": value_heads}
    for name, width in widths.items():
        yield from _linear(f"{at}.in_proj_{name}", width, hidden)


def _gemma4_layer(config: Mapping[str, Any], family: Family, at: str, number: int, kind: str) -> Tensors:
    """Full attention has wider heads, the last layers reuse keys and values, and each layer reads its own embedding."""
    hidden, heads, inner = (int(config[name]) for name in ("hidden_size", "num_attention_heads", "intermediate_size"))
    own = {int(layer): fields for layer, fields in (config.get("per_layer_config") or {}).items()}.get(number, {})
    full, same = kind == "full_attention", bool(config.get("attention_k_eq_v"))
    wide, narrow = config.get("global_head_dim") or 512, config.get("head_dim") or family.head_dim or 256
    head_dim = int(own.get("head_dim") or (wide if full else narrow))
    kv_heads = int(config.get("num_key_value_heads") or heads)
    if full and same:
        kv_heads = int(own.get("num_key_value_heads") or config.get("num_global_key_value_heads") or kv_heads)
    reused = number >= int(config["num_hidden_layers"]) - int(config.get("num_kv_shared_layers") or 0)
    left_out = ("k_proj", "v_proj", "k_norm") if reused else ("v_proj",) if full and same else ()
    bias = bool(config.get("attention_bias"))
    for name, shape in _attention(f"{at}.self_attn", hidden, heads, kv_heads, head_dim, family, bias=bias):
        if name.split(".")[-2] not in left_out:
            yield name, shape
    yield from _swiglu(f"{at}.mlp", hidden, inner * (2 if reused and config.get("use_double_wide_mlp") else 1))
    yield from _norms(at, family.norms, hidden)
    if width := int(config.get("hidden_size_per_layer_input") or 0):
        yield from _linear(f"{at}.per_layer_input_gate", width, hidden)
        yield from _linear(f"{at}.per_layer_projection", hidden, width)
        yield from _norms(at, ("post_per_layer_input_norm",), hidden)
    if config.get("enable_moe_block"):
        experts, small = int(config["num_experts"]), int(config["moe_intermediate_size"])
        yield from _linear(f"{at}.router.proj", experts, hidden)
        yield f"{at}.router.scale", (hidden,)
        yield f"{at}.router.per_expert_scale", (experts,)
        yield f"{at}.experts.gate_up_proj", (experts, 2 * small, hidden)
        yield f"{at}.experts.down_proj", (experts, hidden, small)
        more = ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2")
        yield from _norms(at, more, hidden)


def _deepseek_layer(config: Mapping[str, Any], family: Family, at: str, number: int) -> Tensors:
    """Attention through a narrow latent state; after the first layers a mixture of experts, one by one as in the files.

    DeepSeek-V3 and the GigaChats made like it.
    """
    hidden, heads, inner, small = (
        int(config[name])
        for name in ("hidden_size", "num_attention_heads", "intermediate_size", "moe_intermediate_size")
    )
    latent, rope, nope, value = (
        int(config[name]) for name in ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
    )
    bias, attention = bool(config.get("attention_bias")), f"{at}.self_attn"
    if asked := int(config.get("q_lora_rank") or 0):
        yield from _linear(f"{attention}.q_a_proj", asked, hidden, bias)
        yield from _norms(attention, ("q_a_layernorm",), asked)
        yield from _linear(f"{attention}.q_b_proj", heads * (nope + rope), asked)
    else:
        yield from _linear(f"{attention}.q_proj", heads * (nope + rope), hidden)
    yield from _linear(f"{attention}.kv_a_proj_with_mqa", latent + rope, hidden, bias)
    yield from _norms(attention, ("kv_a_layernorm",), latent)
    yield from _linear(f"{attention}.kv_b_proj", heads * (nope + value), latent)
    yield from _linear(f"{attention}.o_proj", hidden, heads * value, bias)
    if number < int(config.get("first_k_dense_replace") or 0):
        yield from _swiglu(f"{at}.mlp", hidden, inner)
    else:
        experts = int(config["n_routed_experts"])
        yield from _linear(f"{at}.mlp.gate", experts, hidden)
        for expert in range(experts):
            yield from _swiglu(f"{at}.mlp.experts.{expert}", hidden, small)
        yield from _swiglu(f"{at}.mlp.shared_experts", hidden, small * int(config.get("n_shared_experts") or 1))
    yield from _norms(at, family.norms, hidden)


def _pixtral(eyes: Mapping[str, Any], config: Mapping[str, Any]) -> Tensors:
    """The eyes of Mistral Small 3 and Ministral 3, and what makes words of their patches."""
    hidden, inner, patch, into = (
        int(eyes[name]) for name in ("hidden_size", "intermediate_size", "patch_size", "num_channels")
    )
    text, tower, bridge = int(config["hidden_size"]), "model.vision_tower", "model.multi_modal_projector"
    yield f"{tower}.patch_conv.weight", (hidden, into, patch, patch)
    yield from _norms(tower, ("ln_pre",), hidden)
    for number in range(int(eyes["num_hidden_layers"])):
        at = f"{tower}.transformer.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield from _linear(f"{at}.attention.{name}", hidden, hidden)
        yield from _swiglu(f"{at}.feed_forward", hidden, inner)
        yield from _norms(at, ("attention_norm", "ffn_norm"), hidden)
    bias = bool(config.get("multimodal_projector_bias"))
    yield from _norms(bridge, ("norm",), hidden)
    yield from _linear(f"{bridge}.patch_merger.merging_layer", hidden, hidden * int(config["spatial_merge_size"]) ** 2)
    yield from _linear(f"{bridge}.linear_1", text, hidden, bias)
    yield from _linear(f"{bridge}.linear_2", text, text, bias)


def _gemma4_eyes(eyes: Mapping[str, Any], config: Mapping[str, Any]) -> Tensors:
    hidden, inner, heads, head_dim, patch = (
        int(eyes[name])
        for name in ("hidden_size", "intermediate_size", "num_attention_heads", "head_dim", "patch_size")
    )
    tower, width = "model.vision_tower", heads * head_dim
    yield f"{tower}.patch_embedder.position_embedding_table", (2, int(eyes["position_embedding_size"]), hidden)
    yield from _linear(f"{tower}.patch_embedder.input_proj", hidden, 3 * patch**2)
    for number in range(int(eyes["num_hidden_layers"])):
        at = f"{tower}.encoder.layers.{number}"
        kv = int(eyes.get("num_key_value_heads") or heads) * head_dim
        for name, out, into in (("q", width, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, width)):
            yield from _linear(f"{at}.self_attn.{name}_proj.linear", out, into)
        yield from _norms(f"{at}.self_attn", ("q_norm", "k_norm"), head_dim)
        yield from _swiglu(f"{at}.mlp", hidden, inner, end=".linear")
        yield from _norms(at, GEMMA_NORMS, hidden)
    yield from _linear("model.embed_vision.embedding_projection", int(config["hidden_size"]), hidden)


def _gemma4_ears(ears: Mapping[str, Any], config: Mapping[str, Any]) -> Tensors:
    hidden, heads, made = (int(ears[name]) for name in ("hidden_size", "num_attention_heads", "output_proj_dims"))
    tower, channels = "model.audio_tower", [1, *map(int, ears["subsampling_conv_channels"])]
    for number in (0, 1):
        at = f"{tower}.subsample_conv_projection.layer{number}"
        yield f"{at}.conv.weight", (channels[number + 1], channels[number], 3, 3)
        yield f"{at}.norm.weight", (channels[number + 1],)
    yield from _linear(f"{tower}.subsample_conv_projection.input_proj_linear", hidden, channels[1] // 4 * channels[2])
    for number in range(int(ears["num_hidden_layers"])):
        at = f"{tower}.layers.{number}"
        for part in (f"{at}.feed_forward1", f"{at}.feed_forward2"):
            yield from _linear(f"{part}.ffw_layer_1.linear", 4 * hidden, hidden)
            yield from _linear(f"{part}.ffw_layer_2.linear", hidden, 4 * hidden)
            yield from _norms(part, ("pre_layer_norm", "post_layer_norm"), hidden)
        yield f"{at}.self_attn.per_dim_scale", (hidden // heads,)
        for name in ("q_proj.linear", "k_proj.linear", "v_proj.linear", "post.linear", "relative_k_proj"):
            yield from _linear(f"{at}.self_attn.{name}", hidden, hidden)
        yield from _linear(f"{at}.lconv1d.linear_start.linear", 2 * hidden, hidden)
        yield from _linear(f"{at}.lconv1d.linear_end.linear", hidden, hidden)
        yield f"{at}.lconv1d.depthwise_conv1d.weight", (hidden, 1, int(ears["conv_kernel_size"]))
        yield from _norms(f"{at}.lconv1d", ("pre_layer_norm", "conv_norm"), hidden)
        yield from _norms(at, ("norm_pre_attn", "norm_post_attn", "norm_out"), hidden)
    yield from _linear(f"{tower}.output_proj", made, hidden, bias=True)
    yield from _linear("model.embed_audio.embedding_projection", int(config["hidden_size"]), made)


SENSES = {"pixtral": _pixtral, "gemma4_vision": _gemma4_eyes, "gemma4_audio": _gemma4_ears}
"""model_type of eyes and ears → their shapes, and those of what joins them to the language model."""
