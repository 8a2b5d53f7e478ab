"""Loads models: a fine-tuned model, a checkpoint or a base → the engine that answers for it, one engine at a time.

Nothing here decides when: engine_gate.py does. With vLLM the adapters of one base, and the base itself, are served by
one engine, which takes in adapters while it runs.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

from train.core.errors import GovorError, MachineError
from train.core.files import complete_folder
from train.core.runs import Run, open_run
from train.jobs.bases import Base, Catalogue
from train.jobs.job_errors import log_line
from train.jobs.store import ModelOrigin, Store, copy_result
from train.models.load import require_safe_adapter
from train.serving.api_errors import ApiError, model_not_found
from train.serving.choose_engine import find_vllm, served_base, served_beside, served_models
from train.serving.engine import SUPERVISOR
from train.serving.engine_api import EngineApi, Served
from train.serving.prompt_check import check_served_prompts
from train.serving.transformers_serve import TransformersServeApi
from train.serving.vllm import VllmApi, supports_adapter

LONGEST_LOAD = 1800.0
"""Seconds after which an engine that has not come up is given up."""
Source = ModelOrigin | Base


class ModelLoader:
    """Holds the one engine of a server and what it answers for. Its methods block, but for `find` and `ready`."""

    def __init__(self, store: Store, catalogue: Catalogue, *, system: bool = True) -> None:
        self.store = store
        self.catalogue = catalogue
        self.system = system
        self.vllm = find_vllm(os.environ.get("GOVOR_VLLM"))
        """Path of the vllm executable; None where `transformers serve` answers."""
        self.cancelled = False
        """Whether nothing may be loaded now."""
        self.busy = False
        """Whether a model is being loaded."""
        self.load_seconds = 20.0
        """How long the last engine took to come up; a guess before the first."""
        self._models: dict[str, Served] = {}
        """What the engine that runs answers for, by name; each checked."""
        self._served: Served | None = None
        """What the engine was started for."""
        self._lock = threading.Lock()
        """Held while the engine is started or stopped."""
        self._merging: subprocess.Popen[bytes] | None = None
        self._system_messages: dict[str, str | None] = {}
        self._views: tempfile.TemporaryDirectory[str] | None = None

    def find(self, model: str) -> tuple[str, Source]:
        """(its own name where it has others, where it comes from); ApiError where there is no such model here."""
        if origin := self.store.model_origin(model):
            return model, origin
        base = self.catalogue.find(model)
        if base is None:
            raise model_not_found(model)
        if base.folder() is None:
            message = f"{base.name} is not on this machine yet: govor fetch {base.reference}, or a job that tunes it."
            raise ApiError(404, message, param="model", code="model_not_found")
        return base.name, base

    def ready(self, model: str) -> Served | None:
        """The model, where the engine that runs answers for it now."""
        served = self._models.get(model)
        return served if served is not None and served.engine.state == "ready" else None

    def join(self, model: str, source: Source) -> Served | None:
        """The model out of the engine that runs, whose other answers go on; None where it needs another engine."""
        running = self._served
        if served := self.ready(model):
            return served
        if running is None or running.adapters is None or running.engine.state != "ready" or self.cancelled:
            return None
        self.busy = True
        try:
            if isinstance(source, Base):
                served = self._base(source, running)
                served = served if served.engine is running.engine else None
            else:
                served = served_beside(running, self._run(source), system=self.system)
            return served and self._check(model, served)
        except MachineError as error:  # an engine of its own may take it
            log_line(f"{model}: {error}")
            return None
        finally:
            self.busy = False

    def switch(self, model: str, source: Source) -> Served:
        """The model out of an engine of its own, once the one that runs has ended; GovorError where it fails."""
        self.busy, began = True, time.monotonic()
        try:
            served = self._start(model, source)
            served.engine.wait_ready(LONGEST_LOAD, say=log_line)
            served = self._check(model, served)
            self.load_seconds = time.monotonic() - began
            log_line(f"{model}: ready after {self.load_seconds:.0f} s")
            return served
        except BaseException:
            self.stop()
            raise
        finally:
            self.busy = False

    def cancel(self) -> None:
        """Begin to give up what is being loaded; an engine that answers stays."""
        self.cancelled = True
        if merging := self._merging:
            _stop_merge(merging)
        served = self._served
        if self.busy and served is not None and served.engine.state == "starting":
            served.engine.stop()

    def stop(self) -> None:
        """Stop the engine; none runs afterwards, if `cancel` came before."""
        if served := self._served:
            served.engine.stop()  # without the lock, whose holder may be waiting for it
        with self._lock:
            if self._served is not None:
                self._served.engine.stop()
                self._served = None
            self._models.clear()

    def close(self) -> None:
        """Stop the engine for good."""
        self.cancel()
        self.stop()
        if self._views is not None:
            self._views.cleanup()

    def engine_kind(self) -> type[EngineApi]:
        """The kind of engine that answers here."""
        return VllmApi if self.vllm else TransformersServeApi

    def system_message(self, job: str) -> str | None:
        """What a conversation with the job's model gets that brings no system message."""
        if not self.system:
            return None
        if job not in self._system_messages:
            try:
                self._system_messages[job] = self.store.run(job).manifest()["data"]["system_message"]
            except (GovorError, OSError):  # its run is damaged: chatting with it says how
                return None
        return self._system_messages[job]

    def _start(self, model: str, source: Source) -> Served:
        """Stop the engine that runs, and start the model's; or leave that of the model to come up again by itself."""
        with self._lock:
            served = self._models.get(model)
            if served is not None and served.engine.state != "stopped":
                return served
            if self._served is not None:
                self._served.engine.stop()
                self._served = None
            self._models.clear()
        if isinstance(source, Base):
            served = self._base(source, None)
        else:
            runs = [self._run(source)]
            [served] = served_models(runs, program=self.vllm, system=self.system, later=self._adapters())
        with self._lock:
            if self.cancelled:
                raise GovorError("a training begins")
            self._served = served
            served.engine.start()
        log_line(f"{model}: {served.engine.name} starts")
        return served

    def _check(self, model: str, served: Served) -> Served:
        """The model, by its public name; GovorError where its engine feeds it other prompts than training did."""
        if model not in self._models:
            differences = check_served_prompts(served).differences
            if differences:
                raise GovorError(f"the engine renders prompts otherwise than training did: {differences[0]}")
            self._models[model] = replace(served, name=model)
        return self._models[model]

    def _adapters(self) -> list[Path]:
        """The adapters of all fine-tuned models, those of checkpoints as often as there are checkpoints."""
        adapters = [self.store.run(job).adapter for _, job in self.store.all_models()]
        return [adapter for adapter in adapters if adapter.exists()]

    def _base(self, base: Base, running: Served | None) -> Served:
        folder = base.folder()
        if folder is None:
            raise GovorError(f"{base.path} is gone")
        if self._views is None:
            self._views = tempfile.TemporaryDirectory(prefix="govor-")
        view = Path(self._views.name) / f"base-{list(self.catalogue.bases).index(base.name)}"
        view.mkdir(exist_ok=True)
        return served_base(
            base.name,
            base.config,
            folder,
            view,
            program=self.vllm,
            later=self._adapters(),
            running=running,
        )

    def _run(self, origin: ModelOrigin) -> Run:
        """The run folder to serve; the run is merged first where the engine cannot take its adapter."""
        job, step = origin
        run = self.store.run(job) if step is None else self._checkpoint_run(job, step)
        trust_code = self._trusts_code(job)
        takes_adapter = self.vllm and run.adapter.exists() and supports_adapter(require_safe_adapter(run.adapter))
        if not takes_adapter and not run.merged.exists():
            log_line(f"{run.path.name}: merging")
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
            if self.cancelled:
                _stop_merge(self._merging)
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
            copy_result(run, step, folder)
        return view


def _stop_merge(merging: "subprocess.Popen[bytes]") -> None:
    """End a merge: its supervisor ends it when this pipe closes."""
    assert merging.stdin is not None
    merging.stdin.close()
