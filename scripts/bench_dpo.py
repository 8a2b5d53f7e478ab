"""Do preferences do what they say? Simulated users who prefer shorter answers, and what becomes of length and manner.

    python scripts/bench_dpo.py OUT [--run RUN] [--seeds 3] [--prompts 96] [--pairs 3] [--short] [KEY=VALUE …]

A run (configs/tiny.yaml, or RUN) answers training prompts several times; users vote for the shorter of two answers,
nine times in ten. `govor preferences` makes rows of the votes, train/dpo.py goes on from the run, and the held-out
prompts are answered before and after: their median length, and their position between base (0) and persona (1) with
its 95 % interval. Every seed votes, trains and answers anew. KEY=VALUE are overrides of the preference training. OUT
gets the runs and bench.json. `--short`, for a slow machine, learns short dialogues with the first two sentences of each
answer.
"""

import json
import os
import random
import re
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from train import dpo, sft  # noqa: E402
from train.core.config import load_config  # noqa: E402
from train.core.runs import Run, open_run  # noqa: E402
from train.evaluation.generate import context_of  # noqa: E402
from train.evaluation.judge import judge_answers  # noqa: E402
from train.evaluation.meter import Meter, make_meter, untuned  # noqa: E402
from train.evaluation.preferences import make_preferences  # noqa: E402
from train.evaluation.sampling import Prompt, held_out_prompts, spread, that_fit  # noqa: E402
from train.evaluation.style import Answer  # noqa: E402
from train.models.base import weights_fingerprint  # noqa: E402
from train.models.load import load_tuned  # noqa: E402

RIGHT = 0.9
"""How often a user votes for the shorter answer."""
SETTINGS = ("training.learning_rate=3e-5", "training.num_train_epochs=2", "dpo.beta=0.1", "data.eval_fraction=0.15")


def meter_of(run: Run) -> tuple[Any, Meter]:
    """(the run's model, what asks it)."""
    model, tokenizer = load_tuned(run)
    return model, make_meter(run, None, tokenizer, None)


def answers_of(run: Run, prompts: Sequence[Prompt], samples: int, seed: int = 0) -> list[Answer]:
    """`samples` answers of the run's model to each prompt, one prompt after the other."""
    model, meter = meter_of(run)
    meter.samples = samples
    if seed:
        meter.config = meter.config.model_copy(
            update={"training": meter.config.training.model_copy(update={"seed": seed})}
        )
    return meter.sample(prompts, meter.ask(model), weights_fingerprint(run.adapter), run.path.name)


def votes(prompts: Sequence[Prompt], answers: Sequence[Answer], samples: int, seed: int) -> list[dict[str, Any]]:
    """A vote on each two different answers to a prompt."""
    user, rows = random.Random(seed), []
    for number, prompt in enumerate(prompts):
        texts = [answer.text.strip() for answer in answers[number * samples : (number + 1) * samples]]
        for one, two in combinations([text for text in dict.fromkeys(texts) if text], 2):
            if len(one) != len(two):
                shorter, longer = sorted((one, two), key=len)
                better, worse = (shorter, longer) if user.random() < RIGHT else (longer, shorter)
                sides = ([{"role": "assistant", "content": text}] for text in (better, worse))
                names = ("preferred_output", "non_preferred_output")
                rows.append({"input": {"messages": prompt.messages}, **dict(zip(names, sides, strict=True))})
    return rows


def train_on_votes(before: Run, name: str, file: Path, seed: int, overrides: Sequence[str]) -> Run:
    """Go on from the run by the votes in the file."""
    tree = yaml.safe_load(before.config_file.read_text(encoding="utf-8"))
    tree["lora"]["start_from"] = str(before.path.absolute())
    training = {**tree["training"], "seed": seed, "kernels": "auto", "fit": None, "save_strategy": "no"}
    tree |= {"name": name, "training": training, "dpo": {}, "data": {"train_file": str(file)}}
    config = Path(f"{name}.yaml")
    config.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    return dpo.train(load_config(config, [*SETTINGS, *overrides]))


