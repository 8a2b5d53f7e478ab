"""`govor studio` as a process of its own on loopback, which can be killed and started again on the same port."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx2

from tests.conftest import REPOSITORY


class StudioServer:
    def __init__(self, folder: Path, *arguments: str, key: str | None = None):
        """`arguments`: project folders and options behind `govor studio`; `folder` is the working folder."""
        self.folder, self.arguments, self.key, self.port = folder, arguments, key, 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "train.cli", "studio", "--port", str(self.port), *self.arguments]
        environment = {**os.environ, "GOVOR_API_KEY": self.key or "", "PYTHONPATH": str(REPOSITORY)}
        began = time.monotonic()
        with (self.folder / "studio.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        line = self.process.stdout.readline()
        assert "studio on" in line, (line, (self.folder / "studio.log").read_text())
        self.port = int(re.search(r":(\d+)/", line)[1])
        self.seconds = time.monotonic() - began
        """Until it listens."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, **more) -> httpx2.Response:
        headers = {**({"authorization": f"Bearer {self.key}"} if self.key else {}), **more.pop("headers", {})}
        return httpx2.request(method, self.url + path, headers=headers, timeout=60, **more)

    def get(self, path: str) -> dict:
        response = self.ask("GET", path)
        assert response.status_code == 200, response.text
        return response.json()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.stdout.close()
        return self.process.wait(30)

    def __enter__(self) -> "StudioServer":
        return self

    def __exit__(self, *_) -> None:
        self.stop()
