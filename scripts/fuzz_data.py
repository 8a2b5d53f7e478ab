"""Feeds mutated files to every reader and check; an error in words is right, a traceback is a finding.

    python scripts/fuzz_data.py [--files 20000] [--seed 0] [--kind whatsapp]

Ends with the counts and exit code 1 if anything but a GovorError came out; the file that did it is kept.
"""

import contextlib
import gzip
import io
import json
import random
import sys
import tempfile
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
import openpyxl
import sample_exports as exports
import zstandard

from train.chats.checks import check_file
from train.chats.privacy.scrub import Scrubber
from train.chats.readers import ReadAs, check_preferences, is_preferences, read_rows, stream_records
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
    {"messages": [PAIR[0], {**PAIR[1], "role": "bot", "train": True}], "id": 1, "source": "x"},
    {"conversations": PAIR},
    {"prompt": [PAIR[0]], "completion": [PAIR[1]]},
    {"Вопрос": "а", "Ответ": "б"},
    {"contents": [{"role": "user", "parts": [{"text": "а"}]}, {"role": "model", "parts": [{"functionCall": {"name": "f",
     "args": {}}}]}, {"parts": [{"functionResponse": {"name": "f", "response": {"result": "в"}}}]},
     {"role": "model", "parts": [{"text": "г"}]}], "systemInstruction": {"parts": [{"text": "д"}]},
     "tools": [{"functionDeclarations": [{"name": "f"}]}]},
    {"conversation": [{"human": "а", "assistant": "б"}]},
    {"dialog": ["а", "б"]},
    {"text": "<s>[INST] а [/INST] б</s>"},
    {"input": {"messages": PAIR[:1]}, "preferred_output": PAIR[1:], "non_preferred_output": PAIR[1:]},
    {"prompt": "а", "chosen": "б", "rejected": "в"},
]  # fmt: skip
TEMPLATE = ReadAs(template="<s>[INST] {question} [/INST] {answer}</s>")
SNIPPETS = [
    *(b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\n", b"\r\n", b"\t"),
    *(b"[" * 3000, b'{"a":' * 3000, b"{}", b"[]", b'"', b",", b"-", b"null", b"NaN", b"true", b"1e999", b"9" * 30),
    *(b"\\ud83d", b"\\u0000", b'"weight": 0', b'"role": "user"'),
]


def seed_files() -> dict[str, list[bytes]]:
    """Good files by kind: in every format and packing."""
    lines = [json.dumps(record, ensure_ascii=False).encode() for record in RECORDS]
    rows = [b"\n".join([line] * 3) for line in lines]
    rows += [b"[" + b",".join([line] * 2) + b"]" for line in lines]
    rows += [b'{"%s":\n[' % key + b",".join([line] * 2) + b"]}" for key in (b"data", b"rows") for line in lines[:3]]
    rows += [json.dumps(record, ensure_ascii=False, indent=1).encode() * 2 for record in RECORDS[:3]]
    rows += [gzip.compress(rows[0]), zstandard.compress(rows[3])]
    tables = [b"prompt,completion\na,b\n", b"query;response\na;b\n", "Вопрос;Ответ\nа;б\n".encode("cp1251")]
    return {
        "rows": rows,
        "tables": tables,
        "xlsx": [workbook()],
        "telegram-json": [telegram_json()],
        "telegram-html": [exports.telegram_html().encode()],
        "whatsapp": [exports.whatsapp().encode(), exports.whatsapp(iphone=True).encode()],
        "zip": [
            zipped(exports.whatsapp().encode(), "_chat.txt"),
            zipped(exports.telegram_html().encode(), "messages.html"),
        ],
        "vk": [exports.vk()],
        "discord": [exports.discord().encode()],
        "instagram": [exports.instagram().encode()],
        "chatgpt": [exports.chatgpt().encode()],
        "claude": [exports.claude().encode()],
    }


def workbook() -> bytes:
    book = openpyxl.Workbook()
    for line in (("Вопрос", "Ответ"), ("а", "б"), (1, 2.5)):
        book.active.append(line)
    packed = io.BytesIO()
    book.save(packed)
    return packed.getvalue()


def zipped(content: bytes, name: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:  # stored, so that mutations reach the reader
        archive.writestr(name, content)
    return packed.getvalue()


def telegram_json() -> bytes:
    message = {"type": "message", "date": "2025-01-01T10:00:00", "date_unixtime": "1735714800"}
    messages = [
        {**message, "id": n, "from": "Катя" if n % 2 else "Мама", "from_id": f"user{n % 2}", "text": [str(n)],
         **({"media_type": "voice_message"} if n == 3 else {}), **({"reply_to_message_id": 2} if n == 4 else {})}
        for n in range(6)
    ]  # fmt: skip
    chat = {"name": "Мама", "type": "personal_chat", "id": 0, "messages": messages}
    return json.dumps({"about": "", "chats": {"list": [chat]}}, ensure_ascii=False).encode()


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
    if is_preferences(path):
        check_preferences(path)
    rows: list[Row] = read_rows(path)
    for target in ("openai", "alpaca", "sharegpt", "gemini"):
        for when_lossy in ("drop", "split"):
            for record in convert_rows(rows, target, when_lossy).records:
                json.dumps(record, ensure_ascii=False).encode()


def read_by_template(path: Path) -> None:
    for _ in stream_records(path, TEMPLATE):
        pass


def collect_and_scrub(path: Path) -> None:
    found = survey_exports([path])
    writers = [who for who in found.participants if who.messages]
    if not writers:
        return
    persona = find_persona(found, [writers[-1].id])
    scrubber = Scrubber([name for who in found.participants for name in who.names], ["Наташа"])
    collected = collect_dialogues(found, persona, scrub=scrubber.scrub)
    report = collected.report
    assert report.messages_read == report.messages_kept + report.dropped.total(), "messages lost"
    json.dumps([row.messages for row in collected.rows]).encode()


@click.command()
@click.option("--files", default=20_000)
@click.option("--seed", default=0)
@click.option("--kind", help="One kind of file alone: telegram-html, xlsx, …")
def main(files: int, seed: int, kind: str | None) -> None:
    """Mutate good files and count what comes out."""
    random_ = random.Random(seed)
    seeds = seed_files()
    steps: list[Callable[[Path], object]] = [check_file, read_and_convert, read_by_template, collect_and_scrub]
    passed, refused = Counter[str](), Counter[str]()
    kinds = sorted(seeds) if kind is None else [kind]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed"
        for number in range(files):
            of = kinds[number % len(kinds)]
            path.write_bytes(mutate(random_.choice(seeds[of]), random_))
            for step in steps:
                try:
                    with contextlib.redirect_stderr(io.StringIO()):
                        step(path)
                    passed[of] += 1
                except GovorError:
                    refused[of] += 1
                except Exception:
                    traceback.print_exc()
                    with tempfile.NamedTemporaryFile(prefix="fuzzed-", suffix=".bin", dir=".", delete=False) as kept:
                        kept.write(path.read_bytes())
                    print(f"a traceback; the file is kept as {kept.name}")
                    sys.exit(1)
    for of in kinds:
        print(f"{of:14} {passed[of]:7} passed, {refused[of]:7} refused in words")
    print(f"{files} mutated files, {len(steps)} readings each: 0 tracebacks")


if __name__ == "__main__":
    main()
