"""Rows are rendered and tokenized once: their ids stay beside the runs, under a fingerprint of all that decides them.

The next run of the same rows reads them back, and so does a resumed one. Rows into which the template writes today's
date are not kept. The folder can be deleted at any time.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from zipfile import BadZipFile

from train.chats.rows import Row, row_to_json
from train.core.files import aside_file
from train.core.runs import TOKEN_CACHE, TOKEN_FILE
from train.encoding.loss_mask import Encoded, labels_of

NEWEST = 8
"""How many files are kept; each takes about 4 bytes a token."""
CODE = ("chat_template.py", "loss_mask.py", "rows.py", "too_long.py", "cache.py")
"""The files here that decide which ids a row gets."""
Encode = Callable[[Row], Encoded]


def fingerprint(base: Path, rows: Iterable[Row], *settings: object) -> str:
    """sha256 of the rows, the base's tokenizer and template, the settings, and the code that makes ids of them."""
    digest = hashlib.sha256()
    libraries = [version(name) for name in ("transformers", "tokenizers", "jinja2")]
    digest.update(repr([libraries, settings]).encode())
    ours = [Path(__file__).with_name(name) for name in CODE]
    texts = [path for path in sorted(base.iterdir()) if path.suffix in (".json", ".jinja", ".model", ".txt", ".py")]
    for path in [*ours, *texts]:
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    for row in rows:
        digest.update(f"\0{row.line} {row_to_json(row)}".encode())
    return digest.hexdigest()


@contextmanager
def remembered(encode: Encode, key: str, *, assistant_only_loss: bool) -> Iterator[Encode]:
    """An `encode` that reads back what it returned under this key before; the block must call it in the same order."""
    file = TOKEN_CACHE / f"{key}.npz"
    known = _read(file, assistant_only_loss) if file.is_file() else None
    if known is not None:
        yield lambda row: next(known)
        return
    fresh: list[Encoded] = []

    def encode_and_keep(row: Row) -> Encoded:
        fresh.append(encode(row))
        return fresh[-1]

    yield encode_and_keep
    if fresh and not any(row.dated for row in fresh):
        _write(file, fresh)


def _write(file: Path, rows: list[Encoded]) -> None:
    """Keep the rows, and of all such files the newest; where there is no room, nothing is kept."""
    import numpy as np

    with suppress(OSError):  # no room, or a folder that may not be written: training says so where it matters
        file.parent.mkdir(parents=True, exist_ok=True)
        with aside_file(file) as handle:  # every process of a run may write the same
            np.savez(
                handle,
                ids=np.fromiter(chain.from_iterable(row.input_ids for row in rows), np.int32),
                lengths=np.array([len(row.input_ids) for row in rows]),
                answers=np.array([span for row in rows for span in row.answers]),
                counts=np.array([len(row.answers) for row in rows]),
                last_turn_only=np.array([row.last_turn_only for row in rows]),
            )
        files = [path for path in file.parent.glob("*.npz") if TOKEN_FILE.fullmatch(path.name)]
        for old in sorted(files, key=lambda path: path.stat().st_mtime)[:-NEWEST]:
            old.unlink(missing_ok=True)


def _read(file: Path, assistant_only_loss: bool) -> Iterator[Encoded] | None:
    """The rows that were kept; None where they cannot be read."""
    import numpy as np

    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as kept:
            ids, lengths, answers, counts, last = (
                kept[name].tolist() for name in ("ids", "lengths", "answers", "counts", "last_turn_only")
            )
        os.utime(file)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None

    def rows() -> Iterator[Encoded]:
        at = answer = 0
        for length, count, last_turn_only in zip(lengths, counts, last, strict=True):
            row = ids[at : at + length]
            spans = [(start, end) for start, end in answers[answer : answer + count]]
            labels = labels_of(row, spans, assistant_only_loss=assistant_only_loss)
            yield Encoded(row, labels, spans, last_turn_only, dated=False)
            at, answer = at + length, answer + count

    return rows()
