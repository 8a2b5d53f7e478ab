"""Statistics of rows for people and programs: tables in the terminal, one self-contained page, JSON."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from html import escape
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from train.chats.readers import read_rows
from train.chats.rows import Row
from train.chats.statistics import (
    DEFAULT_GOOD,
    Distribution,
    Good,
    RoleStatistics,
    RowShare,
    Statistics,
    statistics,
)
from train.chats.statistics_words import ENGLISH, RUSSIAN
from train.chats.topics import load_topics
from train.core.errors import GovorError
from train.core.files import require_new, write_whole
from train.core.pages import Language, Say, html_page, language_of_locale, prose, speaker, svg

NUMBER = re.compile(r"[\d\s.,%–]+")
"""A cell that is kept on one line."""
LISTED = 200  # rows on the page for each criterion; the JSON has them all
LISTED_IN_TERMINAL = 10


class PageSection(NamedTuple):
    """A table, the same in the terminal and on the page."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    aid: str = ""
    """How to read the table; on the page alone."""
    shares: Sequence[float] = ()
    """A share for each row, drawn on the page as a bar beside it."""
    anchor: str = ""
    """By which links on the page lead to the table."""
    links: Sequence[str] = ()
    """For each row the anchor that its last cell leads to, or nothing."""


def analyze(
    file: Path,
    folder: Path,
    *,
    topics_file: Path | None,
    load_counter: Callable[[], Callable[[Row], int]] | None,
    max_length: int | None,
    good: Good = DEFAULT_GOOD,
    lang: Language | None = None,
    force: bool,
) -> None:
    """Measure the file's rows; print the tables, and write them as JSON and as a page to `folder`.

    `load_counter` loads what counts a row's tokens; without it tokens are not counted. Without `topics_file`
    topics come from the rows. `lang` is the page's, by default that of the locale.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"dataset_stats.{ending}" for ending in ("json", "html")]
    for path in files:
        require_new(path, force)
    rows = read_rows(file)
    stats = statistics(
        rows,
        topics=load_topics(topics_file) if topics_file else None,
        good=good,
        count_tokens=load_counter() if load_counter else None,
        max_length=max_length,
        channels=channels_of(file),
    )
    Console().print(to_terminal(stats))
    write_json(stats, files[0], force=force)
    title = f"{file.name}, {date.today().isoformat()}"
    write_page(stats, files[1], title=title, lang=lang or language_of_locale(), force=force)
    for path in files:
        print(f"wrote {path}")


def to_terminal(stats: Statistics) -> RenderableType:
    """All tables, one below the other."""
    parts: list[RenderableType] = []
    for section in _sections(stats, "en", LISTED_IN_TERMINAL):
        table = Table(box=None, pad_edge=False, show_header=any(section.header))
        for number, name in enumerate(section.header):
            table.add_column(Text(name), justify="right" if number else "left", overflow="fold")
        for row in section.rows:
            table.add_row(*map(Text, row))  # Text: square brackets in a topic's name are no markup
        parts += [Text(section.title, "bold"), table, Text(f"{section.note}\n" if section.note else "")]
    return Group(*parts)


def channels_of(rows_file: Path) -> dict[str, int] | None:
    """Channel → its dialogues, from the file that `govor collect` wrote beside the rows, or that this one is.

    None where there is none.
    """
    dialogues_file = rows_file.with_name(rows_file.name.replace("_finetuning_", "_dialogs_dataset_")).with_suffix(
        ".json"
    )
    if "_dialogs_dataset_" not in dialogues_file.name or not dialogues_file.is_file():
        return None
    try:
        return dict(Counter(dialogue["channel"] for dialogue in msgspec.json.decode(dialogues_file.read_bytes())))
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise GovorError(f"{dialogues_file}: not as govor collect wrote it: {error}") from None


def write_json(stats: Statistics, path: Path, *, force: bool = False) -> None:
    """Write the numbers as JSON, for programs; their units are those of `Statistics`."""
    _write(path, msgspec.json.format(msgspec.json.encode(stats), indent=2).decode() + "\n", force)


def write_page(stats: Statistics, path: Path, *, title: str = "", lang: Language = "en", force: bool = False) -> None:
    """Write one HTML page with tables and plots that fetches nothing; `title` says which file it is of, and when."""
    parts = [_html(section) for section in _sections(stats, lang, LISTED)]
    say = speaker(lang, RUSSIAN, ENGLISH)
    rows, messages = say("rows"), say("messages")
    plots = [
        (say("Turns a row"), stats.turns, rows),
        (say("Tokens a row"), stats.tokens and stats.tokens.rows, rows),
        *((say(f"Characters a message, {name}"), role.characters, messages) for name, role in _roles(stats)),
    ]
    parts += [_plot(name, distribution, counted, say) for name, distribution, counted in plots if distribution]
    heading = (f"{title}: " if title else "") + say("{n:,} rows", n=stats.rows)
    _write(path, html_page(heading, "\n".join(parts), lang), force)


def _write(path: Path, text: str, force: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    require_new(path, force)
    write_whole(path, [text], replace=force)


def _sections(stats: Statistics, lang: Language, listed: int) -> list[PageSection]:
    """All tables in a language; of rows that fail `listed` for each criterion."""
    say = speaker(lang, RUSSIAN, ENGLISH)
    quality = stats.quality
    criteria = quality.settings.criteria()
    failed = [(_criterion(say, name, quality.settings), say("{n:,}", n=rows)) for name, rows in quality.failed.items()]
    links = [f"fails-{name}" if rows else "" for name, rows in quality.failed.items()]
    good = say(
        "Good, failing nothing: {n:,} of {whole:,} rows ({share:.1%}).",
        n=quality.good.rows, whole=stats.rows, share=quality.good.share,
    )  # fmt: skip
    sections = [
        PageSection(say("Rows"), ("", ""), _overview(stats, say), aid=say("AID rows")),
        _lengths(stats, say),
        _style(stats, say),
        _share_section(say("Topics"), stats.topics, say, say("AID topics")),
    ]
    if stats.channels is not None:
        counted = sum(share.rows for share in stats.channels.values())
        known = say("These are {n:,} rows, the file has {whole:,}.", n=counted, whole=stats.rows)
        note = known if counted != stats.rows else ""
        sections.append(_share_section(say("Channels"), stats.channels, say, say("AID channels"), note))
    words = ", ".join(f"{lemma} {say('{n:,}', n=count)}" for lemma, count in stats.vocabulary.content_lemmas) or say(
        "none"
    )
    return [
        *sections,
        PageSection(
            say("Vocabulary of the assistant"), ("", ""), _vocabulary(stats, say),
            say("Most frequent: {words}", words=words), say("AID vocabulary"),
        ),
        PageSection(
            say("Quality"), (say("A row is good when"), say("rows that fail")), failed,
            good, say("AID quality"), links=links,
        ),
        *(_failing(stats, name, say, listed) for name in criteria if quality.failed[name]),
    ]  # fmt: skip


def _criterion(say: Say, name: str, good: Good) -> str:
    """What a good row fulfils, in words."""
    return say(
        f"CRITERION {name}", en=good.criteria()[name], shortest=good.min_answer, longest=good.max_answer,
        letters=good.min_letters, similar=good.similar,
    )  # fmt: skip


def _failing(stats: Statistics, criterion: str, say: Say, listed: int) -> PageSection:
    """The rows that fail a criterion, each with its line in the file and what is the matter."""
    rows = [row for row in stats.quality.rows if criterion in row.reasons]
    shown = [(str(row.line), _reason(criterion, row.reasons[criterion], say)) for row in rows[:listed]]
    more = say("{n:,} more are in dataset_stats.json.", n=len(rows) - listed) if len(rows) > listed else ""
    header = (say("line"), say(f"REASON {criterion}"))
    aid = say("AID fails", line=str(rows[0].line))
    return PageSection(say(f"FAILS {criterion}"), header, shown, more, aid, anchor=f"fails-{criterion}")


def _reason(criterion: str, reason: str, say: Say) -> str:
    """What is the matter with a row, in the page's language."""
    if criterion == "personal_data":
        return ", ".join(say(f"KIND {kind}") for kind in reason.split(", "))
    return say("yes") if criterion == "echo" else reason


