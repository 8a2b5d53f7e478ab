"""Files and folders that are whole or absent, and never in the place of something that was not to be replaced.

govor deletes only what it can prove to have made. A folder that it fills aside holds MARKER with the folder's own name,
locked while the process that fills it lives; a folder that it has finished holds NOTE, a list of what it put there.
"""

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from train.core.errors import GovorError, MachineError

MARKER = ".made-by-govor"
"""Stands in every folder that is being filled."""
NOTE = ".govor-files"
"""Stands in every folder that is finished: path, relative to it → size and time of the file, as JSON."""
ASIDE = r"\.[0-9a-f]{8}\.partial"
"""The end of an aside name, see `aside_name`."""
LAST = "trainer_state.json"
"""The file of a checkpoint that is removed last, so that one whose removal was cut off is still found and removed."""


class StandardInput(type(Path())):  # type: ignore[misc]
    """A file with what came on standard input; people see it as `-`."""

    def __str__(self) -> str:
        return "-"

    def __fspath__(self) -> str:
        return str(super().__str__())


def standard_input() -> Path:
    """What comes on standard input, in a file that goes when the process ends: readers look at a file twice."""
    import atexit
    import tempfile

    with tempfile.NamedTemporaryFile(prefix="govor-", delete=False) as file:
        atexit.register(Path(file.name).unlink, missing_ok=True)
        shutil.copyfileobj(sys.stdin.buffer, file)
    return StandardInput(file.name)


def require_new(path: Path, force: bool = False) -> None:
    """GovorError where the file is there already and was not asked to be replaced, or is no file."""
    if path.exists() and not path.is_file():
        raise GovorError(f"{path} is not a file: name another one")
    if path.exists() and not force:
        raise GovorError(f"{path} is there already: --force replaces it")
    if not path.absolute().parent.is_dir():
        raise GovorError(f"{path}: its folder is not there")


