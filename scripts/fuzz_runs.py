"""Damages run folders, configs and adapters, and gives each to a verb: one line that names the file is right.

    python scripts/fuzz_runs.py [--each 100] [--processes 50] [--seed 0]

A finding is a traceback, an "(unexpected" or more than 10 seconds. In-process each verb gets `--each` folders, and
`--processes` folders go to real processes. Ends with the counts, and with exit code 1 if there was a finding.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "scripts")]

import click  # noqa: E402
import yaml  # noqa: E402
from click.testing import CliRunner  # noqa: E402
from make_tiny_base import make_tiny_base  # noqa: E402

from train.cli import main as govor  # noqa: E402
from train.core.config import load_config  # noqa: E402
from train.core.errors import GovorError  # noqa: E402
from train.core.runs import open_run  # noqa: E402
from train.merging.merge import merge  # noqa: E402
from train.serving.choose_engine import served_models  # noqa: E402
from train.serving.prompt_check import probes  # noqa: E402
from train.sft import train  # noqa: E402

SECONDS = 10
"""Longer than that a verb may not take over so small a model."""
VERBS: dict[str, list[str]] = {
    "chat": ["chat", "RUN", "--prompt", "Кто я?"],
    "chat --merged": ["chat", "RUN", "--merged", "--prompt", "Кто я?"],
    # Few answers, since a config cut short is a whole one, whose answers may be of 400 tokens
    "eval": ["eval", "RUN", "--samples", "4"],
    "merge": ["merge", "RUN", "--force", "--no-drift"],
    "export": ["export", "RUN", "--to", "llamafactory", "--force"],
    "push": ["push", "RUN", "a/b", "--dry-run", "--base", "x/y", "--license", "mit"],
    "push --merged": ["push", "RUN", "a/b", "--merged", "--dry-run", "--base", "x/y", "--license", "mit"],
    "inspect": ["inspect", "CONFIG"],
    "plan": ["plan", "CONFIG"],
    "train --resume": ["train", "CONFIG", "--resume"],
    "serve": [],
}
PROCESS_VERBS = ("chat", "eval", "merge", "export", "push", "inspect", "plan", "train --resume", "ollama", "gguf")
"""What real processes run; the last two are too slow for hundreds."""
VERBS_OF_PROCESSES = {
    **VERBS,
    "ollama": ["export", "RUN", "--to", "ollama", "--force"],
    "gguf": ["export", "RUN", "--to", "gguf", "--force"],
}
VALUES = [
    *(None, True, False, 0, -1, 1, 2**31, 10**30, 0.5, float("nan"), float("inf"), "", "x", "\ud83d", "a" * 10_000),
    *("../..", "\0", [], [None], [1, 2], ["x"], {}, {"x": 1}, {"": None}, [[[[[]]]]]),
]
BYTES = [
    *(b"", b"\0", b"\xff\xfe", b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"NaN", b"1e999", b"\n", b"true"),
    *(b"[" * 3000, b"\xed\xa0\x80", b"{{", b"{%", b"- &a [*a]\n", b"9" * 5000),
]


class TooLong(BaseException):
    """Not an Exception: nothing catches it."""


def damage_tree(tree: Any, dice: random.Random) -> Any:
    """One value of a JSON or YAML tree replaced, dropped, renamed or doubled."""
    if isinstance(tree, dict) and tree and dice.random() < 0.85:
        key = dice.choice(list(tree))
        match dice.choice(("deeper", "deeper", "deeper", "drop", "replace", "rename")):
            case "deeper":
                tree[key] = damage_tree(tree[key], dice)
            case "drop":
                del tree[key]
            case "replace":
                tree[key] = dice.choice(VALUES)
            case _:
                tree[f"{key}x"] = tree.pop(key)
        return tree
    if isinstance(tree, list) and tree and dice.random() < 0.6:
        at = dice.randrange(len(tree))
        tree[at] = damage_tree(tree[at], dice)
        return tree
    return dice.choice(VALUES)


def damage_bytes(data: bytes, dice: random.Random) -> bytes:
    """A few bytes cut, flipped or put in."""
    for _ in range(dice.choice((1, 1, 2, 5))):
        at = dice.randrange(len(data) + 1) if dice.random() < 0.5 else dice.randrange(min(len(data), 200) + 1)
        match dice.choice(("cut", "drop", "put", "flip")):
            case "cut":
                data = data[:at]
            case "drop":
                data = data[:at] + data[at + dice.randrange(1, 50) :]
            case "put":
                data = data[:at] + dice.choice(BYTES) + data[at:]
            case _:
                data = data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]
    return data


def damage(file: Path, dice: random.Random) -> None:
    """Damage a file in one of many ways."""
    way = dice.choice(("tree", "tree", "tree", "bytes", "bytes", "gone", "empty", "folder"))
    if way == "tree":
        try:
            text = file.read_text(encoding="utf-8")
            if file.suffix == ".yaml":
                file.write_text(yaml.safe_dump(damage_tree(yaml.safe_load(text), dice)), encoding="utf-8")
                return
            if file.suffix == ".json" or file.name.startswith("."):
                file.write_text(json.dumps(damage_tree(json.loads(text), dice)), encoding="utf-8")
                return
            if file.suffix == ".jsonl" and (lines := text.splitlines()):
                at = dice.randrange(len(lines))
                lines[at] = json.dumps(damage_tree(json.loads(lines[at]), dice))
                file.write_text("\n".join(lines) + "\n", encoding="utf-8")
                return
        except (ValueError, yaml.YAMLError):
            pass
        way = "bytes"
    match way:
        case "bytes":
            file.write_bytes(damage_bytes(file.read_bytes(), dice))
        case "gone":
            file.unlink()
        case "empty":
            file.write_bytes(b"")
        case _:
            file.unlink()
            file.mkdir()


def make_run(folder: Path) -> Path:
    """A finished, merged and evaluated run in folder/runs/whole."""
    rows = folder / "rows.jsonl"
    pairs = [(f"Сколько будет {n}?", f"Будет {n * 7}, а что?") for n in range(12)]
    messages = [[{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in pairs]
    rows.write_text(
        "".join(json.dumps({"messages": one}, ensure_ascii=False) + "\n" for one in messages), encoding="utf-8"
    )
    make_tiny_base(folder / "base", rows, vocab_size=400, hidden_size=32, layers=1)
    tree = {
        "name": "whole", "model": {"name_or_path": str(folder / "base"), "dtype": "float32"},
        "data": {"train_file": str(rows), "eval_fraction": 0.2}, "lora": {"r": 2, "lora_alpha": 4},
        "training": {"use_cpu": True, "max_steps": 2, "save_strategy": "steps", "save_steps": 1, "logging_steps": 1,
                     "max_length": 128, "activation_checkpointing": False},
        "generation": {"max_new_tokens": 2}, "prompts": ["Кто ты?"],
    }  # fmt: skip
    config = folder / "whole.yaml"
    config.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    run = train(load_config(config))
    merge(run)
    from train.evaluation.evaluate import evaluate

    evaluate(run)
    return folder / run.path


def prepare_to_serve(run: Path) -> None:
    """Everything of `govor serve` but the engine's start."""
    for served in served_models([open_run(run)], engine="transformers"):
        probes(served.run)


