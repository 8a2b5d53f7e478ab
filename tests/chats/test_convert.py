"""Readers and writers: any format in, rows the same; there and back is the identity where the format can say it."""

import contextlib
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from train.chats.readers import read_records, read_rows
from train.chats.rows import Row, row_to_object
from train.chats.writers import convert_file, convert_rows
from train.cli import main
from train.core.errors import DataError, GovorError

PAIR = [{"role": "user", "content": "Кто я?"}, {"role": "assistant", "content": "А кто спрашивает?"}]
ALPACA = {"instruction": "Кто я?", "input": "", "output": "А кто спрашивает?"}
SHAREGPT = [{"from": "human", "value": "Кто я?"}, {"from": "gpt", "value": "А кто спрашивает?"}]
CALL = {"id": "call_2_1", "type": "function", "function": {"name": "now", "arguments": '{"zone": "МСК"}'}}
TOOL = {
    "type": "function",
    "function": {"name": "now", "parameters": {"type": "object", "additionalProperties": False}},
}
WITH_TOOL = Row(1, [PAIR[0], {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    {"role": "tool", "tool_call_id": "call_2_1", "content": "12:00"}, PAIR[1]], [TOOL])  # fmt: skip


def write(content: str | bytes, name: str = "file.json") -> Path:
    path = Path(name)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def dumps(value) -> str:
    return json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"messages": PAIR}, "openai"),
        ({"conversations": SHAREGPT}, "sharegpt"),
        (ALPACA | {"id": 7, "source": "x"}, "alpaca"),
        ({"instruction": "Кто", "input": "я?", "output": "А кто спрашивает?"}, "alpaca"),
        ({"prompt": "Кто я?", "completion": "А кто спрашивает?"}, "prompt-completion"),
        ({"query": "Кто я?", "response": "А кто спрашивает?"}, "query-response"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("packing", ["jsonl", "array", "pretty", "gzip", "zstd"])
def test_every_format_in_every_packing(record, name, packing):
    records = [record, record]
    text = "\n".join(map(dumps, records))
    content = {
        "jsonl": text,
        "array": dumps(records),
        "pretty": "\ufeff\n" + json.dumps(records, indent=2),
        "gzip": gzip.compress(text.encode()),
        "zstd": zstandard.compress(dumps(records).encode()),
    }[packing]
    found, rows = read_records(write(content))
    assert found == name
    question = "Кто\nя?" if record.get("input") else "Кто я?"
    assert [row.messages for row in rows] == [[{"role": "user", "content": question}, PAIR[1]]] * 2
    assert [row.line for row in rows] == [1, 2]
    assert read_rows(Path("file.json")) == rows


@pytest.mark.parametrize(
    "text",
    [
        "prompt,completion\nКто я?,А кто спрашивает?\n",
        "Prompt;Completion\r\nКто я?;А кто спрашивает?\r\n",
        "id\tprompt\tcompletion\n1\tКто я?\tА кто спрашивает?\n",
        'instruction,input,output\n"Кто я?",,"А кто спрашивает?"\n',
    ],
)
def test_tables(text):
    assert [row.messages for row in read_rows(write(text, "t.csv"))] == [PAIR]


def test_table_cells_over_several_lines_keep_physical_lines():
    rows = read_rows(write('query,response\n"а\nб",в\nг,д\n', "t.csv"))
    assert rows[0].messages[0]["content"] == "а\nб"
    assert [row.line for row in rows] == [3, 4]


def test_alpaca_history_and_system():
    record = ALPACA | {"history": [["Привет", "Здравствуй"]], "system": "Ты Наташа."}
    [row] = read_rows(write(dumps([record])))
    assert [m["content"] for m in row.messages] == ["Ты Наташа.", "Привет", "Здравствуй", "Кто я?", "А кто спрашивает?"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (dumps(ALPACA | {"prompt": "a", "completion": "b"}), r"file\.json:1: fits alpaca and prompt-completion"),
        (dumps([{"text": "а"}]), "texts as a template renders them: state it: govor convert"),
        (dumps([{"mood": "а"}]), r"file\.json:1: its keys \('mood'\) are those of no known format"),
        (f"{dumps(ALPACA)}\n{dumps({'messages': PAIR})}", r"file\.json:2: the file began in alpaca format"),
        (dumps([ALPACA, {**ALPACA, "output": 3}]), r"file\.json:2: not a whole row in alpaca format: `output`"),
        (dumps([ALPACA, {**ALPACA, "output": " "}]), r"file\.json:2: message 2: the assistant's `content` is empty"),
        (dumps([{"conversations": [{"from": "кот", "value": "мяу"}]}]), "turn 1: unknown speaker 'кот'"),
        (f"{dumps(ALPACA)}\n{{", r"file\.json:2: not valid JSON"),
        ("[]", "no rows in it"),
        ("[1]", "expected an object, found a number"),
        ("просто текст", "neither JSON nor a table"),
        ("prompt,completion\nа\n", "row 1 has not the columns"),
        (b"\x1f\x8b\x08\x00damaged", "cannot be unpacked"),
        (b"\x28\xb5\x2f\xfddamaged", "cannot be unpacked"),
        ('prompt,completion\n"а'.encode(), "not a valid table|has not the columns"),
        (b"[" + "а".encode("cp1251"), r"file\.json:1: not UTF-8"),
    ],
)
def test_bad_files_are_named(content, message):
    with pytest.raises(DataError, match=message):
        read_rows(write(content))


