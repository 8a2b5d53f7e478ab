"""Checks that an engine feeds the model what training taught it: the same token ids for prompts of held-out rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from train.chats.rows import Message, Row, configured_prompts, trained_answers
from train.core.errors import GovorError
from train.core.runs import Run
from train.encoding.held_out import held_out_rows, prompt_differences
from train.encoding.loss_mask import encode_each, template_hash
from train.serving.chat_request import plain_messages
from train.serving.engine_api import Served

ROWS = 64
"""How many held-out rows are compared at most, spread over all of them."""


class PromptCheckError(GovorError):
    """The engine renders prompts otherwise than training did, so the run is not served."""

    exit_code = 1


@dataclass(frozen=True)
class PromptCheck:
    """The result of a check; as text one short phrase."""

    compared: int
    """Number of rows compared."""
    refused: int
    """Number of rows left out because they have functions and the engine takes none."""
    differences: list[str]
    """What differs, a line for each row; empty where nothing does."""

    def __str__(self) -> str:
        if not self.compared:
            return "not as trained"
        refused = f", {self.refused} with functions not served" if self.refused else ""
        return f"{self.compared - len(self.differences)} of {self.compared} prompts as trained{refused}"


def check_served_prompts(served: Served) -> PromptCheck:
    """Compare the running engine's rendering of prompts with training's; MachineError where it cannot answer.

    It also has to answer three prompts, the shortest, the middle one and the longest, and say what it was fed.
    """
    if served.run is None:  # a base, of which nothing was trained
        return PromptCheck(0, 0, [])
    if template_hash(served.tokenizer) != served.run.manifest()["template"]["sha256"]:
        return PromptCheck(0, 0, ["the run's chat template was changed after training (chat_template.jinja)"])
    rows = held_out_rows(served.run)
    rows = rows[:: max(1, -(-len(rows) // ROWS))]
    engine_api = served.engine_api
    compared = [row for row in rows if engine_api.supports_tools or not row.tools] or probes(served.run)

    def render(messages: Sequence[Message], tools: Any) -> list[int]:
        return engine_api.prompt_ids(served, plain_messages(messages), tools)

    encoded = list(encode_each(served.tokenizer, compared, stop=served.stop))
    different_rows = prompt_differences(render, compared, encoded, served.tokenizer.decode)
    differences = [f"row {line}: {reason}" for line, reason in different_rows]
    longest = engine_api.context(served) - 1
    prompts = [(row.answers[-1][0], at) for at, row in enumerate(encoded)]
    prompts = sorted((length, at) for length, at in prompts if length <= longest and not compared[at].tools)
    for length, at in {prompts[i] for i in (0, len(prompts) // 2, -1)} if prompts and not differences else ():
        last = trained_answers(compared[at].messages)[-1]
        answered = engine_api.answered_prompt(served, plain_messages(compared[at].messages[:last]))
        if answered not in (encoded[at].input_ids[:length], length):
            differences.append(f"row {compared[at].line}: the prompt that is answered is not the one that is rendered")
    refused = 0 if engine_api.supports_tools else sum(bool(row.tools) for row in rows)
    return PromptCheck(len(compared), refused, differences)


def probes(run: Run) -> list[Row]:
    """Rows to compare where none was held out that the engine takes: the config's prompts, each with an answer."""
    system = run.manifest()["data"]["system_message"]
    opening: list[Message] = [{"role": "system", "content": system}] if system else []
    prompts = configured_prompts(run.config()) or [[*opening, {"role": "user", "content": "Привет! Как дела?"}]]
    return [Row(at, [*prompt, {"role": "assistant", "content": "Да."}]) for at, prompt in enumerate(prompts, 1)]
