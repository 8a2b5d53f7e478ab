"""govor's verbs on the card, as a person types them: the demo, an 8 GB card, merge, eval, several processes."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from gpu_check.machine import REPOSITORY, end_with_children, has_cuda, median_seconds
from gpu_check.report import Report
from gpu_check.training_speed import ALL_KERNELS, base_folder

SFT = [sys.executable, str(REPOSITORY / "train/sft.py")]
GOVOR = [sys.executable, "-m", "train.cli"]
ROWS = REPOSITORY / "data/natasha.jsonl"
TINY_BASE = REPOSITORY / "data/tiny-ru"
SMALL_CARD_GIB = 7.4
"""What an 8 GB card has left beside CUDA's context."""
LAYERS = "lora.target_modules=all-linear"
"""Every linear layer, but not the head, which configs/tiny.yaml tunes as well."""
DEMOS: dict[str, list[str]] = {
    "bf16": [],
    "kernels": [LAYERS, f"training.kernels=[{ALL_KERNELS}]"],
    "nf4": [LAYERS, "model.load_in_4bit=true", "training.activation_checkpointing=true"],
    "fp16": [LAYERS, "training.fp16=true", "training.bf16=false", "model.dtype=float16"],
}
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
}
"""What configs/accelerate/fsdp2.yaml sets, for torch's own launcher."""


class Output(NamedTuple):
    exit_code: int
    text: str

    @property
    def lines(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.strip()]


def run_command(
    report: Report,
    what: str,
    command: Sequence[object],
    *,
    work: Path,
    limit: float,
    good_codes: Sequence[int] = (0,),
    environment: Mapping[str, str] | None = None,
) -> Output:
    """Run a command in `work`, `limit` seconds at most: its exit code is a check, its duration a figure."""
    started = time.perf_counter()
    words = [str(word) for word in command]
    log = report.folder / f"{report.name}.{what.replace(' ', '-')}.log"
    with log.open("wb") as printed:
        process = subprocess.Popen(
            words, cwd=work, env={**os.environ, **(environment or {})}, stdout=printed, stderr=subprocess.STDOUT
        )
        try:
            exit_code = process.wait(limit if has_cuda() else None)
        except subprocess.TimeoutExpired:
            end_with_children(process.pid)
            process.wait()
            exit_code = 124
    output = Output(exit_code, log.read_text(encoding="utf-8", errors="replace"))
    report.record(**{f"{what}, s": round(time.perf_counter() - started, 1)})
    detail = f"exit code {output.exit_code}: " + " | ".join(output.lines[-3:])
    report.check(what, output.exit_code in good_codes, detail)
    return output


def new_run(work: Path, name: str) -> Path:
    """A run folder's path, free."""
    run = work / "runs" / name
    shutil.rmtree(run, ignore_errors=True)
    return run


def few_steps(run: Path, steps: int, rehearsed_steps: int) -> list[str]:
    """Overrides that every training here has."""
    return [
        f"name={run.name}",
        f"data.train_file={ROWS}",
        f"training.max_steps={steps if has_cuda() else rehearsed_steps}",
        f"training.use_cpu={str(not has_cuda()).lower()}",
        f"generation.max_new_tokens={40 if has_cuda() else 3}",
        *([] if has_cuda() else ["data.eval_fraction=0.02", "training.per_device_train_batch_size=1"]),
    ]


def without_evaluation() -> list[str]:
    return ["training.eval_strategy=no", "training.eval_on_start=false", "training.save_strategy=no"]


