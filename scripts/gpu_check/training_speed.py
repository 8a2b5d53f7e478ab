"""Steps of govor, plain TRL, TRL with Liger's kernels and Unsloth over the same rows, with bench_train's stopwatch."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from click import ClickException

from gpu_check.machine import GIB, REPOSITORY, card_bytes, has_cuda
from gpu_check.report import Report
from train.plan.estimate import Gpu

ROWS = REPOSITORY / "data/natasha.jsonl"
LENGTHS = "lengths.json"
"""Tokens of each row, and those of them that are trained; written last."""
ALL_KERNELS = "varlen,head,lora_qkv,lora_mlp,norm"
TOOLS = (("govor", "off"), ("govor", ALL_KERNELS), ("govor", "auto"), ("trl", ""), ("liger", ""), ("unsloth", ""))
"""Each with what training.kernels says; the first is what the others are compared with."""
STEPS, WARM_STEPS = 10, 3
REHEARSED_STEPS, REHEARSED_WARM_STEPS = 3, 1
LOSS_TOLERANCE = 3e-3
"""How far a tool's first loss may be from govor's, as a share: the adapter's output is zero, bfloat16 rounds."""
UNSLOTH_VARIABLE = "GOVOR_CHECK_UNSLOTH"
"""Names the folder of the environment with Unsloth to the processes of steps, as --unsloth does to the command."""
PLAN_RATIO = 0.95, 1.25
"""Planned memory over what was allocated."""
AUTO_RATIO = 0.95
"""Tokens a second that `auto` has at least, as a share of the faster of all kernels and none."""


class Setup(NamedTuple):
    """What is trained, by whichever tool."""

    base: str
    """Name of a shape in bench_train_base.SHAPES."""
    load_in_4bit: bool
    batch: int
    max_length: int
    checkpointing: bool
    joined: bool
    """Whether dialogues are joined until a row has nearly `max_length` tokens."""
    gib: float
    """Memory that govor without kernels is planned to take."""


SETUPS = {
    "8b-bf16": Setup("qwen3-8b", False, 2, 2048, checkpointing=True, joined=True, gib=17.9),
    "4b-nf4": Setup("qwen3-4b", True, 2, 2048, checkpointing=True, joined=True, gib=4.3),
    "8b-bf16-kept": Setup("qwen3-8b", False, 2, 2048, checkpointing=False, joined=True, gib=42.1),
    "4b-nf4-short": Setup("qwen3-4b", True, 8, 1024, checkpointing=True, joined=False, gib=5.8),
}
"""`kept`: no checkpointing. `short`: chats as they are, where padding costs most."""
REHEARSED = Setup("small", False, 2, 512, checkpointing=True, joined=True, gib=0)


def base_folder(work: Path, base: str) -> Path:
    return work / f"base-{base.removeprefix('qwen3-')}"


def rows_folder(work: Path, setup_name: str) -> Path:
    return work / f"rows-{setup_name}"


def is_made(work: Path, base: str) -> bool:
    """Whether the base and the rows of all its setups are there."""
    return all((rows_folder(work, name) / LENGTHS).exists() for name, setup in SETUPS.items() if setup.base == base)


def setup_of(setup_name: str) -> Setup:
    """The setup as this machine runs it: tiny in a rehearsal, but for what is to be rehearsed."""
    setup = SETUPS[setup_name]
    if has_cuda():
        return setup
    return REHEARSED._replace(load_in_4bit=setup.load_in_4bit, checkpointing=setup.checkpointing, base=setup.base)


def is_too_large(report: Report, setup: Setup, what: str) -> bool:
    """Whether this card has less memory than the setup is planned to take, which is noted: that is no failure."""
    if not has_cuda() or setup.gib * GIB <= Gpu("", card_bytes(), None).usable:
        return False
    report.needs(f"a card with {setup.gib} GiB for training", what)
    return True


