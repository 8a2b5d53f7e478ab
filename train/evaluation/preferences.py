"""Preference rows from feedback, and from training answers preferred to the model's own."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from train.chats.feedback import Feedback
from train.chats.row_formats import Preference, preference_to_object
from train.chats.rows import Message, Row, row_to_json
from train.core.errors import DataError, GovorError
from train.core.files import require_new, write_whole
from train.core.runs import Run, open_run
from train.encoding.held_out import held_out_rows
from train.evaluation.generate import context_of
from train.evaluation.judged_rows import persona_run, trained_rows
from train.evaluation.meter import Meter
from train.evaluation.sampling import held_out_prompts, spread, that_fit
from train.models.base import tuned_weights
from train.models.load import load_tuned, quiet_libraries


def make_preferences(
    files: Sequence[Path],
    run: Path | None,
    answers: int | None,
    output: Path,
    *,
    liked: Path | None = None,
    force: bool,
) -> Iterator[str]:
    """Write the preference rows of some files of feedback; what was written and left out, a line for each file.

    `run`: what the rows will go on from; questions that it holds out are left out. `answers`: so many of its training
    answers are added, preferred to what its model says. `liked`: where liked answers go, as rows to train on.
    DataError where there is not one preference row.
    """
    if not files and answers is None:
        raise GovorError("nothing to make rows from: name a file of feedback, or --run RUN --answers N")
    if answers is not None and run is None:
        raise GovorError("--answers: name the run whose model answers with --run RUN")
    written = [output] if liked is None else [output, liked]
    for path in written:
        require_new(path, force)
        if any(path.absolute() == other.absolute() for other in (*files, *written) if other is not path):
            raise GovorError(f"{path}: named twice: what is written needs a name of its own")
    found = Feedback()
    for file in files:
        found.read(file)
    held_out: list[Row] = []
    if run is not None:
        start = open_run(run)
        held_out = [row for one in {start, persona_run(start)} for row in held_out_rows(one)]
        for row in preferred_to_own(start, answers) if answers else ():
            found.add(row)
    lines = [json.dumps(preference_to_object(row), ensure_ascii=False) + "\n" for row in found.preferences(held_out)]
    left_out = "".join(f"; left out: {count} {why}" for why, count in sorted(found.left_out.items()) if count)
    if liked is not None:
        good = [row_to_json(row) + "\n" for row in found.liked(held_out)]
        write_whole(liked, good, replace=force)
        yield f"{liked}: {len(good)} liked answers, as rows to train on"
    if not lines:
        alone = "; --liked FILE takes answers with 👍 as rows to train on" if found.labels and liked is None else ""
        raise DataError(f"no preference row, so {output} was not written{left_out}{alone}")
    write_whole(output, lines, replace=force)
    yield f"{output}: {len(lines)} preference rows{left_out}"


def preferred_to_own(run: Run, prompts: int) -> Iterator[Preference]:
    """Of at most so many training prompts the real answer, preferred to one that the run's model gives.

    The answers are kept in RUN/evaluation/answers.jsonl, so that a second call asks for none again. Held-out rows are
    left alone. DataError where the training rows are gone or have changed.
    """
    config, persona = run.config(), persona_run(run)
    held_out = held_out_rows(persona)
    rows = trained_rows(persona, held_out)
    if not rows:
        raise DataError(
            f"{run.path}: {persona.config().data.train_file} is gone or has changed, so its questions are not known"
        )
    quiet_libraries()
    tuned, tokenizer = load_tuned(run)
    meter = Meter(run, config, config.generation, tokenizer, held_out, rows, 1)
    asked = spread(that_fit(held_out_prompts(rows), tokenizer, context_of(tuned), config.generation), prompts)
    weights = tuned_weights(run)
    for prompt, own in zip(asked, meter.sample(asked, meter.ask(tuned), weights, "the tuned model"), strict=True):
        real, said = prompt.real.text.strip(), own.text.strip()
        if said and said != real:
            better, worse = ([Message(role="assistant", content=text)] for text in (real, said))
            yield Preference(0, prompt.messages, better, worse, prompt.tools)
