"""Draws the picture at the head of the README: from chats to a model that is served, with the verb of every step.

    python scripts/draw_way.py [OUT]        OUT: data/way.svg

The background is opaque and the colours follow the reader's light or dark setting, so the picture can be read on any
page. Needs nothing but Python.
"""

import sys
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

OUT = Path(__file__).resolve().parents[1] / "data/way.svg"


class Card(NamedTuple):
    """What lies on disk at one point of the way."""

    title: str
    lines: tuple[str, str]
    """What it is, in two short lines."""
    verbs: tuple[str, ...]
    """The commands that make it, or look at it."""


CARDS = (
    Card("chats", ("Telegram,", "JSONL, CSV, …"), ()),
    Card(
        "rows",
        ("checked,", "scrubbed"),
        ("collect · convert", "validate · scrub", "analyze", "generate · review", "preferences"),
    ),
    Card("ids + mask", ("any chat", "template"), ("inspect", "plan")),
    Card("adapter", ("LoRA, QLoRA,", "losses"), ("fetch · train", "runs · studio", "eval · chat")),
    Card("model", ("merged, drift", "measured"), ("merge",)),
    Card("use", ("OpenAI API, GGUF,", "Ollama, the Hub"), ("serve · bot", "compare · vote", "export · push")),
)
IN_RUN_FOLDER = 3, 4
"""First and last card of what lies in the run folder."""

WIDTH, HEIGHT, MARGIN = 960, 256, 20
CARD_WIDTH, CARD_HEIGHT, CARD_TOP, GAP = 132, 84, 24, 25.6
STYLE = """
  .page { fill: #f6f8fa; stroke: #d0d7de }
  .card { fill: #ffffff; stroke: #8c959f }
  .arrow { fill: none; stroke: #57606a; stroke-width: 1.6 }
  .folder { fill: none; stroke: #0969da; stroke-width: 1.4; stroke-dasharray: 5 4 }
  text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; text-anchor: middle }
  .title { fill: #1f2328; font-size: 16px; font-weight: 600 }
  .line { fill: #57606a; font-size: 12.5px }
  .verb { fill: #1f2328; font-size: 12px; font-family: ui-monospace, Menlo, "DejaVu Sans Mono", monospace }
  .note { fill: #0969da; font-size: 12.5px }
  @media (prefers-color-scheme: dark) {
    .page { fill: #161b22; stroke: #30363d }
    .card { fill: #21262d; stroke: #6e7681 }
    .arrow { stroke: #9198a1 }
    .folder { stroke: #58a6ff }
    .title, .verb { fill: #e6edf3 }
    .line { fill: #9da7b3 }
    .note { fill: #58a6ff }
  }
"""


def draw() -> str:
    """The whole picture."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img">',
        "<title>From chats to a model that is served</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="arrow" d="M1 1 L7 4 L1 7"/></marker></defs>',
        *folder(),
    ]
    for index, card in enumerate(CARDS):
        parts += draw_card(index, card)
        if index:
            middle = CARD_TOP + CARD_HEIGHT / 2
            parts.append(
                f'<path class="arrow" marker-end="url(#tip)" '
                f'd="M{left(index) - GAP + 3:.1f} {middle:g} H{left(index) - 3:.1f}"/>'
            )
    middle = WIDTH / 2
    parts.append(text("note", middle, HEIGHT - 18, "govor jobs serve: all of it behind OpenAI's fine-tuning API"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def left(index: int) -> float:
    """Where a card begins."""
    return MARGIN + index * (CARD_WIDTH + GAP)


def draw_card(index: int, card: Card) -> list[str]:
    """A card, its two lines, and below it the verbs."""
    middle = left(index) + CARD_WIDTH / 2
    verbs = (text("verb", middle, CARD_TOP + CARD_HEIGHT + 24 + 18 * n, verb) for n, verb in enumerate(card.verbs))
    return [
        f'<rect class="card" x="{left(index):.1f}" y="{CARD_TOP}" width="{CARD_WIDTH}" height="{CARD_HEIGHT}" rx="8"/>',
        text("title", middle, CARD_TOP + 29, card.title),
        *(text("line", middle, CARD_TOP + 51 + 17 * n, line) for n, line in enumerate(card.lines)),
        *verbs,
    ]


def folder() -> list[str]:
    """The frame around what lies in the run folder."""
    first, last = (left(index) for index in IN_RUN_FOLDER)
    bottom = CARD_TOP + CARD_HEIGHT + 95
    return [
        f'<rect class="folder" x="{first - 9:.1f}" y="{CARD_TOP - 9}" width="{last - first + CARD_WIDTH + 18:.1f}" '
        f'height="{bottom - CARD_TOP + 9}" rx="10"/>',
        text("note", (first + last + CARD_WIDTH) / 2, bottom - 12, "one run folder: runs/NAME"),
    ]


def text(kind: str, x: float, y: float, words: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:g}">{escape(words)}</text>'


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    out.write_text(draw(), encoding="utf-8", newline="\n")
    print(out)
