"""The formats that people have, in one table: how each is known by its content, what reads it, what it is called.

A new format is an entry here and a file beside this one: a reader of chats (`fits`, `read_chats`, see whatsapp.py) or a
function that takes a record apart (row_formats.py). Whatever is not read is an entry too, with what to do instead.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from train.chats import chatgpt, claude, discord, instagram, vk, whatsapp
from train.chats.html_pages import is_html
from train.chats.messages import Chat, ChatMessage
from train.chats.row_formats import (
    ASKED,
    INPUTS,
    Preference,
    preference_of_hugging_face,
    preference_of_openai,
    question_and_answer,
    row_of_alpaca,
    row_of_dialogue,
    row_of_gemini,
    row_of_list,
    row_of_openai,
    row_of_pairs,
    row_of_prompt,
    row_of_question,
    row_of_sharegpt,
)
from train.chats.rows import Row
from train.chats.rules import quotes_hint
from train.chats.sources import UTF16, ZIP, Sample, Source, files_in, open_zip, sample_of
from train.chats.tables import rows_of_columns
from train.chats.telegram import export as telegram_json
from train.chats.telegram import html_export as telegram_html

ReadChats = Callable[[Sequence[Source]], Iterator[ChatMessage | Chat]]
ToRow = Callable[[int, dict[str, Any]], Row]
ToPreference = Callable[[int, dict[str, Any]], Preference]
Keys = Callable[[dict[str, Any]], frozenset[str] | None]


@dataclass(frozen=True)
class Format:
    """One format: of `read_chats`, `to_row` and `to_preference` at most one is set; with none it is not read."""

    name: str
    fits: Callable[[Sample], bool]
    read_chats: ReadChats | None = None
    """Chats from the files of one export."""
    pages: bool = False
    """Whether the files of one folder are one chat."""
    to_row: ToRow | None = None
    to_preference: ToPreference | None = None
    keys: Keys | None = None
    """The keys of a record by which it is of this format; None where it is of another."""
    reads: frozenset[str] = frozenset()
    """More keys of a record that become part of its row."""
    note: str = ""
    """Of chats, what the format cannot say; of what is not read, what to do."""

    @property
    def is_rows(self) -> bool:
        return self.to_row is not None or self.to_preference is not None


def _records(name: str, keys: Keys, reads: str = "", **reader: Any) -> Format:
    def fits(sample: Sample) -> bool:
        return bool(sample.record) and keys(sample.record) is not None

    return Format(name, fits, keys=keys, reads=frozenset(reads.split()), **reader)


def _has(*names: str, unless: Callable[[dict[str, Any]], bool] = lambda record: False) -> Keys:
    wanted = frozenset(names)
    return lambda record: wanted if wanted <= record.keys() and not unless(record) else None


def _is_labelled(record: dict[str, Any]) -> bool:
    """Whether each answer is judged by itself, as KTO wants it."""
    return isinstance(record.get("label"), bool)


def _is_preferred(record: dict[str, Any]) -> bool:
    return {"chosen", "rejected"} <= record.keys()


def _has_turns(key: str, unless: Callable[[dict[str, Any]], bool] = lambda record: False) -> Keys:
    """Under the key stand turns; a column of a table that is called so holds text."""
    return _has(key, unless=lambda record: isinstance(record[key], str) or unless(record))


def _texts(key: str) -> Keys:
    def keys(record: dict[str, Any]) -> frozenset[str] | None:
        value = record.get(key)
        is_texts = isinstance(value, list) and len(value) > 1 and all(isinstance(text, str) for text in value)
        return frozenset((key,)) if is_texts else None

    return keys


def _question_and_answer(record: dict[str, Any]) -> frozenset[str] | None:
    known = any(form.keys(record) for form in FORMATS if form.keys and form.name != QUESTION_ANSWER)
    found = None if known or _is_labelled(record) else question_and_answer(record)
    return frozenset(found) if found else None


def _is_columns(record: dict[str, Any]) -> bool:
    """Whether each key holds a whole column: a list, or as pandas writes it an object with the rows' numbers."""
    columns = list(record.values())
    if len(columns) > 1 and all(isinstance(column, dict) and "0" in column for column in columns):
        return True
    lists = all(isinstance(column, list) and column and isinstance(column[0], str) for column in columns)
    return lists and question_and_answer(record) is not None


