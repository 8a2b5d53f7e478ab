"""LlamaIndex: OpenAILike for chat, OpenAIResponses for responses."""

from attempt import BASE, KEY, MODEL, QUESTION, URL, attempt
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAI, OpenAIResponses
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

shared = {"model": MODEL, "api_base": URL, "api_key": KEY, "temperature": 0, "max_retries": 8}
client = OpenAILike(**shared, is_chat_model=True, is_function_calling_model=True, context_window=1024)


class Verdict(BaseModel):
    """Whether the two are friends."""

    friends: bool


def weather(city: str) -> str:
    """The weather of a city."""
    return f"В городе {city} дождь."


def chat():
    return client.chat([ChatMessage(QUESTION)]).message.content


def stream():
    return "".join(piece.delta or "" for piece in client.stream_chat([ChatMessage(QUESTION)]))


def responses():
    return OpenAIResponses(**shared, context_window=1024).chat([ChatMessage(QUESTION)]).message.content


def responses_stream():
    return "".join(
        piece.delta or ""
        for piece in OpenAIResponses(**shared, context_window=1024).stream_chat([ChatMessage(QUESTION)])
    )


def completions():
    return OpenAILike(**shared, is_chat_model=False, context_window=1024).complete(QUESTION).text


def schema():
    structured = OpenAILike(
        **shared, is_chat_model=True, should_use_structured_outputs=True, context_window=1024
    ).as_structured_llm(Verdict)
    return structured.chat([ChatMessage(QUESTION)]).raw.model_dump()


def tools():
    answer = client.chat_with_tools([FunctionTool.from_defaults(weather)], user_msg=QUESTION, tool_required=True)
    return [call.tool_name for call in client.get_tool_calls_from_response(answer)]


def tuned_model():
    """By the class for OpenAI's own models, which knows fine-tuned ones by their name."""
    return OpenAI(**shared).chat([ChatMessage(QUESTION)]).message.content


attempt(chat, stream, responses, responses_stream, completions, schema, tools, *([tuned_model] if BASE else []))
