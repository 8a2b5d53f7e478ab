"""scripts/gpu_check without a card: its steps and what they import are there, and what becomes of each is told.

`make test-gpu-rehearsal` runs every step.
"""

import ast
import importlib
import importlib.util
import json
import re
import subprocess
import sys
import time
import tomllib
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
import torch
from bench_train_base import SHAPES
from click.testing import CliRunner
from gpu_check import command_line, schedule, training_speed, verbs, wheels
from gpu_check.command_line import choose
from gpu_check.machine import GIB
from gpu_check.readme_table import BEGIN, END, LANGUAGES, table_text
from gpu_check.report import Report
from gpu_check.schedule import Call, Outcome, run_steps
from gpu_check.steps import BY_NAME, MAKERS, STEPS, Step
from gpu_check.summary import all_passed, read_outcomes, table, write_outcomes
from gpu_check.training_speed import (
    ALL_KERNELS,
    LENGTHS,
    SETUPS,
    UNSLOTH_VARIABLE,
    can_run,
    is_too_large,
    rows_folder,
    step_name,
    unsloth_python,
    versions_of,
)
from packaging.requirements import Requirement

from tests.conftest import REPOSITORY
from train.core.config import load_config
from train.plan.memory import Workload, memory
from train.plan.shapes import find_shapes

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
    elsewhere = {
        "torch",
        "matplotlib",
        "psutil",
        "numpy",
        "pyyaml",
        "safetensors",
        "openai",
        "llguidance",
        "lxml",
        "openpyxl",
        "scipy",
    }
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
    del outcomes["good"]
    assert not all_passed(outcomes)  # nothing ran


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


@pytest.mark.parametrize(("speed", "passes"), [(149, True), (140, False)])
def test_auto_must_choose_the_faster_way(speed, passes):
    tools = {"off": 100, ALL_KERNELS: 150, "auto": speed}
    figures = {
        step_name("4b-nf4", "govor", kernels): {"first_loss": 2.0, "tokens_per_s": tokens, "peak_allocated_gib": 5.0}
        for kernels, tokens in tools.items()
    }
    outcomes = {name: Outcome(name, "PASS", figures=each) for name, each in figures.items()}
    assert all_passed(outcomes) is passes
    assert f"train-4b-nf4-govor-auto: {speed / 150:.2f} times the faster" in "\n".join(table(outcomes))


def speed(setup, tool, kernels, *, loss=2.0, card="NVIDIA H200", verdict="PASS", **more):
    figures = {"first_loss": loss, "tokens_per_s": 12345, "peak_allocated_gib": 9.54, "card": card}
    return Outcome(step_name(setup, tool, kernels), verdict, figures={**figures, "date": "2026-12-01", **more})


@pytest.fixture
def readmes(working_folder, monkeypatch):
    """Copies of both READMEs, which the command takes for those of the repository."""
    monkeypatch.setattr(command_line, "REPOSITORY", working_folder)
    for name in LANGUAGES:
        (working_folder / name).write_text((REPOSITORY / name).read_text(encoding="utf-8"), encoding="utf-8")
    return lambda: [(working_folder / name).read_text(encoding="utf-8") for name in LANGUAGES]


def write_readmes(*outcomes):
    Path("results").mkdir(exist_ok=True)
    if outcomes:
        write_outcomes({one.name: one for one in outcomes}, Path("results"), None)
    return CliRunner().invoke(command_line.main, ["--readme", "--results", "results"])