def _begins(*magic: bytes) -> Callable[[Sample], bool]:
    return lambda sample: sample.head.startswith(magic)


def _matches(start: str, *patterns: str) -> Callable[[Sample], bool]:
    return lambda sample: sample.start.startswith(start) and all(re.search(p, sample.text) for p in patterns)


QUESTION_ANSWER = "question-answer"
OWN_DATA = r'ID,Timestamp,Contents\b|\[[^\]]*"Timestamp"\s*:[^\]]*"Contents"\s*:'
SLACKS_LISTS = ({"id", "name", "team_id"}, {"id", "name", "creator", "members"}, {"id", "created", "members"})
"""Keys of Slack's users.json, of channels.json and groups.json, and of dms.json."""
NAMED_IN_FOLDERS = ("a Slack export", "Discord's own data package")
"""Exports of many files that are not read."""
NOT_READ = "it is not read: write question and answer into a table with two columns"
TWO_ANSWERS = "govor train learns from rows with one answer; for these give its config a section dpo"
FORMATS: tuple[Format, ...] = (
    # Chats: govor collect
    Format("Telegram's JSON", telegram_json.fits, telegram_json.read_chats),
    Format("Telegram's HTML", telegram_html.fits, telegram_html.read_chats, pages=True, note=telegram_html.LACKS),
    Format("VK's archive", vk.fits, vk.read_chats, pages=True, note=vk.LACKS),
    Format("WhatsApp's text", whatsapp.fits, whatsapp.read_chats, note=whatsapp.LACKS),
    Format("Discord's JSON", discord.fits, discord.read_chats),
    Format("Instagram's JSON", instagram.fits, instagram.read_chats, pages=True, note=instagram.LACKS),
    Format(
        "Messenger's encrypted chats", instagram.fits_encrypted, instagram.read_chats, note=instagram.LACKS,
    ),
    Format("ChatGPT's conversations", chatgpt.fits, chatgpt.read_chats, note=chatgpt.LACKS),
    Format("Claude's conversations", claude.fits, claude.read_chats, note=claude.LACKS),
    # Chats that look like rows
    Format("Skype's export", lambda s: {"userId", "exportDate"} <= s.record.keys(), note=NOT_READ),
    Format(
        "Google Chat's export",
        lambda s: "messages" in s.record and '"creator"' in s.text and '"created_date"' in s.text, note=NOT_READ,
    ),
    Format(
        "a channel of Discord as a table", _begins(b"AuthorID,Author,Date,"),
        note="export it as JSON with DiscordChatExporter",
    ),
    # Rows: govor validate, convert, train
    Format(
        "a table column by column", lambda s: _is_columns(s.record),
        note="write it row by row; of pandas: df.to_json(path, orient='records', lines=True, force_ascii=False)",
    ),
    _records(
        "openai", _has("messages", unless=_is_preferred), "tools functions parallel_tool_calls",
        to_row=row_of_openai,
    ),
    _records("sharegpt", _has_turns("conversations", unless=_is_preferred), "system tools", to_row=row_of_sharegpt),
    _records(
        "alpaca", _has("instruction", "output", unless=_is_preferred), "input context system history",
        to_row=row_of_alpaca,
    ),
    _records(
        "prompt-completion", _has("prompt", "completion", unless=_is_labelled), "input context system history tools",
        to_row=row_of_prompt,
    ),
    _records(
        "query-response", _has("query", "response"), "input context system history",
        to_row=partial(row_of_alpaca, question="query", answer="response"),
    ),
    _records(QUESTION_ANSWER, _question_and_answer, "input context контекст system history", to_row=row_of_question),
    _records("gemini", _has_turns("contents"), "systemInstruction system_instruction tools", to_row=row_of_gemini),
    _records(
        "govor collect's dialogues", _has("participants", "turns"), "channel chat_type date", to_row=row_of_dialogue
    ),
    _records("conversation", _has_turns("conversation"), "system", to_row=row_of_pairs),
    _records("dialog", _texts("dialog"), to_row=row_of_list),
    _records("dialogue", _texts("dialogue"), to_row=row_of_list),
    _records("data", _texts("data"), to_row=row_of_list),
    # Rows of two answers
    _records(
        "OpenAI's preference rows", _has("input", "preferred_output", "non_preferred_output"),
        to_preference=preference_of_openai, note=TWO_ANSWERS,
    ),
    _records(
        "OpenAI's preference rows by its schema", _has("input", "preferred_completion", "non_preferred_completion"),
        to_preference=preference_of_openai, note=TWO_ANSWERS,
    ),
    _records(
        "Hugging Face's preference rows", _has("chosen", "rejected"), " ".join(("system tools", *ASKED, *INPUTS)),
        to_preference=preference_of_hugging_face, note=TWO_ANSWERS,
    ),
    # What is named, not read
    Format(
        "rows with a judgement each (KTO)",
        lambda s: {"prompt", "completion"} <= s.record.keys() and _is_labelled(s.record),
        note="keep those whose `label` is true, without `label`, and train on them",
    ),
    Format(
        "OpenAssistant's tree of messages", lambda s: {"message_id", "parent_id", "role"} <= s.record.keys(),
        note="follow parent_id from each answer to its root and write every such way as one row with `messages`",
    ),
    Format(
        "a Slack export", _matches("[", r'"ts"\s*:\s*"\d+\.\d+"', r'"type"\s*:\s*"message"'),
        note=NOT_READ,
    ),
    Format(
        "a Slack export", lambda s: s.start.startswith("[") and any(keys <= s.record.keys() for keys in SLACKS_LISTS),
        note=NOT_READ,
    ),
    Format(
        "Discord's own data package",
        lambda s: re.match(OWN_DATA, s.text.lstrip()) is not None,
        note="it holds your own messages alone: export the channel as JSON with DiscordChatExporter",
    ),
    Format(
        "texts as a template renders them", lambda s: isinstance(s.record.get("text"), str) and "role" not in s.record,
        note="state it: govor convert FILE --to openai -o rows.jsonl "
        "--template '<s>[INST] {question} [/INST] {answer}</s>'",
    ),
    Format("an old Excel file", _begins(b"\xd0\xcf\x11\xe0"), note="save it as .xlsx or CSV, without a password"),
    Format("Parquet", _begins(b"PAR1"), note="save it as JSONL: datasets.Dataset.from_parquet(…).to_json(…)"),
    Format("xz", _begins(b"\xfd7zXZ\x00"), note="unpack it: unxz FILE"),
    Format("bzip2", _begins(b"BZh"), note="unpack it: bunzip2 FILE"),
    Format("a 7-Zip archive", _begins(b"7z\xbc\xaf\x27\x1c"), note="unpack it and give the file in it"),
    Format("a RAR archive", _begins(b"Rar!\x1a\x07"), note="unpack it and give the file in it"),
    Format("a tar archive", lambda s: s.head[257:262] == b"ustar", note="unpack it and give the file in it"),
    Format(
        "an image", lambda s: s.head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\x00", b"MM\x00*"))
        or (s.head[:2] == b"BM" and s.head[6:10] == bytes(4))
        or (s.head[:4] == b"RIFF" and s.head[8:12] == b"WEBP") or s.head[4:12] in (b"ftypheic", b"ftypavif"),
        note="export the chat as text instead of taking a picture of it",
    ),
    Format(
        "sound or video", lambda s: s.head.startswith((b"OggS", b"ID3", b"\x1aE\xdf\xa3")) or s.head[4:8] == b"ftyp",
        note="write down what is said in it",
    ),
    Format("a document in RTF", _begins(b"{\\rtf"), note="save it as text, or as a table with two columns"),
    Format("a PDF", _begins(b"%PDF"), note="take the text from the program that wrote it"),
    Format("a SQLite database", _begins(b"SQLite format 3\x00"), note="export question and answer from it as CSV"),
    Format("UTF-16 text", _begins(*UTF16), note="save it as UTF-8"),
    Format("an HTML page", is_html, note="of pages, exports by Telegram and VK are read; of rows, none"),
    Format("XML", _matches("<?xml"), note="write question and answer into a table with two columns"),
    Format(
        "JSON with quotes of the wrong kind", lambda s: bool(quotes_hint(s.start)),
        note='keys and texts stand in ", not in \' or in typographic quotes: json.dumps writes them',
    ),
)  # fmt: skip


