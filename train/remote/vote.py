"""govor vote: a page on this machine that shows two answers to a prompt, without a word of who gave them.

The server alone knows whose they are; it tells when it is asked to reveal, and takes no more votes then.
"""

import sys
from collections.abc import Mapping
from contextlib import closing
from html import escape
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel

from train.chats.rows import text_of
from train.core.errors import DataError, RunError
from train.core.files import lock_file
from train.core.pages import Language, Say, html_page, language_of_locale, speaker
from train.evaluation.intervals import Interval
from train.remote.compare import FOLDER, Compared, read_answers
from train.remote.votes import Pair, Result, Said, Votes, expected, pairs_of, tally, write_preferences
from train.serving.answering import read_body
from train.serving.api_errors import ApiError, install_error_handlers, read_request
from train.serving.guard import Access, guard

MOST_BODY = 1000
"""Bytes of a vote."""
POLICY = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'"
RUSSIAN = {
    "{name}: which answer is better?": "{name}: какой ответ лучше?",
    "The first is better": "Лучше первый",
    "The second is better": "Лучше второй",
    "No difference": "Одинаково",
    "Skip": "Пропустить",
    "Back": "Назад",
    "Reveal": "Раскрыть",
    "Reveal now? There are pairs left, and no more votes are taken after it.": (
        "Раскрыть сейчас? Остались пары, а после этого голоса не принимаются."
    ),
    "The server has ended: start it again with govor vote {name}.": (
        "Сервер остановлен: запустите его снова командой govor vote {name}."
    ),
    "All pairs are done.": "Все пары просмотрены.",
    "Keys: ← first, → second, ↓ no difference, space skip, Backspace back.": (
        "Клавиши: ← первый, → второй, ↓ одинаково, пробел — пропустить, Backspace — назад."
    ),
    "{pairs} pairs. A win rate will be known to ±{all:.0f} points after all of them": (
        "Пар: {pairs}. После всех доля побед будет известна с точностью ±{all:.0f} пунктов"
    ),
    ", to ±{some:.0f} after {count}": ", после {count} — ±{some:.0f}",
    ", for each of {duels} pairs of models": ", для каждой из {duels} пар моделей",
    "{one} against {other}": "{one} против {other}",
    "how often the first was better": "как часто лучше был первый",
    "model": "модель",
    "points": "очки",
    "votes": "голосов",
    "ties": "ничьих",
    "interval of 95 %": "интервал 95 %",
    "no votes": "голосов нет",
    "Skipped: {skipped}. The answer shown first was better in {share:.0%} ({low:.0%} to {high:.0%}).": (
        "Пропущено: {skipped}. Показанный первым ответ был лучше в {share:.0%} ({low:.0%}–{high:.0%})."
    ),
    "Points after Bradley and Terry: 100 more is better in 64 of 100 pairs.": (
        "Очки по Брэдли — Терри: на 100 больше — лучше в 64 парах из 100."
    ),
    "A tie counts as half. An interval that holds 50 %: the votes do not tell which is better.": (
        "Ничья — половина победы. Если интервал включает 50 %, голоса не говорят, что лучше."
    ),
    "Decided pairs as rows for preference tuning: {path}": "Решённые пары для обучения на предпочтениях: {path}",
}
STYLE = """<style>
 .answers { display: grid; gap: 1rem; grid-template-columns: 1fr 1fr }
 .answers > div, .asked { border: 1px solid #8886; border-radius: .5rem; padding: .2rem 1rem; white-space: pre-wrap;
 overflow-wrap: anywhere } .asked { border-width: 0 0 0 3px; border-radius: 0 }
 .keys { display: flex; flex-wrap: wrap; gap: .5rem; margin: 1rem 0 } button { font: inherit; padding: .6rem 1rem }
 [hidden] { display: none !important }
 @media (max-width: 40rem) { .answers { grid-template-columns: 1fr } button { flex: 1 0 40% } }
</style>"""


