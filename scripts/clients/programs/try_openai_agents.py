"""The OpenAI Agents SDK: responses by default, chat by its other model class."""

import asyncio

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from attempt import MODEL, QUESTION, attempt
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)
settings = ModelSettings(temperature=0)
loop = asyncio.new_event_loop()  # in which the client's connections live
client = AsyncOpenAI(max_retries=8)
agent = Agent(name="agent", model=MODEL, model_settings=settings)
chatting = Agent(
    name="agent", model=OpenAIChatCompletionsModel(model=MODEL, openai_client=client), model_settings=settings
)


class Verdict(BaseModel):
    """Whether the two are friends."""

    friends: bool


@function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"В городе {city} дождь."


def run(agent: Agent, said: str, **more):
    return loop.run_until_complete(Runner.run(agent, said, **more))


async def streamed(agent: Agent) -> str:
    running = Runner.run_streamed(agent, QUESTION)
    pieces = [event.data.delta async for event in running.stream_events()
              if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"]  # fmt: skip
    assert "".join(pieces) == running.final_output
    return running.final_output


def chat():
    return run(chatting, QUESTION).final_output


def stream():
    return loop.run_until_complete(streamed(chatting))


def responses():
    return run(agent, QUESTION).final_output


def responses_stream():
    return loop.run_until_complete(streamed(agent))


def conversation():
    """Once with the server keeping it, once with the SDK keeping it."""
    first = run(agent, QUESTION)
    second = run(agent, "А теперь?", previous_response_id=first.last_response_id)
    session = SQLiteSession("one")
    run(agent, QUESTION, session=session)
    kept = run(agent, "А теперь?", session=session)
    assert second.final_output == kept.final_output
    return {"turns": 2}


def schema():
    deciding = Agent(name="agent", model=MODEL, model_settings=settings, output_type=Verdict)
    return run(deciding, QUESTION).final_output.model_dump()


def tools():
    forced = ModelSettings(temperature=0, tool_choice="weather")
    using = Agent(
        name="agent", model=MODEL, model_settings=forced, tools=[weather], tool_use_behavior="stop_on_first_tool"
    )
    return {"tool": run(using, QUESTION).final_output}


attempt(chat, stream, responses, responses_stream, conversation, schema, tools)
