"""Rows that cannot be trained whole: nothing is cut in silence, and what is left is trained rightly."""

import copy
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from make_tiny_base import CHATML

from tests.conftest import REPOSITORY
from train.chats.readers import read_rows
from train.chats.rows import Row
from train.core.config import load_config
from train.core.errors import BaseError, DataError
from train.encoding.held_out import prompt_differences
from train.encoding.loss_mask import IGNORE_INDEX, encode_row, render
from train.encoding.preview import preview, to_plain
from train.encoding.rows import encode_rows, require_vocabulary
from train.models.base import stop_ids
from train.sft import train

SYSTEM = {"role": "system", "content": "Ты Наташа."}
THINKING = CHATML.replace("message.content +", "(message.content if loop.last else message.content.split('>')[-1]) +")
"""Takes the thought out of an answer once another message follows."""


def exchange(number: int, **more) -> list[dict]:
    question = {"role": "user", "content": f"Вопрос номер {number}, и что теперь?"}
    return [question, {"role": "assistant", "content": f"Ответ номер {number}: ничего.", **more}]


def row(line: int, count: int, *, system: bool = True, **more) -> Row:
    return Row(line, [*([SYSTEM] if system else []), *(m for n in range(count) for m in exchange(n, **more))])


def answers_of(tokenizer, encoding) -> list[list[int]]:
    """The numbers of the answers that each row trains whole, end of turn included."""
    found = []
    for encoded in encoding.encoded:
        text = tokenizer.decode([label for label in encoded.labels if label != IGNORE_INDEX])
        whole = re.findall(r"Ответ номер (\d+): ничего\.<\|im_end\|>", text)
        assert "".join(f"Ответ номер {n}: ничего.<|im_end|>" for n in whole) == text
        found.append([int(n) for n in whole])
    return found


@pytest.fixture
def sizes(tokenizer):
    """Tokens of rows with 0, 1, 2, … exchanges."""
    return [0, *(len(encode_row(tokenizer, row(1, count)).input_ids) for count in range(1, 9))]


def thinking(tokenizer):
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = THINKING
    return changed


def test_rows_that_fit_are_as_encoded_alone(tokenizer, rows_file):
    rows = read_rows(rows_file)
    for too_long in ("error", "drop", "truncate", "split"):
        encoding = encode_rows(tokenizer, rows, max_length=5000, too_long=too_long)
        assert encoding.rows == rows
        assert encoding.encoded == [encode_row(tokenizer, one) for one in rows]
        assert list(encoding.report.lines()) == []


def test_error_names_rows_and_lengths(tokenizer, sizes):
    rows = [row(3, 1), row(5, 3), row(9, 4)]
    message = (
        rf"^2 rows are longer than training.max_length={sizes[2]} tokens: line 5 \({sizes[3]}\), "
        rf"line 9 \({sizes[4]}\); set training.max_length={sizes[4]}, shorten them, "
        r"or set data.too_long to drop, truncate or split$"
    )
    with pytest.raises(DataError, match=message):
        encode_rows(tokenizer, rows, max_length=sizes[2])


def test_drop(tokenizer, sizes):
    encoding = encode_rows(tokenizer, [row(3, 1), row(5, 3), row(9, 2)], max_length=sizes[2], too_long="drop")
    assert [one.line for one in encoding.rows] == [3, 9]
    assert encoding.report.dropped == [(5, sizes[3])]
    assert list(encoding.report.lines()) == [
        f"1 left out, longer than training.max_length={sizes[2]}: line 5 ({sizes[3]})"
    ]
    json.dumps(asdict(encoding.report))


def test_truncate_keeps_whole_answers(tokenizer, sizes):
    for limit in range(sizes[1] - 1, sizes[5] + 1):
        rows = [row(1, 1), row(2, 5)] if limit >= sizes[1] else [row(1, 5)]
        if limit < sizes[1]:
            with pytest.raises(
                DataError, match=rf"none of 1 rows is left: no answer fits training.max_length={limit} "
            ):
                encode_rows(tokenizer, rows, max_length=limit, too_long="truncate")
            continue
        encoding = encode_rows(tokenizer, rows, max_length=limit, too_long="truncate")
        fitting = max(count for count in range(1, 6) if sizes[count] <= limit)
        assert answers_of(tokenizer, encoding) == [[0], list(range(fitting))]
        whole = encode_row(tokenizer, rows[1])
        cut = encoding.encoded[1]
        assert cut.input_ids == whole.input_ids[: len(cut.input_ids)]
        assert len(cut.input_ids) <= limit
        assert encoding.report.truncated == ([(2, sizes[5])] if fitting < 5 else [])


