"""Rows as a base would be trained on them, by the code of `govor inspect`, in a process of its own: it loads torch."""

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from train.core.errors import GovorError

Numbered = tuple[int, bytes]
"""A line of a file of rows: its physical number, and its bytes."""


def find_configs(folders: Sequence[Path]) -> dict[str, tuple[Path, Path]]:
    """Name → (config, its project folder): those of configs/, of the folder itself, and of its runs."""
    found: dict[str, tuple[Path, Path]] = {}
    for folder in folders:
        for pattern in ("configs/*.yaml", "*.yaml", "runs/*/config.yaml"):
            for path in sorted(folder.glob(pattern)):
                if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
                    found.setdefault(str(path.relative_to(folder)), (path, folder))
    return found


class Viewer:
    """A process that shows rows, begun when the first are asked for and kept."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def show(self, config: Path, folder: Path, rows: Path, lines: Sequence[Numbered]) -> list[dict[str, Any]]:
        """Each line as `_show_lines` has it. GovorError where the config or its base is not fit for that."""
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")  # not a copy of the server with its sockets
            self._pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_end_with_the_server)
        asked = self._pool.submit(_show_lines, config.resolve(), folder.resolve(), rows.resolve(), lines)
        return asked.result()

    def close(self) -> None:
        """End the process."""
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)


def _end_with_the_server() -> None:
    """A signal ends the server without a word to this process, which would wait for ever with torch in memory."""
    server = multiprocessing.parent_process()

    def wait() -> None:
        if server:
            server.join()
            os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _show_lines(config: Path, folder: Path, rows: Path, lines: Sequence[Numbered]) -> list[dict[str, Any]]:
    """[{"line", "error", "parts": [{"tokens", "trained", "cut", "fate", "stretches": [[kind, text], …]}, …]}, …].

    kind: trained, context or cut (beyond training.max_length).
    """
    from train.chats.checks import line_problems
    from train.chats.rows import row_from_openai
    from train.encoding.preview import stretches

    os.environ["HF_HUB_OFFLINE"] = "1"  # a base that is not here is said, not fetched
    os.chdir(folder)
    see = _viewer(config, config.stat().st_mtime_ns)
    shown: list[dict[str, Any]] = []
    for number, raw in lines:
        errors, _, value = line_problems(number, raw)
        if errors:
            continue
        try:
            parts = [
                {
                    "tokens": len(part.input_ids),
                    "trained": part.trained,
                    "cut": part.truncated,
                    "fate": part.fate,
                    "stretches": [
                        ("cut" if cut else "trained" if trained else "context", text)
                        for trained, cut, text in stretches(part)
                    ],
                }
                for part in see(row_from_openai(number, value))
            ]
            shown.append({"line": number, "error": None, "parts": parts})
        except GovorError as error:
            shown.append({"line": number, "error": str(error), "parts": []})
    return shown


@lru_cache(maxsize=2)
def _viewer(config: Path, changed: int) -> Any:
    from train.core.config import load_config
    from train.encoding.preview import viewer

    return viewer(load_config(config))
