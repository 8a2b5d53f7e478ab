"""Prompts to compare two engines by: those before the last answers of held-out rows, or the config's own."""

from typing import Any

from train.chats.rows import Message, Row, configured_prompts, trained_answers
from train.core.runs import Run
from train.encoding.chat_template import open_conversation
from train.encoding.held_out import held_out_rows


def rows_without_tools(run: Run) -> list[Row]:
    """The held-out rows that offer the model no tools."""
    return [row for row in held_out_rows(run) if not row.tools]


def comparison_prompts(run: Run, limit: int) -> list[list[Message]]:
    """The messages before an answer, of at least one and at most `limit` conversations."""
    rows = rows_without_tools(run)[:limit]
    held_out = [row.messages[: trained_answers(row.messages)[-1]] for row in rows]
    return (held_out or configured_prompts(run.config()))[:limit] or [[Message(role="user", content="Привет!")]]


def prompt_of(tokenizer: Any, messages: list[Message]) -> str:
    """The text that a server feeds the model before it answers these messages."""
    with open_conversation(tokenizer, messages, None, "conversation") as (chat, _):
        return chat.prompt(len(messages))
