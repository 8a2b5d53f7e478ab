"""Rows in the forms that people have: named by validate, read by convert and training."""

import bz2
import io
import json
import lzma
import subprocess
import sys
import tarfile
import zipfile
from datetime import datetime
from pathlib import Path

import openpyxl
import pytest
from click.testing import CliRunner

from tests.conftest import REPOSITORY
from train.chats.checks import check_file, validate
from train.chats.formats import FORMATS
from train.chats.readers import ReadAs, check_preferences, read_records, read_rows, stream_records
from train.chats.writers import convert_file
from train.cli import main
from train.core.errors import DataError, GovorError

PAIR = [{"role": "user", "content": "Кто я?"}, {"role": "assistant", "content": "А кто спрашивает?"}]
Q, A = "Кто я?", "А кто спрашивает?"


def dumps(value) -> str:
    return json.dumps(value, ensure_ascii=False)


def write(content: str | bytes, name: str = "file.jsonl") -> Path:
    path = Path(name)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def run(*arguments: str, stdin: bytes | None = None):
    return CliRunner().invoke(main, arguments, input=stdin)


ROWS = [
    ("openai", {"messages": [PAIR[0], {"role": "bot", "content": A}], "id": 7, "source": "x"}),
    ("openai", {"messages": [{**PAIR[0], "id": "m1"}, PAIR[1]]}),
    ("sharegpt", {"conversations": PAIR}),
    ("sharegpt", {"conversations": [{"from": "human", "value": Q}, {"from": "chatgpt", "value": A}]}),
    ("sharegpt", {"conversations": [{"from": "User", "value": Q}, {"from": "bot", "value": A}]}),
    ("prompt-completion", {"prompt": [PAIR[0]], "completion": [PAIR[1]]}),
    ("prompt-completion", {"prompt": Q, "completion": [PAIR[1]]}),
    ("question-answer", {"question": Q, "answer": A}),
    ("question-answer", {"Вопрос": Q, "Ответ": A}),
    ("question-answer", {"input": Q, "output": A}),
    ("question-answer", {"instruction": Q, "response": A}),
    ("question-answer", {"instruction": "Кто", "context": "я?", "response": A, "category": "x"}),
    ("question-answer", {"prompt": Q, "response": A}),
    ("question-answer", {"input_text": Q, "output_text": A}),
    ("gemini", {"contents": [{"role": "user", "parts": [{"text": Q}]}, {"role": "model", "parts": [{"text": A}]}]}),
    ("gemini", {"contents": [{"parts": [{"text": "Кто "}, {"text": "я?"}]}, {"role": "model", "parts": {"text": A}}]}),
    ("gemini", {"contents": [{"role": "USER", "parts": {"text": Q}}, {"role": "MODEL", "parts": {"text": A}}]}),
    ("openai", {"messages": [{"author": "user", "content": Q}, {"author": "bot", "content": A}]}),
    ("conversation", {"conversation": [{"human": Q, "assistant": A}]}),
    ("dialog", {"dialog": [Q, A]}),
    ("data", {"id": "0", "data": [Q, A]}),
]


@pytest.mark.parametrize(("name", "record"), ROWS)
@pytest.mark.parametrize("packing", ["jsonl", "array", "data", "train", "data in a line", "over several lines"])
def test_every_form_is_named_and_read(name, record, packing):
    records = [record] * 3
    content = {"jsonl": "\n".join(map(dumps, records)), "array": dumps(records),
               "data": json.dumps({"version": 1, "data": records}, indent=1),
               "train": json.dumps({"features": [{"name": "a"}], "train": records}, indent=1),
               "data in a line": dumps({"data": records}),
               "over several lines": "\n".join(json.dumps(one, indent=2) for one in records)}[packing]  # fmt: skip
    path = write(content)
    found, rows = read_records(path)
    assert found == name
    asked = Q.replace(" ", "\n") if "context" in record else Q
    assert [row.messages for row in rows] == [[{"role": "user", "content": asked}, PAIR[1]]] * 3
    assert read_rows(path) == rows
    first = check_file(path).errors[0]
    if name != "openai":
        assert f"rows in {name} format" in first.message and "govor convert file.jsonl --to openai" in first.message
    elif packing == "jsonl":
        assert first.kind in ("extra_key", "extra_message_key", "unrecognized_role", "missing_role")
    else:
        assert first.kind == "json_array"
    convert_file(path, "openai", Path("out.jsonl"), when_lossy="drop", force=True)
    assert [row.messages for row in read_rows(Path("out.jsonl"))] == [row.messages for row in rows]