def make_base_and_rows(report: Report, work: Path, base: str) -> None:
    """A base of random weights, and the rows of each setup that trains it as ids and labels."""
    from bench_train_base import make_base, make_rows
    from make_tiny_base import make_tiny_base

    smallest = min((setup for setup in SETUPS.values() if setup.base == base), key=lambda setup: setup.gib)
    if is_too_large(report, smallest, base):
        return
    folder = base_folder(work, base)
    if has_cuda():
        make_base(folder, base, ROWS)
    else:
        report.needs("CUDA", f"a base of {base}'s shape (a tiny one is made instead)")
        make_tiny_base(folder, ROWS, vocab_size=600, hidden_size=64, layers=2, replace=folder.exists())
    size = sum(file.stat().st_size for file in folder.iterdir())
    report.record(gigabytes=round(size / 1e9, 2))
    steps = STEPS if has_cuda() else REHEARSED_STEPS
    for name in [name for name, setup in SETUPS.items() if setup.base == base]:
        setup, rows = setup_of(name), rows_folder(work, name)
        shutil.rmtree(rows, ignore_errors=True)
        rows.mkdir()
        options = {"batch": setup.batch, "length": setup.max_length, "order": "file", "fill": setup.joined}
        tokens, trained = make_rows(rows, folder, ROWS, count=steps * setup.batch, **options)
        (rows / LENGTHS).write_text(json.dumps({"tokens": tokens, "trained": trained}), encoding="utf-8")
        report.record(**{f"mean tokens a row, {name}": round(sum(tokens) / len(tokens))})
    report.check("the base and its rows are there", is_made(work, base))


def train(report: Report, work: Path, setup_name: str, tool: str, kernels: str) -> None:
    """One tool's steps: seconds, tokens a second, memory; for govor also the plan beside what was measured."""
    from bench_train import run, speeds

    if not can_run(report, tool) or is_too_large(report, setup_of(setup_name), f"{report.name}'s steps"):
        return
    base, rows = base_folder(work, SETUPS[setup_name].base), rows_folder(work, setup_name)
    job = job_of(setup_of(setup_name), base, rows, liger=tool == "liger" and has_cuda())
    python = Path(sys.executable)
    if tool == "unsloth":
        python = unsloth_python()
        report.record(versions=versions_of(python, ("unsloth", "torch", "transformers", "trl")))
    out, runner = work / report.name, "trl" if tool == "liger" else tool
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    try:
        measured = run(runner, python, job, out, kernels or "off", threads=None if has_cuda() else 1)
    except ClickException as error:
        printed = (out / runner / "output.txt").read_text(encoding="utf-8", errors="replace")
        (report.folder / f"{report.name}.output.log").write_text(printed, encoding="utf-8")
        report.check("the training ends well", False, f"{error.message}: {' | '.join(printed.splitlines()[-3:])}")
        return
    lengths = json.loads((rows / LENGTHS).read_bytes())
    warm = WARM_STEPS if has_cuda() else REHEARSED_WARM_STEPS
    timed = speeds([measured], lengths, job, warm - 1)  # it leaves out the first step by itself
    logs = json.loads((out / runner / "report.json").read_bytes())["logs"]
    losses = [entry["loss"] for entry in logs if "loss" in entry]
    report.record(
        card=measured.device,
        date=time.strftime("%Y-%m-%d"),
        step_s=round(timed["step"], 4),
        tokens_per_s=round(timed["tokens"]),
        trained_tokens_per_s=round(timed["trained"]),
        model_flops_used=flops_used(base, lengths["tokens"], timed["tokens"], measured.device, job.r),
        first_loss=measured.loss,
        last_loss=losses[-1],
        first_grad_norm=measured.grad_norm,
        first_step_after_s=round(measured.first_step, 1),
        peak_allocated_gib=round(measured.peak / GIB, 3),
        peak_reserved_gib=round(measured.reserved / GIB, 3),
    )
    report.check("the losses are finite", all(math.isfinite(loss) and loss < 1e3 for loss in losses), str(losses[-1]))
    if tool == "govor":
        compare_with_plan(report, out / "govor", base, lengths["tokens"], kernels)


def can_run(report: Report, tool: str) -> bool:
    """Whether the tool is here; what is not, and what runs in its place, is noted."""
    if tool == "unsloth" and not (has_cuda() and unsloth_python().exists()):
        report.needs("CUDA and --unsloth ENV, an environment that has it", "Unsloth's steps")
        return False
    if tool == "liger" and not has_cuda():
        report.needs("CUDA", "Liger's kernels (plain TRL runs instead)")
    elif tool == "liger" and not find_spec("liger_kernel"):
        report.needs("liger-kernel", "TRL with Liger's kernels")
        return False
    return True


def unsloth_python() -> Path:
    """The interpreter that has Unsloth: an environment's own, for it wants older versions of what govor wants new."""
    return Path(os.environ.get(UNSLOTH_VARIABLE, "/no environment")) / "bin/python"


def versions_of(python: Path, names: Sequence[str]) -> dict[str, str]:
    """Versions of the packages that an interpreter has, by name."""
    program = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    asked = subprocess.run([python, "-c", program, *names], capture_output=True, text=True)
    return dict(zip(names, asked.stdout.split(), strict=False))


