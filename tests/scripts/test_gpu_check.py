"""scripts/gpu_check without a card: its steps and what they import are there, and what becomes of each is told.

`make test-gpu-rehearsal` runs every step.
"""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from gpu_check import schedule, wheels
from gpu_check.command_line import choose
from gpu_check.schedule import Call, Outcome, run_steps
from gpu_check.steps import BY_NAME, MAKERS, STEPS, Step
from gpu_check.summary import all_passed, read_outcomes, table, write_outcomes
from gpu_check.training_speed import ALL_KERNELS, LENGTHS, SETUPS, rows_folder, step_name
from packaging.requirements import Requirement

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "scripts/gpu_check"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.name)
def test_what_a_module_imports_is_there(file):
    """Inside functions too, where nothing would notice before a card is at hand."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "machine":
            if importlib.util.find_spec(node.module.split(".")[0]) is None:
                assert node.module.split(".")[0] == "liger_kernel"
                continue
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")


def test_every_step_has_its_function_and_a_name_of_its_own():
    assert len(BY_NAME) == len(STEPS)
    for step in STEPS:
        module, function = step.function.split(".")
        assert callable(getattr(importlib.import_module(f"gpu_check.{module}"), function))
        assert step.base is None or STEPS.index(MAKERS[step.base]) < STEPS.index(step)


def test_the_tests_that_it_runs_are_there():
    named = re.findall(r'"(tests/[\w/]+\.py)"', (FOLDER / "verbs.py").read_text(encoding="utf-8"))
    assert len(named) == 3 and all((REPOSITORY / name).exists() for name in named)


def test_the_modules_that_it_imports_by_name_are_there():
    from gpu_check.libraries import OUR_MODULES

    assert all(importlib.util.find_spec(name) for name in OUR_MODULES)


def test_the_kernels_are_those_that_there_are():
    from train.tuning.kernels import PUT_IN

    assert set(ALL_KERNELS.split(",")) == set(PUT_IN)


def test_the_wheels_are_pinned_in_the_constraints_alone():
    versions = wheels.pinned()
    assert {*wheels.NAMES, wheels.BITSANDBYTES} <= set(versions)
    assert len(set(wheels.NAMES)) == len(wheels.NAMES)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {Requirement(text).name.replace("_", "-") for text in project["dependencies"]}
    fetched = {name.lower().replace("_", "-") for name in (*wheels.NAMES, wheels.BITSANDBYTES)}
    elsewhere = {"torch", "matplotlib", "psutil", "numpy", "pyyaml", "safetensors", "openai"}
    assert needed - fetched == elsewhere, "the machine has them, or no step needs them"
    assert not {Requirement(peer).name for peer in wheels.PEERS} & set(versions)
    for file in FOLDER.iterdir():
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            repeated = [
                name for name, version in versions.items() if re.search(rf"{name}\W+{re.escape(version)}\b", text)
            ]
            assert not repeated, f"{file.name}: {repeated}"


SCRIPT = """
import json, sys, time
name, results = sys.argv[sys.argv.index("--step") + 1], sys.argv[sys.argv.index("--results") + 1]
checks = [{"what": "it runs", "passed": name != "fails", "detail": "why"}]
missing = ["steps: needs CUDA"] if name == "needs" else []
with open(f"{results}/{name}.json", "w") as file:
    json.dump({"figures": {"n": 1}, "checks": [] if name in ("needs", "nothing") else checks, "missing": missing}, file)
if name == "dies":
    sys.exit("the last word")