def test_how_the_objects_stand_is_said_once():
    record = {"messages": PAIR}
    for content, expected in (
        (json.dumps(record, indent=2), "file.jsonl: JSON objects over several lines, expected one object a line: "),
        (dumps({"rows": [record]}), "file.jsonl: JSON with its rows in the list 'rows', expected one object a line: "),
        (dumps([{"uuid": 1, "name": 2}]), "file.jsonl: a JSON array with the keys 'uuid', 'name': name those of"),
    ):
        write(content)
        output = run("validate", "file.jsonl").output
        assert output.startswith(expected) and len(output.splitlines()) == 2, output
    row = {"question": Q, "answer": A, "items": [{"a": 1}]}
    assert [name for name, _ in [read_records(write("\n".join(map(dumps, [row, row]))))]] == ["question-answer"]


def test_several_lists_of_rows_are_not_read_as_one():
    path = write(json.dumps({"train": [{"messages": PAIR}] * 2, "test": [{"messages": PAIR}]}), "both.json")
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert str(caught.value) == (
        "both.json: holds several lists of rows (train, test): make a file of each: "
        "jq -c '.train[]' both.json > train.jsonl and jq -c '.test[]' both.json > test.jsonl"
    )


@pytest.mark.parametrize(
    ("old", "new", "quote"),
    [
        ('"role": "assistant"', '"role": “assistant”', "typographic (“)"),
        ('"role": "assistant"', "“role”: “assistant”", "typographic (“)"),
        ('"content"', '"content”', "typographic (”)"),
        (f'"{A}"', f"«{A}»", "typographic («)"),
        (f'"{A}"', f"„{A}“", "typographic („)"),
        ('"role": "assistant"', "'role': 'assistant'", "' as Python prints them"),
    ],
)
def test_quotes_of_the_wrong_kind_are_said_wherever_they_stand(old, new, quote):
    lines = [dumps({"messages": [{"role": "user", "content": f"{n} «да» \"'нет'\""}, PAIR[1]]}) for n in range(12)]
    lines[6] = lines[6].replace(old, new, 1) if "content" not in old else new.join(lines[6].rsplit(old, 1))
    path = write("\n".join(lines))
    [error] = check_file(path).errors
    assert (error.line, error.kind) == (7, "wrong_quotes") and f"its quotes are {quote}" in error.message
    with pytest.raises(DataError, match=r"file\.jsonl:7: not valid JSON: its quotes are"):
        read_rows(path)
    with pytest.raises(DataError, match=r"array\.json:7: not valid JSON: its quotes are"):
        read_rows(write("[" + ",\n".join(lines) + "]", "array.json"))
    all_of_them = [line.replace('"content"', "“content”") for line in lines]
    [error] = check_file(write("\n".join([lines[0], *all_of_them]))).errors
    assert "in 12 rows, here first" in error.message


def test_json_that_is_broken_otherwise_is_no_matter_of_quotes():
    for line in (
        '{"messages": [{"role": "user", "content": "а «б» \'в\' }',
        '{"a": "он: «да», “нет”"} x',
        '{"a": don\'t}',
    ):
        [error] = [problem for problem in check_file(write(f"{line}\n")).errors if problem.line]
        assert error.kind == "invalid_json" and "quotes" not in error.message