def job_of(setup: Setup, base: Path, rows: Path, *, liger: bool) -> Any:
    """The setup as bench_train's Job."""
    from bench_train import Job

    return Job(
        base=str(base),
        tokenized=str(rows / "tokenized"),
        rows=str(rows / "rows.jsonl"),
        cpu=not has_cuda(),
        steps=STEPS if has_cuda() else REHEARSED_STEPS,
        batch=setup.batch,
        max_length=setup.max_length,
        load_in_4bit=setup.load_in_4bit,
        checkpointing=setup.checkpointing,
        use_liger_kernel=liger,
    )


def flops_used(base: Path, lengths: list[int], tokens_per_s: float, card: str | None, r: int) -> float | None:
    """The share of the card's FLOP/s that the steps used; None for a card whose peak is not known."""
    from bench_train import PEAK
    from bench_train_base import model_flops

    peak = next((value for name, value in PEAK.items() if name in (card or "")), None)
    flops = model_flops(base, sum(lengths) / len(lengths), r)
    return round(flops * tokens_per_s / peak, 4) if peak else None


def compare_with_plan(report: Report, folder: Path, base: Path, lengths: list[int], kernels: str) -> None:
    """The memory that `govor plan` foresees beside what was allocated, and whether every kernel ran."""
    from train.core.config import load_config
    from train.plan.memory import memory, workload_of
    from train.plan.shapes import read_shapes

    config = load_config(folder / "bench.yaml")
    planned = memory(config, workload_of(config, read_shapes(base), lengths, []))
    manifest = json.loads((folder / "runs/bench/manifest.json").read_bytes())
    report.record(
        planned_gib=round(planned.peak / GIB, 3),
        planned_parts_gib={part: round(size / GIB, 3) for part, size in planned._asdict().items()},
        kernels=manifest["kernels"],
    )
    wanted = set() if kernels in ("off", "auto") else set(kernels.split(","))
    refused = sorted(wanted - set(manifest["kernels"]))
    report.check("the kernels that were asked for ran", not refused, f"refused: {refused}")
    if not has_cuda():
        report.needs("CUDA", "the plan's memory against what was allocated")
        return
    ratio = planned.peak / (report.figures["peak_allocated_gib"] * GIB)
    report.record(planned_over_allocated=round(ratio, 3))
    lowest, highest = PLAN_RATIO
    report.check(f"the plan is {lowest} to {highest} of what was allocated", lowest <= ratio <= highest, f"{ratio:.3f}")


def comparisons(figures: dict[str, dict[str, Any]]) -> Iterator[tuple[bool, str]]:
    """(whether it is as it should be, sentence): tools that trained what govor trained without kernels, and `auto`.

    `figures`: of every step, by its name, see `step_name`.
    """
    for setup in SETUPS:
        plain = figures.get(step_name(setup, *TOOLS[0]), {})
        for tool, kernels in TOOLS[1:]:
            other = figures.get(step_name(setup, tool, kernels), {})
            if (gap := loss_gap(plain, other)) is None:
                continue
            yield (
                gap.allowed,
                (
                    f"{step_name(setup, tool, kernels)}: first loss {gap.share:.1e} from govor's without kernels; "
                    f"{other['tokens_per_s'] / plain['tokens_per_s']:.2f} times its tokens/s, "
                    f"{other['peak_allocated_gib']} against {plain['peak_allocated_gib']} GiB"
                ),
            )
        speeds = [
            figures.get(step_name(setup, "govor", kernels), {}).get("tokens_per_s")
            for kernels in ("off", ALL_KERNELS, "auto")
        ]
        if None not in speeds:
            off, on, auto = speeds
            ratio = auto / max(off, on)
            sentence = f"{step_name(setup, 'govor', 'auto')}: {ratio:.2f} times the faster of all kernels and none"
            yield ratio >= AUTO_RATIO, sentence


class LossGap(NamedTuple):
    """How far a tool's first loss is from govor's, as a share of it; more than allowed, it did other work."""

    share: float
    allowed: bool


def loss_gap(plain: Mapping[str, Any], other: Mapping[str, Any]) -> LossGap | None:
    """The gap between the figures of govor without kernels and of another; None where one has none."""
    if "first_loss" not in plain or "first_loss" not in other:
        return None
    share = abs(other["first_loss"] - plain["first_loss"]) / plain["first_loss"]
    return LossGap(share, share < LOSS_TOLERANCE)


def step_name(setup: str, tool: str, kernels: str) -> str:
    return f"train-{setup}-{tool}" + {"": "", "off": "-off", "auto": "-auto", ALL_KERNELS: "-on"}[kernels]
