"""Does the merged model answer as the adapter did: both over the same held-out tokens, one of them in memory at a time.

The tuned model's log-probabilities wait on disk for the models that are compared with it.
"""

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from train.core.files import aside_folder, require_disk_space
from train.core.progress import track
from train.core.runs import Run
from train.encoding.held_out import encode_held_out, held_out_rows
from train.encoding.loss_mask import IGNORE_INDEX, Encoded
from train.models.load import load_merged, load_tuned

LEAST_TOKENS = 4096
"""Trained tokens compared, at least: with a vocabulary of 150,000 they are 2.5 GB of log-probabilities."""


class Drift(NamedTuple):
    """How far a model is from the tuned one, over trained tokens."""

    mean_kl: float
    """Nats a token, KL(tuned ‖ this model)."""
    max_kl: float
    top1: float
    """Share of the tokens at which both find the same one likeliest."""
    loss: float
    """Nats a token of the rows themselves."""


class Reference(NamedTuple):
    """The tuned model's answers."""

    rows: int
    tokens: int
    loss: float
    untuned: Drift
    """How far the base without the adapter is: what training changed, and so what a merge has to keep."""
    encoded: list[Encoded]
    file: Path
    """Log-probabilities, float32, (tokens, vocabulary)."""


@contextmanager
def tuned_reference(run: Run, *, use_cpu: bool) -> Iterator[Reference | None]:
    """What base + adapter says at the held-out rows; None where none was held out."""
    rows = held_out_rows(run)
    if not rows:
        yield None
        return
    model, tokenizer = load_tuned(run, use_cpu=use_cpu)
    encoded: list[Encoded] = []
    tokens = 0
    for row in encode_held_out(run, tokenizer, rows):
        encoded.append(row)
        tokens += _trained(row)
        if tokens >= LEAST_TOKENS:
            break
    require_disk_space(run.path, tokens * model.config.get_text_config().vocab_size * 4, "measuring the drift")
    with aside_folder(run.path / "drift") as aside:
        file = aside / "log_probabilities"
        with file.open("wb") as out:
            pairs = track(_write_both(model, encoded, out), "answers of the adapter", len(encoded))
            untuned, loss = _compare(pairs, encoded)
        del model
        _free_memory()
        yield Reference(len(encoded), tokens, loss, untuned, encoded, file)


def drift_of(reference: Reference, run: Run, folder: Path, *, use_cpu: bool) -> Drift:
    """How far the model in that folder is from the tuned one."""
    model = load_merged(run, folder, use_cpu=use_cpu)
    pairs = track(_read_both(model, reference), "answers of the merged model", reference.rows)
    drift, _ = _compare(pairs, reference.encoded)
    del model, pairs
    _free_memory()
    return drift


def log_probabilities(model: Any, encoded: Encoded) -> Any:
    """Log-probabilities at every trained token of the row: float32, (trained tokens, vocabulary), on the CPU."""
    import torch

    kept = torch.tensor(encoded.labels[1:], device=model.device) != IGNORE_INDEX
    with torch.inference_mode():
        logits = model(torch.tensor([encoded.input_ids], device=model.device)).logits[0, :-1]
        return logits[kept].float().log_softmax(-1).cpu()


def _write_both(model: Any, encoded: Iterable[Encoded], file: Any) -> Iterator[tuple[Any, Any]]:
    """(tuned, untuned) log-probabilities of every row; the tuned ones go to the file."""
    for row in encoded:
        tuned = log_probabilities(model, row)
        tuned.numpy().tofile(file)
        with model.disable_adapter():
            yield tuned, log_probabilities(model, row)


def _read_both(model: Any, reference: Reference) -> Iterator[tuple[Any, Any]]:
    """(tuned, this model's) log-probabilities of every row; the tuned ones come from the file."""
    import numpy as np
    import torch

    with reference.file.open("rb") as file:
        for row in reference.encoded:
            found = log_probabilities(model, row)
            tuned = np.fromfile(file, np.float32, found.numel())
            yield torch.from_numpy(tuned).view(found.shape), found


def _compare(pairs: Iterable[tuple[Any, Any]], rows: Iterable[Encoded]) -> tuple[Drift, float]:
    """(drift of the second of each pair from the first, loss of the first)."""
    import torch

    total = torch.zeros(5, dtype=torch.float64)  # KL, same choice, loss of the other, loss of the tuned, tokens
    highest = 0.0
    for (tuned, other), row in zip(pairs, rows, strict=True):
        labels = torch.tensor([label for label in row.labels[1:] if label != IGNORE_INDEX])[:, None]
        kl = (tuned.exp() * (tuned - other)).sum(-1).clamp_min(0)  # below 0 by rounding alone
        same = (tuned.argmax(-1) == other.argmax(-1)).sum()
        losses = [-found.gather(1, labels).double().sum() for found in (other, tuned)]
        total += torch.stack([kl.double().sum(), same.double(), *losses, torch.tensor(float(len(labels)))])
        highest = max(highest, kl.max().item())
    mean_kl, top1, loss, tuned_loss, _ = (total / total[4]).tolist()
    return Drift(mean_kl, highest, top1, loss), tuned_loss


def _trained(encoded: Encoded) -> int:
    return sum(label != IGNORE_INDEX for label in encoded.labels[1:])


def _free_memory() -> None:
    import torch

    gc.collect()
    torch.cuda.empty_cache()
