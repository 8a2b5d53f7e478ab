"""Topics that come from the chats themselves: TF-IDF over content lemmas, and their factors (NMF, Lee and Seung 2001).

A factor is a topic, its three heaviest lemmas are its label, and a row belongs to the topic that it has most of. The
factors are fitted on a sample, so that memory is bounded; numpy does it in seconds.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

MOST_LEMMAS = 3000
SAMPLE = 4000  # rows that the factors are fitted on
BATCH = 4000  # rows that are sorted at a time
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
    import numpy as np

    texts_of: Counter[str] = Counter(lemma for lemmas in texts for lemma in set(lemmas))
    fewest = 2 if len(texts) < 1000 else 5
    known = [lemma for lemma, n in texts_of.most_common() if fewest <= n <= max(MOSTLY * len(texts), fewest)]
    index = {lemma: number for number, lemma in enumerate(known[:MOST_LEMMAS])}
    if len(texts) < FEWEST_ROWS or len(index) < 2 * LABEL_WORDS:
        return [None] * len(texts)
    rarity = np.array([np.log(len(texts) / texts_of[lemma]) + 1 for lemma in index], dtype=np.float32)
    step = max(1, len(texts) // SAMPLE)
    sample = _weights(texts[::step][:SAMPLE], index, rarity)
    factors = _factors(sample, count)
    labels = _labels(factors, list(index))
    return [None if number is None else labels[number] for number in _sorted(texts, index, rarity, factors)]


def _weights(texts: Sequence[Sequence[str]], index: dict[str, int], rarity: Any) -> Any:
    """TF-IDF, (texts, lemmas), each row of length 1 or empty."""
    import numpy as np

    weights: Any = np.zeros((len(texts), len(index)), dtype=np.float32)
    for row, lemmas in enumerate(texts):
        for lemma, times in Counter(lemmas).items():
            if lemma in index:
                weights[row, index[lemma]] = 1 + np.log(times)
    weights *= rarity
    return weights / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-9)


def _factors(weights: Any, count: int | None) -> Any:
    """The topics, (topics, lemmas), each of length 1."""
    import numpy as np

    left, values, right = _leading(weights, min(MOST_TOPICS + 1, *weights.shape))
    if count is None:
        ratios = values[2:-1] / np.maximum(values[3:], 1e-9)  # the first is what all have in common
        count = int(np.argmax(ratios)) + 3 if len(ratios) and ratios.max() >= CLEAR_GAP else USUAL_TOPICS
    count = max(2, min(count, len(values)))
    topics = np.abs(right[:count]) * 0.1 + 1e-4
    shares = np.abs(left[:, :count] * values[:count]) * 0.1 + 1e-4
    # every topic begins at a row as unlike the others' as can be, which is where it ends faster than at random
    chosen = [int(np.argmax(np.abs(left[:, 0])))]
    for _ in range(1, count):
        likeness = (weights @ weights[chosen].T).max(axis=1)
        likeness[~weights.any(axis=1)] = 1
        spread = weights.sum(axis=1) * (1 - likeness)
        chosen.append(int(np.argmax(spread)))
    for number, row in enumerate(chosen):
        near = np.argsort(weights @ weights[row])[-max(5, len(weights) // (4 * count)) :]
        topics[number] += weights[near].mean(axis=0)
    for _ in range(STEPS):
        shares *= (weights @ topics.T) / (shares @ (topics @ topics.T) + 1e-9)
        topics *= (shares.T @ weights) / ((shares.T @ shares) @ topics + 1e-9)
    return topics / np.maximum(np.linalg.norm(topics, axis=1, keepdims=True), 1e-9)


def _leading(weights: Any, count: int) -> tuple[Any, Any, Any]:
    """The leading singular vectors and values, by three power iterations from a fixed start (Halko et al. 2011)."""
    import numpy as np

    start = np.random.default_rng(0).standard_normal((weights.shape[1], min(count + 8, *weights.shape)))
    basis = np.linalg.qr(weights @ start.astype(np.float32))[0]
    for _ in range(3):
        basis = np.linalg.qr(weights @ (weights.T @ basis))[0]
    left, values, right = np.linalg.svd(basis.T @ weights, full_matrices=False)
    return (basis @ left)[:, :count], values[:count], right[:count]


def _labels(factors: Any, lemmas: Sequence[str]) -> list[str]:
    """The heaviest lemmas of each topic."""
    import numpy as np

    return [", ".join(lemmas[at] for at in np.argsort(-topic)[:LABEL_WORDS]) for topic in factors]


def _sorted(texts: Sequence[Sequence[str]], index: dict[str, int], rarity: Any, factors: Any) -> Iterator[int | None]:
    """The number of each text's topic."""
    alike = factors @ factors.T
    for start in range(0, len(texts), BATCH):
        weights = _weights(texts[start : start + BATCH], index, rarity)
        fitting = weights @ factors.T
        shares = fitting.copy() + 1e-6
        for _ in range(30):
            shares *= fitting / (shares @ alike + 1e-9)
        yield from (int(row.argmax()) if row.max() > 1e-3 else None for row in shares)
