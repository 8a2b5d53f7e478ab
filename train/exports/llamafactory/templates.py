"""Which of LLaMA-Factory's chat templates renders a row as the model's own template does: measured, not guessed.

LLaMA-Factory has its templates in code, as pieces around the content, and tokenizes each piece for itself. The pieces
of those that matter here (version 0.9.5) are written down below; what they give is compared with the ids trained.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from train.chats.rows import Row, text_of
from train.encoding.loss_mask import IGNORE_INDEX, Encoded
from train.encoding.rows import Encoding

BOS, EOS = "\0bos", "\0eos"
"""Slots that stand for the tokenizer's own tokens."""
CONTENT_SLOT = "{{content}}"
COMPARED_ROWS = 200
"""A template is judged by so many rows, at most."""
Slots = tuple[str, ...]
"""LLaMA-Factory's word for the pieces of a template, in the order in which they stand."""


@dataclass(frozen=True)
class Template:
    """One of LLaMA-Factory's templates."""

    name: str
    user: Slots
    """The user message and all that the model is fed before it answers."""
    assistant: Slots = (CONTENT_SLOT, EOS)
    """The answer and what follows the end of the turn: all of it is learned."""
    system: Slots = (CONTENT_SLOT,)
    prefix: Slots = ()
    default_system: str = ""
    """Written where a row has no system message."""
    system_in_user: bool = False
    """Whether the system message stands inside the first user message."""
    thought_words: tuple[str, str] | None = None
    """Beginning and end of a thought; answers without a thought get an empty one."""
    needs_image_processor: bool = False
    """Whether it refuses even plain text where the base brings no image processor."""
    model_types: tuple[str, ...] = ()
    """`model_type` of the bases that it is meant for; they decide between templates that render alike."""


def _chatml(name: str, **more: Any) -> Template:
    return Template(
        name,
        ("<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n",),
        ("{{content}}<|im_end|>\n",),
        ("<|im_start|>system\n{{content}}<|im_end|>\n",),
        **more,
    )


def _gemma(name: str, **more: Any) -> Template:
    return Template(
        name,
        ("<start_of_turn>user\n{{content}}<end_of_turn>\n<start_of_turn>model\n",),
        ("{{content}}<end_of_turn>\n",),
        ("{{content}}\n\n",),
        (BOS,),
        system_in_user=True,
        **more,
    )