def _overview(stats: Statistics, say: Say) -> list[tuple[str, str]]:
    duplicates, personal, tokens = stats.duplicates, stats.personal_data, stats.tokens
    kinds = ", ".join(f"{say(f'KIND {kind}')} {say('{n:,}', n=count)}" for kind, count in personal.found.items())
    nearly = say("rows that repeat an earlier one nearly (from {threshold})", threshold=duplicates.threshold)
    facts = [
        (say("rows"), say("{n:,}", n=stats.rows)),
        (say("messages, system messages aside"), say("{n:,}", n=stats.messages)),
        (say("rows that repeat an earlier one exactly"), say("{n:,}", n=duplicates.exact_rows)),
        (nearly, say("{n:,}", n=duplicates.near_rows)),
        (
            say("rows with personal data, names not looked for"),
            say("{n:,}", n=personal.rows) + (f" ({kinds})" if kinds else ""),
        ),
    ]
    if tokens is not None and tokens.max_length is not None:
        facts.append(
            (say("rows longer than {n:,} tokens", n=tokens.max_length), say("{n:,}", n=tokens.rows_over_max_length))
        )
    return facts


def _lengths(stats: Statistics, say: Say) -> PageSection:
    distributions = [("turns a row", stats.turns), ("tokens a row", stats.tokens and stats.tokens.rows)]
    distributions += [(f"characters a message, {name}", role.characters) for name, role in _roles(stats)]
    rows = [
        (
            say(name),
            say("{n:,.1f}", n=s.mean),
            *(say("{n:,.0f}", n=each) for each in (s.median, s.p5, s.p95)),
            say("{n:,}", n=s.max),
        )
        for name, s in distributions
        if s
    ]
    header = ("", *map(say, ("mean", "median", "5 %", "95 %", "most")))
    return PageSection(say("Lengths"), header, rows, aid=say("AID lengths"))


