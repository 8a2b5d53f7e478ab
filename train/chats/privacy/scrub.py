"""Replaces personal data in Russian chats: values by placeholders, names by placeholders or invented names.

Regular expressions and check digits (id_numbers.py, links.py, addresses.py), words beside a value (labelled.py and
what it calls), the participants' names in all their forms (names.py): no model, no network. A stranger's name stays.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from train.chats.privacy.addresses import find_addresses
from train.chats.privacy.id_numbers import find_numbers
from train.chats.privacy.invented import InventedNames
from train.chats.privacy.labelled import find_labelled
from train.chats.privacy.links import find_contacts
from train.chats.privacy.names import PLACEHOLDER_FILL, NameFinder, NameForm
from train.chats.privacy.short_addresses import find_short_addresses
from train.core.files import table_cell, write_whole

KINDS = {
    "phone": "ТЕЛЕФОН",
    "email": "ПОЧТА",
    "link": "ССЫЛКА",
    "nick": "НИК",
    "card": "КАРТА",
    "passport": "ПАСПОРТ",
    "inn": "ИНН",
    "snils": "СНИЛС",
    "ogrn": "ОГРН",
    "account": "СЧЁТ",
    "address": "АДРЕС",
    "name": "ИМЯ",
}
"""Kind of personal data → the word of its placeholders."""
LABELLED_KINDS = {
    "document": "ДОКУМЕНТ",
    "number": "НОМЕР",
    "policy": "ПОЛИС",
    "date": "ДАТА",
    "plate": "АВТО",
    "wallet": "КОШЕЛЁК",
    "secret": "КОД",
    "place": "МЕСТО",
    "ip": "IP",
}
"""The same for what has no fixed form; `number`: one that a word names and its check digit denies."""
PLACEHOLDER_WORDS = {**KINDS, **LABELLED_KINDS}
MAY_BE_DATA = re.compile("[0-9A-Za-z_@]")
MAY_BE_DATA_WORDS = (
    "собак", "собач", "сабак", "сабач", "пят", "вос", "сем", "девят", "нол", "парол", "вифи", "вайф", "вай-ф",
    "вай ф", "вафл",
    "рожд", "родил", " др ", "днюх", "г.р", "кодов", "секретн", "контрольн", "кварт",
)  # fmt: skip
"""Such a character or, of an address or number told in words, one of the words is what no data but a name lacks."""
PLACEHOLDER = re.compile(f"<(?:{'|'.join(PLACEHOLDER_WORDS.values())})_[0-9]+>")


class PersonalSpan(NamedTuple):
    """Where personal data stands in a text."""

    kind: str
    start: int
    end: int


class Replacement(NamedTuple):
    """A placeholder or an invented name, and what it stands for."""

    placeholder: str
    kind: str
    original: str
    """The value as it was written first; for a name, the display name."""
    times: int
    """How often it was replaced."""


def find_personal_data(text: str) -> list[PersonalSpan]:
    """Personal data in the text, names apart, in order and without overlaps."""
    if not MAY_BE_DATA.search(text) and not any(map(text.lower().__contains__, MAY_BE_DATA_WORDS)):
        return []
    return _nameless().find(text)


@cache
def _nameless() -> "Scrubber":
    """A scrubber that knows no names; finding changes nothing in it."""
    return Scrubber()


class Scrubber:
    """Replaces personal data and remembers every value that it has replaced."""

    def __init__(self, names: Iterable[str] = (), keep: Iterable[str] = (), *, invent: bool = False) -> None:
        """`names`: display names of the participants, their diminutives are known; `keep`: the persona's, which stay.

        `invent`: put invented names for real ones, of the same gender and in the same form, instead of placeholders.
        """
        self._keep, self._invent = list(keep), invent
        self._placeholders: dict[tuple[str, str], str] = {}
        self._originals: dict[str, tuple[str, str]] = {}
        self._values: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self.begin_chat(names)

    def begin_chat(self, names: Iterable[str]) -> None:
        """From now on replace these display names alone; invented names are chosen anew, placeholders go on."""
        self._names = NameFinder(names, self._keep, others=not self._invent)
        self._invented = InventedNames(self._is_taken) if self._invent else None

    def _is_taken(self, word: str) -> bool:
        """Whether the word names somebody of the chat or the persona."""
        return bool(self._names.forms_of(word)) or word in self._names.kept

    @property
    def replaced(self) -> list[Replacement]:
        """Everything replaced so far, in the order of first appearance."""
        return [Replacement(p.split(" ← ")[0], *self._originals[p], count) for p, count in self._counts.items()]

    def find(self, text: str) -> list[PersonalSpan]:
        """What `scrub` would replace, in order and without overlaps."""
        return [span for span, _ in self._find(text)]

    def scrub(self, text: str) -> str:
        """The text without personal data; once more over the result would change nothing."""
        spans = self._find(text)
        while spans:
            parts, end = [], 0
            for (kind, start, stop), person in spans:
                parts += [text[end:start], self._replacement(kind, text[start:stop], person)]
                end = stop
            text = "".join([*parts, text[end:]])
            spans = self._find(text)
            if self._invent:  # in a chat of many people an invented name may be somebody's
                spans = [found for found in spans if found[1] is None]
        return text

    def _find(self, text: str) -> list[tuple[PersonalSpan, int | None]]:
        """Each span, with the person's index where it is a name."""
        if "<" in text:
            text = PLACEHOLDER.sub(lambda match: PLACEHOLDER_FILL * len(match[0]), text)
        persons = {(start, end): person for start, end, person in self._names.find(text)}
        spans = _without_overlaps(
            len(text),
            [
                *((0, *candidate) for candidate in find_contacts(text)),
                *((1, *candidate) for candidate in find_labelled(text)),
                *((2, *candidate) for candidate in find_numbers(text)),
                *((3, 0, *span, "address") for span in _merged([*find_addresses(text), *find_short_addresses(text)])),
                *((4, 0, start, end, "name") for start, end in persons),
            ],
        )
        return [(span, persons[span.start, span.end] if span.kind == "name" else None) for span in spans]

    def _replacement(self, kind: str, value: str, person: int | None) -> str:
        if person is None:
            return self._placeholder(kind, value, _identity(kind, value))
        name = self._names.persons[person]
        if self._invented is None:
            return self._placeholder(kind, name, name)
        invented = f"{self._invented.person(name)} ← {name}"
        self._originals[invented] = (kind, name)
        self._counts[invented] += 1
        return self._invented.replace(name, value, lambda word: self._form_of(word, person))

    def _form_of(self, word: str, person: int) -> NameForm | None:
        """The form of the person's name that the word is."""
        return next((form for form in self._names.forms_of(word) if form.person == person), None)

    def _placeholder(self, kind: str, value: str, identified: str) -> str:
        """The placeholder of a value that is `identified` by another spelling of it."""
        identity = (kind, identified)
        placeholder = self._placeholders.get(identity)
        if placeholder is None:
            self._values[kind] += 1
            placeholder = self._placeholders[identity] = f"<{PLACEHOLDER_WORDS[kind]}_{self._values[kind]}>"
            self._originals[placeholder] = (kind, value)
        self._counts[placeholder] += 1
        return placeholder


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans that overlap as one: two finders may have seen two ends of an address."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _without_overlaps(length: int, candidates: list[tuple[int, int, int, int, str]]) -> list[PersonalSpan]:
    """The first by rank, then whatever leaves them alone; in the order of the text."""
    taken = bytearray(length)
    spans = []
    for *_, start, end, kind in sorted(candidates):
        if not any(taken[start:end]):
            taken[start:end] = b"x" * (end - start)
            spans.append(PersonalSpan(kind, start, end))
    return sorted(spans, key=lambda span: span.start)


