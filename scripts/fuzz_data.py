"""Feeds mutated files to every reader and check; an error in words is right, a traceback is a finding.

    python scripts/fuzz_data.py [--files 20000] [--seed 0]

Ends with the counts and exit code 1 if anything but a GovorError came out; the file that did it is kept.
"""

import gzip
import json
import random
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import click
import zstandard

from train.chats.checks import check_file
from train.chats.privacy.scrub import Scrubber
from train.chats.readers import read_rows
from train.chats.rows import Row
from train.chats.telegram.dialogues import collect_dialogues
from train.chats.telegram.participants import find_persona, survey_exports
from train.chats.writers import convert_rows
from train.core.errors import GovorError

PAIR = [{"role": "user", "content": "Кто я? 🙂"}, {"role": "assistant", "content": "А кто спрашивает?"}]
CALL = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
RECORDS = [
    {"messages": [{"role": "system", "content": "Ты Наташа."}, *PAIR, *PAIR]},
    {"messages": [PAIR[0], {"role": "assistant", "content": None, "tool_calls": [CALL]},
                  {"role": "tool", "tool_call_id": "c1", "content": "1"}, {**PAIR[1], "weight": 1}],
     "tools": [{"type": "function", "function": {"name": "now", "parameters": {}}}]},
    {"conversations": [{"from": "human", "value": "а"}, {"from": "gpt", "value": "б"}], "system": "в"},
    {"instruction": "а", "input": "б", "output": "в", "history": [["г", "д"]]},
    {"prompt": "а", "completion": "б"},
    {"query": "а", "response": "б"},
]  # fmt: skip
SNIPPETS = [
    *(b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\n", b"\r\n", b"\t"),
    *(b"[" * 3000, b'{"a":' * 3000, b"{}", b"[]", b'"', b",", b"-", b"null", b"NaN", b"true", b"1e999", b"9" * 30),
    *(b"\\ud83d", b"\\u0000", b'"weight": 0', b'"role": "user"'),
]


def seed_files() -> list[bytes]:
    """Good files in every format and packing."""
    lines = [json.dumps(record, ensure_ascii=False).encode() for record in RECORDS]
    files = [b"\n".join([line] * 3) for line in lines]
    files += [b"[" + b",".join([line] * 2) + b"]" for line in lines]
    files += [
        gzip.compress(files[0]),
        zstandard.compress(files[3]),
        b"prompt,completion\na,b\n",
        b"query;response\na;b\n",
    ]
    return files


def mutate(content: bytes, random_: random.Random) -> bytes:
    """One to four changes: bytes flipped, pieces cut, doubled, swapped or put in."""
    data = bytearray(content)
    for _ in range(random_.randint(1, 4)):
        at, end = sorted(random_.randrange(len(data) + 1) for _ in range(2))
        end = min(end, at + random_.choice((1, 4, 60)))
        action = random_.randrange(5)
        if action == 0 and data:
            data[at % len(data)] ^= 1 << random_.randrange(8)
        elif action == 1:
            del data[at:end]
        elif action == 2:
            data[at:at] = data[at:end]
        elif action == 3:
            data[at:at] = random_.choice(SNIPPETS)
        else:
            data[at:end] = random_.choice(SNIPPETS)
    return bytes(data)


def read_and_convert(path: Path) -> None:
    rows: list[Row] = read_rows(path)
    for target in ("openai", "alpaca", "sharegpt", "gemini"):
        for when_lossy in ("drop", "split"):
            for record in convert_rows(rows, target, when_lossy).records:
                json.dumps(record, ensure_ascii=False).encode()


def collect_and_scrub(path: Path) -> None:
    found = survey_exports([path])
    scrubber = Scrubber([name for who in found.participants for name in who.names], ["Наташа"])
    collected = collect_dialogues(found, find_persona(found, ["user1"]), scrub=scrubber.scrub)
    report = collected.report
    assert report.messages_read == report.messages_kept + report.dropped.total(), "messages lost"
    json.dumps([row.messages for row in collected.rows]).encode()


@click.command()
@click.option("--files", default=20_000)
@click.option("--seed", default=0)
def main(files: int, seed: int) -> None:
    """Mutate good files and count what comes out."""
    random_ = random.Random(seed)
    seeds = seed_files()
    steps: list[Callable[[Path], object]] = [check_file, read_and_convert, collect_and_scrub]
    passed = refused = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed"
        for _ in range(files):
            path.write_bytes(mutate(random_.choice(seeds), random_))
            for step in steps:
                try:
                    step(path)
                    passed += 1
                except GovorError:
                    refused += 1
                except Exception:
                    traceback.print_exc()
                    with tempfile.NamedTemporaryFile(prefix="fuzzed-", suffix=".bin", dir=".", delete=False) as kept:
                        kept.write(path.read_bytes())
                    print(f"a traceback; the file is kept as {kept.name}")
                    sys.exit(1)
    print(
        f"{files} mutated files, {len(steps)} readings each: {passed} passed, {refused} refused in words, 0 tracebacks"
    )


if __name__ == "__main__":
    main()
