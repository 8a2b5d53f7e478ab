"""Any chat template → token ids and loss mask, by rendering prefixes of the conversation.

For an answer at index i three renderings are compared as text:

    prompt   messages[:i] with the generation prompt: exactly what a server feeds the model before it answers
    upto     messages[:i+1]
    full     the whole conversation

Where upto begins with prompt, and full with upto as far as its end-of-turn token, the trained tokens are those from
the end of prompt to that token, it included. No template is known by name and none is edited, so training equals
serving by construction. Where the renderings do not nest, the row is trained on its last answer alone: the prompt as
served, then what upto says after it (`_continuation`). So it goes with a template that rewrites earlier turns (strips
old thinking, say), moves the system message, or begins an answer otherwise than its generation prompt does. What
cannot be told without doubt is a named error, and so is a message that the template leaves out.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple, TypeVar

from .chats.rows import Message, Row, is_trained, text_of
from .errors import BaseError, DataError

IGNORED = -100  # torch's cross entropy skips labels of this value
OPENED = re.compile(r"<\|?(\w+)>")  # the beginning of a block in an answer, such as <think>
THOUGHT = re.compile(r"\s*<(\w+)>(.*?)</\1>\s*(.*)", re.DOTALL)
T = TypeVar("T")


class Encoded(NamedTuple):
    """A row as the model sees it."""

    input_ids: list[int]
    labels: list[int]
    """Equal to input_ids where trained, -100 elsewhere; same length."""
    end_of_turn: int
    """The token that ends the assistant's turn."""
    last_turn_only: bool
    """The template rewrites earlier turns, so only the last one is trained."""


class _UnreadableError(DataError):
    """The template does not take the messages in this form; it may in another."""


class _Chat(NamedTuple):
    """A conversation in one of the forms that templates read."""

    tokenizer: Any
    messages: list[Message]
    tools: Any
    name: str
    """Of the conversation, for errors: `row at line 7`."""
    stop: frozenset[int]
    """Tokens at which the base stops."""
    special: frozenset[int]
    """Special tokens; the one for unknown text stands for words and is not among them."""

    def text(self, messages: list[Message], *, answer_next: bool = False) -> str:
        """The messages in the template; with `answer_next` up to where the assistant's answer begins."""
        from jinja2 import UndefinedError

        if not self.tokenizer.chat_template:
            name = self.tokenizer.name_or_path
            raise BaseError(f"{name} has no chat template: choose an instruct model, or its chat version")
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, tools=self.tools, tokenize=False, add_generation_prompt=answer_next
            )
            return text
        except (TypeError, UndefinedError) as error:
            raise _UnreadableError(f"{self.name}: the chat template refuses it: {error}") from None
        except Exception as error:  # jinja2, or whatever a template's own raise_exception throws
            reason = str(error)
        if messages[0]["role"] == "system" and len(messages) > 1:
            self.text(messages[1:], answer_next=answer_next)  # raises where the system message is not to blame
            raise DataError(
                f"{self.name}: the chat template refuses a system message ({reason}): put its text at the beginning "
                "of the first user message, in the rows and wherever the model is asked"
            )
        raise DataError(f"{self.name}: the chat template refuses it: {reason}")

    def prompt(self, index: int) -> str:
        return self.text(self.messages[:index], answer_next=True)

    def upto(self, index: int) -> str:
        return self.text(self.messages[: index + 1])

    def ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids


def encode_row(tokenizer: Any, row: Row, *, assistant_only_loss: bool = True, stop: Collection[int] = ()) -> Encoded:
    """Ids and labels of one conversation; DataError names the row that the template cannot render.

    `stop`: ids at which the base stops besides the tokenizer's eos (eos_token_id in its generation_config.json). They
    decide where a template ends an answer only by what opens the next turn.
    """
    return encode_shown(tokenizer, row, assistant_only_loss=assistant_only_loss, stop=stop)[0]


