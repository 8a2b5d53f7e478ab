"""Searches files for what must not leave the machine by accident: secrets, personal data, folders of this machine.

All text in a file is searched: text files whole, JSON value by value, the metadata of safetensors and GGUF files. In a
vocabulary, only what cannot be a word piece by chance is looked for. No finding is ever shown whole.
"""

import json
import os
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from train.chats.privacy.scrub import KINDS, find_personal_data
from train.core.secrets import find_secrets

FindingKind = Literal["secret", "personal-data", "path"]
OWN_SECRET = re.compile(r"(?:TOKEN|KEY|SECRET|PASSWORD)$")
"""How the names of environment variables end whose values must not go out, whatever they look like."""
HOME = re.compile(r"(?<![\w.%-])(?:(?:/home|/Users|/mnt/[a-z]/Users|/root)/|[A-Za-z]:[\\/]+Users[\\/]+)[^\s\"'<>|:*?]+")
NEVER_A_WORD_PIECE = ("phone", "card", "email", "snils")
"""Kinds of personal data that are looked for in a vocabulary too; word pieces can look like other kinds by chance."""


class Finding(NamedTuple):
    """Something in a file that must not go out."""

    kind: FindingKind
    location: str
    """The keys of a JSON value, as in a.b.0; empty in other files."""
    description: str
    """For people: the line, what it is, and how it begins."""

    def __str__(self) -> str:
        return f"{self.location}: {self.description}" if self.location else self.description


class LocalSecrets(NamedTuple):
    """Texts by which a file gives away this machine or its owner."""

    values: tuple[str, ...]
    """Tokens and keys."""
    folders: tuple[str, ...]


def local_secrets(token: str | None, folders: Iterable[Path]) -> LocalSecrets:
    """The `token` that is used for pushing, what the environment holds, the `folders` and the home folder."""
    values = [value for name, value in os.environ.items() if OWN_SECRET.search(name.upper())]
    secrets = {value for value in (*values, token or "") if len(value) >= 12}
    home = str(Path.home())
    paths = {str(path.absolute()) for path in folders if len(path.absolute().parts) > 2} | ({home} - {"/", "/root"})
    return LocalSecrets(tuple(sorted(secrets)), tuple(sorted(paths, key=len, reverse=True)))


def scan_file(name: str, content: Path | bytes, local: LocalSecrets, *, published: bool = False) -> list[Finding]:
    """Findings in one file that is to go out under `name`.

    With `published` personal data is not looked for: it is a file of the base as the Hub has it, so nothing of this
    machine's chats can have come into it.
    """
    findings: list[Finding] = []
    for location, text, is_piece in _texts(name, content):
        in_text: list[tuple[FindingKind, str]] = [("secret", secret) for secret in _secrets(text, local)]
        if not published:
            in_text += [("personal-data", data) for data in _personal(text, is_piece=is_piece)]
        if not is_piece:
            in_text += [("path", path) for path in _paths(text, local)]
        findings += [Finding(kind, location, description) for kind, description in in_text]
    return list(dict.fromkeys(findings))


def _secrets(text: str, local: LocalSecrets) -> Iterator[str]:
    if len(text) < 12:
        return
    for secret in find_secrets(text):
        yield f"{_line(text, secret.start)}{secret.kind} {text[secret.start : secret.start + 4]}…"
    for value in local.values:
        if value in text:
            yield f"{_line(text, text.index(value))}a token or key of this machine's environment, {value[:3]}…"


def _personal(text: str, *, is_piece: bool) -> Iterator[str]:
    if is_piece and "@" not in text and sum(map(str.isdigit, text)) < 10:
        return
    for span in find_personal_data(text):
        if span.kind in (NEVER_A_WORD_PIECE if is_piece else KINDS):  # what a word beside it tells is code as often
            yield f"{_line(text, span.start)}{span.kind} {text[span.start : span.start + 2]}…"


def _paths(text: str, local: LocalSecrets) -> Iterator[str]:
    starts = {match[0]: match.start() for match in HOME.finditer(text)}
    for folder in local.folders:
        if folder in text and not any(folder in path or path in folder for path in starts):
            starts[folder] = text.index(folder)
    for path, start in starts.items():
        yield f"{_line(text, start)}folder of this machine {path}"


def _line(text: str, start: int) -> str:
    """`line 3: `; nothing where there is one line."""
    return f"line {text.count(chr(10), 0, start) + 1}: " if "\n" in text.rstrip() else ""


def _texts(name: str, content: Path | bytes) -> Iterator[tuple[str, str, bool]]:
    """(location in the file, text, whether it is a piece of a vocabulary)."""
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
    yield from ((location, value, False) for location, value in _strings(tree, ""))


def _strings(tree: Any, location: str) -> Iterator[tuple[str, str]]:
    """Every text in a JSON value, keys too, with its location: `a.b.0`. A value with a telling key is read with it."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            here = f"{location}.{key}" if location else str(key)
            yield here, str(key)
            yield from ([(here, f"{key}: {value}")] if isinstance(value, str) else _strings(value, here))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _strings(value, f"{location}.{number}")
    elif isinstance(tree, str):
        yield location, tree


def _header(name: str, content: Path | bytes) -> Iterator[tuple[str, str]]:
    """(key, text) of the metadata in a safetensors or GGUF file; nothing where it is not such a file."""
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
"""Type of a number in GGUF → its size in bytes; 8 is a string, 9 an array."""


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