def vote(name: str, *, port: int, lang: Language | None) -> None:
    """Serve the page until Ctrl-C; every vote is on disk at once. RunError where another process takes votes."""
    import uvicorn

    from train.serving.serve import listen

    compared = read_answers(name)
    pairs = pairs_of(compared)
    if not pairs:
        raise DataError(f"{FOLDER / name}: no prompt has two different answers to choose from")
    lang = lang or language_of_locale()
    with (
        (FOLDER / name / "votes.jsonl").open("a+", encoding="utf-8") as file,
        closing(listen("127.0.0.1", port, None)) as listener,
    ):
        if lock_file(file) is False:
            raise RunError(f"{FOLDER / name}: another process takes votes there: go on with its page, or stop it first")
        app = vote_app(compared, Votes(pairs, file), lang)
        print(outlook(compared, pairs, speaker("en", {})))
        print(f"page: http://127.0.0.1:{listener.getsockname()[1]}; Ctrl-C ends it, votes are kept", flush=True)
        config = uvicorn.Config(app, log_level="error", access_log=False, server_header=False)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            print("ended", file=sys.stderr)


def outlook(compared: Compared, pairs: list[Pair], say: Say) -> str:
    """How well so many votes will tell, before the first is given."""
    duels = len(compared.answers) * (len(compared.answers) - 1) // 2
    each = len(pairs) / duels
    text = say(
        "{pairs} pairs. A win rate will be known to ±{all:.0f} points after all of them",
        pairs=len(pairs),
        all=expected(each),
    )
    for count in (30, 100):
        if each > count:
            text += say(", to ±{some:.0f} after {count}", some=expected(count), count=count)
    return text + (say(", for each of {duels} pairs of models", duels=duels) if duels > 1 else "") + "."


class Ballot(BaseModel):
    """A vote as the page sends it."""

    at: int
    said: Literal["left", "right", "tie", "skip"]


class Place(BaseModel):
    """Where the page is: the number of a pair, None behind the last."""

    at: int | None = None


def vote_app(compared: Compared, votes: Votes, lang: Language) -> FastAPI:
    """The page and what it asks for."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    say = speaker(lang, RUSSIAN)
    page = html_page(say("{name}: which answer is better?", name=compared.name), page_body(compared, votes, say), lang)
    script = Path(__file__).with_name("vote.js").read_bytes()
    headers = {"content-security-policy": POLICY, "cache-control": "no-store", "x-content-type-options": "nosniff"}

    def shown(at: int | None) -> Response:
        done = sum(pair.key in votes.said for pair in votes.pairs)
        state: dict[str, Any] = {"done": done, "of": len(votes.pairs), "at": at, "result": None}
        if votes.revealed:
            result = result_html(compared, tally(compared, votes), say)
            return JSONResponse({**state, "at": None, "result": result}, headers=headers)
        if at is not None:
            pair = votes.pairs[at]
            turns = [text_of(m) for m in pair.messages if m["role"] not in ("system", "developer")]
            state |= {"asked": "\n— ".join(turns), "answers": pair.texts[::-1] if pair.swapped else pair.texts}
        return JSONResponse(state, headers=headers)

    @app.get("/")
    async def index() -> Response:
        return HTMLResponse(page, headers=headers)

    @app.get("/vote.js")
    async def javascript() -> Response:
        return Response(script, media_type="text/javascript", headers=headers)

    @app.get("/state")
    async def state() -> Response:
        return shown(votes.next())

    @app.post("/vote")
    async def take(request: Request) -> Response:
        ballot = read_request(Ballot, await read_body(request, MOST_BODY))
        if votes.revealed:
            raise ApiError(409, "The models were revealed: no more votes are taken.")
        if not 0 <= ballot.at < len(votes.pairs):
            raise ApiError(404, f"There is no pair {ballot.at}.")
        votes.vote(ballot.at, said_of(ballot, votes.pairs[ballot.at]))
        write_preferences(compared.name, votes)
        return shown(votes.next())

    @app.post("/back")
    async def back(request: Request) -> Response:
        place = read_request(Place, await read_body(request, MOST_BODY))
        before = votes.before(place.at)
        return shown(place.at if before is None else before)

    @app.post("/reveal")
    async def reveal() -> Response:
        if not votes.revealed:
            votes.reveal()
        write_preferences(compared.name, votes)
        return shown(None)

    guard(app, Access())
    install_error_handlers(app)
    return app


def said_of(ballot: Ballot, pair: Pair) -> Said:
    """The vote in terms of the pair, wherever its answers were shown."""
    if ballot.said in ("tie", "skip"):
        return ballot.said
    return "first" if (ballot.said == "left") != pair.swapped else "second"


def page_body(compared: Compared, votes: Votes, say: Say) -> str:
    """The page without a prompt yet; vote.js fills it."""
    buttons: Mapping[str, str] = {
        "left": "← " + say("The first is better"),
        "right": say("The second is better") + " →",
        "tie": "↓ " + say("No difference"),
        "skip": say("Skip"),
        "back": say("Back"),
        "reveal": say("Reveal"),
    }
    confirm = say("Reveal now? There are pairs left, and no more votes are taken after it.")
    gone = say("The server has ended: start it again with govor vote {name}.", name=compared.name)
    return f"""{STYLE}