def short_rows(file: Path) -> Path:
    """Rows of one short question of Наташа's and the first two sentences of the answer."""
    lines = []
    for line in (REPOSITORY / "data/natasha.jsonl").read_text(encoding="utf-8").splitlines():
        asked, answer = [message for message in json.loads(line)["messages"] if message["role"] != "system"][:2]
        if len(asked["content"]) <= 120:
            text = " ".join(re.split(r"(?<=[.!?…])\s+", answer["content"])[:2])
            lines.append(json.dumps({"messages": [asked, {**answer, "content": text}]}, ensure_ascii=False) + "\n")
    file.write_text("".join(lines), encoding="utf-8")
    return file.absolute()


def median_length(answers: Sequence[Answer]) -> float:
    return statistics.median(len(answer.text) for answer in answers)


@click.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--run", type=click.Path(path_type=Path, exists=True))
@click.option("--short", is_flag=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--prompts", default=96, show_default=True, help="Training prompts that are voted on.")
@click.option("--answers", default=128, show_default=True, help="To the held-out prompts, before and after.")
@click.option("--pairs", default=3, show_default=True, help="Answers to each prompt; each two make a vote.")
def main(
    out: Path,
    overrides: tuple[str, ...],
    run: Path | None,
    short: bool,
    seeds: int,
    prompts: int,
    pairs: int,
    answers: int,
) -> None:
    run = run and run.absolute()
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(out)
    if run is None:
        files = {"model.name_or_path": "data/tiny-ru", "data.train_file": "data/natasha.jsonl"}
        settings = [f"{name}={REPOSITORY / file}" for name, file in files.items()]
        if short:
            settings += [f"data.train_file={short_rows(Path('rows.jsonl'))}", "data.eval_fraction=0.2"]
            settings += ["training.num_train_epochs=2", "generation.max_new_tokens=48"]
        run = sft.train(load_config(REPOSITORY / "configs/tiny.yaml", [*settings, "name=before"])).path
    before = open_run(run)
    model, meter = meter_of(before)
    context = context_of(model)
    asked = meter.held_out_prompts(context)
    samples = -(-answers // len(asked))
    with untuned(model, before, meter.config) as base:
        meter.samples = samples
        untaught = meter.sample(asked, meter.ask(base), before.manifest()["base"]["weights"], "the base")
    real = [prompt.real for prompt in asked]
    training = that_fit(held_out_prompts(meter.trained or []), meter.tokenizer, context, meter.generation)
    training = spread(training, prompts)
    del model

    def measure(said: Sequence[Answer]) -> dict[str, float]:
        place = judge_answers(meter.trained, real, untaught, said, samples).position
        found = place.whole if place else None
        figures = {} if found is None else {"position": found.value, "low": found.low, "high": found.high}
        return {"median_length": median_length(said), **figures}

    figures: list[dict[str, Any]] = []
    first = measure(answers_of(before, asked, samples))
    click.echo(f"before: {json.dumps(first)}")
    for seed in range(1, seeds + 1):
        started = time.process_time()
        said = answers_of(before, training, pairs, seed=1000 * seed)
        feedback, file = Path(f"votes-{seed}.jsonl"), Path(f"pairs-{seed}.jsonl")
        rows = votes(training, said, pairs, seed)
        feedback.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        click.echo("\n".join(make_preferences([feedback], before.path, None, file, force=True)))
        after_run = train_on_votes(before, f"after-{seed}", file.absolute(), seed, overrides)
        after = measure(answers_of(after_run, asked, samples, seed=1000 * seed))
        last = [line for line in after_run.metrics() if "eval_rewards/accuracies" in line][-1]
        told = {name: last[f"eval_rewards/{name}"] for name in ("margins", "accuracies")}
        change = after["median_length"] / first["median_length"] - 1
        figures.append({"seed": seed, "pairs": len(rows), "change_of_length": change, **after, **told,
                        "by_length_alone": after_run.manifest()["preferences"]["accuracy"],
                        "processor_seconds": time.process_time() - started})  # fmt: skip
        click.echo(json.dumps(figures[-1]))
        Path("bench.json").write_text(json.dumps({"before": first, "after": figures}, indent=1) + "\n")
    shorter = all(one["change_of_length"] <= -0.2 for one in figures)
    kept = "low" in first and all(one["position"] >= first["low"] for one in figures)
    click.echo(f"a fifth shorter with every seed: {shorter}; position inside the interval before: {kept}")


if __name__ == "__main__":
    main()
