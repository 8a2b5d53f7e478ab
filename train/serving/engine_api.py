"""A run as it is served, and what every engine has to tell us."""

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


class Dialect(ABC):
    """What an engine calls things. The front app always asks it to stream, so a client that hangs up frees it."""

    title: str
    cuts_stop: bool
    """Whether it leaves a stop sequence out of the answer, as OpenAI does."""
    takes_tools: bool

    @abstractmethod
    def body(self, model: str, request: ChatRequest, sampling: Sampling, stop: Sequence[int]) -> dict[str, Any]:
        """The request in its words. `stop`: ids that end a turn. ApiError for what it cannot do."""

    @abstractmethod
    def context(self, served: "Served") -> int:
        """Tokens that prompt and answer may have together."""

    @abstractmethod
    def prompt_ids(self, served: "Served", messages: Sequence[Message], tools: Any) -> list[int]:
        """Its own rendering of the prompt."""

    @abstractmethod
    def answered_ids(self, served: "Served", messages: Sequence[Message]) -> list[int] | int:
        """The prompt of an answer of one token that it really gave, or its length where it tells no more."""


@dataclass(frozen=True)
class Served:
    """A run under the name by which clients ask for it."""

    name: str
    run: Run
    what: str
    """For lists: adapter or merged model, and over which base."""
    engine: Engine
    model: str
    """Its name inside the engine."""
    dialect: Dialect
    tokenizer: Any
    generation: Generation
    stop: tuple[int, ...]
    """Ids that end a turn, the base's own among them."""
    trained_context: int
    """max_position_embeddings of the model."""
    thoughts_apart: bool
    """The engine tells thoughts from the answer by itself."""
    created: int
    """Unix time of the run."""
    _rendering: Lock = field(default_factory=Lock, repr=False, compare=False)

    def prompt(self, messages: Sequence[Message], tools: Any = None) -> list[int]:
        """Token ids of the prompt as in training; DataError where the template does not take the conversation."""
        with self._rendering:  # neither the tokenizer nor the template's clock is made for several threads
            return render(self.tokenizer, messages, tools=tools)
