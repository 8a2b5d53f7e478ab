"""Finds texts that say the same: equal, or nearly so by the share of letter sequences they have in common."""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

SHINGLE = 5  # characters
SHORT = 20  # characters; a shorter text has too few shingles to compare
PERMUTATIONS = 128  # the estimate is off by 0.04 (one standard deviation) near 0.6
SEED = 1
BATCH = 200_000  # characters hashed at a time
WINDOW = 4096  # shingles permuted at a time: their 2 MB stay in the processor's cache


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

    folded = {fold_text(text) for text in texts}
    found = {number for number, other in enumerate(others) if fold_text(other) in folded}
    long = [text for text in folded if len(text) >= SHORT]
    numbers = [number for number, other in enumerate(others) if len(fold_text(other)) >= SHORT and number not in found]
    if not long or not numbers:
        return sorted(found)
    values = _sketches([fold_text(others[number]) for number in numbers])
    for sketch in _sketches(long):
        shares = (values == sketch).mean(axis=1)
        found |= {numbers[at] for at in np.flatnonzero(shares >= threshold).tolist()}
    return sorted(found)


def fold_text(text: str) -> str:
    """The text without differences that do not count: case, ё, kinds of white space."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().replace("ё", "е").split())


def _similar_texts(texts: Sequence[str], threshold: float) -> Iterator[list[str]]:
    """The connected groups of different texts, each with every text that is alike to one of its members."""
    import numpy as np
    from datasketch import MinHash, MinHashLSH

    values = _sketches(texts)
    index = MinHashLSH(threshold, PERMUTATIONS, weights=(0.05, 0.95))  # candidates are verified, so miss few of them
    empty = MinHash(PERMUTATIONS)
    sketches: dict[int, Any] = {}
    for number in _with_candidates(values, index.b, index.r):
        sketches[number] = empty.copy()
        sketches[number].hashvalues = values[number]
        index.insert(number, sketches[number])
    for number in sketches:
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


def _with_candidates(values: Any, bands: int, rows: int) -> list[int]:
    """Numbers of the sketches that agree with another in a whole band of `rows` values: the index has to see no others.

    Of natural texts these are few, and numpy finds them in a fraction of the time that the index takes.
    """
    import numpy as np

    shared: Any = np.zeros(len(values), dtype=bool)
    for start in range(0, bands * rows, rows):
        band = np.ascontiguousarray(values[:, start : start + rows]).view(np.dtype((np.void, 4 * rows))).ravel()
        _, which, counts = np.unique(band, return_inverse=True, return_counts=True)
        shared |= counts[which] > 1
    numbers: list[int] = np.flatnonzero(shared).tolist()
    return numbers


def _sketches(texts: Sequence[str]) -> Any:
    """MinHash values of texts of SHORT characters and more, (texts, permutations), uint32.

    The permutations are multiplications by odd numbers, modulo 2^32, of shingles hashed beforehand (Dietzfelbinger et
    al. 1997): the same that datasketch estimates, in a tenth of its time.
    """
    import numpy as np

    random = np.random.default_rng(SEED)
    factors = random.integers(0, 2**32, PERMUTATIONS, dtype=np.uint32)[:, None] | np.uint32(1)
    offsets = random.integers(0, 2**32, PERMUTATIONS, dtype=np.uint32)[:, None]
    places = random.integers(0, 2**64, SHINGLE, dtype=np.uint64) | np.uint64(1)
    values: Any = np.full((len(texts), PERMUTATIONS), 2**32 - 1, dtype=np.uint32)
    for first, last in _batches(texts):
        joined = "".join(texts[first:last]).encode("utf-32-le", "surrogatepass")
        codes = np.frombuffer(joined, dtype=np.uint32).astype(np.uint64)
        lengths = np.array([len(text) for text in texts[first:last]])
        hashed: Any = sum(codes[at : len(codes) - SHINGLE + 1 + at] * place for at, place in enumerate(places))
        hashed ^= hashed >> np.uint64(29)
        hashed = (hashed * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)).astype(np.uint32)
        within: Any = np.ones(len(codes), dtype=bool)
        for back in range(1, SHINGLE):
            within[np.cumsum(lengths) - back] = False  # a shingle that begins here ends in the next text
        shingles = hashed[within[: len(hashed)]]
        starts = np.cumsum(lengths - SHINGLE + 1) - (lengths - SHINGLE + 1)
        for start in range(0, len(shingles), WINDOW):
            permuted = shingles[start : start + WINDOW] * factors
            permuted += offsets
            ends: Any = np.searchsorted(starts, (start, start + permuted.shape[1] - 1), side="right")
            low, high = ends - 1
            least = np.minimum.reduceat(permuted, np.maximum(starts[low : high + 1] - start, 0), axis=1).T
            part = values[first + low : first + high + 1]
            np.minimum(part, least, out=part)
    return values


def _batches(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(first, last) of runs of texts with BATCH characters together, or little more."""
    first = size = 0
    for last, length in enumerate(map(len, texts), 1):
        size += length
        if size >= BATCH or last == len(texts):
            yield first, last
            first, size = last, 0
