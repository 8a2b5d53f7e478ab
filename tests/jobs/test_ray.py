"""Trainings on a Ray cluster: nodes, its head and the server are lost, and every job ends as it would have here.

make test-ray                              two jobs, a few kills
GOVOR_RAY_JOBS=6 make test-ray             the full measure: six jobs, each node and the head once, the server ten times
"""

import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import REPOSITORY, govor
from tests.jobs.jobs_server import Server, check_events, rows
from tests.jobs.ray_cluster import RAY, Cluster, leftovers, trainers
from train.jobs.ray_api import RayApi
from train.jobs.store import Store

JOBS = int(os.environ.get("GOVOR_RAY_JOBS", "2"))
SERVER_KILLS = int(os.environ.get("GOVOR_KILLS", "10" if JOBS >= 6 else "2"))
EPOCHS, ROWS = 12, 12
STEPS = EPOCHS * ROWS // 4


def test_a_plain_install_does_without_ray(tmp_path):
    """Nothing of it is imported, not even by the executor that asks a cluster."""
    program = (
        "import sys; sys.modules['ray'] = None\n"  # an import of it raises
        "import train.cli, train.jobs.server, train.jobs.ray_executor\n"
        "assert not [name for name in sys.modules if name.startswith('ray.')]"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    serve = [sys.executable, "-m", "train.cli", "jobs", "serve", "--executor", "ray"]
    answer = subprocess.run(serve, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 2 and "--ray-address and --database-dir go together" in answer.stderr


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    # Ray's sockets have paths of at most 107 characters
    cluster = Cluster(tmp_path_factory.mktemp("ray"), 2)
    try:
        yield cluster
    finally:
        cluster.close()


def serve(cluster: Cluster, folder: Path, base: Path, **resources: float) -> Server:
    flags = ("--executor", "ray", "--ray-address", cluster.address, "--database-dir", str(folder / "database"))
    return Server(folder, base, *flags, resources={"CPU": 1, "GPU": 1, **resources})


def create(server: Server, count: int, epochs: int = EPOCHS, size: int = ROWS) -> list[str]:
    """Jobs, each with rows and a seed of its own."""
    client, jobs = server.client(), []
    for number in range(count):
        file = client.files.create(file=rows(size, start=1000 * number), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model="acme/tiny", training_file=file.id, seed=number, hyperparameters={"n_epochs": epochs}
        )
        jobs.append(job.id)
    return jobs


def adapters(server: Server, jobs: list[str]) -> list[str]:
    paths = (server.data / "runs" / job / "adapter" / "adapter_model.safetensors" for job in jobs)
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


class Guard(threading.Thread):
    """Looks all the time whether a job is trained by two at once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.twice: list[str] = []
        self.looks = 0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.3):
            self.looks += 1
            self.twice += [job for job, running in trainers().items() if len(running) > 1]


class Fire(threading.Thread):
    """Kills the server again and again, at random moments."""

    def __init__(self, server: Server, kills: int, pause: float) -> None:
        super().__init__(daemon=True)
        self.server, self.left, self.pause = server, kills, pause

    def run(self) -> None:
        while self.left:
            time.sleep(random.uniform(0.3, 1.7) * self.pause)
            self.server.kill()
            self.server.start()
            self.left -= 1


def wait_for(look, seconds: float, what: str):
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
    return found


def steps_of(server: Server, process: psutil.Process) -> int:
    """Steps that a trainer's job has taken."""
    job = process.environ()["GOVOR_LEASE"].rpartition("-")[0]
    path = server.data / "runs" / job / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def in_its_steps(server: Server, node) -> bool:
    """Whether a training on the node is in the middle of its steps and has a checkpoint."""
    return any(4 <= steps_of(server, process) < STEPS - 3 for process in node.trainers())


@pytest.mark.ray
@pytest.mark.skipif(not Path(RAY).is_file(), reason="GOVOR_RAY names no ray: make test-ray")
def test_jobs_survive_the_loss_of_nodes_head_and_server(cluster, base, tmp_path):
    with Server(tmp_path / "here", base, "--slots", "2") as here:
        began = time.monotonic()
        jobs = create(here, JOBS)
        assert {here.wait(job)["status"] for job in jobs} == {"succeeded"}
        expected = adapters(here, jobs)
        print(f"{JOBS} jobs here, in two slots: {time.monotonic() - began:.0f} s")
    assert len(set(expected)) == JOBS
    with serve(cluster, tmp_path / "there", base) as server:
        began, guard = time.monotonic(), Guard()
        jobs = create(server, JOBS)
        fire = Fire(server, SERVER_KILLS, 20)
        guard.start()
        fire.start()
        lost: dict[str, float] = {}
        first, second = cluster.nodes
        for what, act, on in (
            ("a node, all of it", first.lose, first),
            ("the other node's ray", second.lose_ray, second),
            ("the head", cluster.head.lose, None),
        ):
            look = (lambda on=on: in_its_steps(server, on)) if on else lambda: trainers()
            wait_for(look, 600, f"no training to lose {what}")
            act()
            lost[what] = time.monotonic() - began
            time.sleep(20)
        print({what: f"{at:.0f} s" for what, at in lost.items()})
        fire.join()
        ended = [server.wait(job, seconds=1200) for job in jobs]
        guard.done.set()
        guard.join()
        print(f"{JOBS} jobs on the cluster, the server killed {SERVER_KILLS} times: {time.monotonic() - began:.0f} s; "
              f"{guard.looks} looks for two trainers of a job")  # fmt: skip
        print(server.log())
        assert {job["status"] for job in ended} == {"succeeded"}, [job["error"] for job in ended]
        assert adapters(server, jobs) == expected, "equal to a local run's to the byte"
        assert not guard.twice, "two trainers in one folder"
        for job in ended:
            check_events(server.events(job["id"]), job)
        wait_for(lambda: not leftovers(), 30, f"left over: {leftovers()}")


@pytest.mark.ray
@pytest.mark.skipif(not Path(RAY).is_file(), reason="GOVOR_RAY names no ray: make test-ray")
def test_a_job_that_no_node_can_take_waits_and_says_why(cluster, base, tmp_path):
    with serve(cluster, tmp_path, base, GPU=5) as server:
        [job] = create(server, 1)
        why = "No node has 1 CPU, 5 GPU, of 3 that are there; the job begins when one has"
        wait_for(lambda: why in [event["message"] for event in server.events(job)], 120, server.log())
        assert server.get(f"/fine_tuning/jobs/{job}")["status"] == "queued"
        server.kill()
        server.start()
        assert server.get(f"/fine_tuning/jobs/{job}")["status"] == "queued"
        server.ask("POST", f"/fine_tuning/jobs/{job}/cancel")
        wait_for(lambda: not (server.data / "jobs" / job / "attempt").exists(), 30, "it could still begin")
        wait_for(lambda: not Store(server.data, tmp_path / "database").entry(job).state.submitted, 30, server.log())
        assert server.get(f"/fine_tuning/jobs/{job}")["status"] == "cancelled"


@pytest.mark.ray
@pytest.mark.skipif(not Path(RAY).is_file(), reason="GOVOR_RAY names no ray: make test-ray")
def test_a_training_that_ray_has_lost_is_followed_and_stopped_by_its_lease(cluster, base, tmp_path):
    """All of Ray's processes for it are killed at once, and nobody is left to kill it: its lease still beats."""
    with serve(cluster, tmp_path, base) as server:
        [job] = create(server, 1, epochs=50, size=4 * ROWS)
        [trainer] = wait_for(lambda: trainers().get(job), 300, "no training")
        server.wait_steps(job, 2)
        shown = govor("jobs", "nodes", "--url", server.url).output
        assert len([line for line in shown.splitlines() if line.endswith(f"alive  1 GPU  {job}")]) == 1, shown
        keepers = [p for p in psutil.process_iter(["cmdline"]) if f"kill -9 -{os.getpgid(trainer.pid)}" in str(p.info)]
        supervisor = psutil.Process(os.getpgid(trainer.pid)).parent()
        for process in [*keepers, supervisor]:
            process.kill()
        attempt = RayApi(cluster.address)
        wait_for(lambda: attempt.job(f"{job}-1")["status"] == "FAILED", 120, "Ray has not noticed")
        assert trainer.is_running() and server.get(f"/fine_tuning/jobs/{job}")["status"] == "running"
        server.wait_steps(job, max(e["data"]["step"] for e in server.events(job) if e["type"] == "metrics") + 2)
        assert list(trainers()) == [job] and "goes on" not in server.log(), "there is no second attempt"
        server.ask("POST", f"/fine_tuning/jobs/{job}/pause")  # by its lease, since Ray knows it no more
        wait_for(lambda: not trainer.is_running(), 60, server.log())
        assert "and saved" in server.output(job)
        server.ask("POST", f"/fine_tuning/jobs/{job}/resume")
        ended = server.wait(job)
        assert ended["status"] == "succeeded" and "goes on" in server.log()
        check_events(server.events(job), ended)
        wait_for(lambda: not leftovers(), 30, f"left over: {leftovers()}")


@pytest.mark.ray
@pytest.mark.skipif(not Path(RAY).is_file(), reason="GOVOR_RAY names no ray: make test-ray")
def test_a_node_that_does_not_share_the_folder_keeps_the_server_from_starting(cluster, base, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    hide = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {data} && exec "$@"', "sh")
    if subprocess.run([*hide, "true"], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    stranger = cluster.join("stranger", prefix=hide)
    try:
        cluster.wait_nodes(4)
        command = [sys.executable, "-m", "train.cli", "jobs", "serve", "--port", "0", "--data-dir", str(data)]
        command += ["--executor", "ray", "--ray-address", cluster.address, "--database-dir", str(tmp_path / "own")]
        answer = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
        )
        assert answer.returncode == 2, answer
        assert f"does not share {data} with the server: mount it there" in answer.stderr
        assert len([*data.glob(".probe-*")]) == 3, "the others do"
    finally:
        stranger.lose()
