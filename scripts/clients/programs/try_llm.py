"""simonw/llm on its command line, with the server's model in extra-openai-models.yaml."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from attempt import KEY, MODEL, QUESTION, URL, attempt

home = Path(tempfile.mkdtemp(prefix="llm-"))
os.environ["LLM_USER_PATH"] = str(home)
model = {"model_name": MODEL, "api_base": URL, "api_key_name": "mine"}
models = [
    {**model, "model_id": "mine", "supports_schema": True, "supports_tools": True},
    {**model, "model_id": "responding", "responses": True},
    {**model, "model_id": "bare", "completion": True},
]
home.joinpath("extra-openai-models.yaml").write_text(json.dumps(models), encoding="utf-8")
home.joinpath("keys.json").write_text(json.dumps({"mine": KEY}), encoding="utf-8")
home.joinpath("tools.py").write_text(
    'def weather(city: str) -> str:\n    "The weather of a city."\n    return "дождь"\n'
)


def llm(*words: str, model: str = "mine") -> str:
    command = [Path(sys.executable).with_name("llm"), "-m", model, "-o", "temperature", "0", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return done.stdout.strip()


def chat():
    return llm("--no-stream", QUESTION)


def stream():
    return llm(QUESTION)


def responses():
    return llm("--no-stream", QUESTION, model="responding")


def responses_stream():
    return llm(QUESTION, model="responding")


def conversation():
    """It sends the conversation again, out of its own log."""
    return {"second": llm("-c", "А теперь?")}


def completions():
    return llm("--no-stream", QUESTION, model="bare")


def schema():
    return json.loads(llm("--no-stream", "--schema", "friends bool", QUESTION))


def tools():
    return llm("--no-stream", "--functions", str(home / "tools.py"), "--tools-debug", QUESTION)


attempt(chat, stream, responses, responses_stream, conversation, completions, schema, tools)
