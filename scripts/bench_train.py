"""Trains the same rows with govor, plain TRL and LLaMA-Factory, side by side in one run: a table and a plot.

    python scripts/bench_train.py OUT [--llamafactory ENV] [--unsloth ENV] [--shape qwen3-8b] [--rounds 3] [--steps 30]

Every tool gets the same ids and labels in the same order (govor makes them from the rows as it always does, the others
get them ready-made), the same adapter, optimizer and precision; each run is a process of its own, the tools take turns.
A run counts only if its first loss and gradient norm agree with govor's. OUT gets bench.md, bench.svg, bench.json.

Without a GPU the base is a small Qwen3 made on the spot, in float32. With one, `--shape` makes Qwen3-4B's or 8B's
shapes with random weights, and rows are joined until they fill `--max-length`. Peers have environments of their own:
ENV is the folder of a virtual environment. What was not run is marked as not measured.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import yaml
from bench_train_base import make_base, make_rows, model_flops

from train.core.files import MARKER

TOOLS = {"govor": "govor", "trl": "plain TRL", "llamafactory": "LLaMA-Factory", "unsloth": "Unsloth"}
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "RTX 4090": 165e12}
"""Dense bfloat16 FLOP/s, by what the device is called."""
GPU_ROWS = ("H100, Qwen3-8B bf16, 2 × 4096", "H100, Qwen3-8B NF4, 1 × 2048")
NAMES = ("step", "processor", "first", "total", "cpu", "peak")
"""Figures that are compared with govor's, see `speeds`."""
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Job:
    """What every tool is asked to do; bench_train_worker.py reads it."""

    base: str
    tokenized: str
    """Folder of the ids and labels, for the peers."""
    rows: str
    cpu: bool
    steps: int
    batch: int
    max_length: int
    load_in_4bit: bool
    checkpointing: bool
    r: int = 16
    lora_alpha: int = 32
    learning_rate: float = LEARNING_RATE
    logging_steps: int = 1
    use_liger_kernel: bool = False
    """Whether plain TRL runs with Liger's kernels; no other tool has the option."""


@dataclass
class Measured:
    """One run of one tool. Seconds, bytes."""

    tool: str
    total: float
    """From the start of the process to its end."""
    first_step: float
    """From the start of the process to the end of the first step."""
    steps: list[float]
    """Length of every step but the first."""
    processor: list[float]
    """Length of every step but the first, in seconds of the processor."""
    peak: int
    """GPU memory allocated at most; on a CPU the process's."""
    cpu: float
    """Processor seconds of the whole process: what a busy machine distorts least."""
    loss: float
    grad_norm: float
    reserved: int = 0
    device: str | None = None
    load: float = field(default_factory=lambda: os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0)


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--llamafactory", type=click.Path(path_type=Path, exists=True), help="Its virtual environment.")
@click.option("--unsloth", type=click.Path(path_type=Path, exists=True), help="Its virtual environment.")
@click.option("--shape", default="small", type=click.Choice(["small", "qwen3-4b", "qwen3-8b"]))
@click.option("--load-in-4bit", is_flag=True, help="Hold the base in NF4.")
@click.option("--checkpointing", is_flag=True, help="Recompute activations.")
@click.option("--rows", type=click.Path(path_type=Path, exists=True), default=Path("data/natasha.jsonl"))
@click.option("--order", default="file", type=click.Choice(["file", "length"]), help="Rows as they come, or by length.")
@click.option("--max-length", default=1024)
@click.option("--batch", default=4)
@click.option("--steps", default=30)
@click.option("--warm", default=10, help="Steps that are not timed.")
@click.option("--rounds", default=3)
@click.option("--threads", type=int, help="Processor threads of each tool; all cores unless given.")
@click.option("--kernels", default="auto", help="govor's training.kernels: auto, off, or names with commas.")
def main(
    out: Path,
    llamafactory: Path | None,
    unsloth: Path | None,
    shape: str,
    load_in_4bit: bool,
    checkpointing: bool,
    rows: Path,
    order: str,
    max_length: int,
    batch: int,
    steps: int,
    warm: int,
    rounds: int,
    threads: int | None,
    kernels: str,
) -> None:
    """Measure into the folder OUT."""
    import torch

    if steps < warm + 2:
        raise click.UsageError("--steps must be at least --warm + 2")
    cpu = not torch.cuda.is_available()
    if cpu and shape != "small":
        raise click.ClickException(f"--shape {shape} needs a GPU, and torch sees none")
    claim(out)
    base = make_base(out / "base", shape, Path("data/natasha.jsonl"))
    lengths, trained = make_rows(
        out, base, rows, count=steps * batch, batch=batch, length=max_length, order=order, fill=shape != "small"
    )
    job = Job(
        str(base.resolve()), str((out / "tokenized").resolve()), str((out / "rows.jsonl").resolve()),
        cpu, steps, batch, max_length, load_in_4bit, checkpointing,
    )  # fmt: skip
    pythons = {"govor": Path(sys.executable), "trl": Path(sys.executable)}
    for name, environment in (("llamafactory", llamafactory), ("unsloth", unsloth)):
        if environment:
            pythons[name] = environment.absolute() / "bin/python"
    found: dict[str, list[Measured]] = {tool: [] for tool in pythons}
    for number in range(rounds):
        for tool, python in pythons.items():
            found[tool].append(run(tool, python, job, out, kernels, threads))
            one = found[tool][-1]
            speed = (
                f"{one.total:.1f} s, first step after {one.first_step:.1f} s, then {statistics.median(one.steps):.3f} s"
            )
            print(f"round {number + 1}, {TOOLS[tool]}: {speed}; loss {one.loss:.6f}, load {one.load:.1f}", flush=True)
            save(out, job, found)
    flops = model_flops(base, sum(lengths) / len(lengths), job.r)
    rates = {"tokens": lengths, "trained": trained}
    table = report(found, job, rates, warm, flops, " ".join(sys.argv[1:]))
    (out / "bench.md").write_text(table, encoding="utf-8")
    plot(found, rates, job, warm, out / "bench.svg")
    print(table)


