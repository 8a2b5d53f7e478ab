"""govor review: a person looks at a sample of rows and says y, n or edits; the result is a new file.

Each decision is on disk at once in FILE's NAME.review.jsonl, so that a review can be left and taken up again. With a
judge the sample is the rows that look worst to it. Beside the new file, NAME.dropped.jsonl says what was dropped, why.
"""

import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from train.chats.provenance import Entries, provenance_file, read_provenance, row_hash, write_provenance
from train.chats.readers import read_rows
from train.chats.rows import Row, row_to_json, text_of, trained_answers
from train.core.errors import GovorError
from train.core.files import append_json, require_new, write_whole

if TYPE_CHECKING:
    from train.remote.judge_rows import Doubt

Decisions = dict[str, dict[str, Any]]
"""Hash of a row → {"row": hash, "said": "y", "n" or "edit", "text": the edited answer, for an edit}."""
HELP = "y: keep   n: drop   e: edit the answer   b: one back   q: leave, to go on later"


def review(
    file: Path,
    output: Path,
    *,
    sample: int,
    force: bool,
    judge: str | None = None,
    rubric: Path | None = None,
    budget: str | None = None,
    max_tokens: int | None = None,
    dry_run: bool = False,
) -> bool:
    """Ask for `sample` rows of the file, generated ones first, and write what is kept to `output`.

    `judge`: a model that scores all rows before; then the worst are asked for. False where the person leaves before the
    sample is done: nothing is written then but the decisions.
    """
    if not judge and (dry_run or rubric or budget or max_tokens):
        raise GovorError("--rubric, --budget, --max-tokens and --dry-run are for a judge: give --judge URL#MODEL too")
    for path in (output, provenance_file(output), dropped_file(output)):
        require_new(path, force)
    if output.resolve() == file.resolve():
        raise GovorError(f"-o {output}: the file that is reviewed: give another name")
    rows = read_rows(file)
    known = read_provenance(file.absolute().parent)
    doubts: dict[str, Doubt] = {}
    chosen = choose(rows, known, sample)
    if judge:
        options = {"rubric_file": rubric, "budget": budget, "max_tokens": max_tokens, "dry_run": dry_run}
        from train.remote.judge_rows import (  # the studio uses this file, too, and starts at once
            judge_rows,
            worst_first,
        )

        judged = judge_rows(file, rows, known, judge, **options)  # type: ignore[arg-type]
        if judged is None:
            return True
        doubts = judged
        chosen = worst_first(rows, doubts, sample)
    with (file.with_name(file.name.split(".")[0] + ".review.jsonl")).open("a+", encoding="utf-8") as log:
        decisions = read_decisions(log)
        done = ask(chosen, decisions, lambda decision: append_json(log, decision), doubts)
    seen = [decisions[key] for row in chosen if (key := row_hash(row)) in decisions]
    account = said(seen, len(chosen), worst=bool(judge))
    print(account)
    if not done:
        print("go on with the same command", file=sys.stderr)
        return False
    write(output, rows, known, decisions, account, doubts, force=force)
    return True


def choose(rows: Sequence[Row], known: Entries, sample: int) -> list[Row]:
    """The rows to look at: a fixed choice by chance, of the generated rows where there are any."""
    generated = [row for row in rows if not known.get(row_hash(row), {"reviewed": True})["reviewed"]]
    pool = list({row_hash(row): row for row in generated or rows}.values())
    return sorted(random.Random(0).sample(pool, min(sample, len(pool))), key=lambda row: row.line)


