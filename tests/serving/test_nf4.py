"""govor serve of runs that were trained over NF4: what the engines are told. On a CPU none starts so."""

from pathlib import Path

import pytest

from train.core.config import load_config
from train.core.runs import Run
from train.merging.merge import merge
from train.serving import choose_engine
from train.serving.choose_engine import served_models
from train.serving.vllm import has_bitsandbytes
from train.sft import train


@pytest.fixture
def nf4_run(write_config) -> Run:
    """A run over NF4 whose config does not keep it on the CPU, as one that was trained on a card."""
    run = train(load_config(write_config(model={"load_in_4bit": True}, training={"max_steps": 1})))
    text = run.config_file.read_text(encoding="utf-8")
    run.config_file.write_text(text.replace("use_cpu: true", "use_cpu: false"), encoding="utf-8")
    return run


@pytest.fixture
def vllm(tmp_path) -> Path:
    """Where the executable stands in an environment that has vLLM 0.32 and its plugin for bitsandbytes."""
    packages = tmp_path / "env/lib/python3.12/site-packages"
    (packages / "vllm").mkdir(parents=True)
    (packages / "vllm_bnb_plugin-0.0.3.dist-info").mkdir()
    program = tmp_path / "env/bin/vllm"
    program.parent.mkdir()
    program.touch(mode=0o755)
    return program


def command(run: Run, **settings) -> str:
    [served] = served_models([run], **settings)
    return " ".join(served.engine.command(1))


def small_card(monkeypatch, size: int) -> None:
    """A card with so many bytes free."""
    monkeypatch.setattr(choose_engine, "model_device", lambda use_cpu: 0)
    monkeypatch.setattr(choose_engine, "free_memory", lambda device: {0: size, "cpu": 2**40})


def test_vllm_loads_the_base_as_training_did(nf4_run, vllm, capsys):
    assert " --quantization bitsandbytes" in command(nf4_run, program=str(vllm))
    own = command(nf4_run, program=str(vllm), flags=["--quantization", "fp8"])
    assert own.count("--quantization") == 1 and "--quantization fp8" in own
    assert capsys.readouterr().err == ""
    text = nf4_run.config_file.read_text(encoding="utf-8").replace("load_in_4bit: true", "load_in_4bit: false")
    nf4_run.config_file.write_text(text, encoding="utf-8")
    assert "--quantization" not in command(nf4_run, program=str(vllm))


def test_vllm_without_bitsandbytes_is_named(nf4_run, vllm, capsys):
    next(vllm.parents[1].glob("lib/*/*/vllm_bnb*")).rmdir()
    assert "--quantization" not in command(nf4_run, program=str(vllm))
    said = capsys.readouterr().err
    assert said.startswith("note: x: trained over NF4, but this vLLM loads no NF4 (pip install vllm-bnb-plugin in its")
    assert "GiB of 16-bit weights" in said


def test_where_bitsandbytes_is_looked_for(vllm, tmp_path):
    assert has_bitsandbytes(str(vllm))
    link = tmp_path / "vllm"
    link.symlink_to(vllm)
    assert has_bitsandbytes(str(link))
    next(vllm.parents[1].glob("lib/*/*/vllm_bnb*")).rmdir()
    assert not has_bitsandbytes(str(link))
    own = next(vllm.parents[1].glob("lib/*/*/vllm")) / "model_executor/layers/quantization/bitsandbytes"
    own.parent.mkdir(parents=True)
    own.with_suffix(".py").touch()
    assert has_bitsandbytes(str(vllm)), "up to 0.27 it is a part of vLLM"
    assert has_bitsandbytes("/nowhere/bin/vllm"), "unknown: vLLM itself will say"


def test_a_merged_model_without_room_on_the_card(nf4_run, vllm, monkeypatch, capsys):
    merge(nf4_run, measure=False)
    engines = ({"engine": "transformers"}, {"program": str(vllm), "merged": True})
    small_card(monkeypatch, 2**40)
    for settings in engines:
        assert "--quantization" not in command(nf4_run, **settings)
    capsys.readouterr()
    small_card(monkeypatch, 1000)
    for settings, flags in zip(engines, ("--quantization bnb-4bit", "--quantization bitsandbytes"), strict=True):
        assert flags in command(nf4_run, **settings)
        said = capsys.readouterr().err
        assert said.startswith("note: x: 0.0 GiB of merged weights, and the GPU has 0.0 GiB for them: they are loaded ")
        assert f"govor export {nf4_run.path} --to ollama --quantization q4_k_m" in said
    text = nf4_run.config_file.read_text(encoding="utf-8").replace("load_in_4bit: true", "load_in_4bit: false")
    nf4_run.config_file.write_text(text, encoding="utf-8")
    assert "--quantization" not in command(nf4_run, engine="transformers")
    assert "it will hardly start; Ollama serves it in less" in capsys.readouterr().err