def test_the_readmes_table_comes_from_the_results(readmes):
    before = readmes()
    environment = Outcome("environment", "PASS", figures={"torch": "2.13.0+cu130", "trl": "1.16.0"})
    outcomes = [
        environment,
        speed("8b-bf16", "govor", "off", planned_gib=10.02),
        speed("8b-bf16", "govor", ALL_KERNELS, date="2026-12-03", planned_gib=10.02),
        speed("8b-bf16", "trl", "", loss=2.5),  # it trained something else
        speed("8b-bf16", "liger", "", verdict="FAIL"),
        speed("4b-nf4-short", "govor", "off"),
        speed("4b-nf4", "trl", ""),  # nothing to compare it with
    ]
    assert write_readmes(*outcomes).exit_code == 0
    english, russian = readmes()
    assert (
        "NVIDIA H200, 2026-12-01 – 2026-12-03, torch 2.13.0+cu130, trl 1.16.0; bases of these shapes with random "
        "weights, batch × tokens of a row:\n\n"
        "| LoRA on a GPU | with | tokens/s | memory, GiB | `govor plan`, GiB |\n|---|---|---|---|---|\n"
        "| Qwen3-8B, bf16, 2 × 2048 | govor, plain | 12,345 | 9.5 | 10.0 |\n"
        "| Qwen3-8B, bf16, 2 × 2048 | govor, all kernels | 12,345 | 9.5 | |\n"
        "| Qwen3-4B, NF4, 8 × chats of up to 1024 | govor, plain | 12,345 | 9.5 | |\n\n<!-- end"
    ) in english
    assert "| Qwen3-8B, bf16, 2 × 2048 | govor, все ядра | 12 345 | 9,5 | |\n" in russian
    assert "NVIDIA H200, 01.12.2026 – 03.12.2026" in russian
    for old, new in zip(before, (english, russian), strict=True):
        assert old.split(BEGIN)[0] == new.split(BEGIN)[0] and old.split(END)[1] == new.split(END)[1]
    write_readmes(*outcomes)
    assert readmes() == [english, russian]


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        ([], "on no card: a rehearsal measures nothing"),
        ([speed("8b-bf16", "govor", "off", card=None)], "on no card: a rehearsal measures nothing"),
        ([speed("8b-bf16", "govor", "off"), speed("4b-nf4", "govor", "off", card="RTX 4090")], "on several cards"),
    ],
)
def test_the_readmes_stay_where_nothing_was_measured(readmes, outcomes, message):
    before = readmes()
    result = write_readmes(*outcomes)
    assert result.exit_code == 1 and message in result.stderr
    assert readmes() == before


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_readme_has_the_table_as_the_command_writes_it(name):
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    table = text.split(f"{BEGIN}\n\n")[1].split(f"\n{END}")[0]
    words = LANGUAGES[name]
    assert table == table_text({}, name) or (words.head in table and words.not_measured not in table)


def test_unsloth_has_an_environment_of_its_own(working_folder, monkeypatch):
    monkeypatch.setattr(training_speed, "has_cuda", lambda: True)
    monkeypatch.delenv(UNSLOTH_VARIABLE, raising=False)
    report = Report("train-4b-nf4-unsloth", working_folder)
    assert not can_run(report, "unsloth")
    assert report.missing == ["Unsloth's steps: needs CUDA and --unsloth ENV, an environment that has it"]
    monkeypatch.setenv(UNSLOTH_VARIABLE, sys.prefix)
    assert can_run(report, "unsloth")
    assert versions_of(unsloth_python(), ("torch", "trl")) == {name: version(name) for name in ("torch", "trl")}


