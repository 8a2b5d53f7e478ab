"""Trainings on the nodes of a Ray cluster: `govor jobs serve --executor ray`.

Each attempt at a training is one submission to Ray's Jobs API: its id is the job's with the attempt's number, its entry
point the very command that would run here. Ray chooses the node. What it says afterwards is a hint: a training lives
while its lease beats (train/core/lease.py) and has succeeded when its result is in the run folder, whatever became of
the node, of Ray's head or of this server meanwhile.
"""

import os
import re
import secrets
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from train.core.config import load_config
from train.core.errors import MachineError
from train.core.files import write_atomically
from train.core.lease import LEASE, LeaseWatch
from train.core.locks import LEASE_VARIABLE
from train.jobs.bases import Catalogue
from train.jobs.data_folder import PROBE
from train.jobs.executors import Node, Training
from train.jobs.finish import has_result
from train.jobs.job_errors import log_line
from train.jobs.ray_api import RUNNING, WAITING, RayApi, UnreachableError
from train.jobs.store import Store
from train.jobs.training_process import SAVED_GRACE, STEP_GRACE

ASK_EVERY = 1.0
"""Seconds between two questions to Ray about the same training."""
SHOWN_WITHIN = 3.0
"""Seconds within which the shared folder must show what another machine has written there."""
PROBE_WITHIN = 120.0
"""Seconds that the nodes have for the proof that they share the folder."""
STARTS_WITHIN = 10.0
"""Seconds that Ray has for the start of a training before it is asked why it waits: by its own word it may always be
for a node."""
SILENCE = 300.0
"""Seconds without a lease after which a training is gone, though Ray says that it runs."""
PASSED_ON = re.compile(r"(OMP|MKL|KMP|OPENBLAS|CUBLAS|TORCH|NCCL)_\w+|HF_HUB_OFFLINE|PYTHONPATH|PYTHONHASHSEED")
"""Names of the server's variables that its trainings get: what decides about their numbers, and no secrets."""
NODE_LABEL = "ray.io/node-id"
"""Ray's own label of each node."""


@dataclass
class RayTraining:
    """One submission to Ray."""

    executor: "RayExecutor"
    job: str
    id: str
    info: dict[str, Any] | None = field(default_factory=lambda: {"status": WAITING})
    """What Ray has last said of it; None where it knows nothing."""
    stop_requested_at: float | None = None

    def __post_init__(self) -> None:
        self._run = self.executor.store.run(self.job)
        self._lease = self.executor.lease(self.job)
        self._asked = self._quiet_since = self._stopping_since = time.monotonic()
        self._ask_why_at = self._asked + STARTS_WITHIN
        self._asked_to_stop = 0.0
        self._why_waiting = ""
        self._ended_at: float | None = None

    def runs(self) -> bool:
        now = time.monotonic()
        if self._lease.alive():
            self._quiet_since, self._ended_at = now, None
            return True
        if not has_result(self._run) and self._ray_says_so(now):
            self._ended_at = None
            return True
        self._ended_at = self._ended_at or now
        if now - self._ended_at < SHOWN_WITHIN:  # the lease is gone; the result may not show yet
            return True
        if self.info is None or self.info["status"] == "FAILED":
            word = str(self.info["message"]).splitlines()[0] if self.info else "it knows nothing of it any more"
            log_line(f"{self.id}: Ray's word: {word}")
        self.executor.forget(self.job)
        return False

    def _ray_says_so(self, now: float) -> bool:
        """Whether by Ray's word it runs or waits. Where Ray says nothing, that is assumed."""
        try:
            over = self.info is None or self.info["status"] not in (WAITING, RUNNING)
            if not over and now - self._asked > ASK_EVERY:
                self._asked = now
                self.info = self.executor.ray.job(self.id)
            status = self.info and self.info["status"]
            if status == WAITING:
                self._quiet_since = now
            elif status == RUNNING and now - self._quiet_since > SILENCE:
                log_line(f"{self.job}: Ray says that {self.id} runs, but it has not been heard of")
                self.executor.ray.stop(self.id)
                return False
            return status in (WAITING, RUNNING)
        except MachineError:
            return True

    def unbegun(self) -> str | None:
        if self.executor.has_begun(self.job):
            return None
        if self._ended_at is not None:
            return "The cluster did not begin the training; the server's log says why. It is tried again"
        if self.info and self.info["status"] == WAITING and time.monotonic() > self._ask_why_at:
            self._why_waiting = self.executor.why_waiting(self.job)
            self._ask_why_at = time.monotonic() + STARTS_WITHIN
        return self._why_waiting

    def slot(self) -> None:
        return None

    def request_stop(self, saved: bool) -> None:
        now = time.monotonic()
        if self.stop_requested_at is None:
            self.stop_requested_at, self._stopping_since = time.time(), now
        if self._lease.alive() and now - self._stopping_since < (SAVED_GRACE if saved else STEP_GRACE):
            self._lease.ask_to_stop()
            return
        if not self.executor.has_begun(self.job):  # Ray can stop only what it has started
            self.executor.withdraw(self.job)
            self.info = {"status": "STOPPED", "message": ""}
        if now - self._asked_to_stop > ASK_EVERY:
            self._asked_to_stop = now
            with suppress(MachineError):  # it is asked again
                self.executor.ray.stop(self.id)


