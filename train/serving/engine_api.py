"""A run as it is served, and what govor needs to know of each engine's own API."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

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
    at_once: str
    """For people: how many answers it writes at once."""

    @abstractmethod
    def body(self, model: str, request: ChatRequest, sampling: Sampling, stop: Sequence[int]) -> dict[str, Any]:
        """The body of the engine's own request. `stop`: ids that end a turn. ApiError for what it cannot do."""

    @abstractmethod
    def context(self, served: "Served") -> int:
        """Number of tokens that prompt and answer may have together."""

    @abstractmethod
    def prompt_ids(
        self, served: "Served", messages: Sequence[Message], tools: Any, kwargs: Mapping[str, Any] | None = None
    ) -> list[int]:
        """Token ids of the prompt as the engine renders it. `kwargs`: what the client tells the template."""

    @abstractmethod
    def answered_prompt(self, served: "Served", messages: Sequence[Message]) -> list[int] | int:
        """Have it answer with one token: ids of the prompt that it was fed, or their number where it tells no more."""


class Weights(NamedTuple):
    """What an engine loads for a run; runs that differ in the name alone can share an engine."""

    folder: Path
    """Base or merged model."""
    adapter: bool
    template: str
    """sha256 of the chat template: an engine has one for all its models."""
    dtype: str
    trust_code: bool
    in_4bit: bool
    """Loaded in NF4: the adapter was trained so, or whole the model has no room on the card."""


@dataclass(frozen=True)
class Adapters:
    """The adapters over one base in one engine: it has them after every start, and may take in others meanwhile."""

    weights: Weights
    paths: dict[str, Path]
    """Name inside the engine → the adapter's folder."""
    rank: int
    """The largest rank that one may have."""
    count: int
    """How many there will be in all."""


@dataclass(frozen=True)
class Served:
    """A run, or a base as it is, under the name by which clients ask for it."""

    name: str
    run: Run | None
    """None for a base."""
    folder: Path
    """The model folder: base or merged model."""
    trust_code: bool
    """Whether the user has said that Python code of the model may run."""
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
    """Unix time of the run's manifest, or of the base's config.json."""
    system: str | None = None
    """The system message that a conversation without one gets; None where it gets none."""
    adapters: Adapters | None = None
    """Those of its engine, where that has any."""
    _render_lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def conversation(self, messages: Sequence[Message]) -> list[Message]:
        """The messages, under the run's system message where they bring none; an empty one asks for none."""
        if self.system is None:
            return list(messages)
        if all(message["role"] != "system" for message in messages):
            return [{"role": "system", "content": self.system}, *messages]
        return [message for message in messages if message["role"] != "system" or message["content"]]

    def prompt(self, messages: Sequence[Message], tools: Any = None) -> list[int]:
        """Token ids of the prompt, rendered as in training; DataError where the template refuses the conversation."""
        with self._render_lock:  # neither the tokenizer nor the template's clock is thread-safe
            return render(self.tokenizer, messages, tools=tools)
