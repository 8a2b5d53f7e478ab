"""The `openai` command line, which the Python SDK had up to its line 1.x: answers, files, jobs."""

import json
import subprocess
import sys
import time
from pathlib import Path

from attempt import BASE, MODEL, QUESTION, ROWS, attempt


def cli(*words: str) -> str:
    command = [Path(sys.executable).with_name("openai"), "api", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or done.stdout.strip())
    return done.stdout.strip()


def chat():
    return cli("chat.completions.create", "-m", MODEL, "-g", "user", QUESTION, "-t", "0")


def stream():
    return cli("chat.completions.create", "-m", MODEL, "-g", "user", QUESTION, "-t", "0", "--stream")


def completions():
    return cli("completions.create", "-m", MODEL, "-p", QUESTION, "-t", "0").removeprefix(QUESTION).strip()


def models():
    """It prints the models one behind the other, which is no JSON."""
    listed = cli("models.list")
    assert json.dumps(MODEL) in listed
    return {"models": listed.count('"object": "model"')}


def files():
    """Created and listed: `files.retrieve` and `files.delete` of 1.109 want a file to upload, and always fail."""
    file = json.loads(cli("files.create", "-f", ROWS, "-p", "fine-tune"))["id"]
    assert file in cli("files.list")
    return file


def jobs():
    file = json.loads(cli("files.create", "-f", ROWS, "-p", "fine-tune"))["id"]
    job = json.loads(cli("fine_tuning.jobs.create", "-m", BASE, "-F", file, "-H", '{"n_epochs": 1}'))
    while job["status"] not in ("succeeded", "failed", "cancelled"):
        time.sleep(2)
        job = json.loads(cli("fine_tuning.jobs.retrieve", "-i", job["id"]))
    assert job["status"] == "succeeded", job["error"]
    assert "successfully completed" in cli("fine_tuning.jobs.list_events", "-i", job["id"])
    return job["status"]


attempt(chat, stream, completions, models, *([files, jobs] if BASE else []))
