"""Whose turn it is with the one engine: models in the order in which they were asked for, and training before all.

A question to the model that is loaded is answered at once. One to another model takes a turn: no new answer begins
meanwhile, those in flight end, the engine changes, and all who wait for that model go on together. While a job trains
no engine runs. Who has to wait too long gets 503 with the seconds after which to ask again, and the turn is kept.
"""

import asyncio
import math
import sys
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from train.core.errors import GovorError
from train.jobs.job_errors import log_line
from train.jobs.model_loader import ModelLoader, Source
from train.jobs.store import Store
from train.jobs.worker import GpuLease
from train.serving.answering import ANSWERING_PATHS
from train.serving.api_errors import ApiError
from train.serving.engine_api import Served

WAIT_FOR_ANSWERS = 120.0
"""Seconds that a question waits for answers of another model, and that a training lets answers end."""
WAIT_FOR_LOADING = 10.0
"""Seconds that a question waits for its model to be loaded."""
KEPT_LONGER = 10.0
"""Seconds that a turn is kept beyond the moment at which its client was told to ask again."""


LOOK_EVERY = 1.0
"""Seconds between two looks at whether a model that is being loaded is still waited for."""


class Hold:
    """A chat request's hold on the engine, from when its model was found ready to the end of its answer."""

    taken = False


HOLD: ContextVar[Hold] = ContextVar("hold")
"""Of the chat request at hand."""


@dataclass(eq=False)
class Turn:
    """A model that was asked for and is not loaded, with the requests that wait for it."""

    model: str
    source: Source
    loading: asyncio.Future[float] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """When its engine began to start, by time.monotonic."""
    done: asyncio.Future[Served | ApiError] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    holds: set[Hold] = field(default_factory=set)
    """Of the requests that wait."""
    kept_until: float = 0.0
    """Until when the turn is kept although nobody waits, by time.monotonic."""

    @property
    def is_wanted(self) -> bool:
        return bool(self.holds) or time.monotonic() < self.kept_until