@pytest.mark.long
def test_a_hundred_thousand_rows_of_saiga_are_a_line_a_key(capsys, tmp_path):
    record = {"messages": [PAIR[0], {"role": "bot", "content": A}], "source": "x"}
    path = tmp_path / "saiga.jsonl"
    path.write_text("".join(dumps({**record, "id": n}) + "\n" for n in range(100_000)), encoding="utf-8")
    assert not validate([path], as_json=False)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(": ", 1)[1].split(" in 100000 rows")[0] for line in printed[:3]] == [
        "unknown key 'id' beside `messages`", "unknown key 'source' beside `messages`", "unknown role 'bot'"
    ]  # fmt: skip
    assert printed[3].endswith("--to openai -o rows.jsonl --when-lossy drop") and printed[4:] == ["❌ 3 errors"]
    with pytest.raises(DataError) as caught:
        convert_file(path, "openai", tmp_path / "out.jsonl", when_lossy="refuse", force=False)
    assert [line.split(": ", 1)[1] for line in str(caught.value).splitlines()[1:]] == [
        "openai has no place for: key 'id'", "openai has no place for: key 'source'"
    ]  # fmt: skip


def test_extra_keys_are_kept_where_the_target_takes_them(capsys):
    path = write(dumps({"messages": PAIR, "id": 7, "source": "x"}))
    for target in ("alpaca", "sharegpt"):
        convert_file(path, target, Path("out.jsonl"), when_lossy="refuse", force=True)
        record = json.loads(Path("out.jsonl").read_text())
        assert (record["id"], record["source"]) == (7, "x")
    rows = read_rows(path)
    assert [row.messages for row in rows] == [PAIR]
    assert capsys.readouterr().err == "file.jsonl: not learned from: 'id' in 1 rows, 'source' in 1 rows\n"


def test_a_plain_first_row_does_not_forbid_the_keys_of_others(capsys):
    plain = {"messages": PAIR}
    path = write(
        "\n".join(map(dumps, [plain, {**plain, "id": 1}, {"messages": [PAIR[0], {**PAIR[1], "role": "bot"}]}]))
    )
    assert [row.messages for row in read_rows(path)] == [PAIR] * 3
    assert "'id' in 1 rows" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"file\.jsonl:2: unknown key 'id'"):
        read_rows(write("\n".join(map(dumps, [plain, {**plain, "id": 1}, {"messages": []}]))))


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"messages": [PAIR[0], {**PAIR[1], "reasoning_content": "Думаю"}]}, "write it as <think>…</think>"),
        ({"messages": PAIR, "train": False}, "marked as not to be learned"),
        ({"messages": [PAIR[0], {"role": "кот", "content": A}]}, "unknown role 'кот'"),
        ({"contents": [{"role": "user", "parts": [{"inlineData": {}}]}]}, "'inlineData' is no text"),
        ({"dialog": [Q, A, "и"]}, "the last message is the user's"),
        ({"question": Q, "answer": 3}, "`answer` is a number, expected text"),
        ({"question": Q, "prompt": Q, "answer": A}, "those of no known format"),
        ({"prompt": Q, "completion": A, "label": False}, "judgement each (KTO)"),
    ],
)
def test_what_is_not_whole_is_said(record, why):
    with pytest.raises(GovorError) as caught:
        read_rows(write(dumps(record | {"extra": 1})))
    assert why in str(caught.value) and "\n" not in str(caught.value)


def test_a_turn_of_openai_marked_elsewhere_is_not_learned():
    answers = [{**PAIR[1], "train": False}, {**PAIR[1], "loss": 1}]
    [row] = read_rows(write(dumps({"messages": [PAIR[0], answers[0], PAIR[0], answers[1]]})))
    assert [message.get("weight") for message in row.messages] == [None, 0, None, 1]


def test_gemini_there_and_back_with_tools():
    call = {"id": "call_2_1", "type": "function", "function": {"name": "now", "arguments": '{"zone": "МСК"}'}}
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
    messages = [{"role": "system", "content": "Ты Наташа."}, PAIR[0],
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "call_2_1", "content": "12:00"}, PAIR[1]]  # fmt: skip
    path = write(dumps({"messages": messages, "tools": [tool]}))
    convert_file(path, "gemini", Path("gemini.jsonl"), when_lossy="refuse", force=False)
    convert_file(Path("gemini.jsonl"), "openai", Path("back.jsonl"), when_lossy="refuse", force=False)
    assert json.loads(Path("back.jsonl").read_text()) == {"messages": messages, "tools": [tool]}


