"""What people said of answers → preference rows, each pair once."""

import json
import re
from pathlib import Path

import pytest

from tests.conftest import govor
from train.chats.pairs import read_pairs
from train.chats.readers import read_rows
from train.core.errors import DataError

ASKED = [{"role": "system", "content": "Ты Наташа."}, {"role": "user", "content": "Кто я?"}]


def vote(better: str, worse: str, asked=ASKED, **more) -> dict:
    sides = ([{"role": "assistant", "content": text}] for text in (better, worse))
    return {
        "input": {"messages": asked},
        **dict(zip(("preferred_output", "non_preferred_output"), sides, strict=True)),
        **more,
    }


def label(answer: str, liked: bool, asked=ASKED) -> dict:
    return {"messages": [*asked, {"role": "assistant", "content": answer}], "liked": liked}


def write(*rows: dict, name: str = "feedback.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return name


def made(*arguments: str) -> tuple[list[tuple[str, str]], str]:
    """(preferred, other) of each row written, and what was printed."""
    result = govor("preferences", *arguments, "-o", "pairs.jsonl", "--force")
    assert result.exit_code == 0, result.output
    pairs = read_pairs(Path("pairs.jsonl")) if Path("pairs.jsonl").read_text(encoding="utf-8") else []
    return [
        (pair.preferred.messages[-1]["content"], pair.other.messages[-1]["content"]) for pair in pairs
    ], result.output


def test_votes_become_rows_with_their_prompts():
    pairs, printed = made(write(vote("А", "Б", chat=7, time="2026-11-29")))
    assert pairs == [("А", "Б")] and "pairs.jsonl: 1 preference rows" in printed
    assert json.loads(Path("pairs.jsonl").read_text(encoding="utf-8"))["input"] == {"messages": ASKED}
    assert govor("validate", "pairs.jsonl").exit_code == 1, "ten rows are the least for a job"


def test_the_same_vote_counts_once_and_the_majority_decides():
    first = write(vote("А", "Б"), vote("А", "Б"), vote("Б", "А"), vote("В", "Г"), vote("Г", "В"), name="one.jsonl")
    pairs, printed = made(first, write(vote("А", "Б"), name="two.jsonl"))
    assert pairs == [("А", "Б")]
    assert "2 more votes for the same pair" in printed and "1 votes that others outnumber" in printed
    assert "2 votes for either answer alike" in printed


def test_labels_make_pairs_where_both_are_there():
    other = [{"role": "user", "content": "А кто ты?"}]
    pairs, printed = made(write(label("А", True), label("Б", False), label("В", False), label("Г", True, other)))
    assert pairs == [("А", "Б"), ("А", "В")]
    assert "1 labels without an answer to compare with" in printed


def test_an_answer_is_liked_by_the_majority_of_its_labels():
    """Many ask the same first question, and are answered alike."""
    rows = [label("А", True)] + [label("А", False)] * 3 + [label("Б", True)] * 3 + [label("Б", False)]
    assert made(write(*rows, label("В", True), label("В", False)))[0] == [("Б", "А")]


def test_labels_of_one_answer_are_counted_together_however_it_is_written():
    parts = label("А", False) | {
        "messages": [*ASKED, {"role": "assistant", "content": [{"type": "text", "text": "А"}]}]
    }
    rows = label("А", True), label("А\n", False), parts, label("Б", True)
    assert made(write(*rows))[0] == [("Б", "А")]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (label("А", "yes"), "neither true nor false"),
        ({"messages": ASKED, "liked": True}, "no assistant message"),
        ({"text": "А"}, "no 'input'"),
        (vote("А", "А"), "the two answers are the same"),
        (vote("А", "А\n"), "the two answers are the same"),
        (vote("А", [{"type": "text", "text": "А"}]), "the two answers are the same"),
        ([1], "neither a preference row"),
    ],
)
def test_what_is_neither_is_named_by_line(row, said):
    result = govor("preferences", write(vote("А", "Б"), row), "-o", "pairs.jsonl")
    assert result.exit_code == 1 and "feedback.jsonl:2: " in result.output and said in result.output
    assert not Path("pairs.jsonl").exists()