def test_tools_survive_sharegpt_and_openai():
    for target in ("openai", "sharegpt"):
        [record] = convert_rows([WITH_TOOL], target).records
        [row] = read_rows(write(dumps([record])))
        assert row == WITH_TOOL


def test_gemini():
    rows = [
        Row(1, [{"role": "system", "content": "а"}, {"role": "developer", "content": "б"}, *WITH_TOOL.messages], [TOOL])
    ]
    [record] = convert_rows(rows, "gemini", "drop").records
    assert record["systemInstruction"]["parts"] == [{"text": "а\n\nб"}]
    assert [content["role"] for content in record["contents"]] == ["user", "model", "user", "model"]
    assert record["contents"][1]["parts"] == [{"functionCall": {"name": "now", "args": {"zone": "МСК"}}}]
    assert record["contents"][2]["parts"] == [{"functionResponse": {"name": "now", "response": {"result": "12:00"}}}]
    assert record["tools"] == [{"functionDeclarations": [{"name": "now", "parameters": {"type": "object"}}]}]


WEIGHTED = Row(3, [*PAIR[:1], {**PAIR[1], "weight": 0}, {"role": "user", "content": "Я."}, PAIR[1]])


@pytest.mark.parametrize("target", ["alpaca", "sharegpt", "gemini"])
def test_weights(target):
    refused = convert_rows([WEIGHTED], target)
    assert (refused.records, refused.refused) == ([], [(3, "weights")])
    dropped = convert_rows([WEIGHTED], target, "drop")
    assert (len(dropped.records), dict(dropped.lost), dropped.refused) == (1, {"weights": 1}, [])
    both = Row(4, [*WEIGHTED.messages, {"role": "user", "content": "Ты."}, PAIR[1]])
    split = convert_rows([both], target, "split")
    assert (len(split.records), dict(split.lost), split.refused) == (2, {}, [])


@pytest.mark.parametrize(
    ("row", "target", "why"),
    [
        (WITH_TOOL._replace(tools=None), "alpaca", "tool calls"),
        (Row(1, [{**PAIR[0], "name": "Оля"}, PAIR[1]]), "sharegpt", "names"),
        (Row(1, [PAIR[0], PAIR[0], PAIR[1]]), "alpaca", "turns that do not go"),
        (Row(1, [*PAIR, {"role": "system", "content": "а"}, *PAIR]), "sharegpt", "a system message after the first"),
        (Row(1, [PAIR[1]]), "gemini", "does not go from the user to the model"),
    ],
)
def test_what_a_target_cannot_say_is_refused(row, target, why):
    [(line, reason)] = convert_rows([row], target).refused
    assert line == 1
    assert why in reason


