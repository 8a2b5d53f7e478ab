"""The model behind its URL: what of a conversation fits its context, and its answers piece by piece."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from openai import APIConnectionError, AsyncOpenAI, NotFoundError, OpenAIError

from train.bot.store import Turn, conversation
from train.core.errors import GovorError

RETRIES = 8
"""Times that a request is tried again: about a minute while a model is being loaded (503 with retry-after)."""
TIMEOUT = 300.0
"""Seconds that the server may be silent."""


class TooLongError(Exception):
    """A question that does not fit the model's context even alone."""


class ServedModel:
    """A model of `govor serve` or `govor jobs serve`."""

    def __init__(self, url: str, key: str | None, name: str | None) -> None:
        self.url = url
        self.name = name or ""
        self.system: str | None = None
        """The system message that the server puts before each conversation, as it says."""
        base = url.rstrip("/")
        self.client = AsyncOpenAI(
            base_url=base if base.endswith("/v1") else f"{base}/v1",
            api_key=key or "none",
            max_retries=RETRIES,
            timeout=TIMEOUT,
        )

    async def connect(self) -> None:
        """Find the model and try whether its tokens can be counted; GovorError where that fails."""
        try:
            served = {model.id: model for model in (await self.client.with_options(max_retries=1).models.list()).data}
            if self.name not in served and (self.name or len(served) != 1):
                raise GovorError(f"{self.url} serves {', '.join(served) or 'no model'}: choose with --model")
            self.name = self.name or next(iter(served))
            metadata = getattr(served[self.name], "metadata", None)
            self.system = metadata.get("system_message") if isinstance(metadata, dict) else None
            await self.fitting([], "?")
        except APIConnectionError:
            raise GovorError(f"{self.url} cannot be reached: start `govor serve RUN` first") from None
        except TooLongError:
            raise GovorError(f"{self.url}: the system message of {self.name} leaves no room in its context") from None
        except (NotFoundError, AttributeError, TypeError, ValueError):  # no such route, no context, or no JSON
            raise GovorError(f"{self.url} does not count tokens: the bot wants `govor serve` behind it") from None
        except OpenAIError as error:
            body = getattr(error, "body", None)
            message = body.get("message") if isinstance(body, dict) else None
            raise GovorError(f"{self.url}: {message or error}") from None

    async def fitting(self, turns: Sequence[Turn], question: str) -> list[Turn]:
        """The latest of the turns that fit the context before the question, with room for an answer.

        TooLongError where the question alone does not fit.
        """
        least, most, dropped = 0, len(turns) + 1, 0  # of the oldest; few as a rule, so the first tries are small
        while least < most:
            if await self._fits(turns[dropped:], question):
                most = dropped
            else:
                least = dropped + 1
            dropped = min((least + most) // 2, 2 * least)
        if most > len(turns):
            raise TooLongError
        return list(turns[most:])

    async def _fits(self, turns: Sequence[Turn], question: str) -> bool:
        messages: Any = conversation(turns, question)
        counted = await self.client.responses.input_tokens.count(model=self.name, input=messages)
        about: Any = counted  # a server of ours says what the count is for
        answer = min(about.max_output_tokens, about.context_length // 2)
        return bool(counted.input_tokens + answer <= about.context_length)

    async def answer(self, turns: Sequence[Turn], question: str, temperature: float | None) -> AsyncIterator[str]:
        """The pieces of an answer. `temperature`: instead of the one that the run was given."""
        messages: Any = conversation(turns, question)
        more: Any = {} if temperature is None else {"temperature": temperature}
        async with await self.client.chat.completions.create(
            model=self.name, messages=messages, stream=True, **more
        ) as stream:
            async for chunk in stream:
                if chunk.choices and (text := chunk.choices[0].delta.content):
                    yield text