# Tables


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1251", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_as_excel_writes_them(encoding, delimiter):
    text = f'Вопрос{delimiter}Ответ\r\n"Ты ""дома""?"{delimiter}"Да; мам,\nскоро"\r\nКогда?{delimiter}Завтра\r\n'
    path = write(text.encode(encoding), "t.csv")
    rows = read_rows(path)
    assert [[m["content"] for m in row.messages] for row in rows] == [
        ['Ты "дома"?', "Да; мам,\nскоро"], ["Когда?", "Завтра"]
    ]  # fmt: skip
    assert "rows in question-answer format" in check_file(path).errors[0].message


@pytest.mark.parametrize(
    "content",
    [
        "Вопрос;Ответ\n;\nТы дома?;Да\n;;\n\n",
        "№;Вопрос;Ответ;\n;;;\n1;Ты дома?;Да\n",
        "sep=;\nВопрос;Ответ\nТы дома?;Да\n",
        'Вопрос;Ответ;"Откуда (чат, почта, звонок)"\nТы дома?;Да;чат\n',
        "Вопрос;Ответ\nТы дома?;Да;;\n",
    ],
)
def test_tables_with_empty_rows_and_odd_headings(content):
    path = write(content, "t.csv")
    [row] = read_rows(path)
    assert [m["content"] for m in row.messages] == ["Ты дома?", "Да"]
    assert "rows in question-answer format" in check_file(path).errors[0].message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Вопрос;Ответ\nКак?;\n;Да\n", ["t.csv:2: 'ответ' is empty: fill it in", "t.csv:3: 'вопрос' is empty"]),
        ("Вопрос;Ответ\nКак?\n", ["t.csv:2: row 1 has not the columns of the first line: 1 cells, not 2"]),
        ('Вопрос\tОтвет\n"Идиот" — о чём?\tО князе\n', ["t.csv:2: not a valid table", "each quote in it is doubled"]),
        ("id;contents\n1;привет\n", ["its keys ('id', 'contents')", "-o rows.jsonl --columns QUESTION,ANSWER"]),
    ],
)
def test_what_is_wrong_with_a_table_is_said_by_its_line(content, said):
    write(content, "t.csv")
    result = run("convert", "t.csv", "--to", "openai", "-o", "o.jsonl")
    assert result.exit_code == 1 and all(text in result.output for text in said), result.output
    assert "govor validate" not in result.output, "it does not list what is wrong with a table"


def test_validate_names_a_table_whose_columns_say_nothing_and_a_text_that_is_none():
    [problem] = check_file(write("Клиент;Мы\nТы дома?;Да\nКогда?;Скоро\n", "t.csv")).errors
    assert (
        "a CSV table with the columns 'Клиент', 'Мы'" in problem.message
        and "--columns QUESTION,ANSWER" in problem.message
    )
    [problem] = check_file(write("Просто текст, и ещё\nвторая строка\n" * 9, "t.txt")).errors
    assert problem.message.startswith("neither JSON nor a table")
    path = write("prompt,chosen,rejected\nа,б,в\n", "t.csv")
    [problem] = check_file(path).errors
    assert "preference rows" in problem.message and "training reads" not in problem.message
    convert_file(path, "openai", Path("out.jsonl"), when_lossy="refuse", force=False)
    assert json.loads(Path("out.jsonl").read_text())["preferred_output"] == [{"role": "assistant", "content": "б"}]


def workbook(*lines, sheet: str = "Лист1", empty_before: bool = False) -> bytes:
    book = openpyxl.Workbook()
    if empty_before:
        book.active.title = "Пусто"
        book.create_sheet(sheet)
    for line in lines:
        book.worksheets[-1].append(line)
    packed = io.BytesIO()
    book.save(packed)
    return packed.getvalue()


