"""compare.html: the table of a comparison, and under it every prompt with the answers side by side."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from train.chats.rows import text_of
from train.core.files import write_atomically
from train.core.pages import Language, html_page, language_of_locale, speaker
from train.remote.compare import Column, Question, Table, number, title

RUSSIAN = {
    "{name}: {models}": "{name}: {models}",
    "the rows' own": "в самих строках",
    "no answer": "нет ответа",
    "A – is what is not known: a server on this machine takes nothing for a token.": (
        "Прочерк — неизвестно: сервер на этой машине за токены ничего не берёт."
    ),
    "Answers": "Ответы",
    "To choose without knowing who said what: govor vote {name}": "Выбирать, не зная, чей ответ: govor vote {name}",
}
STYLE = """<style>
 .scroll { overflow-x: auto }
 .side { display: grid; gap: 0 1.5rem; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)) }
 .said { white-space: pre-wrap; overflow-wrap: anywhere } h3 { margin-bottom: 0 }
 .asked { border-left: 3px solid #8886; padding-left: 1rem }
</style>"""


def write_page(
    folder: Path,
    name: str,
    questions: Sequence[Question],
    columns: Sequence[Column],
    table: Table,
    lang: Language | None,
) -> None:
    """Write the page, in the locale's language unless told."""
    lang = lang or language_of_locale()
    say = speaker(lang, RUSSIAN)
    labels = [column.label for column in columns]
    own = say("the rows' own")
    heads = [*labels, *([own] if len(next(iter(table.values()))) > len(labels) else [])]
    rows = "".join(
        f"<tr><th>{escape(title(measure, lang))}{''.join(f'<td>{number(value, lang)}' for value in values)}"
        for measure, values in table.items()
    )
    parts = [
        STYLE,
        f'<div class="scroll"><table><tr><th>{"".join(f"<th>{escape(head)}" for head in heads)}{rows}</table></div>',
        f"<p class='aid'>{say('A – is what is not known: a server on this machine takes nothing for a token.')}",
        f"<p>{escape(say('To choose without knowing who said what: govor vote {name}', name=name))}",
        f"<h2>{say('Answers')}</h2>",
    ]
    for at, question in enumerate(questions):
        asked = "\n— ".join(text_of(m) for m in question.messages if m["role"] not in ("system", "developer"))
        said = [(column.label, reply.text if (reply := column.replies[at]) else say("no answer")) for column in columns]
        said += [(own, question.real.text)] if question.real else []
        blocks = "".join(f"<div><h3>{escape(who)}</h3><p class='said'>{escape(text)}</div>" for who, text in said)
        parts.append(f"<p class='asked said'>{escape(asked)}</p><div class='side'>{blocks}</div>")
    page = html_page(say("{name}: {models}", name=name, models=", ".join(labels)), "\n".join(parts), lang)
    write_atomically(folder / "compare.html", page)
