"""What training changed: the losses of base and tuned model, their answers to the same prompts, and what these tell."""

import inspect
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from train.chats.pairs import question_of
from train.chats.readers import read_rows
from train.chats.rows import Message, Row, configured_prompts, text_of
from train.chats.split import Split, read_split
from train.core.config import Config, Generation
from train.core.errors import DataError, GovorError, RunError
from train.core.files import sha256, write_atomically
from train.core.pages import Language
from train.core.progress import track
from train.core.runs import Run, now, open_run, whole_checkpoints
from train.encoding.held_out import encode_held_out, held_out_rows
from train.encoding.loss_mask import IGNORE_INDEX, Encoded
from train.evaluation.evaluation_page import write_page
from train.evaluation.forgetting import KNOWS_ENOUGH, compare_knowledge, measure_knowledge
from train.evaluation.generate import answer, context_of
from train.evaluation.judge import (
    Evaluation,
    Judgement,
    Losses,
    judge_answers,
    judge_beside,
    judge_state,
    to_json,
    verdict,
)
from train.evaluation.leakage import continuation
from train.evaluation.markers import is_russian
from train.evaluation.report import Sample, write_report
from train.evaluation.sampling import (
    BATCH,
    AnswerFile,
    Ask,
    Prompt,
    Server,
    ask_model,
    ask_server,
    collect_answers,
    held_out_prompts,
    samples_needed,
    spread,
    that_fit,
)
from train.evaluation.style import FEWEST, Answer
from train.models.base import context_length, language_config, run_base, weights_fingerprint
from train.models.load import (
    load_base,
    load_merged,
    load_run_tokenizer,
    load_tuned,
    quiet_libraries,
    require_safe_adapter,
    resolve_precision,
    unwrap,
)


class Comparison(NamedTuple):
    """The configured prompts' answers before and after training, with the losses."""

    base: Losses | None
    """None where no row was held out."""
    tuned: Losses | None
    rows: int
    """Held out."""
    samples: list[Sample]


@dataclass
class Meter:
    """Measures one model after another with a run's rows, prompts and settings."""

    run: Run
    config: Config
    generation: Generation
    tokenizer: Any
    rows: list[Row]
    """Held out."""
    trained: list[Row] | None
    """None where the training file is gone or has changed."""
    samples: int | None
    """Answers to each held-out prompt; None for as many as are needed."""
    before: list[Row] | None = field(default_factory=list)
    """Rows of the runs that it went on from; None where they are not known."""

    def __post_init__(self) -> None:
        self.stop = self.run.end_of_turn()
        self.file = AnswerFile(self.run.evaluation / "answers.jsonl")

    def losses(self, model: Any, when: str) -> Losses | None:
        """Over the held-out rows, and over as many training rows where those are at hand."""
        if not self.rows:
            return None
        found = score(model, track(self.encode(self.rows), f"held-out loss {when} training", len(self.rows)))
        if not math.isfinite(found.loss):
            raise GovorError(f"{self.run.path}: its held-out loss {when} training is no number: weights are damaged")
        if not (some := self.some_trained()):
            return Losses(found.loss, found.accuracy, None)
        seen = score(model, track(self.encode(some), f"loss of training rows {when} training", len(some)))
        return Losses(found.loss, found.accuracy, seen.loss)

    def configured(self, model: Any, when: str) -> list[str]:
        """Answers to the config's prompts."""
        prompts = self.prompts()
        return [
            answer(model, self.tokenizer, prompt, self.generation, stop=self.stop, seed=self.config.training.seed)
            for prompt in track(prompts, f"answers {when} training", len(prompts))
        ]

    def prompts(self) -> list[list[Message]]:
        system: str | None = self.run.manifest()["data"]["system_message"]
        return [with_system(prompt, system) for prompt in configured_prompts(self.config)]

    def held_out_prompts(self, context: int) -> list[Prompt]:
        """Those that leave room for an answer in a context of so many tokens."""
        return that_fit(held_out_prompts(self.rows), self.tokenizer, context, self.generation)

    def sample(
        self, prompts: Sequence[Prompt], ask: Ask, model: object, name: str, batch_size: int = BATCH
    ) -> list[Answer]:
        """Answers to the held-out prompts; `model` tells it from every other, in the file of answers."""
        key = json.dumps(model, sort_keys=True, ensure_ascii=False)
        settings = json.dumps([self.generation.model_dump(), self.config.training.seed], sort_keys=True)
        samples = self.samples or samples_needed(len(prompts))
        return collect_answers(self.file, key, settings, prompts, samples, ask, f"answers of {name}", batch_size)

    def ask(self, model: Any) -> Ask:
        return ask_model(model, self.tokenizer, self.generation, self.stop, self.config.training.seed)

    def encode(self, rows: Sequence[Row]) -> Iterator[Encoded]:
        return encode_held_out(self.run, self.tokenizer, rows)

    def some_trained(self) -> list[Row]:
        """As many training rows as are held out, spread over all."""
        return spread(self.trained or [], len(self.rows))


