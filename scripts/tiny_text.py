"""The text of the tiny Russian base: documents, dialogues out of the plays, plays set aside, tokenizer, token streams.

Two files, one JSON object a line, plain or gzipped: plays with `play, title, scene, speaker_id, speaker, text` in
the order of the text, prose with `text` and `title`.
"""

import gzip
import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from make_tiny_base import SPECIAL, train_tokenizer

TOKENS = "tokens.npz"
IGNORE_INDEX = -100  # torch's label that costs nothing

# Never trained on, by anything that is compared: nine authors, 1765–1913, prose and verse, chosen before the first try
HELD_OUT = (
    "andreyev-mysl",
    "chekhov-vishnevyi-sad",
    "fonvizin-brigadir",
    "gogol-zhenitba",
    "gorky-na-dne",
    "lermontov-maskarad",
    "ostrovsky-groza",
    "sumarokov-opekun",
    "tolstoy-zhivoy-trup",
    "turgenev-holostjak",
)
# Not trained on either: what the tries were compared by
TRIED_ON = ("chekhov-medved", "gogol-igroki", "ostrovsky-tyazhelye-dni")

Speech = dict[str, str]


def read_lines(path: Path) -> Iterator[dict]:
    """The objects of a JSONL file, gzipped when its name says so."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def clean(text: str) -> str:
    """One kind of space, no stress marks, no empty lines."""
    text = text.replace("\xa0", " ").replace("\u0301", "").replace("\u00ad", "")
    return "\n".join(line for line in (" ".join(line.split()) for line in text.split("\n")) if line)


def read_plays(path: Path) -> dict[str, list[Speech]]:
    """Speeches by the play's name, in the order of the text."""
    plays: dict[str, list[Speech]] = {}
    for line in read_lines(path):
        text = clean(line["text"])
        if text:
            speech = {"text": text, "scene": str(line["scene"]), "by": line["speaker_id"]}
            role = f"Ты {line['speaker']} в пьесе «{line['title']}»."
            plays.setdefault(line["play"], []).append({**speech, "role": role})
    return plays


def read_prose(path: Path, kept_back: dict[str, list[Speech]]) -> list[str]:
    """The works, cleaned, without those that hold one of the plays set aside (collections have plays in them)."""
    probes = [
        [letters(text)[:60] for text in sorted((speech["text"] for speech in speeches), key=len)[-20:]]
        for speeches in kept_back.values()
    ]
    works = []
    for line in read_lines(path):
        text = clean(line["text"])
        plain = letters(text)
        if any(sum(probe in plain for probe in play) > 2 for play in probes):
            print(f"left out, a play set aside is in it: {line['title']}", flush=True)
        else:
            works.append(text)
    return works


def letters(text: str) -> str:
    """Small letters alone, ё as е: what two editions share."""
    return "".join(filter(str.isalpha, text.lower())).replace("ё", "е")


def play_text(speeches: list[Speech]) -> str:
    """A play as a document: one speech after another without names, so that nothing easy lowers the figures."""
    return "\n".join(speech["text"] for speech in speeches) + "\n"


def dialogues(plays: dict[str, list[Speech]], longest: int = 400, most_turns: int = 6) -> list[list[dict[str, str]]]:
    """Exchanges between two people as chats: the first speaks as user, the second answers as assistant.

    A speech of more than `longest` characters ends an exchange; an exchange has 2 to `most_turns` messages. Every
    second chat begins with a system message that says whose part the assistant has.
    """
    chats: list[list[dict[str, str]]] = []
    for exchange in exchanges(plays, longest, most_turns):
        messages = [
            {"role": ("user", "assistant")[index % 2], "content": speech["text"]}
            for index, speech in enumerate(exchange)
        ]
        system = [{"role": "system", "content": exchange[1]["role"]}]
        chats.append(system + messages if len(chats) % 2 else messages)
    return chats