def test_workbooks():
    lines = [("№", "Вопрос", "Ответ"), (1, "Ты дома?", "Да, мам"), (None, None, None), (2.0, "Сколько?", 7.0)]
    path = write(workbook(*lines, empty_before=True), "rows.xlsx")
    rows = read_rows(path)
    assert [(row.line, *(m["content"] for m in row.messages)) for row in rows] == [
        (2, "Ты дома?", "Да, мам"), (4, "Сколько?", "7")
    ]  # fmt: skip
    [problem] = check_file(path).errors
    assert problem.message.startswith("a table of Excel") and "govor convert rows.xlsx --to openai" in problem.message
    convert_file(path, "openai", Path("out.jsonl"), when_lossy="drop", force=False)
    damaged = path.read_bytes()[:-200]
    with pytest.raises(GovorError, match="not a whole"):
        read_rows(write(damaged, "rows.xlsx"))


def test_cells_of_a_workbook():
    lines = [("Отчёт",), (), ("Вопрос", "Ответ"), ("Когда?", datetime(2025, 1, 2)), ("А?", "раз_x000D_\nдва")]
    content = workbook(*lines)
    rows = read_rows(write(content, "rows"))  # as standard input: by a name without .xlsx
    assert [row.messages[1]["content"] for row in rows] == ["2025-01-02", "раз\nдва"]
    for cells, said in (("А?", "#REF!"), "'ответ' holds #REF!"), (("А?", None), "rows:3: 'ответ' is empty"):
        path = write(workbook(("Вопрос", "Ответ"), ("Б?", "б"), cells), "rows")
        with pytest.raises(DataError, match=said):
            read_rows(path)


def test_a_workbook_that_would_fill_the_memory_is_refused(monkeypatch):
    path = write(workbook(("q", "a"), ("а", "б" * 10_000)), "rows.xlsx")
    monkeypatch.setattr("train.chats.tables.MOST_OF_EXCEL", 5000)
    with pytest.raises(DataError, match=r"unpacks to .* save the sheet as CSV"):
        read_rows(path)


@pytest.mark.parametrize("content", ["Клиент;Мы\nТы дома?;Да\n", dumps([{"Клиент": "Ты дома?", "Мы": "Да"}])])
def test_columns_are_named_where_nothing_tells_them(content):
    path = write(content, "t.csv")
    with pytest.raises(DataError, match="--columns QUESTION,ANSWER"):
        read_rows(path)
    [record] = stream_records(path, ReadAs(columns=("Клиент", "Мы")))
    assert [m["content"] for m in record.row.messages] == ["Ты дома?", "Да"]
    assert run("convert", "t.csv", "--to", "openai", "-o", "o.jsonl", "--columns", "Клиент,Мы").exit_code == 0
    result = run("convert", "t.csv", "--to", "openai", "-o", "p.jsonl", "--columns", "Клиент,Они")
    assert result.exit_code != 0 and "Они" in result.output
    assert "expected two names" in run("convert", "t.csv", "--to", "openai", "-o", "p", "--columns", "Клиент").output


def test_texts_are_read_by_a_stated_template_alone():
    turn = "<s>[INST] {} [/INST] {} </s>"
    path = write(dumps({"text": turn.format(Q, A) + turn.format("а\nб", "в")}))
    with pytest.raises(DataError, match=r"state it: govor convert file\.jsonl --to openai"):
        read_rows(path)
    template = "<s>[INST] {question} [/INST] {answer}</s>"
    [record] = stream_records(path, ReadAs(template=template))
    assert [m["content"] for m in record.row.messages] == [Q, A, "а\nб", "в"]
    chatml = "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>"
    with pytest.raises(DataError, match="character 1: the text does not go on as the template"):
        list(stream_records(path, ReadAs(template=chatml)))
    told = (
        "<|im_start|>system\nТы Наташа.<|im_end|>\n<|im_start|>user\nа<|im_end|>\n<|im_start|>assistant\nб<|im_end|>\n"
    )
    of_shell = r"<|im_start|>system\n{system}<|im_end|>\n" + chatml.replace("\n", r"\n")
    [record] = stream_records(write(dumps({"text": told})), ReadAs(template=of_shell))
    assert [(m["role"], m["content"]) for m in record.row.messages] == [
        ("system", "Ты Наташа."), ("user", "а"), ("assistant", "б")
    ]  # fmt: skip
    for wrong in ("{question}{answer}", "{question}", "[INST] {question} {question} {answer}"):
        with pytest.raises(GovorError, match="a template n"):
            list(stream_records(path, ReadAs(template=wrong)))
    within = write(dumps({"text": turn.format("а [/INST] б", A)}))
    with pytest.raises(DataError, match="stands within a turn"):
        list(stream_records(within, ReadAs(template=template)))


