from dataclasses import fields
from pathlib import Path

import pytest
from trl import SFTConfig

from tests.conftest import REPOSITORY
from train.core.config import GUESSES, MAIN, OWNED, Lora, _section_class, config_class, dump_config, load_config
from train.core.errors import ConfigError

MINIMAL = "name: x\nmodel:\n  name_or_path: some/base\ndata:\n  train_file: rows.jsonl\n"


def load(text: str, *overrides: str):
    path = Path("c.yaml")
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


def test_defaults_are_filled_in():
    config = load(MINIMAL)
    assert config.lora == Lora()
    assert config.training.learning_rate == 2e-4
    assert config.prompts == ()


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_config_loads(path):
    config = load_config(path)
    assert config.name == path.stem
    assert len(config.prompts) == 5
    if "natasha" in str(config.data.train_file):
        asked = {prompt[0].content for prompt in config.prompts}
        assert asked >= {"Я чувствую себя потерянным в жизни", "Как начать свой бизнес?"}
    assert any(len(prompt) > 1 for prompt in config.prompts), "one prompt needs context"
    assert (REPOSITORY / config.data.train_file).is_file()


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs/accelerate").glob("*.yaml")), ids=lambda p: p.name)
def test_accelerate_reads_its_configs(path):
    from accelerate.commands.config.config_args import load_config_from_file

    kinds = {"single": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP", "multi-node": "MULTI_GPU"}
    config = load_config_from_file(str(path))
    assert config.distributed_type == kinds[path.stem]
    assert config.mixed_precision == "no"


def test_resolved_config_reads_back_the_same():
    config = load(MINIMAL, "training.adam_beta2=0.95", "lora=null", "prompts=[Привет]", "training.save_strategy=no")
    Path("resolved.yaml").write_text(dump_config(config), encoding="utf-8")
    again = load_config(Path("resolved.yaml"))
    assert again == config
    assert again.lora is None
    assert again.training.adam_beta2 == 0.95
    assert again.training.save_strategy == "no"


def test_training_takes_every_field_of_sft_config():
    ours = set(config_class().model_fields["training"].annotation.model_fields)
    aliases = {"gradient_checkpointing"}
    own = {"fit", "kernels"}
    assert {field.name for field in fields(SFTConfig)} - aliases == ours - own
    assert set(OWNED) <= ours


def test_old_name_of_activation_checkpointing():
    assert load(MINIMAL, "training.gradient_checkpointing=false").training.activation_checkpointing is False


def test_empty_section_means_defaults():
    assert load(MINIMAL + "lora:\n").lora == Lora()
    assert load(MINIMAL + "lora:\n", "lora.r=8").lora.r == 8
    assert load(MINIMAL + "lora: null\n").lora is None
    assert load(MINIMAL + "lora: null\n", "lora.r=8").lora.r == 8


def test_yaml_words_and_numbers_mean_what_they_say():
    config = load(MINIMAL + "training: {save_strategy: no, learning_rate: 1e-3, adam_epsilon: 1e-6}\n")
    assert config.training.save_strategy == "no"
    assert config.training.learning_rate == 1e-3
    assert config.training.adam_epsilon == 1e-6


def test_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load(MINIMAL).name = "y"


def test_all_problems_at_once_with_their_places():
    text = MINIMAL.replace("some/base", "some/base\n  dtype: fp8") + (
        "lora:\n  rnk: 3\n  learning_rate: 1\ntraining:\n  learning_rate: -1\n  output_dir: x\n  packing: maybe\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(text, "training.max_stes=3", "nonsense")
    message = str(caught.value)
    for expected in (
        "c.yaml:4: model.dtype: input should be 'auto', 'bfloat16', 'float16' or 'float32', got 'fp8'",
        "c.yaml:8: lora.rnk: unknown option; did you mean lora.r?",
        "c.yaml:9: lora.learning_rate: unknown option; did you mean training.learning_rate?",
        "c.yaml:11: training.learning_rate: input should be greater than 0, got -1",
        "c.yaml:13: training.packing: input should be a valid boolean",
        "override 'training.max_stes=3': training.max_stes: unknown option; did you mean training.max_steps?",
        "override 'nonsense': expected key=value",
    ):
        assert expected in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "c.yaml:1: expected the keys name, model, data"),
        ("- a\n", "c.yaml:1: expected the keys name, model, data, …; found a list"),
        ("name: x\n", "data: required"),
        ("name: [x\n", "c.yaml:2: not valid YAML"),
        (MINIMAL.replace("name: x", "name: ../x"), "c.yaml:1: name: may hold letters"),
        (MINIMAL + "name: y\n", "c.yaml:6: name stands here again, after c.yaml:1"),
        (MINIMAL + "training:\n  output_dir: x\n", "c.yaml:7: training.output_dir cannot be set"),
        (MINIMAL + "prompts:\n  - - role: usr\n      content: a\n", "c.yaml:7: prompts.0.0.role: input should be"),
    ],
)
def test_one_clear_line(text, message):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert message in str(caught.value)


def test_missing_file():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such config file"):
        load_config(Path("nowhere.yaml"))