def test_truncate_of_a_rewriting_template(tokenizer, sizes):
    encoding = encode_rows(thinking(tokenizer), [row(2, 5)], max_length=sizes[3], too_long="truncate")
    assert answers_of(tokenizer, encoding) == [[0, 1, 2]], "without thoughts nothing is rewritten"
    rows = [
        Row(2, [m | {"content": m["content"].replace("Ответ", "<think>хм</think>Ответ")} for m in row(2, 5).messages])
    ]
    encoding = encode_rows(thinking(tokenizer), rows, max_length=sizes[3] + 20, too_long="truncate")
    (encoded,) = encoding.encoded
    assert encoded.last_turn_only
    assert tokenizer.decode(encoded.input_ids).count("<think>") == 1
    assert tokenizer.decode(encoded.input_ids).rstrip().endswith("<think>хм</think>Ответ номер 2: ничего.<|im_end|>")


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6])
def test_split_trains_every_answer_once(tokenizer, sizes, limit):
    encoding = encode_rows(tokenizer, [row(4, 7)], max_length=sizes[limit], too_long="split")
    trained = answers_of(tokenizer, encoding)
    assert sorted(n for numbers in trained for n in numbers) == list(range(7))
    for one, encoded, numbers in zip(encoding.rows, encoding.encoded, trained, strict=True):
        assert one.line == 4
        assert one.messages[0] == SYSTEM
        assert len(encoded.input_ids) <= sizes[limit]
        shown = [int(n) for n in re.findall(r"Вопрос номер (\d)", tokenizer.decode(encoded.input_ids))]
        assert shown == list(range(max(0, numbers[-1] + 1 - limit), numbers[-1] + 1)), "context as far as it fits"
    assert encoding.report.split == [(4, sizes[7])]
    assert encoding.report.dropped == []


def test_split_leaves_out_an_exchange_that_fits_nowhere(tokenizer, sizes):
    messages = row(4, 3).messages
    messages[3]["content"] *= 40
    encoding = encode_rows(tokenizer, [Row(4, messages)], max_length=sizes[1], too_long="split")
    assert answers_of(tokenizer, encoding) == [[0], [2]]
    ((line, length),) = encoding.report.dropped
    alone = encode_row(tokenizer, Row(4, [SYSTEM, *messages[3:5]]))
    assert (line, length) == (4, len(alone.input_ids))
    lines = "\n".join(encoding.report.lines())
    assert f"1 left out, longer than training.max_length={sizes[1]}: line 4 ({length})" in lines
    assert "1 made into several" in lines


def test_split_keeps_untrained_answers_untrained(tokenizer, sizes):
    messages = row(4, 4).messages
    messages[4]["weight"] = 0
    encoding = encode_rows(tokenizer, [Row(4, messages)], max_length=sizes[2], too_long="split")
    assert sorted(n for numbers in answers_of(tokenizer, encoding) for n in numbers) == [0, 2, 3]


