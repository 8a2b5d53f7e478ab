"""Talk to a model in the terminal: a run, a folder with a merged model, or one that is served somewhere."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from train.chats.checks import check_file
from train.chats.rows import Message, Row, row_to_json
from train.core.config import Generation, Model
from train.core.errors import BaseError, GovorError
from train.core.files import append_line
from train.core.runs import Run, open_run
from train.evaluation.generate import answer
from train.models.base import read_json, stop_ids
from train.models.load import (
    Precision,
    load_base,
    load_merged,
    load_run_tokenizer,
    load_tokenizer,
    load_tuned,
    quiet_libraries,
)
from train.models.save import GENERATION_FILE

HELP = """/reset        begin a new conversation
/system TEXT  speak under this system message; without TEXT under none
/save FILE    add the conversation to a file of training rows
/help         this list
/exit         leave; so does Ctrl-D. Ctrl-C ends an answer"""
EXTENDABLE = ("too_few_examples", "empty_file")
"""Problems of a file that do not keep it from getting another row."""
LONGEST_LOAD = 1800.0
"""Seconds that a server is asked again while it loads its model."""
LONGEST_PAUSE = 20
"""Seconds between two questions to a server that loads its model: it may be done before it expects to be."""
Reply = Callable[[list[Message]], str]
"""Prints the answer to a conversation as it comes, and returns it."""


def chat(
    target: str,
    *,
    merged: bool = False,
    prompt: str | None = None,
    system: str | None = None,
    model: str | None = None,
    key: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Print one answer to `prompt`, or without it hold a conversation until the end of input.

    `target`: a run folder, a model folder or the URL of an OpenAI API. `system`: instead of the run's own system
    message. `model`, `key`: for a URL. `trust_remote_code`: the user's word that code of the model may run.
    """
    folder = Path(target)
    own_system = None
    opened = partial(open_run, trust_remote_code=trust_remote_code)
    if target.startswith(("http://", "https://")):
        with _client(target, key) as client:
            own_system, reply = _served_reply(client, target, model)
            talk(reply, own_system if system is None else system, prompt)
        return
    if folder.name == "merged" and (folder.parent / "manifest.json").is_file():
        own_system, reply = _run_reply(opened(folder.parent), merged=True, repeatable=prompt is not None)
    elif (folder / "config.json").is_file():
        reply = _folder_reply(folder, trust_remote_code)
    else:
        own_system, reply = _run_reply(opened(folder), merged=merged, repeatable=prompt is not None)
    talk(reply, own_system if system is None else system, prompt)


def talk(reply: Reply, system: str | None, prompt: str | None) -> None:
    """Answer the prompt, or without one converse, under the system message."""
    opening: list[Message] = [{"role": "system", "content": system}] if system else []
    if prompt is None:
        converse(opening, reply)
    else:
        reply([*opening, {"role": "user", "content": prompt}])
        print(flush=True)


def _run_reply(run: Run, *, merged: bool, repeatable: bool) -> tuple[str | None, Reply]:
    """The run's system message and its model's replies. `repeatable`: the same question gets the same answer."""
    quiet_libraries()
    config, manifest = run.config(), run.manifest()
    loaded, tokenizer = (
        (load_merged(run, offload=True), load_run_tokenizer(run, run.merged)) if merged else load_tuned(run)
    )
    stop = run.end_of_turn()
    seed = config.training.seed if repeatable else None

    def reply(messages: list[Message]) -> str:
        return answer(loaded, tokenizer, messages, config.generation, stop=stop, seed=seed, on_text=print_text)

    return manifest["data"]["system_message"], reply


def _folder_reply(folder: Path, trust_remote_code: bool) -> Reply:
    """The replies of a model folder away from its run, sampled as its generation_config.json says."""
    import torch

    quiet_libraries()
    use_cpu = not torch.accelerator.is_available()
    precision = Precision(torch.float32 if use_cpu else "auto", None)
    named = Model(name_or_path=str(folder), trust_remote_code=trust_remote_code)
    model = load_base(named, folder, precision, use_cpu=use_cpu, offload=True).eval()
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    saved = read_json(folder / GENERATION_FILE)
    settings = {key: value for key, value in saved.items() if key in Generation.model_fields and value is not None}
    try:
        generation = Generation(**settings)
    except ValidationError as error:
        name, said = error.errors()[0]["loc"][0], error.errors()[0]["msg"]
        raise BaseError(f"{folder / GENERATION_FILE}: {name}: {said}") from None
    stop = stop_ids(folder) or frozenset({tokenizer.eos_token_id})

    def reply(messages: list[Message]) -> str:
        return answer(model, tokenizer, messages, generation, stop=sorted(stop), on_text=print_text)

    return reply


