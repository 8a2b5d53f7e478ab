"""Tests that JSON nested without an end takes neither memory nor time, and that nothing else is taken for it."""

import io
import json
import random
import resource
from typing import Any

import pytest
from click.testing import CliRunner

from train.chats.readers import read_rows
from train.chats.sources import DEEPEST, ShallowJson
from train.cli import main
from train.core.errors import DataError

TELEGRAM = '{"name": "Аня", "type": "personal_chat", "id": 1, "messages": '


def read(data: bytes, size: int) -> bytes:
    file = ShallowJson(io.BytesIO(data))
    blocks = list(iter(lambda: file.read(size), b""))
    return b"".join(blocks)


def anything(numbers: random.Random, depth: int) -> Any:
    kind = numbers.random()
    if depth == 0 or kind < 0.3:
        return "".join(numbers.choice('ab[]{}"\\\n,:я') for _ in range(numbers.randrange(12)))
    if kind < 0.6:
        return [anything(numbers, depth - 1) for _ in range(numbers.randrange(4))]
    return {anything(numbers, 0): anything(numbers, depth - 1) for _ in range(numbers.randrange(4))}


def test_brackets_in_texts_count_for_nothing(monkeypatch):
    """Wherever a block ends: in a text, behind a backslash, between two."""
    monkeypatch.setattr("train.chats.sources.DEEPEST", 7)
    numbers = random.Random(1)
    for _ in range(500):
        data = json.dumps(anything(numbers, 6), ensure_ascii=numbers.random() < 0.5).encode()
        assert read(data, numbers.choice([1, 2, 3, 7, 64])) == data


@pytest.mark.parametrize("start", ["[", '{"[": [1, ', '{"a\\"": '])
@pytest.mark.parametrize("size", [1, 1000, 1 << 16])
def test_what_is_nested_too_deep_is_refused(start, size):
    one = start.count("[") + start.count("{") - start.count('"[')
    assert read((start * (DEEPEST // one)).encode(), size)
    with pytest.raises(ValueError, match="nested more than 5,000 deep"):
        read((start * (DEEPEST // one + 1)).encode(), size)


@pytest.mark.parametrize("verb", ["validate", "convert", "collect", "analyze"])
@pytest.mark.parametrize(
    "start", ["", TELEGRAM, '{"data": ', '{\n"rows":\n'], ids=["list", "telegram", "data", "lines"]
)
def test_no_verb_needs_memory_for_it(verb, start, tmp_path):
    file = tmp_path / "deep.json"
    file.write_text(start + "[" * 100_000, encoding="utf-8")
    more = {"convert": ["--to", "openai", "-o", tmp_path / "o"], "collect": ["--persona", "Аня", "-o", tmp_path / "o"]}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = CliRunner().invoke(main, [verb, str(file), *map(str, more.get(verb, []))])
    assert result.exit_code in (1, 2) and str(file) in result.output
    assert "Traceback" not in result.output and "unexpected" not in result.output
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20, "a gigabyte"


@pytest.mark.parametrize("inner", ["[" * 1500 + "]" * 1500, '{"a":' * 1500 + "1" + "}" * 1500])
def test_a_row_nested_deeper_than_python_calls_is_refused_by_its_line(inner, tmp_path):
    file = tmp_path / "rows.jsonl"
    row = '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "more": %s}\n'
    file.write_text(row % 1 + row % inner, encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl:2: nested too deep: a row is messages with text"):
        read_rows(file)
