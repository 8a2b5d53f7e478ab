"""The loss mask covers exactly the assistant's tokens and their end-of-turn token, whatever the template."""

import copy

import pytest

from train.chats.rows import Row
from train.core.errors import BaseError, DataError
from train.encoding.loss_mask import IGNORE_INDEX, encode_row, render

SYSTEM = {"role": "system", "content": "Ты Наташа."}
DIALOGUE = [
    SYSTEM,
    {"role": "user", "content": "Я устал\nот всего"},
    {"role": "assistant", "content": "От чего именно? 🙂"},
    {"role": "user", "content": "От себя."},
    {"role": "assistant", "content": "Тогда отдохни  от себя.\n"},
]


def trained_text(tokenizer, encoded) -> str:
    return tokenizer.decode([token for token in encoded.labels if token != IGNORE_INDEX])


def with_template(tokenizer, template: str | None):
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def test_mask_is_the_answers_and_their_end(tokenizer):
    encoded = encode_row(tokenizer, Row(1, DIALOGUE))
    assert trained_text(tokenizer, encoded) == ("От чего именно? 🙂<|im_end|>" + DIALOGUE[-1]["content"] + "<|im_end|>")
    assert len(encoded.labels) == len(encoded.input_ids)
    assert all(label in (IGNORE_INDEX, token) for label, token in zip(encoded.labels, encoded.input_ids, strict=True))
    assert encoded.end_of_turn == tokenizer.eos_token_id
    assert not encoded.last_turn_only


def test_ids_are_what_a_server_would_feed(tokenizer):
    """Up to each answer the training ids equal the rendered prompt, tokenized by itself."""
    encoded = encode_row(tokenizer, Row(1, DIALOGUE))
    for index in (2, 4):
        prompt = render(tokenizer, DIALOGUE[:index])
        assert encoded.input_ids[: len(prompt)] == prompt
        assert encoded.labels[len(prompt)] == encoded.input_ids[len(prompt)] != IGNORE_INDEX
        assert encoded.labels[len(prompt) - 1] == IGNORE_INDEX


def test_answer_that_begins_with_a_line_break(tokenizer):
    """The template's own line break would merge with it into one token, which no server could ever generate."""
    messages = [*DIALOGUE[:4], {"role": "assistant", "content": "\n\nТогда отдохни."}]
    encoded = encode_row(tokenizer, Row(1, messages))
    prompt = render(tokenizer, messages[:4])
    assert encoded.input_ids[: len(prompt)] == prompt
    assert trained_text(tokenizer, encoded) == "От чего именно? 🙂<|im_end|>\n\nТогда отдохни.<|im_end|>"


def test_weight_zero_is_context(tokenizer):
    messages = copy.deepcopy(DIALOGUE)
    messages[2]["weight"] = 0
    encoded = encode_row(tokenizer, Row(1, messages))
    assert trained_text(tokenizer, encoded) == DIALOGUE[-1]["content"] + "<|im_end|>"
    assert encoded.input_ids == encode_row(tokenizer, Row(1, DIALOGUE)).input_ids


def test_text_parts_and_developer_read_as_text_and_system(tokenizer):
    messages = copy.deepcopy(DIALOGUE)
    messages[0]["role"] = "developer"
    messages[1]["content"] = [{"type": "text", "text": "Я устал\n"}, {"type": "text", "text": "от всего"}]
    assert encode_row(tokenizer, Row(1, messages)) == encode_row(tokenizer, Row(1, DIALOGUE))


def test_every_token_where_asked(tokenizer):
    encoded = encode_row(tokenizer, Row(1, DIALOGUE), assistant_only_loss=False)
    assert encoded.labels == encoded.input_ids


def test_template_that_rewrites_history_trains_the_last_turn(tokenizer):
    """As thinking models do: the answer that comes last carries an empty thought, earlier ones lose it."""
    thinking = with_template(
        tokenizer,
        "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}"
        "{%- if m.role == 'assistant' and loop.last %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
        "{{- m.content + '<|im_end|>\\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}",
    )
    encoded = encode_row(thinking, Row(1, DIALOGUE))
    assert encoded.last_turn_only
    assert trained_text(thinking, encoded) == "<think>\n\n</think>\n\n" + DIALOGUE[-1]["content"] + "<|im_end|>"


@pytest.mark.parametrize(
    ("template", "error", "message"),
    [
        (None, BaseError, "no chat template"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", BaseError, "would never learn to stop"),
        ("{{ raise_exception('roles must alternate') }}", DataError, "row at line 7.*roles must alternate"),
        ("{{ messages[0].missing.key }}", DataError, "row at line 7: the chat template refuses it"),
        (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>other\n{% endif %}",
            DataError,
            "training could not equal serving",
        ),
    ],
)
def test_named_errors(tokenizer, template, error, message):
    with pytest.raises(error, match=message):
        encode_row(with_template(tokenizer, template), Row(7, DIALOGUE))
