import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from train.chats.rows import Row
from train.chats.split import eval_overlap, require_disjoint, split, split_rows
from train.core.config import load_config
from train.core.errors import DataError

ANSWER = {"role": "assistant", "content": "ответ"}
ROWS = [Row(n, [{"role": "user", "content": f"вопрос {n}"}, ANSWER]) for n in range(50)]


def shipped_rows() -> list[Row]:
    lines = (REPOSITORY / "data/natasha.jsonl").read_text(encoding="utf-8").splitlines()
    return [Row(number, json.loads(line)["messages"]) for number, line in enumerate(lines, 1)]


REAL = shipped_rows()


def row(line: int, *turns: str, system: str | None = None) -> Row:
    messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(turns)]
    return Row(line, [{"role": "system", "content": system}, *messages] if system else messages)


def texts(rows):
    return {row.messages[0]["content"] for row in rows}


def lines(rows):
    return {row.line for row in rows}


def test_shares_and_no_row_lost():
    train, held_out = split_rows(ROWS, 0.2, seed=1)
    assert (len(train), len(held_out)) == (40, 10)
    assert texts(train) | texts(held_out) == texts(ROWS)


def test_same_rows_in_any_order_give_the_same_split():
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    renumbered = [row._replace(line=line) for line, row in enumerate(shuffled, 1000)]
    assert texts(split_rows(renumbered, 0.2, seed=1)[1]) == texts(split_rows(ROWS, 0.2, seed=1)[1])


def test_seed_changes_the_split():
    assert texts(split_rows(ROWS, 0.2, seed=1)[1]) != texts(split_rows(ROWS, 0.2, seed=2)[1])


def test_equal_rows_stay_on_one_side():
    train, held_out = split_rows(ROWS * 3, 0.3, seed=1)
    assert texts(train).isdisjoint(texts(held_out))
    assert len(held_out) == 45


def test_small_and_empty_fractions():
    assert len(split_rows(ROWS, 0.001, seed=1)[1]) == 1
    assert split_rows(ROWS, 0, seed=1)[1] == []
    assert split_rows(ROWS[:1], 0.5, seed=1) == (ROWS[:1], [])
    assert split_rows([], 0.5, seed=1) == ([], [])
    assert len(split_rows(ROWS, 0.999, seed=1)[1]) == 49


def test_shipped_rows():
    train, held_out = split_rows(REAL, 0.1, seed=42)
    assert (len(train), len(held_out)) == (289, 32)


def test_medical_rows():
    """Alpaca rows in Chinese: 22 to train on, 6 held out, as the config says."""
    config = load_config(REPOSITORY / "configs/medical.yaml")
    records = [json.loads(line) for line in (REPOSITORY / config.data.train_file).read_text("utf-8").splitlines()]
    assert [record["id"] for record in records] == list(range(1, 29))
    assert {tuple(record) for record in records} == {("instruction", "input", "output", "id", "source")}
    assert {record["source"] for record in records} == {"govor, invented"}
    assert all(60 <= len(record["output"]) <= 200 for record in records)
    assert any(record["input"] for record in records)
    rows = [row(r["id"], f"{r['instruction']}\n{r['input']}".strip(), r["output"]) for r in records]
    train, held_out = split_rows(rows, config.data.eval_fraction, config.training.seed)
    assert (len(train), len(held_out)) == (22, 6)


@pytest.mark.parametrize("seed", range(5))
def test_near_duplicates_stay_on_one_side(seed):
    """Every second row once more with another greeting."""
    copies = []
    for system, asked, *rest in (r.messages for r in REAL[:100:2]):
        greeted = {"role": "user", "content": f"Привет! {asked['content']}"}
        copies.append(Row(1001 + 2 * len(copies), [system, greeted, *rest]))
    train, held_out = split_rows(REAL[:100] + copies, 0.2, seed)
    assert {line % 1000 for line in lines(train)}.isdisjoint(line % 1000 for line in lines(held_out))
    assert len(held_out) == 30


