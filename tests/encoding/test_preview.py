"""A row as the model sees it: readable tokens, what is trained, what the template added."""

import copy
import json
import subprocess
import sys

import pytest
from rich.console import Console

import train.encoding.preview
from tests.conftest import REPOSITORY
from train.chats.readers import read_rows
from train.core.config import load_config
from train.core.errors import DataError, GovorError
from train.encoding.loss_mask import IGNORE_INDEX, encode_row
from train.encoding.preview import preview, rows_to_json, to_plain, to_terminal

ROW = [
    {"role": "system", "content": "Ты Наташа."},
    {"role": "user", "content": "Щёлкни 🙂 ёжика 漢"},
    {"role": "assistant", "content": "Щёлк 🙂!", "weight": 0},
    {"role": "user", "content": "user"},
    {"role": "assistant", "content": "Ещё\nраз."},
]


@pytest.fixture
def configured(write_config, working_folder):
    """The resolved config over a file with these conversations."""

    def configure(*conversations, overrides=()):
        path = working_folder / "rows.jsonl"
        path.write_text("".join(json.dumps({"messages": c}) + "\n" for c in conversations), encoding="utf-8")
        return load_config(write_config(data={"train_file": str(path)}), overrides)

    return configure


@pytest.fixture
def with_template(monkeypatch, tokenizer):
    def change(template: str):
        changed = copy.deepcopy(tokenizer)
        changed.chat_template = template
        monkeypatch.setattr(train.encoding.preview, "load_base_tokenizer", lambda model, folder: changed)

    return change


def coloured(text) -> dict[str, str]:
    """What stands in each style, joined."""
    found: dict[str, str] = {}
    for span in text.spans:
        found[str(span.style)] = found.get(str(span.style), "") + text.plain[span.start : span.end]
    return found


def test_ids_and_labels_are_those_of_training(configured, tokenizer):
    config = configured(ROW)
    (shown,) = preview(config, None, None)
    encoded = encode_row(tokenizer, read_rows(config.data.train_file)[0])
    assert (shown.input_ids, shown.labels) == (encoded.input_ids, encoded.labels)
    assert (shown.row, shown.truncated, shown.last_turn_only) == (1, 0, False)
    assert shown.trained == len(tokenizer("Ещё\nраз.<|im_end|>")["input_ids"])


def test_tokens_are_readable(configured, tokenizer):
    """The tiny vocabulary has no token for most of these characters: each is spread over two to four."""
    (shown,) = preview(configured(ROW), None, None)
    assert len(shown.tokens) == len(shown.input_ids)
    assert "".join(shown.tokens) == tokenizer.decode(shown.input_ids)
    assert "\ufffd" not in "".join(shown.tokens)
    alone = [tokenizer.decode([token]) for token in shown.input_ids]
    at = shown.tokens.index("漢")
    assert alone[at - 2 : at + 1] == ["\ufffd"] * 3
    assert shown.tokens[at - 2 : at] == ["", ""]
    whole = [(token, text) for token, text in zip(shown.tokens, alone, strict=True) if "\ufffd" not in text]
    assert all(token == text for token, text in whole)
    assert len(whole) > 20


def test_a_replacement_character_of_the_rows_own_is_kept(configured):
    conversation = [{"role": "user", "content": "так\ufffd и \ufffd\ufffd"}, {"role": "assistant", "content": "\ufffd"}]
    (shown,) = preview(configured(conversation), None, None)
    assert "так\ufffd и \ufffd\ufffd<|im_end|>" in "".join(shown.tokens)
    assert "assistant\n\ufffd<|im_end|>" in "".join(shown.tokens)


@pytest.mark.parametrize("texts", [[m["content"] for m in ROW], ["да"] * 5, ["а\n\nб", "", "а", "а", "б"]])
def test_what_the_template_added(configured, tokenizer, texts):
    conversation = [{**message, "content": text} for message, text in zip(ROW, texts, strict=True)]
    (shown,) = preview(configured(conversation), None, None)
    frames = [f"<|im_start|>{m['role']}\n<|im_end|>\n" for m in ROW]
    assert shown.added == sum(len(tokenizer(frame)["input_ids"]) for frame in frames)


