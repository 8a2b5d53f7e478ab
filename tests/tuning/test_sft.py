"""Real training on tiny models: what must move has moved, what must not has not."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.conftest import REPOSITORY, require_equal_up_to_rounding
from train.core.config import load_config
from train.core.errors import BaseError, ConfigError, DataError, DivergedError, MachineError, RunError
from train.core.files import sha256
from train.core.runs import open_run
from train.models.base import weights_fingerprint
from train.models.load import load_base, load_tuned, resolve_precision
from train.sft import train
from train.tuning import progress as train_progress

LAUNCH = [str(Path(sys.executable).with_name("accelerate")), "launch", "--quiet"]


def launch(*arguments: str | Path, script: Path = REPOSITORY / "train/sft.py", **environment: str):
    """Run train/sft.py under `accelerate launch` in a process of its own."""
    flags = [a for a in arguments if isinstance(a, str) and a.startswith("--")]
    rest = [str(a) for a in arguments if a not in flags]
    single = f"--config_file={REPOSITORY / 'configs/accelerate/single.yaml'}"
    command = [*LAUNCH, *(flags or [single]), str(script), *rest]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=300)


def losses(run, name: str = "loss") -> list[float]:
    return [entry[name] for entry in run.metrics() if name in entry]


def adapter(run) -> dict[str, torch.Tensor]:
    return load_file(run.adapter / "adapter_model.safetensors")


def test_run_folder_is_complete(finished_run, base):
    assert sorted(path.name for path in finished_run.path.iterdir()) == [
        "adapter", "checkpoints", "config.yaml", "held_out.jsonl", "manifest.json", "metrics.jsonl", "report.html",
    ]  # fmt: skip
    manifest = finished_run.manifest()
    assert manifest["status"] == "finished"
    assert manifest["data"]["train"]["rows"] + manifest["data"]["held_out"]["rows"] == 24
    assert manifest["data"]["system_message"].startswith("Ты Наташа")
    assert manifest["processes"] == {"num_processes": 1, "distributed_type": "NO", "device": "cpu"}
    assert load_config(finished_run.config_file) == finished_run.config()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (finished_run.adapter / name).read_bytes() == (base / name).read_bytes()
    assert (finished_run.adapter / "chat_template.jinja").read_text() == (base / "chat_template.jinja").read_text()
    assert sorted(p.name for p in finished_run.checkpoints.iterdir()) == ["checkpoint-5", "checkpoint-6"]


def test_the_last_word_counts_the_steps_also_where_no_line_was_logged(write_config, capsys):
    settings = {"max_steps": 3, "logging_steps": 100, "eval_strategy": "no", "eval_on_start": False}
    train(load_config(write_config(data={"eval_fraction": 0}, training=settings)))
    assert capsys.readouterr().out.splitlines()[-2].startswith("3 steps in ")


def test_metrics_lines(finished_run):
    entry = finished_run.metrics()[1]
    assert {"step", "epoch", "loss", "learning_rate", "tokens_per_second", "memory_gib"} <= entry.keys()
    assert entry["tokens_per_second"] > 0
    assert losses(finished_run, "eval_loss")[-1] < losses(finished_run, "eval_loss")[0]


def test_lora_moves_the_adapter_and_leaves_the_base(finished_run, base):
    assert finished_run.manifest()["base"]["weights"] == weights_fingerprint(base)
    model, _ = load_tuned(finished_run)
    original = load_file(base / "model.safetensors")
    tuned = model.state_dict()
    for name, weight in original.items():
        inner = f"base_model.model.{name}"
        layer = inner if inner in tuned else inner.replace(".weight", ".base_layer.weight")
        assert torch.equal(tuned[layer], weight), name
    moved = [name for name, weight in adapter(finished_run).items() if "lora_B" in name and weight.abs().max() > 0]
    assert len(moved) == 2 * 7, "every linear layer of both blocks"
    assert all(weight.dtype == torch.float32 for weight in adapter(finished_run).values())


def test_qlora_trains_over_nf4(write_config, base):
    run = train(load_config(write_config(name="q", model={"load_in_4bit": True}, training={"max_steps": 2})))
    model, _ = load_tuned(run)
    kinds = {type(module).__name__ for name, module in model.named_modules() if name.endswith("base_layer")}
    assert kinds == {"Linear4bit"}
    parameters = run.manifest()["parameters"]
    whole = sum(weight.numel() for weight in load_file(base / "model.safetensors").values())
    assert parameters["all"] == whole + parameters["trainable"]
    quantization = model.config.quantization_config
    assert (quantization.bnb_4bit_quant_type, quantization.bnb_4bit_use_double_quant) == ("nf4", True)
    assert all(weight.dtype == torch.float32 for weight in adapter(run).values()), "Adam's sums would be in bfloat16"
    assert max(weight.abs().max() for name, weight in adapter(run).items() if "lora_B" in name) > 0


def test_qlora_learns_the_same_after_an_evaluation(write_config):
    """bitsandbytes repacks CPU weights when it evaluates, and then has no gradient; see model.load_base."""
    settings = {"max_steps": 3, "eval_on_start": True}
    after = train(load_config(write_config(name="after", model={"load_in_4bit": True}, training=settings)))
    settings["eval_on_start"] = False
    without = train(load_config(write_config(name="without", model={"load_in_4bit": True}, training=settings)))
    assert losses(after) == losses(without)


def test_qlora_gradients_equal_those_over_the_dequantized_base(base, write_config):
    """The NF4 path computes what plain layers with the unpacked weights compute."""
    import bitsandbytes
    from peft import get_peft_model

    from train.models.load import lora_config

    config = load_config(write_config(model={"load_in_4bit": True}))
    ids = torch.arange(40).reshape(2, 20)
    gradients = []
    for unpacked in (False, True):
        model = load_base(config.model, base, resolve_precision(config), use_cpu=True)
        if unpacked:
            for name, layer in list(model.named_modules()):
                if isinstance(layer, bitsandbytes.nn.Linear4bit):
                    plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
                    weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
                    plain.weight = torch.nn.Parameter(weight.float())
                    model.set_submodule(name, plain)
        torch.manual_seed(0)
        tuned = get_peft_model(model, lora_config(config.lora, model))
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        tuned(input_ids=ids, labels=ids).loss.backward()
        gradients.append({name: p.grad for name, p in tuned.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-3, atol=1e-6), name


def test_full_tuning_writes_the_whole_model(write_config, base):
    run = train(load_config(write_config(name="full", lora=None, training={"max_steps": 2, "learning_rate": 1e-3})))
    before, after = load_file(base / "model.safetensors"), load_file(run.merged / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before if "proj" in name)
    assert not run.adapter.exists()
    assert (run.merged / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_same_seed_same_bytes(write_config):
    first = train(load_config(write_config(name="a")))
    second = train(load_config(write_config(name="b")))
    assert (first.adapter / "adapter_model.safetensors").read_bytes() == (
        second.adapter / "adapter_model.safetensors"
    ).read_bytes()
    assert losses(first) == losses(second)


@pytest.mark.long
def test_two_processes_equal_one(write_config):
    one = train(load_config(write_config(name="one")))
    ddp = REPOSITORY / "configs/accelerate/ddp.yaml"
    result = launch(f"--config_file={ddp}", write_config(name="two", training={"per_device_train_batch_size": 2}))
    assert result.returncode == 0, result.stderr
    two = open_run(Path("runs/two"))
    assert two.manifest()["processes"]["num_processes"] == 2
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    require_equal_up_to_rounding(adapter(one), adapter(two))


@pytest.mark.long
def test_under_accelerate_the_package_shadows_no_library(write_config):
    """`accelerate launch train/sft.py` puts train/ first on the path."""
    result = launch(write_config(name="launched"), "training.max_steps=1", "lora.r=2", "training.learning_rate=0.1")
    assert result.returncode == 0, result.stderr
    run = open_run(Path("runs/launched"))
    assert (run.config().lora.r, len(losses(run))) == (2, 1)
    assert "held-out loss" in result.stdout
    assert "step 1/1: loss" in result.stderr, "a plain line a step where nobody watches"
    assert "Warning" not in result.stderr
    assert "warning: training.learning_rate=0.1 is above 0.005, the most for an adapter" in result.stderr


def test_where_nobody_watches_a_line_breaks_every_silence(write_config, capsys, monkeypatch):
    monkeypatch.setattr(train_progress, "SILENCE", 0.01)
    good = train_progress.ProgressBar.on_prediction_step

    def slow(*arguments, **more):
        good(*arguments, **more)
        time.sleep(
            0.1
        )  # as a batch of a large model: on a busy machine the thread saw the last of the quick ones alone

    monkeypatch.setattr(train_progress.ProgressBar, "on_prediction_step", slow)
    train(load_config(write_config(training={"max_steps": 2, "logging_steps": 2, "per_device_eval_batch_size": 2})))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert any(re.fullmatch(r"step 0/2: held-out batch [12] of 3, \d+ s", line) for line in lines), lines
    assert any(re.match(r"step 1/2: held-out 6.*, \d+ s", line) for line in lines), lines
    with pytest.raises(DivergedError):
        train(load_config(write_config(name="diverging", training={"max_steps": 2, "learning_rate": 1e30})))
    time.sleep(0.1)
    assert "progress" not in {thread.name for thread in threading.enumerate()}, "each ends with its training"


def test_launch_with_a_bad_config_prints_one_line(write_config):
    result = launch(write_config(name="bad"), "lora.rnk=2")
    assert result.returncode != 0
    assert result.stderr.strip() == "error: override 'lora.rnk=2': lora.rnk: unknown option; did you mean lora.r?"


def test_held_out_rows_in_a_file_of_their_own(write_config, rows_file):
    lines = rows_file.read_bytes().splitlines(keepends=True)
    Path("train.jsonl").write_bytes(b"".join(lines[:20]))
    Path("eval.jsonl").write_bytes(b"".join(lines[20:]))
    files = {"train_file": "train.jsonl", "eval_file": "eval.jsonl"}
    run = train(load_config(write_config(data=files, training={"max_steps": 1})))
    data = run.manifest()["data"]
    assert (data["train"]["rows"], data["held_out"]["rows"]) == (20, 4)
    assert data["held_out"]["sha256"] == sha256(Path("eval.jsonl"))


def test_eval_file_that_overlaps_the_training_rows(write_config, rows_file):
    config = load_config(write_config(data={"eval_file": str(rows_file)}))
    with pytest.raises(DataError, match=r"24 of 24 rows to evaluate on equal .*rows\.jsonl:1 like .*rows\.jsonl:1"):
        train(config)


def test_alpaca_rows_train_as_they_are(write_config):
    data = {"train_file": str(REPOSITORY / "data/medical.jsonl"), "eval_fraction": 0.2}
    run = train(load_config(write_config(data=data, training={"max_steps": 1, "max_length": 1024})))
    found = run.manifest()["data"]
    assert (found["train"]["rows"], found["held_out"]["rows"]) == (22, 6)


def test_without_held_out_rows(write_config):
    run = train(load_config(write_config(data={"eval_fraction": 0}, training={"max_steps": 1})))
    assert losses(run, "eval_loss") == []


def test_loss_counts_the_assistant_alone_unless_told(write_config):
    part = train(load_config(write_config(name="part", training={"max_steps": 1})))
    whole = train(load_config(write_config(name="whole", training={"max_steps": 1, "assistant_only_loss": False})))
    data = [run.manifest()["data"]["train"] for run in (part, whole)]
    assert data[0]["trained_tokens"] < data[0]["tokens"] == data[1]["tokens"] == data[1]["trained_tokens"]


def test_fields_of_sft_config_reach_the_trainer(write_config):
    run = train(load_config(write_config(training={"max_steps": 2, "packing": True})))
    assert run.config().training.packing is True
    assert len(losses(run)) == 2


def quantised(base: Path, settings: dict) -> None:
    """The base in ./quantised, as its config.json would be if it was quantised so."""
    shutil.copytree(base, "quantised")
    config = json.loads(Path("quantised/config.json").read_bytes())
    Path("quantised/config.json").write_text(json.dumps(config | {"quantization_config": settings}))


def test_a_base_of_nf4_weights_trains_as_it_is_and_says_what_it_cannot(write_config, base, capsys):
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    AutoModelForCausalLM.from_pretrained(base, quantization_config=settings).save_pretrained("nf4")
    for file in base.iterdir():
        if not Path("nf4", file.name).exists():
            shutil.copy(file, "nf4")
    run = train(load_config(write_config(model={"name_or_path": "nf4", "load_in_4bit": True})))
    assert "nf4 is quantised already: its adapter can be served, but not merged" in capsys.readouterr().err
    assert len(losses(run)) == 4


def test_files_are_for_whom_the_umask_says(write_config):
    before = os.umask(0o027)
    try:
        run = train(load_config(write_config(training={"max_steps": 1})))
    finally:
        os.umask(before)
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {path.name: "0o640" for path in files}


class TestBadInput:
    """One clear line, and no run folder left behind."""

    def refuse(self, error, message, path, *overrides):
        with pytest.raises(error, match=message) as caught:
            train(load_config(path, overrides))
        assert "\n" not in str(caught.value)
        assert not Path("runs/x/config.yaml").exists()

    def test_missing_rows(self, write_config):
        self.refuse(Exception, r"^nowhere\.jsonl: no such file$", write_config(), "data.train_file=nowhere.jsonl")

    def test_empty_rows(self, write_config):
        Path("empty.jsonl").touch()
        self.refuse(DataError, "^empty.jsonl: no rows in it", write_config(), "data.train_file=empty.jsonl")

    def test_base_that_is_not_there(self, write_config):
        self.refuse(BaseError, "^nowhere: no such folder", write_config(), "model.name_or_path=nowhere")

    def test_local_base_that_looks_like_a_hub_id(self, write_config):
        Path("models").mkdir()
        self.refuse(BaseError, "^models/nowhere: no such folder", write_config(), "model.name_or_path=models/nowhere")

    def test_base_that_is_no_model(self, write_config):
        Path("notes").mkdir()
        self.refuse(BaseError, "^notes is not a model folder", write_config(), "model.name_or_path=notes")

    def test_hub_base_without_a_network(self, write_config):
        self.refuse(BaseError, "^no/where is not in the local cache", write_config(), "model.name_or_path=no/where")

    def test_damaged_base(self, write_config, base):
        shutil.copytree(base, "damaged")
        Path("damaged/model.safetensors").write_bytes(b"{}")
        self.refuse(BaseError, "^damaged cannot be loaded", write_config(), "model.name_or_path=damaged")

    def test_base_whose_weights_are_no_safetensors(self, write_config, base):
        shutil.copytree(base, "old", ignore=shutil.ignore_patterns("*.safetensors"))
        torch.save(load_file(base / "model.safetensors"), "old/pytorch_model.bin")
        message = r"^old has no weights as safetensors \(pytorch_model\.bin\)"
        self.refuse(BaseError, message, write_config(), "model.name_or_path=old")

    @pytest.mark.parametrize("method", ["awq", "gptq", "fp8", "mxfp4", "compressed-tensors", "bitsandbytes"])
    def test_base_that_is_quantised_already(self, write_config, base, method):
        quantised(base, {"quant_method": method})
        for load_in_4bit in ("true", "false"):
            overrides = ("model.name_or_path=quantised", f"model.load_in_4bit={load_in_4bit}")
            message = rf"^quantised is quantised already \({method}.*16 bits.*model\.load_in_4bit=true"
            self.refuse(BaseError, message, write_config(), *overrides)

    def test_4bit_base_without_load_in_4bit(self, write_config, base):
        quantised(base, {"quant_method": "bitsandbytes", "load_in_4bit": True})
        message = r"^quantised holds 4-bit weights of bitsandbytes: set model\.load_in_4bit=true"
        self.refuse(ConfigError, message, write_config(), "model.name_or_path=quantised")

    def test_rows_longer_than_the_positions_of_the_base(self, write_config, base):
        shutil.copytree(base, "short")
        config = json.loads(Path("short/config.json").read_bytes())
        Path("short/config.json").write_text(json.dumps(config | {"max_position_embeddings": 40}))
        message = r"rows are longer than the base's 40 positions: line \d+ \(\d+\).*training\.max_length=40"
        self.refuse(DataError, message, write_config(), "model.name_or_path=short")

    def test_base_without_a_chat_template(self, write_config, base):
        shutil.copytree(base, "plain", ignore=shutil.ignore_patterns("chat_template.jinja"))
        self.refuse(BaseError, "^plain has no chat template", write_config(), "model.name_or_path=plain")

    def test_no_gpu_for_nf4(self, write_config):
        path = write_config(model={"load_in_4bit": True})
        self.refuse(MachineError, "^x wants NF4 .* on a CUDA GPU.*use_cpu=true", path, "training.use_cpu=false")

    def test_no_gpu(self, write_config):
        self.refuse(MachineError, "^x wants a GPU", write_config(), "training.use_cpu=false")

    def test_disk_too_small(self, write_config, monkeypatch):
        usage = shutil.disk_usage(".")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        self.refuse(MachineError, "training needs .* on disk, 1.0 kB is free", write_config())

    def test_rows_longer_than_max_length(self, write_config):
        message = r"rows are longer than training.max_length=64 tokens: line \d+ \(\d+\).*set training.max_length=\d+"
        self.refuse(DataError, message, write_config(), "training.max_length=64")

    def test_value_that_only_trl_knows_to_be_wrong(self, write_config):
        self.refuse(ConfigError, "^training: .*adamw_nope", write_config(), "training.optim=adamw_nope")

    def test_layer_that_is_not_there(self, write_config):
        self.refuse(ConfigError, "nope", write_config(), "lora.target_modules=[nope]")

    def test_4bit_full_tuning(self, write_config):
        overrides = ("model.load_in_4bit=true", "lora=null")
        self.refuse(ConfigError, "4-bit weights cannot be tuned whole", write_config(), *overrides)

    def test_full_tuning_in_float16(self, write_config):
        """On a GPU torch's gradient scaler would refuse it in the first step."""
        overrides = ("model.dtype=float16", "lora=null")
        self.refuse(ConfigError, "model.dtype=float16: such weights cannot be tuned", write_config(), *overrides)

    def test_folder_that_holds_another_run(self, write_config):
        path = write_config(name="taken", training={"max_steps": 1})
        run = train(load_config(path))
        before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
        with pytest.raises(RunError, match="runs/taken already holds a finished run: choose another name"):
            train(load_config(path))
        assert before == {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


def test_precision_follows_the_machine(write_config, monkeypatch):
    """Weights never end up in float32 on a GPU by accident; a CPU without 16-bit units gets float32."""

    def resolve(*overrides):
        precision = resolve_precision(load_config(write_config(model={"dtype": "auto"}), overrides))
        return str(precision.weights).removeprefix("torch."), precision.autocast

    assert resolve() == ("float32", None)
    assert resolve("training.bf16=true") == ("float32", "bf16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert resolve("training.use_cpu=false") == ("bfloat16", "bf16")
    assert resolve("training.use_cpu=false", "lora=null") == ("float32", "bf16")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert resolve("training.use_cpu=false") == ("float16", "fp16")
    assert resolve() == ("float32", None)


def test_base_is_held_in_the_type_asked_for(write_config, base):
    config = load_config(write_config(), ["model.dtype=bfloat16"])
    model = load_base(config.model, base, resolve_precision(config), use_cpu=True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_checkpoints_appear_whole(write_config):
    """What a crash in the middle of a save leaves is no checkpoint by name."""
    from train.tuning.trainer import Trainer

    def cut_off(self, *_):
        raise OSError(28, "No space left on device")

    original, Trainer._save_rng_state = Trainer._save_rng_state, cut_off
    try:
        with pytest.raises(OSError, match="No space"):
            train(load_config(write_config(training={"save_strategy": "steps", "save_steps": 2})))
    finally:
        Trainer._save_rng_state = original
    assert [path for path in Path("runs/x/checkpoints").iterdir() if not path.name.startswith(".")] == []


def test_manifest_is_valid_json_and_holds_no_chat_text_but_the_system_message(finished_run):
    text = finished_run.manifest_file.read_text(encoding="utf-8")
    json.loads(text)
    for line in finished_run.held_out_file.read_bytes().splitlines():
        for message in json.loads(line)["messages"][1:]:
            assert message["content"] not in text


@pytest.mark.long
def test_the_compiler_stays_out_of_a_job_that_has_no_use_for_it(finished_run):
    """bitsandbytes would load it as it is imported; what asks for it later gets it. Nor is the collector in the way."""
    script = f"""
import gc, sys
from pathlib import Path
from train.core.runs import Run
from train.models.load import load_tuned
load_tuned(Run(Path({str(finished_run.path)!r})))
assert "bitsandbytes" in sys.modules and "torch._inductor.compile_fx" not in sys.modules
assert gc.get_freeze_count() > 10 * len(gc.get_objects())
import torch
compiled = torch.compile(lambda x: x + 1, backend="eager")
assert compiled(torch.ones(2)).tolist() == [2, 2] and torch._dynamo.utils.counters["frames"]["ok"]
"""
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True)