def format_of(sample: Sample) -> list[Format]:
    """The formats that the file could be: one as a rule, several rows' where a record has the keys of each."""
    fitting = [form for form in FORMATS if form.fits(sample)]
    rows = [form for form in fitting if form.is_rows]
    return rows if rows and fitting[0].is_rows else fitting[:1]


def chat_format(sample: Sample) -> Format | None:
    """The format of chats that the file has."""
    return next((form for form in FORMATS if form.read_chats and form.fits(sample)), None)


def describe(path: Path, sample: Sample | None = None, *, wanted: str) -> str | None:
    """A sentence on a file that is not of the wanted kind, `rows` or `chats`; None where nothing is known of it."""
    if path.is_dir():
        if wanted == "chats":
            if form := _known_in(files_in(path)):
                return f"{path}: in it {form.name}: {form.note}"
            return f"{path}: a folder without chats: none of its files is an export of {_names_of_chats()}"
        form = _known_in(files_in(path))
        if form and not form.read_chats:
            return f"{path}: a folder, in it {form.name}: {form.note}"
        return f"{path}: a folder, expected a file of rows; exports of chats: govor collect {path} --persona NAME"
    sample = sample or sample_of(path)
    if sample.head.startswith(ZIP):
        return _describe_zip(path, wanted)
    if not sample.head.strip():
        return f"{path}: empty"
    for form in format_of(sample):
        if form.read_chats and wanted == "rows":
            return f"{path}: {form.name}, chats and no rows yet: govor collect {path} --persona NAME"
        if form.is_rows and wanted == "chats":
            todo = "train on them, or govor validate" if form.to_row else "see govor validate"
            return f"{path}: rows in {form.name} format, no chats: {todo} {path}"
        if not form.is_rows and not form.read_chats:
            return f"{path}: {form.name}: {form.note.replace('FILE', str(path))}"
    if wanted == "chats" and rows_of_columns(sample):
        return f"{path}: a table of questions and answers, no chats: train on it, or govor validate {path}"
    return None


