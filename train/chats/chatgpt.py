"""Reads conversations.json of ChatGPT's export: each conversation is a tree of messages, of which one branch was last.

Its two speakers have the ids `user` and `assistant`. What stands in other branches is counted, not read.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from train.chats.json_streams import objects_in_lists, seconds_in, text_or_none
from train.chats.messages import Chat, ChatMessage, drop_reason, normalize_name
from train.chats.sources import Sample, Source
from train.core.errors import GovorError

LACKS = "the speakers are `user` and `assistant`; of answers that were asked for again the last is taken"
TEXTS = ("text", "multimodal_text")
CITATION = re.compile(r" ?\ue200[^\ue201]{0,400}\ue201| ?【\d+(?::\d+)?†[^】\n]{0,200}】")
"""What the web page shows as a number beside the text."""


def fits(sample: Sample) -> bool:
    return sample.start.startswith("[") and re.search(r'"mapping"\s*:\s*\{', sample.text) is not None


def read_chats(files: Sequence[Source]) -> Iterator[ChatMessage | Chat]:
    """Each conversation's messages in their order, and the conversation."""
    found = False
    for fields in objects_in_lists(files):
        found = True
        yield from _conversation(fields)
    if not found:
        raise GovorError(f"{files[0]}: no conversations of ChatGPT in it")


def _conversation(fields: dict[str, Any]) -> Iterator[ChatMessage | Chat]:
    mapping = fields.get("mapping")
    nodes = {key: node for key, node in mapping.items() if isinstance(node, dict)} if isinstance(mapping, dict) else {}
    branch = _branch(nodes, fields.get("current_node"))
    others = [key for key in nodes if key not in set(branch)]
    count, time = 0, seconds_in(fields.get("create_time")) or 0
    for keys, reason in ((branch, None), (others, "other_branch")):
        for key in keys:
            message = nodes[key].get("message")
            if isinstance(message, dict):
                read = _message(message, time)
                count, time = count + 1, read.time
                yield read._replace(drop_reason=reason or read.drop_reason)
    yield Chat(normalize_name(text_or_none(fields.get("title")) or "") or None, "personal_chat", None, count)


def _branch(nodes: dict[str, Any], last: Any) -> list[str]:
    """The keys from the root to the last message that was shown; to the latest leaf where that is not told."""
    if not isinstance(last, str) or last not in nodes:
        leaves = [key for key, node in nodes.items() if not node.get("children")]
        last = leaves[-1] if leaves else None
    branch: list[str] = []
    seen = set()
    while isinstance(last, str) and last in nodes and last not in seen:
        branch.append(last)
        seen.add(last)
        last = nodes[last].get("parent")
    return branch[::-1]


def _words(part: Any) -> str:
    """What a part says: a text, or what was said aloud; empty for a picture."""
    said = part.get("text") if isinstance(part, dict) and part.get("content_type") == "audio_transcription" else part
    return said if isinstance(said, str) else ""


def _message(fields: dict[str, Any], last_time: int) -> ChatMessage:
    author, content, more = (
        value if isinstance(value, dict) else {} for value in map(fields.get, ("author", "content", "metadata"))
    )
    role = author.get("role")
    parts = content.get("parts")
    parts = parts if isinstance(parts, list) else []
    text = CITATION.sub("", "\n".join(filter(None, map(_words, parts)))).strip()
    media = "фото" if not text and any(isinstance(part, dict) for part in parts) else None
    sender = role if role in ("user", "assistant") else None
    reason = drop_reason(sender, text, media)
    hidden = more.get("is_visually_hidden_from_conversation") is True or fields.get("recipient") not in (None, "all")
    if sender is None or hidden or content.get("content_type", "text") not in TEXTS or (not text and not media):
        reason = "service"
    seconds = seconds_in(fields.get("create_time"))
    return ChatMessage(last_time if seconds is None else seconds, sender, None, text, media=media, drop_reason=reason)
