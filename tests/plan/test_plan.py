"""govor plan: counts equal the libraries', bytes what torch allocates, and it needs neither torch nor a network."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import date
from math import prod
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from tests.conftest import REPOSITORY
from train.chats.split import read_split
from train.core.compat import keep_input_types
from train.core.config import Lora, dump_config, load_config
from train.core.errors import BaseError, ConfigError, GovorError, MachineError
from train.encoding.rows import encoder
from train.models.load import load_tokenizer
from train.plan import plan, plan_to_json
from train.plan.estimate import find_gpu, known_gpus, prices
from train.plan.families import tensors_of
from train.plan.fit import as_begun, fit, out_of_memory_help, settle_fit, smallest_change_that_fits, with_options
from train.plan.memory import GIB, Workload, layer_bytes, memory
from train.plan.shapes import Shapes, find_shapes, read_shapes
from train.plan.show import show
from train.plan.tokens import packed_rows
from train.plan.verbs import cache_bytes

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "granite", "smollm3",
            "ministral3", "qwen3_5_text", "gemma4_text", "deepseek_v3"]  # fmt: skip
OTHERS = ["gpt_neox", "olmo2", "cohere2", "qwen2_moe", "qwen3_moe", "gpt_oss"]
"""Architectures of which config.json alone does not tell the shapes: the header does."""


def tiny_model(model_type, **fields):
    """A model of that architecture with random weights, two layers of 64."""
    from transformers import AutoConfig, AutoModelForCausalLM

    plain = AutoConfig.for_model(model_type)
    wanted = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "vocab_size": 200, "head_dim": 16, "max_position_embeddings": 128,
              "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
              "topk_group": 1, "moe_intermediate_size": 32, "q_lora_rank": 16, "kv_lora_rank": 16,
              "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "first_k_dense_replace": 1,
              "vocab_size_per_layer_input": 200, "hidden_size_per_layer_input": 8}  # fmt: skip
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    names = {*plain.to_dict(), *plain.attribute_map}
    known = {key: value for key, value in {**wanted, **fields}.items() if key in names}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **known, **special))


@pytest.mark.parametrize("model_type", [*FAMILIES, *OTHERS])
@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match")
def test_counts_equal_the_libraries(model_type, tmp_path):
    from peft import LoraConfig, get_peft_model

    both_kinds = {"qwen3_5_text": {"num_hidden_layers": 4}, "gemma4_text": {"num_hidden_layers": 6}}
    model = tiny_model(model_type, **both_kinds.get(model_type, {}))
    model.save_pretrained(tmp_path)
    shapes = read_shapes(tmp_path)
    assert shapes.parameters == sum(p.numel() for p in model.parameters())
    if model_type in FAMILIES:
        implied = dict(tensors_of(json.loads((tmp_path / "config.json").read_text())))
        assert implied == shapes.tensors
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert sum(map(prod, shapes.adapter(Lora(r=4)))) == adapted.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize(
    "options",
    [
        {"r": 8, "target_modules": ["q_proj", "v_proj"]},
        {"r": 3, "target_modules": r".*\.[01]\.mlp\.(up|down)_proj"},
        {"r": 4, "use_dora": True},
        {"r": 4, "target_modules": ["lm_head", "o_proj"]},
    ],
)
def test_trainable_counts_equal_pefts(options, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = tiny_model("qwen3", num_hidden_layers=3)
    model.save_pretrained(tmp_path)
    lora = Lora(**options)
    adapted = get_peft_model(
        model, LoraConfig(r=lora.r, target_modules=lora.target_modules, use_dora=lora.use_dora, task_type="CAUSAL_LM")
    )
    shapes = read_shapes(tmp_path).adapter(lora)
    assert sum(map(prod, shapes)) == adapted.get_nb_trainable_parameters()[0]
    assert sorted(prod(shape) for shape in shapes) == sorted(p.numel() for p in adapted.parameters() if p.requires_grad)


SEEING = {
    "mistral3": {"vision_config": {}, "text_config": {"model_type": "ministral3"}},
    "mistral3 with a bias": {"vision_config": {}, "text_config": {"model_type": "mistral"},
                             "multimodal_projector_bias": True, "tie_word_embeddings": False},
    "gemma4": {"vision_config": {}, "audio_config": {},
               "text_config": {"num_hidden_layers": 8, "num_kv_shared_layers": 2, "use_double_wide_mlp": True}},
    "gemma4 without ears": {"vision_config": {"num_key_value_heads": 4}, "text_config":
                            {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "enable_moe_block": True,
                             "num_experts": 4, "moe_intermediate_size": 32, "top_k_experts": 2,
                             "hidden_size_per_layer_input": 0}},
    "qwen3_5": {},
}  # fmt: skip
"""Bases that see or hear: model_type (and what is special here) → what config.json says beside the sizes."""


@pytest.mark.parametrize("kind", SEEING)
def test_config_json_tells_what_a_base_that_sees_is_loaded_with(kind, tmp_path):
    """Name by name what transformers makes of the same config.json, without memory for the weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    small = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2}
    fields = {"text_config": {}, **SEEING[kind]}
    fields = {name: {**small, **value} if isinstance(value, dict) else value for name, value in fields.items()}
    AutoConfig.for_model(kind.split()[0], **fields).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    loader = AutoModelForImageTextToText if kind.startswith("mistral3") else AutoModelForCausalLM
    with torch.device("meta"):
        model = loader.from_config(config)
    expected = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    assert read_shapes(tmp_path).tensors == expected
    assert read_shapes(tmp_path).head == (config.get_text_config().vocab_size, 64)


