"""Which rows are held out: seeded, and independent of the order in which the rows stand."""

import hashlib
from collections.abc import Sequence

from .rows import Row, to_json


def split_rows(rows: Sequence[Row], eval_fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(training rows, held-out rows), each in the order of the file.

    Rows are ranked by a hash of the seed and their content and the first `eval_fraction` of the *different* rows is
    held out (at least one, if anything is to be), so that equal rows never stand on both sides.
    """
    keys = [hashlib.sha256(f"{seed}\n{to_json(row)}".encode()).digest() for row in rows]
    different = sorted(set(keys))
    count = min(max(1, round(eval_fraction * len(different))), len(different) - 1) if eval_fraction else 0
    held_out = set(different[:count])
    return (
        [row for row, key in zip(rows, keys, strict=True) if key not in held_out],
        [row for row, key in zip(rows, keys, strict=True) if key in held_out],
    )