def require_replaceable(folder: Path, marks: tuple[str, ...], *, force: bool) -> None:
    """GovorError unless the folder is free, or holds an earlier result (all of `marks`) and `force` was asked for."""
    if folder.resolve() == Path.cwd():
        raise GovorError(f"{folder} is the folder you stand in: name one of its own with -o")
    require_no_link(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not all((folder / mark).is_file() for mark in marks):
        raise GovorError(f"{folder} holds other files: choose another folder with -o")
    if not force:
        raise GovorError(f"{folder} is there already: --force replaces it")


def require_no_link(folder: Path) -> None:
    """GovorError where a folder that is to be replaced is a link: what it leads to belongs to somebody."""
    if folder.is_symlink():
        raise GovorError(f"{folder} is a link to {folder.resolve()}: name that folder, or move the link away")


def write_whole(
    path: Path, parts: Iterable[str], *, encoding: str = "utf-8", mode: int = 0o666, replace: bool = True
) -> None:
    """All the parts under this name, on disk, or what was there before.

    `mode` holds for a new file, less the umask. Without `replace` a file that has come there meanwhile is a GovorError.
    """
    with aside_file(path, mode=mode, replace=replace) as file:
        file.writelines(part.encode(encoding) for part in parts)


@contextmanager
def aside_file(path: Path, *, mode: int = 0o666, replace: bool = True) -> Iterator[IO[bytes]]:
    """A file to fill beside `path`; it takes that name, on disk, when the block ends well, and goes otherwise."""
    aside = aside_name(path)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(aside, path, replace=replace)
    finally:
        aside.unlink(missing_ok=True)


def append_json(file: IO[str], entry: Mapping[str, Any]) -> None:
    """Add a line of JSON to an open file, on disk when this returns."""
    file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    file.flush()
    os.fsync(file.fileno())


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, on disk and whole, or not at all; half a line that a kill has left is ended first."""
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        half = file.read(1) not in (b"", b"\n")
        try:
            file.write(b"\n" * half + line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)  # half a line would spoil the others
            raise


def write_atomically(path: Path, text: str) -> None:
    """The whole text under this name, or what was there before."""
    write_whole(path, [text])


def publish(aside: Path, path: Path, *, replace: bool) -> None:
    """Give a finished file its name; without `replace` a GovorError where another file has the name by now."""
    if replace:
        aside.replace(path)
        return
    try:
        os.link(aside, path)  # fails where the name is taken, in one step
    except FileExistsError:
        raise _came_meanwhile(path) from None
    except OSError:  # a file system without links
        require_new(path)
        aside.replace(path)
    else:
        aside.unlink()


def aside_name(path: Path) -> Path:
    """A hidden name beside `path` that nothing else has."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def is_aside_name(name: str, path: Path) -> bool:
    return re.fullmatch(re.escape(f".{path.name}") + ASIDE, name) is not None


@contextmanager
def aside_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, removed after the block unless it was renamed.

    Such folders that processes which are gone by now have left there are removed first. To rename the folder, take its
    MARKER out before.
    """
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    folder = aside_name(path)
    folder.mkdir()
    with (folder / MARKER).open("x+", encoding="utf-8") as marker:
        if try_lock(marker):  # a marker that nobody could lock says nothing, so nobody will remove the folder
            marker.write(folder.name)
            marker.flush()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Remove the folders that were to become `path` and whose process is gone."""
    for folder in path.absolute().parent.iterdir():
        if is_aside_name(folder.name, path) and (folder / MARKER).is_file() and not folder.is_symlink():
            with suppress(OSError), (folder / MARKER).open("r+", encoding="utf-8") as marker:
                if try_lock(marker) and marker.read() == folder.name:
                    shutil.rmtree(folder, ignore_errors=True)


def publish_folder(fresh: Path, folder: Path, *, replace: bool) -> None:
    """Give a finished folder its name. Of the one that has it, what govor wrote goes, and all else moves over.

    What moves is said on stderr. Without `replace` a folder that has the name by now is a GovorError, unless it is
    empty. A kill in between leaves the old folder beside, under a hidden name; `name_replaced` tells of it next time.
    """
    require_no_link(folder)
    if folder.exists() and not folder.is_dir():
        raise GovorError(f"{folder} is a file: move it away")
    if not replace or not folder.exists():
        try:
            fresh.rename(folder)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise _came_meanwhile(folder) from None
            raise
        return
    old = aside_name(folder).with_suffix(".old")
    folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    remove_noted(old)
    kept = sorted(_move_over(old, folder)) if old.exists() else []
    if kept:
        print(f"{folder}: not written by this command and left as they were: {listed(kept)}", file=sys.stderr)


def name_replaced(path: Path) -> None:
    """Say where something lies that a replacement of `path` was moving when it was killed."""
    for folder in sorted(path.absolute().parent.glob(f".{glob.escape(path.name)}.*.old")):
        if is_aside_name(folder.with_suffix(".partial").name, path):
            text = "holds what was there when an earlier replacement was cut off: take what you need and remove it"
            print(f"{path}: {path.parent / folder.name} {text}", file=sys.stderr)


def note_files(folder: Path) -> None:
    """Write NOTE: what lies in the folder now is govor's."""
    noted = {
        path.relative_to(folder).as_posix(): _identity(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MARKER, NOTE)
    }
    (folder / NOTE).write_text(json.dumps(noted, indent=0) + "\n", encoding="utf-8")


def read_note(folder: Path) -> dict[str, list[int]] | None:
    """What NOTE says: path → identity when it was written; None where there is none or it is damaged."""
    try:
        noted = json.loads((folder / NOTE).read_bytes())
    except (OSError, ValueError):
        return None
    return noted if isinstance(noted, dict) else None


def noted_files(folder: Path) -> list[Path] | None:
    """The files of NOTE that are there as they were written, none of them behind a link; None without NOTE."""
    noted = read_note(folder)
    if noted is None:
        return None
    identities = {folder / name: identity for name, identity in noted.items()}
    paths = [path for path in identities if path.is_relative_to(folder) and path.is_file()]
    paths = [path for path in paths if path.resolve() == folder.resolve() / path.relative_to(folder)]
    return [path for path in paths if _identity(path) == identities[path]]


def _identity(path: Path) -> list[int]:
    """Bytes and nanoseconds of the last change: who replaces a file by one of his own changes them."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def remove_noted(folder: Path, otherwise: re.Pattern[str] | None = None) -> None:
    """Remove the files that NOTE lists, and folders that are empty then; without NOTE, files with such a name."""
    if folder.is_symlink() or not folder.is_dir():
        return
    noted = noted_files(folder)
    if noted is None:
        noted = [path for path in folder.iterdir() if otherwise and otherwise.fullmatch(path.name) and path.is_file()]
    for path in sorted(noted, key=lambda path: path.name == LAST):
        path.unlink()
    if (folder / NOTE).is_file():
        (folder / NOTE).unlink()
    for parent in sorted({parent for path in noted for parent in path.parents}, key=lambda path: -len(path.parts)):
        if parent.is_relative_to(folder):
            remove_if_empty(parent)
    remove_if_empty(folder)


def remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _came_meanwhile(path: Path) -> GovorError:
    return GovorError(f"{path} has come into being meanwhile: --force replaces it")


def _move_over(old: Path, new: Path, prefix: str = "") -> Iterator[str]:
    """Names below `prefix` that were not in the new folder, or that could not move into it."""
    for entry in old.iterdir():
        target = new / entry.name
        if not os.path.lexists(target):
            entry.rename(target)
            yield prefix + entry.name
        elif entry.is_symlink() or not (entry.is_dir() or target.is_dir()):
            entry.unlink()
        elif entry.is_dir() and target.is_dir():
            yield from _move_over(entry, target, f"{prefix}{entry.name}/")
        else:
            yield str(entry)
    remove_if_empty(old)  # not where something could not move


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def listed(names: Iterable[str], most: int = 10) -> str:
    """Names on one line, at most so many, with nothing in them that could steer a terminal."""
    every = [name if name.isprintable() else ascii(name) for name in names]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def try_lock(file: IO[str]) -> bool:
    """Lock an open file until it is closed or this process ends; False where that cannot be done, as on Windows."""
    return lock_file(file) is True


def lock_file(file: IO[str]) -> bool | None:
    """As `try_lock`, but None where files cannot be locked at all; False where another one holds the lock."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


@contextmanager
def complete_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill beside `path`; it takes that name, with everything on disk, when the block ends well.

    With `replace` a folder of that name may be there, see `publish_folder`.
    """
    require_no_link(path)
    name_replaced(path)
    with aside_folder(path) as aside:
        yield aside
        settle_folder(aside, path, replace=replace)


def settle_folder(aside: Path, path: Path, *, replace: bool = False) -> None:
    """Note and flush every file below `aside`, then give the folder its final name.

    The files are for whom the umask says; safetensors writes them for their owner alone.
    """
    note_files(aside)
    mode = stat.S_IMODE((aside / NOTE).stat().st_mode)
    for file in sorted(aside.rglob("*")):
        if file.is_file():
            if os.name == "posix" and not file.is_symlink():
                file.chmod(mode)
            with file.open("r+b") as handle:  # Windows flushes only what is open for writing
                os.fsync(handle.fileno())
    (aside / MARKER).unlink(missing_ok=True)
    sync_folder(aside)
    publish_folder(aside, path, replace=replace)
    sync_folder(path.parent)


def table_cell(text: object) -> object:
    """A value for a CSV table; a text that a spreadsheet would run as a formula gets an apostrophe before it.

    Such a text begins with =, +, -, @, a tab or a carriage return (OWASP, CSV Injection).
    """
    return f"'{text}" if isinstance(text, str) and text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def require_disk_space(folder: Path, needed: int, what: str) -> None:
    """MachineError unless the disk under `folder` has `needed` bytes left."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise MachineError(
            f"{folder}: {what} needs {format_bytes(needed)} on disk, {format_bytes(free)} is free: make room first"
        )


def format_bytes(number: float) -> str:
    """Bytes as people read them: 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