@pytest.mark.parametrize("seed", range(5))
def test_parts_of_one_dialogue_stay_on_one_side(seed):
    """Long dialogues cut into windows that overlap by one message, and given in stages."""
    dialogues = [r for r in REAL if len(r.messages) >= 7]
    windows = [
        Row(1000 * d.line + at, [d.messages[0], *d.messages[at : at + 3]])
        for d in dialogues
        for at in range(2, len(d.messages) - 2, 2)
        if len(d.messages[at]["content"]) >= 60 <= len(d.messages[at + 2]["content"])
    ]
    stages = [Row(1000 * d.line + 900 + end, d.messages[:end]) for d in dialogues for end in (3, 5, 7)]
    for parts in (windows, stages):
        train, held_out = split_rows(parts, 0.2, seed)
        sides = [{line // 1000 for line in lines(side)} for side in (train, held_out)]
        assert sides[0].isdisjoint(sides[1])
        assert abs(len(held_out) - 0.2 * len(parts)) <= 3


def test_what_many_rows_share_ties_nothing_together():
    """The system message, a greeting, and one long instruction over ever new input."""
    greeting = "Здравствуйте! Спасибо, что написали нам, мы ответим вам в ближайшее рабочее время."
    instruction = REAL[300].messages[2]["content"][:400]
    for make in (
        lambda n, text: row(n, text, greeting, f"и вот ещё {n * n}", f"понял, {n}", system="Ты Наташа. " * 20),
        lambda n, text: row(n, instruction + text[:60], "да" if n % 2 else "нет"),
        lambda n, text: row(n, f"{text[:60]}\n\n{instruction}", "да" if n % 2 else "нет"),
    ):
        rows = [make(n, r.messages[1]["content"]) for n, r in enumerate(REAL[:200])]
        assert len(split_rows(rows, 0.1, seed=1)[1]) == 20


def test_a_large_group_trains():
    """40 copies among 60 rows: 10 % are held out from the others."""
    rows = [row(n, f"Расскажи мне, пожалуйста, про дачу и тишину, номер {n}", "Хорошо.") for n in range(40)]
    train, held_out = split_rows(rows + REAL[:20], 0.1, seed=1)
    assert len(held_out) == 6
    assert all("дачу и тишину" in r.messages[0]["content"] for r in train[:40])


def test_two_groups_give_one_each():
    rows = [REAL[0], REAL[0], REAL[0], REAL[1], REAL[1]]
    assert split_rows(rows, 0.1, seed=3) == (rows[:3], rows[3:])


def test_whole_groups_come_as_close_as_they_can():
    """Of 30 rows in triples 5 are wanted: 6 are nearer than 3. Of 20 in pairs 5 are wanted: 6 are no nearer than 4."""
    assert len(split_rows(ROWS[:10] * 3, 5 / 30, seed=1)[1]) == 6
    assert len(split_rows(ROWS[:10] * 2, 5 / 20, seed=1)[1]) == 4


def test_something_is_left_to_train_on():
    rows = [REAL[0], REAL[0], REAL[0], REAL[1], REAL[2], REAL[3]]
    assert all(all(split_rows(rows, 0.8, seed)) for seed in range(10))


@pytest.mark.parametrize("others", [0, 2])
def test_one_group_that_holds_nearly_all_rows_is_an_error(others):
    rows = [row(n, f"Расскажи мне, пожалуйста, про дачу и тишину, номер {n}", "Хорошо.") for n in range(100)]
    with pytest.raises(DataError, match=rf"100 of {100 + others} rows .*lines 0, 1, 2, 3, 4, ….*eval_fraction=0"):
        split_rows(rows + REAL[:others], 0.1, seed=1)


@st.composite
def drawn_rows(draw):
    """Short rows with many equal among them, near-copies of real ones, and dialogues in stages."""
    picks = draw(st.lists(st.tuples(st.sampled_from(["short", "real", "stage"]), st.integers(0, 9)), max_size=40))
    made = []
    for number, (kind, at) in enumerate(picks):
        messages = REAL[at].messages
        end = 3 if kind == "stage" else len(messages)
        made.append(ROWS[at]._replace(line=number) if kind == "short" else Row(number, messages[:end]))
    return made


@given(drawn_rows(), st.floats(0, 0.99), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_row_on_one_side_and_equal_rows_together(rows, fraction, seed):
    try:
        train, held_out = split_rows(rows, fraction, seed)
    except DataError:
        different = {json.dumps(r.messages[1:3]) for r in rows}
        assert fraction > 0
        assert len(different) < len(rows)
        return
    assert sorted(lines(train) | lines(held_out)) == [r.line for r in rows]
    assert len(train) + len(held_out) == len(rows)
    assert [r.line for r in train] == sorted(lines(train)), "the order of the file is kept"
    assert {json.dumps(r.messages[:3]) for r in train}.isdisjoint(json.dumps(r.messages[:3]) for r in held_out)
    backwards = split_rows([r._replace(line=-r.line) for r in rows[::-1]], fraction, seed)
    assert {-line for line in lines(backwards[1])} == lines(held_out)
    assert bool(held_out) == (fraction > 0 and len(rows) > 1)


def test_overlap_of_two_files():
    again = REAL[4]._replace(line=7)
    nearly = Row(
        8, [*REAL[5].messages[:-1], {**REAL[5].messages[-1], "content": REAL[5].messages[-1]["content"] + " Да"}]
    )
    other = REAL[60]._replace(line=9)
    assert eval_overlap(REAL[:50], [again, nearly, other]) == [(5, 7), (6, 8)]
    assert eval_overlap(REAL[:50], [other, other]) == [], "rows that repeat within one file are no overlap"
    assert eval_overlap([], REAL[:3]) == eval_overlap(REAL[:3], []) == []


def test_two_files_must_be_disjoint():
    require_disjoint(REAL[:50], REAL[50:60], Path("a.jsonl"), Path("b.jsonl"))
    with pytest.raises(DataError) as caught:
        require_disjoint(REAL[:50], REAL[40:60], Path("a.jsonl"), Path("b.jsonl"))
    message = str(caught.value)
    assert message.startswith("10 of 20 rows")
    assert all(f"b.jsonl:{line} like a.jsonl:{line}" in message for line in range(41, 46))
    assert "b.jsonl:46" not in message
    assert "\n" not in message
    assert REAL[40].messages[1]["content"][:20] not in message


def words(seed: int, count: int) -> list[str]:
    """So many different messages of four to eight words."""
    rng = random.Random(seed)

    def word() -> str:
        return "".join(rng.choices("абвгдежзиклмно", k=5))

    return [" ".join(word() for _ in range(rng.randint(4, 8))) for _ in range(count)]


def windows(said, size: int, step: int) -> list[Row]:
    return [row(at // step + 1, *said[at : at + size]) for at in range(0, len(said) - size, step)]


def pairs_of(rows) -> list[tuple[str, str]]:
    texts = [[message["content"] for message in one.messages] for one in rows]
    return [pair for row_texts in texts for pair in zip(row_texts[::2], row_texts[1::2], strict=True)]


@pytest.mark.parametrize(("size", "step"), [(6, 2), (8, 4), (10, 4)])
def test_windows_over_one_chat_are_cut_and_no_pair_leaks(size, step):
    rows = windows(words(1, 2000), size, step)
    result = split(rows, 0.1, seed=42)
    assert not set(pairs_of(result.held_out)) & set(pairs_of(result.train))
    assert 0.08 <= len(result.held_out) / len(rows) <= 0.12
    assert 0 < len(result.left_out) <= 2 * size // step
    assert len(result.train) + len(result.held_out) + len(result.left_out) == len(rows)
    assert f"{len(result.left_out)} rows left out: they overlap with held-out rows (lines" in next(result.notes())
    assert split(rows, 0.1, seed=42) == result


def test_growing_dialogues_stay_together():
    said, rows, at = words(2, 3000), [], 0
    for length in random.Random(3).choices(range(2, 12), k=150):
        rows += [row(len(rows) + number + 1, *said[at : at + 2 * number + 2]) for number in range(length)]
        at += 2 * length
    result = split(rows, 0.1, seed=1)
    assert not set(pairs_of(result.held_out)) & set(pairs_of(result.train)) and not result.left_out
    assert 0.08 <= len(result.held_out) / len(rows) <= 0.12


@pytest.mark.parametrize(("dialogues", "stages"), [(2, 99), (3, 40), (12, 10)])
def test_few_long_growing_dialogues_hold_out_a_tenth(dialogues, stages):
    said, rows = words(7, 2 * dialogues * stages), []
    for number in range(dialogues):
        own = said[2 * number * stages : 2 * (number + 1) * stages]
        rows += [row(len(rows) + stage, *own[: 2 * stage]) for stage in range(1, stages + 1)]
    result = split(rows, 0.1, seed=1)
    assert not set(pairs_of(result.held_out)) & set(pairs_of(result.train))
    assert 0.08 <= len(result.held_out) / len(rows) <= 0.12
    assert len(result.held_out) + len(result.left_out) in (stages, stages + len(result.held_out))


@pytest.mark.parametrize("size", [12, 16, 20, 40])
def test_wide_windows_are_cut_too(size):
    rows = windows(words(8, 600), size, 2)
    result = split(rows, 0.1, seed=1)
    assert not set(pairs_of(result.held_out)) & set(pairs_of(result.train))
    assert 0.08 <= len(result.held_out) / len(rows) <= 0.12 and len(result.left_out) <= size


@pytest.mark.parametrize(("size", "step"), [(4, 2), (6, 2), (12, 2), (30, 4)])
def test_shuffled_windows_are_cut_along_the_chat(size, step):
    rows = windows(words(10, 1500), size, step)
    random.Random(1).shuffle(rows)
    result = split(rows, 0.1, seed=1)
    assert not set(pairs_of(result.held_out)) & set(pairs_of(result.train))
    assert 0.08 <= len(result.held_out) / len(rows) <= 0.12 and len(result.left_out) <= 4 * size // step


def test_short_pairs_of_one_growing_dialogue_are_no_small_talk():
    rng, rows = random.Random(9), []
    for _ in range(8):
        own = [" ".join("".join(rng.choices("абвгдежз", k=4)) for _ in range(rng.randint(1, 3))) for _ in range(60)]
        rows += [row(len(rows) + stage, *own[: 2 * stage]) for stage in range(1, 31)]
    for seed in (1, 2, 3):
        result = split(rows, 0.1, seed=seed)
        assert not set(pairs_of(result.held_out)) & set(pairs_of(result.train))


def test_what_everybody_says_ties_nothing_and_is_counted():
    greeting = ("Привет, как дела?", "Всё хорошо!")
    said = words(4, 400)
    rows = [row(n, *(greeting if n % 4 == 0 else ()), *said[4 * n : 4 * n + 4]) for n in range(100)]
    result = split(rows, 0.2, seed=1)
    assert len(result.held_out) == 20 and not result.left_out
    leaked = [pair for pair in pairs_of(result.held_out) if pair in set(pairs_of(result.train))]
    if len(leaked) <= 0.02 * result.pairs:
        assert result.trained_pairs == len(leaked)
    else:
        raise AssertionError("more than 2 % of the held-out pairs are trained too")


def test_a_short_pair_within_one_dialogue_ties():
    said = ["да?", "нет"] * 3 + words(5, 200)
    rows = windows(said, 6, 2)
    result = split(rows, 0.1, seed=1)
    assert not set(pairs_of(result.held_out)) & set(pairs_of(result.train))


def test_what_cannot_be_held_out_is_said():
    said = words(6, 400)
    rows = [row(n, said[0], said[1], *said[2 * n : 2 * n + 2]) for n in range(1, 90)] + ROWS[:11]
    result = split(rows, 0.2, seed=1)
    assert "rows of 100 are held out, 20 were to be" in list(result.notes())[-1]
