"""An exported folder: whole under its name, and never in the place of something else."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import GovorError
from ..runs import complete_folder


def require_replaceable(folder: Path, marks: tuple[str, ...], *, force: bool) -> None:
    """GovorError unless the folder is free, or holds an earlier export (all of `marks`) and `force` was asked for."""
    if folder.resolve() == Path.cwd():
        raise GovorError(f"{folder} is the folder you stand in: name one of its own with -o")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not all((folder / mark).is_file() for mark in marks):
        raise GovorError(f"{folder} holds other files: choose another folder with -o")
    if not force:
        raise GovorError(f"{folder} is there already: --force replaces it")


@contextmanager
def exported_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill; it takes the name when the block ends well, and what was there before goes."""
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("new", "old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    with complete_folder(fresh) as aside:
        yield aside
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
