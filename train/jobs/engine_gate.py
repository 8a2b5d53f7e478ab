"""Which engine answers chats, and when none may: training has the GPU's memory for itself.

One model at a time is loaded, by the first request to it; a request to another model changes the engine. While any job
trains no engine runs, and the answer is 503 with retry-after.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from train.core.errors import GovorError, MachineError
from train.core.files import NOTE, complete_folder
from train.core.runs import Run, open_run
from train.jobs.bases import Catalogue
from train.jobs.job_errors import log_line
from train.jobs.store import ModelOrigin, Store
from train.jobs.worker import GpuLease
from train.serving.api_errors import ApiError, model_not_found
from train.serving.choose_engine import find_vllm, served_models
from train.serving.engine import SUPERVISOR
from train.serving.engine_api import Served
from train.serving.prompt_check import check_served_prompts

ANSWER_GRACE = 30.0
"""Seconds that answers in flight may take when the engine is to stop."""
LOAD_TIMEOUT = 300.0
"""Seconds that a request may wait for its model."""


class EngineGate(GpuLease):
    """Holds the one engine of a server, and gives its memory to training when the worker asks for it."""

    def __init__(self, store: Store, catalogue: Catalogue) -> None:
        self.store = store
        self.catalogue = catalogue
        self._training = True  # until the worker has found no job to train
        self._served: Served | None = None
        self._checked: Served | None = None
        self._answering = self._loading = 0
        self._engine_lock = threading.Lock()
        """Held while the engine is changed or stopped."""
        self._merging: subprocess.Popen[bytes] | None = None

    async def resolve(self, model: str) -> Served:
        """The model of that name, loaded; ApiError where there is none or a job is training."""
        origin = self.store.model_origin(model)
        if origin is None:
            if self.catalogue.find(model) is None:
                raise model_not_found(model)
            message = f"{model} is a base of this server: chat with what was fine-tuned from it (GET /v1/models)."
            raise ApiError(400, message, param="model")
        if self._training:
            raise self._busy_error()
        served = self._served
        if served is not None and served is self._checked and served.name == model and served.engine.state == "ready":
            return served
        self._loading += 1
        try:
            return await asyncio.to_thread(self._load, model, origin)
        finally:
            self._loading -= 1

    def count_chats(self, app: ASGIApp) -> ASGIApp:
        """Middleware that counts the chat requests being answered."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            is_chat = scope["type"] == "http" and scope["path"] == "/v1/chat/completions"
            self._answering += is_chat
            try:
                await app(scope, receive, send)
            finally:
                self._answering -= is_chat

        return counted

    def acquire(self) -> None:
        """Stop the engine once its answers have ended, and start none until `release`."""
        if self._training:
            return
        self._training = True
        self._stop_engine()

    def release(self) -> None:
        """Let the next chat request start an engine."""
        self._training = False

    def close(self) -> None:
        """Stop the engine for good."""
        self._training = True
        self._stop_engine()

    def _stop_engine(self) -> None:
        if merging := self._merging:
            _stop_merge(merging)
        self._wait_for_answers()
        if served := self._served:
            served.engine.stop()
        with self._engine_lock:
            if self._served is not None:
                self._served.engine.stop()
                self._served = None

    def _load(self, model: str, origin: ModelOrigin) -> Served:
        """Start the model's engine, unless it runs, and wait for it, which may take minutes."""
        try:
            with self._engine_lock:
                if self._training:
                    raise self._busy_error()
                served = self._served
                if served is None or served.name != model or served.engine.state == "stopped":
                    served = self._switch_to(model, origin)
            served.engine.wait_ready(LOAD_TIMEOUT)
            self._check(served)
        except GovorError as error:
            if self._training:
                raise self._busy_error() from None
            if isinstance(error, MachineError) and served and served.engine.state == "starting":
                return served  # the route answers 503
            log_line(f"{model}: {error}")
            message = "The model could not be loaded; the server's log says why."
            raise ApiError(500, message, headers={"x-should-retry": "false"}) from None
        return served

    def _switch_to(self, model: str, origin: ModelOrigin) -> Served:
        """Stop the engine that runs and start the model's."""
        if self._served is not None:
            self._wait_for_answers()
            self._served.engine.stop()
            self._served = None
        run = self._run_to_serve(origin)
        [served] = served_models([run], program=os.environ.get("GOVOR_VLLM"))
        if self._training:
            raise self._busy_error()
        self._served = replace(served, name=model)
        self._served.engine.start()
        log_line(f"{model}: {self._served.engine.name} starts")
        return self._served

    def _check(self, served: Served) -> None:
        """GovorError where the engine feeds the model other prompts than training did."""
        with self._engine_lock:
            if served is self._checked or served is not self._served:
                return
            prompt_check = check_served_prompts(served)
            if prompt_check.differences:
                served.engine.stop()
                self._served = None
                first = prompt_check.differences[0]
                raise GovorError(f"the engine renders prompts otherwise than training did: {first}")
            self._checked = served

    def _run_to_serve(self, origin: ModelOrigin) -> Run:
        """The run folder to serve; the run is merged first where the engine cannot take an adapter."""
        job, step = origin
        run = self.store.run(job) if step is None else self._checkpoint_run(job, step)
        trust_code = self._trusts_code(job)
        if find_vllm(os.environ.get("GOVOR_VLLM")) is None and not run.merged.exists():
            self._merge(run, self.store.job_folder(job) / "merge.log", trust_code)
        return open_run(run.path, trust_remote_code=trust_code)

    def _trusts_code(self, job: str) -> bool:
        """Whether the catalogue, which is the user's own, lets the job's base run code; the run folder has no say."""
        entry = self.store.entry(job)
        base = self.catalogue.find(entry.job.model) if entry else None
        return bool(base and base.tree["model"].get("trust_remote_code"))

    def _merge(self, run: Run, log: Path, trust_code: bool) -> None:
        """Merge in a process that ends with us: the next server, which would merge too, must not meet it at work."""
        command = [sys.executable, "-I", "-S", str(SUPERVISOR), sys.executable, "-P", "-m", "train.cli", "merge"]
        with log.open("wb") as output:
            self._merging = subprocess.Popen(
                [*command, "--no-drift", *["--trust-remote-code"] * trust_code, str(run.path)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
            )
        try:
            if self._merging.wait() != 0:
                raise GovorError(f"{run.path} could not be merged: see {log}")
        finally:
            _stop_merge(self._merging)
            self._merging = None

    def _checkpoint_run(self, job: str, step: int) -> Run:
        """A run folder made for a checkpoint: its weights with everything else of the finished run."""
        run, view = self.store.run(job), self.store.checkpoint_run(job, step)
        if view.path.exists():
            return view
        with complete_folder(view.path) as folder:
            for file in (run.config_file, run.manifest_file, run.held_out_file):
                if file.exists():  # the last version deleted held_out.jsonl where nothing was held out
                    shutil.copyfile(file, folder / file.name)
            result = run.adapter if run.adapter.exists() else run.merged
            shutil.copytree(result, folder / result.name, ignore=shutil.ignore_patterns("*.safetensors*", NOTE))
            for file in (run.checkpoints / f"checkpoint-{step}").glob("*.safetensors*"):
                shutil.copyfile(file, folder / result.name / file.name)
        return view

    def _wait_for_answers(self) -> None:
        """Wait until no request is being answered, for at most ANSWER_GRACE seconds."""
        deadline = time.monotonic() + ANSWER_GRACE
        while self._answering > self._loading and time.monotonic() < deadline:
            time.sleep(0.05)

    def _busy_error(self) -> ApiError:
        """503 with the time that training may still need: the SDKs ask again by themselves if it is short."""
        running = self.store.jobs_with_status("running")
        ends = [entry.job.estimated_finish or time.time() + 30 for entry in running]
        left = max(ends) - time.time() if ends else 2  # none runs: one is just ending
        message = "The card is training a job now; the models answer again when no job runs."
        return ApiError(
            503, message, code="card_is_training", headers={"retry-after": str(min(120, max(1, int(left))))}
        )


def _stop_merge(merging: "subprocess.Popen[bytes]") -> None:
    """End a merge: its supervisor ends it when this pipe closes."""
    assert merging.stdin is not None
    merging.stdin.close()
