"""The frame of the HTML pages that govor writes, their drawings and their language.

A page is one file that fetches nothing, right on a phone too, and as light or dark as the reader's system is.
"""

import io
import locale
import os
import re
from collections.abc import Mapping
from html import escape
from string import Formatter
from typing import Any, Literal, Protocol

Language = Literal["en", "ru"]
PAGE = """<!doctype html>
<html lang="{lang}"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
 :root {{ color-scheme: light dark }}
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
 table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }}
 td, th {{ border-top: 1px solid #8886; padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top;
 overflow-wrap: anywhere }}
 th {{ overflow-wrap: break-word }} .number {{ white-space: nowrap }} .text td {{ white-space: pre-wrap }}
 svg {{ max-width: 100%; height: auto; background: #fff }} h1, code {{ overflow-wrap: anywhere }}
 .bar {{ background: #1f77b4; height: 1rem }} .wide {{ width: 50% }} .verdict {{ font-size: 1.3rem }}
 .aid {{ opacity: .75 }} :target {{ background: #fff3c4; color: #222 }}
 pre {{ background: #8881; padding: 1rem; overflow-x: auto }}
 @media (max-width: 30rem) {{ body {{ margin: 1rem auto; padding: 0 .6rem; font-size: 15px }} .wide {{ width: 20% }}
 td, th {{ padding-right: .4rem }} th {{ font-size: 13px }} h1 {{ font-size: 1.4rem }} }}
</style>
<h1>{heading}</h1>
{body}
</html>
"""


class Say(Protocol):
    """A text in the language of a page, its fields filled in."""

    def __call__(self, text: str, **fields: Any) -> str: ...


def language_of_locale() -> Language:
    """Russian where the terminal speaks it, else English."""
    spoken = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG") or ""
    return "ru" if (spoken or locale.getlocale()[0] or "").lower().startswith("ru") else "en"


class _Russian(Formatter):
    """Writes numbers as Russian does: 1 234,5 and 54,3 %."""

    def format_field(self, value: Any, format_spec: str) -> str:
        text = str(super().format_field(value, format_spec))
        if not isinstance(value, (int, float)):
            return text
        return text.replace(",", "\u00a0").replace(".", ",").replace("%", "\u00a0%")


def speaker(lang: Language, russian: Mapping[str, str], english: Mapping[str, str] | None = None) -> Say:
    """What says texts in the language: each is looked up by its English wording, or by a key that both tables have.

    A text without letters outside its fields, as `{n:,}`, needs no entry. KeyError where the Russian table lacks one.
    """

    def say(text: str, **fields: Any) -> str:
        if lang == "en":
            wording = (english or {}).get(text, text)
            return wording.format(**fields) if fields else wording
        bare = text.startswith("{") and text.endswith("}") and text.count("{") == 1
        wording = text if bare else russian[text]
        return _Russian().format(wording, **fields) if fields else wording

    return say


def html_page(title: str, body: str, lang: Language) -> str:
    """The whole page; `title` is plain text, `body` HTML."""
    heading = re.sub("[0-9]{4}-[0-9]{2}-[0-9]{2}", r'<span class="number">\g<0></span>', escape(title))  # on one line
    return PAGE.format(title=escape(title), heading=heading, body=body, lang=lang)


def prose(text: str) -> str:
    """A text as HTML: `code` between backticks, and no line break before a percent sign."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text)).replace(" %", "\u00a0%")


def svg(figure: Any) -> str:
    """A figure of matplotlib as SVG for a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]