def _client(url: str, key: str | None) -> Any:
    """The SDK's client for an OpenAI API."""
    from openai import OpenAI

    base = url.rstrip("/")
    return OpenAI(base_url=base if base.endswith("/v1") else f"{base}/v1", api_key=key or "none")


def _served_reply(client: Any, url: str, model: str | None) -> tuple[str | None, Reply]:
    """The system message and the replies of a model behind an OpenAI API; of the only one where none is named."""
    from openai import APIConnectionError, APIStatusError, OpenAIError

    def explained(error: OpenAIError) -> GovorError:
        if isinstance(error, APIStatusError):
            tree = error.body if isinstance(error.body, dict) else {}
            return GovorError(f"{url}: {tree.get('message') or error.message}")
        reason = "cannot be reached" if isinstance(error, APIConnectionError) else str(error)
        return GovorError(f"{url}: {reason}")

    try:
        metadata = {served.id: getattr(served, "metadata", None) for served in client.models.list().data}
    except OpenAIError as error:
        raise explained(error) from None
    if model not in metadata and (model is not None or len(metadata) != 1):
        raise GovorError(f"{url} serves {', '.join(metadata) or 'no model'}: choose with --model")
    name = model or next(iter(metadata))
    about = metadata[name]  # a server of ours has it
    own_system = about.get("system_message") if isinstance(about, dict) else None

    def reply(messages: Any) -> str:
        reply_text = ""
        if own_system is not None and all(message["role"] != "system" for message in messages):
            messages = [{"role": "system", "content": ""}, *messages]  # without one it would put in the run's
        until = time.monotonic() + LONGEST_LOAD
        while True:
            try:
                with client.chat.completions.create(model=name, messages=messages, stream=True) as stream:
                    for chunk in stream:
                        text = (chunk.choices[0].delta.content or "") if chunk.choices else ""
                        reply_text += text
                        print_text(text)
                return reply_text.strip()
            except OpenAIError as error:
                if (seconds := _pause(error)) is None or time.monotonic() > until:
                    raise explained(error) from None
                print(f"({explained(error)})", file=sys.stderr, flush=True)
                time.sleep(seconds)

    return own_system, reply


def _pause(error: Any) -> int | None:
    """Seconds until to ask again a server that loads the model, which takes minutes; None for any other error."""
    response = getattr(error, "response", None)
    seconds = response.headers.get("retry-after", "") if response is not None and response.status_code == 503 else ""
    return min(int(seconds), LONGEST_PAUSE) if seconds.isdigit() else None


def converse(opening: list[Message], reply: Reply) -> None:
    """Read turns from the terminal, answer each after those before it, and obey the commands of HELP."""
    with suppress(ImportError):
        import readline  # noqa: F401 (gives input() a line that can be edited, also in Cyrillic; Windows has its own)
    print(HELP, file=sys.stderr)
    opening = list(opening)
    turns: list[Message] = []
    while True:
        try:
            text = input("› ").strip()
        except EOFError:
            print(file=sys.stderr)
            return
        command, _, rest = text.partition(" ")
        try:
            if command == "/exit":
                return
            if command == "/reset":
                turns = []
            elif command == "/system":
                opening = [{"role": "system", "content": rest.strip()}] if rest.strip() else []
            elif command == "/save":
                print(save([*opening, *turns], rest.strip()), file=sys.stderr)
            elif text.startswith("/"):
                print(HELP, file=sys.stderr)
            elif text:
                turn: Message = {"role": "user", "content": text}
                reply_text = reply([*opening, *turns, turn])
                print(flush=True)
                if reply_text:
                    turns += [turn, {"role": "assistant", "content": reply_text}]
                else:
                    print("(no answer; not part of the conversation)", file=sys.stderr)
        except GovorError as error:
            print(f"error: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print("\n(ended; not part of the conversation)", file=sys.stderr)


def save(messages: list[Message], name: str) -> str:
    """Add the conversation to a file of training rows; the message that says so. Nothing else in the file changes."""
    if not name:
        raise GovorError("/save needs the name of a file: /save talks.jsonl")
    if not any(message["role"] == "assistant" for message in messages):
        raise GovorError("there is nothing to save yet")
    path = Path(name).expanduser()
    rows = 0
    try:
        if path.exists():
            report = check_file(path) if path.is_file() else None
            if report is None or any(problem.kind not in EXTENDABLE for problem in report.errors):
                raise GovorError(f"{path} is there already and holds no training rows: choose another name")
            rows = report.examples
        append_line(path, row_to_json(Row(rows + 1, messages)))
    except OSError as error:
        raise GovorError(f"{path}: {error.strerror}") from None
    return f"saved as row {rows + 1} of {path}"


def print_text(text: str) -> None:
    print(text, end="", flush=True)