def demo(report: Report, work: Path, kind: str) -> None:
    """configs/tiny.yaml on the card: the held-out loss falls; then merge and eval."""
    run = new_run(work, f"demo-{kind}")
    steps = 40 if has_cuda() else 4
    overrides = [
        *few_steps(run, 40, 4),
        f"model.name_or_path={TINY_BASE}",
        "model.dtype=auto",
        "training.eval_strategy=steps",
        f"training.eval_steps={steps}",
        *(DEMOS[kind] if has_cuda() or kind != "fp16" else DEMOS["bf16"]),
    ]
    if kind == "fp16" and not has_cuda():
        report.needs("CUDA", "float16 (float32 runs instead)")
    train = [*SFT, REPOSITORY / "configs/tiny.yaml", *overrides]
    if run_command(report, "train", train, work=work, limit=60).exit_code:
        return
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line["eval_loss"] for line in metrics if "eval_loss" in line]
    manifest = json.loads((run / "manifest.json").read_bytes())
    report.record(held_out_losses=losses, kernels=manifest["kernels"], device=manifest["processes"]["device"])
    if kind == "kernels":
        refused = sorted(set(ALL_KERNELS.split(",")) - set(manifest["kernels"]))
        report.check("the kernels that were asked for ran", not refused, f"refused: {refused}")
    allowed = losses[0] if has_cuda() else losses[0] + 0.05  # a few steps of one row teach nothing
    report.check("the held-out loss falls", losses[-1] < allowed, f"{losses[0]:.4f} → {losses[-1]:.4f}")
    if kind == "bf16":
        run_command(report, "merge", [*GOVOR, "merge", run], work=work, limit=60)
        run_command(report, "eval", [*GOVOR, "eval", run], work=work, limit=60)
    if kind == "nf4":
        run_command(report, "merge --compare", [*GOVOR, "merge", run, "--compare"], work=work, limit=60)


def limited_training(
    report: Report, work: Path, gib: float, what: str, *overrides: str, good_codes: Sequence[int] = (0,)
) -> Output:
    """configs/natasha.yaml over the random 4B, on a card that has `gib` GiB."""
    run = new_run(work, report.name)
    if not has_cuda():
        report.needs("CUDA", "a limit to the card's memory")
    command = [
        *(sys.executable, Path(__file__).with_name("limited_card.py"), gib, SFT[1]),
        *(REPOSITORY / "configs/natasha.yaml", f"model.name_or_path={base_folder(work, 'qwen3-4b')}"),
        *(*few_steps(run, 3, 1), *without_evaluation(), *overrides),
    ]
    return run_command(report, what, command, work=work, limit=55, good_codes=good_codes)


def small_card(report: Report, work: Path) -> None:
    """The 8 GB route trains."""
    output = limited_training(report, work, SMALL_CARD_GIB, "natasha.yaml on an 8 GB card")
    report.record(peak=[line for line in output.lines if line.startswith("peak allocated")])


def out_of_memory(report: Report, work: Path) -> None:
    """A batch that does not fit ends before the first step, in one line with numbers and a way out."""
    too_much = ["training.per_device_train_batch_size=64", "training.activation_checkpointing=false"]
    if not has_cuda():
        limited_training(report, work, 4.5, "training with memory to spare")
        return
    output = limited_training(report, work, 4.5, "an overrun card ends with exit code 2", *too_much, good_codes=(2,))
    line = next((line for line in output.lines if line.startswith("error:")), "")
    report.check("the line has numbers and a way out", "ran out of the GPU" in line and "try " in line, line)


def merge_and_eval_4b(report: Report, work: Path) -> None:
    """An adapter of natasha.yaml over the random 4B: merge, drift, eval, tokens a second of an answer."""
    run = new_run(work, "natasha-4b")
    base = f"model.name_or_path={base_folder(work, 'qwen3-4b')}"
    overrides = [base, *few_steps(run, 3, 2), *without_evaluation(), "training.learning_rate=1e-3"]
    train = [*SFT, REPOSITORY / "configs/natasha.yaml", *overrides]
    if run_command(report, "train", train, work=work, limit=50).exit_code:
        return
    run_command(report, "merge", [*GOVOR, "merge", run], work=work, limit=60)
    report.record(merge=json.loads((run / "manifest.json").read_bytes()).get("merge"))
    run_command(report, "eval", [*GOVOR, "eval", run], work=work, limit=60)
    with report.fail_on_error("an answer of base and adapter"):
        report.record(answer_tokens_per_s=round(answer_speed(work, run), 1))
        report.check("an answer of base and adapter", True)


