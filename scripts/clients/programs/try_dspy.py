"""DSPy: a program with typed fields, its fine-tuning of the model behind it, and the use of the result."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the network for prices

import json
from pathlib import Path

import dspy
from attempt import BASE, MODEL, QUESTION, ROWS, attempt

shared = {"temperature": 0, "max_tokens": 60, "cache": False, "num_retries": 8}


class Judge(dspy.Signature):
    """Whether the two are friends."""

    question: str = dspy.InputField()
    friends: bool = dspy.OutputField()


class Local(dspy.LM):
    """DSPy asks LiteLLM's list of models whether one takes a schema, and for plain JSON if it is not in it."""

    supports_response_schema = True


def chat():
    return dspy.LM(f"openai/{MODEL}", **shared)(QUESTION)[0]


def responses():
    return dspy.LM(f"openai/{MODEL}", model_type="responses", **shared)(QUESTION)[0]["text"]


def schema():
    with dspy.context(lm=Local(f"openai/{MODEL}", **shared), adapter=dspy.JSONAdapter()):
        return {"friends": dspy.Predict(Judge)(question=QUESTION).friends}


def jobs():
    """The result is asked by the LM that the job gives back."""
    rows = [json.loads(line) for line in Path(ROWS).read_text(encoding="utf-8").splitlines()]
    lm = dspy.LM(f"openai/{BASE}", **shared, finetuning_model=f"openai/{BASE}")
    tuned = lm.finetune(train_data=rows, train_data_format="chat", train_kwargs={"n_epochs": 1}).result()
    if isinstance(tuned, Exception):
        raise tuned
    jobs.tuned = tuned
    return tuned.model


def tuned_model():
    return {"said": jobs.tuned(QUESTION)[0]}


more = [jobs, tuned_model] if BASE else []
attempt(chat, responses, schema, *more)