# Two answers

OPENAI_PREFERENCE = {"input": {"messages": [PAIR[0]]}, "preferred_output": [PAIR[1]],
                     "non_preferred_output": [{"role": "assistant", "content": "Никто"}]}  # fmt: skip
WORSE = {"role": "assistant", "content": "Никто"}


@pytest.mark.parametrize(
    "record",
    [
        OPENAI_PREFERENCE,
        {key.replace("output", "completion"): value for key, value in OPENAI_PREFERENCE.items()},
        {"prompt": Q, "chosen": A, "rejected": "Никто"},
        {"prompt": [PAIR[0]], "chosen": [PAIR[1]], "rejected": [WORSE]},
        {"chosen": PAIR, "rejected": [PAIR[0], WORSE]},
        {"prompt": [PAIR[0]], "chosen": PAIR, "rejected": [PAIR[0], WORSE], "score": 3},
        {"prompt": Q, "chosen": PAIR, "rejected": [PAIR[0], WORSE]},
        {"prompt": Q, "messages": PAIR, "chosen": PAIR, "rejected": [PAIR[0], WORSE]},  # UltraFeedback
        {"question": Q, "chosen": A, "rejected": "Никто"},
        {"instruction": Q, "input": "", "chosen": A, "rejected": "Никто"},
        {"chosen": f"\n\nHuman: {Q}\n\nAssistant: {A}", "rejected": f"\n\nHuman: {Q}\n\nAssistant: Никто"},  # Anthropic
    ],
)
def test_preference_rows_are_checked_named_and_kept(record, capsys):
    path = write("\n".join([dumps(record)] * 12))
    report = check_preferences(path)
    assert (report.examples, report.error_count, report.preferences) == (12, 0, True)
    assert validate([path], as_json=False)
    assert "rows for preference tuning (DPO)" in capsys.readouterr().out
    with pytest.raises(DataError, match="govor train learns from rows with one answer") as caught:
        read_rows(path)
    assert "\n" not in str(caught.value)
    convert_file(path, "openai", Path("out.jsonl"), when_lossy="drop", force=False)
    assert [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()] == [OPENAI_PREFERENCE] * 12
    with pytest.raises(DataError, match="--to openai alone can write"):
        convert_file(path, "alpaca", Path("a.jsonl"), when_lossy="drop", force=False)


def test_the_prompt_may_stand_behind_a_system_message_in_both_answers():
    system = {"role": "system", "content": "Ты Наташа."}
    path = write(dumps({"prompt": Q, "chosen": [system, *PAIR], "rejected": [system, PAIR[0], WORSE]}))
    convert_file(path, "openai", Path("out.jsonl"), when_lossy="refuse", force=False)
    assert json.loads(Path("out.jsonl").read_text())["input"] == {"messages": [system, PAIR[0]]}
    path = write(dumps({"prompt": "Другое", "chosen": PAIR, "rejected": [PAIR[0], WORSE]}))
    with pytest.raises(DataError, match="begin with messages that are not the `prompt`"):
        convert_file(path, "openai", Path("out.jsonl"), when_lossy="refuse", force=True)


def test_a_question_under_another_name_is_not_lost_behind_a_system_message():
    row = {"system": "Ты Наташа.", "question": Q, "chosen": A, "rejected": "Никто"}
    convert_file(write(dumps(row)), "openai", Path("out.jsonl"), when_lossy="refuse", force=False)
    asked = json.loads(Path("out.jsonl").read_text())["input"]["messages"]
    assert asked == [{"role": "system", "content": "Ты Наташа."}, PAIR[0]]
    for wrong, said in (({**row, "question": ""}, "no question"), ({**row, "prompt": "а"}, "are both questions")):
        with pytest.raises(DataError, match=said):
            convert_file(write(dumps(wrong)), "openai", Path("p.jsonl"), when_lossy="drop", force=False)


