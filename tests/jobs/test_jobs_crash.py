"""SIGKILL of server, launcher and training at any moment: every job ends as it should have, once.

GOVOR_KILLS=100 pytest -s tests/test_jobs_crash.py   the full measure, in about a quarter of an hour
"""

import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import openai
import psutil
import pytest

from tests.jobs.jobs_server import ENDED, Server, check_events, rows
from train.jobs import training_process

KILLS = int(os.environ.get("GOVOR_KILLS", "3"))
AHEAD = 2
"""Jobs that wait or train at a time."""
EPOCHS, ROWS = 2, 12


def trainers(server: Server) -> dict[str, list[psutil.Process]]:
    """Job → the processes that run its sft.py."""
    running_by_job: dict[str, list[psutil.Process]] = {}
    for mark in training_process.live_marks(training_process.mark_of(server.data, "")):
        running = [process for process in training_process.find(mark) if training_process._is_trainer(process)]
        running_by_job[mark.rpartition(":")[2]] = running
    return running_by_job


class Client(threading.Thread):
    """Uploads and creates jobs until it is to end, each until it is acknowledged, whatever the connection does."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.enough = threading.Event()
        self.acknowledged: dict[str, str] = {}
        """Tag → id of its job."""
        self.uploaded: dict[str, bytes] = {}

    def run(self) -> None:
        while not self.enough.is_set():
            listed = self.insist(lambda c: c.fine_tuning.jobs.list(limit=100).data)
            if sum(job.status not in ENDED for job in listed) < AHEAD:
                self.create(len(self.acknowledged))
            self.enough.wait(0.2)

    def create(self, number: int) -> None:
        content, tag = rows(ROWS, start=1000 * number), f"job-{number}"
        file = self.insist(lambda c: c.files.create(file=content, purpose="fine-tune"))
        self.uploaded[file.id] = content
        job = self.insist(
            lambda c: c.fine_tuning.jobs.create(
                model="acme/tiny", training_file=file.id, metadata={"tag": tag}, suffix=tag,
                hyperparameters={"n_epochs": EPOCHS}, extra_headers={"Idempotency-Key": tag},
            )
        )  # fmt: skip
        self.acknowledged[tag] = job.id

    def insist(self, ask):
        while True:
            try:
                with self.server.client(max_retries=2, timeout=20) as client:
                    return ask(client)
            except (openai.APIConnectionError, openai.InternalServerError):
                time.sleep(0.2)


class Reader(threading.Thread):
    """Reads every job's events as they come, each from where it has got to, across all restarts, to their end."""

    def __init__(self, client: Client) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.seen: dict[str, list[str]] = {}
        """Job → ids of its events in the order in which they were read."""
        self.ended: set[str] = set()

    def run(self) -> None:
        while self.client.is_alive() or not self.ended >= set(self.client.acknowledged.values()):
            for job in set(self.client.acknowledged.values()) - self.ended:
                self.read(job)
            time.sleep(0.2)

    def read(self, job: str) -> None:
        status = self.client.insist(lambda c: c.fine_tuning.jobs.retrieve(job).status)
        seen = self.seen.setdefault(job, [])
        page = self.client.insist(lambda c: c.fine_tuning.jobs.list_events(job, limit=1000).data)
        ids = [event.id for event in reversed(page)]
        assert ids[: len(seen)] == seen, "an event that was read is gone, or another has come before it"
        seen += ids[len(seen) :]
        if status in ENDED:
            self.ended.add(job)


class Guard(threading.Thread):
    """Looks all the time whether a job is trained by two at once."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.twice: list[str] = []
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.3):
            self.twice += [job for job, running in trainers(self.server).items() if len(running) > 1]


def kill_something(server: Server, what: str) -> bool:
    """Whether there was something of that kind to kill."""
    hit = False
    if what in ("training", "both"):
        for running in trainers(server).values():
            for process in running:
                process.kill()
                hit = True
    if what == "launcher":
        for mark in training_process.live_marks(training_process.mark_of(server.data, "")):
            for process in training_process.find(mark):
                if not training_process._is_trainer(process):
                    process.kill()
                    hit = True
    if what in ("server", "both"):
        server.kill()
        server.start()
        hit = True
    return hit


def start_up() -> float:
    """Seconds that a training needs here before its first step, by far the most of a short one."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import train.tuning.trainer"], check=True)
    return time.monotonic() - began


@pytest.mark.long
def test_nothing_is_lost_doubled_or_stuck(tmp_path, base):
    """A stream of short jobs under random SIGKILLs, which come before, in and after the steps of a training."""
    seed = int(os.environ.get("GOVOR_SEED", str(random.randrange(10**6))))
    print(f"seed {seed}")
    dice = random.Random(seed)
    with Server(tmp_path, base, "--slots", "2", key="sk-not-in-any-log") as server:
        stream_under_fire(server, dice)


