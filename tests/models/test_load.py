"""What a card can run, said before anything is loaded."""

import copy
import json
import shutil

import pytest
import torch
from transformers import AutoTokenizer

from train.core.config import Lora, load_config
from train.core.errors import BaseError, ConfigError, MachineError, RunError
from train.models.load import (
    Precision,
    load_model_config,
    load_run_tokenizer,
    load_tokenizer,
    lora_config,
    precision_warning,
    require_compiled_for,
    require_device,
    resolve_targets,
)
from train.sft import train

CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


def pretend_cards(monkeypatch, capabilities, architectures):
    """Let torch say that it sees cards of these capabilities, and that it was built for these architectures."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda card=0: capabilities[card])
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)


@pytest.mark.parametrize(
    ("capability", "architectures"),
    [
        *[((7, 5), CUDA_13), ((8, 9), CUDA_13), ((12, 1), CUDA_13), ((13, 0), CUDA_13), ((9, 0), ["sm_90a"])],
        ((9, 4), ["gfx90a", "gfx942"]),  # AMD's, by ROCm
        ((8, 7), []),  # a build that does not say
    ],
)
def test_a_card_that_torch_has_code_for(capability, architectures):
    require_compiled_for(capability, architectures)


@pytest.mark.parametrize(
    ("capability", "architectures"), [((6, 1), CUDA_13), ((7, 0), CUDA_13), ((11, 0), ["sm_90", "sm_120"])]
)
def test_a_card_that_torch_has_no_code_for(capability, architectures, monkeypatch, write_config):
    pretend_cards(monkeypatch, [capability], architectures)
    with pytest.raises(MachineError, match=rf"compute capability {capability[0]}\.{capability[1]}; it has sm_"):
        require_device(load_config(write_config(training={"use_cpu": False})))


def test_every_process_looks_at_its_own_card(monkeypatch, write_config):
    config = load_config(write_config(training={"use_cpu": False}))
    pretend_cards(monkeypatch, [(8, 9), (6, 1)], CUDA_13)
    require_device(config)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(MachineError, match=r"compute capability 6\.1"):
        require_device(config)


def test_more_processes_than_cards_are_refused(monkeypatch, write_config):
    """`configs/accelerate/ddp.yaml` starts two processes, also where there is one card."""
    config = load_config(write_config(training={"use_cpu": False}))
    pretend_cards(monkeypatch, [(8, 9)], CUDA_13)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(MachineError, match=r"process 2 on this machine .* torch sees 1: .*--num_processes 1\b"):
        require_device(config)


def test_nf4_under_fsdp_is_refused(monkeypatch, write_config):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    require_device(load_config(write_config()))
    with pytest.raises(ConfigError, match=r"model\.load_in_4bit: under FSDP every process would hold the whole base"):
        require_device(load_config(write_config(model={"load_in_4bit": True})))


def test_gemma_in_float16_is_warned_of(working_folder):
    for family, text in (("gemma3_text", {}), ("gemma3", {"text_config": {"model_type": "gemma3_text"}})):
        (working_folder / "config.json").write_text(json.dumps({"model_type": family, **text}), encoding="utf-8")
        assert "known to overflow in float16" in str(precision_warning(working_folder, Precision(None, "fp16")))
        assert precision_warning(working_folder, Precision(None, "bf16")) is None
    (working_folder / "config.json").write_text('{"model_type": "qwen3"}', encoding="utf-8")
    assert precision_warning(working_folder, Precision(None, "fp16")) is None


class TestTargetModules:
    """Every entry fits a layer, and all-linear may stand among others."""

    @pytest.fixture
    def model(self, base):
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(base)

    @pytest.mark.parametrize(
        "wanted",
        [["q_proj", "vproj"], ["all-linear", "vproj"], ["vproj"], "vproj", r".*\.vproj", ["layers.0.vproj"], ["q"]],
    )
    def test_what_fits_no_layer_is_refused_by_name(self, wanted, model):
        with pytest.raises(ConfigError, match=r"target_modules: '\S+' names no layer of the base; it has .*q_proj"):
            resolve_targets(wanted, model)

    def test_a_name_that_stands_alone_goes_in_a_list(self, model):
        with pytest.raises(ConfigError, match=r"a name goes in a list: \[q_proj\]"):
            resolve_targets("q_proj", model)

    @pytest.mark.parametrize("wanted", ["all-linear", r".*\.q_proj", ["q_proj", "layers.1.self_attn.v_proj"]])
    def test_what_fits_is_left_as_it_is(self, wanted, model):
        assert resolve_targets(wanted, model) == wanted

    @pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
    @pytest.mark.parametrize("wanted", [["all-linear", "lm_head"], ["lm_head", "All-Linear", "q_proj"]])
    def test_all_linear_among_others_means_all_linear_layers_and_the_others(self, wanted, model):
        from peft import get_peft_model

        tuned = get_peft_model(copy.deepcopy(model), lora_config(Lora(target_modules=wanted), model))
        adapted = {name.split(".lora_A")[0] for name, _ in tuned.named_parameters() if "lora_A" in name}
        assert len(adapted) == 15 and any("lm_head" in name for name in adapted)

    @pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys")
    def test_fused_experts_have_names_too(self):
        from peft import get_peft_model
        from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

        sizes = {"hidden_size": 64, "moe_intermediate_size": 32, "intermediate_size": 64, "vocab_size": 64}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2}
        experts = Qwen3MoeForCausalLM(Qwen3MoeConfig(num_hidden_layers=1, **sizes, **heads))
        every = get_peft_model(copy.deepcopy(experts), lora_config(Lora(), experts)).get_nb_trainable_parameters()
        named = ["all-linear", "q_proj", "gate_proj", "up_proj"]
        tuned = get_peft_model(copy.deepcopy(experts), lora_config(Lora(target_modules=named), experts))
        assert tuned.get_nb_trainable_parameters() == every
        with pytest.raises(ConfigError, match="'nope'"):
            resolve_targets(["gate_proj", "up_proj", "nope"], experts)


@pytest.mark.parametrize("written", ["list", "files"])
def test_named_templates_become_one_that_chooses_as_transformers_does(written, base, write_config, working_folder):
    own = load_tokenizer(base).chat_template
    named = {"default": own, "tool_use": "\n  {{- '<tools>' -}} {{ tools[0].function.name }}\n" + own + "  \n\n"}
    folder = shutil.copytree(base, working_folder / "named")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    if written == "files":
        (folder / "additional_chat_templates").mkdir()
        (folder / "chat_template.jinja").write_text(own, encoding="utf-8")
        (folder / "additional_chat_templates/tool_use.jinja").write_text(named["tool_use"], encoding="utf-8")
    else:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        settings["chat_template"] = [{"name": name, "template": text} for name, text in named.items()]
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    theirs, ours = AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    assert isinstance(theirs.chat_template, dict)
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    for given in (None, tools):
        messages = [{"role": "user", "content": "Кто я?"}]
        expected = theirs.apply_chat_template(messages, tools=given, tokenize=False, add_generation_prompt=True)
        assert ours.apply_chat_template(messages, tools=given, tokenize=False, add_generation_prompt=True) == expected
    run = train(load_config(write_config(model={"name_or_path": str(folder)}, training={"max_steps": 1})))
    assert load_tokenizer(run.adapter).chat_template == ours.chat_template


@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_a_run_without_the_template_that_training_left(damage, run):
    template = run.adapter / "chat_template.jinja"
    template.unlink()
    if damage == "empty":
        template.touch()
    with pytest.raises(RunError, match=r"adapter/chat_template.jinja: training left a template there"):
        load_run_tokenizer(run)


def test_a_config_of_no_known_model(run):
    (run.adapter / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BaseError, match=r"adapter/config.json cannot be loaded: Unrecognized model"):
        load_model_config(run.adapter)
