"""How far the measures of `govor eval` can be trusted: draws of real answers, planted edits, other people's answers.

Needs a finished run of a Russian persona with its evaluation (`make demo`, then `govor eval runs/tiny`), whose sampled
base answers it takes. `--plays`: speeches of plays, a JSON object a line with `play`, `speaker_id` and `text`, as in
the Russian Drama Corpus; each named speaker is judged like a persona. `--curve`: a run trained with
training.save_steps=14 and judged by `govor eval RUN --checkpoints`.
"""

import gzip
import json
import random
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from scipy.stats import spearmanr

from train.chats.rows import Row
from train.core.errors import GovorError, one_line_errors
from train.core.runs import Run, open_run
from train.encoding.held_out import held_out_rows
from train.evaluation.generate import context_of
from train.evaluation.judge import judge_answers, sources
from train.evaluation.judged_rows import trained_rows
from train.evaluation.markers import marker_table
from train.evaluation.sampling import BATCH, Prompt, ask_model, base_answers, held_out_prompts, that_fit
from train.evaluation.style import Answer, position, two_sample
from train.models.load import load_tuned

ANSWERS = 128
FEWEST_STATES = 6
"""Of which a rank correlation says something."""


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--draws", default=100, show_default=True)
@click.option("--plays", type=click.Path(path_type=Path))
@click.option("--speaker", "speakers", multiple=True, metavar="PLAY/SPEAKER_ID")
@click.option("--curve", "curves", multiple=True, type=click.Path(path_type=Path), help="Run with all its states kept.")
def main(run: Path, draws: int, plays: Path | None, speakers: tuple[str, ...], curves: tuple[Path, ...]) -> None:
    """Print what the measures say where the truth is known."""
    with one_line_errors():
        opened = open_run(run)
        trained, held_out = trained_rows(opened, held_out_rows(opened)) or [], held_out_rows(opened)
        if not (base := base_answers(opened, held_out)):
            raise GovorError(f"{run} holds no answers of its base: govor eval {run} samples them")
        hers = [answer for rows in (trained, held_out) for answer in real_answers(rows)]
        people = {"the persona": hers}
        lines = speeches(plays) if plays else {}
        if missing := set(speakers) - set(lines):
            raise GovorError(f"{plays or '--plays'} has no speeches of {', '.join(sorted(missing))}")
        people |= {speaker: lines[speaker] for speaker in speakers}
        for name, answers in people.items():
            others = [answer for other, said in people.items() if other != name for answer in said]
            print(f"{name}: {draw_halves(answers, others, base, draws)}")
        for edit, sentence in planted(hers[:ANSWERS]):
            print(f"{edit}: {sentence}")
        if curves:
            rising = [rank_correlation(open_run(curve)) for curve in curves]
            each = ", ".join(f"{value:.2f}" for value in rising)
            middle = statistics.median(rising)
            print(f"position over saved states, rank correlation with the step: {each}; median {middle:.2f}")
        tuned = (base * 2)[: 3 * ANSWERS // 2]
        started = time.process_time()
        judge_answers(trained, real_answers(held_out), tuned, tuned, 1)
        print(f"all measures on {len(tuned)} ready answers a side: {time.process_time() - started:.1f} s of one core")
        speeds = sampling_speeds(opened, 3)
        ratio = statistics.median(batched / alone for batched, alone in speeds)
        each = ", ".join(f"{batched:.0f} and {alone:.0f}" for batched, alone in speeds)
        print(f"sampled in batches and one at a time, tokens a second: {each}; median ratio {ratio:.1f}")


def sampling_speeds(run: Run, rounds: int) -> list[tuple[float, float]]:
    """Tokens a second, by the clock, of BATCH held-out prompts together and of each by itself, `rounds` times."""
    model, tokenizer = load_tuned(run)
    config = run.config()
    ask = ask_model(model, tokenizer, config.generation, run.end_of_turn(), config.training.seed)
    fitting = that_fit(held_out_prompts(held_out_rows(run)), tokenizer, context_of(model), config.generation)
    prompts = fitting[:BATCH]
    ask(prompts[:1], 0)  # the first call warms up

    def speed(batches: Sequence[Sequence[Prompt]]) -> float:
        started = time.perf_counter()
        texts = [text for batch in batches for text in ask(batch, 0)]
        tokens = sum(map(len, tokenizer(texts)["input_ids"]))
        return tokens / (time.perf_counter() - started)

    return [(speed([prompts]), speed([[prompt] for prompt in prompts])) for _ in range(rounds)]


def rank_correlation(run: Run) -> float:
    """Spearman's, of step and position, over the saved states that `govor eval RUN --checkpoints` judged."""
    file = run.evaluation / "evaluation.json"
    states = json.loads(file.read_text(encoding="utf-8"))["checkpoints"] if file.exists() else []
    placed = [state for state in states if state["position"]]
    if len(placed) < FEWEST_STATES:
        said = f"{file} places {len(placed)} saved states, {FEWEST_STATES} are needed"
        raise GovorError(f"{said}: govor eval {run.path} --checkpoints")
    places = [(int(state["name"].rpartition("-")[2]), state["position"]["value"]) for state in placed]
    return float(spearmanr(*zip(*places, strict=True)).statistic)


def real_answers(rows: Sequence[Row]) -> list[Answer]:
    """All trained answers, those of one row as one dialogue."""
    return [Answer(row.line, text) for row in rows for _, text in sources([row])]


def speeches(file: Path) -> dict[str, list[Answer]]:
    """PLAY/SPEAKER_ID → their speeches of some length, two neighbours as one dialogue."""
    found: dict[str, list[Answer]] = defaultdict(list)
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            name = f"{record['play']}/{record['speaker_id']}"
            if 40 < len(record["text"]) < 800:
                found[name].append(Answer((name, len(found[name]) // 2), record["text"]))
    return found


def draw_halves(answers: Sequence[Answer], others: Sequence[Answer], base: Sequence[Answer], draws: int) -> str:
    """Halves of a person's dialogues against each other, and others' answers in the place of the second."""
    dialogues = list(dict.fromkeys(answer.dialogue for answer in answers))
    inside = told = covered = covered_others = lower = 0
    widths = []
    for seed in range(draws):
        random.Random(seed).shuffle(dialogues)
        third = len(dialogues) // 3
        parts = [{*dialogues[:third]}, {*dialogues[third : 2 * third]}, {*dialogues[2 * third :]}]
        real, same, rest = ([answer for answer in answers if answer.dialogue in part] for part in parts)
        real, same = real[:ANSWERS], same[:ANSWERS]
        said = random.Random(seed).choices(base, k=len(real))
        plain = [answer._replace(text=one.text) for answer, one in zip(real, said, strict=True)]
        persona = [answer.text for answer in rest]
        test, place = two_sample(real, same), position(persona, plain, real, same)
        assert test and place
        inside += abs(test.auc - 0.5) <= 2 * test.spread
        told += test.low <= 0.5 <= test.high
        covered += place.whole.low <= 1 <= place.whole.high
        widths.append(place.whole.high - place.whole.low)
        if others:
            foreign = position(
                persona, plain, real, random.Random(seed).sample(list(others), min(len(others), len(same)))
            )
            assert foreign
            covered_others += foreign.whole.low <= 1 <= foreign.whole.high
            lower += foreign.whole.value < place.whole.value
    text = (
        f"two halves of {len(answers)} answers, {draws} draws: AUC by chance in {inside}, its interval covers "
        f"0.5 in {told}, position covers 1 in {covered}, width {statistics.median(widths):.2f}"
    )
    return f"{text}; others' answers: covered in {covered_others}, lower in {lower}" if others else text


EDITS = {
    "ты→вы": lambda text: re.sub(r"\bты\b", "вы", re.sub(r"\bтебе\b", "вам", re.sub(r"\bтебя\b", "вас", text))),
    "ё→е": lambda text: text.replace("ё", "е").replace("Ё", "Е"),
    "?→.": lambda text: text.replace("?", "."),
    "+30 % emoji": lambda text: f"{text} 🔥" if len(text) % 10 < 3 else text,
}


def planted(answers: Sequence[Answer]) -> Iterator[tuple[str, str]]:
    """(edit, what the two-sample test and the marks say of edited answers)."""
    for name, edit in EDITS.items():
        edited = [answer._replace(text=edit(answer.text)) for answer in answers]
        test = two_sample(answers, edited)
        assert test
        flagged = [row.name for row in marker_table(answers, edited, edited) if row.flagged]
        yield name, f"AUC {test.auc:.2f}, p = {test.p:.3f}; marks: {', '.join(flagged) or 'none'}"


if __name__ == "__main__":
    main()
