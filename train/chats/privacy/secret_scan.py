"""What must not leave the machine by accident: secrets, personal data, folders of this machine.

Every text is read: text files whole, JSON value by value, the words that safetensors and GGUF files carry beside their
numbers. Of a vocabulary only what can be nobody's word piece is looked for. No finding is ever shown whole.
"""

import json
import os
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from train.chats.privacy.scrub import find

Kind = Literal["secret", "personal-data", "path"]
SECRETS = {
    "Hugging Face token": r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}\b",
    "OpenAI or Anthropic key": r"\bsk-(?:[a-z]+[0-9]*-)*[A-Za-z0-9_-]{20,}",
    "GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})",
    "GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "AWS key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "Google key": r"\bAIza[A-Za-z0-9_-]{35}|\bya29\.[A-Za-z0-9_-]{30,}|\bGOCSPX-[A-Za-z0-9_-]{20,}",
    "Yandex key": r"\b(?:AQVN[A-Za-z0-9_-]{30,}|y[0-3]_[A-Za-z0-9_-]{40,}|t1\.[A-Za-z0-9_=-]{60,})",
    "Slack token": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    "Telegram bot token": r"\b[0-9]{8,10}:AA[A-Za-z0-9_-]{33}(?![A-Za-z0-9_-])",
    "PyPI or npm token": r"\bpypi-[A-Za-z0-9_-]{50,}|\bnpm_[A-Za-z0-9]{36}\b",
    "Stripe key": r"\b[rs]k_live_[A-Za-z0-9]{16,}",
    "private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "signed web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"'<>{}]+:[^\s/:@\"'<>{}]{3,}@[\w.-]+",
    "password or key": r"(?i:(?:api|access|secret|private|auth)[ _-]?(?:key|token)|client[ _-]?secret|password|passwd|"
    r"парол[ья])[\"']?\s{0,3}[:=]\s{0,3}[\"']?(?=[^\s\"']*[0-9])[A-Za-z0-9_+/=!@#$%^&*.-]{8,}",
}
SECRET = re.compile("|".join(f"(?P<s{number}>{pattern})" for number, pattern in enumerate(SECRETS.values())))
OWN_SECRET = re.compile(r"(?:TOKEN|KEY|SECRET|PASSWORD)$")
"""Variables of the environment whose value must not go out, whatever it looks like."""
HOME = re.compile(r"(?<![\w.%-])(?:(?:/home|/Users|/mnt/[a-z]/Users|/root)/|[A-Za-z]:[\\/]+Users[\\/]+)[^\s\"'<>|:*?]+")
NEVER_A_WORD_PIECE = ("phone", "card", "email", "snils")
"""Kinds of personal data that are looked for in a vocabulary too; word pieces look like the others by chance."""


class Finding(NamedTuple):
    kind: Kind
    place: str
    """Of a JSON value its keys, a.b.0; empty in other files."""
    what: str
    """For people: the line, what it is, and how it begins."""

    def __str__(self) -> str:
        return f"{self.place}: {self.what}" if self.place else self.what


class Guard(NamedTuple):
    """What belongs to this machine and its owner."""

    secrets: tuple[str, ...]
    places: tuple[str, ...]


def guard(token: str | None, places: Iterable[Path]) -> Guard:
    """`token`: the one that is used for pushing; `places`: folders whose names say something of the owner."""
    values = [value for name, value in os.environ.items() if OWN_SECRET.search(name.upper())]
    secrets = {value for value in (*values, token or "") if len(value) >= 12}
    home = str(Path.home())
    folders = {str(path.absolute()) for path in places if len(path.absolute().parts) > 2} | ({home} - {"/", "/root"})
    return Guard(tuple(sorted(secrets)), tuple(sorted(folders, key=len, reverse=True)))


def scan(name: str, content: Path | bytes, guarded: Guard, *, published: bool = False) -> list[Finding]:
    """Findings in one file that is to go out under `name`.

    `published`: it is a file of the base as the Hub has it; nobody's data can have come into it here.
    """
    findings: list[Finding] = []
    for place, text, is_piece in _texts(name, content):
        found: list[tuple[Kind, str]] = [("secret", what) for what in _secrets(text, guarded)]
        if not published:
            found += [("personal-data", what) for what in _personal(text, is_piece=is_piece)]
        if not is_piece:
            found += [("path", what) for what in _paths(text, guarded)]
        findings += [Finding(kind, place, what) for kind, what in found]
    return list(dict.fromkeys(findings))


