"""Training, kernels, merge and eval of the tiny base on a CUDA card. `make test-gpu` runs these; elsewhere they skip.

What they prove is that the path works there; how fast, and with real sizes, is for scripts/gpu_check.
"""

import math
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch

from tests.conftest import REPOSITORY
from train.core.config import Kernel, load_config
from train.core.runs import Run
from train.sft import train

pytestmark = pytest.mark.gpu
STEPS = 8


@pytest.fixture(autouse=True)
def card():
    """The name of the card, the only one that the tests see."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA card, and make test-gpu, which does not hide it")
    return torch.cuda.get_device_name()


@pytest.fixture
def on_card(write_config):
    """Writes a config that trains on the card in 16 bits."""

    def write(name: str = "x", model: dict | None = None, **training) -> Path:
        settings = {"use_cpu": False, "max_steps": STEPS, **training}
        return write_config(name=name, model={"dtype": "auto", **(model or {})}, training=settings)

    return write


def in_a_process(*words) -> str:
    """What a command printed, as a user runs it."""
    result = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, cwd=Path.cwd())
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def numbers(run: Run, name: str) -> list[float]:
    return [entry[name] for entry in run.metrics() if name in entry]


@pytest.mark.parametrize("kind", ["bf16", "nf4"])
def test_training_merge_and_eval(kind, on_card, card):
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "bf16" and not bf16:
        pytest.skip(f"{card} computes no bfloat16")
    config = on_card(model={"load_in_4bit": kind == "nf4"}, activation_checkpointing=kind == "nf4", learning_rate=0.02)
    in_a_process(REPOSITORY / "train/sft.py", config)
    run = Run(Path("runs/x"))
    manifest = run.manifest()
    assert (manifest["status"], manifest["steps"]) == ("finished", STEPS)
    assert manifest["processes"]["device"] == card and manifest["processes"]["num_processes"] == 1
    before, *_, after = numbers(run, "eval_loss")
    assert after < before
    assert all(map(math.isfinite, numbers(run, "loss")))

    target = "16bit" if kind == "bf16" else "nf4"
    in_a_process("-m", "train.cli", "merge", run.path, "--device", "cuda", "--target", target)
    assert run.manifest()["merge"]["passed"], "the merged model answers as what was trained"
    assert "held-out loss" in in_a_process("-m", "train.cli", "eval", run.path)


@pytest.mark.parametrize("kernels", [*([name] for name in get_args(Kernel)), list(get_args(Kernel))], ids="+".join)
def test_kernels_train_what_the_plain_path_does(kernels, on_card):
    """Losses and gradient norms of every step; 16 bits round, and only in the first step is the adapter's B zero."""
    order = {"train_sampling_strategy": "sequential"}  # else padded batches would be made of rows of like length
    plain = train(load_config(on_card("plain", kernels="off", **order)))
    fast = train(load_config(on_card("fast", kernels=kernels, **order)))
    assert fast.manifest()["kernels"] == sorted(kernels), "a kernel was refused"
    assert numbers(fast, "loss") == pytest.approx(numbers(plain, "loss"), rel=0.02)
    assert numbers(fast, "grad_norm") == pytest.approx(numbers(plain, "grad_norm"), rel=0.1)
