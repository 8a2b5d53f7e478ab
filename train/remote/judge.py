"""govor eval --judge: another model scores answers by a rubric, and compares tuned with base in both orders.

A judge prefers what stands first, what is long, and what is like its own. So every pair is asked in both orders, and
where they disagree it is a tie; the rate at equal length is given beside the plain one; and a judge that has made rows,
or is the tuned model itself, is refused.
"""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field, PositiveInt

from train.chats.provenance import read_provenance, row_hash
from train.chats.rows import Message, Row, text_of
from train.core.config import Section
from train.core.errors import ConfigError, GovorError
from train.core.files import write_atomically
from train.core.runs import Run
from train.encoding.held_out import held_out_rows
from train.evaluation.intervals import RESAMPLES, Interval, Side, cluster_interval
from train.evaluation.judge import Evaluation
from train.evaluation.judged_rows import persona_run, trained_rows
from train.evaluation.sampling import held_out_prompts
from train.remote.answers import folder_of, read_answers
from train.remote.asking import Asker, Request, announce
from train.remote.budget import Usage, open_budget
from train.remote.generation_plan import Parameters, filled, load_section
from train.remote.journal import Reply, open_journal
from train.remote.services import Endpoint, find_model
from train.remote.votes import Pair, Votes, agreement, pairs_of

RUBRIC = Path(__file__).with_name("rubric.yaml")
BEST = 5
SIDES = ("real", "base", "tuned")
RIDGE = 0.1
"""Of the length-controlled rate's two weights: keeps them finite where one side always wins."""


class Rubric(Section):
    """A rubric file."""

    criteria: Annotated[dict[str, str], Field(min_length=1)]
    """What is scored from 1 to 5, by name."""
    traits: dict[str, str] = Field(default_factory=dict)
    """Traits of manner, scored the same way."""
    scores: str
    """Asks for the scores of an answer."""
    pairs: str
    """Asks which of two answers is better."""
    rows: str
    """Asks about a training row, for `govor review --judge`."""
    judge_tokens: PositiveInt = 400
    """Longest verdict, in tokens; reasoning counts."""
    parameters: Parameters = Field(default_factory=dict)
    """Sampling parameters to send, such as temperature; none are sent otherwise."""

    @property
    def scored(self) -> dict[str, str]:
        return {**self.criteria, **self.traits}


def load_rubric(path: Path | None) -> Rubric:
    """The rubric of a file, or ours."""
    return load_section(path or RUBRIC, Rubric, "--rubric")


class Case(NamedTuple):
    """A prompt with the answers that are judged."""

    messages: list[Message]
    dialogue: Any
    texts: dict[str, str]
    """By side: real, base, tuned."""


class Preferred(NamedTuple):
    """What a judge says of a pair that it has seen in both orders."""

    value: float | None
    """1: the first answer, 0: the second, 0.5: a tie, or the orders disagree; None where a verdict cannot be read."""
    places: tuple[float, float] | None
    """Of each order: 1 where the answer shown first was preferred, 0 the other, 0.5 a tie."""


class Judged(NamedTuple):
    """What a judge says of a run."""

    judge: str
    scores: dict[str, dict[str, Interval | None]]
    """Criterion → side → mean from 1 to 5."""
    change: dict[str, Interval | None]
    """Criterion → how much higher the tuned answers score than the base's."""
    wins: Interval | None
    """How often the tuned answer is better than the base's, ties half."""
    controlled: Interval | None
    """The same at equal length."""
    pairs: int
    ties: int
    same_place: float | None
    """Share of the decided pairs in which both orders prefer the same place: the judge's position bias."""
    votes: tuple[float, float, int] | None
    """Of people's votes: share of equal verdicts, Cohen's kappa, number."""
    unreadable: int
    """Verdicts that could not be read."""
    unanswered: int


