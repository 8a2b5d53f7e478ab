"""govor generate: questions first, then one answer a request, then the gates; what passed is written with its origin.

A run that was cut off goes on with the same command: what was asked is in OUT's journal. The rows depend on the plan
and the answers alone, not on the order in which answers came.
"""

import hashlib
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from train.chats.provenance import provenance_file, row_hash, write_provenance
from train.chats.readers import read_rows
from train.chats.rows import Message, Row, row_to_json, shared_system_message, text_of, trained_answers
from train.chats.split import read_split, split
from train.core.config import Data, Training, load_config
from train.core.errors import DataError
from train.core.files import listed, require_new, write_whole
from train.evaluation.leakage import FREE_WORDS, longest_copies
from train.remote.asking import Asker, Request, announce
from train.remote.budget import Usage, open_budget
from train.remote.gates import LONGEST_QUESTION, Gates, Made, messages_of
from train.remote.generation_plan import Cell, Plan, cells, filled, listed_questions, load_plan
from train.remote.journal import Reply, open_journal
from train.remote.services import Endpoint, find_endpoint

CHUNK = 1500
"""Characters of a text that a question is asked about."""
TEXTS = (".txt", ".md")


class Sources(NamedTuple):
    """What requests are made from, and what they must not hold."""

    train: list[Row]
    held_out: list[Row]
    chunks: list[str]
    """Parts of texts."""
    system: str | None
    """The system message that the rows share."""


class Slot(NamedTuple):
    """A row to be made."""

    number: int
    cell: Cell
    chunk: str


class Result(NamedTuple):
    """What became of a run."""

    rows: dict[int, Made]
    """By number of the slot."""
    scores: dict[int, dict[str, float]]
    keys: dict[int, str]
    """The request that each row answers."""
    parents: dict[int, list[str]]
    """Hashes of the rows and texts that the request showed."""
    refused: Counter[str]
    """Questions and rows that were refused, by reason."""


def generate(
    files: Sequence[Path],
    *,
    via: str,
    model: str,
    plan_file: Path,
    budget: str | None,
    max_tokens: int | None,
    limit: int | None,
    output: Path,
    dry_run: bool,
    force: bool,
) -> bool:
    """Make rows by the plan and write them with their provenance; False where none passed. See the module."""
    plan = load_plan(plan_file)
    sources = read_sources(files, plan)
    endpoint = find_endpoint(via, model, Path.cwd())
    spending = open_budget(endpoint, budget, max_tokens)
    wanted = min(plan.rows, limit or plan.rows)
    slots = [
        Slot(number, cell, sources.chunks[number % len(sources.chunks)] if sources.chunks else "")
        for number, cell in enumerate(cells(plan, wanted))
    ]
    count, most = at_most(plan, sources, slots)
    if dry_run:
        announce(endpoint, count, most, spending, dry_run=True)
        return True
    if spending.limit is None:
        raise DataError("say where to stop: --budget 2USD or --max-tokens N (--dry-run shows what it takes at most)")
    for path in (output, provenance_file(output)):
        require_new(path, force)
    gates = Gates(sources.train, sources.held_out, wanted, plan.style_percentile)
    with open_journal(output.with_name(output.name.split(".")[0] + ".journal.jsonl")) as journal:
        asker = Asker(endpoint, journal, spending)
        announce(endpoint, count, most, spending, dry_run=False)
        result = make_rows(plan, sources, slots, gates, asker)
    for line in account(result, slots, asker):
        print(line)
    if not result.rows:
        print("no row passed: nothing was written", file=sys.stderr)
        return False
    write_rows(output, endpoint, plan_file, plan, sources, slots, result, force=force)
    return True


# What is sent, and what is not


def read_sources(files: Sequence[Path], plan: Plan) -> Sources:
    """The training rows and texts of the files; held-out rows, and what is like them, are kept apart.

    DataError where no training row is left, or a text quotes a held-out row.
    """
    texts = [file for file in files if file.suffix in TEXTS]
    rows = [row for file in files if file not in texts for row in read_rows(file)]
    if plan.config:
        divided = read_split(load_config(plan.config, ["data.unreviewed=true"]))
    else:
        divided = split(rows, Data.model_fields["eval_fraction"].default, Training.model_fields["seed"].default)
    kept_back = {row_hash(row) for row in (*divided.held_out, *divided.left_out)}
    held_out_texts = [(row.line, text_of(m)) for row in divided.held_out for m in row.messages if m["role"] != "system"]
    train = _without_copies([row for row in rows if row_hash(row) not in kept_back], held_out_texts)
    if not train:
        raise DataError(f"{listed(map(str, files))}: no training rows to go by, beside those that are held out")
    chunks = [chunk for file in texts for chunk in chunks_of(file)]
    for copy in longest_copies(chunks, held_out_texts):
        if copy.words >= FREE_WORDS:
            raise DataError(f"{listed(map(str, texts))}: «{copy.text}» is in a held-out row: take it out")
    return Sources(train, divided.held_out, chunks, shared_system_message(train))


