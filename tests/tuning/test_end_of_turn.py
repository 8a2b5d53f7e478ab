"""A base that cannot tell the token which ends an answer from others that it never saw: said before and after."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from train.core.config import load_config
from train.sft import train

SAID = "the base never learned '<|im_end|>'"


@pytest.fixture(scope="module")
def unlearned(base, tmp_path_factory):
    """The tiny base with 120 tokens more, whose rows are all but the same as that of its end of turn."""
    folder = tmp_path_factory.mktemp("bases") / "unlearned"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"extra_special_tokens": [f"<|unused_{number}|>" for number in range(120)]})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    torch.manual_seed(0)
    with torch.no_grad():
        rows = model.get_output_embeddings().weight
        rows[-120:] = rows[end] * (1 + 0.01 * torch.randn(120, rows.shape[1]))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config_of(write_config, base, **lora):
    return load_config(write_config(model={"name_or_path": str(base)}, lora=lora, training={"max_steps": 1}))


def test_it_is_said_before_the_first_step_and_stands_in_summary_and_report(write_config, unlearned, capsys):
    run = train(config_of(write_config, unlearned))
    said = capsys.readouterr()
    assert f"warning: {SAID}" in said.err
    assert f"warning: {SAID}" in said.out
    assert "never learned" in run.report_file.read_text(encoding="utf-8")


def test_an_output_that_is_trained_can_learn_it(write_config, unlearned, capsys):
    train(config_of(write_config, unlearned, target_modules=["all-linear", "lm_head"]))
    assert "never learned" not in capsys.readouterr().err


def test_a_base_that_knows_its_end_of_turn_is_not_warned_of(write_config, base, capsys):
    train(config_of(write_config, base))
    assert "never learned" not in capsys.readouterr().err
