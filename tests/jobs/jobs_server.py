"""A jobs server of its own process on loopback, and strict readings of its answers."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import yaml
from openai import OpenAI
from openai.types import FileObject, Model, Upload
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from openai.types.uploads import UploadPart

ONE_THREAD = {"OMP_THREAD_LIMIT": "1", "OMP_NUM_THREADS": "1"}  # two threads of a tiny model wait for each other
ALIASES = ["gpt-4o-mini-2024-07-18", "gpt-4-turbo", "moonshot-v1-8k", "gemini-1.5-pro-002"]
ENDED = ("succeeded", "failed", "cancelled")
KEYS = {
    "fine_tuning.job": {
        *("id", "object", "created_at", "error", "finished_at", "fine_tuned_model", "hyperparameters", "model"),
        *("organization_id", "result_files", "status", "trained_tokens", "training_file", "validation_file", "seed"),
        *("estimated_finish", "integrations", "metadata", "method"),
    },
    "fine_tuning.job.event": {"id", "object", "created_at", "level", "message", "data", "type"},
    "fine_tuning.job.checkpoint": {
        *("id", "object", "created_at", "fine_tuned_model_checkpoint", "fine_tuning_job_id", "step_number", "metrics"),
    },
    "file": {"id", "object", "bytes", "created_at", "filename", "purpose", "status"},
    "model": {"id", "object", "created", "owned_by"},
    "upload": {"id", "object", "bytes", "created_at", "expires_at", "filename", "purpose", "status"},
    "upload.part": {"id", "object", "created_at", "upload_id"},
}
"""Object → the keys that the reference requires."""
TYPES = {
    "fine_tuning.job": FineTuningJob,
    "fine_tuning.job.event": FineTuningJobEvent,
    "fine_tuning.job.checkpoint": FineTuningJobCheckpoint,
    "file": FileObject,
    "model": Model,
    "upload": Upload,
    "upload.part": UploadPart,
}
IDS = {
    "fine_tuning.job": r"ftjob-\w{24}",
    "fine_tuning.job.event": r"ftevent-\w{24}",
    "fine_tuning.job.checkpoint": r"ftckpt_\w{24}",
    "file": r"file-\w{24}",
    "model": r".+",
    "upload": r"upload_\w{24}",
    "upload.part": r"part_\w{24}",
}


def strict(answer: dict) -> dict:
    """The answer itself, once it has passed as what it says it is; a list with all its members."""
    if answer["object"] == "list":
        assert answer.keys() <= {"object", "data", "has_more", "first_id", "last_id"}
        for item in answer["data"]:
            strict(item)
        return answer
    kind = answer["object"]
    checked = dict(answer)
    if answer.get("status") == "paused" or answer.get("purpose") == "evals":  # the SDK sends them and has no such type
        checked |= {"status": "queued"} if kind == "fine_tuning.job" else {"purpose": "batch"}
    if kind == "fine_tuning.job" and answer["method"]["type"] != "supervised":  # null, as OpenAI has it
        assert answer["hyperparameters"] is None
        checked["hyperparameters"] = {}
    TYPES[kind].model_validate(checked, strict=True)
    assert KEYS[kind] <= answer.keys(), KEYS[kind] - answer.keys()
    assert re.fullmatch(IDS[kind], answer["id"])
    return answer


class Server:
    """`govor jobs serve` with a catalogue of tiny bases; it can be killed and started again on the same folder."""

    def __init__(
        self,
        folder: Path,
        base: Path,
        *flags: str,
        key: str | None = None,
        training: dict | None = None,
        wants_gpu: str | None = None,
        resources: dict | None = None,
    ):
        """`wants_gpu`: an alias of a second base, which no machine without a GPU tunes; `resources`: of a cluster."""
        self.folder = folder
        self.data = folder / "data"
        self.key = key
        self.flags = flags
        settings = {"use_cpu": True, "learning_rate": 0.01, "per_device_train_batch_size": 4,
                    "activation_checkpointing": False, "max_length": 512, **(training or {})}  # fmt: skip
        overrides = {"model": {"dtype": "float32"}, "lora": {"r": 4, "lora_alpha": 8}, "training": settings,
                     "generation": {"max_new_tokens": 8}}  # fmt: skip
        entry = {"base": str(base), "overrides": overrides, "aliases": ALIASES, "resources": resources or {}}
        bases = {"acme/tiny": entry}
        if wants_gpu:
            bases["acme/large"] = {"base": str(base), "aliases": [wants_gpu]}
        folder.mkdir(parents=True, exist_ok=True)
        self.catalogue = folder / "catalogue.yaml"
        bases["not/here"] = {}
        self.catalogue.write_text(yaml.safe_dump(bases), encoding="utf-8")
        self.port = 0
        self.process: subprocess.Popen | None = None
        self.clients: list[OpenAI] = []
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "train.cli", "jobs", "serve", "--port", str(self.port), *self.flags]
        command += ["--data-dir", str(self.data), "--catalogue", str(self.catalogue)]
        environment = {**os.environ, **ONE_THREAD, "GOVOR_API_KEY": self.key or ""}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        line = self.process.stdout.readline()
        assert "fine-tuning API on" in line, (line, self.log())
        self.port = int(re.search(r":(\d+)/v1", line)[1])
        deadline = time.monotonic() + 20
        while not self.healthy():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def healthy(self) -> bool:
        try:
            return httpx2.get(f"http://127.0.0.1:{self.port}/health", timeout=5).status_code == 200
        except httpx2.HTTPError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self) -> int:
        """Its exit code after SIGTERM, when all its trainings have saved and ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.stdout.close()
        return self.process.wait(60)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.stop()
        for client in self.clients:  # a connection that is left to the garbage collector is a ResourceWarning
            client.close()

    def log(self) -> str:
        return (self.folder / "server.log").read_text(encoding="utf-8")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def client(self, **more) -> OpenAI:
        client = OpenAI(base_url=self.url, api_key=self.key or "any", **{"max_retries": 0, "timeout": 120, **more})
        self.clients.append(client)
        return client

    def ask(self, method: str, path: str, **more) -> httpx2.Response:
        """A raw request; every error has to come in the envelope."""
        headers = {"authorization": f"Bearer {self.key or 'any'}", **more.pop("headers", {})}
        response = httpx2.request(method, f"{self.url}{path}", headers=headers, timeout=60, **more)
        assert response.headers["x-request-id"]
        if response.status_code >= 400:
            envelope(response.json())
        return response

    def get(self, path: str, **more) -> dict:
        response = self.ask("GET", path, **more)
        assert response.status_code == 200, response.text
        return strict(response.json())

    def events(self, job: str) -> list[dict]:
        """All of them, oldest first."""
        return list(reversed(self.get(f"/fine_tuning/jobs/{job}/events?limit=1000")["data"]))

    def wait(self, job: str, *statuses: str, seconds: float = 400) -> dict:
        """The job when it has one of the statuses, or has ended."""
        deadline = time.monotonic() + seconds
        while True:
            current = self.get(f"/fine_tuning/jobs/{job}")
            if current["status"] in (statuses or ENDED) or current["status"] in ENDED:
                return current
            assert time.monotonic() < deadline, (current, self.log(), self.output(job))
            time.sleep(0.1)

    def wait_steps(self, job: str, steps: int, seconds: float = 400) -> None:
        """Return when that step has its event."""
        deadline = time.monotonic() + seconds
        while max((e["data"]["step"] for e in self.events(job) if e["type"] == "metrics"), default=0) < steps:
            assert time.monotonic() < deadline, (self.log(), self.output(job))
            time.sleep(0.1)

    def output(self, job: str) -> str:
        log = self.data / "jobs" / job / "output.log"
        return log.read_text(encoding="utf-8") if log.exists() else ""


