"""report.html: one self-contained page about a run, from its folder, in Russian or English."""

import html
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from train.core.config import Generation
from train.core.files import write_atomically
from train.core.pages import Language, Say, html_page, language_of_locale, prose, speaker, svg
from train.core.runs import Run
from train.models.base import describe_template


class Sample(NamedTuple):
    """One prompt and its answers."""

    prompt: str
    before: str
    after: str


SAME = 0.005
"""Share by which the held-out loss must change to be called better or worse."""
RUSSIAN = {
    "Better: held-out loss fell from {before:.3f} to {after:.3f} ({change:+.0%}).": "Лучше: ошибка на отложенных "
    "строках упала с {before:.3f} до {after:.3f} ({change:+.0%}).",
    "Worse: held-out loss rose from {before:.3f} to {after:.3f} ({change:+.0%}).": "Хуже: ошибка на отложенных "
    "строках выросла с {before:.3f} до {after:.3f} ({change:+.0%}).",
    "No change: held-out loss was {before:.3f} and is {after:.3f}.": "Без перемен: ошибка на отложенных строках была "
    "{before:.3f}, стала {after:.3f}.",
    "Not evaluated yet: `govor eval` compares the model before and after training.": "Ещё не оценено: `govor eval` "
    "сравнит модель до и после обучения.",
    "base": "база", "chat template": "шаблон чата", "trained": "обучено", "held out": "отложено",
    "parameters": "параметры", "machine": "машина", "finished": "закончено", "no": "нет",
    "training took": "обучение заняло", "system message": "системное сообщение", "warning": "предупреждение",
    "answers are sampled with": "ответы получены с",
    "{rows:,} rows, {tokens:,} trained tokens an epoch": "строк: {rows:,}, обучаемых токенов за эпоху: {tokens:,}",
    "{n:,} rows": "строк: {n:,}",
    "{part:,} trained of {all:,}": "обучается {part:,} из {all:,}",
    "{hours} h {minutes} min": "{hours} ч {minutes} мин", "{minutes} min {seconds} s": "{minutes} мин {seconds} с",
    "{seconds} s": "{seconds} с",
    "temperature {heat}, top_p {top}, repetition penalty {penalty}, at most {longest:,} tokens": "температурой {heat}, "
    "top_p {top}, штрафом за повторы {penalty}, не длиннее {longest:,} токенов",
    "always the likeliest token, repetition penalty {penalty}, at most {longest:,} tokens": "самым вероятным токеном, "
    "штрафом за повторы {penalty}, не длиннее {longest:,} токенов",
    "Loss": "Ошибка", "Tokens a row": "Токенов в строке", "Answers": "Ответы", "Config": "Настройки",
    "prompt": "промпт", "tuned": "обученная", "training": "обучение", "optimizer step": "шаг оптимизатора",
    "loss, nats a token": "ошибка, нат на токен", "tokens": "токенов", "rows": "строк",
    "Preferences": "Предпочтения", "pairs told rightly": "верно различённые пары", "margin, nats": "отрыв, нат",
    "by length alone": "по одной длине",
    "AID preferences": "Сверху — доля пар, в которых обученная модель прибавила предпочтённому ответу больше, чем "
    "другому; снизу — на сколько больше. Пунктир — что даёт одна длина ответа: если линия на отложенных парах не выше "
    "него, выучена, возможно, только длина.",
    "AID loss": "Чем ниже, тем увереннее модель угадывает следующий токен. Обе линии идут вниз — учится; если "
    "отложенные строки снова растут, а обучение падает, она заучивает наизусть: хватит меньше эпох.",
    "AID lengths": "Столбик — сколько строк обучения такой длины. Самые длинные требуют больше всего памяти.",
    "AID answers": "Одни и те же промпты до обучения и после. Например, если справа появились слова и длина ответов "
    "персоны, а смысл остался, обучение удалось.",
}  # fmt: skip
ENGLISH = {
    "AID preferences": "Above, the share of the pairs in which the tuned model has given the preferred answer more "
    "than the other; below, how much more. The dashed line is what the answers' length alone tells: where held-out "
    "pairs are no higher, length may be all that was learned.",
    "AID loss": "The lower, the surer the model is of the next token. Both lines falling: it learns. Where held-out "
    "rows rise again while training falls, it learns by heart: fewer epochs will do.",
    "AID lengths": "Each bar counts the training rows of that length. The longest cost the most memory.",
    "AID answers": "The same prompts before training and after. Example: where the right column has the persona's "
    "words and lengths and still makes sense, training has worked.",
}


def write_report(
    run: Run,
    samples: Sequence[Sample] = (),
    generation: Generation | None = None,
    lang: Language | None = None,
) -> None:
    """Write the run's report.html, over an earlier one: verdict, loss curve, lengths, config and the samples given.

    `generation` is how the samples were made, by default as the run's config says; `lang` by default the locale's.
    """
    manifest, lang = run.manifest(), lang or language_of_locale()
    say = speaker(lang, RUSSIAN, ENGLISH)
    facts = [
        *_facts(manifest, say),
        (say("answers are sampled with"), _sampling(generation or run.config().generation, say)),
    ]
    parts = [
        f'<p class="verdict">{prose(_verdict(manifest, lang, say))}</p>',
        _table([[f"<th>{_text(key)}</th>", f"<td>{_text(value)}</td>"] for key, value in facts]),
        f"<h2>{say('Loss')}</h2>{loss_curve(run.metrics(), say)}{_aid(say('AID loss'))}",
        f"<h2>{say('Tokens a row')}</h2>{_histogram(manifest['lengths'], say)}{_aid(say('AID lengths'))}",
    ]
    if preferences := preference_curves(run.metrics(), manifest.get("preferences"), say):
        parts.append(f"<h2>{say('Preferences')}</h2>{preferences}{_aid(say('AID preferences'))}")
    if samples:
        head = [f"<th>{_text(say(name))}</th>" for name in ("prompt", "base", "tuned")]
        answers = _table([head, *([f"<td>{_text(cell)}</td>" for cell in sample] for sample in samples)])
        parts.append(f"<h2>{say('Answers')}</h2>{_aid(say('AID answers'))}{answers}")
    parts.append(f"<h2>{say('Config')}</h2><pre>{_text(run.config_file.read_text(encoding='utf-8'))}</pre>")
    write_atomically(run.report_file, html_page(run.path.name, "\n".join(parts), lang))