def claim(out: Path) -> None:
    """Make OUT, or take one that an earlier measurement made: what stands in it is replaced."""
    if out.exists() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise click.ClickException(f"{out} holds other files: name an empty or a new folder")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()


def run(tool: str, python: Path, job: Job, out: Path, kernels: str, threads: int | None) -> Measured:
    """One process, begun and ended."""
    folder = out / tool
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    spec = asdict(job) | {"out": str(folder / "adapter"), "govor_config": str(folder.resolve() / "bench.yaml")}
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    (folder / "bench.yaml").write_text(yaml.safe_dump(govor_config(job, kernels)), encoding="utf-8")
    worker, report_file = Path(__file__).with_name("bench_train_worker.py").resolve(), folder.resolve() / "report.json"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DISABLE_VERSION_CHECK": "1"}
    environment.pop("OMP_NUM_THREADS", None)
    if threads:  # train/sft.py takes a plain 1 for what `accelerate launch` sets unasked
        environment["OMP_NUM_THREADS"] = f"{threads:02}"
    started = time.time()
    with (folder / "output.txt").open("w") as log:
        process = subprocess.Popen(
            [str(python), str(worker), tool, "spec.json", str(report_file)],
            cwd=folder, stdout=log, stderr=log, env=environment,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
    ended = time.time()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or not report_file.exists():
        raise click.ClickException(f"{TOOLS[tool]} failed, see {folder / 'output.txt'}")
    reported = json.loads(report_file.read_text(encoding="utf-8"))
    return measured(tool, reported, started, ended, usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime)


def measured(tool: str, report: dict[str, Any], started: float, ended: float, peak: int, cpu: float) -> Measured:
    """What a worker's report says."""
    ends, first = report["steps"], next(entry for entry in report["logs"] if "loss" in entry)
    memory = report["memory"] or {"allocated": peak, "reserved": 0}
    return Measured(
        tool,
        ended - started,
        ends[0] - started,
        [after - before for before, after in pairwise(ends)],
        [after - before for before, after in pairwise(report["processor"])],
        memory["allocated"],
        cpu,
        first["loss"],
        first["grad_norm"],
        memory["reserved"],
        report["device"],
    )


def govor_config(job: Job, kernels: str) -> dict[str, Any]:
    """The job as a config of ours; the order of the rows is the file's."""
    return {
        "name": "bench",
        "model": {"name_or_path": job.base, "load_in_4bit": job.load_in_4bit},
        "data": {"train_file": job.rows, "eval_fraction": 0},
        "lora": {"r": job.r, "lora_alpha": job.lora_alpha},
        "training": {
            "use_cpu": job.cpu,
            "kernels": kernels if kernels in ("auto", "off") else kernels.split(","),
            "train_sampling_strategy": "sequential",
            "max_steps": job.steps,
            "per_device_train_batch_size": job.batch,
            "max_length": job.max_length,
            "learning_rate": job.learning_rate,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "activation_checkpointing": job.checkpointing,
            "logging_steps": job.logging_steps,
            "save_strategy": "no",
        },
    }


def speeds(runs: list[Measured], rates: dict[str, list[int]], job: Job, warm: int) -> dict[str, float]:
    """Medians over the rounds: seconds, bytes, tokens a second of the timed steps."""
    counted = {kind: sum(numbers[(warm + 1) * job.batch : job.steps * job.batch]) for kind, numbers in rates.items()}
    timed = [sum(one.steps[warm:]) for one in runs]
    middle = statistics.median
    return {
        "step": middle(statistics.median(one.steps[warm:]) for one in runs),
        "processor": middle(statistics.mean(one.processor[warm:]) for one in runs),
        "first": middle(one.first_step for one in runs),
        "total": middle(one.total for one in runs),
        "cpu": middle(one.cpu for one in runs),
        "peak": middle(one.peak for one in runs),
        "trained": counted["trained"] / middle(timed),
        "tokens": counted["tokens"] / middle(timed),
    }


def disagreement(one: Measured, ours: Measured) -> str | None:
    """Why the run did other work than govor's; the adapters' first weights are random, so gradients agree roughly."""
    if abs(one.loss - ours.loss) > 1e-4 * ours.loss * (1 if one.device is None else 50):
        return f"first loss {one.loss:.5f}, govor's {ours.loss:.5f}"
    if not 0.8 < one.grad_norm / ours.grad_norm < 1.25:
        return f"first gradient norm {one.grad_norm:.4f}, govor's {ours.grad_norm:.4f}"
    return None


def report(
    found: dict[str, list[Measured]], job: Job, rates: dict[str, list[int]], warm: int, flops: float, arguments: str
) -> str:
    """The table, in Markdown."""
    ours = found["govor"][0]
    device = ours.device or f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    peak = next((value for name, value in PEAK.items() if name in (ours.device or "")), None)
    loads = [one.load for runs in found.values() for one in runs]
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {device}, load {min(loads):.1f} to {max(loads):.1f}; "
        f"{len(found['govor'])} rounds, medians; {job.steps} steps of {job.batch} rows, LoRA r {job.r}, "
        f"first loss {ours.loss:.6f}",
        "",
        f"    python scripts/bench_train.py {arguments}",
        "",
        "| Tool | Trained tokens/s | Tokens/s | Step, s | Step, CPU s | First, s | Job, s | Job, CPU s | GB | MFU |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    best = speeds(found["govor"], rates, job, warm)
    for tool, runs in found.items():
        it = speeds(runs, rates, job, warm)
        wrong = next((why for one in runs if (why := disagreement(one, ours))), None)
        if wrong:
            lines.append(f"| {TOOLS[tool]} | not valid: {wrong} | | | | | | | | |")
            continue
        mfu = f"{flops * it['tokens'] / peak:.1%}" if peak else "not measured"
        ratio = [f" ({best[name] / it[name]:.2f})" if tool != "govor" else "" for name in NAMES]
        lines.append(
            f"| {TOOLS[tool]} | {it['trained']:,.0f} | {it['tokens']:,.0f} | {it['step']:.3f}{ratio[0]} | "
            f"{it['processor']:.3f}{ratio[1]} | {it['first']:.1f}{ratio[2]} | {it['total']:.1f}{ratio[3]} | "
            f"{it['cpu']:.1f}{ratio[4]} | {it['peak'] / 1e9:.2f}{ratio[5]} | {mfu} |"
        )
    lines += [f"| {TOOLS[tool]} | not measured | | | | | | | | |" for tool in TOOLS if tool not in found]
    if job.cpu:
        lines += [f"| {row}, any tool | not measured | | | | | | | | |" for row in GPU_ROWS]
    return "\n".join([*lines, "", "In brackets: govor's figure as a share of this one.", ""])


def save(out: Path, job: Job, found: dict[str, list[Measured]]) -> None:
    tree = {"job": asdict(job), "runs": {tool: [asdict(one) for one in runs] for tool, runs in found.items()}}
    (out / "bench.json").write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def plot(found: dict[str, list[Measured]], rates: dict[str, list[int]], job: Job, warm: int, file: Path) -> None:
    import matplotlib.pyplot as plt

    panels = {
        "Trained tokens/s": ("trained", 1.0), "First step after, s": ("first", 1.0),
        "Whole job, s": ("total", 1.0), "Peak memory, GB": ("peak", 1e-9),
    }  # fmt: skip
    figure, axes = plt.subplots(1, len(panels), figsize=(12, 2.6), layout="constrained")
    names = [TOOLS[tool] for tool in found]
    for axis, (title, (name, unit)) in zip(axes, panels.items(), strict=True):
        values = [speeds(runs, rates, job, warm)[name] * unit for runs in found.values()]
        bars = axis.barh(names, values, color=["#2a6fdb", *["#b8c0cc"] * (len(names) - 1)])
        axis.bar_label(bars, fmt="%.3g", padding=2)
        axis.set_title(title, fontsize=10)
        axis.invert_yaxis()
        axis.margins(x=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)
    plt.close(figure)


if __name__ == "__main__":
    main()
