"""What each tensor of a base becomes under an adapter, one at a time.

The model is built without its weights and PEFT puts the adapter on it. Then one layer at a time is given its weight,
merged by PEFT's own code in float32, read and emptied again.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from train.core import compat
from train.core.config import Model
from train.core.errors import BaseError, RunError
from train.models.load import Precision, adapter_settings, load_model_config, nf4_config
from train.models.safetensors_files import StoredTensor

PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Values of init_lora_weights that leave the base's weights as they are."""


class NeedsWholeModelError(Exception):
    """A tensor at a time will not do; the message says why."""


class TensorMerger:
    """The adapter over the base's tensors, each asked for by the name of its parameter in the model."""

    def __init__(
        self, base: Path, adapter: Path, model: Model, stored: Mapping[str, StoredTensor], device: str
    ) -> None:
        """RunError where the adapter does not fit the base, NeedsWholeModelError where it must be merged otherwise."""
        _require_plain(adapter)
        skeleton = _skeleton(base, model)
        self.names, converted = _parameter_names(skeleton, stored)
        """Tensor of the base's files → the parameter that it becomes; None where the model has no place for it."""
        self.tied: dict[str, str] = dict(skeleton.all_tied_weights_keys)
        """Parameters that share the weight of another."""
        self.stored, self._device = stored, device
        self._nf4: tuple[Collection[str], Any] = ((), None)
        self._merged: tuple[str, dict[str, Any]] = ("", {})
        self._sources = {name: stored[key] for key, name in self.names.items() if name is not None}
        for target, source in self.tied.items():
            for one, other in ((target, source), (source, target)):
                if one not in self._sources and other in self._sources:
                    self._sources[one] = self._sources[other]
        self._layers, self._replaced = _add_adapter(skeleton, adapter)
        self._require_sources(converted, adapter)

    def unpack_nf4(self, base: Path, model: Model, precision: Precision) -> None:
        """Use what NF4 leaves of the base's weights from here on, wherever training held them in NF4."""
        names = _nf4_layers(_skeleton(base, model), precision)
        absent = [name for name in names if f"{name}.weight" not in self._sources]
        if absent:
            raise BaseError(f"{base}: {absent[0]} lies in its files in parts, so its NF4 weights cannot be written")
        self._nf4 = (names, precision.weights)

    def source(self, name: str) -> StoredTensor:
        """The tensor of the base's files that holds the parameter."""
        return self._sources[name]

    def is_changed(self, name: str) -> bool:
        layer, _, _ = name.rpartition(".")
        return layer in self._layers or name in self._replaced or self._is_unpacked(name)

    def value(self, name: str) -> Any:
        """The parameter's new weight, in float32."""
        layer, _, leaf = name.rpartition(".")
        if layer not in self._layers:
            return self._weight(name)
        if self._merged[0] != layer:  # weight and bias are asked for one after the other
            self._merged = (layer, self._merge(layer))
        return self._merged[1][leaf]

    def _merge(self, name: str) -> dict[str, Any]:
        """The layer's weight, and bias if it has one, with the adapter in them."""
        import torch

        layer = self._layers[name]
        parameters = dict(layer.get_base_layer().named_parameters(recurse=False))
        placeholders = {leaf: parameter.data for leaf, parameter in parameters.items()}
        for leaf, parameter in parameters.items():
            parameter.data = self._weight(f"{name}.{leaf}")
        layer.to(self._device)
        try:
            with torch.no_grad():
                layer.merge(safe_merge=True)
        except ValueError:
            raise RunError(f"the adapter of {name} holds numbers that are not finite: train it again") from None
        layer.merged_adapters.clear()
        parameters = dict(layer.get_base_layer().named_parameters(recurse=False))
        merged = {leaf: parameter.data for leaf, parameter in parameters.items()}
        for leaf, parameter in parameters.items():
            parameter.data = placeholders[leaf]
        return merged

    def _weight(self, name: str) -> Any:
        """The parameter before merging, in float32: as the base has it, as NF4 leaves it, or as trained whole."""
        import torch

        if name in self._replaced:
            return self._replaced[name].to(self._device, torch.float32)
        weight = to_tensor(self._sources[name]).to(self._device)
        if self._is_unpacked(name):
            weight = nf4_round_trip(weight.to(self._nf4[1]))
        return weight.to(torch.float32)

    def _is_unpacked(self, name: str) -> bool:
        return name.endswith(".weight") and name.removesuffix(".weight") in self._nf4[0]

    def _require_sources(self, converted: Collection[str], adapter: Path) -> None:
        """Every layer that the adapter changes is found in the base's files."""
        wanted = {
            *(f"{name}.{leaf}" for name, layer in self._layers.items() for leaf, _ in _own_parameters(layer)),
            *self._replaced,
        }
        for name in sorted(wanted - self._sources.keys()):
            if name in converted:
                raise NeedsWholeModelError(f"{name} lies in the base's files in parts")
            raise RunError(f"{adapter} changes {name}, which the base's files do not have: it belongs to another base")
        for name, tensor in self._replaced.items():
            if tuple(tensor.shape) != self._sources[name].shape:
                raise NeedsWholeModelError(f"the adapter gives {name} another shape")


