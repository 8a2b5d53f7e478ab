"""A run as it is served, and what govor needs to know of each engine's own API."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from train.chats.rows import Message
from train.core.config import Generation
from train.core.runs import Run
from train.encoding.loss_mask import render
from train.serving.chat_request import ChatRequest, Sampling
from train.serving.engine import Engine


class EngineApi(ABC):
    """How requests are put to one kind of engine. govor always has it stream, so a client that hangs up frees it."""

    title: str
    """The engine's name for people."""
    strips_stop: bool
    """Whether it leaves a stop sequence out of the answer, as OpenAI does."""
    supports_tools: bool
    """Whether it can offer functions to the model."""

    @abstractmethod
    def body(self, model: str, request: ChatRequest, sampling: Sampling, stop: Sequence[int]) -> dict[str, Any]:
        """The body of the engine's own request. `stop`: ids that end a turn. ApiError for what it cannot do."""

    @abstractmethod
    def context(self, served: "Served") -> int:
        """Number of tokens that prompt and answer may have together."""

    @abstractmethod
    def prompt_ids(self, served: "Served", messages: Sequence[Message], tools: Any) -> list[int]:
        """Token ids of the prompt as the engine renders it."""

    @abstractmethod
    def answered_prompt(self, served: "Served", messages: Sequence[Message]) -> list[int] | int:
        """Have it answer with one token: ids of the prompt that it was fed, or their number where it tells no more."""


@dataclass(frozen=True)
class Served:
    """A run under the name by which clients ask for it."""

    name: str
    run: Run
    description: str
    """For people: adapter or merged model, and of which base."""
    engine: Engine
    model: str
    """The model's name inside the engine."""
    engine_api: EngineApi
    tokenizer: Any
    generation: Generation
    stop: tuple[int, ...]
    """Ids of the tokens that end a turn, the base's own among them."""
    trained_context: int
    """How many tokens the model reads, by its config."""
    splits_thoughts: bool
    """Whether the engine itself separates thoughts from the answer."""
    created: int
    """Unix time of the run's manifest."""
    _render_lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def prompt(self, messages: Sequence[Message], tools: Any = None) -> list[int]:
        """Token ids of the prompt, rendered as in training; DataError where the template refuses the conversation."""
        with self._render_lock:  # neither the tokenizer nor the template's clock is thread-safe
            return render(self.tokenizer, messages, tools=tools)