TEXT = st.text(min_size=1, max_size=20).filter(lambda text: text.strip())
ROWS = st.lists(
    st.builds(
        lambda system, pairs: Row(
            1,
            ([{"role": "system", "content": system}] if system else [])
            + [m for u, a in pairs for m in ({"role": "user", "content": u}, {"role": "assistant", "content": a})],
        ),
        st.one_of(st.none(), TEXT),
        st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=4,
)


@given(ROWS, st.sampled_from(["openai", "alpaca", "sharegpt"]), st.sampled_from(["jsonl", "array"]))
@settings(max_examples=150, deadline=None)
def test_there_and_back_is_the_identity(tmp_path_factory, rows, target, packing):
    converted = convert_rows(rows, target)
    assert not converted.refused
    path = tmp_path_factory.getbasetemp() / "there.json"
    text = "\n".join(map(dumps, converted.records)) if packing == "jsonl" else dumps(converted.records)
    path.write_text(text, encoding="utf-8")
    assert [row.messages for row in read_rows(path)] == [row.messages for row in rows]


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_a_traceback(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any"
    for start in (b"", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"[", b'{"messages": ', b"prompt,completion\n"):
        path.write_bytes(start + content)
        with contextlib.suppress(GovorError):
            read_rows(path)


def govor(*arguments: str):
    return CliRunner().invoke(main, ["convert", *arguments], catch_exceptions=False)


class TestCommand:
    def test_writes_and_says_what(self):
        path = write(dumps([ALPACA, ALPACA]))
        result = govor(str(path), "--to", "openai", "-o", "rows.jsonl")
        assert result.output == "rows.jsonl: 2 rows, read as alpaca, written as openai\n"
        assert [row.messages for row in read_rows(Path("rows.jsonl"))] == [PAIR, PAIR]

    def test_refuses_to_overwrite(self):
        path = write(dumps([ALPACA]))
        write("мои строки", "rows.jsonl")
        result = govor(str(path), "--to", "openai", "-o", "rows.jsonl")
        assert (result.exit_code, result.stderr) == (2, "error: rows.jsonl is there already: --force replaces it\n")
        assert govor(str(path), "--to", "openai", "-o", "rows.jsonl", "--force").exit_code == 0

    def test_refuses_to_lose_and_counts_what_it_drops(self):
        path = write("\n".join(dumps(row_to_object(row)) for row in (WEIGHTED, Row(2, PAIR))), "in.jsonl")
        result = govor(str(path), "--to", "gemini", "-o", "out.jsonl")
        assert result.exit_code == 1
        assert "in.jsonl:1: gemini has no place for: weights" in result.stderr
        assert not Path("out.jsonl").exists()
        result = govor(str(path), "--to", "gemini", "-o", "out.jsonl", "--when-lossy", "drop")
        assert "2 rows, read as openai, written as gemini; dropped: weights in 1 rows" in result.output


def turn(speaker: str, **more) -> dict:
    return {"from": speaker, "value": {"human": "а", "gpt": "б"}[speaker], **more}


@pytest.mark.parametrize(
    ("marks", "expected"),
    [({"weight": 0}, 0), ({"weight": 1}, 1), ({"train": False}, 0), ({"train": True}, 1), ({"loss": False}, 0),
     ({"loss": 0, "train": False}, 0), ({"weight": 0.0}, 0), ({}, None), ({"train": None}, None),
     ({"training": False}, 0), ({"masked": True}, 0), ({"mask": 0}, 1), ({"trainable": "false"}, 0)],
)  # fmt: skip
def test_turns_marked_as_not_learned_are_not(marks, expected):
    record = {"conversations": [turn("human"), turn("gpt", **marks), turn("human", train=False), turn("gpt")]}
    [row] = read_rows(write(dumps(record)))
    assert [message.get("weight") for message in row.messages] == [None, expected, None, None]
    [converted] = convert_rows([row], "openai").records
    assert converted["messages"] == row.messages


@pytest.mark.parametrize(
    ("marks", "why"),
    [({"weight": 0.5}, "`weight` is 0.5, expected 0 or 1"), ({"train": "no"}, "`train` is 'no'"),
     ({"weight": 1, "train": False}, "`weight` and `train` contradict each other")],
)  # fmt: skip
def test_marks_that_say_nothing_are_errors(marks, why):
    with pytest.raises(DataError, match=f"turn 2: {why}"):
        read_rows(write(dumps({"conversations": [turn("human"), turn("gpt", **marks)]})))


@pytest.mark.parametrize(
    ("content", "lost"),
    [
        (dumps({**ALPACA, "id": 3, "source": "x"}), ["key 'id'", "key 'source'"]),
        (
            dumps({"conversations": [turn("human", mood="x"), turn("gpt")], "id": "7"}),
            ["key 'id'", "key 'mood (of a turn)'"],
        ),
        ("prompt,completion,author\nа,б,в\n", ["key 'author'"]),
    ],
)
def test_what_convert_would_lose_is_refused_and_counted(content, lost, tmp_path):
    path, out = write(content), tmp_path / "out.jsonl"
    with pytest.raises(DataError, match="1 rows cannot be written; ") as caught:
        convert_file(path, "openai", out, when_lossy="refuse", force=False)
    assert [line.partition("openai has no place for: ")[2] for line in str(caught.value).splitlines()[1:]] == lost
    assert not list(tmp_path.glob("*out*")), "nothing is written"
    convert_file(path, "openai", out, when_lossy="drop", force=False)
    assert len(read_rows(out)) == 1


def test_one_reason_is_one_line(tmp_path):
    path = write("\n".join(dumps({**ALPACA, "id": n}) for n in range(300)))
    with pytest.raises(DataError) as caught:
        convert_file(path, "openai", tmp_path / "out.jsonl", when_lossy="refuse", force=False)
    assert str(caught.value).splitlines()[1:] == [f"  {path}:1 and 299 more rows: openai has no place for: key 'id'"]


PEAK = """
import re, sys
from pathlib import Path
from train.chats.writers import convert_file

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

small, big = map(Path, sys.argv[1:])
convert_file(small, "openai", Path("small.jsonl"), when_lossy="drop", force=False)
before = peak()
convert_file(big, "openai", Path("big.jsonl"), when_lossy="drop", force=False)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's count of a process's peak memory")
@pytest.mark.parametrize("kind", ["jsonl", "array", "data", "table"])
def test_convert_takes_the_memory_of_a_row(kind, working_folder):
    for name, count in (("small", 100), ("big", 20_000)):
        records = [{"prompt": f"вопрос {n}", "completion": "ответ " * 100} for n in range(count)]
        if kind == "table":
            text = "prompt,completion\n" + "".join(f"{r['prompt']},{r['completion']}\n" for r in records)
        else:
            array = dumps(records)
            data = f'{{"version": 1,\n"data": {array}}}'
            text = {"array": array, "data": data, "jsonl": "\n".join(map(dumps, records))}[kind]
        Path(name).write_text(text, encoding="utf-8")
    size = Path("big").stat().st_size
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", PEAK, "small", "big"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert size > 20_000_000 and int(printed.splitlines()[-1]) < size / 5
    assert len(Path("big.jsonl").read_text(encoding="utf-8").splitlines()) == 20_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (dumps({**ALPACA, "train": False}), "marked as not to be learned"),
        ("prompt,completion,weight\nа,б,0\n", "marked as not to be learned"),
        ("prompt,completion,Completion\nа,б,в\n", "two columns are called 'completion'"),
        ("prompt,completion\nа\0,б\n", r"file\.json:2: character 2 is NUL"),
        (dumps(ALPACA) + "\n" + dumps(ALPACA).replace("Кто", "К\0о"), r"file\.json:2: character \d+ is NUL"),
        ("[\n" + dumps(ALPACA).replace("Кто", "К\0о") + "]", r"file\.json:2: character \d+ is NUL"),
        (dumps({**ALPACA, "history": ["да", "ок"]}), r"`history` holds something else than \[question, answer\]"),
        (
            dumps({**ALPACA, "history": [{"role": "assistant", "content": "а"}]}),
            "`history` does not go user, assistant",
        ),
    ],
)
def test_what_would_be_learned_wrongly_is_an_error(content, message):
    with pytest.raises(DataError, match=message):
        read_rows(write(content))


def test_history_of_messages_and_a_long_first_line():
    history = [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}]
    [row] = read_rows(write(dumps({**ALPACA, "history": history, "train": True})))
    assert [message["content"] for message in row.messages] == ["q1", "a1", "Кто я?", "А кто спрашивает?"]
    long = {"conversations": [{"from": "human", "value": "слово " * 20_000}, turn("gpt")]}
    assert len(read_rows(write(dumps(long)))) == 1