def _secrets(text: str, guarded: Guard) -> Iterator[str]:
    if len(text) < 12:
        return
    for match in SECRET.finditer(text):
        label = list(SECRETS)[int((match.lastgroup or "s0")[1:])]
        yield f"{_line(text, match.start())}{label} {match[0][:4]}…"
    for secret in guarded.secrets:
        if secret in text:
            yield f"{_line(text, text.index(secret))}a token or key of this machine's environment, {secret[:3]}…"


def _personal(text: str, *, is_piece: bool) -> Iterator[str]:
    if is_piece and "@" not in text and sum(map(str.isdigit, text)) < 10:
        return
    for found in find(text):
        if not is_piece or found.kind in NEVER_A_WORD_PIECE:
            yield f"{_line(text, found.start)}{found.kind} {text[found.start : found.start + 2]}…"


def _paths(text: str, guarded: Guard) -> Iterator[str]:
    found = {match[0]: match.start() for match in HOME.finditer(text)}
    for place in guarded.places:
        if place in text and not any(place in known or known in place for known in found):
            found[place] = text.index(place)
    for path, start in found.items():
        yield f"{_line(text, start)}folder of this machine {path}"


def _line(text: str, start: int) -> str:
    """`line 3: `; nothing where there is one line."""
    return f"line {text.count(chr(10), 0, start) + 1}: " if "\n" in text.rstrip() else ""


def _texts(name: str, content: Path | bytes) -> Iterator[tuple[str, str, bool]]:
    """(place in the file, text, whether it is a piece of a vocabulary)."""
    if name.endswith((".safetensors", ".gguf")):
        for key, text in _header(name, content):
            yield key, text, False
        return
    data = content if isinstance(content, bytes) else content.read_bytes()
    text = data.decode("utf-8", "replace")
    if name.endswith(".model"):  # sentencepiece: pieces between binary fields
        yield from (("", piece, True) for piece in re.split(r"[\x00-\x1f\ufffd]+", text) if piece)
        return
    if name == "merges.txt":
        yield from (("", line, True) for line in text.split("\n"))
        return
    if not name.endswith(".json"):
        yield "", text, False
        return
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        yield "", text, False
        return
    if name == "vocab.json":
        yield from ((key, key, True) for key in tree)
        return
    model = tree.get("model") if name == "tokenizer.json" and isinstance(tree, dict) else None
    if isinstance(model, dict):
        vocabulary = model.pop("vocab", None) or ()
        model.pop("merges", None)  # what they make stands in the vocabulary
        for piece in vocabulary:  # {piece: id}, or [[piece, score], …]
            yield "vocab", piece if isinstance(piece, str) else str(piece[0]), True
    yield from ((place, value, False) for place, value in _strings(tree, ""))


def _strings(tree: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text in a JSON value, keys too, with its place: `a.b.0`. A value with a telling key is read with it."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            here = f"{place}.{key}" if place else str(key)
            yield here, str(key)
            yield from ([(here, f"{key}: {value}")] if isinstance(value, str) else _strings(value, here))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _strings(value, f"{place}.{number}")
    elif isinstance(tree, str):
        yield place, tree


def _header(name: str, content: Path | bytes) -> Iterator[tuple[str, str]]:
    """(key, text) of what a file of weights says in words; nothing where it is not such a file."""
    if isinstance(content, bytes):
        return
    with content.open("rb") as file:
        try:
            if name.endswith(".gguf"):
                yield from _gguf_strings(file)
            else:
                (length,) = struct.unpack("<Q", file.read(8))
                yield from _strings(json.loads(file.read(min(length, 10**8))).get("__metadata__") or {}, "")
        except (struct.error, ValueError, AttributeError, UnicodeDecodeError):
            return


GGUF_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a number by its type in GGUF; 8 is a string, 9 an array."""


def _gguf_strings(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """(key, text) of a GGUF file's metadata; arrays of text are its vocabulary and are passed over."""

    def number(form: str) -> int:
        return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])

    if file.read(4) != b"GGUF":
        return
    number("<I")  # version
    number("<Q")  # tensors
    for _ in range(number("<Q")):
        key = file.read(number("<Q")).decode()
        kind = number("<I")
        if kind == 8:
            yield key, file.read(number("<Q")).decode("utf-8", "replace")
        elif kind == 9:
            inner, count = number("<I"), number("<Q")
            if inner == 8:
                for _ in range(count):
                    file.seek(number("<Q"), os.SEEK_CUR)
            elif inner in GGUF_BYTES:
                file.seek(count * GGUF_BYTES[inner], os.SEEK_CUR)
            else:
                return
        else:
            file.seek(GGUF_BYTES[kind], os.SEEK_CUR)
