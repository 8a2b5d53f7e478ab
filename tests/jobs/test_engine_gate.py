"""Whose turn it is with the engine: switches, trainings and waiting clients, over engines that only keep time.

That real engines change so is tested in test_jobs_api.py and tests/serving/test_engines.py.
"""

import asyncio
import time
from types import SimpleNamespace

import pytest

from train.core.errors import MachineError
from train.jobs import engine_gate
from train.jobs.engine_gate import EngineGate
from train.jobs.store import Store
from train.serving.api_errors import ApiError

CHAT = {"type": "http", "path": "/v1/chat/completions"}


class Loader:
    """One engine, which takes `seconds` to load a model; `shared` models are loaded beside what is loaded."""

    def __init__(self, seconds: float = 0.05, shared: tuple[str, ...] = ()) -> None:
        self.seconds, self.shared = seconds, shared
        self.load_seconds = 3.0
        self.cancelled = self.busy = False
        self.loaded: list[str] = []
        self.log: list[str] = []

    def find(self, model: str) -> tuple[str, str]:
        return model.removeprefix("alias of "), model

    def ready(self, model: str):
        return SimpleNamespace(name=model) if model in self.loaded else None

    def join(self, model: str, _: str):
        if model in self.shared and self.loaded:
            self.loaded.append(model)
        return self.ready(model)

    def switch(self, model: str, _: str):
        self.loaded = []
        self.log.append(model)
        self.busy = True
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline:
            if self.cancelled:
                self.busy = False
                raise MachineError("stopped")
            time.sleep(0.005)
        self.busy = False
        if model == "broken":
            raise MachineError("it does not start")
        self.loaded = [model]
        return self.ready(model)

    def cancel(self) -> None:
        self.cancelled = True

    def stop(self) -> None:
        self.loaded = []
        self.log.append("stopped")

    close = stop


@pytest.fixture
def open_gate(tmp_path, monkeypatch):
    """Call it with a loader: the gate once no job trains."""
    monkeypatch.setattr(engine_gate, "WAIT_FOR_ANSWERS", 0.6)
    monkeypatch.setattr(engine_gate, "WAIT_FOR_LOADING", 0.2)

    def make(loader: Loader) -> EngineGate:
        gate = EngineGate(Store(tmp_path / "data"), loader)
        gate.release()
        return gate

    return make


async def ask(gate: EngineGate, model: str, seconds: float, log: list[str]) -> None:
    """A chat request as the server answers it: the model, then an answer of so many seconds."""

    async def app(*_) -> None:
        served = await gate.resolve(model)
        log.append(f"{model} begins")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert served.name in gate.loader.loaded, f"{model}: its engine was taken away"
            await asyncio.sleep(0.01)
        log.append(f"{model} ends")

    await gate.hold_engine(app)(CHAT, None, None)


async def answering(gate: EngineGate, seconds: float, log: list) -> asyncio.Task:
    """The task of an answer that has begun and takes so long, by a model that is loaded."""
    await ask(gate, "a", 0, log)
    long = asyncio.create_task(ask(gate, "a", seconds, log))
    await asyncio.sleep(0.05)
    return long


def test_answers_in_flight_end_before_the_engine_changes(open_gate):
    """In the order in which the models were asked for; those who wait for one model go on together."""
    loader, log = Loader(), []
    gate = open_gate(loader)

    async def story() -> None:
        await ask(gate, "a", 0, log)
        first = [asyncio.create_task(ask(gate, "a", 0.3, log)) for _ in range(3)]
        await asyncio.sleep(0.05)
        second = [asyncio.create_task(ask(gate, "b", 0.1, log)) for _ in range(2)]
        await asyncio.sleep(0.05)
        third = asyncio.create_task(ask(gate, "a", 0, log))  # after b, however often a is asked for
        await asyncio.gather(*first, *second, third)

    asyncio.run(story())
    assert loader.log == ["a", "b", "a"]
    expected = ["a begins", "a ends", *["a begins"] * 3, *["a ends"] * 3, *["b begins"] * 2, *["b ends"] * 2]
    assert log == [*expected, "a begins", "a ends"]


def test_an_alias_is_its_model(open_gate):
    loader, log = Loader(), []
    gate = open_gate(loader)

    async def story() -> None:
        await ask(gate, "a", 0, log)
        await ask(gate, "alias of a", 0, log)

    asyncio.run(story())
    assert loader.log == ["a"]


def test_models_that_share_an_engine_wait_for_nobody(open_gate):
    loader, log = Loader(shared=("b",)), []
    gate = open_gate(loader)

    async def story() -> None:
        await ask(gate, "a", 0, log)
        await asyncio.gather(ask(gate, "a", 0.3, log), ask(gate, "b", 0.05, log))

    asyncio.run(story())
    assert loader.log == ["a"] and log[2:] == ["a begins", "b begins", "b ends", "a ends"]


def test_who_waits_too_long_is_told_when_to_ask_again(open_gate):
    """And then is next: the long answer is whole, and nobody else gets the engine before."""
    loader, log = Loader(), []
    gate = open_gate(loader)

    async def story() -> ApiError:
        long = await answering(gate, 1.0, log)
        began = time.monotonic()
        with pytest.raises(ApiError) as caught:
            await ask(gate, "b", 0, log)
        assert time.monotonic() - began == pytest.approx(0.6, abs=0.3)
        await asyncio.gather(long, ask(gate, "a", 0, log), ask(gate, "b", 0, log))
        return caught.value

    error = asyncio.run(story())
    assert (error.status, error.code, error.headers) == (503, "model_not_ready", {"retry-after": "3"})
    assert loader.log == ["a", "b", "a"]
    assert log[2:] == ["a begins", "a ends", "b begins", "b ends", "a begins", "a ends"]


