"""Prompts to compare two engines by: those before the last answers of held-out rows, or the config's own."""

from typing import Any

from train.chats.readers import read_rows
from train.chats.rows import Message, Row, is_trained
from train.core.runs import Run
from train.encoding.chat_template import opened


def held_out_rows(run: Run) -> list[Row]:
    """Held-out rows without tools."""
    if not run.held_out_file.is_file() or not run.held_out_file.stat().st_size:
        return []
    return [row for row in read_rows(run.held_out_file) if not row.tools]


def asked(run: Run, most: int) -> list[list[Message]]:
    """Messages before an answer, at most so many conversations; never none."""
    rows = held_out_rows(run)[:most]
    before = [row.messages[: max(at for at, m in enumerate(row.messages) if is_trained(m))] for row in rows]
    prompts = [[message.model_dump() for message in prompt] for prompt in run.config().prompts]
    return (before or prompts)[:most] or [[{"role": "user", "content": "Привет!"}]]


def prompt_of(tokenizer: Any, messages: list[Message]) -> str:
    """What a server feeds the model before it answers."""
    with opened(tokenizer, messages, None, "conversation") as (chat, _):
        return chat.prompt(len(messages))
