"""instructor: its default mode, which offers a function, and the mode that asks for a JSON schema."""

import instructor
import openai
from attempt import MODEL, QUESTION, attempt
from pydantic import BaseModel

shared = {
    "model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_retries": 0,
}  # fmt: skip


class Verdict(BaseModel):
    """Whether the two are friends."""

    friends: bool


def asked(mode: instructor.Mode):
    client = instructor.from_openai(openai.OpenAI(max_retries=8), mode=mode)
    return client.chat.completions.create(**shared, response_model=Verdict).model_dump()


def schema():
    return asked(instructor.Mode.JSON_SCHEMA)


def tools():
    return asked(instructor.Mode.TOOLS)


attempt(schema, tools)