time.sleep(60 if name in ("long", "endless") else 0)
"""


@pytest.fixture
def call(working_folder, monkeypatch):
    """Steps that a small program stands in for, as its name says."""
    package = working_folder / "program"
    package.mkdir()
    (package / "__main__.py").write_text(SCRIPT, encoding="utf-8")
    monkeypatch.setattr(schedule, "__file__", str(package / "schedule.py"))
    monkeypatch.setattr(schedule, "LEAST_SECONDS", 1)
    (working_folder / "results").mkdir()
    return Call(working_folder, working_folder / "results", time.time() + 20, rehearse=False)


def run(call: Call, *steps: Step) -> dict[str, Outcome]:
    return {outcome.name: outcome for outcome in run_steps(steps, call)}


def test_what_becomes_of_each_step_is_told_and_the_rest_runs(call):
    names = ("good", "fails", "dies", "needs", "nothing", "long")
    outcomes = run(call, *(Step(name, 1, "libraries.environment") for name in names))
    verdicts = {name: outcome.verdict for name, outcome in outcomes.items()}
    assert verdicts == {
        "good": "PASS",
        "fails": "FAIL",
        "dies": "FAIL",
        "needs": "NEEDS",
        "nothing": "FAIL",
        "long": "FAIL",
    }
    assert "exit code 1: the last word" in outcomes["dies"].reason and outcomes["long"].reason == "took more than 1 s"
    assert outcomes["good"].figures == outcomes["long"].figures == {"n": 1}
    write_outcomes(outcomes, call.results, call.work / "copy")
    assert read_outcomes(call.work / "copy") == outcomes and (call.work / "copy/logs.tar.gz").exists()
    text = (call.results / "results.txt").read_text(encoding="utf-8")
    assert "FAIL fails: it runs: why" in text and "NEEDS needs: steps: needs CUDA" in text


def test_what_the_time_does_not_suffice_for_is_left_for_the_next_call(call):
    call = call._replace(deadline=time.time() + 2.5)
    outcomes = run(call, *(Step(name, 60, "libraries.environment") for name in ("good", "endless", "later")))
    assert [outcome.verdict for outcome in outcomes.values()] == ["PASS", "SKIP", "SKIP"]
    write_outcomes(outcomes, call.results, None)
    assert set(read_outcomes(call.results)) == {"good"} and all_passed(outcomes)


def test_a_step_waits_for_its_base_and_fails_without_it(call):
    outcomes = run(call, Step("good", 9, "verbs.small_card", base="qwen3-4b"))
    assert outcomes["good"].reason == "base-4b has made no base"


def test_the_maker_of_a_base_comes_with_what_trains_it(working_folder):
    assert [step.name for step in choose("small-card", "", set(), working_folder)] == ["base-4b", "small-card"]
    for name, setup in SETUPS.items():
        rows_folder(working_folder, name).mkdir()
        if setup.base == "qwen3-4b":
            (rows_folder(working_folder, name) / LENGTHS).touch()
    assert [step.name for step in choose("small-card", "", set(), working_folder)] == ["small-card"]
    done = {step.name for step in STEPS} - {"small-card", "ddp"}
    assert [step.name for step in choose(None, "ddp", done, working_folder)] == ["small-card"]


def test_tools_are_compared_by_their_first_loss():
    def outcome(tool, kernels, loss, speed):
        figures = {"first_loss": loss, "tokens_per_s": speed, "peak_allocated_gib": 9.5}
        return Outcome(step_name("8b-bf16", tool, kernels), "PASS", figures=figures)

    ours = outcome("govor", "off", 2.0, 100)
    faster, wrong = outcome("govor", ALL_KERNELS, 2.001, 150), outcome("trl", "", 2.1, 100)
    assert all_passed({one.name: one for one in (ours, faster)})
    outcomes = {one.name: one for one in (ours, faster, wrong)}
    assert not all_passed(outcomes)
    text = "\n".join(table(outcomes))
    assert "PASS train-8b-bf16-govor-on: first loss 5.0e-04 from govor's without kernels; 1.50 times" in text
    assert "FAIL train-8b-bf16-trl" in text


def test_without_a_card_it_says_so():
    command = [sys.executable, str(FOLDER)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and "--rehearse" in result.stderr
    assert not Path("logs").exists()