def judge_run(
    run: Run,
    evaluation: Evaluation,
    judge: str,
    *,
    names: Sequence[str] = (),
    rubric_file: Path | None,
    votes: str | None,
    budget: str | None,
    max_tokens: int | None,
    dry_run: bool,
) -> Judged | None:
    """Have the evaluation's answers judged, print what comes out, write RUN/evaluation/judge.json; None for a dry run.

    `names`: what a server calls the tuned model, besides the run's own name. `votes`: the comparison on whose votes the
    judge is tried, too. Prompts and answers of the held-out rows are sent to the judge.
    """
    rubric = load_rubric(rubric_file)
    endpoint = find_model(judge, Path.cwd())
    compared = read_answers(folder_of(votes)) if votes else None
    answering = [evaluation.via] if evaluation.via else []
    require_other(endpoint, run, [*names, *answering, *(compared.answers if compared else ())])
    persona = run.manifest()["data"]["system_message"] or ""
    cases = cases_of(run, evaluation)
    if not cases:
        raise GovorError("there are no held-out answers to judge: the lines above say why")
    scores = [score_request(rubric, persona, case, side) for side in SIDES for case in cases]
    duels = pair_requests(rubric, persona, [(c.messages, c.texts["tuned"], c.texts["base"]) for c in cases])
    voted = []
    if compared:
        with (compared.folder / "votes.jsonl").open("a+", encoding="utf-8") as file:
            voted = Votes(pairs_of(compared), file).counted()
    checks = pair_requests(rubric, persona, [(pair.messages, *pair.texts) for pair, _ in voted])
    requests = [*scores, *duels, *checks]
    asked = ask(run.evaluation / "judge.journal.jsonl", endpoint, requests, budget, max_tokens, dry_run=dry_run)
    if asked is None:
        return None
    asker, replies = asked
    split, end = len(scores), len(scores) + len(duels)
    judged = summarize(
        judge=f"{endpoint.model} at {endpoint.host}",
        rubric=rubric,
        cases=cases,
        scores=[read_scores(rubric, reply) for reply in replies[:split]],
        preferred=read_pairs(replies[split:end]),
        voted=as_shown(voted, read_pairs(replies[end:])),
        unanswered=replies.count(None),
        unreadable=sum(reply is not None and verdict(reply) is None for reply in replies),
    )
    write_atomically(run.evaluation / "judge.json", json.dumps(to_json(judged), ensure_ascii=False, indent=1) + "\n")
    for line in [*lines(judged), *asker.lines()]:
        print(line)
    return judged


def ask(
    journal_file: Path,
    endpoint: Endpoint,
    requests: Sequence[Request],
    budget: str | None,
    max_tokens: int | None,
    *,
    dry_run: bool,
) -> tuple[Asker, list[Reply | None]] | None:
    """The judge's replies; None for a dry run. ConfigError where nothing would stop a hosted one."""
    spending = open_budget(endpoint, budget, max_tokens)
    most = Usage(*(sum(column) for column in zip(*(request.most() for request in requests), strict=True)))
    if dry_run:
        announce(endpoint, len(requests), most, spending, dry_run=True)
        return None
    if spending.limit is None and not endpoint.is_here:
        raise ConfigError("say where to stop: --budget 2USD or --max-tokens N (--dry-run shows what it takes at most)")
    with open_journal(journal_file) as journal:
        asker = Asker(endpoint, journal, spending)
        announce(endpoint, len(requests), most, spending, dry_run=False)
        return asker, asker.ask(requests, "verdicts")


def require_other(endpoint: Endpoint, run: Run, judged: Sequence[str]) -> None:
    """ConfigError where the judge is the tuned model, another of those that it judges, or has made rows."""
    config = run.config()
    own = {plain_name(name) for name in (run.path.name, config.name, *judged)}
    name = plain_name(endpoint.model)
    if name in own:
        raise ConfigError(f"{endpoint.model} is among those that it would judge: name another judge")
    trained = trained_rows(run, held_out_rows(run))
    known = read_provenance(config.data.train_file.absolute().parent) if config.data.train_file.exists() else {}
    keys = known if trained is None else known.keys() & {row_hash(row) for row in trained}
    makers = {str(known[key].get("model")) for key in keys}
    if name in map(plain_name, makers):
        raise ConfigError(f"{endpoint.model} has made rows of {config.data.train_file}: name another judge")


def plain_name(model: str) -> str:
    """A model's name without its owner, a date at its end and the host that a comparison has added."""
    name = model.split(" at ")[0].rpartition("/")[2].casefold()
    return re.sub(r"-\d{4}-\d\d-\d\d$", "", name)


def cases_of(run: Run, evaluation: Evaluation) -> list[Case]:
    """The first answers of base and tuned model to each held-out prompt, beside the persona's own."""
    found = evaluation.judgement
    if found is None:
        return []
    prompts = {prompt.real: prompt for prompt in held_out_prompts(held_out_rows(persona_run(run)))}
    cases = []
    for at, real in enumerate(found.real):
        texts = {
            "real": real.text,
            "base": found.base[at * found.samples].text,
            "tuned": found.tuned[at * found.samples].text,
        }
        cases.append(Case(prompts[real].messages, real.dialogue, texts))
    return cases


# Requests


def spoken(messages: Sequence[Message]) -> str:
    """A conversation for the judge, without its system message."""
    names = {"user": "Собеседник", "assistant": "Персона"}
    return "\n".join(
        f"{names.get(m['role'], m['role'])}: {text_of(m)}" for m in messages if m["role"] not in ("system", "developer")
    )


