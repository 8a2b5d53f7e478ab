"""LiteLLM: answers, files and jobs; a tuned model by its `ft:` name alone, and any model behind `openai/`."""

import os
import time
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the network for prices

import litellm
from attempt import BASE, MODEL, QUESTION, ROWS, attempt
from pydantic import BaseModel

litellm.telemetry = False
shared = {"model": f"openai/{MODEL}", "temperature": 0, "num_retries": 8}
messages = [{"role": "user", "content": QUESTION}]


class Verdict(BaseModel):
    """Whether the two are friends."""

    friends: bool


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def chat():
    return litellm.completion(**shared, messages=messages).choices[0].message.content


def stream():
    chunks = litellm.completion(**shared, messages=messages, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def responses():
    answer = litellm.responses(model=shared["model"], input=QUESTION, temperature=0)
    return answer.output[0].content[0].text


def responses_stream():
    events = litellm.responses(model=shared["model"], input=QUESTION, temperature=0, stream=True)
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def completions():
    return (
        litellm.text_completion(model=f"text-completion-openai/{MODEL}", prompt=QUESTION, temperature=0).choices[0].text
    )


def schema():
    answer = litellm.completion(**shared, messages=messages, response_format=Verdict)
    return Verdict.model_validate_json(answer.choices[0].message.content).model_dump()


def tools():
    choice = {"type": "function", "function": {"name": "weather"}}
    answer = litellm.completion(**shared, messages=messages, tools=[WEATHER], tool_choice=choice)
    return answer.choices[0].message.tool_calls[0].function.name


def files():
    file = litellm.create_file(
        file=(Path(ROWS).name, Path(ROWS).read_bytes()), purpose="fine-tune", custom_llm_provider="openai"
    )
    assert litellm.file_content(file.id, custom_llm_provider="openai").content == Path(ROWS).read_bytes()
    assert file.id in [other.id for other in litellm.file_list(custom_llm_provider="openai")]
    return litellm.file_delete(file.id, custom_llm_provider="openai").deleted


def jobs():
    file = litellm.create_file(
        file=(Path(ROWS).name, Path(ROWS).read_bytes()), purpose="fine-tune", custom_llm_provider="openai"
    )
    job = litellm.create_fine_tuning_job(
        model=BASE, training_file=file.id, hyperparameters={"n_epochs": 1}, custom_llm_provider="openai"
    )
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(2)
        job = litellm.retrieve_fine_tuning_job(job.id, custom_llm_provider="openai")
    assert job.id in [other.id for other in litellm.list_fine_tuning_jobs(custom_llm_provider="openai", limit=5)]
    assert job.status == "succeeded", job.error
    return job.status


def tuned_model():
    """Without a provider: LiteLLM chooses it by the name."""
    answer = litellm.completion(model=MODEL, messages=messages, temperature=0, num_retries=8)
    return answer.choices[0].message.content


more = [files, jobs, tuned_model] if BASE else []
attempt(chat, stream, responses, responses_stream, completions, schema, tools, *more)
