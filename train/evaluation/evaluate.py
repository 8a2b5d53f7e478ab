"""What training changed: the losses of base and tuned model, their answers to the same prompts, and what these tell."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from train.chats.pairs import question_of
from train.chats.readers import read_rows
from train.chats.rows import Message, text_of
from train.core.config import Generation
from train.core.errors import DataError, RunError
from train.core.files import write_atomically
from train.core.pages import Language
from train.core.runs import Run, now, whole_checkpoints
from train.evaluation.evaluation_page import write_page
from train.evaluation.forgetting import compare_knowledge, measure_knowledge
from train.evaluation.generate import context_of
from train.evaluation.judge import (
    Evaluation,
    Losses,
    judge_answers,
    judge_beside,
    judge_state,
    to_json,
    verdict,
)
from train.evaluation.judged_rows import start_of
from train.evaluation.leakage import continuation
from train.evaluation.meter import Meter, at_checkpoint, make_meter, untuned
from train.evaluation.not_measured import not_measured
from train.evaluation.report import Sample, write_report
from train.evaluation.sampling import (
    Prompt,
    Server,
    ask_server,
)
from train.evaluation.style import Answer
from train.models.base import context_length, language_config, run_base, tuned_weights, weights_fingerprint
from train.models.load import (
    load_run_tokenizer,
    load_tuned,
    quiet_libraries,
)


class Comparison(NamedTuple):
    """The configured prompts' answers before and after training, with the losses."""

    base: Losses | None
    """None where no row was held out."""
    tuned: Losses | None
    rows: int
    """Held out."""
    samples: list[Sample]


def evaluate(run: Run, generation: Generation | None = None, *, lang: Language | None = None) -> Comparison:
    """Losses, and answers to the configured prompts, before and after; written to samples.md, report.html, manifest.

    `lang` is the report's, by default that of the locale.
    """
    quiet_libraries()
    tuned, tokenizer = load_tuned(run)
    meter = make_meter(run, generation, tokenizer, None)
    after = meter.losses(tuned, "after"), meter.configured(tuned, "after")
    with untuned(tuned, run, meter.config) as base:
        comparison = _compare(meter, (meter.losses(base, "before"), meter.configured(base, "before")), after)
    write_report(run, comparison.samples, meter.generation, lang)
    return comparison