<p>{escape(outlook(compared, list(votes.pairs), say))}
<p class="aid">{escape(say("Keys: ← first, → second, ↓ no difference, space skip, Backspace back."))}
<p><progress id="done" value="0" max="1"></progress> <span id="count" class="number"></span>
<main id="pair" hidden aria-live="polite"><p class="asked" id="asked"></p>
<div class="answers"><div id="left"></div><div id="right"></div></div></main>
<p id="all" hidden>{escape(say("All pairs are done."))}</p>
<div class="keys" id="keys" data-confirm="{escape(confirm)}" data-gone="{escape(gone)}">
{"".join(f'<button type="button" data-said="{said}">{escape(text)}</button>' for said, text in buttons.items())}</div>
<section id="result" hidden></section>
<script type="module" src="/vote.js"></script>"""


def result_html(compared: Compared, result: Result, say: Say) -> str:
    """What the votes tell, with the models' names."""
    heads = ("how often the first was better", "interval of 95 %", "votes", "ties")
    rows = []
    for duel in result.duels:
        names = say("{one} against {other}", one=duel.models[0], other=duel.models[1])
        cells = ["–", say("no votes"), "0", "0"]
        if duel.rate:
            cells = [say("{n:.0%}", n=duel.rate.value), _interval(duel.rate, say), f"{duel.votes}", f"{duel.ties}"]
        rows.append(f"<tr><th>{escape(names)}{''.join(f'<td>{cell}' for cell in cells)}")
    parts = [f"<table><tr><th>{''.join(f'<th>{say(head)}' for head in heads)}{''.join(rows)}</table>"]
    parts.append(
        f"<p>{say('A tie counts as half. An interval that holds 50 %: the votes do not tell which is better.')}"
    )
    if result.ratings:
        ratings = "".join(
            f"<tr><th>{escape(model)}<td>{rating.value:+.0f}<td>{rating.low:+.0f} … {rating.high:+.0f}"
            for model, rating in result.ratings.items()
        )
        parts.append(f"<table><tr><th>{say('model')}<th>{say('points')}<th>{say('interval of 95 %')}{ratings}</table>")
        parts.append(f"<p>{say('Points after Bradley and Terry: 100 more is better in 64 of 100 pairs.')}")
    if side := result.first_shown:
        text = "Skipped: {skipped}. The answer shown first was better in {share:.0%} ({low:.0%} to {high:.0%})."
        parts.append(f"<p>{say(text, skipped=result.skipped, share=side.value, low=side.low, high=side.high)}")
    path = FOLDER / compared.name / "preferences.jsonl"
    parts.append(f"<p>{escape(say('Decided pairs as rows for preference tuning: {path}', path=path))}")
    return "\n".join(parts)


def _interval(rate: Interval, say: Say) -> str:
    return say("{low:.0%}", low=rate.low) + " … " + say("{high:.0%}", high=rate.high)
