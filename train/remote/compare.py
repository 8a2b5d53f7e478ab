"""govor compare: the same prompts to several models, their answers side by side with speed, price and manner.

    compare/NAME/
      answers.jsonl        a prompt a line, with every model's answer and times
      compare.html         the same for people
      MODEL.journal.jsonl  what was asked of a model: the same command asks nothing twice

Models are asked one after another, and one request at a time unless told otherwise, so that speeds are those of a
server that has nothing else to do.
"""

import json
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from train.chats.readers import read_rows
from train.chats.rows import Message, Row, text_of
from train.core.errors import DataError, GovorError
from train.core.files import write_atomically
from train.core.pages import Language
from train.core.runs import Run, open_run
from train.encoding.held_out import held_out_rows
from train.evaluation.evaluation_page import MARKS
from train.evaluation.intervals import Interval
from train.evaluation.judge import sources
from train.evaluation.judged_rows import persona_run, trained_rows
from train.evaluation.markers import MARKERS, is_russian
from train.evaluation.sampling import base_answers, held_out_prompts, spread
from train.evaluation.style import Answer, position
from train.plan.answering import A_YEAR
from train.remote.answers import folder_of, read_answers
from train.remote.asking import STREAM, Asker, Request, announce
from train.remote.budget import Budget, Usage, money, open_budget
from train.remote.journal import Reply, open_journal
from train.remote.services import Endpoint, find_model

HELD_OUT = "held-out"
TITLES = {
    "answers": ("ответов", "answers"),
    "first": ("до первого токена, с (медиана)", "to the first token, s (median)"),
    "speed": ("токенов в секунду", "tokens a second"),
    "input": ("токенов в промпте", "tokens of a prompt"),
    "output": ("токенов в ответе", "tokens of an answer"),
    "spent": ("потрачено, USD", "spent, USD"),
    "thousand": ("1 000 запросов, USD", "1,000 requests, USD"),
    "year": (f"год ({A_YEAR:,} запросов), USD".replace(",", " "), f"a year ({A_YEAR:,} requests), USD"),
    "position": ("манера: 0 — база, 1 — сама персона", "manner: 0 is the base, 1 the persona"),
}


class Question(NamedTuple):
    """A prompt, and the answer that it got in the rows, where there is one."""

    messages: list[Message]
    real: Answer | None


class Column(NamedTuple):
    """A model's answers, None where there is none; what could not be asked says why."""

    label: str
    endpoint: Endpoint
    replies: list[Reply | None]
    failed: str | None


def compare(
    name: str,
    models: Sequence[str],
    *,
    prompts: str,
    run: Path | None,
    budget: str | None,
    max_tokens: int | None,
    limit: int | None,
    answer_tokens: int,
    at_once: int,
    lang: Language | None,
    dry_run: bool,
    force: bool,
) -> bool:
    """Ask, print the table, write the folder; False where a model has left a prompt unanswered. See the module."""
    from train.remote.compare_page import write_page

    folder = folder_of(name)
    opened = open_run(run) if run else None
    questions = read_questions(prompts, opened, limit)
    endpoints = labelled([find_model(text, Path.cwd()) for text in models])
    requests = [Request(question.messages, answer_tokens, STREAM) for question in questions]
    if not dry_run:
        require_the_same(folder, questions, list(endpoints), force=force)
        folder.mkdir(parents=True, exist_ok=True)
    columns = ask_all(folder, endpoints, requests, budget, max_tokens, at_once, dry_run=dry_run)
    if dry_run:
        return True
    table = measures(columns, questions, opened)
    write_answers(folder, questions, columns)
    write_page(folder, name, questions, columns, table, lang)
    print(terminal_table([column.label for column in columns], table))
    for column in columns:
        if column.failed:
            print(f"{column.label}: {column.failed}", file=sys.stderr)
    print(f"answers: {folder / 'answers.jsonl'}\npage:    {folder / 'compare.html'}\nnext: govor vote {name}")
    return not any(column.failed or None in column.replies for column in columns)


def labelled(endpoints: Sequence[Endpoint]) -> dict[str, Endpoint]:
    """What each model is called: its name, with the host where two have the same."""
    names = [endpoint.model for endpoint in endpoints]
    found = {
        f"{endpoint.model} at {endpoint.host}" if names.count(endpoint.model) > 1 else endpoint.model: endpoint
        for endpoint in endpoints
    }
    if len(found) < len(endpoints):
        raise GovorError("a model is named twice")
    return found