def envelope(answer: dict) -> dict:
    """The error, once it has exactly the envelope's keys."""
    assert answer.keys() == {"error"} and answer["error"].keys() == {"message", "type", "param", "code"}, answer
    assert isinstance(answer["error"]["message"], str) and answer["error"]["message"]
    assert answer["error"]["type"] in ("invalid_request_error", "server_error")
    return answer["error"]


def check_events(events: list[dict], job: dict) -> None:
    """What holds for the events of every job that has succeeded, whatever happened meanwhile."""
    messages = [event["message"] for event in events if event["level"] != "warn"]
    assert len(set(messages)) == len(messages), [m for m in messages if messages.count(m) > 1]
    steps = [event["data"]["step"] for event in events if event["type"] == "metrics"]
    total = steps[-1]
    assert steps == list(range(1, total + 1)), "each step once, in order"
    finished = f"Step {total}/{total}"
    order = ("Created", "Validating", "Files validated", "Fine-tuning job started", "Step 1/", finished)
    at = [next(i for i, m in enumerate(messages) if m.startswith(start)) for start in (*order, "New fine-tuned")]
    assert at == sorted(at), messages
    for i, message in enumerate(messages):
        if message.startswith("Checkpoint created at step "):
            assert any(m.startswith(f"Step {message.split()[-1]}/") for m in messages[:i]), messages
    assert messages[0] == f"Created fine-tuning job: {job['id']}"
    assert messages[-1] == "The job has successfully completed"
    assert [event["created_at"] for event in events] == sorted(event["created_at"] for event in events)


def rows(count: int, start: int = 0, *, system: str | None = None) -> bytes:
    """Made-up rows, all different. `system`: of each."""
    lines = []
    opening = [{"role": "system", "content": system}] if system else []
    for number in range(start, start + count):
        messages = [
            *opening,
            {"role": "user", "content": f"Сколько будет {number} и {number * 7}?"},
            {"role": "assistant", "content": f"Будет {number * 8}, а почему {number % 13}?"},
        ]
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False))
    return ("\n".join(lines) + "\n").encode()
