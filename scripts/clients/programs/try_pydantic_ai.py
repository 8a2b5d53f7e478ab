"""pydantic-ai: both of its OpenAI model classes; its default way to a structured result offers a function."""

import asyncio

from attempt import KEY, MODEL, QUESTION, URL, attempt
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, ModelSettings, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

settings = ModelSettings(temperature=0)


class Verdict(BaseModel):
    """Whether the two are friends."""

    friends: bool


def model(kind=OpenAIChatModel):
    """A client lives in one event loop, so each operation has its own."""
    client = AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=8)
    return kind(MODEL, provider=OpenAIProvider(openai_client=client))


def asked(kind=OpenAIChatModel, **more):
    return Agent(model(kind), model_settings=settings, **more).run_sync(QUESTION).output


async def streamed(kind) -> str:
    async with Agent(model(kind), model_settings=settings).run_stream(QUESTION) as running:
        return "".join([piece async for piece in running.stream_text(delta=True)])


def chat():
    return asked()


def stream():
    return asyncio.run(streamed(OpenAIChatModel))


def responses():
    return asked(OpenAIResponsesModel)


def responses_stream():
    return asyncio.run(streamed(OpenAIResponsesModel))


def schema():
    return asked(output_type=NativeOutput(Verdict)).model_dump()


def tools():
    return asked(output_type=Verdict, retries=0).model_dump()


attempt(chat, stream, responses, responses_stream, schema, tools)
