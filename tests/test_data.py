"""data/natasha.jsonl is what data/README.md says of it."""

import csv
import itertools
import json
import re
from collections import Counter

from datasketch import MinHash, MinHashLSH

from tests.conftest import REPOSITORY

ROWS = [json.loads(line)["messages"] for line in (REPOSITORY / "data/natasha.jsonl").read_bytes().splitlines()]
ANSWERS = [m["content"] for row in ROWS for m in row if m["role"] == "assistant"]
SHARES = {
    "вопросы к себе": 0.47,
    "энергия": 0.20,
    "трансформация": 0.17,
    "отношения": 0.17,
    "ритуалы и медитация": 0.16,
    "бизнес": 0.12,
    "духовный рост": 0.10,
    "прошлые жизни": 0.10,
}


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower().replace("ё", "е"))


def test_size_and_turns():
    assert len(ROWS) == 321
    assert sum(4 <= len(row) - 1 <= 8 for row in ROWS) >= 80
    for row in ROWS:
        assert [m["role"] for m in row] == ["system", *["user", "assistant"] * ((len(row) - 1) // 2)]
        assert 2 <= len(row) - 1 <= 8


def test_one_system_message():
    assert len({row[0]["content"] for row in ROWS}) == 1


def test_mean_answer():
    assert 330 <= sum(map(len, ANSWERS)) / len(ANSWERS) <= 370


def test_topics():
    with (REPOSITORY / "data/natasha_topics.csv").open(encoding="utf-8") as file:
        topics = [row["topics"].split("; ") for row in csv.DictReader(file)]
    assert len(topics) == len(ROWS)
    counts = Counter(itertools.chain.from_iterable(topics))
    assert counts.keys() == SHARES.keys()
    for topic, share in SHARES.items():
        assert abs(counts[topic] / len(ROWS) - share) <= 0.03, topic


def test_no_two_answers_share_a_phrase_of_six_words():
    owner: dict[tuple[str, ...], int] = {}
    for number, answer in enumerate(ANSWERS):
        found = words(answer)
        for phrase in zip(*(found[k:] for k in range(6)), strict=False):
            assert owner.setdefault(phrase, number) == number, " ".join(phrase)


def test_no_near_duplicates():
    """MinHash over character 5-grams, Jaccard 0.5; answers and whole rows."""
    texts = ANSWERS + [" ".join(m["content"] for m in row[1:]) for row in ROWS]
    sketches = []
    for text in texts:
        line = " ".join(words(text))
        sketch = MinHash(num_perm=128)
        sketch.update_batch([line[k : k + 5].encode() for k in range(max(1, len(line) - 4))])
        sketches.append(sketch)
    for group in (range(len(ANSWERS)), range(len(ANSWERS), len(texts))):
        index = MinHashLSH(threshold=0.5, num_perm=128)
        for n in group:
            assert [k for k in index.query(sketches[n]) if sketches[k].jaccard(sketches[n]) >= 0.5] == []
            index.insert(n, sketches[n])