TOKENS = {
    "Hugging Face": "hf_" + "aB3" * 12,
    "OpenAI": "sk-" + "proj-" + "aB3" * 12,
    "GitHub": "ghp_" + "aB3" * 12,
    "Telegram": "1234567890:AA" + "aB3" * 11,
    "address": "https://ivan:" + "geheim1@example.org/x",
}


def every_option() -> list[str]:
    options = ["name", "prompts"]
    for name, field in config_class().model_fields.items():
        section = _section_class(field.annotation)
        options += [f"{name}.{key}" for key in section.model_fields] if section else []
    return options


@pytest.mark.parametrize("option", every_option())
def test_a_token_in_any_option_is_refused_by_name_and_never_printed(option):
    for token in TOKENS.values():
        with pytest.raises(ConfigError) as caught:
            load(MINIMAL, f"{option}={token}")
        message = str(caught.value)
        assert f"{option} holds a secret" in message
        assert token not in message and token[4:] not in message


@pytest.mark.parametrize(
    "text",
    [
        "training:\n  lr_scheduler_kwargs: {a: [1, TOKEN]}\n",
        "prompts:\n  - - {role: user, content: my TOKEN is this}\n",
        "training:\n  report_to: [none, TOKEN]\n",
        "TOKEN: 1\n",
        "training:\n  TOKEN: 1\n",
    ],
)
def test_a_token_deep_in_a_file_is_never_printed(text):
    for token in (TOKENS["Hugging Face"], TOKENS["OpenAI"]):
        with pytest.raises(ConfigError) as caught:
            load(MINIMAL + text.replace("TOKEN", token))
        assert token not in str(caught.value)


@pytest.mark.parametrize("option", ["hub_token", "wandb_api_key"])
def test_what_is_named_a_token_is_not_printed_either(option):
    with pytest.raises(ConfigError) as caught:
        load(MINIMAL, f"training.{option}=quite-unlike-any-form")
    assert "unlike" not in str(caught.value)


def test_pushing_belongs_to_its_verb():
    for name in [field.name for field in fields(SFTConfig) if "hub" in field.name]:
        with pytest.raises(ConfigError, match=rf"training\.{name} cannot be set: govor push RUN OWNER/NAME"):
            load(MINIMAL, f"training.{name}=true")


@pytest.mark.parametrize("text", ["1:30", "010", "0x10", "0b11", "1_000", "12:30:45", "+08", "2026-01-02", "no"])
def test_what_yaml_1_1_takes_for_numbers_is_text(text):
    config = load(
        MINIMAL.replace("name: x", f"name: {'x' if ':' in text or '+' in text else text}"), f"prompts=[{text}]"
    )
    assert config.prompts[0][0].content == text
    Path("resolved.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(Path("resolved.yaml")) == config


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("10", 10), ("-1", -1), ("+3", 3)])
def test_whole_numbers_are_numbers(text, number):
    assert load(MINIMAL, f"training.max_steps={text}").training.max_steps == number


@pytest.mark.parametrize("text", ["2e-4", "1.5", ".inf", "17", "true"])
def test_a_text_that_looks_like_a_number_stays_a_text_in_the_run_folder(text):
    config = load(MINIMAL, f"prompts=['{text}']")
    Path("resolved.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(Path("resolved.yaml")) == config


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("lr=1e-4", "did you mean training.learning_rate?"),
        ("training.lr=1e-4", "did you mean training.learning_rate?"),
        ("epochs=3", "did you mean training.num_train_epochs?"),
        ("training.epochs=3", "did you mean training.num_train_epochs?"),
        ("base=x/y", "did you mean model.name_or_path?"),
        ("model.base=x/y", "did you mean model.name_or_path?"),
        ("model=x/y", "model: is a section, its options are model.NAME; did you mean model.name_or_path=x/y?"),
        ("data=rows.jsonl", "did you mean data.train_file=rows.jsonl?"),
        ("lora=16", "did you mean lora.r=16?"),
        ("batch_size=4", "did you mean training.per_device_train_batch_size?"),
        ("lora.rank=4", "did you mean lora.r?"),
        ("training.max_seq_length=4", "did you mean training.max_length?"),
    ],
)
def test_a_natural_guess_is_answered_by_the_right_name(override, hint):
    with pytest.raises(ConfigError) as caught:
        load(MINIMAL, override)
    assert str(caught.value).endswith(hint)


def test_every_hint_names_an_option_that_is_there():
    assert {*GUESSES.values()} <= {*every_option()}
    assert {f"{section}.{option}" for section, option in MAIN.items()} <= {*every_option()}


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("'*q_proj'", r"lora\.target_modules is no regular expression: nothing to repeat"),
        ("'(q_proj'", r"lora\.target_modules is no regular expression"),
        ("[]", r"lora\.target_modules names no layer"),
        ("['']", r"lora\.target_modules names no layer"),
        ("''", r"lora\.target_modules names no layer"),
    ],
)
def test_target_modules_that_cannot_be_read(targets, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(MINIMAL, f"lora.target_modules={targets}")
    assert "\n" not in str(caught.value)