def test_eyes_that_are_not_written_down_need_the_files(tmp_path):
    from transformers import AutoConfig

    AutoConfig.for_model("gemma3").save_pretrained(tmp_path)
    with pytest.raises(BaseError, match=r"siglip_vision_model: config\.json alone .* safetensors"):
        read_shapes(tmp_path)


def test_a_target_that_is_not_there_is_named(tmp_path):
    tiny_model("qwen3").save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"'query' names no layer.*q_proj"):
        read_shapes(tmp_path).targets(Lora(target_modules=["query"]))


def test_the_table_has_the_published_totals(write_config):
    """As the repositories' model.safetensors.index.json and model cards give them."""
    published = {
        "Qwen/Qwen3-0.6B": 596_049_920,
        "Qwen/Qwen3-4B-Instruct-2507": 4_022_468_096,
        "Qwen/Qwen3-8B": 8_190_735_360,
        "Qwen/Qwen3-14B": 14_768_307_200,
        "Qwen/Qwen3-32B": 32_762_123_264,
        "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
        "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
        "mistralai/Mistral-Nemo-Instruct-2407": 12_247_782_400,
        "google/gemma-2-9b-it": 9_241_705_984,
        "google/gemma-3-1b-it": 999_885_952,
        "microsoft/phi-4": 14_659_507_200,
    }
    for name, parameters in published.items():
        config = load_config(write_config(model={"name_or_path": name}))
        assert find_shapes(config.model)[0].parameters == parameters, name


def test_the_table_comes_near_the_totals_of_bases_whose_fields_are_assumed(write_config):
    """What the model cards say: of Gemma 4 with embeddings, eyes and ears; of Qwen3.5 its name, without eyes."""
    said = {
        "google/gemma-4-E2B-it": 5.1e9,
        "google/gemma-4-E4B-it": 8e9,
        "Qwen/Qwen3.5-9B": 9e9,
        "Qwen/Qwen3.5-4B": 4.2e9,
    }
    for name, parameters in said.items():
        shapes = find_shapes(load_config(write_config(model={"name_or_path": name})).model)[0]
        assert shapes.parameters == pytest.approx(parameters, rel=0.02), name
        assert shapes.head == (shapes.vocabulary, shapes.hidden)


MEASURED = [
    ({}, "adamw_torch_fused"),
    ({"model": {"dtype": "bfloat16"}, "lora": {"r": 32}}, "adamw_8bit"),
    ({"model": {"load_in_4bit": True}, "lora": {"use_dora": True}}, "paged_adamw_32bit"),
    ({"model": {"load_in_4bit": True, "dtype": "bfloat16"}}, "lion_8bit"),
    ({"lora": None}, "adamw_torch"),
    ({"lora": None}, "paged_adamw_8bit"),
    ({"lora": None}, "adafactor"),
    ({"lora": None, "model": {"dtype": "bfloat16"}}, "sgd"),
    ({"lora": None, "model": {"dtype": "bfloat16"}}, "adamw_torch"),
]


