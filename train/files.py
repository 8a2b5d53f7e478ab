"""Files that are whole or absent, and never overwritten unasked."""

import os
from collections.abc import Iterable
from pathlib import Path

from .errors import GovorError


def require_new(path: Path, force: bool = False) -> None:
    """GovorError where the file is there already and was not asked to be replaced."""
    if path.exists() and not force:
        raise GovorError(f"{path} is there already: --force replaces it")
    if not path.absolute().parent.is_dir():
        raise GovorError(f"{path}: its folder is not there")


def write_whole(path: Path, parts: Iterable[str], *, encoding: str = "utf-8", mode: int = 0o666) -> None:
    """All the parts under this name, on disk, or what was there before. `mode` holds for a new file, less the umask."""
    aside = path.with_name(f".{path.name}.partial")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding=encoding, newline="") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """The whole text under this name, or what was there before."""
    write_whole(path, [text])