def encode_shown(
    tokenizer: Any, row: Row, *, assistant_only_loss: bool = True, stop: Collection[int] = ()
) -> tuple[Encoded, list[Message]]:
    """`encode_row`, and the messages in the form that the template took."""
    answers = [index for index, message in enumerate(row.messages) if is_trained(message)]
    if not answers:
        raise DataError(f"row at line {row.line}: every answer has weight 0, there is nothing to train on")

    def encode(chat: _Chat) -> tuple[Encoded, list[Message]]:
        encoded = _encode(chat, answers)
        return encoded if assistant_only_loss else encoded._replace(labels=list(encoded.input_ids)), chat.messages

    return _in_some_form(encode, tokenizer, row.messages, row.tools, f"row at line {row.line}", stop)


def render(tokenizer: Any, messages: Collection[Message], *, tools: Any = None) -> list[int]:
    """Token ids of the prompt to the next answer, tokenized as a whole, as servers do."""

    def prompt(chat: _Chat) -> list[int]:
        text = chat.prompt(len(chat.messages))
        _require_context(chat, len(chat.messages), text)
        return chat.ids(text)

    return _in_some_form(prompt, tokenizer, messages, tools, "conversation")


def template_hash(tokenizer: Any) -> str:
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()


def _in_some_form(
    use: Callable[[_Chat], T],
    tokenizer: Any,
    messages: Collection[Message],
    tools: Any,
    name: str,
    stop: Collection[int] = (),
) -> T:
    """`use` of the conversation as most templates read it, else in the first other form that the template takes."""
    special = _marked_special(tokenizer, len(tokenizer)) | {*tokenizer.all_special_ids, *stop}
    special -= {tokenizer.unk_token_id}
    stops = frozenset({*stop, tokenizer.eos_token_id} - {None})
    calls = any("tool_calls" in message for message in messages)
    thoughts = any(THOUGHT.match(text_of(message)) for message in messages if message["role"] == "assistant")
    refusals = []
    for form in product((False, True), (False, True)[: 1 + calls], (False, True)[: 1 + thoughts]):
        shown = [_for_template(message, *form) for message in messages]
        try:
            return use(_Chat(tokenizer, shown, tools, name, stops, special))
        except _UnreadableError as error:
            refusals.append(error)
    raise refusals[0]


@lru_cache(maxsize=8)
def _marked_special(tokenizer: Any, length: int) -> frozenset[int]:
    """Added tokens that are special, of a tokenizer of that length (some have thousands of them)."""
    return frozenset(token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special)


def _for_template(message: Message, in_parts: bool, arguments_as_text: bool, thought_apart: bool) -> Message:
    """The message as servers hand it to a template, without its weight."""
    shown = {key: value for key, value in message.items() if key != "weight"}
    text = text_of(message)
    if message["role"] == "developer":
        shown["role"] = "system"
    if thought_apart and message["role"] == "assistant" and (thought := THOUGHT.fullmatch(text)):
        shown["reasoning_content"], text = thought[2].strip(), thought[3]
    shown["content"] = [{"type": "text", "text": text}] if in_parts else text
    if "tool_calls" in message and not arguments_as_text:
        shown["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"] or "{}")}}
            for call in message["tool_calls"]
        ]
    return shown


def _encode(chat: _Chat, answers: list[int]) -> Encoded:
    found = _together(chat, answers)
    text, spans = found or _alone(chat, answers[-1])
    ids, cuts = _tokenize(chat, text, spans)
    if not cuts:
        found, (text, spans) = None, _alone(chat, answers[-1])
        ids, cuts = _tokenize(chat, text, spans)
    _require_context(chat, answers[-1], text)
    bos = chat.tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        raise BaseError(f"{chat.tokenizer.name_or_path}: its chat template writes {chat.tokenizer.bos_token} twice")
    labels = [IGNORED] * len(ids)
    for start, end in cuts:
        labels[start:end] = ids[start:end]
    return Encoded(ids, labels, ids[cuts[-1][1] - 1], last_turn_only=found is None and len(answers) > 1)