def exchanges(plays: dict[str, list[Speech]], longest: int, most_turns: int) -> Iterator[list[Speech]]:
    """Runs of an even number of speeches in which two people of one scene take turns."""
    for speeches in plays.values():
        for _, scene in groupby(speeches, key=lambda speech: speech["scene"]):
            run: list[Speech] = []
            for speech in scene:
                two = len(run) < 2 or speech["by"] == run[-2]["by"]
                goes_on = bool(run) and speech["by"] != run[-1]["by"] and two and len(run) < most_turns
                if not goes_on or len(speech["text"]) > longest:
                    yield from ending(run)
                    run = []
                if len(speech["text"]) <= longest:
                    run.append(speech)
            yield from ending(run)


def ending(run: list[Speech]) -> Iterator[list[Speech]]:
    """The run up to its last answer, if it has one."""
    if len(run) > 1:
        yield run[: len(run) // 2 * 2]


def prepare(work: Path, plays_file: Path, prose_file: Path, vocab_size: int, window: int) -> dict[str, np.ndarray]:
    """Tokenizer and token streams, made once and kept in the working folder."""
    kept = work / TOKENS
    if not kept.is_file():
        plays = read_plays(plays_file)
        kept_back = {name: speeches for name, speeches in plays.items() if name in HELD_OUT + TRIED_ON}
        prose = read_prose(prose_file, kept_back)
        train_plays = {name: speeches for name, speeches in plays.items() if name not in HELD_OUT + TRIED_ON}
        tried = [play_text(plays[name]) for name in TRIED_ON if name in plays] or [
            play_text(next(iter(plays.values())))
        ]
        texts = {"plays": [play_text(speeches) for speeches in train_plays.values()], "prose": prose, "tried": tried}
        tokenizer = train_tokenizer(texts["plays"] + texts["prose"], vocab_size)
        tokenizer.save(str(work / "tokenizer.json"))
        streams = {name: encode(tokenizer, some) for name, some in texts.items()}
        streams["tried_characters"] = np.array(sum(map(len, tried)))
        streams["chat"], streams["chat_labels"] = pack(tokenizer, dialogues(train_plays), window)
        aside = work / "tokens.partial.npz"
        np.savez(aside, **streams)
        aside.rename(kept)
    data = dict(np.load(kept))
    sizes = {name: f"{len(stream):,}" for name, stream in data.items() if stream.ndim}
    print("tokens:", sizes, "characters to try on:", int(data["tried_characters"]), flush=True)
    return data


def encode(tokenizer: Any, texts: list[str]) -> np.ndarray:
    """One stream of token ids, every document followed by <|endoftext|>."""
    end = tokenizer.token_to_id(SPECIAL["pad"])
    return np.concatenate([np.array([*tokenizer.encode(text).ids, end], dtype=np.uint16) for text in texts])


def pack(tokenizer: Any, chats: list[list[dict[str, str]]], window: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole chats side by side in windows (n, window): ids, and labels that are IGNORE_INDEX outside the answers."""
    pad = tokenizer.token_to_id(SPECIAL["pad"])
    rows: list[tuple[list[int], list[int]]] = [([], [])]
    for chat in chats:
        ids: list[int] = []
        labels: list[int] = []
        for message in chat:
            head = tokenizer.encode(f"{SPECIAL['start']}{message['role']}\n").ids
            body = tokenizer.encode(f"{message['content']}{SPECIAL['end']}").ids
            answer = message["role"] == "assistant"
            tail = tokenizer.encode("\n").ids
            ids += head + body + tail
            labels += (
                [IGNORE_INDEX] * len(head)
                + (body if answer else [IGNORE_INDEX] * len(body))
                + [IGNORE_INDEX] * len(tail)
            )
        if len(ids) > window:
            continue
        if len(rows[-1][0]) + len(ids) > window:
            rows.append(([], []))
        rows[-1][0].extend(ids)
        rows[-1][1].extend(labels)
    packed = (
        np.full((len(rows), window), pad, dtype=np.uint16),
        np.full((len(rows), window), IGNORE_INDEX, dtype=np.int16),
    )
    for index, (ids, labels) in enumerate(rows):
        packed[0][index, : len(ids)], packed[1][index, : len(ids)] = ids, labels
    return packed