def test_what_a_rewriting_template_added(configured, with_template, tokenizer):
    """It cuts thoughts out of earlier answers: what is left of them is still the message's own."""
    with_template(
        "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}"
        "{%- if m.role == 'assistant' and not loop.last %}{{- m.content.split('</think>')[-1].strip() }}"
        "{%- else %}{{- m.content }}{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    )
    thinking = copy.deepcopy(ROW)
    thinking[2] = {"role": "assistant", "content": "<think>\nещё подумать\n</think>\n\nЩёлк 🙂!"}
    (shown,) = preview(configured(thinking), None, None)
    assert shown.last_turn_only
    assert "rewrites earlier turns" in to_plain(shown)
    assert "подумать" not in "".join(shown.tokens)
    frames = [f"<|im_start|>{m['role']}\n<|im_end|>\n" for m in ROW]
    assert shown.added == sum(len(tokenizer(frame)["input_ids"]) for frame in frames)


def test_row_by_its_line(configured):
    path = configured(ROW, ROW[:3], ROW).data.train_file
    other = [{"role": "user", "content": "Третий?"}, {"role": "assistant", "content": "Да."}]
    lines = [json.dumps({"messages": ROW}), "", json.dumps({"messages": other})]
    config = configured(ROW)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (shown,) = preview(config, 3, None)
    assert shown.row == 3
    assert "Третий?" in "".join(shown.tokens)
    for missing in (0, 2, 4, -1):
        with pytest.raises(GovorError, match=rf"no row at line {missing}: it has 2 rows, the last at line 3") as caught:
            preview(config, missing, None)
        assert caught.value.exit_code == 2


def test_first_rows_or_all(configured):
    config = configured(*[ROW] * 5)
    assert [shown.row for shown in preview(config, None, 3)] == [1, 2, 3]
    assert [shown.row for shown in preview(config, None, None)] == [1, 2, 3, 4, 5]


def test_a_row_that_the_template_refuses(configured, with_template):
    with_template("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match=r"row at line 2.*roles must alternate"):
        preview(configured(ROW, ROW), 2, None)


def test_plain_marks_what_is_trained(configured):
    (shown,) = preview(configured(ROW), None, None)
    text = to_plain(shown)
    assert f"{shown.trained} trained" in text.splitlines()[0]
    assert f"{shown.added} added" in text.splitlines()[0]
    assert text.count("⟦") == 2, "the legend's and one answer's"
    assert "<|im_start|>assistant\n⟦Ещё\nраз.<|im_end|>⟧\n" in text
    assert "<|im_start|>assistant\nЩёлк 🙂!<|im_end|>\n" in text
    assert "✂" not in text


def test_terminal_colours(configured):
    (shown,) = preview(configured(ROW), None, None)
    found = coloured(to_terminal(shown))
    assert found["green"] == "trained" + "Ещё\nраз.<|im_end|>"
    assert "Щёлк 🙂!" in found["dim"]
    assert "red strike" not in found
    console = Console(force_terminal=True, width=200, no_color=False)
    with console.capture() as capture:
        console.print(to_terminal(shown))
    assert "\x1b[32mраз.<|im_end|>" in capture.get()


def test_tokens_beyond_max_length(configured):
    whole = preview(configured(ROW), None, None)[0]
    kept = len(whole.input_ids) - 5
    config = configured(ROW, overrides=[f"training.max_length={kept}"])
    (shown,) = preview(config, None, None)
    assert shown._replace(truncated=0) == whole
    assert shown.truncated == 5
    rest = "".join(shown.tokens[kept:])
    assert rest.endswith("<|im_end|>\n")
    assert coloured(to_terminal(shown))["red strike"] == "  beyond max_length" + rest
    assert to_plain(shown).replace("⟦", "").replace("⟧", "").endswith("✂" + rest)
    assert "5 beyond training.max_length" in to_plain(shown)


def test_a_row_cannot_steer_the_terminal(configured):
    conversation = [{"role": "user", "content": "а\x1b[2Jб\rв"}, {"role": "assistant", "content": "г\x07\tд"}]
    (shown,) = preview(configured(conversation), None, None)
    assert "а\x1b[2Jб\rв" in "".join(shown.tokens)
    for text in (to_plain(shown), to_terminal(shown).plain):
        assert "а␛[2Jб␍в" in text
        assert "г␇\tд" in text


def test_every_token_where_the_config_trains_them(configured):
    (shown,) = preview(configured(ROW, overrides=["training.assistant_only_loss=false"]), None, None)
    assert shown.trained == len(shown.input_ids)
    assert IGNORE_INDEX not in shown.labels


def test_json_has_these_keys_and_no_other(configured):
    shown = preview(configured(ROW, ROW[:3] + ROW[3:]), None, None)
    result = json.loads(json.dumps(rows_to_json(shown)))
    assert result.keys() == {"rows"}
    assert [row["row"] for row in result["rows"]] == [1, 2]
    for row, one in zip(result["rows"], shown, strict=True):
        assert row == {"row": one.row, "input_ids": one.input_ids, "labels": one.labels, "tokens": one.tokens}


def test_no_weights_are_read(configured, base, working_folder):
    """A base without its weights file will do."""
    bare = working_folder / "bare"
    bare.mkdir()
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (bare / file.name).write_bytes(file.read_bytes())
    assert len(preview(configured(ROW, overrides=[f"model.name_or_path={bare}"]), None, None)) == 1


def test_importing_it_imports_no_torch():
    code = "import sys, train.encoding.preview; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
