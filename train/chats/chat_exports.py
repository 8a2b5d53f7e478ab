"""The exports of chats in files, folders and zip archives, whatever program wrote them."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from train.chats.formats import FORMATS, Format, chat_format, describe, format_of
from train.chats.messages import Chat, ChatMessage, natural_order
from train.chats.sources import ZIP, Sample, Source, files_in, open_zip, sample_of, unpacking_errors
from train.chats.telegram.export import HOW_TO
from train.core.errors import GovorError

ENDINGS = (".json", ".html", ".htm", ".txt", ".zip")
"""Of the files in a folder that are looked at; a file that is named itself may have any."""


KNOWN = (
    f"Telegram's result.json ({HOW_TO}) or messages.html, WhatsApp's text, VK, Discord, Instagram, Messenger, ChatGPT, "
    "Claude"
)


class Export(NamedTuple):
    """One export: a file, or the pages of one chat."""

    path: Path
    """What was given, or the file in the folder that was."""
    format: Format
    files: list[Source]


def find_exports(paths: Iterable[Path]) -> list[Export]:
    """The exports that the paths are or hold, each once; GovorError where a path is none and holds none."""
    found: dict[str, Export] = {}
    for path in paths:
        if not path.exists():
            if url := re.match(r"(\w{2,}):/", str(path)):  # a path has one of a URL's two strokes
                raise GovorError(f"{url[1]}://{str(path)[url.end() :]}: a URL: download the file and give its path")
            raise GovorError(f"{path}: no such file")
        own = list(_exports_in(path))
        if not own:
            raise GovorError(describe(path, wanted="chats") or f"{path}: no export of chats that is known: {KNOWN}")
        for export in own:
            found.setdefault(_identity(export.files[0]), export)
    return _without_doubles(list(found.values()))


def read_export(export: Export) -> Iterator[ChatMessage | Chat]:
    """Each chat's messages, and after them the chat itself; GovorError where the export is not whole."""
    assert export.format.read_chats is not None
    try:
        yield from export.format.read_chats(export.files)
    except unpacking_errors() as error:
        raise GovorError(f"{export.path}: cannot be unpacked: {error}: download or copy it again") from None


def what_is_lacking(exports: Iterable[Export]) -> list[str]:
    """A line for each format among them that cannot say all that pairing would want to know."""
    return sorted({f"{export.format.name}: {export.format.note}" for export in exports if export.format.note})


def _exports_in(path: Path) -> Iterator[Export]:
    """The exports in a folder, a zip archive or a file; the pages of one folder together."""
    is_folder = path.is_dir()
    sample = None if is_folder else sample_of(path)
    if sample is None or sample.head.startswith(ZIP):
        yield from _in_folder(path, files_in(path if is_folder else open_zip(path)))
    elif form := chat_format(sample) or (_telegrams_json() if _is_unknown_object(sample) else None):
        beside = (file for file in sorted(path.parent.iterdir()) if form.pages and file != path and file.is_file())
        pages = [
            path,
            *(file for file in beside if file.suffix == path.suffix and chat_format(sample_of(file)) == form),
        ]
        yield Export(path, form, sorted(pages, key=lambda page: natural_order(page.name)))


def _in_folder(path: Path, files: Iterable[Source]) -> Iterator[Export]:
    """The exports among the files of a folder or of an archive at `path`."""
    found: dict[tuple[str, str], Export] = {}
    for file in files:
        if not file.name.lower().endswith(ENDINGS):
            continue
        sample = sample_of(file)
        if sample.head.startswith(ZIP) and isinstance(file, Path):
            yield from _exports_in(file)
        form = chat_format(sample)
        if form is None and file.name.startswith("result") and sample.start.startswith("{"):
            form = _telegrams_json()
        if form is not None:
            key = form.name, str(file.parent if form.pages else file)
            export = Export(file if isinstance(file, Path) else path, form, [])
            found.setdefault(key, export).files.append(file)
    yield from found.values()


def _telegrams_json() -> Format:
    """Of an object that may be one, its reader says what is wrong."""
    return next(form for form in FORMATS if form.read_chats)


def _is_unknown_object(sample: Sample) -> bool:
    return sample.start.startswith("{") and not format_of(sample)


def _identity(source: Source) -> str:
    return str(source.resolve()) if isinstance(source, Path) else str(source)


def _without_doubles(exports: list[Export]) -> list[Export]:
    """Telegram writes both kinds of export into one folder, if so told: its JSON says more."""
    folders = {_parent(export) for export in exports if export.format == _telegrams_json()}
    return [
        export
        for export in exports
        if export.format.name != "Telegram's HTML"
        or not {_parent(export), re.sub(r"/chats/chat_\d+$", "", _parent(export))} & folders
    ]


def _parent(export: Export) -> str:
    return str(export.files[0].parent).rstrip("/")