def to_tensor(stored: StoredTensor) -> Any:
    """The tensor in its own type, on the CPU."""
    import torch

    types = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    if stored.dtype not in types:
        raise BaseError(f"{stored.file} holds weights of type {stored.dtype}: name the 16-bit model as the base")
    return torch.frombuffer(stored.read(), dtype=types[stored.dtype]).view(stored.shape)


def nf4_round_trip(weight: Any) -> Any:
    """What NF4 with double quantisation, as load_base sets it, leaves of a weight; same type."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Params4bit

    settings = nf4_config(weight.dtype)
    packed = Params4bit(
        weight,
        compress_statistics=settings.bnb_4bit_use_double_quant,
        quant_type=settings.bnb_4bit_quant_type,
    ).to(weight.device)
    return dequantize_4bit(packed.data, packed.quant_state)


def _require_plain(adapter: Path) -> None:
    from peft import LoraConfig

    config = adapter_settings(adapter)
    if not isinstance(config, LoraConfig):
        raise NeedsWholeModelError(f"the adapter is of the kind {config.peft_type}")
    for option in ("trainable_token_indices", "layer_replication", "target_parameters"):
        if getattr(config, option, None):
            raise NeedsWholeModelError(f"the adapter has {option}")
    if config.init_lora_weights not in PLAIN_STARTS:
        raise NeedsWholeModelError(f"the adapter began from {config.init_lora_weights}")


def _skeleton(base: Path, model: Model) -> Any:
    """The model with placeholders for weights: right shapes, one number of memory."""
    import torch
    from transformers import AutoModelForCausalLM

    trust = model.trust_remote_code
    with torch.device("meta"), compat.meta_creation():
        skeleton = AutoModelForCausalLM.from_config(
            load_model_config(base, trust_remote_code=trust), trust_remote_code=trust
        )
    nothing = torch.zeros(())

    def placeholder(parameter: Any) -> Any:
        return torch.nn.Parameter(nothing.expand(parameter.shape), requires_grad=False)

    compat.replace_parameters(skeleton, placeholder)
    return skeleton


def _parameter_names(skeleton: Any, names: Collection[str]) -> tuple[dict[str, str | None], set[str]]:
    """(parameter of every tensor name, parameters made of several tensors), as transformers loads them."""
    loaded, parameters = compat.loaded_names(skeleton, names), skeleton.state_dict().keys()
    plain = {
        name: to.parameter if to.parameter in parameters and not to.converted else None for name, to in loaded.items()
    }
    return plain, {to.parameter for to in loaded.values() if to.converted}


def _nf4_layers(skeleton: Any, precision: Precision) -> frozenset[str]:
    """Names of the layers that transformers would hold in NF4."""
    from bitsandbytes.nn import Linear4bit

    compat.quantize_layers(skeleton, nf4_config(precision.weights), precision.weights)
    return frozenset(name for name, module in skeleton.named_modules() if isinstance(module, Linear4bit))


def _add_adapter(skeleton: Any, adapter: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(adapted layers, parameters trained whole) by name, with PEFT's adapter on the skeleton."""
    from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
    from peft.utils import ModulesToSaveWrapper

    nothing, own = next(skeleton.parameters()).data_ptr(), set(skeleton.state_dict())
    try:
        model = PeftModel(skeleton, adapter_settings(adapter))
        weights = load_peft_weights(str(adapter), device="cpu")
        result = set_peft_model_state_dict(model, weights, low_cpu_mem_usage=True)  # assigns: placeholders take no data
    except Exception as error:  # other shapes, no such layers, damaged files
        lines = [line.strip() for line in str(error).strip().split("\n") if line.strip()] or [type(error).__name__]
        reason = next((line for line in lines if "size mismatch" in line), lines[0])
        raise RunError(f"{adapter} does not fit the base: {reason}") from None
    absent = [name for name in result.missing_keys if ".default" in name]
    if result.unexpected_keys or absent:
        name = [*result.unexpected_keys, *absent][0].removeprefix("base_model.model.")
        where = "the base" if result.unexpected_keys else "the adapter's file"
        raise RunError(f"{adapter} does not fit the base: {name} is not in {where}")
    inner = model.get_base_model()
    layers: dict[str, Any] = {}
    replaced: dict[str, Any] = {}
    for name, module in inner.named_modules():
        if isinstance(module, compat.tuner_layer_class()):
            layers[name] = module
        elif isinstance(module, ModulesToSaveWrapper):
            saved = module.modules_to_save[module.active_adapters[0]]
            replaced |= {f"{name}.{leaf}": parameter.data for leaf, parameter in saved.named_parameters()}
    for name, parameter in inner.named_parameters():  # those of the base that came with the adapter: trained biases
        name = name.replace(".base_layer.", ".")
        if name in own and parameter.data_ptr() != nothing and name.removesuffix(".weight") not in layers:
            replaced[name] = parameter.data
    return layers, replaced


def _own_parameters(layer: Any) -> list[tuple[str, Any]]:
    return list(layer.get_base_layer().named_parameters(recurse=False))
