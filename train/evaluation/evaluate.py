"""What training changed: the held-out loss of base and tuned model, and their answers to the same prompts."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from train.chats.rows import Message, configured_prompts, text_of
from train.core.config import Config, Generation
from train.core.files import write_atomically
from train.core.progress import track
from train.core.runs import Run, now
from train.encoding.held_out import encode_held_out, held_out_rows
from train.encoding.loss_mask import IGNORE_INDEX, Encoded
from train.evaluation.generate import answer
from train.evaluation.report import Sample, write_report
from train.models.base import run_base
from train.models.load import load_base, load_tuned, quiet_libraries, resolve_precision


class Evaluation(NamedTuple):
    """What training changed: the held-out loss and the answers of base and tuned model."""

    base_loss: float | None
    """Nats a trained token over the held-out rows; None where no row was held out."""
    tuned_loss: float | None
    rows: int
    samples: list[Sample]


def evaluate(run: Run, generation: Generation | None = None) -> Evaluation:
    """Loss and answers of a finished run before and after training; written to samples.md, report.html, manifest."""
    quiet_libraries()
    config, manifest = run.config(), run.manifest()
    generation = generation or config.generation
    rows = held_out_rows(run)
    tuned, tokenizer = load_tuned(run)
    system: str | None = manifest["data"]["system_message"]
    prompts = [with_system(prompt, system) for prompt in configured_prompts(config)]
    stop = run.end_of_turn()

    def measure(model: Any, when: str) -> tuple[float | None, list[str]]:
        answers = [
            answer(model, tokenizer, prompt, generation, stop=stop, seed=config.training.seed)
            for prompt in track(prompts, f"answers {when} training", len(prompts))
        ]
        encoded = track(encode_held_out(run, tokenizer, rows), f"held-out loss {when} training", len(rows))
        return held_out_loss(model, encoded), answers

    tuned_loss, after = measure(tuned, "after")
    with untuned(tuned, run, config) as base:
        base_loss, before = measure(base, "before")
    samples = [Sample(shown(p), b, a) for p, b, a in zip(prompts, before, after, strict=True)]
    result = Evaluation(base_loss, tuned_loss, len(rows), samples)
    write_atomically(run.samples_file, samples_page(result, run))
    if base_loss is not None:
        run.update_manifest(evaluation={"base_loss": base_loss, "tuned_loss": tuned_loss, "rows": len(rows)})
    write_report(run, samples)
    return result


def summary(run: Run, evaluation: Evaluation) -> str:
    """An evaluation for the terminal: two prompts with both answers, the losses, where the rest lies."""
    lines = []
    for sample in evaluation.samples[:2]:
        before, after = (" ".join(text.split()) for text in (sample.before, sample.after))
        lines += [f"› {sample.prompt}", f"  base:  {before}", f"  tuned: {after}", ""]
    if evaluation.base_loss is not None and evaluation.tuned_loss is not None:
        change = evaluation.tuned_loss / evaluation.base_loss - 1
        lines.append(
            f"held-out loss: {evaluation.base_loss:.3f} before, {evaluation.tuned_loss:.3f} after ({change:+.0%})"
        )
    return "\n".join([*lines, f"answers: {run.samples_file}", f"report:  {run.report_file}"])


def held_out_loss(model: Any, rows: Iterable[Encoded]) -> float | None:
    """Mean negative log likelihood of the rows' trained tokens, in nats; None where there is no row."""
    import torch
    from torch.nn.functional import cross_entropy

    total, count = 0.0, 0
    for encoded in rows:  # one at a time: no padding, and the logits of a long row fit small cards
        labels = torch.tensor(encoded.labels[1:], device=model.device)
        with torch.inference_mode():
            logits = model(torch.tensor([encoded.input_ids], device=model.device)).logits[0, :-1]
        kept = labels != IGNORE_INDEX
        total += cross_entropy(logits[kept].float(), labels[kept], reduction="sum").item()
        count += int(kept.sum())
    return total / count if count else None


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


def samples_page(result: Evaluation, run: Run) -> str:
    """The text of samples.md: every prompt with the answer of base and tuned model."""
    lines = [f"# {run.path.name}: answers before and after training", "", f"Sampled {now()}.", ""]
    if result.base_loss is not None:
        lines += [f"Held-out loss over {result.rows} rows: {result.base_loss:.3f} → {result.tuned_loss:.3f}.", ""]
    for sample in result.samples:
        lines += [f"## {sample.prompt.replace(chr(10), chr(10) + chr(10))}", ""]
        lines += ["**Base**", "", sample.before, "", "**Tuned**", "", sample.after, ""]
    return "\n".join(lines)