def test_a_cold_start_is_503_and_goes_on(open_gate):
    loader, log = Loader(seconds=0.5), []
    gate = open_gate(loader)

    async def story() -> ApiError:
        began = time.monotonic()
        with pytest.raises(ApiError) as caught:
            await ask(gate, "a", 0, log)
        assert time.monotonic() - began < 0.45
        await asyncio.sleep(0.5)
        await ask(gate, "a", 0, log)
        return caught.value

    error = asyncio.run(story())
    assert (error.status, error.headers) == (503, {"retry-after": "3"})
    assert loader.log == ["a"], "the load that was begun is not begun again"


def test_who_waits_behind_a_load_is_told_of_it(open_gate):
    """With what that load may still need, which has taken longer already than the last one."""
    loader, log = Loader(seconds=4), []
    loader.load_seconds = 0.1
    gate = open_gate(loader)

    async def story() -> ApiError:
        with pytest.raises(ApiError):
            await ask(gate, "a", 0, log)
        await asyncio.sleep(2.2)
        with pytest.raises(ApiError) as caught:
            await ask(gate, "b", 0, log)
        await asyncio.gather(ask(gate, "b", 0, log), return_exceptions=True)
        return caught.value

    error = asyncio.run(story())
    assert error.status == 503 and "Another model is being loaded, for 3 seconds" in str(error)
    assert error.headers == {"retry-after": "2"}, "half of what it has taken, and the own load"


def test_a_load_that_nobody_waits_for_gives_way(open_gate, monkeypatch):
    """It may take for ever, as where an engine hangs; who asked for it has gone, and has not come again."""
    monkeypatch.setattr(engine_gate, "KEPT_LONGER", 0.2)
    monkeypatch.setattr(engine_gate, "LOOK_EVERY", 0.1)
    loader, log = Loader(seconds=60), []
    loader.load_seconds = 0.1
    gate = open_gate(loader)

    async def story() -> None:
        with pytest.raises(ApiError):
            await ask(gate, "a", 0, log)
        await asyncio.sleep(2)
        assert not loader.cancelled, "nobody else waits"
        loader.seconds = 0.05
        began = time.monotonic()
        await ask(gate, "b", 0, log)
        assert time.monotonic() - began < 0.6
        await ask(gate, "a", 0, log)

    asyncio.run(story())
    assert loader.log == ["a", "b", "a"] and not loader.cancelled


def test_a_model_that_cannot_be_loaded_keeps_nobody_waiting(open_gate):
    loader, log = Loader(), []
    gate = open_gate(loader)

    async def story() -> list:
        return await asyncio.gather(ask(gate, "broken", 0, log), ask(gate, "a", 0, log), return_exceptions=True)

    error, _ = asyncio.run(story())
    assert (error.status, error.headers) == (500, {"x-should-retry": "false"})
    assert log == ["a begins", "a ends"]


def test_a_client_that_hangs_up_takes_no_turn(open_gate):
    loader, log = Loader(), []
    gate = open_gate(loader)

    async def story() -> None:
        long = await answering(gate, 0.3, log)
        gone = asyncio.create_task(ask(gate, "b", 0, log))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.gather(long, ask(gate, "a", 0, log))

    asyncio.run(story())
    assert loader.log == ["a"]


def test_a_training_lets_answers_end(open_gate):
    """No new one begins meanwhile; the worker is not kept from its other work."""
    loader, log = Loader(), []
    gate = open_gate(loader)

    async def story() -> None:
        long = await answering(gate, 0.3, log)
        began = time.monotonic()
        assert not gate.acquire() and time.monotonic() - began < 0.1
        for model in ("a", "b"):
            with pytest.raises(ApiError) as caught:
                await ask(gate, model, 0, log)
            assert (caught.value.status, caught.value.code) == (503, "card_is_training")
        await long
        assert gate.acquire()
        gate.release()
        loader.cancelled = False
        await ask(gate, "b", 0, log)

    asyncio.run(story())
    assert loader.log == ["a", "stopped", "b"]


def test_a_training_begins_at_last(open_gate):
    loader, log = Loader(), []
    gate = open_gate(loader)

    async def story() -> None:
        await ask(gate, "a", 0, log)
        endless = asyncio.create_task(ask(gate, "a", 60, log))
        await asyncio.sleep(0.05)
        assert not gate.acquire()
        await asyncio.sleep(0.65)
        assert gate.acquire()
        endless.cancel()
        await asyncio.gather(endless, return_exceptions=True)

    asyncio.run(story())
    assert loader.log == ["a", "stopped"]


def test_a_training_ends_what_is_being_loaded(open_gate):
    loader, log = Loader(seconds=30), []
    gate = open_gate(loader)

    async def story() -> None:
        waiting = asyncio.create_task(ask(gate, "a", 0, log))
        await asyncio.sleep(0.1)
        gate.acquire()
        with pytest.raises(ApiError) as caught:
            await waiting
        assert caught.value.status == 503
        assert gate.acquire()

    asyncio.run(story())
