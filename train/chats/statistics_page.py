"""Statistics of rows for people and programs: tables in the terminal, one self-contained page, JSON."""

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from train.chats.readers import read_rows
from train.chats.rows import Row
from train.chats.statistics import CRITERIA, Distribution, RoleStatistics, RowShare, Statistics, statistics
from train.chats.topics import load_topics
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


class PageSection(NamedTuple):
    """A table, the same in the terminal and on the page."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    shares: Sequence[float] = ()
    """A share for each row, drawn on the page as a bar beside it."""


def analyze(
    file: Path,
    folder: Path,
    *,
    topics_file: Path | None,
    load_counter: Callable[[], Callable[[Row], int]] | None,
    max_length: int | None,
    force: bool,
) -> None:
    """Measure the file's rows; print the tables, and write them as JSON and as a page to `folder`.

    `load_counter` loads what counts a row's tokens; without it tokens are not counted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"dataset_stats.{ending}" for ending in ("json", "html")]
    for path in files:
        require_new(path, force)
    rows = read_rows(file)
    stats = statistics(
        rows,
        topics=load_topics(topics_file),
        count_tokens=load_counter() if load_counter else None,
        max_length=max_length,
        channels=channels_of(file),
    )
    Console().print(to_terminal(stats))
    write_json(stats, files[0], force=force)
    write_page(stats, files[1], force=force)
    for path in files:
        print(f"wrote {path}")


def to_terminal(stats: Statistics) -> RenderableType:
    """All tables, one below the other."""
    parts: list[RenderableType] = []
    for section in _sections(stats):
        title = Text(section.title, "bold")
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=any(section.header))
        for number, name in enumerate(section.header):
            table.add_column(Text(name), justify="right" if number else "left", overflow="fold")
        for row in section.rows:
            table.add_row(*map(Text, row))  # Text: square brackets in a topic's name are no markup
        parts += [table, Text(f"{section.note}\n" if section.note else "")]
    return Group(*parts)


def channels_of(rows_file: Path) -> dict[str, int] | None:
    """Channel → its dialogues, from the file that `govor collect` wrote beside the rows; None where there is none."""
    dialogues_file = rows_file.with_name(rows_file.name.replace("_finetuning_", "_dialogs_dataset_")).with_suffix(
        ".json"
    )
    if dialogues_file == rows_file or not dialogues_file.is_file():
        return None
    try:
        return dict(Counter(dialogue["channel"] for dialogue in msgspec.json.decode(dialogues_file.read_bytes())))
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise GovorError(f"{dialogues_file}: not as govor collect wrote it: {error}") from None


def write_json(stats: Statistics, path: Path, *, force: bool = False) -> None:
    """Write the numbers as JSON, for programs; their units are those of `Statistics`."""
    _write(path, msgspec.json.format(msgspec.json.encode(stats), indent=2).decode() + "\n", force)


def write_page(stats: Statistics, path: Path, *, force: bool = False) -> None:
    """Write one HTML page with tables and plots that fetches nothing."""
    parts = list(map(_html, _sections(stats)))
    plots = [("Turns a row", stats.turns, "rows"), ("Tokens a row", stats.tokens and stats.tokens.rows, "rows")]
    plots += [(f"Characters a message, {name}", role.characters, "messages") for name, role in _roles(stats)]
    parts += [_plot(title, distribution, counted) for title, distribution, counted in plots if distribution]
    _write(path, PAGE.format(title=f"{stats.rows:,} rows", sections="\n".join(parts)), force)


