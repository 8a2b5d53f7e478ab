"""A stand-in for Telegram and the model, and the bot as a process of its own."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.bot.stand_in import TOKEN, StandIn
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def stand_in():
    running = StandIn()
    yield running
    running.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The bot's folder, of all tests in a file: a start takes seconds."""
    return tmp_path_factory.mktemp("data") / "bot"


class Bot:
    """`govor bot` in a process of its own."""

    def __init__(
        self, stand_in: StandIn, folder: Path, *options: str, url: str | None = None, token: str = TOKEN
    ) -> None:
        command = [sys.executable, "-m", "train.cli", "bot", url or stand_in.url, "--bot-api", stand_in.url]
        command += ["--data-dir", str(folder), *options]
        environment = {**os.environ, "TELEGRAM_BOT_TOKEN": token, "PYTHONPATH": str(REPOSITORY)}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.output = self.process.stdout.readline()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.output += line

    def kill(self) -> str:
        """SIGKILL; what it has printed."""
        self.process.kill()
        return self._ended()

    def stop(self) -> str:
        """SIGTERM; what it has printed."""
        self.process.terminate()
        return self._ended()

    def _ended(self) -> str:
        self.process.wait(60)
        self._reader.join()
        self.process.stdout.close()
        return self.output


@pytest.fixture(scope="module")
def start_bot(stand_in, folder):
    """Starts the bot on the stand-in; whichever runs is ended with the file's tests."""
    started = []

    def start(*options: str, **kwargs) -> Bot:
        started.append(Bot(stand_in, folder, *options, **kwargs))
        return started[-1]

    yield start
    for bot in started:
        bot.kill()
