import random

from train.chats.rows import Row
from train.chats.split import split_rows

ANSWER = {"role": "assistant", "content": "ответ"}
ROWS = [Row(n, [{"role": "user", "content": f"вопрос {n}"}, ANSWER]) for n in range(50)]


def texts(rows):
    return {row.messages[0]["content"] for row in rows}


def test_shares_and_no_row_lost():
    train, held_out = split_rows(ROWS, 0.2, seed=1)
    assert (len(train), len(held_out)) == (40, 10)
    assert texts(train) | texts(held_out) == texts(ROWS)


def test_same_rows_in_any_order_give_the_same_split():
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    assert texts(split_rows(shuffled, 0.2, seed=1)[1]) == texts(split_rows(ROWS, 0.2, seed=1)[1])


def test_seed_changes_the_split():
    assert texts(split_rows(ROWS, 0.2, seed=1)[1]) != texts(split_rows(ROWS, 0.2, seed=2)[1])


def test_equal_rows_stay_on_one_side():
    train, held_out = split_rows(ROWS * 3, 0.3, seed=1)
    assert texts(train).isdisjoint(texts(held_out))


def test_small_and_empty_fractions():
    assert len(split_rows(ROWS, 0.001, seed=1)[1]) == 1
    assert split_rows(ROWS, 0, seed=1)[1] == []
    assert split_rows(ROWS[:1], 0.5, seed=1) == (ROWS[:1], [])
