"""Finds texts that say the same: equal, or nearly so by the share of letter sequences they have in common."""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any
from zlib import crc32

SHINGLE = 5  # characters
SHORT = 20  # characters; a shorter text has too few shingles to compare
PERMUTATIONS = 128  # the estimate is off by 0.04 (one standard deviation) near 0.6
SEED = 1


def near_duplicate_groups(texts: Sequence[str], threshold: float = 0.6) -> list[list[int]]:
    """Groups of two or more indices, ascending, whose texts are alike: directly, or through others of the group.

    Alike are texts that are equal once folded, and those of 20 characters and more whose sets of 5-character sequences
    overlap by `threshold` or more (Jaccard, estimated by MinHash). The order of the texts does not matter.
    """
    copies: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        copies.setdefault(fold_text(text), []).append(index)
    long = [text for text in copies if len(text) >= SHORT]
    groups = [[index for text in group for index in copies.pop(text)] for group in _similar_texts(long, threshold)]
    groups += copies.values()
    return sorted(sorted(group) for group in groups if len(group) > 1)


def alike(texts: Sequence[str], others: Sequence[str], threshold: float = 0.6) -> list[int]:
    """Indices of the others that are alike to one of the texts directly, as `near_duplicate_groups` compares them."""
    import numpy as np
    from datasketch import MinHash

    folded = {fold_text(text) for text in texts}
    found = {number for number, other in enumerate(others) if fold_text(other) in folded}
    long = [text for text in folded if len(text) >= SHORT]
    numbers = [number for number, other in enumerate(others) if len(fold_text(other)) >= SHORT and number not in found]
    if not long or not numbers:
        return sorted(found)
    empty = MinHash(PERMUTATIONS, seed=SEED, hashfunc=crc32)
    values = np.array([_sketch(fold_text(others[number]), empty).hashvalues for number in numbers])
    for text in long:
        shares = (values == _sketch(text, empty).hashvalues).mean(axis=1)
        found |= {numbers[at] for at in np.flatnonzero(shares >= threshold).tolist()}
    return sorted(found)


def fold_text(text: str) -> str:
    """The text without differences that do not count: case, ё, kinds of white space."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().replace("ё", "е").split())


def _similar_texts(texts: Sequence[str], threshold: float) -> Iterator[list[str]]:
    """The connected groups of different texts, each with every text that is alike to one of its members."""
    import numpy as np
    from datasketch import MinHash, MinHashLSH

    empty = MinHash(PERMUTATIONS, seed=SEED, hashfunc=crc32)
    sketches = [_sketch(text, empty) for text in texts]
    index = MinHashLSH(threshold, PERMUTATIONS, weights=(0.05, 0.95))  # candidates are verified, so miss few of them
    for number, sketch in enumerate(sketches):
        index.insert(number, sketch)
    values = np.array([sketch.hashvalues for sketch in sketches])  # texts × permutations
    for number in range(len(texts)):
        if number not in index:
            continue
        index.remove(number)
        group = [number]
        for member in group:  # grows on the way; members leave the index, so many copies cost no pairs
            candidates = np.array(index.query(sketches[member]), dtype=int)
            shares = (values[candidates] == values[member]).mean(axis=1)
            for similar in candidates[shares >= threshold].tolist():
                index.remove(similar)
                group.append(similar)
        yield [texts[member] for member in group]


def _sketch(text: str, empty: Any) -> Any:
    """A copy of the empty MinHash, filled with the text's shingles."""
    data = text.encode("utf-32-le", "surrogatepass")  # 4 bytes a character, so that a shingle is a slice
    shingles = list({data[at : at + 4 * SHINGLE] for at in range(0, len(data) - 4 * (SHINGLE - 1), 4)})
    sketch = empty.copy()
    for start in range(0, len(shingles), 10_000):  # a batch takes 512 bytes a shingle
        sketch.update_batch(shingles[start : start + 10_000])
    return sketch
