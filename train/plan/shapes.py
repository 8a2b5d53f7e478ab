"""The shapes of a base's parameters, without loading one: from the files' headers, from config.json, or from a table.

A safetensors file begins with the name and shape of every tensor, so the counts are exact for any architecture whose
files are here. With config.json alone they are exact for the families in families.py. For the bases that govor's own
configs name, bases.yaml holds what their config.json says, so that a plan needs no download.
"""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Literal

import yaml

from train.core.config import Lora, Model
from train.core.errors import BaseError, ConfigError
from train.models.base import language_config, language_part, local_folder, read_json
from train.plan.families import FAMILIES, TEXT_ONLY, Family, Shape, tensors_of

ShapesSource = Literal["the files' headers", "config.json", "a table of published shapes"]

NOT_LINEAR = re.compile(r"(^|\.)(\w*embed\w*|wte|wpe|shared|gate|router|router\.layer)\.weight$|norm|\.experts\.")
"""Two-dimensional weights that are no nn.Linear: embeddings, routers, and experts, which transformers 5 holds fused."""
HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output)\.weight$")
WRITER = re.compile(r"\.(o_proj|out_proj|wo|w2|fc2|dense|dense_4h_to_h|down_proj|c_proj|linear_out)\.weight$")
"""Layers that write into the residual stream; the others read from it."""
NOT_PARAMETERS = re.compile(r"^mtp\.|rotary_emb\.inv_freq$|\.e_score_correction_bias$|\.masked_bias$|\.layer_scalar$")
"""Tensors of a checkpoint that are no parameters of the model that is trained."""
EXPERT = re.compile(r"(.*)\.experts\.0\.(?:gate_proj|w1)\.weight$")
TUNED_EXPERTS = """mixtral minimax minimax_m2 afmoe deepseek_v2 deepseek_v3 deepseek_v32 dots1 ernie4_5_moe glm4_moe
    glm4_moe_lite glm_moe_dsa longcat_flash solar_open qwen3_moe qwen3_next hunyuan_v1_moe flex_olmo olmoe exaone_moe
    cohere2_moe""".split()  # noqa: SIM905
"""Mixtures of experts of which PEFT 0.21's all-linear tunes experts and routers, and then no other MLP."""


@dataclass(frozen=True)
class Shapes:
    """Every parameter of a base, tied ones once."""

    source: ShapesSource
    config: dict[str, Any]
    """The language model's part of config.json."""
    tensors: dict[str, Shape]

    @property
    def parameters(self) -> int:
        return sum(map(prod, self.tensors.values()))

    @property
    def layers(self) -> int:
        return int(self.config.get("num_hidden_layers") or self.config.get("n_layer") or 1)

    @property
    def hidden(self) -> int:
        return int(self.config.get("hidden_size") or self.config.get("n_embd") or self.embedding[1])

    @property
    def vocabulary(self) -> int:
        return int(self.config.get("vocab_size") or self.embedding[0])

    @property
    def heads(self) -> int:
        return int(self.config.get("num_attention_heads") or self.config.get("n_head") or 1)

    @property
    def head_dim(self) -> int:
        return int(self.config.get("head_dim") or self.hidden // self.heads)

    @cached_property
    def embedding(self) -> Shape:
        """(vocabulary, hidden) of the embedding that may be the head as well, not of one that layers read."""
        tables = (s for name, s in self.tensors.items() if len(s) == 2 and NOT_LINEAR.search(name))
        return max((s for s in tables if s[1] == self.config.get("hidden_size", s[1])), default=(0, 0))

    @cached_property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(out, in) of every nn.Linear but the head, by the name of its weight."""
        return {
            name: (shape[0], shape[1])
            for name, shape in self.tensors.items()
            if len(shape) == 2 and name.endswith(".weight") and not (NOT_LINEAR.search(name) or HEAD.search(name))
        }

    @cached_property
    def head(self) -> Shape:
        """(vocabulary, hidden) of the head, also where it is the embedding's weight."""
        return next((shape for name, shape in self.tensors.items() if HEAD.search(name)), self.embedding)

    @cached_property
    def experts(self) -> int:
        """Parameters of all experts."""
        return sum(prod(shape) for name, shape in self.tensors.items() if ".experts." in name)

    @property
    def multiplied(self) -> int:
        """Weights that a token is multiplied with: linear layers, head and the experts it is sent to."""
        per_token = self.config.get("num_experts_per_tok") or self.config.get("num_experts_per_token") or 1
        of = self.config.get("num_experts") or self.config.get("num_local_experts")
        of = of or self.config.get("n_routed_experts") or 1
        return sum(map(prod, self.linears.values())) + prod(self.head) + self.experts * per_token // of

    def targets(self, lora: Lora) -> dict[str, tuple[int, int]]:
        """The weights that get an adapter, as PEFT chooses them; ConfigError where none does."""
        wanted = lora.target_modules
        layers = {
            name: (shape[0], shape[1])
            for name, shape in {"lm_head.weight": self.head, **self.tensors}.items()  # tied, the head has no tensor
            if len(shape) == 2 and name.endswith(".weight")
        }
        found: dict[str, tuple[int, int]] = {}
        for entry in [wanted] if isinstance(wanted, str) else wanted:
            one = entry if isinstance(wanted, str) else [entry]
            fitting = {name: shape for name, shape in layers.items() if _is_named(name.removesuffix(".weight"), one)}
            if entry.lower() == "all-linear":
                fitting = self.linears
            if not fitting:
                names = ", ".join(sorted({name.split(".")[-2] for name in self.linears}))
                raise ConfigError(f"lora.target_modules: {entry!r} names no layer of the base; it has {names}")
            found |= fitting
        return found

    def adapter(self, lora: Lora) -> list[Shape]:
        """Shapes of the adapter's weights: A, B and, with use_dora, the lengths."""
        shapes: list[Shape] = []
        for name, (out, into) in self.targets(lora).items():
            if not (self.tunes_experts(lora) and re.search(r"\.(gate|up|down)_proj\.", name)):
                shapes += [(lora.r, into), (out, lora.r), *([(out,)] if lora.use_dora else [])]
        if self.tunes_experts(lora):
            for found in filter(None, map(EXPERT.match, self.tensors)):
                inner, hidden = self.tensors[found[0]]
                count = sum(name.startswith(f"{found[1]}.experts.") for name in self.tensors) // 3
                rank = lora.r * count
                shapes += [(2 * rank, hidden), (2 * inner, 2 * rank), (rank, inner), (hidden, rank)]
                shapes += [(lora.r, hidden), (count, lora.r)]  # the router
        return shapes

    def tunes_experts(self, lora: Lora) -> bool:
        """Whether PEFT puts adapters on experts too, fused as transformers 5 holds them."""
        wanted = lora.target_modules
        every = "all-linear" in ([wanted.lower()] if isinstance(wanted, str) else [name.lower() for name in wanted])
        return every and self.config.get("model_type") in TUNED_EXPERTS


def _is_named(module: str, wanted: str | list[str]) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in wanted)


