"""govor eval: what is asked of it, and what it prints."""

import json
from pathlib import Path

from train.core.errors import GovorError
from train.core.pages import Language
from train.core.runs import Run
from train.evaluation.evaluate import evaluate, evaluate_answers, evaluate_whole, summary
from train.evaluation.judge import Evaluation, to_json
from train.evaluation.sampling import Server, find_server


def show_evaluation(
    run: Run,
    *,
    quick: bool = False,
    samples: int | None = None,
    via: str | None = None,
    model: str | None = None,
    answers: Path | None = None,
    checkpoints: bool = False,
    as_json: bool = False,
    lang: Language | None = None,
) -> Evaluation:
    """Evaluate a run as the options say and print what came out; GovorError where two of them do not go together."""
    given = {"--samples": samples, "--via": via, "--model": model, "--answers": answers, "--checkpoints": checkpoints}
    named = [option for option, value in given.items() if value]
    alone = "--quick" if quick else "--answers" if answers else None
    if alone and (others := [option for option in named if option not in (alone, "--samples" if answers else None)]):
        raise GovorError(f"{alone} does not go with {', '.join(others)}")
    if model and not via:
        raise GovorError("--model names a server's model: give --via URL too")
    if quick:
        comparison = evaluate(run, lang=lang)
        evaluation = Evaluation(comparison.base, comparison.tuned)
        text = summary(run, comparison)
    elif answers:
        evaluation = evaluate_answers(run, answers, samples=samples)
        text = summary(run, None, evaluation)
    else:
        server: Server | None = find_server(via, model) if via else None
        comparison, evaluation = evaluate_whole(run, samples=samples, via=server, checkpoints=checkpoints, lang=lang)
        text = summary(run, comparison, evaluation)
    print(json.dumps(to_json(evaluation), ensure_ascii=False) if as_json else text)
    return evaluation
