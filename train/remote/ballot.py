"""Two answers to a prompt, without a word of who gave them: what `govor vote` and the studio ask for and send.

The server alone knows whose they are; it tells when it is asked to reveal, and takes no more votes then. vote.js and
vote.css draw it, in both.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from train.chats.rows import text_of
from train.core.errors import DataError, RunError
from train.core.files import lock_file
from train.core.pages import Language, Say, speaker
from train.evaluation.intervals import Interval
from train.remote.answers import Compared, read_answers
from train.remote.votes import Pair, Result, Said, Votes, expected, pairs_of, tally, write_preferences
from train.serving.answering import read_body
from train.serving.api_errors import ApiError, read_request

SCRIPT, STYLE = (Path(__file__).with_name(name) for name in ("vote.js", "vote.css"))
MOST_BODY = 1000
"""Bytes of a vote."""
UNKEPT = {"cache-control": "no-store"}
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


class Voting(NamedTuple):
    """A comparison, and the votes on it."""

    compared: Compared
    votes: Votes


@contextmanager
def open_voting(folder: Path) -> Iterator[Voting]:
    """The votes on a comparison, for this process alone; RunError where another one takes votes there."""
    answers = folder / "answers.jsonl"
    stat = answers.stat() if answers.is_file() else None
    compared, pairs = _compared(folder, stat and (stat.st_mtime_ns, stat.st_size))
    if not pairs:
        raise DataError(f"{folder}: no prompt has two different answers to choose from")
    with (folder / "votes.jsonl").open("a+", encoding="utf-8") as file:
        if lock_file(file) is False:
            raise RunError(f"{folder}: another process takes votes there: go on with its page, or stop it first")
        yield Voting(compared, Votes(pairs, file))


@lru_cache(maxsize=4)
def _compared(folder: Path, written: tuple[int, int] | None) -> tuple[Compared, list[Pair]]:
    """The comparison and its pairs; `written`: when and how long, so that what was written anew is read anew."""
    compared = read_answers(folder)
    return compared, pairs_of(compared)


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


def add_ballot(routes: APIRouter | FastAPI, opened: Callable[[Request], AbstractContextManager[Voting]]) -> None:
    """Give an app, or a part of one, what vote.js asks for. `opened`: the voting that a request is about."""

    @routes.get("/texts")
    async def texts(request: Request, lang: Language = "en") -> Response:
        with opened(request) as (compared, votes):
            return JSONResponse(texts_of(compared, votes, speaker(lang, RUSSIAN)), headers=UNKEPT)

    @routes.get("/state")
    async def state(request: Request, lang: Language = "en") -> Response:
        with opened(request) as voting:
            return shown(voting, voting.votes.next(), lang)

    @routes.post("/vote")
    async def take(request: Request, lang: Language = "en") -> Response:
        ballot = read_request(Ballot, await read_body(request, MOST_BODY))
        with opened(request) as (compared, votes):
            if votes.revealed:
                raise ApiError(409, "The models were revealed: no more votes are taken.")
            if not 0 <= ballot.at < len(votes.pairs):
                raise ApiError(404, f"There is no pair {ballot.at}.")
            votes.vote(ballot.at, said_of(ballot, votes.pairs[ballot.at]))
            write_preferences(compared.folder, votes)
            return shown(Voting(compared, votes), votes.next(), lang)

    @routes.post("/back")
    async def back(request: Request, lang: Language = "en") -> Response:
        place = read_request(Place, await read_body(request, MOST_BODY))
        with opened(request) as voting:
            before = voting.votes.before(place.at)
            return shown(voting, place.at if before is None else before, lang)

    @routes.post("/reveal")
    async def reveal(request: Request, lang: Language = "en") -> Response:
        with opened(request) as voting:
            if not voting.votes.revealed:
                voting.votes.reveal()
            write_preferences(voting.compared.folder, voting.votes)
            return shown(voting, None, lang)


def shown(voting: Voting, at: int | None, lang: Language) -> Response:
    """What the page is to show: the pair of that number, or once the models were revealed the result."""
    compared, votes = voting
    done = sum(pair.key in votes.said for pair in votes.pairs)
    state: dict[str, Any] = {"done": done, "of": len(votes.pairs), "at": at, "result": None}
    if votes.revealed:
        result = result_of(compared, tally(compared, votes), speaker(lang, RUSSIAN))
        return JSONResponse({**state, "at": None, "result": result}, headers=UNKEPT)
    if at is not None and 0 <= at < len(votes.pairs):
        pair = votes.pairs[at]
        turns = [text_of(m) for m in pair.messages if m["role"] not in ("system", "developer")]
        state |= {"asked": "\n— ".join(turns), "answers": pair.texts[::-1] if pair.swapped else pair.texts}
    return JSONResponse(state, headers=UNKEPT)


def said_of(ballot: Ballot, pair: Pair) -> Said:
    """The vote in terms of the pair, wherever its answers were shown."""
    if ballot.said in ("tie", "skip"):
        return ballot.said
    return "first" if (ballot.said == "left") != pair.swapped else "second"


def texts_of(compared: Compared, votes: Votes, say: Say) -> dict[str, Any]:
    """What stands on the page besides prompts and answers; "buttons": what is said of a pair → its label."""
    return {
        "title": say("{name}: which answer is better?", name=compared.folder.name),
        "outlook": outlook(compared, list(votes.pairs), say),
        "keys": say("Keys: ← first, → second, ↓ no difference, space skip, Backspace back."),
        "confirm": say("Reveal now? There are pairs left, and no more votes are taken after it."),
        "all": say("All pairs are done."),
        "buttons": {
            "left": "← " + say("The first is better"),
            "right": say("The second is better") + " →",
            "tie": "↓ " + say("No difference"),
            "skip": say("Skip"),
            "back": say("Back"),
            "reveal": say("Reveal"),
        },
    }


def result_of(compared: Compared, result: Result, say: Say) -> list[Any]:
    """What the votes tell, with the models' names: paragraphs as texts, tables as lists of rows, the head first."""
    head = ["", *map(say, ("how often the first was better", "interval of 95 %", "votes", "ties"))]
    duels = [head]
    for duel in result.duels:
        cells = ["–", say("no votes"), "0", "0"]
        if duel.rate:
            cells = [say("{n:.0%}", n=duel.rate.value), _interval(duel.rate, say), f"{duel.votes}", f"{duel.ties}"]
        duels.append([say("{one} against {other}", one=duel.models[0], other=duel.models[1]), *cells])
    parts: list[Any] = [duels]
    parts.append(say("A tie counts as half. An interval that holds 50 %: the votes do not tell which is better."))
    if result.ratings:
        ratings = [
            [model, f"{rating.value:+.0f}", f"{rating.low:+.0f} … {rating.high:+.0f}"]
            for model, rating in result.ratings.items()
        ]
        parts.append([[say("model"), say("points"), say("interval of 95 %")], *ratings])
        parts.append(say("Points after Bradley and Terry: 100 more is better in 64 of 100 pairs."))
    if side := result.first_shown:
        text = "Skipped: {skipped}. The answer shown first was better in {share:.0%} ({low:.0%} to {high:.0%})."
        parts.append(say(text, skipped=result.skipped, share=side.value, low=side.low, high=side.high))
    path = compared.folder / "preferences.jsonl"
    parts.append(say("Decided pairs as rows for preference tuning: {path}", path=path))
    return parts


def _interval(rate: Interval, say: Say) -> str:
    return say("{low:.0%}", low=rate.low) + " … " + say("{high:.0%}", high=rate.high)
