"""Talk to a run in the terminal."""

import sys
from collections.abc import Callable

from .chats.rows import Message
from .errors import GovorError
from .generate import answer
from .model import load_merged, load_tokenizer, load_tuned, quiet_libraries
from .runs import Run

HELP = "/reset begins a new conversation, /exit or Ctrl-D leaves"


def chat(run: Run, *, merged: bool = False, prompt: str | None = None) -> None:
    """One answer to `prompt`, or a conversation that goes on until the end of input; answers appear as they come."""
    quiet_libraries()
    config, manifest = run.config(), run.manifest()
    model, tokenizer = (load_merged(run), load_tokenizer(run.merged)) if merged else load_tuned(run)
    system: str | None = manifest["data"]["system_message"]
    opening: list[Message] = [{"role": "system", "content": system}] if system else []

    def reply(messages: list[Message]) -> str:
        stop: list[int] = manifest["template"]["end_of_turn"]
        seed = config.training.seed if prompt is not None else None
        text = answer(model, tokenizer, messages, config.generation, stop=stop, seed=seed, on_text=show)
        print(flush=True)
        return text

    if prompt is not None:
        reply([*opening, {"role": "user", "content": prompt}])
    else:
        converse(opening, reply)


def converse(opening: list[Message], reply: Callable[[list[Message]], str]) -> None:
    """Read turns from the terminal and answer each in the light of those before it."""
    print(HELP, file=sys.stderr)
    messages = list(opening)
    while True:
        try:
            text = input("› ").strip()
        except EOFError:
            print(file=sys.stderr)
            return
        if text == "/exit":
            return
        if text == "/reset":
            messages = list(opening)
        elif text.startswith("/"):
            print(HELP, file=sys.stderr)
        elif text:
            turn: Message = {"role": "user", "content": text}
            try:
                messages += [turn, {"role": "assistant", "content": reply([*messages, turn])}]
            except GovorError as error:
                print(f"error: {error}", file=sys.stderr)


def show(text: str) -> None:
    print(text, end="", flush=True)
