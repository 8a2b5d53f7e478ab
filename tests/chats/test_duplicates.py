import json
import random
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from train.chats.duplicates import near_duplicate_groups

TEXT = "Он продаёт грядки, ты теряешь тишину. Вы торгуетесь о двух разных участках, и оба правы."
OTHER = "Ночью у тебя жизнь, а днём экран загрузки. Кто ты там после полуночи, за что тебя хвалят?"


def shipped_texts() -> list[str]:
    lines = (REPOSITORY / "data/natasha.jsonl").read_text(encoding="utf-8").splitlines()
    return ["\n".join(m["content"] for m in json.loads(line)["messages"][1:]) for line in lines]


def jaccard(one: str, other: str) -> float:
    a, b = ({text[at : at + 5] for at in range(len(text) - 4)} for text in (one, other))
    return len(a & b) / len(a | b)


def test_equal_and_nearly_equal():
    texts = [TEXT, OTHER, TEXT.replace("тишину", "покой"), "Да.", OTHER, TEXT + " Спроси его."]
    assert near_duplicate_groups(texts) == [[0, 2, 5], [1, 4]]


def test_case_yo_and_white_space_make_no_other_text():
    assert near_duplicate_groups([TEXT, TEXT.upper().replace("Ё", "Е").replace(" ", "\n\t"), "ещё", "Еще "]) == [
        [0, 1],
        [2, 3],
    ]
    assert near_duplicate_groups(["твой чай", unicodedata.normalize("NFD", "твой чай")]) == [[0, 1]]


def test_short_texts_only_by_equality():
    assert near_duplicate_groups(["спасибо тебе!", "спасибо тебе", "", "да", " ДА", ""]) == [[2, 5], [3, 4]]


def test_nothing_and_strange_text():
    assert near_duplicate_groups([]) == []
    assert near_duplicate_groups(["a"]) == []
    assert near_duplicate_groups(["\ud83d half of a pair, and some more text"] * 2) == [[0, 1]]


def test_threshold_is_a_share_of_shared_sequences():
    changed = TEXT[:60] + OTHER[:30]
    assert 0.35 < jaccard(TEXT, changed) < 0.55
    assert near_duplicate_groups([TEXT, changed], threshold=0.75) == []
    assert near_duplicate_groups([TEXT, changed], threshold=0.25) == [[0, 1]]


@pytest.mark.slow
def test_texts_that_share_their_beginning_are_not_yet_copies():
    texts = [text[:400] for text in shipped_texts() if len(text) >= 400]
    pairs = [(one, one[:230] + other[:170]) for one, other in pairwise(texts)]
    kept = [pair for pair in pairs if 0.35 < jaccard(*pair) < 0.45]
    assert len(kept) > 100
    assert [pair for pair in kept if near_duplicate_groups(pair)] == []


def test_neighbours_in_a_chain_are_one_group():
    """Windows of one long text: each overlaps the next, the first and the last share nothing."""
    long = "".join(shipped_texts()[:8])
    windows = [long[at : at + 1000] for at in range(0, 2200, 100)]
    assert jaccard(windows[0], windows[-1]) < 0.1
    assert near_duplicate_groups([OTHER, *windows]) == [list(range(1, len(windows) + 1))]


def test_copies_are_found_among_real_texts():
    """321 dialogues, of which none is like another, and of every third a copy with every twentieth word left out."""
    texts = shipped_texts()
    assert near_duplicate_groups(texts) == []
    chance = random.Random(0)
    copied = list(range(0, len(texts), 3))
    copies = [" ".join(word for word in texts[at].split() if chance.random() > 0.05) for at in copied]
    groups = near_duplicate_groups(texts + copies)
    assert all(len(group) == 2 and copied[group[1] - len(texts)] == group[0] for group in groups)
    assert len(groups) >= 0.95 * sum(jaccard(texts[at], copy) > 0.65 for at, copy in zip(copied, copies, strict=True))


@pytest.mark.parametrize("texts", [["Да, конечно"] * 100_000, [TEXT + str(n % 10) for n in range(20_000)]])
def test_a_crowd_of_copies_costs_no_pairs(texts):
    """Were all pairs looked at, this would take minutes to hours."""
    assert near_duplicate_groups(texts) == [list(range(len(texts)))]


@given(
    st.lists(st.sampled_from([TEXT, TEXT[:70], TEXT[8:], TEXT[:45] + OTHER[:45], OTHER, OTHER + "!", "да", "Да", ""]))
)
@settings(max_examples=30, deadline=None)
def test_groups_are_disjoint_and_blind_to_order(texts):
    groups = near_duplicate_groups(texts)
    members = [index for group in groups for index in group]
    assert len(members) == len(set(members))
    assert all(len(group) > 1 and group == sorted(group) for group in groups)
    backwards = near_duplicate_groups(texts[::-1])
    assert {frozenset(group) for group in groups} == {
        frozenset(len(texts) - 1 - index for index in group) for group in backwards
    }
