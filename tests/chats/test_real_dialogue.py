"""The data verbs on real Russian dialogue: 159 plays of 1748–1913 (RusDraCor, CC0), where it is at hand."""

import gzip
import itertools
import json
import random
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
from train.chats.telegram.dialogues import collect_dialogues
from train.chats.telegram.participants import find_persona, survey_exports
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
@pytest.mark.alone
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


PERSONA, PLAY = "Наталья Петровна", "turgenev-mesjats-v-derevne"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_answer_of_a_real_persona_stands_behind_what_it_did_not_follow(shared, tmp_path, seed):
    """Her play as chats, a scene each; of what the others say 15 % comes as voice messages, 3 % of hers too."""
    rng = random.Random(seed)
    with gzip.open(shared("data/rusdracor_speeches.jsonl.gz"), "rt", encoding="utf-8") as file:
        speeches = [speech for line in file if (speech := json.loads(line))["play"] == PLAY]
    ids = {name: f"user{n}" for n, name in enumerate(sorted({speech["speaker"] for speech in speeches}), 1)}
    chats, before, after_voice = [], {}, 0
    for number, (scene, said) in enumerate(itertools.groupby(speeches, key=lambda speech: speech["scene"])):
        messages, last, time = [], None, 1_700_000_000 + 10**7 * number
        for at, speech in enumerate(said):
            hers = speech["speaker"] == PERSONA
            voice = rng.random() < (0.03 if hers else 0.15)
            message = {"id": at, "type": "message", "from": speech["speaker"], "from_id": ids[speech["speaker"]]}
            message |= {"date_unixtime": str(time + 60 * at), "text": "" if voice else speech["text"]}
            messages.append({**message, "media_type": "voice_message"} if voice else message)
            if hers and not voice:
                before.setdefault(speech["text"], []).append(last)
                after_voice += last is not None and last[1] is None
            last = (speech["speaker"], None if voice else speech["text"])
        chats.append({"name": f"Явление {scene}", "type": "private_group", "id": number, "messages": messages})
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"chats": {"list": chats}}, ensure_ascii=False), encoding="utf-8")
    survey = survey_exports([path])
    collected = collect_dialogues(survey, find_persona(survey, [PERSONA]))
    report = collected.report
    assert report.messages_read == len(speeches) == report.messages_kept + report.dropped.total()
    assert report.dropped["answer_to_media"] + report.dropped["after_own_media"] >= after_voice > 20
    answers = 0
    for dialogue in collected.dialogues:
        for earlier, turn in itertools.pairwise(dialogue.turns):
            if turn.role == "assistant":
                answers += 1
                assert (earlier.speaker, earlier.text) in before[turn.text], "what stands before it came before it"
    assert answers > 200
    for row in collected.rows:
        for question, answer in itertools.pairwise(row.messages):
            if answer["role"] == "assistant":
                first = text_of(answer).split("\n")[0]
                said = [last[1] for text, lasts in before.items() if text.startswith(first) for last in lasts if last]
                assert any(text and text_of(question).endswith(text) for text in said)