def score_request(rubric: Rubric, persona: str, case: Case, side: str) -> Request:
    """Asks for the scores of one side's answer."""
    criteria = "\n".join(f"- {name}: {meaning}" for name, meaning in rubric.scored.items())
    values = {"persona": persona, "prompt": spoken(case.messages), "real": case.texts["real"], "criteria": criteria}
    return _request(rubric, filled(rubric.scores, {**values, "answer": case.texts[side]}))


def pair_requests(rubric: Rubric, persona: str, pairs: Sequence[tuple[Sequence[Message], str, str]]) -> list[Request]:
    """Two requests for each (prompt, answer, other answer): once in each order."""
    requests = []
    for messages, one, other in pairs:
        for first, second in ((one, other), (other, one)):
            values = {"persona": persona, "prompt": spoken(messages), "first": first, "second": second}
            requests.append(_request(rubric, filled(rubric.pairs, values)))
    return requests


def row_request(rubric: Rubric, row: Row, at: int) -> Request:
    """Asks about the trained answer at this place of a row."""
    persona = text_of(row.messages[0]) if row.messages[0]["role"] == "system" else ""
    values = {"persona": persona, "prompt": spoken(row.messages[:at]), "answer": text_of(row.messages[at])}
    return _request(rubric, filled(rubric.rows, values))


def _request(rubric: Rubric, text: str) -> Request:
    return Request([{"role": "user", "content": text}], rubric.judge_tokens, rubric.parameters)


# Verdicts


def verdict(reply: Reply | None) -> dict[str, Any] | None:
    """The JSON object in a reply; None where there is none."""
    found = re.search(r"\{.*\}", reply.text, re.DOTALL) if reply else None
    try:
        read = json.loads(found[0]) if found else None
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


def score_in(read: dict[str, Any], name: str) -> float | None:
    """A score from 1 to 5; None where it is none."""
    value = read.get(name)
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= BEST
    return float(value) if fits else None  # type: ignore[arg-type]


def read_scores(rubric: Rubric, reply: Reply | None) -> dict[str, float | None]:
    read = verdict(reply) or {}
    return {name: score_in(read, name) for name in rubric.scored}


def read_pairs(replies: Sequence[Reply | None]) -> list[Preferred]:
    """What pairs of replies, one in each order, say together."""
    values = {"A": 1.0, "А": 1.0, "B": 0.0, "В": 0.0, "TIE": 0.5}  # Latin and Cyrillic letters
    found = []
    for replied in zip(replies[::2], replies[1::2], strict=True):
        one, other = (values.get(str((verdict(reply) or {}).get("better")).strip().upper()) for reply in replied)
        if one is None or other is None:
            found.append(Preferred(None, None))
            continue
        found.append(Preferred(one if one == 1 - other else 0.5, (one, other)))
    return found


def as_shown(voted: Sequence[tuple[Pair, float]], preferred: Sequence[Preferred]) -> list[tuple[float, float]]:
    """(a person's vote, the judge's) on each pair that both can be read of: 1 for the answer that was shown first.

    Sides are a chance, so that kappa does not depend on which model comes first.
    """
    found = []
    for (pair, human), judge in zip(voted, preferred, strict=True):
        if judge.value is not None:
            found.append((1 - human, 1 - judge.value) if pair.swapped else (human, judge.value))
    return found


# What verdicts tell


def summarize(
    judge: str,
    rubric: Rubric,
    cases: Sequence[Case],
    scores: Sequence[dict[str, float | None]],
    preferred: Sequence[Preferred],
    voted: Sequence[tuple[float, float]],
    unanswered: int,
    unreadable: int,
) -> Judged:
    """`scores`: of all cases' real answers, then the base's, then the tuned ones."""
    by_side = {side: scores[at * len(cases) : (at + 1) * len(cases)] for at, side in enumerate(SIDES)}
    means: dict[str, dict[str, Interval | None]] = {}
    change = {}
    for name in rubric.scored:
        sides = {side: _side(cases, [score[name] for score in by_side[side]]) for side in SIDES}
        means[name] = {side: cluster_interval([found], lambda mean: mean) for side, found in sides.items()}
        change[name] = cluster_interval([sides["base"], sides["tuned"]], lambda base, tuned: tuned - base)
    values = [one.value for one in preferred]
    lengths = [math.log(max(1, len(c.texts["tuned"])) / max(1, len(c.texts["base"]))) for c in cases]
    decided = [one.places for one in preferred if one.places and 0.5 not in one.places]
    return Judged(
        judge,
        means,
        change,
        cluster_interval([_side(cases, values)], lambda mean: mean),
        length_controlled(values, lengths, [case.dialogue for case in cases]),
        sum(value is not None for value in values),
        values.count(0.5),
        sum(one == other for one, other in decided) / len(decided) if decided else None,
        agreement(voted) if voted else None,
        unreadable,
        unanswered,
    )