def test_split_keeps_calls_with_their_results(tokenizer):
    call = {"id": "c1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    turn = [
        {"role": "user", "content": "Который час?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "полдень"},
        {"role": "assistant", "content": "Полдень."},
    ]
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = CHATML.replace(
        "message.content +", "(message.content or message.tool_calls[0].function.name) +"
    ).replace("{%- for", "{%- if tools %}{{- tools[0].function.name }}{%- endif %}{%- for", 1)
    tools = [{"type": "function", "function": {"name": "get_time", "description": "", "parameters": {}}}]
    whole = Row(1, turn * 3, tools)
    limit = len(encode_row(changed, Row(1, turn, tools)).input_ids)
    encoding = encode_rows(changed, [whole], max_length=limit, too_long="split")
    assert [one.messages for one in encoding.rows] == [turn] * 3
    assert {one.tools[0]["function"]["name"] for one in encoding.rows} == {"get_time"}


def thoughtful(line: int) -> Row:
    messages = row(line, 3).messages
    for message in messages[2::2]:
        message["content"] = "<think>хм</think>" + message["content"]
    return Row(line, messages)


def test_rewritten_history(tokenizer):
    """The last answer alone, or a row for each: the prompt as served, then the answer with its thought."""
    changed = thinking(tokenizer)
    last = encode_rows(changed, [thoughtful(1), row(2, 2)], max_length=5000)
    assert [encoded.last_turn_only for encoded in last.encoded] == [True, False]
    assert list(last.report.lines()) == ["1 train their last turn alone: the chat template rewrites earlier turns"]

    split = encode_rows(changed, [thoughtful(1), row(2, 2)], max_length=5000, rewritten_history="split")
    assert [one.line for one in split.rows] == [1, 1, 1, 2]
    assert split.report.history_split == 1
    assert split.report.last_turn_only == 0
    for number, (one, encoded) in enumerate(zip(split.rows[:3], split.encoded[:3], strict=True)):
        prompt = changed.apply_chat_template(one.messages[:-1], add_generation_prompt=True, return_dict=False)
        assert encoded.input_ids[: len(prompt)] == prompt
        said = changed.decode([label for label in encoded.labels if label != IGNORE_INDEX])
        assert said == f"<think>хм</think>Ответ номер {number}: ничего.<|im_end|>"


def test_rewritten_history_and_too_long(tokenizer, sizes):
    """Each part that is too long loses the beginning of its context."""
    changed = thinking(tokenizer)
    limit = sizes[2] + 20
    for rewritten_history, numbers in (("last_turn", [2]), ("split", [0, 1, 2])):
        encoding = encode_rows(
            changed, [thoughtful(1)], max_length=limit, too_long="split", rewritten_history=rewritten_history
        )
        texts = [changed.decode(encoded.input_ids) for encoded in encoding.encoded]
        assert [int(re.findall(r"Ответ номер (\d)", text)[-1]) for text in texts] == numbers
        assert all(text.count("<think>") == 1 for text in texts)
        assert "Вопрос номер 1" in texts[-1]
        assert "Вопрос номер 0" not in texts[-1]
        assert all(len(encoded.input_ids) <= limit for encoded in encoding.encoded)


def test_eos_stays_trained_where_it_is_the_pad_token_too(tokenizer):
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    encoding = encode_rows(tokenizer, [row(1, 1), row(2, 3)], max_length=5000)
    collate = DataCollatorForLanguageModeling(pad_token_id=tokenizer.eos_token_id)
    batch = collate([{"input_ids": one.input_ids, "labels": one.labels} for one in encoding.encoded])
    assert batch["input_ids"].shape == batch["labels"].shape
    assert [int((labels == tokenizer.eos_token_id).sum()) for labels in batch["labels"]] == [1, 3]
    short = len(encoding.encoded[0].input_ids)
    assert (batch["labels"][0, short:] == IGNORE_INDEX).all()


def test_parity_says_which_rows_differ_and_where(tokenizer):
    rows = [row(3, 2), row(8, 1, system=False)]
    encoded = [encode_row(tokenizer, one) for one in rows]

    def same(messages, tools):
        return tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, return_dict=False)

    assert prompt_differences(same, rows, encoded, tokenizer.decode) == []
    edited = copy.deepcopy(tokenizer)
    edited.chat_template = CHATML.replace("{%- for", "{%- if messages[0].role == 'system' %} {%- endif %}{%- for", 1)
    edited.chat_template = CHATML.replace("<|im_start|>' + message.role", "<|im_start|>' + message.role|upper")
    ((line, reason), other) = prompt_differences(
        lambda m, t: render(edited, m, tools=t), rows, encoded, tokenizer.decode
    )
    assert (line, other[0]) == (3, 8)
    assert re.match(r"token 2 is another: trained '<\|im_start\|>sys.*', served '<\|im_start\|>SYS?.*'", reason)
    shorter = prompt_differences(lambda m, t: same(m, t)[:-1], rows[:1], encoded[:1], tokenizer.decode)
    assert re.match(rf"token {encoded[0].answers[-1][0]} is another", shorter[0][1])


def test_stop_ids(tmp_path):
    assert stop_ids(tmp_path) == frozenset()
    (tmp_path / "config.json").write_text('{"eos_token_id": 3}')
    assert stop_ids(tmp_path) == {3}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    assert stop_ids(tmp_path) == {1, 2}


