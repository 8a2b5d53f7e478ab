"""Where generated rows come from: a file beside them, NAME.provenance.jsonl, in which each is known by its hash.

The hash is that of what is said, so a row keeps it in a joined file, in another format and under another system
message. Of a file of rows every provenance file in its folder counts.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.chats.rows import Row, text_of
from train.core.errors import DataError
from train.core.files import listed, require_new, write_whole

SUFFIX = ".provenance.jsonl"
Entries = dict[str, dict[str, Any]]
"""Hash of a row → what is known of it: {"row": hash, "source": "generated", "model": …, "reviewed": … or null, …}."""


def row_hash(row: Row) -> str:
    """32 hexadecimal digits for the turns of a row, the system message apart."""
    turns = [[m["role"], text_of(m).strip()] for m in row.messages if m["role"] not in ("system", "developer")]
    return hashlib.sha256(json.dumps(turns, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def provenance_file(rows: Path) -> Path:
    """Where the provenance of a new file of rows is written."""
    return rows.with_name(rows.name.split(".")[0] + SUFFIX)


def read_provenance(folder: Path) -> Entries:
    """What the folder's provenance files know; where two know a row, the one by which it was reviewed."""
    known: Entries = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                key, reviewed = entry["row"], entry["reviewed"]
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{path}:{number}: no line of a provenance file: move it away") from None
            if reviewed or key not in known:
                known[key] = entry
    return known


def write_provenance(rows: Path, entries: Iterable[Mapping[str, Any]], *, force: bool) -> Path:
    """Write the provenance file of a file of rows; return its path."""
    path = provenance_file(rows)
    require_new(path, force)
    write_whole(path, (json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), replace=force)
    return path


def carry_provenance(file: Path, output: Path, rows: Iterable[Row], *, force: bool) -> None:
    """Give the copy of a file in another folder a provenance file, where it holds generated rows."""
    if file.absolute().parent == output.absolute().parent or not (known := read_provenance(file.absolute().parent)):
        return
    hashes = dict.fromkeys(row_hash(row) for row in rows)
    if entries := [known[key] for key in hashes if key in known]:
        write_provenance(output, entries, force=force)


def require_reviewed(rows: Sequence[Row], file: Path) -> None:
    """DataError where the file holds generated rows that nobody has reviewed."""
    known = read_provenance(file.absolute().parent)
    lines = [row.line for row in rows if known and not known.get(row_hash(row), {"reviewed": True})["reviewed"]]
    if lines:
        raise DataError(
            f"{file}: {len(lines)} generated rows that nobody has reviewed (lines {listed(map(str, lines), 5)}): "
            f"govor review {file} -o reviewed.jsonl, or data.unreviewed=true to train on them as they are"
        )