def in_process(arguments: list[str], run: Path) -> tuple[int, str]:
    """(exit code, output) of a verb in this process; TooLong after SECONDS."""

    def too_long(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        if arguments:
            result = CliRunner().invoke(govor, arguments, catch_exceptions=True)
            wild = result.exception is not None and not isinstance(result.exception, SystemExit)
            return (99 if wild else result.exit_code), f"{result.output}{result.exception!r}" if wild else result.output
        from train.core.errors import one_line_errors

        def serve() -> None:
            with one_line_errors():
                prepare_to_serve(run)

        result = CliRunner().invoke(click.command()(serve), [])
        return result.exit_code, result.output
    finally:
        signal.alarm(0)


def in_a_process(arguments: list[str], run: Path) -> tuple[int, str]:
    """(exit code, output) of a verb in a process of its own; TooLong after SECONDS and what a start takes here."""
    command = [sys.executable, "-m", "train.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    slow = 60 if "--to" in arguments or "train" in arguments else 30
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment,
                              timeout=SECONDS + slow, stdin=subprocess.DEVNULL)  # fmt: skip
    except subprocess.TimeoutExpired:
        raise TooLong from None
    return done.returncode, done.stdout + done.stderr


def finding(code: int, output: str) -> str | None:
    """What is wrong with how a verb has ended; None where nothing is."""
    if "Traceback (most recent" in output:
        return "a traceback"
    if "(unexpected" in output:
        return next(line for line in output.splitlines() if "(unexpected" in line)[:300]
    return None if code in (0, 1, 2) else f"exit code {code}: {output[-300:]}"


def one(whole: Path, verb: str, arguments: list[str], dice: random.Random, run: Callable[..., Any]) -> str | None:
    """Damage a copy of the run and give it to a verb; the finding, if there is one."""
    copy = whole.with_name("damaged")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    config = whole.parents[1] / "damaged.yaml"
    shutil.rmtree(config, ignore_errors=True)  # a folder, where the last one was damaged so
    shutil.copyfile(copy / "config.yaml", config)
    config.write_text(config.read_text(encoding="utf-8").replace("name: whole", "name: damaged"), encoding="utf-8")
    if verb == "train --resume":  # as a kill after the last step's checkpoint leaves it
        shutil.rmtree(copy / "adapter")
        shutil.rmtree(copy / "merged")
        text = (copy / "config.yaml").read_text(encoding="utf-8")
        (copy / "config.yaml").write_text(text.replace("name: whole", "name: damaged"), encoding="utf-8")
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    if verb in ("inspect", "plan"):
        files = [config]
    damaged = dice.choice([*files, *[file for file in files if file.parent == copy]])
    damage(damaged, dice)
    arguments = [str(copy) if word == "RUN" else str(config) if word == "CONFIG" else word for word in arguments]
    try:
        found = finding(*run(arguments, copy))
    except TooLong:
        found = f"more than {SECONDS} s"
    return f"{verb}, {damaged.relative_to(whole.parents[1])}: {found}" if found else None


@click.command()
@click.option("--each", default=100, show_default=True, help="Damaged folders for each verb, in this process.")
@click.option("--processes", default=50, show_default=True, help="Damaged folders given to real processes.")
@click.option("--seed", default=0, show_default=True)
@click.option("--verb", "only", multiple=True, help="This verb alone; may be repeated.")
def main(each: int, processes: int, seed: int, only: tuple[str, ...]) -> None:
    """Run all of it in a temporary folder."""
    began, counts, findings = time.monotonic(), Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        whole = make_run(Path(temporary))
        jobs = [(verb, VERBS[verb], in_process) for verb in VERBS for _ in range(each) if verb != "train --resume"]
        names = [PROCESS_VERBS[number % len(PROCESS_VERBS)] for number in range(processes)]
        jobs += [(verb, VERBS_OF_PROCESSES[verb], in_a_process) for verb in names]
        for number, (verb, arguments, run) in enumerate(jobs):
            if only and verb not in only:
                continue
            found = one(whole, verb, arguments, random.Random(f"{seed} {number}"), run)
            counts[verb if run is in_process else "processes"] += 1
            if found:
                findings.append(found)
                print(f"seed {seed} number {number}: {found}", file=sys.stderr, flush=True)
        os.chdir(REPOSITORY)
    print(f"{dict(counts)}: {len(findings)} findings in {time.monotonic() - began:.0f} s, seed {seed}")
    raise SystemExit(1 if findings else 0)


if __name__ == "__main__":
    try:
        main()
    except GovorError as error:
        raise SystemExit(f"error: {error}") from None
