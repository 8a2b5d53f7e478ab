"""Both servers with two tuned models, as clients meet them: on loopback, with a key."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from make_tiny_base import make_tiny_base
from openai import OpenAI

from clients.install import FOLDER, REPOSITORY

KEY = "sk-clients"
PAGE = "http://page.example:8765"
"""Origin of the page that may talk to the servers."""
QUESTION = "Кто я?"
TALK = [
    ("Кто я?", "Ты Пётр, мой старый друг."),
    ("Что ты любишь?", "Тишину, чай и долгие письма."),
    ("Где ты живёшь?", "В Твери, у самой реки."),
    ("Я устал.", "Ложись спать, завтра поговорим."),
]
ALIAS = "gpt-4o-mini-2024-07-18"
TRAINING = {"use_cpu": True, "learning_rate": 0.005, "activation_checkpointing": False, "max_length": 256}
GENERATION = {"max_new_tokens": 60, "do_sample": False, "repetition_penalty": 1.0}


@dataclass(frozen=True)
class Address:
    """A server, and what clients may ask it for."""

    name: str
    url: str
    model: str
    other_model: str
    base: str | None
    """The name of a base that jobs may tune; None where the server takes none."""
    rows: Path
    expected: str
    """The model's greedy answer to QUESTION, by a plain request."""


def running_servers() -> Iterator[Address]:
    """`govor jobs serve`, which tunes two models, then `govor serve` with both; each as long as it is worked with."""
    folder = FOLDER / "servers" / time.strftime("%Y-%m-%d-%H%M%S")
    folder.mkdir(parents=True)
    rows, many = folder / "rows.jsonl", folder / "many.jsonl"
    rows.write_text(_rows(3), encoding="utf-8")
    many.write_text(_rows(40), encoding="utf-8")
    make_tiny_base(folder / "base", rows, vocab_size=600, hidden_size=128, layers=2)
    overrides = {"model": {"dtype": "float32"}, "training": TRAINING, "generation": GENERATION}
    bases = {"tiny": {"base": str(folder / "base"), "aliases": [ALIAS], "overrides": overrides}}
    (folder / "catalogue.yaml").write_text(yaml.safe_dump(bases), encoding="utf-8")
    words = ["jobs", "serve", "--data-dir", str(folder / "data"), "--catalogue", str(folder / "catalogue.yaml")]
    with _server(folder, words) as url:
        with OpenAI(base_url=url, api_key=KEY, max_retries=30, timeout=600) as client:
            models, runs = zip(*[_tuned(client, folder, many, epochs) for epochs in (3, 1)], strict=True)
            other = _answer(client, models[1])  # the first model is loaded last, since most questions are put to it
            expected = _answer(client, models[0])
        print(f"tuned: {expected!r} and {other!r}", flush=True)
        yield Address("jobs serve", url, *models, ALIAS, rows, expected)
    with _server(folder, ["serve", *map(str, runs)]) as url:
        yield Address("serve", url, *(run.name for run in runs), None, rows, expected)


def _rows(variants: int) -> str:
    """TALK in so many variants, as training rows."""
    lines = []
    for question, answer in TALK * variants:
        messages = [
            {"role": "user", "content": f"{question} {len(lines) // len(TALK) or ''}".strip()},
            {"role": "assistant", "content": answer},
        ]
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False))
    return "\n".join(lines) + "\n"


@contextmanager
def _server(folder: Path, words: Sequence[str]) -> Iterator[str]:
    """The address of a server of govor's as long as it is needed; its log lies in the folder."""
    command = [sys.executable, "-m", "train.cli", *words, "--port", "0", "--allow-origin", PAGE]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "GOVOR_API_KEY": KEY, "HF_HUB_OFFLINE": "1"}
    with (folder / f"{words[0]}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.search(r"API on (http://\S+/v1)", line):
                yield found[1]
                return
        sys.exit(f"error: {' '.join(words)} did not start: {folder}/{words[0]}.log")
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def _tuned(client: OpenAI, folder: Path, rows: Path, epochs: int) -> tuple[str, Path]:
    """(name, run folder) of a model that is tuned; after 3 epochs it knows its rows."""
    with rows.open("rb") as contents:
        file = client.files.create(file=contents, purpose="fine-tune")
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": 8}}}
    job = client.fine_tuning.jobs.create(
        model=ALIAS,
        training_file=file.id,
        suffix=f"Наташа {epochs}",
        seed=1,
        method=method,  # type: ignore[arg-type]
    )
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(1)
        job = client.fine_tuning.jobs.retrieve(job.id)
    if job.fine_tuned_model is None:
        sys.exit(f"error: the job {job.status}: {job.error}")
    return job.fine_tuned_model, folder / "data/runs" / job.id


def _answer(client: OpenAI, model: str) -> str:
    messages = [{"role": "user", "content": QUESTION}]
    answer = client.chat.completions.create(model=model, messages=messages, temperature=0)  # type: ignore[arg-type]
    return answer.choices[0].message.content or ""