def test_tokens_without_embeddings(tokenizer, base, tmp_path):
    encoded = [encode_row(tokenizer, row(1, 1))]
    require_vocabulary(base, tokenizer, encoded)
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"vocab_size": max(encoded[0].input_ids)}}))
    with pytest.raises(BaseError, match=r"no embeddings for \('.+'; the model has \d+\): new tokens are not trained"):
        require_vocabulary(tmp_path, tokenizer, encoded)


def with_base(base, name: str, change) -> Path:
    """A copy of the base whose tokenizer_config.json is changed."""
    shutil.copytree(base, name)
    path = Path(name, "tokenizer_config.json")
    settings = json.loads(path.read_bytes())
    change(settings)
    path.write_text(json.dumps(settings))
    return Path(name)


def test_added_tokens_are_refused_before_training(write_config, base):
    from train.models.load import load_tokenizer

    shutil.copytree(base, "added")
    tokenizer = load_tokenizer(base)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|new|>"]})
    tokenizer.chat_template = CHATML.replace("<|im_start|>", "<|new|>")
    tokenizer.save_pretrained("added")
    with pytest.raises(BaseError, match=r"added: .*no embeddings for \('<\|new\|>'; the model has 600\)"):
        train(load_config(write_config(), ["model.name_or_path=added"]))
    assert not Path("runs/x").exists()


def test_a_run_says_and_records_what_it_did(write_config, base, capfd):
    """Long rows are split, a tokenizer without a pad token trains, held-out prompts render as trained."""
    with_base(base, "padless", lambda settings: settings.pop("pad_token"))
    overrides = ["model.name_or_path=padless", "data.too_long=split", "training.max_length=120", "training.max_steps=1"]
    run = train(load_config(write_config(), overrides))
    said = capfd.readouterr().err
    data = run.manifest()["data"]
    assert data["train"]["split"]
    assert data["train"]["max_length"] == 120
    assert (
        f"rows to train on: {len(data['train']['split'])} made into several, longer than training.max_length=120"
        in said
    )
    held_out = read_rows(run.held_out_file)
    assert len(held_out) == data["held_out"]["rows"]
    assert f"parity: {len(held_out)} of {len(held_out)} held-out prompts render as trained" in said
    assert run.manifest()["parity"] == {"prompts": len(held_out), "differing": []}
    from train.models.load import load_tokenizer

    lengths = [len(encode_row(load_tokenizer(run.adapter), one).input_ids) for one in held_out]
    assert max(lengths) <= 120
    assert sum(lengths) == data["held_out"]["tokens"]


def test_inspect_shows_what_training_makes_of_a_row(write_config, tokenizer, sizes):
    def write(*rows: Row) -> None:
        Path("rows.jsonl").write_text("".join(json.dumps({"messages": one.messages}) + "\n" for one in rows))

    def shown(too_long: str):
        overrides = ["data.train_file=rows.jsonl", f"training.max_length={sizes[2]}", f"data.too_long={too_long}"]
        return preview(load_config(write_config(), overrides), None, None)

    write(row(1, 1), row(2, 3))
    whole, refused = shown("error")
    assert (whole.truncated, refused.truncated) == (0, sizes[3] - sizes[2])
    assert "beyond training.max_length: training refuses the row" in to_plain(refused)
    assert "beyond training.max_length: training leaves the row out" in to_plain(shown("drop")[1])
    for too_long, count, fate in (("truncate", 1, "cut of a row"), ("split", 2, "2 such made of a row")):
        encoding = encode_rows(tokenizer, [row(2, 3)], max_length=sizes[2], too_long=too_long)
        _, *parts = shown(too_long)
        assert [part.input_ids for part in parts] == [one.input_ids for one in encoding.encoded]
        assert [part.labels for part in parts] == [one.labels for one in encoding.encoded]
        assert len(parts) == count
        assert f"{fate} of {sizes[3]} tokens" in to_plain(parts[0])


def test_speed(tokenizer):
    """Ten thousand rows take seconds: far below this on an idle machine."""
    import time

    rows = read_rows(REPOSITORY / "data/natasha.jsonl")
    started = time.process_time()
    encode_rows(tokenizer, rows, max_length=100_000)
    assert (time.process_time() - started) / len(rows) < 0.02
