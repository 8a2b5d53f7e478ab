"""A Ray cluster of several nodes on this machine, whose nodes can be lost and come back."""

import os
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from train.core.locks import LEASE_VARIABLE
from train.jobs.ray_api import RayApi, UnreachableError
from train.jobs.training_process import _is_trainer

RAY = os.environ.get("GOVOR_RAY", "")
"""Ray's program."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "OMP_NUM_THREADS": "3",
    "CUDA_VISIBLE_DEVICES": "0",
}
"""A card that is not there; other threads than the server has, whose word counts; and Ray kills nothing of ours because
other people's programs need the machine's memory."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that it has started, of those that are alive."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


class Node:
    """`ray start --block`; it is started again when it ends, as a service manager would."""

    def __init__(self, folder: Path, name: str, *flags: str, prefix: tuple[str, ...] = ()) -> None:
        self.command = [*prefix, RAY, "start", "--block", "--disable-usage-stats", "--node-ip-address", "127.0.0.1"]
        self.command += ["--object-store-memory", "100000000", *flags]
        self.log = folder / f"{name}.log"
        self.down = threading.Event()
        """Set while it must not be started again."""
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env={**os.environ, **ENVIRONMENT}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def trainers(self) -> list[psutil.Process]:
        return [process for process in tree(self.process.pid) if _is_trainer(process)]

    def lose(self) -> None:
        """All its processes are gone at once, as when its power fails."""
        gone = tree(self.process.pid)
        for act in (psutil.Process.suspend, psutil.Process.kill):  # none of them may start another one meanwhile
            for process in gone:
                with suppress(psutil.NoSuchProcess):
                    act(process)
            gone += [process for process in tree(self.process.pid) if process not in gone]
        self.process.wait()

    def lose_ray(self) -> None:
        """Ray's own process of the node is killed, and nothing else."""
        for process in tree(self.process.pid):
            with suppress(psutil.NoSuchProcess):
                if process.name() == "raylet":
                    process.kill()


class Cluster:
    """A head without cards and as many nodes with a pretended one each."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.port, self.dashboard = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.dashboard}"
        head = ["--head", "--port", str(self.port), "--dashboard-port", str(self.dashboard), "--num-cpus", "0"]
        self.folder = folder
        self.head = Node(folder, "head", *head, "--num-gpus", "0", "--temp-dir", str(folder / "ray"), *agent_port())
        self.nodes: list[Node] = []
        self.ended = threading.Event()
        self.keeper = threading.Thread(target=self.keep, daemon=True)
        self.keeper.start()
        try:
            self.wait_nodes(1)
            self.nodes = [self.join(f"node-{number}") for number in range(nodes)]
            self.wait_nodes(nodes + 1)
        except BaseException:
            self.close()
            raise

    def join(self, name: str, *, prefix: tuple[str, ...] = ()) -> Node:
        flags = ("--address", f"127.0.0.1:{self.port}", "--num-cpus", "2", "--num-gpus", "1", *agent_port())
        return Node(self.folder, name, *flags, prefix=prefix)

    def keep(self) -> None:
        """Start again what has ended."""
        while not self.ended.wait(1):
            for node in (self.head, *self.nodes):
                if node.process.poll() is not None and not node.down.is_set():
                    node.lose()
                    node.start()

    def wait_nodes(self, count: int, seconds: float = 400) -> None:
        """Return when so many nodes are there, the head among them."""
        api, deadline, alive = RayApi(self.address), time.monotonic() + seconds, 0
        while alive < count:
            with suppress(UnreachableError):
                alive = [node["state"] for node in api.nodes()].count("ALIVE")
            assert time.monotonic() < deadline, self.head.log.read_text()
            time.sleep(1)

    def close(self) -> None:
        self.ended.set()
        self.keeper.join()
        for node in (*self.nodes, self.head):
            node.lose()


def agent_port() -> tuple[str, str]:
    """Nodes on one machine would all take the same."""
    return ("--dashboard-agent-listen-port", str(free_port()))


def trainers() -> dict[str, list[psutil.Process]]:
    """Job → the processes of this machine that run its sft.py for a cluster."""
    found: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        try:
            attempt = process.environ().get(LEASE_VARIABLE)
            if attempt and process.status() != psutil.STATUS_ZOMBIE and _is_trainer(process):
                found.setdefault(attempt.rpartition("-")[0], []).append(process)
        except (psutil.Error, OSError):
            continue
    return found


def leftovers() -> list[psutil.Process]:
    """What is left of trainings for a cluster."""
    left = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(LEASE_VARIABLE) and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
        except (psutil.Error, OSError):
            continue
    return left
