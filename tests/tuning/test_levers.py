"""Ways to tune beside plain LoRA, and what stands between a config and a run that fails late."""

import json
import math
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import train.tuning.trainer
from tests.conftest import REPOSITORY
from train.core.config import load_config
from train.core.errors import ConfigError, MachineError
from train.core.runs import Run
from train.sft import train as train_run
from train.tuning.processes import ALLOCATOR_VARIABLES, smallest_gpu_bytes, use_expandable_segments

IDS = torch.tensor([[5, 17, 300, 42, 8, 99, 121]])


def run_of(config) -> Run:
    return train_run(load_config(config))


def losses(run: Run, name: str = "loss") -> list[float]:
    return [entry[name] for entry in run.metrics() if name in entry]


@pytest.mark.parametrize(
    ("init", "use_rslora"), [("pissa", False), ("pissa", True), ("pissa_niter_4", True), ("olora", False)]
)
def test_adapter_that_began_in_the_base_loads_over_the_base(init, use_rslora, write_config, base, monkeypatch):
    """What training ended with, logits and all, is what PEFT makes of the saved adapter and the untouched base."""
    at_end = {}
    import train.tuning.phases as phases

    original = phases.save_result

    def keep(trainer, *more):
        with torch.inference_mode():
            at_end["logits"] = trainer.model.eval()(IDS).logits
        original(trainer, *more)

    monkeypatch.setattr(phases, "save_result", keep)
    run = run_of(write_config(lora={"r": 4, "lora_alpha": 8, "init_lora_weights": init, "use_rslora": use_rslora}))
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    untouched = plain(IDS).logits
    tuned = PeftModel.from_pretrained(plain, run.adapter).eval()
    with torch.inference_mode():
        assert torch.allclose(tuned(IDS).logits, at_end["logits"], atol=1e-4)
    assert not torch.allclose(untouched, at_end["logits"], atol=1e-2)
    saved = json.loads((run.adapter / "adapter_config.json").read_bytes())
    assert saved["r"] == 8 and saved["init_lora_weights"] is True


def test_such_an_adapter_begins_where_the_base_is(write_config):
    plain = run_of(write_config(name="plain", training={"max_steps": 1}))
    pissa = run_of(write_config(name="pissa", lora={"init_lora_weights": "pissa"}, training={"max_steps": 1}))
    assert abs(losses(pissa, "eval_loss")[0] - losses(plain, "eval_loss")[0]) < 1e-4


@pytest.mark.parametrize("clash", [{"model": {"load_in_4bit": True}}, {"lora": {"use_dora": True}}])
def test_adapters_that_could_not_be_saved_so_are_refused(clash, write_config):
    sections = {"lora": {"init_lora_weights": "pissa", **clash.get("lora", {})}, "model": clash.get("model", {})}
    with pytest.raises(ConfigError, match=r"x\.yaml:\d+: lora\.init_lora_weights .*(load_in_4bit|use_dora)"):
        load_config(write_config(**sections))


@pytest.mark.filterwarnings("ignore:.*paged.*:UserWarning")  # bitsandbytes: nothing to page from on a CPU
@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "adafactor"])
def test_optimizers(optim, write_config):
    run = run_of(write_config(training={"optim": optim, "max_steps": 6, "learning_rate": 0.02}))
    curve = losses(run)
    assert len(curve) == 6 and all(map(math.isfinite, curve))
    assert losses(run, "eval_loss")[-1] < losses(run, "eval_loss")[0]


def test_neftune_changes_training_and_nothing_else(write_config, base):
    plain = run_of(write_config(name="plain"))
    noisy = run_of(write_config(name="noisy", training={"neftune_noise_alpha": 5.0}))
    assert losses(plain)[0] != losses(noisy)[0]
    assert losses(plain, "eval_loss")[0] == losses(noisy, "eval_loss")[0]  # no noise while evaluating
    assert (
        load_file(noisy.adapter / "adapter_model.safetensors").keys()
        == load_file(plain.adapter / "adapter_model.safetensors").keys()
    )


@pytest.fixture
def free(monkeypatch):
    """Call it with the bytes of memory that the machine has left."""
    now = psutil.virtual_memory()
    return lambda left: monkeypatch.setattr(psutil, "virtual_memory", lambda: now._replace(available=left))


