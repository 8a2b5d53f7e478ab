"""The side-by-side measurement itself: real runs of govor and plain TRL on a tiny base, and what it makes of them."""

import json
import re
import sys
from pathlib import Path

import bench_train
import bench_train_base
import pytest
from bench_train import Job, Measured, disagreement, measured, report, run, speeds
from bench_train_base import SHAPES, make_rows, model_flops
from click.testing import CliRunner
from datasets import load_from_disk

from tests.conftest import REPOSITORY
from train.chats.readers import read_rows
from train.encoding.rows import encode_rows
from train.models.load import load_tokenizer

JOB = Job(
    "base", "tokenized", "rows", cpu=True, steps=4, batch=2, max_length=64, load_in_4bit=False, checkpointing=False
)


def one(tool="govor", loss=2.0, grad_norm=1.0, step=0.5, **more):
    return Measured(tool, 10.0, 4.0, [9.0, step, step], [9.0, step, step], 10**9, 20.0, loss, grad_norm, **more)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(bench_train_base, "SMALL", {"hidden_size": 64, "layers": 2, "vocab_size": 600})


@pytest.mark.long
def test_govor_and_trl_side_by_side(tiny, tmp_path):
    arguments = [str(tmp_path / "out"), "--steps", "3", "--warm", "1", "--rounds", "1", "--batch", "2"]
    result = CliRunner().invoke(bench_train.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    table = (tmp_path / "out/bench.md").read_text(encoding="utf-8")
    for tool in ("govor", "plain TRL"):
        numbers = re.search(rf"^\| {tool} \| ([\d,]+) \| ([\d,]+) \| [\d.]+", table, re.M)
        assert numbers, table
        trained, tokens = (int(number.replace(",", "")) for number in numbers.groups())
        assert 0 < trained < tokens
    assert (
        "| LLaMA-Factory | not measured |" in table
        and "| H100, Qwen3-8B bf16, 2 × 4096, any tool | not measured" in table
    )
    assert "<svg" in (tmp_path / "out/bench.svg").read_text(encoding="utf-8")
    runs = json.loads((tmp_path / "out/bench.json").read_bytes())["runs"]
    assert runs["govor"][0]["loss"] == pytest.approx(runs["trl"][0]["loss"], rel=1e-5)
    assert len(runs["trl"][0]["steps"]) == 2


@pytest.mark.parametrize(("fill", "order"), [(False, "file"), (False, "length"), (True, "file")])
def test_all_tools_get_the_same_ids(fill, order, base, rows_file, tmp_path):
    lengths, trained = make_rows(
        tmp_path, base, rows_file, count=12, batch=4, length=400 if fill else 512, order=order, fill=fill
    )
    ours = encode_rows(load_tokenizer(base), read_rows(tmp_path / "rows.jsonl"), max_length=512).encoded
    theirs = load_from_disk(str(tmp_path / "tokenized"))["train"]
    assert [one.input_ids for one in ours] == theirs["input_ids"] and [one.labels for one in ours] == theirs["labels"]
    assert lengths == [len(ids) for ids in theirs["input_ids"]] and len(lengths) == 12
    assert all(0 < part < whole for part, whole in zip(trained, lengths, strict=True))
    if fill:
        assert max(lengths) <= 400 and sum(lengths) / 12 > 250
    if order == "length":
        assert max(lengths[:4]) - min(lengths[:4]) < max(lengths) - min(lengths)


def test_work_that_differs_is_not_compared():
    assert disagreement(one("trl", loss=2.00001, grad_norm=1.1), one()) is None
    assert "first loss 2.00100" in disagreement(one("trl", loss=2.001), one())
    assert "gradient norm" in disagreement(one("trl", grad_norm=1.5), one())
    rates = {"tokens": [10] * 8, "trained": [5] * 8}
    table = report({"govor": [one()], "trl": [one("trl", loss=3.0)]}, JOB, rates, 1, 1e9, "out")
    assert "| plain TRL | not valid: first loss 3.00000" in table


def test_speeds_count_the_timed_steps_alone():
    """Of four steps of two rows the first two are not timed; a slow one among them does not count."""
    rates = {"tokens": [1, 2, 3, 4, 50, 60, 70, 80], "trained": [1, 1, 1, 1, 10, 20, 30, 40]}
    found = speeds([one()], rates, JOB, 1)
    assert found["tokens"] == 260 / 1.0 and found["trained"] == 100 / 1.0 and found["step"] == 0.5


def test_mfu_is_of_the_device_that_was_measured():
    rates = {"tokens": [1000] * 8, "trained": [500] * 8}
    job = Job(**{**JOB.__dict__, "cpu": False})
    table = report({"govor": [one(device="NVIDIA H100 80GB HBM3")]}, job, rates, 1, 30.3e9 * 4, "out")
    assert f"{30.3e9 * 4 * 4000 / 989e12:.1%}" in table


def test_what_a_worker_reports():
    found = {"begun": [5.0], "steps": [7.0, 8.0, 10.0], "processor": [3.0, 3.5, 4.5], "memory": None, "device": None,
             "logs": [{"step": 0, "eval_loss": 9.0}, {"step": 1, "loss": 2.5, "grad_norm": 0.5}]}  # fmt: skip
    run = measured("trl", found, 1.0, 12.0, 77, 3.0)
    assert (run.total, run.first_step, run.steps, run.peak, run.loss) == (11.0, 6.0, [1.0, 2.0], 77, 2.5)


@pytest.mark.parametrize(("shape", "billion"), [("qwen3-4b", 16.1), ("qwen3-8b", 30.3)])
def test_flops_of_known_models(shape, billion, tmp_path):
    """4 a weight of the matrices, as reference tables have it; the adapter and attention come on top."""
    (tmp_path / "config.json").write_text(json.dumps(SHAPES[shape]))
    assert model_flops(tmp_path, 0, 0) == pytest.approx(billion * 1e9, rel=0.01)
    assert model_flops(tmp_path, 4096, 16) > model_flops(tmp_path, 0, 0) * 1.05


STAND_IN = """
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer


class FastLanguageModel:
    @staticmethod
    def from_pretrained(base, max_seq_length, load_in_4bit):
        return AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)

    @staticmethod
    def get_peft_model(model, r, lora_alpha, lora_dropout, use_gradient_checkpointing):
        return get_peft_model(model, LoraConfig(r=r, lora_alpha=lora_alpha, target_modules="all-linear"))
"""
"""What the worker asks of Unsloth, by PEFT, without a GPU."""


@pytest.mark.long
def test_unsloth_s_rows_come_in_the_same_order(base, rows_file, tmp_path, monkeypatch):
    """The loss of the first step shows which rows it saw."""
    (tmp_path / "unsloth.py").write_text(STAND_IN, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    make_rows(tmp_path, base, rows_file, count=8, batch=2, length=512, order="file", fill=False)
    job = Job(
        str(base), str(tmp_path / "tokenized"), str(tmp_path / "rows.jsonl"), cpu=True, steps=3, batch=2,
        max_length=512, load_in_4bit=False, checkpointing=False,
    )  # fmt: skip
    losses = [run(tool, Path(sys.executable), job, tmp_path, "off", 1).loss for tool in ("trl", "unsloth")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