def evaluate_whole(
    run: Run,
    generation: Generation | None = None,
    *,
    samples: int | None = None,
    via: Server | None = None,
    checkpoints: bool = False,
    lang: Language | None = None,
) -> tuple[Comparison, Evaluation]:
    """`evaluate`, and what sampled answers to the held-out prompts tell; written to RUN/evaluation/ as well.

    `samples`: answers to each prompt. `via`: whose answers are judged in place of the tuned model's. `checkpoints`: the
    answers of each saved state are judged, too.
    """
    quiet_libraries()
    states = whole_checkpoints(run.checkpoints) if checkpoints else []
    if checkpoints and not states:
        raise RunError(f"{run.checkpoints} holds no saved state: training.save_strategy=epoch keeps some")
    tuned, tokenizer = load_tuned(run)
    meter = make_meter(run, generation, tokenizer, samples)
    prompts = meter.held_out_prompts(context_of(tuned))
    halves = None
    after = meter.losses(tuned, "after"), meter.configured(tuned, "after")
    if meter.trained and meter.rows:
        halves = continuation(tuned, tokenizer, [*meter.encode(meter.some_trained())], [*meter.encode(meter.rows)])
    knows = [measure_knowledge(tuned, tokenizer, "after training")]
    if via:
        ask = ask_server(via, meter.generation, meter.config.training.seed)
        answers = meter.sample(prompts, ask, via, via.model, batch_size=1)
    else:
        answers = meter.sample(prompts, meter.ask(tuned), tuned_weights(run), "the tuned model")
    saved = []
    for checkpoint in states:
        with at_checkpoint(tuned, run, checkpoint) as model:
            key = weights_fingerprint(checkpoint)
            saved.append((checkpoint.name, meter.sample(prompts, meter.ask(model), key, checkpoint.name)))
    begun = _answers_of_start(tuned, meter, prompts) if prompts else None
    with untuned(tuned, run, meter.config) as base:
        comparison = _compare(meter, (meter.losses(base, "before"), meter.configured(base, "before")), after)
        knows.insert(0, measure_knowledge(base, tokenizer, "before training"))
        before = meter.sample(prompts, meter.ask(base), run.manifest()["base"]["weights"], "the base")
    real = [prompt.real for prompt in prompts]
    judged = judge_answers(meter.trained, real, before, answers, len(answers) // max(1, len(prompts)), meter.other)
    places = [(name, *judge_state(meter.trained, real, before, said, meter.other)) for name, said in saved]
    evaluation = Evaluation(
        comparison.base,
        comparison.tuned,
        judged if prompts else None,
        halves,
        compare_knowledge(*knows),
        tuple(places),
        beside=judge_beside(begun[0], meter.trained, meter.other, begun[1], judged) if begun else None,
        via=via.model if via else None,
    )
    evaluation = evaluation._replace(not_measured=not_measured(meter, evaluation))
    run.evaluation.mkdir(exist_ok=True)
    told = to_json(evaluation)
    write_atomically(run.evaluation / "evaluation.json", json.dumps(told, ensure_ascii=False, indent=1) + "\n")
    write_page(run, evaluation)
    if via is None:
        run.update_manifest(evaluation={**run.manifest().get("evaluation", {}), "verdict": told["verdict"]})
    write_report(run, comparison.samples, meter.generation, lang)
    return comparison, evaluation


def _answers_of_start(tuned: Any, meter: Meter, prompts: Sequence[Prompt]) -> tuple[str, list[Answer]] | None:
    """(name, answers) of the run that this one began with; None where there is none, or it has changed since."""
    if (start := start_of(meter.run)) is None:
        return None
    with at_checkpoint(tuned, meter.run, start.adapter) as model:
        said = meter.sample(prompts, meter.ask(model), weights_fingerprint(start.adapter), start.path.name)
    return start.path.name, said


def evaluate_answers(run: Run, file: Path, *, samples: int | None = None) -> Evaluation:
    """Judge answers from anywhere: each row's last message is one, after its prompt. Nothing in the run changes.

    An answer to a held-out prompt of the run is compared with the persona's own to the same; any other counts as a
    dialogue by itself. The base's answers are sampled unless they are there.
    """
    quiet_libraries()
    meter = make_meter(run, None, load_run_tokenizer(run), samples)
    base = run_base(run)
    prompts = meter.held_out_prompts(context_length(language_config(base)))
    judged, strange = read_answers(file, prompts)
    with ExitStack() as stack:

        def ask(some: Sequence[Prompt], sample: int) -> list[str]:
            if not loaded:
                loaded.append(stack.enter_context(untuned(load_tuned(run)[0], run, meter.config)))
            return meter.ask(loaded[0])(some, sample)

        loaded: list[Any] = []
        before = meter.sample(prompts, ask, run.manifest()["base"]["weights"], "the base")
    real = [prompt.real for prompt in prompts]
    judgement = judge_answers(meter.trained, real, before, judged, 0, meter.other) if prompts else None
    evaluation = Evaluation(None, None, judgement, via=str(file))
    return evaluation._replace(not_measured=not_measured(meter, evaluation, strange))


def read_answers(file: Path, prompts: Sequence[Prompt]) -> tuple[list[Answer], int]:
    """(the file's answers, each with the dialogue whose prompt it answers; how many answer none of them)."""
    dialogues: dict[Any, list[Answer]] = defaultdict(list)
    for prompt in prompts:
        dialogues[question_of(prompt.messages)].append(prompt.real)
    judged, met, strange = [], Counter[Any](), 0
    for row in read_rows(file):
        question, text = question_of(row.messages[:-1]), text_of(row.messages[-1]).strip()
        if row.messages[-1]["role"] != "assistant" or not text:
            raise DataError(f"{file}:{row.line}: its last message is no answer of the assistant in words")
        alike = dialogues.get(question)
        meant = alike[met[question] % len(alike)] if alike else Answer(("other", row.line), "")
        met[question] += 1
        strange += not alike
        judged.append(meant._replace(text=text))
    return judged, strange


def _compare(
    meter: Meter, before: tuple[Losses | None, list[str]], after: tuple[Losses | None, list[str]]
) -> Comparison:
    """Put losses and answers of both models side by side, and write them."""
    run, shown_prompts = meter.run, map(shown, meter.prompts())
    samples = [Sample(*each) for each in zip(shown_prompts, before[1], after[1], strict=True)]
    result = Comparison(before[0], after[0], len(meter.rows), samples)
    write_atomically(run.samples_file, samples_page(result, run))
    if result.base and result.tuned:
        losses = {"base_loss": result.base.held_out, "tuned_loss": result.tuned.held_out}
        run.update_manifest(evaluation={**run.manifest().get("evaluation", {}), **losses, "rows": result.rows})
    return result


def summary(run: Run, comparison: Comparison | None, evaluation: Evaluation | None = None) -> str:
    """For the terminal: two prompts with both answers, the losses, the verdict, where the rest lies."""
    lines = []
    for sample in comparison.samples[:2] if comparison else ():
        before, after = (" ".join(text.split()) for text in (sample.before, sample.after))
        lines += [f"› {sample.prompt}", f"  base:  {before}", f"  tuned: {after}", ""]
    if comparison and comparison.base and comparison.tuned:
        before_loss, after_loss = comparison.base.held_out, comparison.tuned.held_out
        lines.append(
            f"held-out loss: {before_loss:.3f} before, {after_loss:.3f} after ({after_loss / before_loss - 1:+.0%})"
        )
    if evaluation:
        lines += [verdict(evaluation, "en"), *(f"not measured: {english}" for english, _ in evaluation.not_measured)]
        for name, place, recites in evaluation.checkpoints:
            manner = f"{place.value:.2f} ({place.low:.2f}–{place.high:.2f})" if place else "not measured"
            lines.append(f"{name}: manner {manner}{', recites' if recites else ''}")
        lines += [f"keep: {evaluation.keep}"] if evaluation.keep else []
    if comparison:
        lines += [f"answers: {run.samples_file}", f"report:  {run.report_file}"]
        lines += [f"page:    {run.evaluation / 'evaluation.html'}"] if evaluation else []
    return "\n".join(lines)


def shown(prompt: Sequence[Message]) -> str:
    """A prompt for reading: a dash before every turn where there are several, without the system message."""
    turns = [text_of(message) for message in prompt if message["role"] != "system"]
    return turns[0] if len(turns) == 1 else "\n".join(f"— {turn}" for turn in turns)


def samples_page(result: Comparison, run: Run) -> str:
    """The text of samples.md: every prompt with the answer of base and tuned model."""
    lines = [f"# {run.path.name}: answers before and after training", "", f"Sampled {now()}.", ""]
    if result.base and result.tuned:
        loss = f"{result.base.held_out:.3f} → {result.tuned.held_out:.3f}"
        lines += [f"Held-out loss over {result.rows} rows: {loss}.", ""]
    for sample in result.samples:
        lines += [f"## {sample.prompt.replace(chr(10), chr(10) + chr(10))}", ""]
        lines += ["**Base**", "", sample.before, "", "**Tuned**", "", sample.after, ""]
    return "\n".join(lines)
