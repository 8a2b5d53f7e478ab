"""LangChain: ChatOpenAI by its default call and by responses."""

from attempt import KEY, MODEL, QUESTION, URL, attempt
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

client = ChatOpenAI(model=MODEL, base_url=URL, api_key=KEY, temperature=0, max_retries=8)
responding = ChatOpenAI(
    model=MODEL, base_url=URL, api_key=KEY, temperature=0, max_retries=8, use_responses_api=True, output_version="v1"
)


class Verdict(BaseModel):
    """Whether the two are friends."""

    friends: bool


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"В городе {city} дождь."


def chat():
    return client.invoke(QUESTION).text


def stream():
    return "".join(chunk.text for chunk in client.stream(QUESTION))


def responses():
    return responding.invoke(QUESTION).text


def responses_stream():
    return "".join(chunk.text for chunk in responding.stream(QUESTION))


def schema():
    return client.with_structured_output(Verdict).invoke(QUESTION).model_dump()


def tools():
    return client.bind_tools([weather], tool_choice="weather").invoke(QUESTION).tool_calls


attempt(chat, stream, responses, responses_stream, schema, tools)