def ask(
    rows: Sequence[Row], decisions: Decisions, record: Callable[[dict[str, Any]], None], doubts: "Mapping[str, Doubt]"
) -> bool:
    """Ask for each row that has no decision yet; False where the person leaves."""
    at = next((at for at, row in enumerate(rows) if row_hash(row) not in decisions), len(rows))
    while at < len(rows):
        row = rows[at]
        click.echo(f"\n--- {at + 1} of {len(rows)}, line {row.line}\n{shown(row)}\n")
        if doubt := doubts.get(row_hash(row)):
            score = "–" if doubt.score is None else f"{doubt.score:g}"
            click.echo(f"judge: {score} of 5{': ' * bool(doubt.reasons)}{', '.join(doubt.reasons)}\n")
        click.echo(HELP)
        key = click.getchar().lower()
        if key in ("q", "й", "\x03", "\x04", ""):
            return False
        if key in ("b", "и"):
            at = max(0, at - 1)
            continue
        if key in ("e", "у"):
            text = click.edit(text_of(row.messages[trained_answers(row.messages)[-1]]))
            if text is None or not text.strip():
                continue  # closed without saving
            decision = {"row": row_hash(row), "said": "edit", "text": text.strip()}
        elif key in ("y", "н", "n", "т"):  # the same keys of a Russian keyboard
            decision = {"row": row_hash(row), "said": "y" if key in ("y", "н") else "n"}
        else:
            continue
        decisions[row_hash(row)] = decision
        record(decision)
        at += 1
    return True


def shown(row: Row) -> str:
    """The row as text, without the system message."""
    turns = (f"{m['role']}: {text_of(m)}" for m in row.messages if m["role"] not in ("system", "developer"))
    return "\n\n".join("".join(c for c in turn if c.isprintable() or c == "\n") for turn in turns)


def said(decisions: Sequence[dict[str, Any]], of: int, *, worst: bool) -> str:
    """How many rows were good as they are, with the interval for all of them; the worst say nothing of the others."""
    good = sum(decision["said"] == "y" for decision in decisions)
    edited = sum(decision["said"] == "edit" for decision in decisions)
    if not decisions:
        return f"0 of {of} rows seen"
    seen = f"{len(decisions)} of {of} rows seen{', the worst by the judge' if worst else ''}: {good} good"
    counts = f"{seen}, {edited} edited, {len(decisions) - good - edited} dropped"
    if worst:
        return counts
    from train.evaluation.intervals import wilson

    share = wilson(good, len(decisions))
    return f"{counts}; good: {share.value:.0%} (of all: {share.low:.0%}–{share.high:.0%})"


def dropped_file(output: Path) -> Path:
    """Where it is written what was dropped and why."""
    return output.with_name(output.name.split(".")[0] + ".dropped.jsonl")


def write(
    output: Path,
    rows: Sequence[Row],
    known: Entries,
    decisions: Decisions,
    account: str,
    doubts: "Mapping[str, Doubt]",
    *,
    force: bool,
) -> None:
    """The rows without those dropped, edited ones as edited; provenance says of each generated row what was seen."""
    kept, entries, dropped = [], [], []
    for row in rows:
        key = row_hash(row)
        decision = decisions.get(key, {"said": None})
        if decision["said"] == "n":
            why = doubts[key].reasons if key in doubts else []
            dropped.append({"line": row.line, "row": key, "why": ["a person said n", *why]})
            continue
        new = edited(row, decision["text"]) if decision["said"] == "edit" else row
        kept.append(new)
        if key in known:
            was = known[key]["reviewed"]
            reviewed = {"y": "seen", "edit": "edited"}.get(decision["said"], was or f"a sample: {account}")
            entries.append({**known[key], "row": row_hash(new), "reviewed": reviewed})
    write_whole(output, (row_to_json(row) + "\n" for row in kept), replace=force)
    print(f"wrote {output}: {len(kept)} of {len(rows)} rows")
    write_whole(dropped_file(output), (json.dumps(entry) + "\n" for entry in dropped), replace=force)
    print(f"wrote {dropped_file(output)}: {len(dropped)} dropped")
    if entries:
        print(f"wrote {write_provenance(output, entries, force=force)}")


def edited(row: Row, text: str) -> Row:
    """The row with another last answer."""
    messages = list(row.messages)
    at = trained_answers(messages)[-1]
    messages[at] = {**messages[at], "content": text}
    return row._replace(messages=messages)


def read_decisions(log: IO[str]) -> Decisions:
    """The decisions so far, the last on each row; what a kill has left of a last line is passed over."""
    log.seek(0)
    decisions: Decisions = {}
    lines = log.read().split("\n")
    for line in lines:
        try:
            entry = json.loads(line)
            decisions[entry["row"]] = entry
        except (ValueError, KeyError, TypeError):
            continue
    if lines[-1]:
        log.write("\n")
    return decisions