def _style(stats: Statistics, say: Say) -> PageSection:
    names = {
        "question_share": "hold a question",
        "closing_question_share": "end with a question",
        "emoji_share": "hold an emoji",
        "bracket_smile_share": "hold a bracket smile",
    }
    roles = [role for _, role in _roles(stats)]
    rows = [(say(text), *(_percent(getattr(role, name), say) for role in roles)) for name, text in names.items()]
    counts = [(say("messages"), *(say("{n:,}", n=role.messages) for role in roles))]
    counts.append((say("without text, left out"), *(say("{n:,}", n=role.without_text) for role in roles)))
    return PageSection(
        say("Messages"), ("", *(say(name) for name, _ in _roles(stats))), [*counts, *rows], aid=say("AID style")
    )


def _roles(stats: Statistics) -> tuple[tuple[str, RoleStatistics], tuple[str, RoleStatistics]]:
    return (("user", stats.user), ("assistant", stats.assistant))


def _vocabulary(stats: Statistics, say: Say) -> list[tuple[str, str]]:
    words = stats.vocabulary
    facts = [(say("words"), say("{n:,}", n=words.words))]
    facts.append((say("different words"), say("{n:,}", n=words.distinct_forms)))
    if words.type_token_ratio is not None:
        name = say("type/token ratio of the first {n:,} words", n=words.ratio_words)
        facts.append((name, say("{n:.3f}", n=words.type_token_ratio)))
    return facts


def _share_section(title: str, shares: Mapping[str, RowShare], say: Say, aid: str, note: str = "") -> PageSection:
    rows = [(name, say("{n:,}", n=share.rows), _percent(share.share, say)) for name, share in shares.items()]
    header = ("", say("rows"), say("share"))
    return PageSection(title, header, rows, note, aid, [share.share for share in shares.values()])


def _percent(share: float | None, say: Say) -> str:
    return "–" if share is None else say("{n:.1%}", n=share)


def _html(section: PageSection) -> str:
    header = "".join(f"<th>{prose(name)}</th>" for name in section.header) + ("<th></th>" if section.shares else "")
    rows = [f"<tr>{header}</tr>"] if any(section.header) else []
    for number, cells in enumerate(section.rows):
        texts = [prose(cell) for cell in cells]
        if section.links and section.links[number]:
            texts[-1] = f'<a href="#{section.links[number]}">{texts[-1]}</a>'
        line = "".join(
            f'<td class="number">{text}</td>' if NUMBER.fullmatch(cell) else f"<td>{text}</td>"
            for cell, text in zip(cells, texts, strict=True)
        )
        if section.shares:
            line += f'<td class="wide"><div class="bar" style="width:{min(section.shares[number], 1):.1%}"></div></td>'
        rows.append(f"<tr>{line}</tr>")
    note = f"<p>{prose(section.note)}</p>" if section.note else ""
    note += f'<p class="aid">{prose(section.aid)}</p>' if section.aid else ""
    anchor = f' id="{section.anchor}"' if section.anchor else ""
    return f"<h2{anchor}>{escape(section.title)}</h2><table>{''.join(rows)}</table>{note}"


def _plot(title: str, distribution: Distribution, counted: str, say: Say) -> str:
    """A histogram as SVG below its title."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6, 2.5), layout="constrained")
    axes = figure.subplots()
    axes.stairs(distribution.counts, distribution.edges, fill=True)
    axes.set_xlabel(title.lower())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(counted)
    aid = say("AID plot", counted=counted)
    if distribution.beyond:
        aid += " " + say(
            "{n:,} more, up to {most:,}, lie to the right of it.", n=distribution.beyond, most=distribution.max
        )
    return f'<h2>{escape(title)}</h2>{svg(figure)}<p class="aid">{prose(aid)}</p>'