def stream_under_fire(server: Server, dice: random.Random) -> None:
    client, guard, longest = Client(server), Guard(server), 1.5 * start_up()
    reader = Reader(client)
    for thread in (client, guard, reader):
        thread.start()
    hits: Counter[str] = Counter()
    began = time.monotonic()
    while hits.total() < KILLS:
        time.sleep(dice.uniform(0.1, longest))
        what = dice.choices(["server", "training", "launcher", "both"], [4, 2, 2, 2])[0]
        hits[what] += kill_something(server, what)
    client.enough.set()
    client.join(120)
    assert not client.is_alive()
    jobs = [server.wait(id_, seconds=120 + 10 * longest) for id_ in client.acknowledged.values()]
    guard.done.set()
    guard.join()
    reader.join(120)
    assert not reader.is_alive() and reader.ended == set(client.acknowledged.values())
    print(f"{hits.total()} kills {dict(hits)} over {len(jobs)} jobs in {time.monotonic() - began:.0f} s")

    assert {job["status"] for job in jobs} == {"succeeded"}, [job["error"] for job in jobs]
    assert not guard.twice, "a job was trained by two processes at once"
    listed = server.get("/fine_tuning/jobs?limit=1000")["data"]
    tags = Counter(job["metadata"]["tag"] for job in listed)
    assert tags == Counter(client.acknowledged.keys()), (tags, client.acknowledged)
    total = EPOCHS * -(-ROWS // 4)
    for job in jobs:
        events = server.events(job["id"])
        check_events(events, job)
        assert [event["id"] for event in events] == reader.seen[job["id"]], "read once each, across the restarts"
        assert sum(event["type"] == "metrics" for event in events) == total
        assert len(job["result_files"]) == 1
        table = server.ask("GET", f"/files/{job['result_files'][0]}/content").text
        assert [line.split(",")[0] for line in table.split("\n")[1:-1]] == [str(n) for n in range(1, total + 1)]
        assert (server.data / "runs" / job["id"] / "adapter" / "adapter_model.safetensors").exists()
        steps = [c["step_number"] for c in server.get(f"/fine_tuning/jobs/{job['id']}/checkpoints")["data"]]
        assert steps == [total, total // 2]
    models = [m["id"] for m in server.get("/models")["data"]]
    assert len(models) == len(set(models)) == 1 + 3 * len(jobs)
    for id_, content in client.uploaded.items():
        assert server.ask("GET", f"/files/{id_}/content").content == content
    assert training_process.live_marks(training_process.mark_of(server.data, "")) == set(), "no training is left over"
    log = server.log()
    assert server.key not in log and "Сколько" not in log, "no keys and no rows in the log"


@pytest.mark.parametrize("name", ["link", "dots", "mount"])
@pytest.mark.long
def test_a_data_folder_under_another_name_is_the_same(tmp_path, base, name):
    """The next server finds the training that the one before has started, whatever the folder is called now."""
    with Server(tmp_path, base) as server:
        real, other = server.data, tmp_path / "other"
        client = server.client()
        file = client.files.create(file=rows(12), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model="acme/tiny", training_file=file.id, hyperparameters={"n_epochs": 40}
        ).id
        server.wait_steps(job, 1)
        server.kill()
        if name == "link":
            other.symlink_to(real)
        elif name == "dots":
            other = tmp_path / "data" / "runs" / ".." / ".." / "data"
        else:
            other.mkdir()
            if subprocess.run(["mount", "--bind", str(real), str(other)], capture_output=True).returncode:
                pytest.skip("mounting is not allowed here")
        try:
            server.data = other
            server.start()
            most = 0
            while server.wait(job, "succeeded", "running", seconds=1)["status"] == "running":
                most = max(most, *map(len, trainers(server).values()), 0)
                time.sleep(0.2)
            assert server.wait(job)["status"] == "succeeded" and most == 1
            assert "its training still runs, taken over" in server.log()
            check_events(server.events(job), server.get(f"/fine_tuning/jobs/{job}"))
            server.stop()
        finally:
            if name == "mount":
                subprocess.run(["umount", "--lazy", str(other)], check=True)


def test_an_upload_that_the_server_died_in_is_absent(tmp_path, base):
    with Server(tmp_path, base) as server:
        break_off(server)


def break_off(server: Server) -> None:
    content = rows(20_000)
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: {len(content) + 1000}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        '--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    )
    with socket.create_connection(("127.0.0.1", server.port)) as half:
        half.sendall(head.encode() + content)
        deadline = time.monotonic() + 10
        while not any(path.stat().st_size for path in files(server)):
            assert time.monotonic() < deadline, "nothing of it was written"
            time.sleep(0.02)
        server.kill()
    assert files(server)
    server.start()
    assert files(server) == [] and server.get("/files")["data"] == []
    with socket.create_connection(("127.0.0.1", server.port)) as half:  # and where the client goes away
        half.sendall(head.encode() + content)
    deadline = time.monotonic() + 10
    while files(server):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def files(server: Server) -> list[Path]:
    return list((server.data / "files").iterdir())