def _describe_zip(path: Path, wanted: str) -> str:
    files = list(files_in(open_zip(path)))
    if any(file.name == "workbook.xml" for file in files):
        return f"{path}: a table of Excel: govor convert {path} --to openai -o rows.jsonl makes rows of it"
    if any(file.name == "document.xml" for file in files):
        return f"{path}: a document of Word: save it as text, or as a table with two columns"
    if any(file.name == "[Content_Types].xml" for file in files):
        return f"{path}: a document of Office: save it as text, or as a table with two columns"
    if any(file.name == "mimetype" and b"opendocument" in sample_of(file).head for file in files):
        return f"{path}: a document of LibreOffice: save it as .xlsx or CSV"
    form = _known_in(files)
    if form and form.read_chats and wanted == "rows":
        return f"{path}: a zip of {form.name}: govor collect {path} --persona NAME"
    if form and not form.read_chats:
        return f"{path}: a zip archive, in it {form.name}: {form.note}"
    names = ", ".join(file.name for file in files[:3]) + (", …" if len(files) > 3 else "")
    return f"{path}: a zip archive of something else ({names or 'empty'}): unpack it and give the file in it"


def _known_in(files: Iterable[Source]) -> Format | None:
    """The format of chats among the files; else what is known of one of them and not read."""
    texts = (file for file in files if file.name.lower().endswith((".txt", ".json", ".html", ".csv")))
    found = [form for file in islice(texts, 300) for form in format_of(sample_of(file))[:1]]
    unread = (form for form in found if form.name in NAMED_IN_FOLDERS)
    return next((form for form in found if form.read_chats), None) or next(unread, None)


def _names_of_chats() -> str:
    return ", ".join(form.name.partition("'s")[0] for form in FORMATS if form.read_chats and "HTML" not in form.name)