@pytest.mark.parametrize("sections, optim", MEASURED)
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_bytes_equal_what_torch_allocates(sections, optim, wide_base, write_config):
    """Base and adapter as models/load.py builds them, the optimizer as transformers does, one step: within 5 %."""
    import torch
    from peft import get_peft_model
    from transformers import Trainer, TrainingArguments

    from train.models.load import load_base, lora_config, resolve_precision

    model = {"name_or_path": str(wide_base), "dtype": "float32", **sections.get("model", {})}
    config = load_config(write_config(**{**sections, "model": model}, training={"optim": optim}))
    network = load_base(config.model, wide_base, resolve_precision(config), use_cpu=True)
    if config.lora:
        network = get_peft_model(network, lora_config(config.lora, network))
    trainer = Trainer(network, TrainingArguments("out", optim=optim, use_cpu=True, report_to=[]))
    optimizer = trainer.create_optimizer()
    ids = torch.arange(8)[None]
    network(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    compare(config, network, optimizer)


def test_bytes_of_a_qlora_run(wide_base, write_config, monkeypatch):
    """The same of what a whole run holds: TRL casts the adapter there, and govor casts it back."""
    import train.tuning.trainer
    from train.sft import train as run_training

    made = []
    build = train.tuning.trainer.build_trainer
    monkeypatch.setattr(train.tuning.trainer, "build_trainer", lambda *given: made.append(build(*given)) or made[0])
    model = {"name_or_path": str(wide_base), "load_in_4bit": True, "dtype": "bfloat16"}
    training = {"optim": "adamw_8bit", "max_steps": 1, "eval_strategy": "no", "eval_on_start": False}
    config = load_config(write_config(model=model, training=training))
    run_training(config)
    compare(config, made[0].model, made[0].optimizer, gradients=False)


def compare(config, model, optimizer, *, gradients=True):
    found = plan(config).memory
    weights = sum(bytes_of(parameter) for parameter in model.parameters())
    states = [value for state in optimizer.state.values() for value in state.values() if hasattr(value, "nbytes")]
    assert found.weights == pytest.approx(weights, rel=0.05)
    assert found.optimizer == pytest.approx(unique(states), rel=0.05)
    if gradients:
        kept = sum(parameter.grad.nbytes for parameter in model.parameters() if parameter.grad is not None)
        assert found.gradients == pytest.approx(kept, rel=0.05)


def bytes_of(parameter):
    """With what NF4 keeps beside the packed weights."""
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return parameter.nbytes
    kept = [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    return parameter.nbytes + sum(tensor.nbytes for tensor in kept)


def unique(tensors):
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


@pytest.fixture(scope="session")
def wide_base(tmp_path_factory, rows_file):
    """Wide enough that adapters have both tensors that 8-bit optimizers leave in float32 and ones they do not."""
    from make_tiny_base import make_tiny_base

    folder = tmp_path_factory.mktemp("bases") / "wide"
    make_tiny_base(folder, rows_file, vocab_size=600, hidden_size=256, layers=2)
    return folder


def config_of(write_config, training=None, **sections):
    """On a GPU, unless told otherwise."""
    model = {"name_or_path": "Qwen/Qwen3-8B", "dtype": "auto", **sections.pop("model", {})}
    training = {"use_cpu": False, "max_length": 4096, **(training or {})}
    return load_config(write_config(model=model, training=training, **sections))


@pytest.fixture
def eight_billion(write_config):
    config = config_of(write_config)
    return find_shapes(config.model)[0]


@pytest.mark.parametrize("model_type, dropout", [("qwen3", 0), ("qwen3", 0.05), ("llama", 0), ("gemma3_text", 0)])
def test_activations_are_what_autograd_keeps(model_type, dropout, tmp_path, write_config):
    import torch
    from peft import LoraConfig, get_peft_model

    lora = {"r": 4, "lora_dropout": dropout}
    size = {"hidden_size": 256, "intermediate_size": 768, "head_dim": 64, "num_hidden_layers": 4}
    model = tiny_model(model_type, **size).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    model = get_peft_model(model, LoraConfig(**lora, target_modules="all-linear", task_type="CAUSAL_LM"))
    keep_input_types(model)
    model.enable_input_require_grads()
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        model.get_base_model().model(torch.arange(128)[None], use_cache=False)
    training = {"per_device_train_batch_size": 1, "use_cpu": True, "bf16": True}
    config = config_of(write_config, training, model={"dtype": "bfloat16"}, lora=lora)
    measured = sum(size for size, _ in kept.values()) / 128 / 4
    assert layer_bytes(config, read_shapes(tmp_path)) == pytest.approx(measured, rel=0.08)


@pytest.mark.parametrize("checkpointing, batch", [(False, 1), (True, 4)])
def test_the_peak_is_that_of_a_whole_step(checkpointing, batch, tmp_path, write_config):
    """Every tensor alive at once in a step with TRL's loss, on a CPU."""
    import torch
    from peft import LoraConfig, get_peft_model
    from trl.trainer.utils import add_fused_lm_head

    size = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 2, "vocab_size": 500, "head_dim": 64}
    network = tiny_model("qwen3", **size).to(torch.bfloat16)
    network.save_pretrained(tmp_path)
    add_fused_lm_head(network, outputs=("log_probs", "entropy", "is_top1"))
    network = get_peft_model(network, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    keep_input_types(network)
    network.enable_input_require_grads()
    if checkpointing:
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad])
    ids = torch.arange(192)[None].expand(batch, -1)

    def step():
        with torch.autocast("cpu", torch.bfloat16):
            loss = network(input_ids=ids, labels=ids, fused_lm_head=True).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    measured = peak_of(step, [*network.parameters(), *(t for s in optimizer.state.values() for t in s.values())])
    training = {"use_cpu": True, "bf16": True, "activation_checkpointing": checkpointing}
    config = config_of(
        write_config, {**training, "per_device_train_batch_size": batch}, model={"dtype": "bfloat16"}, lora={"r": 16}
    )
    assert memory(config, Workload(read_shapes(tmp_path), 192)).peak == pytest.approx(measured, rel=0.1)