def _together(chat: _Chat, answers: list[int]) -> tuple[str, list[tuple[int, int]]] | None:
    """The whole conversation and [start, end) of every answer in its characters; None where renderings do not nest."""
    last = len(chat.messages) - 1
    full = chat.upto(last)
    spans = []
    for index in answers:
        prompt = chat.prompt(index)
        upto = full if index == last else chat.upto(index)
        if not upto.startswith(prompt) or upto == prompt:
            return None
        answered = prompt + _said(chat, index, prompt, upto[len(prompt) :])
        if index == last and len(answered) > len(full):
            full = answered
        if not full.startswith(answered):
            return None
        spans.append((len(prompt), len(answered)))
    return full, spans


def _alone(chat: _Chat, index: int) -> tuple[str, list[tuple[int, int]]]:
    """The answer at `index` after its prompt as served, and its [start, end)."""
    prompt = chat.prompt(index)
    text = prompt + _said(chat, index, prompt, _continuation(chat, index, prompt, chat.upto(index)))
    return text, [(len(prompt), len(text))]


def _continuation(chat: _Chat, index: int, prompt: str, upto: str) -> str:
    """What follows the prompt as served: the answer as rendered, also where the rendering gives the prompt otherwise.

    Both are compared from the text of the message before the answer on; `left` is what only the prompt has there.
    """
    content = text_of(chat.messages[index])
    if upto == prompt:  # the template leaves the last answer to the model altogether: it ends where the base stops
        return content + (chat.tokenizer.eos_token or "")
    if upto.startswith(prompt):
        return upto[len(prompt) :]
    before = text_of(chat.messages[index - 1]).strip() if index else ""
    tail = prompt[max(0, prompt.rfind(before)) :]
    places = [found.start() for found in re.finditer(re.escape(before), upto)] if before else [0]
    shared, at = max(((_shared(tail, upto[at:]), at) for at in places), default=(0, 0))
    left, rest = tail[shared:], upto[at + shared :]
    if shared > len(before):
        if not left.strip():
            return rest
        start, end = _end_of_turn(chat, index, rest) or (0, 0)
        body, opened = rest[:start], left.strip()
        if content.lstrip().startswith(opened) and content.rstrip().endswith(body.strip()):
            # The prompt begins the answer's thought, which the template drops: the row has it whole
            thought = content.lstrip().removeprefix(opened).removeprefix(left[len(left.rstrip()) :])
            return thought.rstrip() + body[len(body.rstrip()) :] + rest[start:end]
        if end and body.lstrip().startswith(content.strip()):  # the prompt holds more: an empty thought, say
            for block in OPENED.finditer(left):
                if f"</{block[1]}>" not in left and f"<{block[1]}|>" not in left:
                    raise DataError(
                        f"{chat.name}: the chat template's prompt opens {block[0]}, which the answer never closes: "
                        f"begin the answers with {block[0]} and its end, empty if need be, or use another template"
                    )
            return rest if rest.startswith(content) else rest.lstrip()
    raise DataError(
        f"{chat.name}: the chat template renders its prompt differently once the last answer follows, "
        "so training could not equal serving"
    )


def _shared(one: str, other: str) -> int:
    """Length of the beginning that both have."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _said(chat: _Chat, index: int, prompt: str, turn: str) -> str:
    """What the model says of a rendered turn, to its end of turn; an error where that is not the row's answer."""
    message = chat.messages[index]
    content, calls = text_of(message), message.get("tool_calls", ())
    cut = _end_of_turn(chat, index, turn)
    said = turn[: cut[1]] if cut else turn + _opening_of_next(chat, index)
    words = [call["function"]["name"] for call in calls]
    words += re.findall(r"\w+", content)[-1:] + re.findall(r"\w+", message.get("reasoning_content", ""))[-1:]
    if not all(word in said for word in words):
        what = "a call" if calls else "the text"
        raise _UnreadableError(f"{chat.name}: the chat template leaves out {what} of message {index + 1}, an answer")
    block = OPENED.match(content.lstrip())
    if block and said.count(block[0]) + prompt.rstrip().endswith(block[0]) > content.count(block[0]):
        raise _UnreadableError(f"{chat.name}: the chat template writes another {block[0]} before message {index + 1}'s")
    return said


