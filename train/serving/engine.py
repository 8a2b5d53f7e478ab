"""An engine's life: started in a process of its own, watched, started again with back-off, stopped."""

import http.client
import math
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import httpx2

from train.core.errors import MachineError
from train.serving.in_engine.govor_engine_key import KEY_VARIABLE

HOST = "127.0.0.1"
SUPERVISOR = Path(__file__).with_name("supervisor.py")
IN_ENGINE = Path(__file__).with_name("in_engine")
"""The folder whose modules engines import: nothing else of ours is on their path."""
BACK_OFF = (1, 2, 4, 8, 16, 30)
"""Seconds before the next start, by the number of failures in a row; the last holds for all that follow."""
CALM_SECONDS = 60
"""Seconds: an engine that was ready for so long counts as sound, one that was silent for so long as dead."""
SAY_EVERY = 10.0
"""Seconds between two lines of progress while an engine starts."""
LINE_NOISE = re.compile(r"\x1b\[[0-9;]*m|^\(\S+ pid=\d+\)( [A-Z]+ [\d-]+ [\d:]+ \[[^]]*\])?|^\[transformers\]")
"""What is cut from an engine's lines: colours, and what vLLM and transformers put before every line."""
State = Literal["stopped", "starting", "ready"]


class Engine:
    """A server on this machine's loopback that speaks HTTP and has /health.

    `command` gives its command line for a port. It has a key of its own, which only this process can show: the engine
    learns it from its environment, since other users can read command lines, and asks for it by `EngineKey`.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[int], Sequence[str]],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name = name
        self.command = command
        self.key = secrets.token_urlsafe(24)
        self.environment = {**os.environ, **(environment or {}), KEY_VARIABLE: self.key, "PYTHONPATH": str(IN_ENGINE)}
        for variable in ("PYTHONHOME", "GOVOR_API_KEY"):  # ours; the engine's environment may be another
            self.environment.pop(variable, None)
        self.folder = folder
        self.port = 0
        self.state: State = "stopped"
        self.starts = 0
        """How many times it became ready."""
        self.lines: deque[str] = deque(maxlen=400)
        """The last lines of its output."""
        self.reported: dict[str, int] = {}
        """What it has reported about itself since it was last started."""
        self._failure: str | None = None
        self._changed = threading.Condition()
        self._control = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._listener: threading.Thread

    @property
    def url(self) -> str:
        """Where it answers now; another port after every start."""
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Begin to start it, unless it runs already; returns at once."""
        with self._control:
            if self._thread and self._thread.is_alive() and not self._stopping.is_set():
                return
            if self._thread:
                self._thread.join()
            self._stopping, self._failure, self.state = threading.Event(), None, "starting"
            self._thread = threading.Thread(target=self._run, name=f"engine {self.name}", daemon=True)
            self._thread.start()

    def wait_ready(self, timeout: float = math.inf, say: Callable[[str], None] = lambda line: None) -> None:
        """Return when it is ready; MachineError where it ends instead, or `timeout` seconds have passed.

        `say` is called every SAY_EVERY seconds with how long it has taken and the last line of the engine's output.
        """
        began = time.monotonic()
        with self._changed:
            while not self._changed.wait_for(lambda: self.state != "starting", SAY_EVERY):
                seconds = time.monotonic() - began
                if seconds >= timeout:
                    raise MachineError(f"{self.name} is not ready after {seconds:.0f} s")
                say(f"{self.name} has been starting for {seconds:.0f} s: {self.last_line()}")
            if self.state != "ready":
                raise MachineError(self._failure or f"{self.name} was stopped")

    def stop(self) -> None:
        """End its processes and return when they are gone."""
        with self._control:
            self._stopping.set()
            if self._thread:
                self._thread.join()

    def healthy(self) -> bool:
        """Whether it answers /health with 200."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    @property
    def stopping(self) -> bool:
        """Whether it was told to end, so that an answer which breaks off is no failure of its own."""
        return self._stopping.is_set()

    def last_line(self) -> str:
        """The last line of its output, shortened."""
        lines = [LINE_NOISE.sub("", line).strip() for line in list(self.lines)]
        return next((line[:200] for line in reversed(lines) if line), "it has said nothing yet")

    def failure_lines(self) -> str:
        """The lines of its output that say why it ended: what looks like an error, and the last ones."""
        lines = [LINE_NOISE.sub("", line).strip() for line in self.lines]
        lines = [line for line in lines if line]
        errors = [line for line in lines if re.search(r"(?:Error|Exception|error)\b: ", line)]
        return "".join(f"\n  {line[:300]}" for line in dict.fromkeys([*errors[-4:], *lines[-2:]])) or " it said nothing"

    def _run(self) -> None:
        """Keep it running until it is to stop, or has ended without ever being ready."""
        failures = came_up = 0
        while not self._stopping.is_set():
            process = self._launch()
            if self._comes_up(process):
                came_up = self.starts = self.starts + 1
                self._set_state("ready")
                failures = 0 if self._watch(process) > CALM_SECONDS else failures
            failures += 1
            code = self._end(process)
            if self._stopping.is_set():
                break
            if not came_up:
                self._failure = f"{self.name} ended while it started (exit code {code}):{self.failure_lines()}"
                break
            self._set_state("starting")
            pause = BACK_OFF[min(failures, len(BACK_OFF)) - 1]
            print(f"{self.name} ended (exit code {code}) and starts again in {pause} s", file=sys.stderr, flush=True)
            self._stopping.wait(pause)
        self._set_state("stopped")

    def _set_state(self, state: State) -> None:
        with self._changed:
            self.state = state
            self._changed.notify_all()

    def _launch(self) -> "subprocess.Popen[bytes]":
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port = probe.getsockname()[1]
        self.lines.clear()
        self.reported.clear()
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SUPERVISOR), *self.command(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
            cwd=self.folder,
            start_new_session=True,  # Ctrl-C in the terminal is for us: answers in flight come first
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
        )
        self._listener = threading.Thread(target=self._listen, args=(process,), daemon=True)
        self._listener.start()
        return process

    def _listen(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.lines.append(line.decode("utf-8", errors="replace").rstrip())

    def _comes_up(self, process: "subprocess.Popen[bytes]") -> bool:
        """Whether it answers /health before it ends or is to stop."""
        while process.poll() is None and not self._stopping.wait(0.1):
            if self.healthy():
                return True
        return False

    def _watch(self, process: "subprocess.Popen[bytes]") -> float:
        """Return when it has ended, is to stop or has long been silent; for how many seconds it was ready."""
        ready_since = last_check = last_answer = time.monotonic()
        while process.poll() is None and not self._stopping.wait(0.2):
            if time.monotonic() - last_check < 5:
                continue
            healthy, last_check = self.healthy(), time.monotonic()
            if healthy:
                last_answer = last_check
            elif last_check - last_answer > CALM_SECONDS:
                break
        return time.monotonic() - ready_since

    def _end(self, process: "subprocess.Popen[bytes]") -> int:
        """Close the supervisor's input, upon which it ends the engine; its exit code."""
        assert process.stdin is not None
        process.stdin.close()
        code = process.wait()
        self._listener.join(5)  # the last of its output
        return code


class EngineRefusedError(MachineError):
    """The engine answered with a status of 400 and more, below 500."""


def request_json(engine: Engine, path: str, body: Any = None) -> Any:
    """The engine's answer to a GET, or to a POST where there is a body: JSON, or else text.

    MachineError unless its status is 200.
    """
    headers = {"authorization": f"Bearer {engine.key}"}
    try:
        with httpx2.Client(base_url=engine.url, headers=headers, trust_env=False, timeout=600) as client:
            response = client.request("GET" if body is None else "POST", path, json=body)
    except httpx2.HTTPError:
        raise MachineError(f"{engine.name} did not answer {path}:{engine.failure_lines()}") from None
    if response.status_code != 200:
        kind = EngineRefusedError if 400 <= response.status_code < 500 else MachineError
        raise kind(f"{engine.name} answered {path} with status {response.status_code}:{engine.failure_lines()}")
    return response.json() if "json" in response.headers.get("content-type", "") else response.text
