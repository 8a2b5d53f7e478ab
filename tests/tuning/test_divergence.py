"""A loss that is not finite, a loss that rises, and a training that moves nothing."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import get_scheduler

from train.core.config import load_config
from train.core.errors import DivergedError
from train.core.runs import Run
from train.sft import train
from train.tuning.common_trainer import begun_above_zero
from train.tuning.divergence import SKIPPED_IN_A_ROW, Divergence, warnings_of

WILD = {"learning_rate": 1e30, "max_grad_norm": 0.0, "max_steps": 4, "lr_scheduler_type": "constant"}


def strict_lines(path: Path) -> list[dict]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kernels", ["auto", "off"])
def test_training_stops_at_the_first_loss_that_is_not_finite(kernels, write_config):
    """The checkpoint before it stays, and no adapter is left that looks finished."""
    training = {**WILD, "kernels": kernels, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "no",
                "eval_on_start": False, "warmup_steps": 0}  # fmt: skip
    with pytest.raises(DivergedError) as caught:
        train(load_config(write_config(training=training)))
    text, run = str(caught.value), Run(Path("runs/x"))
    assert "\n" not in text and text.startswith("step 2: the ")
    assert " (rows at lines " in text and "try a lower training.learning_rate" in text
    assert text.endswith("checkpoint-1 is from before")
    assert not run.adapter.exists() and [path.name for path in run.checkpoints.glob("*")] == ["checkpoint-1"]
    assert [line["step"] for line in strict_lines(run.metrics_file)] == [1]
    assert run.manifest()["status"] != "finished"


def test_a_base_that_is_spoiled_stops_before_the_first_step_and_leaves_the_name_free(write_config, base):
    shutil.copytree(base, "spoiled")
    weights = load_file("spoiled/model.safetensors")
    weights["model.norm.weight"] *= math.nan
    save_file(weights, "spoiled/model.safetensors", metadata={"format": "pt"})
    model = {"name_or_path": "spoiled"}
    with pytest.raises(DivergedError, match="the held-out loss before the first step is nan"):
        train(load_config(write_config(model=model)))
    with pytest.raises(DivergedError, match=r"step 1: the loss is nan \(rows at lines "):
        train(load_config(write_config(model=model, training={"eval_on_start": False})))
    assert not Path("runs/x").exists()
    assert train(load_config(write_config(training={"max_steps": 1}))).adapter.is_dir()


def judge(scaler: object) -> Divergence:
    trainer = SimpleNamespace(accelerator=SimpleNamespace(scaler=scaler), state=SimpleNamespace(global_step=0))
    return Divergence(trainer, [], [])


def step(eye: Divergence, loss: float, norm: float) -> None:
    eye.saw(torch.tensor(loss), {"input_ids": torch.tensor([[1, 2]]), "attention_mask": torch.ones(1, 2)})
    eye.saw_gradient(torch.tensor(norm))


def test_without_a_scaler_a_gradient_that_is_not_finite_stops_at_once():
    with pytest.raises(DivergedError, match="step 1: the gradient is inf: try"):
        step(judge(None), 1.0, math.inf)


def test_a_scaler_may_skip_some_steps_but_not_ten_in_a_row():
    eye = judge(object())
    for _ in range(3):
        for _ in range(SKIPPED_IN_A_ROW - 1):
            step(eye, 1.0, math.inf)
        step(eye, 1.0, 2.0)
    for _ in range(SKIPPED_IN_A_ROW - 1):
        step(eye, 1.0, math.nan)
    with pytest.raises(DivergedError, match="10 steps in a row were skipped"):
        step(eye, 1.0, math.inf)
    with pytest.raises(DivergedError, match="the loss is nan"):
        step(judge(object()), math.nan, 1.0)


@pytest.mark.parametrize(
    ("losses", "held_out", "expected"),
    [
        ([3, 2, 1], [3, 2], []),
        ([2.0, *[3.1] * 10], [3, 2], ["training loss rose from 2.000 to 3.100"]),
        ([2.0, *[9.0] * 5, *[2.9] * 10], [], []),
        ([3, 2], [2.0, 1.5, 2.1], ["held-out loss is worse than before training (2.000 → 2.100)"]),
        ([3, 2], [2.0, 2.0001], []),
        ([], [], []),
    ],
)
def test_what_a_finished_run_is_warned_of(losses, held_out, expected):
    lines = [{"step": n + 1, "loss": loss} for n, loss in enumerate(losses)]
    lines += [{"step": n * 5, "eval_loss": loss} for n, loss in enumerate(held_out)]
    found = warnings_of(lines, moved=True)
    assert len(found) == len(expected) and all(map(str.startswith, found, expected))


def test_without_a_loss_before_training_nothing_is_compared():
    assert warnings_of([{"step": 5, "eval_loss": 1.0}, {"step": 9, "eval_loss": 2.0}], moved=True) == []


def test_the_warning_stands_in_summary_and_report(write_config, capsys):
    training = {"learning_rate": 1.0, "max_steps": 6, "warmup_steps": 0, "lr_scheduler_type": "constant"}
    run = train(load_config(write_config(lora=None, training=training)))
    [worse] = [text for text in run.manifest()["warnings"] if "held-out" in text]
    assert f"warning: {worse}" in capsys.readouterr().out
    assert "held-out loss is worse than before training" in run.report_file.read_text(encoding="utf-8")


def test_a_training_that_moves_nothing_says_so(write_config):
    still = train(load_config(write_config(training={"learning_rate": 1e-300, "max_steps": 1})))
    assert any("training moved no weight" in text for text in still.manifest()["warnings"])


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", ["linear", "cosine", "constant_with_warmup", "polynomial"])
def test_warm_up_takes_no_step_of_size_zero(steps, name):
    def rates(above: bool) -> list[float]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
        schedule = get_scheduler(name, optimizer, num_warmup_steps=1, num_training_steps=steps)
        schedule = begun_above_zero(schedule) if above else schedule
        found = []
        for step in range(steps):
            assert schedule.get_last_lr() == [optimizer.param_groups[0]["lr"]]
            found += schedule.get_last_lr()
            optimizer.step()
            if above or step < steps - 1:
                schedule.step()
        return found

    first, *later = rates(above=True)
    assert 0.25 <= first <= 0.5 and later == rates(above=False)[1:]


def test_a_short_run_takes_its_first_step_too(write_config):
    settings = {"max_steps": 1, "lr_scheduler_type": "linear", "warmup_steps": 0.05, "eval_strategy": "no"}
    run = train(load_config(write_config(training=settings)))
    [rate] = [entry["learning_rate"] for entry in run.metrics() if "learning_rate" in entry]
    assert rate > 0 and run.manifest()["warnings"] == []
