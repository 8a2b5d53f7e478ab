"""Prompts and their answers: whose each is, asked for once, and what answers of a file are matched with."""

import json
from collections import Counter
from pathlib import Path

import pytest

from train.chats.rows import Row
from train.core.errors import DataError
from train.encoding.held_out import held_out_rows
from train.evaluation.evaluate import read_answers
from train.evaluation.sampling import AnswerFile, base_answers, collect_answers, held_out_prompts


def row(line, *texts, system=None):
    opening = [{"role": system, "content": "Ты Вера."}] if system else []
    roles = ("user", "assistant")
    return Row(line, opening + [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)])


GREETINGS = [row(1, "Привет", "И тебе"), row(2, "Кто ты?", "Вера"), row(3, "Привет", "Ага", "Что?", "Всё")]


def test_dialogues_that_begin_alike_are_answered_each_for_itself():
    asked: Counter[str] = Counter()

    def ask(prompts, sample):
        asked.update(prompt.key for prompt in prompts)
        return [f"{prompt.messages[-1]['content']} {prompt.copy} {sample}" for prompt in prompts]

    prompts = held_out_prompts(GREETINGS)
    file = AnswerFile(Path("kept/answers.jsonl"))
    answers = collect_answers(file, "m", "s", prompts, 2, ask, "answers", batch_size=1)
    assert set(asked.values()) == {2} and len(asked) == 4
    assert [(answer.dialogue, answer.text) for answer in answers if "Привет" in answer.text] == [
        (0, "Привет 0 0"), (0, "Привет 0 1"), (2, "Привет 1 0"), (2, "Привет 1 1"),
    ]  # fmt: skip
    assert collect_answers(file, "m", "s", prompts, 2, None, "answers") == answers


def test_few_prompts_fill_whole_batches():
    """With five held-out dialogues 26 samples are asked for together: a step of a large model costs what it costs."""
    batches: list[tuple[int, int]] = []

    def ask(prompts, sample):
        batches.append((len(prompts), sample))
        return [f"{prompt.key} {sample}" for prompt in prompts]

    prompts = held_out_prompts(GREETINGS)
    answers = collect_answers(
        AnswerFile(Path("kept/answers.jsonl")), "m", "s", prompts, 5, ask, "answers", batch_size=8
    )
    assert [size for size, _ in batches] == [8, 8, 4] and len(answers) == 20
    asked = [text for text in (answer.text for answer in answers) if text.startswith(prompts[0].key)]
    assert len(asked) == 5 and len(set(asked)) > 1, "in the next batch it has another seed"


def test_base_answers_are_those_of_the_last_settings(run):
    rows, file = held_out_rows(run), AnswerFile(run.evaluation / "answers.jsonl")
    prompts, base = held_out_prompts(rows), json.dumps(run.manifest()["base"]["weights"], sort_keys=True)
    for settings in ("hot", "cold"):
        file.append(base, settings, [(prompt, 0, settings) for prompt in prompts])
    assert [answer.text for answer in base_answers(run, rows)] == ["cold"] * len(prompts)


def answers_file(*rows):
    Path("said.jsonl").write_text(
        "".join(json.dumps({"messages": one.messages}, ensure_ascii=False) + "\n" for one in rows), encoding="utf-8"
    )
    return Path("said.jsonl")


def test_answers_of_a_file_belong_to_the_dialogues_they_were_asked_in():
    """Whatever the system message is; the same prompts in turn; another prompt is a dialogue by itself."""
    held_out = [row(1, "Привет", "И тебе", system="developer"), *GREETINGS[1:]]
    said = [row(1, "Привет", "а"), row(2, "Привет", "б", system="system"), row(3, "Привет", "в"),
            row(4, "Привет", "Ага", "Что?", "г"), row(5, "Где ты?", "д")]  # fmt: skip
    answers, strange = read_answers(answers_file(*said), held_out_prompts(held_out))
    assert [(answer.dialogue, answer.turn, answer.text) for answer in answers] == [
        (0, 1, "а"), (2, 1, "б"), (0, 1, "в"), (2, 2, "г"), (("other", 5), 1, "д"),
    ]  # fmt: skip
    assert strange == 1


def test_a_call_of_a_function_is_no_answer_to_judge():
    call = {"id": "1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    asked = Row(1, [{"role": "user", "content": "Который час?"}, {"role": "assistant", "tool_calls": [call]}])
    with pytest.raises(DataError, match=r"^said\.jsonl:1: its last message is no answer of the assistant in words$"):
        read_answers(answers_file(asked), [])
