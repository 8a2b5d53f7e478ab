"""The data verbs on real Russian dialogue: 159 plays of 1748–1913 (RusDraCor, CC0), where it is at hand."""

import gzip
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from train.chats.checks import check_file
from train.chats.privacy.scrub import find_personal_data
from train.chats.readers import read_rows
from train.chats.rows import Row, row_to_json, text_of
from train.chats.split import split_rows
from train.chats.writers import convert_rows


@pytest.fixture(scope="module")
def rows(shared) -> list[Row]:
    """2,000 exchanges: a speech and what another answers, within a scene."""
    with gzip.open(shared("data/rusdracor_speeches.jsonl.gz"), "rt", encoding="utf-8") as file:
        speeches = [json.loads(line) for line in itertools.islice(file, 9000)]
    pairs = [
        (a["text"], b["text"])
        for a, b in itertools.pairwise(speeches)
        if (a["play"], a["scene"]) == (b["play"], b["scene"]) and a["speaker"] != b["speaker"]
    ]
    return [
        Row(n, [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}])
        for n, (asked, answered) in enumerate(pairs[:4000:2], 1)
    ]


def test_they_validate_and_go_there_and_back(rows):
    path = Path("plays.jsonl")
    path.write_text("".join(row_to_json(row) + "\n" for row in rows), encoding="utf-8")
    report = check_file(path)
    assert (report.examples, report.error_count) == (len(rows), 0)
    for target in ("alpaca", "sharegpt"):
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in convert_rows(rows, target).records)
        Path("there.jsonl").write_text(text, encoding="utf-8")
        assert [row.messages for row in read_rows(Path("there.jsonl"))] == [row.messages for row in rows]


def test_nothing_in_them_is_personal_data(rows):
    """No phones in 1850: every finding is a false one. At most one in 1,000 speeches is let pass."""
    texts = [text_of(message) for row in rows for message in row.messages]
    found = [(text, text[f.start : f.end]) for text in texts for f in find_personal_data(text)]
    assert len(found) <= len(texts) / 1000, found[:5]


def test_no_exchange_stands_on_both_sides_of_a_split(rows):
    train, held_out = split_rows(rows, 0.1, seed=1)
    assert abs(len(held_out) - 200) <= 20
    said = {text_of(row.messages[1]) for row in train if len(text_of(row.messages[1])) >= 60}
    assert not any(text_of(row.messages[1]) in said for row in held_out)


@pytest.mark.slow
def test_validate_is_fast_and_small(rows):
    """The bounds of `govor validate`, by the script that measures them.

    Its speed counts beside that of a bare loop: a lone figure says more of the machine's day than of the code.
    """
    Path("plays.jsonl").write_text("".join(row_to_json(row) + "\n" for row in rows), encoding="utf-8")
    script = REPOSITORY / "scripts/bench_data.py"
    command = [sys.executable, script, "--megabytes", "60", "--rounds", "3", "--rows", "plays.jsonl"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    loop = next(line for line in output.splitlines() if line.startswith("json.loads loop"))
    assert float(loop.split("×")[0].split()[-1]) >= 0.5, output
    assert output.strip().endswith("kept"), output