THINK = ("<think>\n", "\n</think>\n\n")
TEMPLATES = (
    _chatml("qwen3_nothink", model_types=("qwen3", "qwen3_moe")),
    _chatml("qwen3", thought_words=THINK, model_types=("qwen3", "qwen3_moe")),
    _chatml(
        "qwen",
        default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        model_types=("qwen2",),
    ),
    _chatml("qwen3_5_nothink", needs_image_processor=True, model_types=("qwen3_5", "qwen3_5_text", "qwen3_5_moe")),
    _chatml("qwen3_5", thought_words=THINK, needs_image_processor=True,
            model_types=("qwen3_5", "qwen3_5_text", "qwen3_5_moe")),
    Template(
        "llama3",
        (
            "<|start_header_id|>user<|end_header_id|>\n\n{{content}}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("{{content}}<|eot_id|>",),
        ("<|start_header_id|>system<|end_header_id|>\n\n{{content}}<|eot_id|>",),
        (BOS,),
        model_types=("llama",),
    ),
    _gemma("gemma3", needs_image_processor=True, model_types=("gemma3", "gemma3_text")),
    _gemma("gemma", model_types=("gemma", "gemma2")),
    Template(
        "gemma4",
        ("<|turn>user\n{{content}}<turn|>\n<|turn>model\n",),
        ("{{content}}<turn|>\n",),
        ("<|turn>system\n<|think|>{{content}}<turn|>\n",),
        (BOS,),
        default_system="You are a helpful assistant.",
        thought_words=("<|channel>thought\n", "<channel|>"),
        needs_image_processor=True,
        model_types=("gemma4", "gemma4_text"),
    ),
    Template("ministral", ("[INST]{{content}}[/INST]",), (CONTENT_SLOT, EOS), ("{{content}}\n\n",), (BOS,),
             system_in_user=True, model_types=("mistral", "ministral")),
    Template("mistral", ("[INST] {{content}}[/INST]",), (" {{content}}", EOS), ("{{content}}\n\n",), (BOS,),
             system_in_user=True, model_types=("mistral",)),
    Template("mistral_small", ("[INST]{{content}}[/INST]",), (CONTENT_SLOT, EOS),
             ("[SYSTEM_PROMPT]{{content}}[/SYSTEM_PROMPT]",), (BOS,), needs_image_processor=True,
             model_types=("mistral3",)),
    Template(
        "phi4",
        ("<|im_start|>user<|im_sep|>{{content}}<|im_end|><|im_start|>assistant<|im_sep|>",),
        ("{{content}}<|im_end|>",),
        ("<|im_start|>system<|im_sep|>{{content}}<|im_end|>",),
        model_types=("phi3",),
    ),
    Template(
        "phi",
        ("<|user|>\n{{content}}<|end|>\n<|assistant|>\n",),
        ("{{content}}<|end|>\n",),
        ("<|system|>\n{{content}}<|end|>\n",),
        model_types=("phi3",),
    ),
    Template(
        "cohere",
        (
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{{content}}<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        ),
        system=("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{content}}<|END_OF_TURN_TOKEN|>",),
        prefix=(BOS,),
        model_types=("cohere",),
    ),
    Template("deepseek3", ("<｜User｜>{{content}}<｜Assistant｜>",), prefix=(BOS,), model_types=("deepseek_v3",)),
    _chatml("chatml"),
)  # fmt: skip


class TemplateChoice(NamedTuple):
    """A template of LLaMA-Factory and how it renders the rows that were compared."""

    template: Template
    thinking: bool
    """LLaMA-Factory's `enable_thinking`; without effect where the template has no thought words."""
    same_prompts: int
    """Rows whose last answer gets the same prompt ids."""
    same_ids: int
    """Rows with the same ids to the end of the last turn."""
    same_labels: int
    """Of these, those that train the same tokens."""
    compared: int
    """Rows that were compared."""


def choose_template(
    tokenizer: Any, encoding: Encoding, model_type: str, *, image_processor: bool = False
) -> TemplateChoice | None:
    """The template that renders most rows as in training; None where none gives even one row the prompt of training.

    Rows with tools are not compared. `image_processor`: whether the base brings one.
    """
    last_turn = encoding.report.last_turn_only > 0
    pairs = [pair for pair in zip(encoding.rows, encoding.encoded, strict=True) if _alternates(pair[0])][:COMPARED_ROWS]
    choices = [
        _compare(tokenizer, template, thinking, pairs, last_turn=last_turn)
        for template in sorted(TEMPLATES, key=lambda template: model_type not in template.model_types)
        if image_processor or not template.needs_image_processor
        for thinking in ((True, False) if template.thought_words else (True,))
    ]
    best = max(
        choices, key=lambda choice: (choice.same_prompts, choice.same_ids, choice.same_labels)
    )  # the first of equals
    return best if best.same_prompts else None


def _compare(
    tokenizer: Any, template: Template, thinking: bool, pairs: Sequence[tuple[Row, Encoded]], *, last_turn: bool
) -> TemplateChoice:
    same_prompts = same_ids = same_labels = 0
    for row, encoded in pairs:
        trained_prompt = encoded.input_ids[: encoded.answers[-1][0]]
        same_prompts += prompt_ids(tokenizer, template, row, thinking=thinking) == trained_prompt
        ids, labels = row_ids(tokenizer, template, row, thinking=thinking, last_turn=last_turn)
        same_ids += ids == encoded.input_ids
        same_labels += ids == encoded.input_ids and labels == encoded.labels
    return TemplateChoice(template, thinking, same_prompts, same_ids, same_labels, len(pairs))


def prompt_ids(tokenizer: Any, template: Template, row: Row, *, thinking: bool = True) -> list[int]:
    """The ids that LLaMA-Factory feeds the model before the row's last answer."""
    system, turns = _turns(row)
    turns = [*((question, _without_thought(template, answer)) for question, answer in turns[:-1]), turns[-1]]
    parts = list(_turn_ids(tokenizer, template, system, turns))
    ids = [token for question, answer in parts[:-1] for token in (*question, *answer)] + parts[-1][0]
    return ids if thinking or not template.thought_words else ids + _ids(tokenizer, "".join(template.thought_words))


def row_ids(
    tokenizer: Any, template: Template, row: Row, *, thinking: bool = True, last_turn: bool = False
) -> tuple[list[int], list[int]]:
    """(ids, labels) that LLaMA-Factory makes of a row. `last_turn`: only the last answer is learned."""
    system, turns = _turns(row)
    strip = [not thinking or (last_turn and index < len(turns) - 1) for index in range(len(turns))]
    turns = [
        (question, _without_thought(template, answer) if off else answer)
        for (question, answer), off in zip(turns, strip, strict=True)
    ]
    ids, labels = list[int](), list[int]()
    for index, (question, answer) in enumerate(_turn_ids(tokenizer, template, system, turns)):
        last = index == len(turns) - 1
        words = template.thought_words
        if words and (last or not last_turn) and not any(word.strip() in turns[index][1] for word in words):
            empty = _ids(tokenizer, "".join(words))
            question, answer = (question, empty + answer) if thinking else (question + empty, answer)
        ids += question + answer
        labels += [IGNORE_INDEX] * len(question) + ([IGNORE_INDEX] * len(answer) if last_turn and not last else answer)
    return ids, labels


def _alternates(row: Row) -> bool:
    """Whether user messages and answers alternate in the row, behind a system message or none."""
    roles = [message["role"] for message in row.messages]
    start = roles[0] in ("system", "developer")
    turns = roles[start:]
    return not row.tools and bool(turns) and turns == ["user", "assistant"] * (len(turns) // 2) and not any(
        message.get("tool_calls") for message in row.messages
    )  # fmt: skip


def _turns(row: Row) -> tuple[str, list[tuple[str, str]]]:
    """(system message or "", (question, answer) of each turn)."""
    start = row.messages[0]["role"] in ("system", "developer")
    texts = [text_of(message) for message in row.messages]
    turns = texts[start:]
    return texts[0] if start else "", list(zip(turns[::2], turns[1::2], strict=True))


def _turn_ids(
    tokenizer: Any, template: Template, system: str, turns: Sequence[tuple[str, str]]
) -> Iterator[tuple[list[int], list[int]]]:
    """(ids that the model is fed, ids that it answers) of each turn."""
    system = system or template.default_system
    for index, (question, answer) in enumerate(turns):
        slots: list[str] = []
        if index == 0:
            slots += template.prefix
            filled = _filled(template.system, system) if system else []
            if template.system_in_user:
                question = "".join(filled) + question
            else:
                slots += filled
        fed = [*slots, *_filled(template.user, question)]
        yield _ids(tokenizer, *fed), _ids(tokenizer, *_filled(template.assistant, answer))


def _filled(slots: Slots, content: str) -> list[str]:
    return [slot.replace(CONTENT_SLOT, content) for slot in slots]


def _ids(tokenizer: Any, *slots: str) -> list[int]:
    """The ids of the slots, every slot tokenized for itself."""
    tokens = {BOS: tokenizer.bos_token_id, EOS: tokenizer.eos_token_id}
    ids: list[int] = []
    for slot in slots:
        if slot in tokens:
            ids += [] if tokens[slot] is None else [tokens[slot]]
        elif slot:
            ids += tokenizer.encode(slot, add_special_tokens=False)
    return ids


def _without_thought(template: Template, answer: str) -> str:
    if not template.thought_words:
        return answer
    begin, end = template.thought_words
    at, behind = answer.find(begin), answer.find(end)
    return answer[:at] + answer[behind + len(end) :].lstrip("\n") if 0 <= at < behind else answer
