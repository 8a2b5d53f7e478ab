"""Statistics of rows for people and programs: tables in the terminal, one self-contained page, JSON."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from train.chats.statistics import CRITERIA, Share, Side, Spread, Statistics
from train.core.errors import GovorError
from train.core.files import require_new, write_whole

PAGE = """<!doctype html>
<html lang="ru"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
 table {{ border-collapse: collapse; width: 100% }} td, th {{ border-top: 1px solid #ddd; padding: .3rem .8rem .3rem 0;
 text-align: left; vertical-align: top; overflow-wrap: anywhere }}
 svg {{ max-width: 100%; height: auto }} .bar {{ background: #1f77b4; height: 1rem }} .wide {{ width: 50% }}
</style>
<h1>{title}</h1>
{sections}
</html>
"""


class Section(NamedTuple):
    """A table, the same in the terminal and on the page."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    shares: Sequence[float] = ()
    """Drawn on the page as a bar beside each row."""


def to_terminal(stats: Statistics) -> RenderableType:
    """All tables, one below the other."""
    parts: list[RenderableType] = []
    for section in _sections(stats):
        title = Text(section.title, "bold")
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=any(section.head))
        for number, name in enumerate(section.head):
            table.add_column(Text(name), justify="right" if number else "left", overflow="fold")
        for row in section.rows:
            table.add_row(*map(Text, row))  # Text: square brackets in a topic's name are no markup
        parts += [table, Text(f"{section.note}\n" if section.note else "")]
    return Group(*parts)


def channels_of(rows_file: Path) -> dict[str, int] | None:
    """Dialogues a channel, from the file that `govor collect` wrote beside the rows; None where there is none."""
    beside = rows_file.with_name(rows_file.name.replace("_finetuning_", "_dialogs_dataset_")).with_suffix(".json")
    if beside == rows_file or not beside.is_file():
        return None
    try:
        return dict(Counter(dialogue["channel"] for dialogue in msgspec.json.decode(beside.read_bytes())))
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise GovorError(f"{beside}: not as govor collect wrote it: {error}") from None


def write_json(stats: Statistics, path: Path, *, force: bool = False) -> None:
    """The numbers for programs; units are those of `Statistics`."""
    _write(path, msgspec.json.format(msgspec.json.encode(stats), indent=2).decode() + "\n", force)


def write_page(stats: Statistics, path: Path, *, force: bool = False) -> None:
    """One HTML page with tables and plots that fetches nothing."""
    parts = list(map(_html, _sections(stats)))
    plots = [("Turns a row", stats.turns, "rows"), ("Tokens a row", stats.tokens and stats.tokens.rows, "rows")]
    plots += [(f"Characters a message, {name}", side.characters, "messages") for name, side in _sides(stats)]
    parts += [_plot(title, spread, counted) for title, spread, counted in plots if spread]
    _write(path, PAGE.format(title=f"{stats.rows:,} rows", sections="\n".join(parts)), force)


def _write(path: Path, text: str, force: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    require_new(path, force)
    write_whole(path, [text], replace=force)


def _sections(stats: Statistics) -> list[Section]:
    quality = stats.quality
    failed = [(CRITERIA[name], f"{rows:,}") for name, rows in quality.failed.items()]
    good = f"Good, failing nothing: {quality.good.rows:,} of {stats.rows:,} rows ({quality.good.share:.1%})."
    sections = [
        Section("Rows", ("", ""), _facts(stats)),
        _lengths(stats),
        _style(stats),
        _by("Topics", stats.topics, "A row may have several topics."),
    ]
    if stats.channels is not None:
        counted = sum(share.rows for share in stats.channels.values())
        other = "" if counted == stats.rows else f"These are {counted:,} rows, the file has {stats.rows:,}."
        sections.append(_by("Channels", stats.channels, other))
    words = ", ".join(f"{lemma} {count:,}" for lemma, count in stats.vocabulary.content_lemmas) or "none"
    return [
        *sections,
        Section(
            "Vocabulary of the assistant", ("", ""), _vocabulary(stats), f"Most frequent: {words}" if words else ""
        ),
        Section("Quality", ("A row is good when", "rows that fail"), failed, good),
    ]


def _facts(stats: Statistics) -> list[tuple[str, str]]:
    duplicates, personal, tokens = stats.duplicates, stats.personal_data, stats.tokens
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in personal.found.items())
    facts = [
        ("rows", f"{stats.rows:,}"),
        ("messages, system messages aside", f"{stats.messages:,}"),
        ("rows that repeat an earlier one exactly", f"{duplicates.exact_rows:,}"),
        (f"rows that repeat an earlier one nearly (from {duplicates.threshold})", f"{duplicates.near_rows:,}"),
        ("rows with personal data, names not looked for", f"{personal.rows:,}" + (f" ({kinds})" if kinds else "")),
    ]
    if tokens is not None and tokens.max_length is not None:
        facts.append((f"rows longer than {tokens.max_length:,} tokens", f"{tokens.rows_over_max_length:,}"))
    return facts


def _lengths(stats: Statistics) -> Section:
    spreads = [("turns a row", stats.turns), ("tokens a row", stats.tokens and stats.tokens.rows)]
    spreads += [(f"characters a message, {name}", side.characters) for name, side in _sides(stats)]
    rows = [
        (name, f"{s.mean:,.1f}", f"{s.median:,.0f}", f"{s.p5:,.0f}", f"{s.p95:,.0f}", f"{s.max:,}")
        for name, s in spreads
        if s
    ]
    return Section("Lengths", ("", "mean", "median", "5 %", "95 %", "longest"), rows)


def _style(stats: Statistics) -> Section:
    names = {
        "question_share": "hold a question",
        "closing_question_share": "end with a question",
        "emoji_share": "hold an emoji",
        "bracket_smile_share": "hold a bracket smile",
    }
    sides = [side for _, side in _sides(stats)]
    rows = [(text, *(_percent(getattr(side, name)) for side in sides)) for name, text in names.items()]
    counts = [("messages", *(f"{side.messages:,}" for side in sides))]
    counts.append(("without text, left out", *(f"{side.without_text:,}" for side in sides)))
    return Section("Messages", ("", *(name for name, _ in _sides(stats))), [*counts, *rows])


def _sides(stats: Statistics) -> tuple[tuple[str, Side], tuple[str, Side]]:
    return (("user", stats.user), ("assistant", stats.assistant))


def _vocabulary(stats: Statistics) -> list[tuple[str, str]]:
    found = stats.vocabulary
    facts = [("words", f"{found.words:,}"), ("different words by dictionary form", f"{found.distinct_lemmas:,}")]
    if found.type_token_ratio is not None:
        name = f"type/token ratio of the first {found.ratio_words:,} words"
        facts.append((name, f"{found.type_token_ratio:.3f}"))
    return facts


def _by(title: str, shares: Mapping[str, Share], note: str) -> Section:
    rows = [(name, f"{share.rows:,}", _percent(share.share)) for name, share in shares.items()]
    return Section(title, ("", "rows", "share"), rows, note, [share.share for share in shares.values()])


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _html(section: Section) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in section.head) + ("<th></th>" if section.shares else "")
    rows = [f"<tr>{head}</tr>"] if any(section.head) else []
    for number, cells in enumerate(section.rows):
        line = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        if section.shares:
            line += f'<td class="wide"><div class="bar" style="width:{min(section.shares[number], 1):.1%}"></div></td>'
        rows.append(f"<tr>{line}</tr>")
    note = f"<p>{escape(section.note)}</p>" if section.note else ""
    return f"<h2>{escape(section.title)}</h2><table>{''.join(rows)}</table>{note}"


def _plot(title: str, spread: Spread, counted: str) -> str:
    """A histogram as SVG below its title."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    axes.stairs(spread.counts, spread.edges, fill=True)
    axes.set_xlabel(title.lower())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(counted)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    svg = buffer.getvalue()
    beyond = f"<p>{spread.beyond:,} more, up to {spread.max:,}, lie to the right of it.</p>" if spread.beyond else ""
    return f"<h2>{escape(title)}</h2>{svg[svg.index('<svg') :]}{beyond}"
