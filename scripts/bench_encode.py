"""How long rows take to become token ids and loss mask, against one apply_chat_template(tokenize=True) a row.

    python scripts/bench_encode.py [BASE …] [--file ROWS] [--rounds N]

Every row is another one, so that no cache helps; one process, on one core and then on all of them. Both are timed in
turn, and the median of the rounds' ratios is printed: a lone time says little on a machine that others use.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.chats.readers import read_rows
from train.chats.rows import Row
from train.core.config import Model
from train.encoding.loss_mask import encode_each
from train.models.base import find_base
from train.models.load import load_tokenizer, quiet_libraries

REPOSITORY = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bases", nargs="*", default=[str(REPOSITORY / "data/tiny-ru")], help="folders or Hub ids")
    parser.add_argument("--file", type=Path, default=REPOSITORY / "data/natasha.jsonl")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    quiet_libraries()
    rows = list({repr(row.messages): row for row in read_rows(arguments.file)}.values())
    for name in arguments.bases:
        tokenizer = load_tokenizer(Path(name) if Path(name).is_dir() else find_base(Model(name_or_path=name)))
        for cores, parallel in ((1, "false"), (os.cpu_count() or 1, "true")):
            os.environ["TOKENIZERS_PARALLELISM"] = parallel
            report(f"{name}, {cores} {'core' if cores == 1 else 'cores'}", tokenizer, rows, arguments.rounds)


def report(title: str, tokenizer: Any, rows: list[Row], rounds: int) -> None:
    """Print rows a second of both and the median ratio of their times."""

    def plain() -> None:
        for row in rows:
            tokenizer.apply_chat_template(row.messages, tools=row.tools, tokenize=True)

    def ours() -> None:
        for _ in encode_each(tokenizer, rows):
            pass

    ours()
    times = [(seconds(plain), seconds(ours)) for _ in range(rounds)]
    rates = [len(rows) / statistics.median(column) for column in zip(*times, strict=True)]
    ratios = sorted(mine / theirs for theirs, mine in times)
    print(
        f"{title}: {len(rows):,} rows, apply_chat_template {rates[0]:,.0f} rows/s, ids and mask {rates[1]:,.0f} "
        f"rows/s, {statistics.median(ratios):.2f} times as long ({ratios[0]:.2f}–{ratios[-1]:.2f})"
    )


def seconds(task: Callable[[], None]) -> float:
    started = time.perf_counter()
    task()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
