"""Reads conversations.json of Claude's export: a list of conversations, each with its messages in the order of time.

Its two speakers have the ids `human` and `assistant`. Newer exports name for each message the one before it, so that
of messages that were edited and answers that were asked for again the last branch is read; the others are counted.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from train.chats.json_streams import objects_in_lists, seconds_of_iso, text_or_none
from train.chats.messages import Chat, ChatMessage, drop_reason, normalize_name
from train.chats.sources import Sample, Source
from train.core.errors import GovorError

LACKS = "the speakers are `human` and `assistant`; of answers that were asked for again the last is taken"


def fits(sample: Sample) -> bool:
    return sample.start.startswith("[") and re.search(r'"chat_messages"\s*:\s*\[', sample.text) is not None


def read_chats(files: Sequence[Source]) -> Iterator[ChatMessage | Chat]:
    """Each conversation's messages in their order, and the conversation."""
    found = False
    for fields in objects_in_lists(files):
        found = True
        yield from _conversation(fields)
    if not found:
        raise GovorError(f"{files[0]}: no conversations of Claude in it")


def _conversation(fields: dict[str, Any]) -> Iterator[ChatMessage | Chat]:
    messages = fields.get("chat_messages")
    messages = [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
    last = _last_branch(messages, fields.get("current_leaf_message_uuid"))
    time = seconds_of_iso(fields.get("created_at"))[0] or 0
    for message in messages:
        read = _message(message, time)
        time = read.time
        in_branch = last is None or message.get("uuid") in last
        yield read if in_branch else read._replace(drop_reason="other_branch")
    title = normalize_name(text_or_none(fields.get("name")) or "") or None
    yield Chat(title, "personal_chat", None, len(messages))


def _last_branch(messages: list[dict[str, Any]], last: Any) -> set[str] | None:
    """The ids from the first message to the last that was shown; None where messages do not say what they follow."""
    before = {message.get("uuid"): message.get("parent_message_uuid") for message in messages}
    if not messages or not all(isinstance(id_, str) for pair in before.items() for id_ in pair):
        return None
    at = last if isinstance(last, str) and last in before else messages[-1]["uuid"]
    branch = set[str]()
    while at in before and at not in branch:
        branch.add(at)
        at = before[at]
    return branch


def _message(fields: dict[str, Any], last_time: int) -> ChatMessage:
    sender = fields.get("sender") if fields.get("sender") in ("human", "assistant") else None
    content = fields.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    said = [part["text"] for part in parts if part.get("type") == "text" and isinstance(part.get("text"), str)]
    text = "\n".join(filter(None, said)).strip() if parts else (text_or_none(fields.get("text")) or "").strip()
    media = "файл" if not text and (fields.get("attachments") or fields.get("files")) else None
    seconds = seconds_of_iso(fields.get("created_at"))[0]
    reason = "service" if sender is None else drop_reason(sender, text, media)
    return ChatMessage(last_time if seconds is None else seconds, sender, None, text, media=media, drop_reason=reason)