def test_without_a_card_it_says_so():
    command = [sys.executable, str(FOLDER)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and "--rehearse" in result.stderr
    assert not Path("logs").exists()


def test_a_step_that_is_cut_off_leaves_whole_figures(working_folder):
    """It may be killed while it writes: what stands under the name was whole when it came there."""
    report = Report("good", working_folder)
    report.record(n=1)
    report.figures["bad"] = Unwritable()
    with pytest.raises(RuntimeError):
        report.save()
    assert json.loads((working_folder / "good.json").read_bytes())["figures"] == {"n": 1}


class Unwritable:
    def __str__(self):
        raise RuntimeError("cut off")


def test_what_needs_a_larger_card_is_no_failure(call):
    """Its base is not made there, so nothing that trains it can run."""
    (call.results / "base-4b.json").write_text('{"missing": ["qwen3-4b: needs a card of 9 GiB"]}', encoding="utf-8")
    outcome = run(call, Step("good", 9, "verbs.small_card", base="qwen3-4b"))["good"]
    assert (outcome.verdict, outcome.missing) == ("NEEDS", ["good: as qwen3-4b: needs a card of 9 GiB"])


@pytest.mark.parametrize(("visible", "first"), [(None, "0"), ("3,1", "3"), ("GPU-a,GPU-b", "GPU-a")])
def test_a_step_sees_the_first_card_alone(call, monkeypatch, visible, first):
    """Beside a second one plain TRL would spread its batches over both, and sft.py run with more memory."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (call.work / "program/__main__.py").write_text(
        SCRIPT.replace("import json,", "import os, json,").replace(
            '"n": 1', '"n": os.environ.get("CUDA_VISIBLE_DEVICES")'
        )
    )
    outcomes = run(call, Step("good", 9, "libraries.environment"), BY_NAME["fsdp2"])
    assert [outcome.figures["n"] for outcome in outcomes.values()] == [first, visible]


def test_a_command_that_hangs_takes_what_it_started_with_it(working_folder, monkeypatch):
    """torch's launcher gives its processes groups of their own: one left behind would keep the card's memory."""
    program = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', CHILD], start_new_session=True)"
    child = "import os, time; open('child', 'w').write(str(os.getpid())); time.sleep(60)"
    monkeypatch.setattr(verbs, "has_cuda", lambda: True)
    command = [sys.executable, "-c", f"CHILD = {child!r}; {program}; print('said', flush=True); time.sleep(60)"]
    output = verbs.run_command(Report("step", working_folder), "hangs", command, work=working_folder, limit=2)
    assert (output.exit_code, output.text) == (124, "said\n")
    child = int(Path("child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(("gib", "runs"), [(8, {"4b-nf4", "4b-nf4-short"}), (24, {*SETUPS} - {"8b-bf16-kept"})])
def test_a_setup_that_the_card_cannot_hold_is_no_failure(working_folder, monkeypatch, gib, runs):
    monkeypatch.setattr(training_speed, "has_cuda", lambda: True)
    monkeypatch.setattr(training_speed, "card_bytes", lambda: gib * GIB)
    report = Report("x", working_folder)
    assert {name for name, setup in SETUPS.items() if not is_too_large(report, setup, name)} == runs
    assert len(report.missing) == len(SETUPS) - len(runs) and not report.checks


@pytest.mark.parametrize("name", SETUPS)
def test_what_a_setup_takes_is_what_the_plan_says(name):
    setup = SETUPS[name]
    overrides = [
        f"model.name_or_path={setup.base.replace('qwen3-', 'Qwen/Qwen3-').replace('b', 'B')}",
        f"model.load_in_4bit={str(setup.load_in_4bit).lower()}",
        f"training.per_device_train_batch_size={setup.batch}",
        f"training.activation_checkpointing={str(setup.checkpointing).lower()}",
        "training.kernels=off",
    ]
    config = load_config(REPOSITORY / "configs/natasha.yaml", overrides)
    shapes, _ = find_shapes(config.model)
    assert memory(config, Workload(shapes, setup.max_length)).peak / GIB == pytest.approx(setup.gib, abs=0.15)


def test_a_base_of_any_shape_is_made_beside_the_card(working_folder, monkeypatch):
    """Its numbers are those of a fresh model: a norm's are 1, the others as small as its config says."""
    from bench_train_base import make_base
    from transformers import AutoModelForCausalLM

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "tie_word_embeddings": True, "vocab_size": 5000}
    monkeypatch.setitem(SHAPES, "wide", shape)
    make_base(working_folder / "wide", "wide", REPOSITORY / "data/natasha.jsonl")
    model = AutoModelForCausalLM.from_pretrained(working_folder / "wide")
    assert model.dtype == torch.bfloat16 and model.lm_head.weight is model.model.embed_tokens.weight
    assert float(model.model.embed_tokens.weight.detach().float().std()) == pytest.approx(0.02, rel=0.05)
    assert bool((model.model.norm.weight == 1).all())