def _side(cases: Sequence[Case], values: Sequence[float | None]) -> Side:
    kept = [(value, case.dialogue) for value, case in zip(values, cases, strict=True) if value is not None]
    return Side([value for value, _ in kept], [dialogue for _, dialogue in kept])


def length_controlled(
    values: Sequence[float | None], lengths: Sequence[float], dialogues: Sequence[Any]
) -> Interval | None:
    """The win rate that a logistic model expects where both answers are equally long; bootstrap by dialogue.

    `lengths`: the logarithm of how much longer the judged answer is. After AlpacaEval's length-controlled rate (arXiv
    2404.04475), without its term for the prompt. None with fewer than two dialogues.
    """
    kept = [(v, x, d) for v, x, d in zip(values, lengths, dialogues, strict=True) if v is not None]
    numbers = {dialogue: at for at, dialogue in enumerate(dict.fromkeys(d for _, _, d in kept))}
    if len(numbers) < 2:
        return None
    won, longer = np.array([v for v, _, _ in kept]), np.array([x for _, x, _ in kept])
    steps = np.stack([np.ones(len(kept)), np.tanh(longer / (longer.std() or 1.0))], axis=1)
    drawn = np.random.default_rng(0).multinomial(len(numbers), [1 / len(numbers)] * len(numbers), RESAMPLES)
    weights = np.concatenate([np.ones((1, len(numbers))), drawn])[:, [numbers[d] for _, _, d in kept]]
    fitted = np.zeros((len(weights), 2))
    for _ in range(25):  # Newton's steps, all resamples at once
        chance = 1 / (1 + np.exp(-fitted @ steps.T))
        slope = (weights * (won - chance)) @ steps - RIDGE * fitted
        bend = np.einsum("rn,ni,nj->rij", weights * chance * (1 - chance), steps, steps) + RIDGE * np.eye(2)
        fitted += np.linalg.solve(bend, slope[:, :, None])[:, :, 0]
    rates = 1 / (1 + np.exp(-fitted[:, 0]))
    low, high = np.percentile(rates[1:], [2.5, 97.5])
    return Interval(float(rates[0]), float(low), float(high))


# What is said


def lines(judged: Judged) -> list[str]:
    """For the terminal."""
    table: list[tuple[str, ...]] = [("", "the persona", "base", "tuned", "tuned - base (95 %)")]
    for name, means in judged.scores.items():
        table.append((name.replace("_", " "), *(_mean(means[side]) for side in SIDES), _span(judged.change[name])))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    found = [f"judge: {judged.judge}", *("  ".join(map(str.ljust, line, widths)).rstrip() for line in table)]
    if judged.wins:
        found.append(f"tuned better than base: {_share(judged.wins)}, {judged.pairs} pairs, {judged.ties} ties")
    if judged.controlled:
        found.append(f"at equal length: {_share(judged.controlled)}")
    if judged.same_place is not None:
        found.append(f"position bias: {judged.same_place:.0%} of decided pairs went to the same place in both orders")
    if judged.votes:
        same, kappa, count = judged.votes
        found.append(f"agrees with {count} votes of people: {same:.0%}, kappa {kappa:.2f}")
    if judged.unreadable or judged.unanswered:
        found.append(
            f"verdicts that could not be read: {judged.unreadable}; requests without an answer: {judged.unanswered}"
        )
    return found


def _mean(found: Interval | None) -> str:
    return f"{found.value:.2f}" if found else "–"


def _span(found: Interval | None) -> str:
    return f"{found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f})" if found else "–"


def _share(found: Interval) -> str:
    return f"{found.value:.0%} ({found.low:.0%} to {found.high:.0%})"


def to_json(judged: Judged) -> dict[str, Any]:
    """judge.json: scores from 1 to 5, shares between 0 and 1."""

    def interval(found: Interval | None) -> dict[str, float] | None:
        return found._asdict() if found else None

    votes = dict(zip(("same", "kappa", "votes"), judged.votes, strict=True)) if judged.votes else None
    return {
        "judge": judged.judge,
        "scores": {
            name: {**{side: interval(means[side]) for side in SIDES}, "change": interval(judged.change[name])}
            for name, means in judged.scores.items()
        },
        "pairs": {
            "tuned_better": interval(judged.wins),
            "at_equal_length": interval(judged.controlled),
            "pairs": judged.pairs,
            "ties": judged.ties,
            "position_bias": judged.same_place,
        },
        "votes": votes,
        "unreadable": judged.unreadable,
        "unanswered": judged.unanswered,
    }