def read_questions(prompts: str, run: Run | None, limit: int | None) -> list[Question]:
    """The prompts of a file (rows as in training, or a .txt with one a line), or those that a run has held out.

    A prompt without a system message gets the one that the run's rows share.
    """
    if prompts == HELD_OUT:
        if run is None:
            raise GovorError(f"--prompts {HELD_OUT}: give --run RUN too, whose they are")
        found = [Question(prompt.messages, prompt.real) for prompt in held_out_prompts(held_out_rows(persona_run(run)))]
    elif prompts.endswith((".txt", ".md")):
        found = [Question([{"role": "user", "content": line}], None) for line in _lines(Path(prompts))]
    else:
        found = [_question(row) for row in read_rows(Path(prompts))]
    if not found:
        raise DataError(f"--prompts {prompts}: no prompts there")
    system = run.manifest()["data"]["system_message"] if run else None
    if system:
        opening: Message = {"role": "system", "content": system}
        found = [q if q.messages[0]["role"] == "system" else Question([opening, *q.messages], q.real) for q in found]
    return spread(found, limit) if limit else found


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text: save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


def _question(row: Row) -> Question:
    """The row without its last answer."""
    plain: list[Message] = [{"role": message["role"], "content": text_of(message)} for message in row.messages]
    if plain[-1]["role"] != "assistant":
        return Question(plain, None)
    return Question(plain[:-1], Answer(row.line, text_of(row.messages[-1]).strip()))


def require_the_same(folder: Path, questions: Sequence[Question], labels: Sequence[str], *, force: bool) -> None:
    """GovorError where the folder holds the answers to other prompts, or of a model that is not asked any more."""
    if force or not (folder / "answers.jsonl").exists():
        return
    there = read_answers(folder)
    gone = [label for label in there.answers if label not in labels]
    if there.prompts != [question.messages for question in questions] or gone:
        what = f"holds answers of {', '.join(gone)}, which is not named now" if gone else "asks other prompts"
        raise GovorError(f"{folder}: the comparison there {what}: choose another name, or --force")


def ask_all(
    folder: Path,
    endpoints: dict[str, Endpoint],
    requests: Sequence[Request],
    budget: str | None,
    max_tokens: int | None,
    at_once: int,
    *,
    dry_run: bool,
) -> list[Column]:
    """Ask one model after another. What one has spent, in earlier runs too, is not there for the others.

    A model that cannot be asked leaves the others as they are.
    """
    columns: list[Column] = []
    most = Usage(*(sum(column) for column in zip(*(request.most() for request in requests), strict=True)))
    budgets = [_budget(endpoint, budget, max_tokens) for endpoint in endpoints.values()]
    if dry_run:
        for endpoint, spending in zip(endpoints.values(), budgets, strict=True):
            announce(endpoint, len(requests), most, spending, dry_run=True)
        return []
    with ExitStack() as stack:
        askers = []
        for (label, endpoint), spending in zip(endpoints.items(), budgets, strict=True):
            file = re.sub(r"[^\w.-]+", "-", label)
            journal = stack.enter_context(open_journal(folder / f"{file}.journal.jsonl"))
            askers.append(Asker(endpoint, journal, spending, at_once))
            announce(endpoint, len(requests), most, spending, dry_run=False)
        for label, asker in zip(endpoints, askers, strict=True):
            whole = asker.budget.limit
            if whole is not None:
                others = sum(
                    each.budget.spent for each in askers if each is not asker and each.budget.limit is not None
                )
                asker.budget.limit = whole - others
            failed = None
            try:
                asker.ask(requests, label)
            except GovorError as error:
                failed = str(error)
            replies = [asker.journal.replies.get(request.key(asker.endpoint)) for request in requests]
            asker.budget.limit = whole
            failed = failed or (" ".join(asker.lines()) if None in replies else None)
            columns.append(Column(label, asker.endpoint, replies, failed))
    return columns


def _budget(endpoint: Endpoint, budget: str | None, max_tokens: int | None) -> Budget:
    """A limit in money holds for those who take some: a server on this machine does not."""
    if budget is not None and endpoint.is_here and endpoint.price is None:
        return Budget(None, None, in_money=False)
    return open_budget(endpoint, budget, max_tokens)


Table = dict[str, list[float | Interval | None]]
"""Measure → its value for each model, and last for the rows' own answers; None: not known, or of no meaning there."""


