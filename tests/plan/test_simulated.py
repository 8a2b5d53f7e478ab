"""The planned memory of a GPU against steps simulated on tensors without contents (scripts/gpu_check/simulate.py).

SIMULATED was made with torch 2.13, transformers 5.23, TRL 1.16, PEFT 0.21.2 and bitsandbytes 0.50.2, by

    python scripts/gpu_check/simulate.py configs/natasha.yaml --rows BATCHxTOKENS model.name_or_path=BASE \\
        model.load_in_4bit=… training.activation_checkpointing=… "training.kernels=[…]"

and half of the tokens trained. SMALL, with two layers (--shape num_hidden_layers=2), are simulated
anew by each test run.
"""

import gc
import json
from typing import NamedTuple

import pytest
import torch
from click.testing import CliRunner
from gpu_check import simulate

from tests.conftest import REPOSITORY
from train.core.compat import fake_tensors
from train.core.config import load_config
from train.plan.fit import with_options
from train.plan.memory import GIB, KERNEL_TILE, Workload, memory
from train.plan.shapes import find_shapes, of_config
from train.tuning.kernels import ON_BY_DEFAULT, head

ON = "head,lora_qkv,lora_mlp"


class Case(NamedTuple):
    """A training step, and the GiB that it was found to allocate."""

    base: str
    rows: str
    nf4: bool
    checkpointing: bool
    kernels: str
    gib: float

    @property
    def longest(self) -> int:
        return int(self.rows.split("x")[1])

    def config(self, kernels=None):
        kernels = self.kernels if kernels is None else kernels
        overrides = [
            f"model.name_or_path={self.base}",
            f"model.load_in_4bit={str(self.nf4).lower()}",
            f"training.per_device_train_batch_size={self.rows.split('x')[0]}",
            f"training.activation_checkpointing={str(self.checkpointing).lower()}",
            f"training.kernels={kernels}" if kernels in ("off", "auto") else f"training.kernels=[{kernels}]",
        ]
        return load_config(REPOSITORY / "configs/natasha.yaml", overrides)

    def shapes(self, layers=None):
        shapes, _ = find_shapes(self.config().model)
        return of_config(shapes.config | {"num_hidden_layers": layers}) if layers else shapes


SIMULATED = [
    Case("Qwen/Qwen3-4B", "1x723", True, True, "off", 3.131),
    Case("Qwen/Qwen3-4B", "1x723", True, True, ON, 3.172),
    Case("Qwen/Qwen3-4B", "1x2048", True, True, "off", 3.574),
    Case("Qwen/Qwen3-4B", "4x723", True, True, "off", 3.862),
    Case("Qwen/Qwen3-4B", "4x723", True, True, ON, 3.871),
    Case("Qwen/Qwen3-4B", "4x2048", True, True, "off", 5.730),
    Case("Qwen/Qwen3-4B", "4x2048", True, True, ON, 5.668),
    Case("Qwen/Qwen3-4B", "4x2048", True, True, f"{ON},norm", 5.434),
    Case("Qwen/Qwen3-8B", "2x2048", False, True, "off", 17.812),
    Case("Qwen/Qwen3-8B", "2x2048", False, True, ON, 17.751),
    Case("Qwen/Qwen3-8B", "2x2048", False, False, "off", 42.085),
    Case("Qwen/Qwen3-8B", "2x2048", False, False, ON, 35.263),
    Case("Qwen/Qwen3-8B", "2x2048", False, False, f"{ON},norm", 29.423),
    Case("google/gemma-3-270m-it", "4x512", False, True, "off", 0.690),
    Case("google/gemma-3-270m-it", "4x1024", False, True, "off", 0.837),  # longer than its window
    Case("google/gemma-3-270m-it", "4x512", False, False, "off", 1.980),
    Case("Qwen/Qwen3-1.7B", "4x1024", False, True, "off", 4.325),
    Case("Qwen/Qwen3-1.7B", "4x1024", False, True, ON, 4.294),
    Case("Qwen/Qwen3-1.7B", "4x1024", False, False, "off", 14.131),
    Case("meta-llama/Llama-3.1-8B-Instruct", "1x2048", False, True, "off", 16.407),
    Case("meta-llama/Llama-3.1-8B-Instruct", "8x1024", True, True, ON, 9.648),
    Case("Qwen/Qwen3-4B", "8x1024", True, True, "off", 5.729),
    Case("Qwen/Qwen3-0.6B", "8x1024", True, False, "off", 14.124),
]
"""The whole models: those up to the 8B's were at hand when the plan was fitted, the others came after."""
SMALL = [
    Case("Qwen/Qwen3-0.6B", "4x256", True, True, "off", 0.3906),
    Case("Qwen/Qwen3-0.6B", "4x256", False, False, f"{ON},norm", 0.6030),
]