def test_bad_preference_rows_are_named_by_line(capsys):
    good = dumps({"prompt": Q, "chosen": A, "rejected": "Никто"})
    bad = [dumps({"prompt": Q, "chosen": "", "rejected": "б"}), dumps({"chosen": A, "rejected": "Никто"})]
    path = write("\n".join([good] * 10 + bad))
    assert not validate([path], as_json=False)
    printed = capsys.readouterr().out
    assert "file.jsonl:11: " in printed and "file.jsonl:12: " in printed and "❌ 2 errors" in printed


# What is not read


def packed(kind: str) -> bytes:
    data = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=data, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    else:
        with zipfile.ZipFile(data, "w") as archive:
            if kind == "slack":
                archive.writestr("channels.json", '[{"id": "C1"}]')
                archive.writestr("general/1.json", '[{"type": "message", "text": "a", "ts": "1735700000.000100"}]')
            elif kind == "ods":
                archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
            else:
                archive.writestr("word/document.xml" if kind == "docx" else "notes.md", "x")
    return data.getvalue()


NAMED = [
    (lzma.compress(b"{}"), "xz: unpack it: unxz file"),
    (bz2.compress(b"{}"), "bzip2: unpack it: bunzip2 file"),
    (packed("zip"), "a zip archive of something else (notes.md)"),
    (packed("docx"), "a document of Word"),
    (packed("tar"), "a tar archive"),
    (b"7z\xbc\xaf\x27\x1c\x00\x04", "a 7-Zip archive"),
    (b"Rar!\x1a\x07\x01\x00", "a RAR archive"),
    (b"\x89PNG\r\n\x1a\n\x00", "an image"),
    (b"\xff\xd8\xff\xe0\x00\x10JFIF", "an image"),
    (b"%PDF-1.7\n%\xe2\xe3", "a PDF"),
    (b"PAR1\x15\x04", "Parquet"),
    (b"SQLite format 3\x00", "a SQLite database"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Excel file: save it as .xlsx"),
    (b"BM\x36\x10\x00\x00\x00\x00\x00\x00", "an image"),
    (b"II*\x00\x08", "an image"),
    (b"{\\rtf1\\ansi a}", "a document in RTF: save it as text"),
    (packed("ods"), "a document of LibreOffice: save it as .xlsx or CSV"),
    (packed("slack"), "a zip archive, in it a Slack export: it is not read"),
    (b"ID,Timestamp,Contents,Attachments\n1,2025,a,\n", "Discord's own data package: it holds your own messages"),
    (b"OggS\x00\x02", "sound or video"),
    (b'[{"type": "message", "user": "U1", "text": "a", "ts": "1735700000.000100"}]', "a Slack export: it is not read"),
    (b'[{"id": "C1", "name": "general", "created": 1, "creator": "U1", "members": []}]', "a Slack export: it is not"),
    (b'[{"id": "D1", "created": 1, "members": ["U1", "U2"]}]', "a Slack export: it is not read"),
    (b'{"question": {"0": "a"}, "answer": {"0": "b"}}', "a table column by column: write it row by row"),
    (b'{"question": ["a", "c"], "answer": ["b", "d"]}', "a table column by column: write it row by row"),
    (b'{"userId": "8:live:a", "exportDate": "2025", "conversations": [{"id": "b"}]}', "Skype's export: it is not read"),
    (
        b'{"messages": [{"creator": {"name": "a"}, "text": "b", "created_date": "c"}]}',
        "Google Chat's export: it is not",
    ),
    (
        b"AuthorID,Author,Date,Content,Attachments,Reactions\n1,a,2025,b,,\n",
        "a channel of Discord as a table: export it",
    ),
    (b'[{"ID": 1, "Timestamp": "2025", "Contents": "a"}]', "Discord's own data package: it holds your own messages"),
    (b'{"message_id": "a", "parent_id": null, "text": "b", "role": "prompter"}', "OpenAssistant's tree of messages"),
    (b'{"prompt": "a", "completion": "b", "label": true}', "(KTO): keep those whose `label` is true"),
    (b"{'messages': [{'role': 'user'}]}", "JSON with quotes of the wrong kind"),
    ("{“messages“: []}".encode(), "JSON with quotes of the wrong kind"),
    (b"<!DOCTYPE html><html><body>x</body></html>", "an HTML page"),
]


@pytest.mark.parametrize(("content", "expected"), NAMED)
def test_what_is_not_read_is_named_once_and_alike_everywhere(content, expected):
    write(content, "file")
    outputs = [
        run("validate", "file").output,
        run("convert", "file", "--to", "openai", "-o", "o.jsonl").output,
        run("collect", "file", "--persona", "x").output,
    ]
    for output in outputs:
        assert output.count(expected) == 1 and "UTF-8" not in output and "Traceback" not in output, output
    assert len(outputs[1].splitlines()) == len(outputs[2].splitlines()) == 1


def test_a_table_of_rows_is_no_chat():
    write("Вопрос;Ответ\nТы дома?;Да\n", "t.csv")
    output = run("collect", "t.csv", "--persona", "x").output
    assert output == "error: t.csv: a table of questions and answers, no chats: train on it, or govor validate t.csv\n"


def test_folders_urls_and_standard_input(tmp_path):
    (tmp_path / "chats").mkdir()
    result = run("validate", str(tmp_path / "chats"))
    assert result.exit_code == 2 and "a folder, expected a file of rows" in str(result.output)
    result = run("validate", "https://example.org/rows.jsonl")
    assert result.exit_code == 2 and "a URL: download the file" in result.output
    result = run("collect", "https://example.org/result.json", "--persona", "x")
    assert "https://example.org/result.json: a URL: download the file" in result.output
    (tmp_path / "chats" / "1.json").write_bytes(b'[{"type": "message", "text": "a", "ts": "1735700000.000100"}]')
    for verb in (["validate"], ["collect", "--persona", "x"]):
        assert "in it a Slack export: it is not read" in run(*verb, str(tmp_path / "chats")).output
    rows = "\n".join(dumps({"messages": [{**PAIR[0], "content": str(n)}, PAIR[1]]}) for n in range(10)).encode()
    result = run("validate", "-", stdin=rows)
    assert result.exit_code == 0 and "10 training examples" in result.output
    result = run("validate", "-", stdin=rows + b"\n{")
    assert result.exit_code == 1 and "-:11: not valid JSON" in result.output
    table = "Вопрос;Ответ\nТы дома?;Да\n".encode("cp1251")
    result = run("convert", "-", "--to", "openai", "-o", str(tmp_path / "out.jsonl"), stdin=table)
    assert result.exit_code == 0 and "1 rows, read as question-answer" in result.output


def test_every_entry_of_the_table_is_whole():
    names = [form.name for form in FORMATS if form.is_rows or form.read_chats]
    assert len(set(names)) == len(names) and len(names) > 15
    for form in FORMATS:
        assert sum(map(bool, (form.read_chats, form.to_row, form.to_preference))) <= 1
        assert form.keys or not form.is_rows
        assert form.note or form.read_chats or form.to_row, "what is not read says what to do"


def test_validate_loads_no_reader_that_it_does_not_need(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(dumps({"messages": [{**PAIR[0], "content": str(n)}, PAIR[1]]}) for n in range(10)))
    code = (
        "import sys; from train.cli import main; sys.argv = ['govor', 'validate', sys.argv[1]]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = 'torch transformers lxml openpyxl ijson zstandard pymorphy3 train.chats.formats'\n"
        "print([name for name in heavy.split() if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(rows)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout
    assert output.splitlines()[-1] == "[]"
    code = "import sys, train.chats.readers, train.chats.chat_exports; print({'lxml', 'openpyxl'} & sys.modules.keys())"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert output.stdout.strip() == "set()"
