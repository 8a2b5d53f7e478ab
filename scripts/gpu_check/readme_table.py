"""The table of GPU figures in README.md and README.ru.md, written from results.json alone."""

import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import NamedTuple

from click import ClickException

from gpu_check.schedule import Outcome
from gpu_check.training_speed import SETUPS, TOOLS, loss_gap, step_name

BEGIN, END = "<!-- python scripts/gpu_check --readme -->", "<!-- end of the table -->"
"""The lines between which the table stands."""


class Words(NamedTuple):
    """What a table says in one language."""

    head: str
    not_measured: str
    title: str
    """With places for card, dates, versions."""
    chats: str
    no_checkpointing: str
    tools: tuple[str, ...]
    """Of TOOLS, in their order."""
    decimal: str
    thousands: str
    date: str
    """As strftime takes it."""


LANGUAGES = {
    "README.md": Words(
        "| LoRA on a GPU | with | tokens/s | memory, GiB | `govor plan`, GiB |",
        "| Qwen3-8B in bf16, Qwen3-4B in NF4 | | **not measured** | **not measured** | |",
        "{card}, {dates}, {versions}; bases of these shapes with random weights, batch × tokens of a row:",
        "chats of up to",
        "without checkpointing",
        ("govor, plain", "govor, all kernels", "govor, `auto`", "plain TRL", "TRL with Liger", "Unsloth"),
        ".",
        ",",
        "%Y-%m-%d",
    ),
    "README.ru.md": Words(
        "| LoRA на видеокарте | чем | токенов/с | память, ГиБ | `govor plan`, ГиБ |",
        "| Qwen3-8B в bf16, Qwen3-4B в NF4 | | **не измерено** | **не измерено** | |",
        "{card}, {dates}, {versions}; базы этого размера со случайными весами, батч × токенов в строке:",
        "чаты до",
        "без пересчёта активаций",
        ("govor без ядер", "govor, все ядра", "govor, `auto`", "чистый TRL", "TRL с ядрами Liger", "Unsloth"),
        ",",
        " ",
        "%d.%m.%Y",
    ),
}


def write_tables(outcomes: Mapping[str, Outcome], repository: Path) -> None:
    """Replace the table of each README; ClickException where nothing was measured on one card, or a README has none."""
    cards = {row.figures["card"] for _, _, row in measured(outcomes)}
    if len(cards) != 1:
        what = "on several cards" if cards else "on no card: a rehearsal measures nothing"
        raise ClickException(f"these results were measured {what}; the READMEs stay as they are")
    texts = {}
    for name in LANGUAGES:
        before, found, rest = (repository / name).read_text(encoding="utf-8").partition(f"{BEGIN}\n")
        _, closed, after = rest.partition(END)
        if not (found and closed):
            raise ClickException(f"{name}: the lines {BEGIN} and {END} are gone")
        texts[name] = f"{before}{BEGIN}\n\n{table_text(outcomes, name)}\n{END}{after}"
    for name, text in texts.items():
        (repository / name).write_text(text, encoding="utf-8")


def table_text(outcomes: Mapping[str, Outcome], readme: str) -> str:
    """The lines between the marks; where nothing was measured they say so."""
    words, rows = LANGUAGES[readme], list(measured(outcomes))
    lines = [words.head, "|---" * words.head.count(" | ") + "|---|"]
    if not rows:
        return "\n".join([*lines, words.not_measured, ""])
    for setup_name, tool, outcome in rows:
        figures = outcome.figures
        numbers = [f"{figures['tokens_per_s']:,}".replace(",", words.thousands)]
        for size in (figures["peak_allocated_gib"], figures.get("planned_gib") if tool == TOOLS[0] else None):
            numbers.append("" if size is None else f"{size:.1f}".replace(".", words.decimal))
        named = words.tools[TOOLS.index(tool)]
        lines.append(f"| {setup_title(setup_name, words)} | {named} | {' | '.join(numbers)} |".replace("|  |", "| |"))
    dates = sorted({date.fromisoformat(outcome.figures["date"]) for _, _, outcome in rows})
    versions = outcomes["environment"].figures if "environment" in outcomes else {}
    title = words.title.format(
        card=rows[0][2].figures["card"],
        dates=" – ".join(day.strftime(words.date) for day in dict.fromkeys((dates[0], dates[-1]))),
        versions=", ".join(f"{name} {versions[name]}" for name in ("torch", "trl") if name in versions) or "torch",
    )
    return "\n".join([title, "", *lines, ""])


def measured(outcomes: Mapping[str, Outcome]) -> Iterator[tuple[str, tuple[str, str], Outcome]]:
    """(setup, tool with kernels, outcome) of what passed on a card and trained what govor without kernels trained."""
    for setup_name in SETUPS:
        plain = outcomes.get(step_name(setup_name, *TOOLS[0]))
        for tool in TOOLS:
            outcome = outcomes.get(step_name(setup_name, *tool))
            if plain and outcome and outcome.verdict == "PASS" and outcome.figures.get("card"):
                gap = loss_gap(plain.figures, outcome.figures)
                if gap and gap.allowed:
                    yield setup_name, tool, outcome


def setup_title(setup_name: str, words: Words) -> str:
    setup = SETUPS[setup_name]
    base = re.sub(r"^qwen3-(\d+)b$", r"Qwen3-\1B", setup.base)
    length = f"{setup.max_length}" if setup.joined else f"{words.chats} {setup.max_length}"
    size = f"{setup.batch} × {length}"
    return ", ".join(
        [base, "NF4" if setup.load_in_4bit else "bf16", size, *[words.no_checkpointing] * (not setup.checkpointing)]
    )
