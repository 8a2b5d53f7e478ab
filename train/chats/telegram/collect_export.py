"""Collecting training rows: from a Telegram export to files of one person's rows and dialogues."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path

from train.chats.privacy.scrub import Scrubber, replacement_table_path, write_replacement_table
from train.chats.rows import row_to_json
from train.chats.telegram.dialogues import Collected, CollectReport, Dialogue, collect_dialogues
from train.chats.telegram.participants import find_persona, survey_export
from train.core.errors import DataError, GovorError
from train.core.files import require_new, write_whole


def collect_export(
    export: Path,
    persona: str,
    folder: Path,
    *,
    name: str | None,
    gap_hours: float,
    system: str | None,
    scrub: bool,
    force: bool,
) -> None:
    """Write the persona's rows and dialogues to files in `folder`, and print what became of every message.

    `persona` is a name or an id, `name` the beginning of the files' names, by default the persona's first name.
    """
    survey = survey_export(export)
    participant = find_persona(survey, persona)
    others = [name for who in survey.participants if who.id != participant.id for name in who.names]
    scrubber = Scrubber(names=others, keep=participant.names)
    collected = collect_dialogues(
        export,
        participant,
        survey=survey,
        gap_hours=gap_hours,
        scrub=scrubber.scrub if scrub else None,
        system=system,
    )
    if not collected.rows:
        raise DataError(f"{export}: {persona} answers nobody in what is left; {_report_text(collected.report)}")
    name = name or _file_name(participant.names, participant.id)
    files = write_collected(collected, folder, name, force=force, scrubbed=scrub)
    if scrub:
        files.append(write_replacement_table(scrubber, files[0], force=force))
    print(_report_text(collected.report))
    for path in files:
        print(f"wrote {path}")


def write_collected(
    collected: Collected, folder: Path, name: str, *, force: bool, scrubbed: bool = False
) -> list[Path]:
    """Write the rows as JSONL, the dialogues as JSON and as a table for Excel; GovorError if one is there already.

    With `scrubbed` the caller will also write the table of what was replaced, which may not be there either.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise GovorError(f"{name!r}: a file's name may hold letters, digits, `_`, `-` and `.`")
    today = date.today().isoformat()
    files = {
        folder / f"{name}_finetuning_{today}.jsonl": (f"{row_to_json(row)}\n" for row in collected.rows),
        folder / f"{name}_dialogs_dataset_{today}.json": _as_json(collected.dialogues),
        folder / f"{name}_dialogs_{today}.csv": _as_csv(collected.dialogues),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for path in [*files, replacement_table_path(next(iter(files)))] if scrubbed else files:
        require_new(path, force)
    for path, chunks in files.items():
        write_whole(path, chunks, replace=force)
    return list(files)


def _as_json(dialogues: Iterable[Dialogue]) -> Iterator[str]:
    """A JSON list, one dialogue a line."""
    before = "[\n"
    for dialogue in dialogues:
        entry = {
            "channel": dialogue.channel,
            "chat_type": dialogue.chat_type,
            "date": dialogue.date,
            "participants": [speaker._asdict() for speaker in dialogue.participants],
            "turns": [turn._asdict() for turn in dialogue.turns],
        }
        yield before + json.dumps(entry, ensure_ascii=False)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _as_csv(dialogues: Iterable[Dialogue]) -> Iterator[str]:
    """One line a message, behind a byte order mark, by which Excel knows UTF-8."""
    line = io.StringIO()
    table = csv.writer(line)
    line.write("\ufeff")
    table.writerow(("dialogue", "channel", "date", "speaker", "role", "text"))
    for number, dialogue in enumerate(dialogues, 1):
        for turn in dialogue.turns:
            table.writerow((number, dialogue.channel, turn.time, turn.speaker, turn.role, turn.text))
        yield line.getvalue()
        line.seek(0)
        line.truncate()
    yield line.getvalue()


def _report_text(report: CollectReport) -> str:
    """What became of every message, in a few lines."""
    lines = [
        f"{report.channels} channels, {report.messages_read} messages read",
        f"{report.messages_kept} kept ({report.share_kept:.0%}) in {report.dialogues} dialogues, {report.rows} rows",
        f"{report.dropped.total()} left out" + ": " * bool(report.dropped),
    ]
    return "\n".join(lines) + ", ".join(f"{reason} {n}" for reason, n in report.dropped.most_common())


def _file_name(names: Sequence[str], id_: str) -> str:
    """A name for files from a display name: its first word, without what file systems dislike."""
    word = re.sub(r"[^\w-]", "", names[0].split()[0]) if names and names[0].split() else ""
    return word or id_