def _write(path: Path, text: str, force: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    require_new(path, force)
    write_whole(path, [text], replace=force)


def _sections(stats: Statistics) -> list[PageSection]:
    quality = stats.quality
    failed = [(CRITERIA[name], f"{rows:,}") for name, rows in quality.failed.items()]
    good = f"Good, failing nothing: {quality.good.rows:,} of {stats.rows:,} rows ({quality.good.share:.1%})."
    sections = [
        PageSection("Rows", ("", ""), _overview(stats)),
        _lengths(stats),
        _style(stats),
        _share_section("Topics", stats.topics, "A row may have several topics."),
    ]
    if stats.channels is not None:
        counted = sum(share.rows for share in stats.channels.values())
        other = "" if counted == stats.rows else f"These are {counted:,} rows, the file has {stats.rows:,}."
        sections.append(_share_section("Channels", stats.channels, other))
    words = ", ".join(f"{lemma} {count:,}" for lemma, count in stats.vocabulary.content_lemmas) or "none"
    return [
        *sections,
        PageSection(
            "Vocabulary of the assistant", ("", ""), _vocabulary(stats), f"Most frequent: {words}" if words else ""
        ),
        PageSection("Quality", ("A row is good when", "rows that fail"), failed, good),
    ]


def _overview(stats: Statistics) -> list[tuple[str, str]]:
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


def _lengths(stats: Statistics) -> PageSection:
    distributions = [("turns a row", stats.turns), ("tokens a row", stats.tokens and stats.tokens.rows)]
    distributions += [(f"characters a message, {name}", role.characters) for name, role in _roles(stats)]
    rows = [
        (name, f"{s.mean:,.1f}", f"{s.median:,.0f}", f"{s.p5:,.0f}", f"{s.p95:,.0f}", f"{s.max:,}")
        for name, s in distributions
        if s
    ]
    return PageSection("Lengths", ("", "mean", "median", "5 %", "95 %", "longest"), rows)


def _style(stats: Statistics) -> PageSection:
    names = {
        "question_share": "hold a question",
        "closing_question_share": "end with a question",
        "emoji_share": "hold an emoji",
        "bracket_smile_share": "hold a bracket smile",
    }
    roles = [role for _, role in _roles(stats)]
    rows = [(text, *(_percent(getattr(role, name)) for role in roles)) for name, text in names.items()]
    counts = [("messages", *(f"{role.messages:,}" for role in roles))]
    counts.append(("without text, left out", *(f"{role.without_text:,}" for role in roles)))
    return PageSection("Messages", ("", *(name for name, _ in _roles(stats))), [*counts, *rows])


def _roles(stats: Statistics) -> tuple[tuple[str, RoleStatistics], tuple[str, RoleStatistics]]:
    return (("user", stats.user), ("assistant", stats.assistant))


def _vocabulary(stats: Statistics) -> list[tuple[str, str]]:
    words = stats.vocabulary
    facts = [("words", f"{words.words:,}"), ("different words by dictionary form", f"{words.distinct_lemmas:,}")]
    if words.type_token_ratio is not None:
        name = f"type/token ratio of the first {words.ratio_words:,} words"
        facts.append((name, f"{words.type_token_ratio:.3f}"))
    return facts


def _share_section(title: str, shares: Mapping[str, RowShare], note: str) -> PageSection:
    rows = [(name, f"{share.rows:,}", _percent(share.share)) for name, share in shares.items()]
    return PageSection(title, ("", "rows", "share"), rows, note, [share.share for share in shares.values()])


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _html(section: PageSection) -> str:
    header = "".join(f"<th>{escape(name)}</th>" for name in section.header) + ("<th></th>" if section.shares else "")
    rows = [f"<tr>{header}</tr>"] if any(section.header) else []
    for number, cells in enumerate(section.rows):
        line = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        if section.shares:
            line += f'<td class="wide"><div class="bar" style="width:{min(section.shares[number], 1):.1%}"></div></td>'
        rows.append(f"<tr>{line}</tr>")
    note = f"<p>{escape(section.note)}</p>" if section.note else ""
    return f"<h2>{escape(section.title)}</h2><table>{''.join(rows)}</table>{note}"


def _plot(title: str, distribution: Distribution, counted: str) -> str:
    """A histogram as SVG below its title."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    axes.stairs(distribution.counts, distribution.edges, fill=True)
    axes.set_xlabel(title.lower())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(counted)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    svg = buffer.getvalue()
    beyond = ""
    if distribution.beyond:
        beyond = f"<p>{distribution.beyond:,} more, up to {distribution.max:,}, lie to the right of it.</p>"
    return f"<h2>{escape(title)}</h2>{svg[svg.index('<svg') :]}{beyond}"