class RayExecutor:
    """Trainings on a Ray cluster."""

    elsewhere = True

    def __init__(self, address: str, store: Store, catalogue: Catalogue) -> None:
        self.ray = RayApi(address)
        self.store = store
        self._catalogue = catalogue
        self._leases: dict[str, LeaseWatch] = {}

    def running(self) -> dict[str, Training]:
        return {
            entry.job.id: RayTraining(self, entry.job.id, submission_id(entry.job.id, entry.state.attempts))
            for entry in self.store.submitted_jobs()
        }

    def find(self, job: str) -> Training | None:
        entry = self.store.entry(job)
        if entry is None or not (entry.state.submitted or self.lease(job).alive()):
            return None
        return RayTraining(self, job, submission_id(job, entry.state.attempts))

    def hindrance(self) -> str | None:
        try:
            self.prove()
        except MachineError as error:  # its text names folders and addresses, which are none of the clients' business
            log_line(str(error))
            return "The cluster cannot take the job now; the server's log says why. It begins when the cluster can"
        return None

    def submit(self, job: str, command: Sequence[str], slot: int) -> Training:
        with self.store.change() as change:  # before Ray knows of it, so that no server overlooks it
            entry = change.entry(job)
            assert entry is not None
            entry.state.attempts += 1
            entry.state.submitted = True
            change.save(entry)
        id_ = submission_id(job, entry.state.attempts)
        (self.store.run(job).path / LEASE).unlink(missing_ok=True)  # nobody has kept it, see `find`
        self._log(job).write_bytes(b"")
        write_atomically(self._turn(job), id_)
        wanted = self._resources(job)
        fields = {
            "metadata": {"govor_job": job},
            "entrypoint_num_cpus": wanted.pop("CPU", 0),
            "entrypoint_num_gpus": wanted.pop("GPU", 0),
            "entrypoint_resources": wanted,
        }
        try:
            self.ray.submit(id_, self._entrypoint(job, id_, command), **fields)
        except UnreachableError as error:
            log_line(f"{id_}: {error}, so that it may know of this training or not")
        except MachineError as error:
            return RayTraining(self, job, id_, {"status": "FAILED", "message": str(error)})
        return RayTraining(self, job, id_)

    def nodes(self) -> list[Node]:
        running = [job for job in self.ray.jobs() if job["status"] == RUNNING]
        return [
            Node(
                f"{node['node_ip']} {node['node_id'][:8]}",
                node["state"].lower(),
                node["resources_total"].get("GPU", 0),
                sorted(
                    job["metadata"]["govor_job"]
                    for job in running
                    if job["driver_node_id"] == node["node_id"] and "govor_job" in (job["metadata"] or {})
                ),
            )
            for node in self.ray.nodes()
        ]

    def lease(self, job: str) -> LeaseWatch:
        """The one watch over a job's lease: another would take a lease that nobody keeps for a new one."""
        return self._leases.setdefault(job, LeaseWatch(self.store.run(job).path))

    def withdraw(self, job: str) -> None:
        """Have no attempt begin that has been submitted: it ends when its turn comes."""
        self._turn(job).unlink(missing_ok=True)

    def has_begun(self, job: str) -> bool:
        """Whether the last attempt has written a line."""
        log = self._log(job)
        return log.exists() and log.stat().st_size > 0

    def forget(self, job: str) -> None:
        """The last attempt is over."""
        with self.store.change() as change:
            entry = change.entry(job)
            if entry is not None and entry.state.submitted:
                entry.state.submitted = False
                change.save(entry)

    def why_waiting(self, job: str) -> str:
        """Why no node takes a job, as a sentence."""
        wanted = self._resources(job)
        text = ", ".join(f"{count:g} {name}" for name, count in wanted.items() if count)
        try:
            nodes = [node["resources_total"] for node in self.ray.nodes() if node["state"] == "ALIVE"]
        except MachineError:
            return ""
        if any(all(node.get(name, 0) >= count for name, count in wanted.items()) for node in nodes):
            return f"Every node that has {text} is busy; the job begins when one is free"
        return f"No node has {text}, of {len(nodes)} that are there; the job begins when one has"

    def prove(self) -> None:
        """Have each node read the server's word in the data folder and write it back; MachineError where one cannot.

        A node whose answer lies there is not asked again. UnreachableError where Ray does not answer.
        """
        said = self.store.folder / PROBE
        if not said.exists():
            write_atomically(said, secrets.token_hex(16))
        word, tasks = said.read_bytes(), {}
        alive = [node["node_id"] for node in self.ray.nodes() if node["state"] == "ALIVE"]
        for answer in said.parent.glob(f"{PROBE}-*"):
            if answer.name.removeprefix(f"{PROBE}-") not in alive:
                answer.unlink(missing_ok=True)
        for node in alive:
            answer = said.with_name(f"{PROBE}-{node}")
            if not (answer.exists() and answer.read_bytes() == word):
                id_ = f"govor-probe-{secrets.token_hex(4)}"
                self.ray.submit(id_, _copy_command(said, answer), entrypoint_label_selector={NODE_LABEL: node})
                tasks[id_] = node, answer
        if tasks:
            log_line(f"asking {len(tasks)} node(s) of {self.ray.address} whether they share {self.store.folder}")
        deadline = time.monotonic() + PROBE_WITHIN
        while tasks and time.monotonic() < deadline:
            tasks = {id_: task for id_, task in tasks.items() if not self._is_over(id_, *task, word)}
            time.sleep(0.5)
        for node, _ in tasks.values():
            raise MachineError(f"node {node[:8]} has not answered within {PROBE_WITHIN:g} seconds: is it overloaded?")

    def _is_over(self, id_: str, node: str, answer: Path, word: bytes) -> bool:
        """Whether the node of a probe has answered, or is lost; MachineError where it cannot answer."""
        info = self.ray.job(id_)
        if info and info["status"] in (WAITING, RUNNING):
            return not any(found["node_id"] == node and found["state"] == "ALIVE" for found in self.ray.nodes())
        if info is None or info["driver_exit_code"] is None:
            return True
        shown = time.monotonic() + SHOWN_WITHIN
        while info["driver_exit_code"] == 0 and time.monotonic() < shown:
            if answer.exists() and answer.read_bytes() == word:
                return True
            time.sleep(0.1)
        raise MachineError(
            f"node {node[:8]} does not share {self.store.folder} with the server: mount it there under the same path, "
            f"for the same user, so that what one writes shows within {SHOWN_WITHIN:g} seconds (NFS: actimeo=1), and "
            f"install govor under {sys.prefix}"
        )

    def _resources(self, job: str) -> dict[str, float]:
        """What a training takes of a node, by Ray's names: as the catalogue says, else a GPU if its recipe uses one."""
        entry = self.store.entry(job)
        base = self._catalogue.find(entry.job.model) if entry else None
        if base and base.resources:
            return dict(base.resources)
        uses_cpu = load_config(self.store.job_folder(job) / "config.yaml").training.use_cpu
        return {"CPU": 1.0, "GPU": 0.0 if uses_cpu else 1.0}

    def _log(self, job: str) -> Path:
        return self.store.job_folder(job) / "output.log"

    def _turn(self, job: str) -> Path:
        """The file that names the one attempt which may begin, whatever else Ray comes up with."""
        return self.store.job_folder(job) / "attempt"

    def _entrypoint(self, job: str, id_: str, command: Sequence[str]) -> str:
        """The shell command of a training: as here, with this server's variables in place of Ray's."""
        variables = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
        variables |= {"PYTHONUNBUFFERED": "1", "NO_COLOR": "1", LEASE_VARIABLE: id_}
        words = ["env", "-u", "OMP_NUM_THREADS", "-u", "PYTHONBREAKPOINT"]  # Ray sets them
        words += [f"{name}={value}" for name, value in sorted(variables.items())]
        folder, turn, log = (shlex.quote(str(path)) for path in (self.store.folder, self._turn(job), self._log(job)))
        return (
            f'cd {folder} && test "$(cat {turn})" = {id_} && exec >> {log} 2>&1 && echo {id_} on $(hostname) && '
            f"exec {shlex.join([*words, *command])}"
        )


def submission_id(job: str, attempt: int) -> str:
    """The id that an attempt has with Ray."""
    return f"{job}-{attempt}"


def _copy_command(said: Path, answer: Path) -> str:
    """The shell command of a probe, which also finds out whether govor is installed there."""
    return f"test -x {shlex.quote(sys.executable)} && cat {shlex.quote(str(said))} > {shlex.quote(str(answer))}"