def evaluate(run: Run, generation: Generation | None = None, *, lang: Language | None = None) -> Comparison:
    """Losses, and answers to the configured prompts, before and after; written to samples.md, report.html, manifest.

    `lang` is the report's, by default that of the locale.
    """
    quiet_libraries()
    tuned, tokenizer = load_tuned(run)
    meter = Meter(run, run.config(), generation or run.config().generation, tokenizer, held_out_rows(run), None, None)
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
    meter = _meter(run, generation, tokenizer, samples)
    prompts = meter.held_out_prompts(context_of(tuned))
    halves = None
    after = meter.losses(tuned, "after"), meter.configured(tuned, "after")
    if meter.trained and meter.rows:
        halves = continuation(
            tuned, tokenizer, [*meter.encode(meter.some_trained())], [*meter.encode(meter.rows)], meter.stop
        )
    knows = [measure_knowledge(tuned, tokenizer, "after training")]
    if via:
        ask = ask_server(via, meter.generation, meter.config.training.seed)
        answers = meter.sample(prompts, ask, via, via.model, batch_size=1)
    else:
        answers = meter.sample(prompts, meter.ask(tuned), _weights(run), "the tuned model")
    saved = []
    for checkpoint in states:
        with _at_checkpoint(tuned, run, checkpoint) as model:
            key = weights_fingerprint(checkpoint)
            saved.append((checkpoint.name, meter.sample(prompts, meter.ask(model), key, checkpoint.name)))
    begun = _answers_of_start(tuned, meter, prompts) if prompts else None
    with untuned(tuned, run, meter.config) as base:
        comparison = _compare(meter, (meter.losses(base, "before"), meter.configured(base, "before")), after)
        knows.insert(0, measure_knowledge(base, tokenizer, "before training"))
        before = meter.sample(prompts, meter.ask(base), run.manifest()["base"]["weights"], "the base")
    real = [prompt.real for prompt in prompts]
    judged = judge_answers(meter.trained, real, before, answers, len(answers) // max(1, len(prompts)), meter.before)
    places = [(name, *judge_state(meter.trained, real, before, said, meter.before)) for name, said in saved]
    evaluation = Evaluation(
        comparison.base,
        comparison.tuned,
        judged if prompts else None,
        halves,
        compare_knowledge(*knows),
        tuple(places),
        beside=judge_beside(begun[0], meter.trained, meter.before, begun[1], judged) if begun else None,
        via=via.model if via else None,
    )
    evaluation = evaluation._replace(not_measured=_not_measured(meter, evaluation))
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
    start = _start_of(meter.config)
    if start is None or meter.run.manifest().get("start") != weights_fingerprint(start.adapter):
        return None
    with _at_checkpoint(tuned, meter.run, start.adapter) as model:
        said = meter.sample(prompts, meter.ask(model), weights_fingerprint(start.adapter), start.path.name)
    return start.path.name, said


def _start_of(config: Config) -> Run | None:
    return Run(config.lora.start_from) if config.lora and config.lora.start_from else None


def evaluate_answers(run: Run, file: Path, *, samples: int | None = None) -> Evaluation:
    """Judge answers from anywhere: each row's last message is one, after its prompt. Nothing in the run changes.

    An answer to a held-out prompt of the run is compared with the persona's own to the same; any other counts as a
    dialogue by itself. The base's answers are sampled unless they are there.
    """
    quiet_libraries()
    meter = _meter(run, None, load_run_tokenizer(run), samples)
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
    judgement = judge_answers(meter.trained, real, before, judged, 0, meter.before) if prompts else None
    evaluation = Evaluation(None, None, judgement, via=str(file))
    return evaluation._replace(not_measured=_not_measured(meter, evaluation, strange))


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


def _meter(run: Run, generation: Generation | None, tokenizer: Any, samples: int | None) -> Meter:
    config, rows = run.config(), held_out_rows(run)
    generation, trained = generation or config.generation, trained_rows(run, rows)
    return Meter(run, config, generation, tokenizer, rows, trained, samples, rows_before(run))


def trained_rows(run: Run, held_out: Sequence[Row]) -> list[Row] | None:
    """The rows that were trained on; None where the file is gone or has changed, or gives other held-out rows."""
    split = _split_of(run)
    same = split and [row.messages for row in split.held_out] == [row.messages for row in held_out]
    return split.train if split and same else None


def _split_of(run: Run) -> Split | None:
    """The rows of the run's training file; None where that is gone or has changed."""
    config, trained = run.config(), run.manifest()["data"].get("train") or {}
    try:
        return read_split(config) if sha256(config.data.train_file) == trained.get("sha256") else None
    except (DataError, OSError):
        return None


def rows_before(run: Run) -> list[Row] | None:
    """The rows of the runs that it went on from (lora.start_from); None where some are gone or have changed."""
    lora = run.config().lora
    if lora is None or lora.start_from is None:
        return []
    try:
        start = open_run(lora.start_from)
        split, earlier = _split_of(start), rows_before(start)
    except GovorError:
        return None
    return None if split is None or earlier is None else [*earlier, *split.train]


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


def _weights(run: Run) -> dict[str, str]:
    """What tells the tuned model from any other."""
    return weights_fingerprint(run.adapter if run.adapter.exists() else run.merged)


@contextmanager
def _at_checkpoint(tuned: Any, run: Run, checkpoint: Path) -> Iterator[Any]:
    """The model as it was when a checkpoint was saved."""
    if not run.adapter.exists():
        yield load_merged(run, checkpoint)
        return
    require_safe_adapter(checkpoint)
    tuned.load_adapter(str(checkpoint), "checkpoint")
    tuned.set_adapter("checkpoint")
    try:
        yield tuned
    finally:
        tuned.set_adapter("default")
        tuned.delete_adapter("checkpoint")


def _not_measured(meter: Meter, evaluation: Evaluation, strange: int = 0) -> tuple[tuple[str, str], ...]:
    """What is missing and why, in English and in Russian; so many answers are `strange`: to no held-out prompt."""
    judged, forgot = evaluation.judgement, evaluation.forgetting
    count = len(judged.tuned) if judged else 0
    start = meter.config.lora.start_from if meter.config.lora else None
    known = (
        (
            judged and meter.before is None,
            f"Copies: the rows of {start}, which it went on from, are gone or no longer what was trained on.",
            f"Цитаты: строк прогона {start}, с которого он продолжен, нет, или обучение шло на других.",
        ),
        (
            judged and judged.two_sample is None,
            "The two-sample test: it needs answers in ten held-out dialogues.",
            "Двухвыборочный тест: нужны ответы в десяти отложенных диалогах.",
        ),
        (
            judged and not judged.markers,
            "Marks: they need answers in two held-out dialogues.",
            "Приметы: нужны ответы в двух отложенных диалогах.",
        ),
        (
            judged and judged.russian and not is_russian(judged.base),
            "How near it came: the base says nothing or speaks another language, so that any Russian is near 1.",
            "Насколько стало ближе: база молчит или говорит на другом языке, и любой русский окажется около 1.",
        ),
        (
            judged and strange,
            f"In pairs: {strange} of {count} answers are to prompts that were not held out.",
            f"Попарно: ответов не на отложенные промпты {strange} из {count}.",
        ),
        (
            judged and start and not (evaluation.beside or evaluation.via),
            f"Better or worse than {start}, which it went on from: that is gone or has changed.",
            f"Лучше или хуже прогона {start}, с которого он продолжен: его нет, или он изменился.",
        ),
        (
            judged and not judged.russian,
            "ты and вы, ё, imperatives, images: they need Russian; elsewhere topics count in the position, too.",
            "Ты и вы, ё, повеления, образы: им нужен русский; без него в положение входят и темы.",
        ),
        (
            forgot and forgot.p is None,
            f"Whether questions were forgotten: the base is right in less than {KNOWS_ENOUGH:.0%} of them.",
            f"Забыты ли вопросы: база верно отвечает меньше чем на {100 * KNOWS_ENOUGH:.0f} % из них.",
        ),
    )
    return (*_without_manner(meter, judged), *((english, russian) for missing, english, russian in known if missing))


def _without_manner(meter: Meter, judged: Judgement | None) -> list[tuple[str, str]]:
    """Why manner or copies were not measured, in English and in Russian."""
    file, train_file = meter.run.held_out_file, meter.config.data.train_file
    if not meter.rows:
        if meter.run.manifest()["data"]["held_out"]["rows"]:
            return [(f"Manner and copies: {file} is gone.", f"Манера и цитаты: файла {file} больше нет.")]
        why = "Manner and copies: no row was held out (data.eval_fraction)."
        return [(why, "Манера и цитаты: отложенных строк нет (data.eval_fraction).")]
    if judged is None:
        why = "Manner and copies: no held-out prompt leaves room for an answer in the model's context."
        return [(why, "Манера и цитаты: ни один отложенный промпт не оставляет места для ответа в контексте модели.")]
    if meter.trained is None:
        why = f"Manner and copies: {train_file} is gone, or no longer what was trained on."
        return [(why, f"Манера и цитаты: файла {train_file} нет, или обучение шло на другом.")]
    if judged.position is None:
        why = f"Position: it needs answers in {FEWEST} held-out dialogues, and a base that is not like the persona."
        return [(why, f"Положение: нужны ответы в {FEWEST} отложенных диалогах и база, не похожая на персону.")]
    return []


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


class Score(NamedTuple):
    """Over trained tokens, every one alike."""

    loss: float
    """Nats a token."""
    accuracy: float
    """Share of the tokens that were the likeliest."""


def score(model: Any, rows: Iterable[Encoded]) -> Score:
    """Loss and accuracy over the rows' trained tokens; not a number where there is none."""
    import torch
    from torch.nn.functional import cross_entropy

    total, right, count = 0.0, 0, 0
    chooses = "logits_to_keep" in inspect.signature(unwrap(model).forward).parameters
    for encoded in rows:  # one at a time: no padding, and the logits of a long row fit small cards
        labels = torch.tensor(encoded.labels[1:], device=model.device)
        kept = (labels != IGNORE_INDEX).nonzero()[:, 0]
        wanted = {"logits_to_keep": kept} if chooses else {}  # half of the work where the vocabulary has 262,144
        with torch.inference_mode():
            logits = model(torch.tensor([encoded.input_ids], device=model.device), **wanted).logits[0]
        logits, labels = (logits if chooses else logits[kept]).float(), labels[kept]
        total += cross_entropy(logits, labels, reduction="sum").item()
        right += int((logits.argmax(-1) == labels).sum())
        count += len(labels)
    return Score(total / count, right / count) if count else Score(float("nan"), float("nan"))


@contextmanager
def untuned(tuned: Any, run: Run, config: Config) -> Iterator[Any]:
    """The base behind the tuned model: its adapter switched off, or after full tuning the base loaded anew."""
    if run.adapter.exists():
        with tuned.disable_adapter():
            yield tuned
    else:
        tuned.to("cpu")
        yield load_base(config.model, run_base(run), resolve_precision(config), use_cpu=config.training.use_cpu).eval()


def with_system(messages: Sequence[Message], system: str | None) -> list[Message]:
    """The conversation under the system message that the model was trained with, unless it brings its own."""
    if system is None or messages[0]["role"] == "system":
        return list(messages)
    return [{"role": "system", "content": system}, *messages]


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