def test_liked_answers_become_rows_to_train_on():
    talk = [*ASKED, {"role": "assistant", "content": "Своя."}, {"role": "user", "content": "Чья?"}]
    rows = (label("А", True), label("Б", False), label("В", True, talk), label("Г", True), label("Г", False))
    _, printed = made(write(*rows), "--liked", "liked.jsonl")
    assert "liked.jsonl: 2 liked answers" in printed
    learned = [[m["content"] for m in row.messages if m["role"] == "assistant" and m.get("weight") != 0]
               for row in read_rows(Path("liked.jsonl"))]  # fmt: skip
    assert learned == [["А"], ["В"]], "what was liked and disliked alike is not learned, nor what came before"


def test_training_itself_never_learns_a_disliked_answer():
    with pytest.raises(DataError, match=r":2: .*not to be learned"):
        read_rows(Path(write(label("А", True), label("Б", False))))


def test_without_a_pair_nothing_is_written():
    result = govor("preferences", write(label("А", True)), "-o", "pairs.jsonl")
    assert result.exit_code == 1 and "1 labels without" in result.output and "--liked" in result.output
    assert not Path("pairs.jsonl").exists()


def test_what_is_read_is_not_written_over():
    file = write(vote("А", "Б"), label("Г", True))
    before = Path(file).read_text(encoding="utf-8")
    assert govor("preferences", file, "-o", f"./{file}", "--force").exit_code == 2
    assert Path(file).read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Привет".encode("cp1251"), "not UTF-8|neither JSON"),
        (json.dumps(vote("А", "Б"), ensure_ascii=False).encode("cp1251"), ":1: not UTF-8"),
        (json.dumps(vote("А", "Б")).encode("utf-16"), "UTF-16 text"),
        (b"[" * 100_000, "nested more than 5,000 deep"),
        (json.dumps(vote("\ud800", "b")).encode(), ":1: not valid JSON"),
        (b'{"messages": [\n', "not valid JSON"),
        (b"", "empty"),
    ],
)
def test_files_that_hold_no_rows_get_a_line(content, said):
    Path("feedback.jsonl").write_bytes(content)
    result = govor("preferences", "feedback.jsonl", "-o", "pairs.jsonl")
    assert result.exit_code == 1 and re.search(said, result.output), result.output
    assert "(unexpected" not in result.output and not Path("pairs.jsonl").exists()


def test_held_out_questions_of_a_run_stay_out(run):
    held_out = [json.loads(line)["messages"] for line in run.held_out_file.read_text(encoding="utf-8").splitlines()]
    at = next(at for at, message in enumerate(held_out[0]) if message["role"] == "assistant")
    asked = held_out[0][:at]
    pairs, printed = made(write(vote("А", "Б", asked), vote("В", "Г")), "--run", str(run.path))
    assert pairs == [("В", "Г")] and "1 to questions that the run holds out" in printed


def test_training_answers_are_preferred_to_the_model_s_own(run):
    pairs, _ = made("--run", str(run.path), "--answers", "6")
    rows = [json.loads(line)["messages"] for line in Path(run.config().data.train_file).read_text().splitlines()]
    real = {message["content"].strip() for row in rows for message in row if message["role"] == "assistant"}
    held_out = {json.loads(line)["messages"][-1]["content"] for line in run.held_out_file.read_text().splitlines()}
    assert 0 < len(pairs) <= 6
    assert {better for better, _ in pairs} <= real - held_out and not {worse for _, worse in pairs} & real
    assert made("--run", str(run.path), "--answers", "6")[0] == pairs


def test_what_is_missing_is_said():
    for arguments, said in (((), "nothing to make rows from"), (("--answers", "3"), "name the run")):
        result = govor("preferences", *arguments, "-o", "pairs.jsonl")
        assert result.exit_code == 2 and said in result.output