def _without_copies(rows: Sequence[Row], held_out: Sequence[tuple[int, str]]) -> list[Row]:
    """The rows that share no long run of words with a held-out row: they may be shown to others."""
    texts = ["\n".join(text_of(m) for m in row.messages if m["role"] != "system") for row in rows]
    copies = longest_copies(texts, held_out)
    return [row for row, copy in zip(rows, copies, strict=True) if copy.words < FREE_WORDS]


def chunks_of(file: Path) -> list[str]:
    """A text in parts of whole paragraphs, about CHUNK characters each."""
    try:
        paragraphs = re.split(r"\n\s*\n", file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError(f"{file}: not UTF-8 text: save it as UTF-8") from None
    chunks = [""]
    for paragraph in filter(None, map(str.strip, paragraphs)):
        for start in range(0, len(paragraph), CHUNK):
            part = paragraph[start : start + CHUNK]
            if chunks[-1] and len(chunks[-1]) + len(part) > CHUNK:
                chunks.append("")
            chunks[-1] = f"{chunks[-1]}\n\n{part}".strip()
    return [chunk for chunk in chunks if chunk]


# Requests


def examples(sources: Sources, count: int, *seed: object) -> list[Row]:
    """Training rows to show, a fixed choice by the seed; the first turns of short ones."""
    usable = [row for row in sources.train if _first_turns(row)]
    return random.Random(repr(seed)).sample(usable, min(count, len(usable)))


def _first_turns(row: Row) -> list[Message]:
    """The first question and its answer, where the answer is trained."""
    turns = [m for m in row.messages if m["role"] not in ("system", "developer")][:2]
    fits = [m["role"] for m in turns] == ["user", "assistant"] and bool(trained_answers(turns))
    return [{"role": m["role"], "content": text_of(m)} for m in turns] if fits else []


def question_request(plan: Plan, sources: Sources, cell: Cell, chunk: str, count: int, turn: int) -> Request:
    """Asks for the questions of some slots of one cell."""
    shown = [text_of(_first_turns(row)[0]) for row in examples(sources, plan.examples, cell, chunk, turn)]
    values = {"count": count + plan.spare, **cell._asdict(), "examples": listed_questions(shown), "text": chunk}
    text = filled(plan.questions, values)
    if chunk and "{text}" not in plan.questions:
        text = f"{text}\n\n{chunk}"
    return Request([{"role": "user", "content": text}], plan.question_tokens, plan.parameters, turn)


def answer_request(plan: Plan, sources: Sources, slot: Slot, question: str) -> Request:
    """Asks one question, after some of the persona's answers."""
    shown = examples(sources, plan.examples, slot.number)
    system = filled(plan.answers, {"system": sources.system or "", **slot.cell._asdict(), "text": slot.chunk})
    if slot.chunk and "{text}" not in plan.answers:
        system = f"{system}\n\n{slot.chunk}"
    messages: list[Message] = [{"role": "system", "content": system}]
    for row in shown:
        messages += _first_turns(row)
    return Request([*messages, {"role": "user", "content": question}], plan.answer_tokens, plan.parameters)


def groups_of(slots: Sequence[Slot]) -> dict[tuple[Cell, str], list[Slot]]:
    """The slots by what their question is about."""
    groups: dict[tuple[Cell, str], list[Slot]] = {}
    for slot in slots:
        groups.setdefault((slot.cell, slot.chunk), []).append(slot)
    return groups


def at_most(plan: Plan, sources: Sources, slots: Sequence[Slot]) -> tuple[int, Usage]:
    """(requests, tokens) that every round together takes at most, if no attempt fails."""
    asked = [
        question_request(plan, sources, *group, len(of_group), 0).most() for group, of_group in groups_of(slots).items()
    ]
    longest = "—" * LONGEST_QUESTION  # of three bytes each
    asked += [answer_request(plan, sources, slot, longest).most() for slot in slots]
    total = Usage(*(plan.rounds * sum(column) for column in zip(*asked, strict=True)))
    return plan.rounds * len(asked), total


# Rows


def make_rows(plan: Plan, sources: Sources, slots: Sequence[Slot], gates: Gates, asker: Asker) -> Result:
    """Fill the slots, in as many rounds as the plan allows."""
    result = Result({}, {}, {}, {}, Counter())
    for turn in range(plan.rounds):
        missing = [slot for slot in slots if slot.number not in result.rows]
        if not missing or asker.out_of_budget:
            break
        questions = ask_questions(plan, sources, missing, gates, asker, turn, result.refused)
        asked = {slot: answer_request(plan, sources, slot, question) for slot, question in questions.items()}
        replies = asker.ask(list(asked.values()), "answers")
        made = {
            slot: Made(questions[slot], reply.text.strip(), reply.finish == "length")
            for slot, reply in zip(asked, replies, strict=True)
            if reply is not None
        }
        for slot, verdict in zip(made, gates.rows(list(made.values())), strict=True):
            if verdict.refused:
                result.refused[verdict.refused] += 1
                continue
            result.rows[slot.number] = made[slot]
            result.scores[slot.number] = verdict.scores
            result.keys[slot.number] = asked[slot].key(asker.endpoint)
            shown = [row_hash(row) for row in examples(sources, plan.examples, slot.number)]
            result.parents[slot.number] = [*shown, *([_hash(slot.chunk)] if slot.chunk else [])]
    return result


def ask_questions(
    plan: Plan,
    sources: Sources,
    slots: Sequence[Slot],
    gates: Gates,
    asker: Asker,
    turn: int,
    refused: Counter[str],
) -> dict[Slot, str]:
    """A question for each slot that one could be had for."""
    groups = groups_of(slots)
    requests = [question_request(plan, sources, *group, len(of), turn) for group, of in groups.items()]
    found = [questions_in(reply) for reply in asker.ask(requests, "questions")]
    refused["questions: none in the answer"] += sum(listed == [] for listed in found)
    flat = [text for listed in found for text in listed or ()]
    verdicts = iter(zip(flat, gates.questions(flat), strict=True))
    chosen: dict[Slot, str] = {}
    for of, texts in zip(groups.values(), found, strict=True):
        judged = [next(verdicts) for _ in texts or ()]
        refused.update(f"question: {why}" for _, why in judged if why)
        passed = [text for text, why in judged if why is None]
        chosen.update(zip(of, passed, strict=False))
    return chosen


def questions_in(reply: Reply | None) -> list[str] | None:
    """The questions in an answer, those first that it calls unlikely: the likely ones are all alike.

    Read are a list in JSON, of texts or of objects with `question` and `probability`, and failing that lines.
    """
    if reply is None:
        return None
    found = re.search(r"\[.*\]", reply.text, re.DOTALL)
    try:
        entries = [_question(entry) for entry in json.loads(found[0])] if found else []
    except (ValueError, TypeError, KeyError, RecursionError):
        entries = []
    if not entries:
        lines = (re.sub(r"^\s*(?:[-*•]|\d+[.)、])\s*", "", line).strip() for line in reply.text.split("\n"))
        entries = [(1.0, line) for line in lines if len(line) > 5 and line[0] not in "[]{}`"]
    return [text.strip() for _, text in sorted(entries, key=lambda entry: entry[0]) if text.strip()]


def _question(entry: Any) -> tuple[float, str]:
    """(probability, text) of an entry."""
    if isinstance(entry, str):
        return 1.0, entry
    return float(entry.get("probability", 1.0)), str(entry.get("question") or entry["text"])


# What is written and said


def write_rows(
    output: Path,
    endpoint: Endpoint,
    plan_file: Path,
    plan: Plan,
    sources: Sources,
    slots: Sequence[Slot],
    result: Result,
    *,
    force: bool,
) -> None:
    """The rows in the plan's order, and beside them where each comes from."""
    numbers = sorted(result.rows)
    rows = [Row(line, messages_of(result.rows[n], sources.system)) for line, n in enumerate(numbers, 1)]
    origin = {"source": "generated", "model": endpoint.model, "host": endpoint.host, "plan": plan_file.name}
    write_whole(output, (row_to_json(row) + "\n" for row in rows), replace=force)
    entries: Iterator[Mapping[str, Any]] = (
        {
            "row": row_hash(row),
            **origin,
            "plan_sha256": _hash(plan.model_dump_json()),
            "cell": slots[number].cell._asdict(),
            "parents": result.parents[number],
            "scores": result.scores[number],
            "request": result.keys[number],
            "reviewed": None,
        }
        for row, number in zip(rows, numbers, strict=True)
    )
    path = write_provenance(output, entries, force=force)
    print(f"wrote {output}, {path}\nnext: govor review {output} -o reviewed.jsonl")


def account(result: Result, slots: Sequence[Slot], asker: Asker) -> Iterator[str]:
    """What was made and refused, and what it has cost."""
    yield f"rows: {len(result.rows)} of {len(slots)}"
    for name in Cell._fields[:1]:
        wanted = Counter(getattr(slot.cell, name) for slot in slots)
        made = Counter(getattr(slots[number].cell, name) for number in result.rows)
        yield f"by {name}: " + ", ".join(f"{value} {made[value]} of {count}" for value, count in wanted.items())
    if refused := +result.refused:
        yield "refused: " + ", ".join(f"{why} {count}" for why, count in refused.most_common())
    yield from asker.lines()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
