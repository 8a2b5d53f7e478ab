"""The engine feeds the model what training taught it: the same token ids for the prompts of held-out rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from train.chats.rows import Message, Row, is_trained
from train.core.errors import GovorError
from train.encoding.held_out import held_out_rows, prompt_differences
from train.encoding.loss_mask import encode_row, template_hash
from train.serving.chat_request import plain_messages
from train.serving.engine_api import Served

ROWS = 64
"""Held-out rows that are compared, spread over all of them."""


class ParityError(GovorError):
    """The engine renders prompts otherwise than training did: the answer to `serve it` is no."""

    exit_code = 1


@dataclass(frozen=True)
class Parity:
    compared: int
    refused: int
    """Rows with functions, where the engine takes none."""
    drifted: list[str]
    """What differs, one line a row."""

    def __str__(self) -> str:
        if not self.compared:
            return "not as trained"
        refused = f", {self.refused} with functions not served" if self.refused else ""
        return f"{self.compared - len(self.drifted)} of {self.compared} prompts as trained{refused}"


def compare(served: Served) -> Parity:
    """The running engine's rendering of every prompt against training's; MachineError where it cannot answer.

    It also has to answer three of them, the shortest, the middle one and the longest, and say what it was fed.
    """
    if template_hash(served.tokenizer) != served.run.manifest()["template"]["sha256"]:
        return Parity(0, 0, ["the run's chat template was changed after training (chat_template.jinja)"])
    rows = held_out_rows(served.run)
    rows = rows[:: max(1, -(-len(rows) // ROWS))]
    taken = [row for row in rows if served.dialect.takes_tools or not row.tools] or probes(served)

    def render(messages: Sequence[Message], tools: Any) -> list[int]:
        return served.dialect.prompt_ids(served, plain_messages(messages), tools)

    encoded = [encode_row(served.tokenizer, row, stop=served.stop) for row in taken]
    drifted = [
        f"row {line}: {reason}" for line, reason in prompt_differences(render, taken, encoded, served.tokenizer.decode)
    ]
    room = served.dialect.context(served) - 1
    prompts = [(one.answers[-1][0], at) for at, one in enumerate(encoded)]
    prompts = sorted((length, at) for length, at in prompts if length <= room and not taken[at].tools)
    for length, at in {prompts[i] for i in (0, len(prompts) // 2, -1)} if prompts and not drifted else ():
        last = max(index for index, message in enumerate(taken[at].messages) if is_trained(message))
        answered = served.dialect.answered_ids(served, plain_messages(taken[at].messages[:last]))
        if answered not in (encoded[at].input_ids[:length], length):
            drifted.append(f"row {taken[at].line}: the prompt that is answered is not the one that is rendered")
    return Parity(len(taken), sum(bool(row.tools) for row in rows) * (not served.dialect.takes_tools), drifted)


def probes(served: Served) -> list[Row]:
    """The config's prompts with an answer, where nothing was held out that the engine takes."""
    run = served.run
    system = run.manifest()["data"]["system_message"]
    opening: list[Message] = [{"role": "system", "content": system}] if system else []
    asked: list[list[Message]] = [[m.model_dump() for m in prompt] for prompt in run.config().prompts]
    asked = asked or [[*opening, {"role": "user", "content": "Привет! Как дела?"}]]
    return [Row(at, [*prompt, {"role": "assistant", "content": "Да."}]) for at, prompt in enumerate(asked, 1)]