def _require_context(chat: _Chat, length: int, text: str) -> None:
    """An error where one of the first messages is not in the text: no function it calls, none of its longest words."""
    for index, message in enumerate(chat.messages[:length]):
        words = [call["function"]["name"] for call in message.get("tool_calls", ())]
        if message["role"] != "assistant":  # of an earlier answer a template may drop much
            words = sorted(set(re.findall(r"\w+", text_of(message))), key=len)[-3:]
        if words and not any(word in text for word in words):
            raise _UnreadableError(
                f"{chat.name}: the chat template leaves out message {index + 1} ({message['role']}): "
                "put its text into a user message, or use another template"
            )


def _end_of_turn(chat: _Chat, index: int, turn: str) -> tuple[int, int] | None:
    """[start, end) of the end-of-turn token in a rendered answer; None where no special token ends it.

    That is the first special token after the last word, with those that follow it at once. What comes later (a line
    break, the end of the whole conversation) is the template's to write and not the model's.
    """
    encoded = chat.tokenizer(turn, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    words = [at for at, token in enumerate(ids) if token not in chat.special and turn[slice(*offsets[at])].strip()]
    start = words[-1] + 1 if words else 0
    while start < len(ids) and ids[start] not in chat.special:  # white space that the answer itself ends on
        start += 1
    if "tool_calls" in chat.messages[index]:  # a call may close with special tokens of its own
        start = next((at for at in range(start, len(ids)) if ids[at] in chat.stop), start)
    if start == len(ids):
        return None
    end = start
    while end < len(ids) and ids[end] in chat.special:
        end += 1
    return int(offsets[start][0]), int(offsets[end - 1][1])


def _opening_of_next(chat: _Chat, index: int) -> str:
    """The token that opens the turn after the answer at `index`: it ends the answer if the base stops at it."""
    parts = isinstance(chat.messages[index]["content"], list)
    one, two = ([{"type": "text", "text": text}] if parts else text for text in ("probe-one", "probe-two"))
    reply: Message = {"role": "user", "content": two}
    if calls := chat.messages[index].get("tool_calls"):
        reply |= {"role": "tool", "tool_call_id": calls[-1]["id"], "name": calls[-1]["function"]["name"]}
    rendered = chat.text([*chat.messages[:index], {**chat.messages[index], "content": one}, reply])
    between = rendered[rendered.rfind("probe-one") : rendered.rfind("probe-two")]
    token = next((token for token in chat.ids(between) if token in chat.stop), None)
    if token is None:
        raise BaseError(
            f"{chat.tokenizer.name_or_path}: its chat template ends the assistant's turn with no special token, and "
            "what opens the next turn is none that the base stops at (eos_token_id in generation_config.json): "
            "the model would never learn to stop"
        )
    return str(chat.tokenizer.convert_ids_to_tokens(token))


def _tokenize(chat: _Chat, text: str, spans: list[tuple[int, int]]) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids of the text and [start, end) of every span in them.

    No spans where a token lies across the beginning of one that others follow: their prompts are served as a whole.
    """
    ids = chat.ids(text)
    prompts = [chat.ids(text[:start]) for start, _ in spans]
    prompt, (start, end) = prompts[-1], spans[-1]
    if any(prompt[: len(earlier)] != earlier for earlier in prompts):
        return ids, []
    ends = [len(chat.ids(text[:end])) for _, end in spans]
    if ids[: len(prompt)] != prompt:
        # A token lies across, as where an answer begins with a line break. The model gets the prompt's tokens first
        # and can only answer after them, so the pieces are tokenized apart.
        apart = prompt + chat.ids(text[start:])
        if chat.tokenizer.decode(apart) != chat.tokenizer.decode(ids):
            raise DataError(f"{chat.name}: an answer cannot be told from its prompt in tokens: trim its spaces")
        ids, ends[-1] = apart, len(prompt) + len(chat.ids(text[start:end]))
    return ids, [(len(prompt), end) for prompt, end in zip(prompts, ends, strict=True)]
