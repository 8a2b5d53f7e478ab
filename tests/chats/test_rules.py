"""The fast form of the rules and the one in words refuse the same rows."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.chats.checks import check_file, read_jsonl
from train.chats.rules import PlainRow, is_valid, row_problems
from train.core.errors import DataError

TEXT = st.one_of(st.text(max_size=8), st.sampled_from(["", " ", "\n", "а", "\u2028", "\x00", "🙂"]))
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.floats(allow_nan=False), TEXT, st.just([]), st.just({})
)
PART = st.one_of(st.fixed_dictionaries({"type": st.sampled_from(["text", "refusal", "image_url"]), "text": TEXT}), JUNK)
MESSAGE = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "bot"])},
        optional={
            "content": st.one_of(TEXT, st.lists(PART, max_size=2), JUNK),
            "weight": st.one_of(st.sampled_from([0, 1]), JUNK),
            "name": st.one_of(TEXT, JUNK),
            "refusal": st.one_of(TEXT, JUNK),
            "tool_calls": JUNK,
            "tool_call_id": st.one_of(TEXT, JUNK),
            "extra": JUNK,
        },
    ),
    JUNK,
)
PLAIN = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXT},
    optional={"name": TEXT},
)
ROW = st.one_of(
    st.fixed_dictionaries(
        {"messages": st.one_of(st.lists(MESSAGE, max_size=4), st.lists(PLAIN, min_size=1, max_size=5), JUNK)},
        optional={"tools": JUNK, "id": JUNK},
    ),
    JUNK,
)


@given(ROW)
@settings(max_examples=600, deadline=None)
def test_both_forms_agree(row):
    line = json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")
    in_words = not list(row_problems(1, row))
    try:
        fast = is_valid(msgspec.json.decode(line, type=PlainRow))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        fast = False
    assert not fast or in_words, "the fast form lets through what the words refuse"
    plain = in_words and row.keys() == {"messages"} and all(
        m["role"] != "tool" and m.keys() <= {"role", "content", "name", "weight"} and "refusal" not in str(m["content"])
        for m in row["messages"]
    )  # fmt: skip
    assert fast or not plain, "the fast form refuses a plain row that is right"


@given(st.lists(st.one_of(ROW.map(lambda row: json.dumps(row).encode()), st.binary(max_size=40)), max_size=6))
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_a_traceback_and_reading_agrees_with_checking(tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(b"\n".join(lines))
    report = check_file(path)
    bad = [problem for problem in report.errors if problem.kind != "too_few_examples"]
    try:
        rows = read_jsonl(path)
    except DataError:
        assert bad
    else:
        assert not bad
        assert len(rows) == report.examples


def test_rows_over_block_borders_and_lines_beyond_all_bounds(monkeypatch):
    """Blocks of 64 bytes: every row spans several; a line beyond the longest is one error and the rest is read."""
    monkeypatch.setattr("train.chats.checks.CHUNK", 64)
    monkeypatch.setattr("train.chats.checks.LONGEST_LINE", 1000)
    row = '{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "да"}]}'
    lines = [row % f"вопрос {n}" * 1 for n in range(12)]
    lines[5] = row % ("о" * 5000)
    Path("rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    report = check_file(Path("rows.jsonl"))
    assert [(e.line, e.kind) for e in report.errors] == [(6, "line_too_long")]
    assert report.examples == 12


def test_every_error_is_counted_and_a_hundred_are_kept():
    Path("rows.jsonl").write_text("{\n" * 250)
    report = check_file(Path("rows.jsonl"))
    assert (len(report.errors), report.error_count, report.examples) == (100, 250, 250)


def test_repeated_rows_are_named_with_the_line_of_the_first():
    row = '{"messages": [{"role": "user", "content": "%d"}, {"role": "assistant", "content": "да"}]}'
    lines = [row % n for n in range(10)] + ["", row % 3, row % 3]
    Path("rows.jsonl").write_text("\n".join(lines))
    found = [(w.line, w.kind, w.message) for w in check_file(Path("rows.jsonl")).warnings]
    assert found == [
        (11, "blank_line", "blank line, skipped"),
        (12, "duplicate_row", "the same as line 4"),
        (13, "duplicate_row", "the same as line 4"),
    ]


@pytest.mark.parametrize(
    ("roles", "kind"),
    [("sua", None), ("ua", None), ("a", "no_user_message"), ("usa", "system_not_first"), ("uua", "repeated_user")],
)
def test_warnings_about_turns(roles, kind):
    names = {"s": "system", "u": "user", "a": "assistant"}
    rows = [
        json.dumps({"messages": [{"role": names[r], "content": f"т{n}"} for r in roles]}, ensure_ascii=False)
        for n in range(10)
    ]
    Path("rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    report = check_file(Path("rows.jsonl"))
    assert not report.errors
    assert {w.kind for w in report.warnings} == ({kind} if kind else set())


def test_null_character_is_noticed_and_an_escaped_backslash_is_not():
    row = '{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "%d"}]}'
    lines = [row % (r"a\u0000", 0), row % (r"a\\u0000", 1)] + [row % ("a", n) for n in range(2, 12)]
    Path("rows.jsonl").write_text("\n".join(lines))
    assert [(w.line, w.kind) for w in check_file(Path("rows.jsonl")).warnings] == [(1, "null_character")]


def test_rows_of_2023_read_as_tools(tmp_path):
    row = {
        "messages": [
            {"role": "user", "content": "погода?"},
            {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
            {"role": "function", "name": "weather", "content": "дождь"},
            {"role": "assistant", "content": "Дождь."},
        ],
        "functions": [{"name": "weather", "parameters": {}}],
    }
    path = tmp_path / "old.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    [read] = read_jsonl(path)
    assert read.tools == [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    call = read.messages[1]["tool_calls"][0]
    assert read.messages[2]["tool_call_id"] == call["id"]
    assert "function_call" not in read.messages[1]