def peak_of(step, held):
    """Bytes of all tensors alive at once while the function runs, and of those held before."""
    from torch import Tensor
    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_iter

    before = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
    peak = [0]

    class Watch(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.alive = {}

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            for tensor in tree_iter(made):
                if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in before:
                    reference = StorageWeakRef(tensor.untyped_storage())
                    self.alive.setdefault(reference.cdata, (reference, tensor.untyped_storage().nbytes()))
            self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
            peak[0] = max(peak[0], sum(size for _, size in self.alive.values()))
            return made

    with Watch():
        step()
    return peak[0] + sum(before.values())


def test_tokens_parameters_and_steps_are_those_of_the_run(finished_run):
    manifest = finished_run.manifest()
    found = plan(finished_run.config())
    assert found.tokens.how == "counted with the base's tokenizer and chat template"
    data = manifest["data"]["train"]
    assert (len(found.tokens.lengths), found.tokens.trained) == (data["rows"], data["trained_tokens"])
    assert found.tokens.total == pytest.approx(data["tokens"], abs=data["rows"])  # a line break behind the last answer
    assert len(found.tokens.held_out) == manifest["data"]["held_out"]["rows"]
    assert found.trained == manifest["parameters"]["trainable"]
    assert found.shapes.parameters == manifest["parameters"]["all"] - manifest["parameters"]["trainable"]
    assert found.work.steps == 6


PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% for p in m.content %}{{ p.text }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
REFUSING = "{% if messages|length > 3 %}{{ raise_exception('too many') }}{% endif %}" + PARTS


@pytest.mark.parametrize(("template", "refused"), [(PARTS, 0), (REFUSING, 1)])
def test_tokens_of_a_template_that_takes_content_in_parts(template, refused, base, write_config, working_folder):
    folder = Path(shutil.copytree(base, "base"))
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    config = load_config(write_config(model={"name_or_path": str(folder)}))
    found = plan(config).tokens
    if refused:
        assert re.search(r"chat template; \d+ rows that it refuses are estimated$", found.how)
        return
    rows = read_split(config).train
    encoded = encoder(config, load_tokenizer(folder), folder)(rows).encoded
    assert found.total == pytest.approx(sum(len(one.input_ids) for one in encoded), abs=len(rows))


@pytest.mark.parametrize("options", [{}, {"max_steps": 5}, {"dataloader_drop_last": True}, {"num_train_epochs": 1.5}])
@pytest.mark.parametrize("batch, accumulation", [(3, 2), (4, 1), (30, 1)])
def test_steps_are_the_trainers(options, batch, accumulation, write_config):
    from torch import nn
    from transformers import Trainer, TrainingArguments

    training = {"max_steps": -1, "per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    training |= options
    if batch == 30 and "dataloader_drop_last" in options:
        pytest.skip("no batch is left, which the trainer refuses")
    found = plan(load_config(write_config(training=training)))
    rows = [{"x": 0}] * len(found.tokens.lengths)
    trainer = Trainer(nn.Linear(1, 1), TrainingArguments("out", use_cpu=True, **training), train_dataset=rows)
    *_, max_steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    assert found.work.steps == max_steps


def test_without_the_tokenizer_tokens_are_estimated(write_config):
    """Russian chat at 2.61 characters a token for Qwen3, fewer for Gemma; and it is said."""
    rows = str(REPOSITORY / "data/natasha.jsonl")
    data = {"train_file": rows, "eval_fraction": 0}
    contents = [
        m["content"] for line in Path(rows).read_text("utf-8").splitlines() for m in json.loads(line)["messages"]
    ]
    characters = sum(map(len, contents))
    qwen, gemma = (
        plan(config_of(write_config, data=data, model={"name_or_path": name})).tokens
        for name in ("Qwen/Qwen3-8B", "google/gemma-3-1b-it")
    )
    assert "estimated" in qwen.how
    assert characters / (qwen.total - 5 * len(contents)) == pytest.approx(2.61, rel=0.05)
    assert gemma.total < qwen.total


def test_packing_is_best_fit():
    assert packed_rows([6, 5, 4, 3, 2], 10) == 2
    assert packed_rows([10, 10, 1], 10) == 3
    assert packed_rows([7, 7, 7, 3, 3, 3], 10) == 3


def test_every_shipped_config_has_a_plan(base, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    paths = sorted((REPOSITORY / "configs").glob("*.yaml"))
    assert len(paths) > 3
    for path in paths:
        overrides = [f"model.name_or_path={base}"] if path.stem in ("tiny", "gemma-270m") else []
        overrides += ["model.chat_template=null"] if path.stem == "gemma-270m" else []
        found = plan(load_config(path, overrides))
        assert found.memory.peak > 0
        assert found.work.steps > 0


def test_the_8_gb_config_fits_8_gb(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    found = plan(load_config(Path("configs/natasha.yaml")), find_gpu("8GB"))
    assert found.fits
    assert found.memory.base / GIB == pytest.approx(2.5, abs=0.05)
    assert {card.gpu.name for card in found.cards} == {"RTX 3070", "RTX 4060"}
    assert all(0 < best < worst < 3600 for best, worst in (card.seconds for card in found.cards))
    assert found.tokens.total * 3 == found.work.tokens
    assert {p.model: p.cost for p in found.prices}["gpt-4.1"] == pytest.approx(found.work.tokens * 25 / 1e6)


def test_each_verb_of_the_way_is_planned(write_config, capsys):
    """On a card of 8 GB the 4B goes all the way in NF4; in 16 bits only the merge's check does, layer by layer."""
    model = {"name_or_path": "Qwen/Qwen3-4B", "load_in_4bit": True}
    training = {"activation_checkpointing": True, "max_length": 2048}
    card = find_gpu("8GB")
    found = plan(config_of(write_config, training, model=model), card)
    assert [need.verb for need in found.needs] == ["train", "eval", "chat", "merge", "serve"]
    assert all(entry["fits"] for entry in plan_to_json(found)["verbs"])
    assert found.needs[0].bytes == found.memory.peak
    whole = plan(config_of(write_config, training, model=model | {"load_in_4bit": False}), card)
    assert [need.verb for need in whole.needs if need.bytes <= card.usable] == ["merge"]
    assert whole.needs[-1].bytes > 2 * whole.shapes.parameters
    assert "merge" not in [need.verb for need in plan(config_of(write_config, training, lora=None)).needs]
    assert plan(load_config(write_config())).needs == []
    show(whole, Console())
    table = re.search(r"each verb.*?\n\n", capsys.readouterr().out, re.S)[0]
    assert re.search(r"^  train +\d+\.\d GiB +no ", table, re.M)


def test_the_cache_of_a_dialogue_is_that_of_transformers(tmp_path):
    import torch

    model = tiny_model("qwen3").to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    cache = model(torch.arange(6)[None], use_cache=True).past_key_values
    kept = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    assert 6 * cache_bytes(read_shapes(tmp_path)) == kept


def facts(shapes, longest=4096):
    return Workload(shapes, longest, longest)


@pytest.mark.parametrize("gibibytes", [8, 12, 16, 24, 32, 48, 80, 141])
@pytest.mark.parametrize("batch, accumulation", [(4, 1), (1, 6), (3, 4)])
def test_fit_chooses_what_fits_and_keeps_the_effective_batch(gibibytes, batch, accumulation, write_config):
    training = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    config = config_of(write_config, {**training, "fit": "auto"}, model={"name_or_path": "Qwen/Qwen3-4B"})
    shapes = facts(find_shapes(config.model)[0])
    gpu = gibibytes * GIB
    settled, line = settle_fit(config, gpu, shapes)
    assert memory(settled, shapes).peak < gpu * 0.95
    assert settled.training.fit is None
    assert str(settled.training.per_device_train_batch_size) in line
    now = settled.training.per_device_train_batch_size * settled.training.gradient_accumulation_steps
    assert now == batch * accumulation


def test_fit_prefers_16_bit_then_no_recomputation_then_large_batches(eight_billion, write_config):
    config = config_of(write_config, {"per_device_train_batch_size": 4})
    chosen = {gpu: fit(config, gpu * GIB, facts(eight_billion)) for gpu in (12, 24, 80, 192)}
    assert [change["model.load_in_4bit"] for change in chosen.values()] == [True, False, False, False]
    assert [c["training.activation_checkpointing"] for c in chosen.values()] == [True, True, False, False]
    assert chosen[80]["training.per_device_train_batch_size"] < 4
    assert chosen[192]["training.per_device_train_batch_size"] == 4
    whole = config_of(write_config, lora=None)
    assert fit(whole, 192 * GIB, facts(eight_billion))["model.load_in_4bit"] is False


def test_fit_says_with_numbers_that_nothing_fits(eight_billion, write_config):
    with pytest.raises(MachineError, match=r"4\.0 GiB.*needs \d+\.\d GiB.*4096 tokens"):
        fit(config_of(write_config), 4 * GIB, facts(eight_billion))


def test_fit_leaves_a_cpu_alone(write_config):
    config = load_config(write_config(training={"fit": "auto", "per_device_train_batch_size": 3}))
    found = plan(config, find_gpu("8GB"))
    assert "no CUDA GPU" in found.fit_choice
    assert found.config == with_options(config, {"training.fit": None})


def test_a_run_with_fit_has_the_choice_and_resumes(write_config):
    """Nothing of what is saved differs from what resuming the same YAML comes to."""
    from train.models.load import resolve_precision
    from train.sft import train as run_training
    from train.tuning.arguments import trl_arguments

    path = write_config(training={"fit": "auto", "max_steps": 1, "eval_strategy": "no"})
    run = run_training(load_config(path))
    saved = yaml.safe_load(run.config_file.read_text("utf-8"))
    assert saved["training"]["fit"] is None
    assert yaml.safe_load(dump_config(as_begun(load_config(path)))) == saved
    saved["training"]["per_device_train_batch_size"] = 1  # as chosen on a small card
    run.config_file.write_text(yaml.safe_dump(saved), encoding="utf-8")
    assert as_begun(load_config(path)).training.per_device_train_batch_size == 1
    again = run.config()
    assert trl_arguments(again, run, resolve_precision(again), evaluate=False).per_device_train_batch_size == 1


@pytest.mark.parametrize("gibibytes", [8, 10, 12, 16, 20, 24, 40])
def test_the_smallest_change_fits_and_smaller_ones_do_not(gibibytes, eight_billion, write_config):
    config = config_of(write_config, {"per_device_train_batch_size": 4})
    shapes, gpu = facts(eight_billion), find_gpu(f"{gibibytes}GB")
    assert memory(config, shapes).peak > gpu.usable
    change, needed = smallest_change_that_fits(config, gpu.memory, shapes)
    assert needed <= gpu.usable
    for name in change:
        if name != "training.gradient_accumulation_steps":
            less = with_options(config, {key: value for key, value in change.items() if key != name})
            cut = min(4096, less.training.max_length)
            assert memory(less, facts(eight_billion, cut)).peak > gpu.usable, f"{name} was not needed"


def test_out_of_memory_is_a_line_with_numbers_and_a_change(eight_billion, write_config):
    config = config_of(write_config, {"per_device_train_batch_size": 4, "activation_checkpointing": True})
    line = out_of_memory_help(config, 80 * GIB, facts(eight_billion), "the longest training batch")
    assert "\n" not in line
    assert "80.0 GiB" in line and "4096 tokens × 4" in line
    assert "training.per_device_train_batch_size=2 training.gradient_accumulation_steps=2" in line
    tiny = out_of_memory_help(config, GIB, facts(eight_billion), "step 7")
    assert "choose a smaller base" in tiny


def test_nothing_is_chosen_that_the_config_forbids(eight_billion, write_config):
    config = config_of(write_config, lora={"init_lora_weights": "pissa"})
    with pytest.raises(MachineError):
        fit(config, 12 * GIB, facts(eight_billion))
    change, _ = smallest_change_that_fits(config_of(write_config, lora=None), 80 * GIB, facts(eight_billion)) or ({}, 0)
    assert "model.load_in_4bit" not in change


@pytest.mark.parametrize("name, memory_gib", [("8GB", 8), ("24 GiB", 24), ("rtx4090", 24), ("H100", 80), ("4060", 8)])
def test_gpus_by_memory_and_name(name, memory_gib):
    assert find_gpu(name).memory == memory_gib * GIB


def test_an_unknown_gpu_lists_the_known():
    with pytest.raises(GovorError, match=r"'RTX 9999' is not known.*RTX 4090.*H100"):
        find_gpu("RTX 9999")
    with pytest.raises(GovorError, match="A100 40GB, A100 80GB"):
        find_gpu("A100")
    assert all(gpu.memory > 4 * GIB and gpu.tflops > 10 for gpu in known_gpus().values())


def test_prices_are_dated_and_have_a_source():
    table = prices(1_000_000)
    assert {"OpenAI", "Google Vertex AI", "Kimi"} <= {price.service for price in table}
    for price in table:
        date.fromisoformat(price.as_of)
        assert price.source.startswith("https://")
        assert price.cost == price.price
    assert all(price.note.startswith("documents no fine-tuning") for price in table if price.service == "Kimi")
    guides = {"gpt-4-turbo", "gpt-4", "gpt-3.5-turbo", "moonshot-v1-8k", "moonshot-v1-32k", "moonshot-v1-128k"}
    gone = {price.model: price.gone for price in table if price.gone}
    assert guides < gone.keys() and all(date.fromisoformat(day) < date(2026, 11, 29) for day in gone.values())
    assert all((price.input is None) == (price.output is None) for price in table)
    assert all(price.input for price in table if price.model), "asking, too"


def test_what_answering_costs_beside_ones_own_card(monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    found = plan(load_config(Path("configs/natasha.yaml")), find_gpu("RTX 4060"))
    prompt, answer = found.request
    assert prompt + answer == pytest.approx(found.tokens.total / len(found.tokens.lengths))
    costs = {one.name: one for one in found.answering}
    assert costs["OpenAI gpt-4.1"].thousand == pytest.approx((prompt * 3 + answer * 12) / 1000)
    assert costs["OpenAI gpt-4.1"].year == pytest.approx(100 * costs["OpenAI gpt-4.1"].thousand)
    assert costs["Google Vertex AI Gemini 2.5 Pro"].thousand == pytest.approx((prompt * 1.25 + answer * 10) / 1000)
    assert costs["Kimi"].thousand is None
    mine = costs["your own RTX 4060"]
    seconds = answer * found.memory.base / 272e9  # without the prompt
    assert seconds * 115 / 3.6e6 * 0.1 * 1000 == pytest.approx(mine.thousand, rel=0.15)
    assert "115 W at $0.1 a kWh" in mine.note and "$299 new" in mine.note
    show(found, Console(file=io.StringIO(), width=200))
    printed = capsys.readouterr().out
    assert "a year of 100,000" in printed and "not offered any more since 2026-10-23" in printed
    known = known_gpus().values()
    assert all(card.watts and card.bandwidth for card in known)


def test_a_base_that_is_not_here_is_one_line(write_config, tmp_path):
    with pytest.raises(BaseError, match=r"owner/name is not on this disk.*Qwen/Qwen3-4B"):
        plan(config_of(write_config, model={"name_or_path": "owner/name"}))
    with pytest.raises(BaseError, match="no such folder"):
        plan(config_of(write_config, model={"name_or_path": str(tmp_path / "nowhere")}))
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text('{"model_type": "new_thing", "hidden_size": 8}')
    with pytest.raises(BaseError, match=r"new_thing.*safetensors"):
        plan(config_of(write_config, model={"name_or_path": str(tmp_path / "base")}))
    (tmp_path / "base/model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(BaseError, match="damaged"):
        plan(config_of(write_config, model={"name_or_path": str(tmp_path / "base")}))


def test_sharded_files_are_read_by_their_headers(tmp_path):
    model = tiny_model("gpt_neox")
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert read_shapes(tmp_path).parameters == sum(p.numel() for p in model.parameters())
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(BaseError, match="gpt_neox"):
        read_shapes(tmp_path)


def govor_plan(*words, **environment):
    code = (
        "import sys; from train.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n"
        "    heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets', 'accelerate'} & set(sys.modules)\n"
        "    print('LOADED', sorted(heavy), file=sys.stderr)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, "plan", *map(str, words)],
        capture_output=True, text=True, encoding="utf-8", env={**os.environ, **environment},
    )  # fmt: skip


def test_the_verb_needs_no_torch(write_config, base):
    path = write_config()
    done = govor_plan(path, "training.use_cpu=false", "--gpu", "8GB", "--json")
    assert done.returncode == 0, done.stderr
    assert "LOADED ['transformers']" in done.stderr  # whose chat templates need no torch
    found = json.loads(done.stdout)
    assert found["gpu"]["fits"] is True
    assert found["base"] == {"name_or_path": str(base), "shapes_from": "the files' headers"}
    assert found["memory"]["peak"] >= found["memory"]["weights"] + found["memory"]["optimizer"]

    done = govor_plan(path, "training.use_cpu=false", "model.name_or_path=Qwen/Qwen3-32B", "--gpu", "8GB")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("does not fit 8GB: ")
    assert "\x1b" not in done.stdout

    done = govor_plan(path, "--gpu", "Voodoo 2")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --gpu 'Voodoo 2'")


def test_a_base_in_the_hubs_cache_is_found(write_config, base, tmp_path):
    import shutil

    cache = tmp_path / "hub/models--owner--name"
    shutil.copytree(base, cache / "snapshots/abc123")
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("abc123")
    done = govor_plan(write_config(model={"name_or_path": "owner/name"}), "--json", HF_HUB_CACHE=str(tmp_path / "hub"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["base"]["shapes_from"] == "the files' headers"


def test_tables_in_a_terminal(write_config, monkeypatch, capsys):
    found = plan(config_of(write_config))
    console = Console(force_terminal=True, width=160)
    with console.capture() as drawn:
        show(found, console)
    assert "RTX 4090" in drawn.get()
    assert f"{found.shapes.parameters:,}" in drawn.get()
    assert "--gpu says more" in capsys.readouterr().out


def test_experts_count_as_far_as_a_token_is_sent_to_them():
    tensors = {f"model.layers.0.mlp.experts.{n}.up_proj.weight": (8, 4) for n in range(4)}
    tensors |= {"model.embed_tokens.weight": (10, 4), "model.layers.0.mlp.gate.weight": (4, 4)}
    shapes = Shapes("config.json", {"num_experts": 4, "num_experts_per_tok": 2}, tensors)
    assert shapes.multiplied == 2 * 8 * 4 + 10 * 4