def test_the_longest_batches_run_first_and_leave_no_trace(write_config, monkeypatch, free):
    """Forward passes before the first logged loss see the longest rows; metrics and adapter are as without them.

    On a CPU with room to spare there are none.
    """
    free(2**20)
    seen = []
    step, prediction = train.tuning.trainer.Trainer.training_step, train.tuning.trainer.Trainer.prediction_step

    def training_step(self, model, inputs, *more, **named):
        seen.append(("train", tuple(inputs["input_ids"].shape)))
        return step(self, model, inputs, *more, **named)

    def prediction_step(self, model, inputs, *more, **named):
        seen.append(("eval", tuple(inputs["input_ids"].shape)))
        return prediction(self, model, inputs, *more, **named)

    monkeypatch.setattr(train.tuning.trainer.Trainer, "training_step", training_step)
    monkeypatch.setattr(train.tuning.trainer.Trainer, "prediction_step", prediction_step)
    padded = {"per_device_eval_batch_size": 2, "logging_steps": 2, "kernels": "off"}
    settings = {"lora": {"lora_dropout": 0.1}, "training": padded}
    run = run_of(write_config(name="rehearsed", **settings))
    (kind, longest_eval), (other, longest_train), *later = seen
    assert (kind, other) == ("eval", "train")
    assert longest_eval[0] == 2 and longest_train[0] == 4
    assert longest_eval[1] == max(shape[1] for kind, shape in later if kind == "eval")
    assert longest_train[1] >= max(shape[1] for kind, shape in later if kind == "train")

    free(2**40)
    before = len(seen)
    without = run_of(write_config(name="without", **settings))
    assert seen[before:] == later
    names = ("step", "loss", "eval_loss", "grad_norm", "mean_token_accuracy", "num_tokens")
    assert [[e.get(n) for n in names] for e in run.metrics()] == [[e.get(n) for n in names] for e in without.metrics()]
    file = "adapter_model.safetensors"
    assert (run.adapter / file).read_bytes() == (without.adapter / file).read_bytes()


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_out_of_memory_is_one_line_with_the_numbers(mode, write_config, monkeypatch, free):
    free(2**20)
    from transformers import Qwen3Model

    forward = Qwen3Model.forward

    def small_card(self, *more, **named):
        if self.training == (mode == "training"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, *more, **named)

    monkeypatch.setattr(Qwen3Model, "forward", small_card)
    with pytest.raises(MachineError) as caught:
        run_of(write_config())
    text = str(caught.value)
    assert "\n" not in text
    assert f"the longest {mode} batch (4 rows of up to " in text
    assert "GiB: weights 0.0 GiB, " in text and "try training.per_device_train_batch_size=2 " in text


def test_tracker_writes_where_the_run_is(write_config):
    run = run_of(write_config(training={"report_to": "tensorboard"}))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = next(run.path.rglob("events.out.tfevents.*")).parent
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [e.value for e in events.Scalars("train/loss")] == pytest.approx(losses(run), rel=1e-5)


def test_tracker_that_is_not_installed(write_config):
    with pytest.raises(ConfigError, match=r"report_to.*install comet-ml"):
        run_of(write_config(training={"report_to": "comet_ml"}))


@pytest.mark.parametrize(
    ("system", "release", "given", "expected"),
    [
        ("linux", "6.8.0-generic", {}, "expandable_segments:True"),
        ("linux", "5.15.90.1-microsoft-standard-WSL2", {}, None),
        ("win32", "11", {}, None),
        ("darwin", "25.0", {}, None),
        ("linux", "6.8.0-generic", {"PYTORCH_ALLOC_CONF": "backend:cudaMallocAsync"}, "backend:cudaMallocAsync"),
        ("linux", "6.8.0-generic", {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, None),
    ],
)
def test_the_allocator_grows_its_segments_unless_the_user_or_the_system_says_otherwise(
    system, release, given, expected, monkeypatch
):
    for name in ALLOCATOR_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.release", lambda: release)
    environment = dict(os.environ)
    monkeypatch.setattr("os.environ", environment)
    use_expandable_segments()
    assert environment.get("PYTORCH_ALLOC_CONF") == expected


@pytest.mark.skipif(sys.platform != "linux" or "microsoft" in platform.release().lower(), reason="left alone there")
def test_training_sets_the_allocator_up_before_torch_reads_its_variables():
    program = (
        "import os, sys, train.sft as sft\n"
        "def config(*_): print(os.environ.get('PYTORCH_ALLOC_CONF'), 'torch' in sys.modules); sys.exit()\n"
        "sft.load_config = config; sft.main(['x.yaml'])"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ALLOCATOR_VARIABLES}
    command = [sys.executable, "-c", program]
    printed = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**environment, "PYTHONPATH": str(REPOSITORY)}
    ).stdout
    assert printed.split() == ["expandable_segments:True", "False"]


@pytest.mark.parametrize(("free", "counted"), [(7.5, 8.0), (5.9, 6.5)])
def test_fit_reckons_with_what_others_have_taken(free, counted, monkeypatch):
    """A desktop, or an engine that serves: 7.5 of 8 GiB are free where nobody else is, beside our own CUDA context."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free * 2**30), 8 * 2**30))
    state = SimpleNamespace(device=torch.device("cuda"))
    assert smallest_gpu_bytes(state) == pytest.approx(counted * 2**30)
    assert smallest_gpu_bytes(SimpleNamespace(device=torch.device("cpu"))) is None
