"""`govor validate`: every problem with its line and kind."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.conftest import REPOSITORY
from train.chats import checks
from train.chats.checks import check_file
from train.chats.readers import read_rows
from train.cli import main
from train.core.errors import DataError, GovorError

GOOD = '{"messages": [{"role": "user", "content": "а"}, {"role": "assistant", "content": "б"}]}'


def messages(*turns) -> str:
    return json.dumps({"messages": list(turns)}, ensure_ascii=False)


USER = {"role": "user", "content": "а"}
ANSWER = {"role": "assistant", "content": "б"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def filling(count: int) -> list[bytes]:
    return [GOOD.replace("а", f"а{number}").encode() for number in range(count)]


def write(*lines: str | bytes, fill: int = 10) -> Path:
    """A file that begins with the lines and is filled up with good ones."""
    path = Path("rows.jsonl")
    encoded = [line if isinstance(line, bytes) else line.encode() for line in lines]
    path.write_bytes(b"\n".join([*encoded, *filling(fill)]) + b"\n")
    return path


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ('{"messages": [', "invalid_json"),
        ('{"messages": NaN}', "invalid_json"),
        (GOOD.replace("а", "\\ud83d"), "lone_surrogate"),
        (GOOD.encode("cp1251"), "invalid_utf8"),
        ("[" * 5000 + "]" * 5000, "json_array"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nesting_too_deep"),
        ('"text"', "not_an_object"),
        ('{"messages": {}}', "messages_not_list"),
        ('{"messages": []}', "empty_messages"),
        ('{"messages": [1]}', "message_not_object"),
        (GOOD[:-1] + ', "id": 1}', "extra_key"),
        (messages({"content": "а"}, ANSWER), "missing_role"),
        (messages({"role": "bot", "content": "а"}, ANSWER), "unrecognized_role"),
        (messages({"role": ["user"], "content": "а"}, ANSWER), "unrecognized_role"),
        (messages({"role": "user"}, ANSWER), "missing_content"),
        (messages(USER, {"role": "assistant", "content": " "}), "missing_content"),
        (messages({"role": "user", "content": 1}, ANSWER), "invalid_content"),
        (messages({"role": "user", "content": ["а"]}, ANSWER), "invalid_content"),
        (messages({"role": "user", "content": [{"type": ["text"]}]}, ANSWER), "invalid_content"),
        (messages({**USER, "age": 3}, ANSWER), "extra_message_key"),
        (messages(USER), "no_assistant_message"),
        (messages(USER, ANSWER, USER), "last_message_not_assistant"),
        (messages(USER, {**ANSWER, "weight": 2}), "invalid_weight"),
        (messages(USER, {**ANSWER, "weight": True}), "invalid_weight"),
        (messages({**USER, "weight": 1}, ANSWER), "invalid_weight"),
        (messages(USER, {**ANSWER, "weight": 0}), "no_trainable_message"),
        (messages(USER, {"role": "assistant", "tool_calls": []}), "invalid_tool_call"),
        (messages(USER, {"role": "assistant", "tool_calls": [{**CALL, "function": {}}]}), "invalid_tool_call"),
        (messages(USER, {"role": "tool", "content": "1"}, ANSWER), "unmatched_tool_call_id"),
        (messages(USER, {"role": "tool", "tool_call_id": "c9", "content": "1"}, ANSWER), "unmatched_tool_call_id"),
    ],
)
def test_kinds(line, kind):
    report = check_file(write(line))
    assert report.errors[0].kind == kind
    assert report.errors[0].line == (0 if kind == "json_array" else 1)


@pytest.mark.parametrize(
    "line",
    [
        GOOD,
        messages({"role": "system", "content": "s"}, USER, ANSWER, USER, ANSWER),
        messages({"role": "developer", "content": "s"}, USER, ANSWER),
        messages({"role": "user", "content": [{"type": "text", "text": "а"}], "name": "n"}, ANSWER),
        messages(USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}),
        messages(USER, {"role": "assistant", "content": None, "tool_calls": [CALL]},
                 {"role": "tool", "tool_call_id": "c1", "content": "1"}, ANSWER),
        GOOD.replace("а", "\u2028\u0085"),  # line breaks to Unicode, not to JSONL
    ],
)  # fmt: skip
def test_good_rows(line):
    report = check_file(write(line))
    assert (report.examples, report.errors, report.warnings) == (11, [], [])


def test_every_error_of_a_file_with_physical_lines():
    report = check_file(write("", messages({"role": "bot"}, ANSWER), "{", fill=8))
    assert [(e.line, e.kind) for e in report.errors] == [
        (2, "unrecognized_role"), (2, "missing_content"), (3, "invalid_json"),
    ]  # fmt: skip
    assert [(w.line, w.kind) for w in report.warnings] == [(1, "blank_line")]
    assert report.examples == 10


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty_file"),
        (b"\n\n", "empty_file"),
        (b"\x1f\x8b\x08rest", "binary_file"),
        (b"\xff\xfe{\x00", "binary_file"),
        (b"PK\x00\x01", "binary_file"),
        (b"[\n" + GOOD.encode() + b"]", "json_array"),
        (GOOD.encode(), "too_few_examples"),
    ],
)
def test_whole_file_problems(content, kind):
    Path("rows.jsonl").write_bytes(content)
    assert check_file(Path("rows.jsonl")).errors[-1].kind == kind


def test_byte_order_mark_and_crlf():
    Path("rows.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(filling(10)))
    report = check_file(Path("rows.jsonl"))
    assert (report.examples, report.errors, [w.kind for w in report.warnings]) == (10, [], ["byte_order_mark"])


def test_reading_refuses_bad_rows_and_names_them():
    with pytest.raises(DataError, match=r"rows\.jsonl:1: its keys \('text'\) are those of no known format"):
        read_rows(write('{"text": 1}'))
    with pytest.raises(GovorError, match="no such file"):
        read_rows(Path("nowhere.jsonl"))


def validate(*arguments: str):
    return CliRunner().invoke(main, ["validate", *arguments])


def test_shipped_rows_pass():
    result = validate(str(REPOSITORY / "data/natasha.jsonl"))
    assert result.exit_code == 0
    assert result.output.strip() == "✅ Validation passed: 321 training examples"


def test_command_prints_file_and_line():
    result = validate(str(write("{")))
    assert result.exit_code == 1
    assert "rows.jsonl:1: not valid JSON" in result.output


def test_json_is_all_that_stands_on_stdout():
    result = validate("--json", str(write("", messages(USER, {**ANSWER, "weight": 7}))))
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (found["valid"], found["examples"]) == (False, 11)
    text = "message 2: `weight` 7: 0 or 1, on the assistant's messages only"
    assert found["errors"] == [{"line": 2, "kind": "invalid_weight", "message": text}]
    assert [w["kind"] for w in found["warnings"]] == ["blank_line"]


def test_missing_file_is_wrong_use():
    result = validate("nowhere.jsonl")
    assert result.exit_code == 2
    assert result.stderr == "error: nowhere.jsonl: no such file\n"


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"prompt": "a", "completion": "b"}, "prompt-completion"),
        ({"instruction": "a", "output": "b"}, "alpaca"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "sharegpt"),
    ],
)
def test_a_file_of_another_format_is_one_line_with_the_command(record, name, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n" + f"{json.dumps(record)}\n" * 300)
    report = check_file(path)
    [problem] = report.errors
    assert (report.error_count, problem.line, problem.kind) == (1, 0, "other_format")
    assert f"rows in {name} format" in problem.message and f"govor convert {path} --to openai" in problem.message


def test_a_nul_in_one_row_names_that_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [GOOD, GOOD.replace("а", "\x00")]
    path.write_text("".join(f"{lines[n == 7]}\n" for n in range(12)))
    [problem] = check_file(path).errors
    assert (problem.line, problem.kind) == (8, "null_character") and "is NUL" in problem.message
    path.write_bytes(b"\x7fELF\x00\x00")
    assert [problem.kind for problem in check_file(path).errors] == ["binary_file"]


def test_a_key_that_many_rows_have_is_one_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"id": n, "messages": [USER, {**ANSWER, "score": 1}, USER, {**ANSWER, "score": 2}]} for n in range(40)]
    rows[30]["rating"] = 5
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    report = check_file(path)
    assert [(problem.line, problem.message) for problem in report.errors] == [
        (1, "unknown key 'id' beside `messages` in 40 rows, here first: remove it"),
        (1, "unknown key 'score' in 40 rows, here first: remove it"),
        (31, "unknown key 'rating' beside `messages`: remove it"),
    ]
    assert report.error_count == 3


def test_a_problem_of_the_whole_file_has_no_line(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text("")
    assert not checks.validate([path], as_json=True)
    assert json.loads(capsys.readouterr().out)["errors"][0]["line"] is None


def test_a_table_in_a_known_format_is_one_line(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("Instruction;Output\n" + "а;б\n" * 20)
    [problem] = check_file(path).errors
    assert (problem.kind, problem.line) == ("other_format", 0) and "rows in alpaca format" in problem.message