class EngineGate(GpuLease):
    """Lets chat requests to the engine, and gives its memory to training when the worker asks for it."""

    def __init__(self, store: Store, loader: ModelLoader) -> None:
        self.store = store
        self.loader = loader
        self._training = True  # until the worker has found no job to train
        self._drains_since: float | None = None
        """When a training began to wait for answers, by time.monotonic."""
        self._in_flight = 0
        self._entrance = threading.Lock()
        """Held while an answer begins, and while training closes the gate."""
        self._idle = asyncio.Event()
        self._turns: deque[Turn] = deque()
        self._conductor: asyncio.Task[None] | None = None

    def hold_engine(self, app: ASGIApp) -> ASGIApp:
        """Middleware that lets go of the engine when a chat request has been answered, however it ended."""

        async def held(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] not in ANSWERING_PATHS:
                await app(scope, receive, send)
                return
            hold = Hold()
            HOLD.set(hold)
            try:
                await app(scope, receive, send)
            finally:
                if hold.taken:
                    self._in_flight -= 1
                    self._idle.set()

        return held

    async def resolve(self, model: str) -> Served:
        """The model of that name, loaded and held; ApiError where there is none, it fails or it takes too long."""
        model, source = self.loader.find(model)
        served = None if self._turns else self.loader.ready(model)
        if served is not None:
            self._take([HOLD.get()])
            return served
        if self._training:
            raise self._busy_error()
        turn = next((turn for turn in self._turns if turn.model == model), None)
        if turn is None:
            turn = Turn(model, source)
            self._turns.append(turn)
            if len(self._turns) == 1:
                self._conductor = asyncio.create_task(self._conduct())
        turn.holds.add(HOLD.get())
        try:
            return await self._wait(turn)
        finally:
            turn.holds.discard(HOLD.get())

    def acquire(self) -> bool:
        """Whether the engine has stopped: it is let finish its answers, for at most WAIT_FOR_ANSWERS seconds."""
        with self._entrance:
            began = not self._training
            self._training = True
        self.loader.cancel()
        if began or self._drains_since is None:
            self._drains_since = time.monotonic()
            if self._in_flight:
                log_line(f"a training waits for {self._in_flight} answer(s) to end")
        is_late = time.monotonic() - self._drains_since > WAIT_FOR_ANSWERS
        if self._in_flight or self.loader.busy:
            if not is_late:
                return False
            if self._in_flight:
                log_line(f"a training begins: {self._in_flight} answer(s) did not end within {WAIT_FOR_ANSWERS:g} s")
        self.loader.stop()
        return True

    def release(self) -> None:
        """Let the next chat request start an engine."""
        self._training = self.loader.cancelled = False
        self._drains_since = None

    def close(self) -> None:
        """Stop the engine for good."""
        self._training = True
        self.loader.close()

    def _take(self, holds: list[Hold]) -> None:
        """Let these answers begin; ApiError where a training has closed the gate."""
        with self._entrance:
            if self._training:
                raise self._busy_error()
            for hold in holds:
                hold.taken = True
            self._in_flight += len(holds)

    async def _wait(self, turn: Turn) -> Served:
        """The turn's model when it is loaded; ApiError 503 where that takes too long."""
        first: set[asyncio.Future[Any]] = {turn.loading, turn.done}
        await asyncio.wait(first, timeout=WAIT_FOR_ANSWERS, return_when=asyncio.FIRST_COMPLETED)
        if turn.loading.done():
            await asyncio.wait({turn.done}, timeout=WAIT_FOR_LOADING)
        if not turn.done.done():
            raise self._ask_again(turn)
        result = turn.done.result()
        if isinstance(result, ApiError):
            raise result
        return result

    async def _conduct(self) -> None:
        """Give each turn its engine, until there are none."""
        while self._turns:
            turn = self._turns[0]
            result: Served | ApiError
            try:
                result = await self._load(turn)
                self._take(list(turn.holds))  # before the next turn can find the engine idle
            except ApiError as error:
                result = error
            except Exception:
                traceback.print_exc(file=sys.stderr)
                result = ApiError(500, "The server had an error while processing your request.")
            self._turns.popleft()
            turn.done.set_result(result)

    async def _load(self, turn: Turn) -> Served:
        """The turn's model; ApiError where a training comes between, it fails or nobody wants it any more."""
        try:
            served = None if self._training else await asyncio.to_thread(self.loader.join, turn.model, turn.source)
            if served is None:
                await self._wait_until_idle(turn)
                turn.loading.set_result(time.monotonic())
                served = await self._switch(turn)
        except GovorError as error:
            if self._training:
                raise self._busy_error() from None
            log_line(f"{turn.model}: {error}")
            message = "The model could not be loaded; the server's log says why."
            raise ApiError(500, message, headers={"x-should-retry": "false"}) from None
        return served

    async def _switch(self, turn: Turn) -> Served:
        """The turn's model out of an engine of its own; given up when nobody waits for it any more, and others do."""
        switching = asyncio.ensure_future(asyncio.to_thread(self.loader.switch, turn.model, turn.source))
        given_up = False
        while not given_up and not (await asyncio.wait({switching}, timeout=LOOK_EVERY))[0]:
            if len(self._turns) > 1 and not turn.is_wanted and not self._training:
                given_up = True
                log_line(f"{turn.model}: given up: nobody waits for it any more, and others wait behind it")
                await asyncio.to_thread(self.loader.cancel)
        try:
            return await switching
        except GovorError:
            if not given_up:
                raise
            raise self._ask_again(turn) from None
        finally:
            with self._entrance:
                self.loader.cancelled = self._training

    async def _wait_until_idle(self, turn: Turn) -> None:
        """Return when no answer is in flight."""
        while self._in_flight and turn.is_wanted and not self._training:
            self._idle.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), 1)
        if self._training:
            raise self._busy_error()
        if not turn.is_wanted:
            raise self._ask_again(turn)

    def _ask_again(self, turn: Turn) -> ApiError:
        """503 with the seconds that the turn may still need, as far as the last load tells; it is kept so long."""
        first = self._turns[0] if self._turns else turn
        before = self._turns.index(turn) if turn in self._turns else 0
        seconds = self.loader.load_seconds * (1 + before)
        message = f"{self._in_flight} answer(s) of another model are being written. Ask again in a moment."
        if first.loading.done():
            elapsed = time.monotonic() - first.loading.result()
            seconds = max(self.loader.load_seconds - elapsed, elapsed / 2) + self.loader.load_seconds * before
            which = "The model" if first is turn else "Another model"
            message = f"{which} is being loaded, for {elapsed:.0f} seconds so far. Ask again in a moment."
        seconds = min(120, max(1, math.ceil(seconds)))
        turn.kept_until = time.monotonic() + seconds + KEPT_LONGER
        return ApiError(503, message, code="model_not_ready", headers={"retry-after": str(seconds)})

    def _busy_error(self) -> ApiError:
        """503 with the time that training may still need: the SDKs ask again by themselves if it is short."""
        jobs = self.store.jobs_with_status("running") or self.store.jobs_with_status("queued")
        ends = [entry.job.estimated_finish or time.time() + 30 for entry in jobs]
        left = max(ends) - time.time() if ends else 2  # none runs: one is just ending
        message = "The card is training a job now; the models answer again when no job runs."
        return ApiError(
            503, message, code="card_is_training", headers={"retry-after": str(min(120, max(1, int(left))))}
        )
