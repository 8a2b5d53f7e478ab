"""Collecting training rows: from exports of chats to files of one person's rows and dialogues."""

import csv
import io
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from train.chats.chat_exports import what_is_lacking
from train.chats.duplicates import fold_text
from train.chats.privacy.scrub import Scrubber, replacement_table_path, write_replacement_table
from train.chats.rows import row_to_json
from train.chats.telegram.dialogues import Collected, CollectReport, Dialogue, Selection, Turn, collect_dialogues
from train.chats.telegram.participants import Survey, find_persona, survey_exports
from train.core.errors import DataError, GovorError
from train.core.files import require_new, table_cell, write_whole
from train.core.progress import progress

MOST_CHANNELS = 30  # of the table


def collect_exports(
    exports: Sequence[Path],
    persona: Sequence[str],
    folder: Path,
    selection: Selection,
    *,
    slug: str | None,
    system: str | None,
    scrub: bool,
    placeholders: bool = False,
    force: bool,
) -> None:
    """Write the persona's rows and dialogues to files in `folder`, and print what became of every message.

    `exports`: files, or folders that hold them. `persona`: names or ids of her accounts. `slug`: the beginning of the
    files' names, by default her first name. `placeholders`: names become <ИМЯ_1>, … instead of invented names.
    """
    with progress("looking through the exports"):
        survey = survey_exports(exports)
    accounts = find_persona(survey, persona)
    own = {account.id for account in accounts}
    scrubber = Scrubber(keep=[name for account in accounts for name in account.names], invent=not placeholders)

    def begin_chat(number: int) -> None:
        scrubber.begin_chat(_names_in(survey, number, own))

    with progress("collecting dialogues"):
        scrubbed = scrubber.scrub if scrub else None
        collected = collect_dialogues(
            survey, accounts, selection, scrub=scrubbed, before_chat=begin_chat if scrub else None, system=system
        )
    if not collected.rows:
        where = exports[0] if len(exports) == 1 else f"{len(exports)} exports"
        raise DataError(f"{where}: {persona[0]} answers nobody in what is left; {_report_text(collected.report)}")
    slug = slug or _file_name(accounts[0].names, accounts[0].id)
    written = write_collected(collected, folder, slug, force=force, scrubbed=scrub)
    if scrub:
        written.append(write_replacement_table(scrubber, written[0], force=force))
    print(_report_text(collected.report))
    print(_channel_table(collected.report))
    for line in what_is_lacking(survey.exports):
        print(line)
    for path in written:
        print(f"wrote {path}")


def _names_in(survey: Survey, number: int, persona: Collection[str]) -> list[str]:
    """Display names of the others in a chat: who writes there, whose chat it is, and who is mentioned by name."""
    partner = survey.chats[number].partner
    people = [who for who in survey.participants if number in who.chats or who.id == partner]
    return [name for who in people if who.id not in persona for name in who.names] + survey.mentions.get(number, [])


def words_filter(file: Path) -> Callable[[str], bool]:
    """Tells texts that hold one of the words or phrases of a file, one a line, as whole words in any case."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GovorError(f"{file}: cannot be read as a list of words, one a line: {error}") from None
    words = [r"\s+".join(map(re.escape, fold_text(line).split())) for line in lines if line.strip()]
    if not words:
        raise GovorError(f"{file}: no words in it, one a line")
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)")
    return lambda text: pattern.search(fold_text(text)) is not None


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
            "turns": [_turn(turn) for turn in dialogue.turns],
        }
        yield before + json.dumps(entry, ensure_ascii=False)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _turn(turn: Turn) -> dict[str, Any]:
    """The turn for the file; `trained` stands there only where it is false."""
    fields = turn._asdict()
    return fields if not turn.trained else {key: value for key, value in fields.items() if key != "trained"}


def _as_csv(dialogues: Iterable[Dialogue]) -> Iterator[str]:
    """One line a message, behind a byte order mark, by which Excel knows UTF-8."""
    line = io.StringIO()
    table = csv.writer(line)
    line.write("\ufeff")
    table.writerow(("dialogue", "channel", "date", "speaker", "role", "text"))
    for number, dialogue in enumerate(dialogues, 1):
        for turn in dialogue.turns:
            cells = (number, dialogue.channel, turn.time, turn.speaker, turn.role, turn.text)
            table.writerow(map(table_cell, cells))
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
    return "\n".join(lines) + ", ".join(f"{reason} {n}" for reason, n in report.dropped.most_common() if n)


def _channel_table(report: CollectReport) -> str:
    """Every channel with dialogues, its rows and its share of the messages kept, the largest first."""
    channels = sorted(
        ((n, c) for n, c in report.by_channel.items() if c["rows"]), key=lambda item: -item[1]["messages"]
    )
    lines = [f"{'dialogues':>9}  {'rows':>6}  {'messages':>8}  {'share':>5}  channel"]
    for name, counts in channels[:MOST_CHANNELS]:
        share = counts["messages"] / report.messages_kept
        lines.append(
            f"{counts['dialogues']:>9,}  {counts['rows']:>6,}  {counts['messages']:>8,}  {share:>5.0%}  {name}"
        )
    if len(channels) > MOST_CHANNELS:
        lines.append(f"and {len(channels) - MOST_CHANNELS} more")
    return "\n".join(lines)


def _file_name(names: Sequence[str], id_: str) -> str:
    """A name for files from a display name: its first word, without what file systems dislike."""
    word = re.sub(r"[^\w-]", "", names[0].split()[0]) if names and names[0].split() else ""
    return word or id_