def answer_speed(work: Path, run: Path) -> float:
    """Tokens a second of one greedy answer of base + adapter, as `govor chat` makes it."""
    from train.core.config import Generation
    from train.core.runs import Run
    from train.evaluation.generate import answer
    from train.models.load import load_tuned

    os.chdir(work)  # the run's paths are relative to it
    model, tokenizer = load_tuned(Run(run), use_cpu=not has_cuda())
    tokens = 64 if has_cuda() else 3
    model.generation_config.eos_token_id = None
    never = model.config.get_text_config().vocab_size - 1
    generation = Generation(max_new_tokens=tokens, do_sample=False)
    prompt: list[Any] = [{"role": "user", "content": "Как начать свой бизнес?"}]
    seconds = median_seconds(lambda: answer(model, tokenizer, prompt, generation, stop=[never]), repeat=2, warm=1)
    return tokens / seconds


def ddp(report: Report, work: Path) -> None:
    """One process under torch's launcher, as far as one card can show it."""
    run = new_run(work, "ddp")
    output = run_command(report, "train under ddp", launched(run, 1), work=work, limit=55)
    if output.exit_code == 0:
        report.check("an adapter is saved", (run / "adapter/adapter_model.safetensors").exists())


def fsdp2(report: Report, work: Path) -> None:
    """Two cards share a base in 16 bits; with fewer govor refuses FSDP in one line."""
    run = new_run(work, "fsdp2")
    if cards() < 2:
        report.needs("two CUDA cards", "FSDP2 (FSDP is refused instead)")
        refused = launched(run, 1)
        output = run_command(
            report, "FSDP is refused", refused, work=work, limit=55, good_codes=(1,), environment=FSDP2
        )
        line = next((line for line in output.lines if line.startswith("error:")), "")
        report.check("the line names FSDP", "FSDP needs GPUs" in line, line)
        return
    command = launched(run, 2)
    output = run_command(report, "train under fsdp2", command, work=work, limit=55, environment=FSDP2)
    if output.exit_code == 0:
        report.check("an adapter is saved", (run / "adapter/adapter_model.safetensors").exists())


def cards() -> int:
    import torch

    return torch.cuda.device_count()


def launched(run: Path, processes: int, *more: str) -> list[object]:
    """A few steps of configs/tiny.yaml under torch's launcher, which makes a group of even one process."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
    overrides = [*few_steps(run, 6, 2), *without_evaluation(), f"model.name_or_path={TINY_BASE}", "model.dtype=auto"]
    return [*launcher, SFT[1], REPOSITORY / "configs/tiny.yaml", *overrides, LAYERS, *more]


def gpu_tests(report: Report, work: Path) -> None:
    """The tests that need a card."""
    if not has_cuda():
        report.needs("CUDA", "the tests marked gpu")
        return
    run_tests(report, "tests/test_gpu.py", "-m", "gpu", limit=200)


def own_tests(report: Report, work: Path) -> None:
    """The tests of kernels and plan, with this machine's torch; conftest.py hides the card from them."""
    selection = [] if has_cuda() else ["-k", "test_a_kernel_computes_what_the_plain_path_does"]
    if not has_cuda():
        report.needs("CUDA", "all tests of kernels and plan (make test runs them here)")
    run_tests(report, "tests/tuning/test_kernels.py", "tests/plan/test_plan.py", *selection, limit=85)


def run_tests(report: Report, *arguments: str, limit: float) -> None:
    if find_spec("pytest") is None:
        report.needs("pytest", f"pytest {' '.join(arguments)}")
        return
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *arguments]
    run_command(report, "pytest", command, work=REPOSITORY, limit=limit)