def _verdict(manifest: dict[str, Any], lang: Language, say: Say) -> str:
    """Whether the held-out loss is better, and what `govor eval` says of manner, copies and knowledge."""
    result = manifest.get("evaluation", {})
    said = []
    if "base_loss" in result and math.isfinite(result["base_loss"]):
        before, after = result["base_loss"], result["tuned_loss"]
        change = after / before - 1
        said.append(
            say("No change: held-out loss was {before:.3f} and is {after:.3f}.", before=before, after=after)
            if abs(change) < SAME
            else say(
                "Better: held-out loss fell from {before:.3f} to {after:.3f} ({change:+.0%})."
                if change < 0
                else "Worse: held-out loss rose from {before:.3f} to {after:.3f} ({change:+.0%}).",
                before=before, after=after, change=change,
            )
        )  # fmt: skip
    if "verdict" in result:
        said.append(result["verdict"][lang])
    return " ".join(said) or say("Not evaluated yet: `govor eval` compares the model before and after training.")


def _facts(manifest: dict[str, Any], say: Say) -> list[tuple[str, object]]:
    data, parameters, processes = manifest["data"], manifest["parameters"], manifest["processes"]
    train = data["train"]
    return [
        (say("base"), manifest["base"]["name_or_path"]),
        (say("chat template"), describe_template(manifest["template"])),
        (say("trained"), say("{rows:,} rows, {tokens:,} trained tokens an epoch",
                             rows=train["rows"], tokens=train["trained_tokens"])),
        (say("held out"), say("{n:,} rows", n=data["held_out"]["rows"])),
        (say("parameters"), say("{part:,} trained of {all:,}", part=parameters["trainable"], all=parameters["all"])),
        (say("machine"), f"{processes['device']} × {processes['num_processes']}"),
        (say("finished"), manifest.get("finished", say("no"))),
        *([(say("training took"), _duration(manifest["seconds"], say))] if "seconds" in manifest else ()),
        *([(say("system message"), data["system_message"])] if data.get("system_message") else ()),
        *((say("warning"), text) for text in manifest.get("warnings", ())),
    ]  # fmt: skip


def _duration(seconds: float, say: Say) -> str:
    minutes, left = divmod(round(seconds), 60)
    if minutes >= 60:
        return say("{hours} h {minutes} min", hours=minutes // 60, minutes=minutes % 60)
    return (
        say("{minutes} min {seconds} s", minutes=minutes, seconds=left) if minutes else say("{seconds} s", seconds=left)
    )


def _sampling(generation: Generation, say: Say) -> str:
    how = (
        "temperature {heat}, top_p {top}, repetition penalty {penalty}, at most {longest:,} tokens"
        if generation.do_sample
        else "always the likeliest token, repetition penalty {penalty}, at most {longest:,} tokens"
    )
    return say(
        how, heat=generation.temperature, top=generation.top_p, penalty=generation.repetition_penalty,
        longest=generation.max_new_tokens,
    )  # fmt: skip


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f'<table class="text">{lines}</table>'


def _aid(text: str) -> str:
    return f'<p class="aid">{prose(text)}</p>'


def loss_curve(metrics: Sequence[dict[str, Any]], say: Say) -> str:
    """SVG of training and held-out loss over steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for name, label in (("loss", say("training")), ("eval_loss", say("held out"))):
        points = [(m["step"], m[name]) for m in metrics if name in m and math.isfinite(m[name])]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
    axes.set_xlabel(say("optimizer step"))
    axes.set_ylabel(say("loss, nats a token"))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    return svg(figure)


def preference_curves(metrics: Sequence[dict[str, Any]], by_length: dict[str, Any] | None, say: Say) -> str:
    """SVG of preference tuning's accuracy and margin over steps, beside what length alone tells; empty without any."""
    from matplotlib.figure import Figure

    if by_length is None:
        return ""
    figure = Figure(figsize=(6, 5), layout="constrained")
    measures = (("accuracies", say("pairs told rightly")), ("margins", say("margin, nats")))
    for axes, (name, label) in zip(figure.subplots(2, sharex=True), measures, strict=True):
        for key, whose in ((f"rewards/{name}", say("training")), (f"eval_rewards/{name}", say("held out"))):
            points = [(m["step"], m[key]) for m in metrics if key in m]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=whose)
        if name == "accuracies" and by_length["accuracy"] is not None:
            axes.axhline(by_length["accuracy"], color="gray", linestyle="--", label=say("by length alone"))
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    axes.set_xlabel(say("optimizer step"))
    return svg(figure)


def _histogram(lengths: dict[str, list[float]], say: Say) -> str:
    """SVG of `counts` rows in the bins between `edges` (one more than counts)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 2.5), layout="constrained")
    axes = figure.subplots()
    axes.stairs(lengths["counts"], lengths["edges"], fill=True)
    axes.set_xlabel(say("tokens"))
    axes.set_ylabel(say("rows"))
    return svg(figure)


def _text(value: object) -> str:
    return html.escape(str(value))