def measures(columns: Sequence[Column], questions: Sequence[Question], run: Run | None) -> Table:
    """What the answers tell of speed, price and manner."""
    real = [question.real for question in questions if question.real]
    table: Table = {name: [*map(value, columns), None] for name, value in _MEASURES.items()}
    table["answers"][-1] = len(real) or None
    if run and (found := _positions(columns, questions, run)):
        table["position"] = [*found, None]
    texts = [[reply.text for reply in column.replies if reply and reply.text.strip()] for column in columns]
    texts.append([answer.text for answer in real])
    russian = is_russian([Answer(0, text) for said in texts for text in said])
    for marker in MARKERS:
        if russian or not marker.russian:
            table[marker.name] = [sum(map(marker.measure, said)) / len(said) if said else None for said in texts]
    if not real:  # nobody has answered these before
        table = {name: values[:-1] for name, values in table.items()}
    return {name: values for name, values in table.items() if any(value is not None for value in values)}


def _positions(columns: Sequence[Column], questions: Sequence[Question], run: Run) -> list[Interval | None] | None:
    """Where each model's answers to held-out prompts lie between base and persona; see `govor eval`."""
    persona_of = persona_run(run)
    held_out = held_out_rows(persona_of)
    base, real = base_answers(run, held_out), [question.real for question in questions if question.real]
    persona = [text for _, text in sources(trained_rows(persona_of, held_out) or ())]
    known = {prompt.real for prompt in held_out_prompts(held_out)}
    if not base or not persona or not set(real) <= known:
        return None
    found: list[Interval | None] = []
    for column in columns:
        said = [
            question.real._replace(text=reply.text)
            for question, reply in zip(questions, column.replies, strict=True)
            if reply and question.real and reply.text.strip()
        ]
        place = position(persona, base, real, said) if said else None
        found.append(place.whole if place else None)
    return found


def _answered(column: Column) -> list[Reply]:
    return [reply for reply in column.replies if reply]


def _mean_used(column: Column, which: int) -> float | None:
    replies = _answered(column)
    return sum(reply.used[which] for reply in replies) / len(replies) if replies else None


def _first(column: Column) -> float | None:
    times = [reply.first for reply in _answered(column) if reply.first is not None]
    return median(times) if times else None


def _speed(column: Column) -> float | None:
    """Tokens after the first a second."""
    timed = [(r.used.output - 1, r.seconds - r.first) for r in _answered(column) if r.first is not None and r.seconds]
    tokens, seconds = (sum(each) for each in zip(*timed, strict=True)) if timed else (0, 0.0)
    return tokens / seconds if tokens > 0 and seconds > 0 else None


def _spent(column: Column) -> float | None:
    replies, price = _answered(column), column.endpoint.price
    return float(sum(money(reply.used, price) for reply in replies)) if price and replies else None


def _thousand(column: Column) -> float | None:
    spent = _spent(column)
    return None if spent is None else 1000 * spent / len(_answered(column))


def _year(column: Column) -> float | None:
    thousand = _thousand(column)
    return None if thousand is None else thousand * A_YEAR / 1000


_MEASURES: dict[str, Any] = {
    "answers": lambda column: len(_answered(column)),
    "first": _first,
    "speed": _speed,
    "input": lambda column: _mean_used(column, 0),
    "output": lambda column: _mean_used(column, 1),
    "spent": _spent,
    "thousand": _thousand,
    "year": _year,
}


def number(value: float | Interval | None, lang: Language = "en") -> str:
    """A value as the tables have it, in the language's way of writing numbers."""
    if value is None:
        return "–"
    if isinstance(value, Interval):
        middle, low, high = (number(each, lang) for each in value)
        return f"{middle} ({low} … {high})"
    whole = value >= 100 or value == int(value)
    text = f"{value:,.0f}" if whole else f"{value:.2g}" if 0 < value < 0.1 else f"{value:.2f}"
    return text.replace(",", "\u00a0").replace(".", ",") if lang == "ru" else text


def title(measure: str, lang: Language) -> str:
    """The measure in words."""
    return {**MARKS, **TITLES}[measure][lang == "en"]


def terminal_table(labels: Sequence[str], table: Table) -> str:
    """The measures, a line each."""
    width = len(next(iter(table.values())))
    head = ["", *labels, *(["the rows' own"] if width > len(labels) else [])]
    lines = [head, *([title(name, "en"), *map(number, values)] for name, values in table.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def write_answers(folder: Path, questions: Sequence[Question], columns: Sequence[Column]) -> None:
    """answers.jsonl: {"prompt": messages, "real": text or null, "answers": {model: {"text", …} or null}} a line."""
    lines = []
    for at, question in enumerate(questions):
        answers = {
            c.label: reply and {**reply._asdict(), "used": list(reply.used)}
            for c in columns
            for reply in [c.replies[at]]
        }
        entry = {"prompt": question.messages, "real": question.real.text if question.real else None, "answers": answers}
        lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    write_atomically(folder / "answers.jsonl", "".join(lines))
