"""Topics that come from the chats themselves: TF-IDF over content lemmas, and their factors (NMF, Lee and Seung 2001).

A factor is a topic, its three heaviest lemmas are its label, and a row belongs to the topic that it has most of. The
factors are fitted on a sample, over sparse matrices: a second, however many rows there are.
"""

from array import array
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

MOST_LEMMAS = 3000
SAMPLE = 4000  # rows that the factors are fitted on
FEWEST_ROWS = 20  # in fewer there is nothing to learn
USUAL_TOPICS = 8  # where the singular values show no number of their own
MOST_TOPICS = 12
CLEAR_GAP = 1.25
"""From which ratio of neighbouring singular values on the larger one counts as the last topic's."""
MOSTLY = 0.5  # of the rows: a lemma in more of them tells no topic from another
STEPS = 120
LABEL_WORDS = 3


def learn_topics(texts: Sequence[Sequence[str]], count: int | None = None) -> list[str | None]:
    """The topic of every text, given as its content lemmas; None where it has none.

    `count` is how many topics there are; without it the singular values decide, or it is USUAL_TOPICS. The result is
    the same every time.
    """
    texts_of: Counter[str] = Counter(chain.from_iterable(map(set, texts)))
    fewest = 2 if len(texts) < 1000 else 5
    known = [lemma for lemma, n in texts_of.most_common() if fewest <= n <= max(MOSTLY * len(texts), fewest)]
    lemmas = known[:MOST_LEMMAS]
    if len(texts) < FEWEST_ROWS or len(lemmas) < 2 * LABEL_WORDS:
        return [None] * len(texts)
    weights = _weights(texts, lemmas, texts_of)
    factors = _factors(weights[:: max(1, len(texts) // SAMPLE)][:SAMPLE], count)
    labels = _labels(factors, lemmas)
    return [None if number is None else labels[number] for number in _sorted(weights, factors)]


def _weights(texts: Sequence[Sequence[str]], lemmas: Sequence[str], texts_of: Counter[str]) -> Any:
    """TF-IDF, (texts, lemmas), sparse, each row of length 1 or empty."""
    import numpy as np
    from scipy.sparse import csr_array, diags_array

    index = {lemma: number for number, lemma in enumerate(lemmas)}
    columns, ends = array("i"), array("q", [0])
    for text in texts:
        columns.extend(index[lemma] for lemma in text if lemma in index)
        ends.append(len(columns))
    shape = (len(texts), len(lemmas))
    weights = csr_array((np.ones(len(columns), dtype=np.float32), np.array(columns), np.array(ends)), shape=shape)
    weights.sum_duplicates()
    weights.data = 1 + np.log(weights.data)
    weights = weights * np.array([np.log(len(texts) / texts_of[lemma]) + 1 for lemma in lemmas], dtype=np.float32)
    lengths = np.sqrt((weights * weights).sum(axis=1))
    return (diags_array(1 / np.maximum(lengths, 1e-9)).astype(np.float32) @ weights).tocsr()


def _factors(weights: Any, count: int | None) -> Any:
    """The topics, (topics, lemmas), each of length 1."""
    import numpy as np
    from scipy.sparse.linalg import svds

    most = min(MOST_TOPICS + 1, min(weights.shape) - 1)
    left, values, right = svds(weights, most, v0=np.ones(min(weights.shape), dtype=np.float32))
    left, values, right = left[:, ::-1], values[::-1], right[::-1]  # the largest first
    if count is None:
        ratios = values[2:-1] / np.maximum(values[3:], 1e-9)  # the first is what all have in common
        count = int(np.argmax(ratios)) + 3 if len(ratios) and ratios.max() >= CLEAR_GAP else USUAL_TOPICS
    count = max(2, min(count, most))
    topics = np.abs(right[:count]) * 0.1 + 1e-4
    shares = np.abs(left[:, :count] * values[:count]) * 0.1 + 1e-4
    # every topic begins at a row as unlike the others' as can be, which is where it ends faster than at random
    heavy = weights.sum(axis=1)
    chosen = [int(np.argmax(np.abs(left[:, 0])))]
    for _ in range(1, count):
        likeness = (weights @ weights[chosen].T).max(axis=1).toarray()
        chosen.append(int(np.argmax(heavy * (1 - likeness))))
    for number, row in enumerate(chosen):
        near = np.argsort(weights @ weights[[row]].toarray()[0])[-max(5, weights.shape[0] // (4 * count)) :]
        topics[number] += weights[near].mean(axis=0)
    for _ in range(STEPS):
        shares *= (weights @ topics.T) / (shares @ (topics @ topics.T) + 1e-9)
        topics *= (weights.T @ shares).T / ((shares.T @ shares) @ topics + 1e-9)
    return topics / np.maximum(np.linalg.norm(topics, axis=1, keepdims=True), 1e-9)


def _labels(factors: Any, lemmas: Sequence[str]) -> list[str]:
    """The heaviest lemmas of each topic."""
    import numpy as np

    return [", ".join(lemmas[at] for at in np.argsort(-topic)[:LABEL_WORDS]) for topic in factors]


def _sorted(weights: Any, factors: Any) -> list[int | None]:
    """The number of each text's topic."""
    fitting, alike = weights @ factors.T, factors @ factors.T
    shares = fitting + 1e-6
    for _ in range(30):
        shares *= fitting / (shares @ alike + 1e-9)
    return [int(row.argmax()) if row.max() > 1e-3 else None for row in shares]