@pytest.mark.parametrize("case", SIMULATED, ids=lambda case: "-".join(map(str, case[:5])))
def test_the_plan_is_within_a_tenth_of_the_simulation(case):
    planned = memory(case.config(), Workload(case.shapes(), case.longest)).peak
    assert planned / GIB == pytest.approx(case.gib, rel=0.1)


def simulated(case, shapes, config=None):
    batch, length = map(int, case.rows.split("x"))
    return simulate.simulate(config or case.config(), shapes, batch, length)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: "-".join(map(str, case[:5])))
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_simulation_still_finds_what_the_table_says(case):
    """Where this fails, the libraries allocate otherwise: make the figures anew, and see whether the plan holds."""
    shapes = case.shapes(layers=2)
    found = simulated(case, shapes)
    assert found.peak / GIB == pytest.approx(case.gib, rel=0.01)
    planned = memory(case.config(), Workload(shapes, case.longest))
    assert planned.weights + planned.optimizer == pytest.approx(found.held, rel=0.01)
    assert planned.peak == pytest.approx(found.peak, rel=0.1)
    assert found.kernels == ([] if case.kernels == "off" else case.kernels.split(","))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_gradients_that_wait_for_the_next_pass_are_there_with_its_activations():
    """An adapter of rank 256, so that they weigh something."""
    case, peaks = SMALL[1], []
    shapes = case.shapes(layers=2)
    for accumulation in (1, 2):
        change = {"lora.r": 256, "training.gradient_accumulation_steps": accumulation}
        config = with_options(case.config(), change)
        found = simulated(case, shapes, config).peak
        planned = memory(config, Workload(shapes, case.longest))
        assert planned.peak == pytest.approx(found, rel=0.1)
        peaks.append(found)
    assert peaks[1] - peaks[0] > planned.gradients / 4
    assert planned.never_at_once == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.long
def test_a_whole_model_is_simulated_as_the_table_says():
    case = SIMULATED[0]
    assert simulated(case, case.shapes()).peak / GIB == pytest.approx(case.gib, rel=0.01)


def test_auto_plans_for_kernels_and_for_none():
    """Which of them run is known on the card: on short rows kernels need more, on long ones less."""
    for case in SIMULATED[:2] + SIMULATED[5:7]:
        workload = Workload(case.shapes(), case.longest)
        tried = ",".join(ON_BY_DEFAULT["cuda"])
        peaks = {kernels: memory(case.config(kernels), workload).peak for kernels in ("off", tried, "auto")}
        assert peaks["auto"] == max(peaks["off"], peaks[tried])


def test_kernels_that_would_be_refused_save_nothing():
    case = next(case for case in SIMULATED if "gemma" in case.base)
    workload = Workload(case.shapes(), case.longest)
    assert memory(case.config("lora_mlp,norm"), workload) == memory(case.config("off"), workload)


def test_the_plan_knows_the_tile_of_the_head():
    assert KERNEL_TILE == head.TILE


def test_storages_are_counted_while_they_live():
    counted = simulate.AllocatedBytes(trained=0.5)
    with simulate.as_on_cuda(), fake_tensors(), counted:
        first = torch.empty(1000)  # 4,000 bytes: eight blocks of 512
        view = first[:10]
        second = view + 1
        assert counted.now == 4096 + 512
        del first
        assert counted.now == 4096 + 512  # the view holds it
        del view
        gc.collect()
        assert (counted.now, counted.peak) == (512, 4096 + 512)
        mask = torch.empty(4, 6, dtype=torch.bool)
        assert torch.empty(4, 6, 8)[mask].shape == (12, 8)
        del second


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_command_prints_a_line_of_json_for_each_batch():
    numbers = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 200}
    words = [str(REPOSITORY / "configs/natasha.yaml"), "--rows", "1x16", "--rows", "2x16", "training.kernels=off"]
    shape = [word for name, number in numbers.items() for word in ("--shape", f"{name}={number}")]
    done = CliRunner().invoke(simulate.main, words + shape)
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["rows"] for line in lines] == ["1x16", "2x16"]
    assert all(line["peak"] >= line["held"] for line in lines)
    done = CliRunner().invoke(simulate.main, [words[0], "--rows", "four"])
    assert done.exit_code == 2 and "'four' is not of the form BATCHxTOKENS" in done.output
    done = CliRunner().invoke(simulate.main, [*words[:3], "model.name_or_path=owner/name"])
    assert done.exit_code == 1 and done.output.startswith("Error: owner/name is not on this disk")