def find_shapes(model: Model) -> tuple[Shapes, Path | None]:
    """(shapes, local folder of the base) without a network; BaseError where nothing is known about the base."""
    folder = local_folder(model)
    if folder is not None:
        return read_shapes(folder), folder
    table = yaml.safe_load(Path(__file__).with_name("bases.yaml").read_text(encoding="utf-8"))["bases"]
    if model.name_or_path not in table:
        raise BaseError(
            f"{model.name_or_path} is not on this disk, and a plan downloads nothing: give the folder with its "
            f"config.json as model.name_or_path; known without files: {', '.join(table)}"
        )
    config = table[model.name_or_path]
    config = language_part(table[config["like"]] if "like" in config else config)
    return Shapes("a table of published shapes", config, dict(tensors_of(config))), None


def of_config(config: dict[str, Any]) -> Shapes:
    """The shapes that the language model's part of a config.json implies; BaseError for a family not in `FAMILIES`."""
    return Shapes("config.json", config, dict(tensors_of(config)))


def read_shapes(folder: Path) -> Shapes:
    """The shapes of the base in that folder."""
    whole, config = read_json(folder / "config.json"), language_config(folder)
    tensors = {} if "quantization_config" in whole else _headers(folder)
    if tensors:
        return Shapes("the files' headers", config, _as_loaded(tensors, whole, config))
    return of_config(config)


def _headers(folder: Path) -> dict[str, Shape]:
    """Name and shape of every tensor in the folder's safetensors files; empty where they are not all there."""
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    try:
        if index.is_file():
            names = set(json.loads(index.read_bytes())["weight_map"].values())
        if not all((folder / name).is_file() for name in names):
            return {}
        tensors: dict[str, Shape] = {}
        for name in sorted(names):
            with (folder / name).open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            tensors |= {key: tuple(entry["shape"]) for key, entry in header.items() if key != "__metadata__"}
    except (ValueError, KeyError, AttributeError, TypeError, OverflowError, MemoryError) as error:
        raise BaseError(f"{folder}: its safetensors files are damaged ({error}): download them again") from None
    return tensors


def _as_loaded(tensors: dict[str, Shape], whole: dict[str, Any], config: dict[str, Any]) -> dict[str, Shape]:
    """The tensors of the model that is trained: no predictors of later tokens, no buffers, no tied head."""
    text_only = whole.get("model_type") in TEXT_ONLY
    layers = config.get("num_hidden_layers")
    family = FAMILIES.get(str(config.get("model_type")), Family())
    tied = whole.get("tie_word_embeddings", config.get("tie_word_embeddings", family.tied))
    kept = {}
    for name, shape in tensors.items():
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        beyond = layer is not None and layers is not None and int(layer[1]) >= layers
        if not (
            beyond or NOT_PARAMETERS.search(name) or (text_only and ".visual." in name) or (tied and HEAD.search(name))
        ):
            kept[name] = shape
    return kept