def replacement_table(scrubber: Scrubber, written: Iterable[str]) -> str:
    """The replacements as CSV: placeholder, kind, original, times, and the lines of `written` where the placeholder is.

    It holds what was removed: for the owner's eyes alone.
    """
    where: dict[str, list[int]] = {}
    for number, line in enumerate(written, 1):
        for placeholder in dict.fromkeys(PLACEHOLDER.findall(line)):
            where.setdefault(placeholder, []).append(number)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*Replacement._fields, "lines"))
    for replacement in scrubber.replaced:
        lines = " ".join(map(str, where.get(replacement.placeholder, ())))
        writer.writerow(map(table_cell, (*replacement, lines)))
    return text.getvalue()


def replacement_table_path(rows: Path) -> Path:
    """Where the table of replacements in a file of rows is kept: beside it."""
    return rows.with_name(f"{rows.stem}_replaced.csv")


def write_replacement_table(scrubber: Scrubber, rows: Path, *, force: bool) -> Path:
    """Write the table of what was replaced in a file of rows, readable by its owner alone; return its path."""
    path = replacement_table_path(rows)
    with rows.open(encoding="utf-8", newline="\n") as lines:
        write_whole(path, [replacement_table(scrubber, lines)], mode=0o600, replace=force)
    return path


def _identity(kind: str, value: str) -> str:
    """The value in a form that is equal for two spellings of it."""
    if kind in ("email", "nick"):
        return value.lower()
    if kind in ("link", "document"):
        return re.sub(r"^(?:https?://)?(?:www\.|m\.)?|/$", "", value.lower())
    if kind == "address":
        return re.sub(r"\W", "", value.lower())
    if kind in ("secret", "wallet", "plate", "ip"):
        return value
    digits = re.sub("[^0-9]", "", value)
    if kind == "phone" and len(digits) in (10, 11) and not (value.startswith("+") and digits[0] != "7"):
        return "7" + digits[-10:]
    return digits or value.lower()
