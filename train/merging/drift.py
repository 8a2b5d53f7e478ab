"""Does the merged model answer as the adapter did: both over the same held-out tokens, one of them in memory at a time.

Of each model stay its last hidden states, a few MB, and its head. From them logits are made a tile of tokens at a time,
on the device, and compared.
"""

import gc
import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

from train.core.errors import RunError
from train.core.progress import track
from train.core.runs import Run
from train.encoding.held_out import encode_held_out, held_out_rows
from train.encoding.loss_mask import IGNORE_INDEX, Encoded
from train.models.load import bring_home, load_merged, load_run_tokenizer, load_tuned, model_device, unwrap

Target = Literal["16bit", "nf4"]
"""The base that takes the adapter: the base's own weights, or what NF4 left of them in training."""
LEAST_TOKENS = {"cpu": 512, "cuda": 1024}
"""Trained tokens compared, at least, where so many were held out, by kind of device.

At a vocabulary of 262,144 they are the work: each costs 0.34 GFLOP for the head of every model, and its share of the
bodies. A token's KL varies about as much as it is large, so 512 give the mean to a twentieth.
"""
TILES = {"cpu": 2**25, "cuda": 2**27}
"""Logits at a time, by kind of device: 128 MiB and 512 MiB in float32, of each model that is compared."""


class Drift(NamedTuple):
    """How far a model is from base + adapter, over trained tokens."""

    mean_kl: float
    """Nats a token, KL(base + adapter ‖ this model)."""
    max_kl: float
    top1: float
    """Share of the tokens at which both find the same one likeliest."""
    loss: float
    """Nats a token of the rows themselves."""


class Tune(NamedTuple):
    """Base + adapter in one precision of the base, and that base without the adapter."""

    loss: float
    """Nats a token, of base + adapter."""
    untuned: Drift
    """How far the base alone is from it: what training changed, and so what a merge has to keep."""

    @property
    def gain(self) -> float:
        """What the adapter takes off the base's loss, in nats a token."""
        return self.untuned.loss - self.loss


class MergeDrift(NamedTuple):
    """A merged model against base + adapter unmerged, the base in the precision that the merge is made for."""

    merged: Drift
    tune: Tune


class Measured(NamedTuple):
    """All models over the same tokens."""

    rows: int
    tokens: int
    trained: Tune
    """In the precision that training had."""
    targets: dict[Target, MergeDrift]


class Answers(NamedTuple):
    """What a model says at the compared tokens."""

    hidden: Any
    """The last hidden states, (tokens, width), on the CPU."""
    head: "Head"


class Head:
    """A model without its body: from hidden states to logits as the model itself goes, with whatever it does there."""

    def __init__(self, model: Any, output_class: Any, *, tuned: bool) -> None:
        """`model`: with `replace_body` done. `output_class`: what its body returned. `tuned`: with the adapter on."""
        self.model, self.output_class, self.tuned = model, output_class, tuned

    def logits(self, hidden: Any) -> Any:
        """Of hidden states (tokens, width), which are moved to the head's device: float32, (tokens, vocabulary)."""
        import torch

        inner = unwrap(self.model)
        device = next(inner.parameters()).device
        _body(inner).output = self.output_class(last_hidden_state=hidden.to(device)[None])
        ids = torch.zeros((1, len(hidden)), dtype=torch.long, device=device)
        with torch.inference_mode(), nullcontext() if self.tuned else _adapter_off(self.model):
            return inner(input_ids=ids).logits[0].float()


def measure_drift(run: Run, merged: Iterable[tuple[Target, Path]], *, use_cpu: bool) -> Measured | None:
    """Compare each merged model in its folder with the run's adapter; None where no row was held out.

    A merged model is compared with base + adapter in the precision of its target, so that what NF4 takes from the base
    does not count as the merge's fault. Where that is the precision of training, the model as trained serves for both.
    """
    rows = held_out_rows(run)
    if not rows:
        return None
    device = model_device(use_cpu=use_cpu)
    encoded: list[Encoded] = []
    labels: list[int] = []
    for row in encode_held_out(run, load_run_tokenizer(run, run.adapter), rows):
        encoded.append(row)
        labels += [label for label in row.labels[1:] if label != IGNORE_INDEX]
        if len(labels) >= LEAST_TOKENS["cpu" if device == "cpu" else "cuda"]:
            break
    trained_in: Target = "nf4" if run.config().model.load_in_4bit else "16bit"
    as_trained = _tuned_answers(run, encoded, trained_in, use_cpu=use_cpu)
    trained: Tune | None = None
    targets: dict[Target, MergeDrift] = {}
    for target, folder in merged:
        same = target == trained_in
        tuned, untuned = as_trained if same else _tuned_answers(run, encoded, target, use_cpu=use_cpu)
        model = load_merged(run, folder, use_cpu=use_cpu, offload=True)
        [answers] = _answers(model, encoded, "answers of the merged model", [True])
        del model
        loss, [of_base, of_merged] = compare(tuned, [untuned, answers], labels, device)
        targets[target] = MergeDrift(of_merged, Tune(loss, of_base))
        trained = targets[target].tune if same else trained
    if trained is None:
        loss, [of_base] = compare(as_trained[0], [as_trained[1]], labels, device)
        trained = Tune(loss, of_base)
    return Measured(len(encoded), len(labels), trained, targets)


def compare(
    reference: Answers, others: Sequence[Answers], labels: Sequence[int], device: int | str
) -> tuple[float, list[Drift]]:
    """(loss of the reference, drift of each of the others from it), over the tokens in `labels`."""
    import torch

    targets = torch.tensor(labels, device=device)[:, None]
    heads = [answers.head for answers in (reference, *others)]
    vocabulary = unwrap(reference.head.model).config.get_text_config().vocab_size
    rows = max(1, TILES.get(targets.device.type, TILES["cpu"]) // vocabulary)
    loss = torch.zeros((), dtype=torch.float64)
    totals = torch.zeros((len(others), 3), dtype=torch.float64)  # KL, same choice, loss
    highest = torch.zeros(len(others), dtype=torch.float64)
    _move(heads, device)
    for start in track(range(0, len(labels), rows), "comparing the answers", -(-len(labels) // rows)):
        at = slice(start, start + rows)
        tuned = reference.head.logits(reference.hidden[at]).log_softmax(-1)
        odds, best = tuned.exp(), tuned.argmax(-1)
        loss -= tuned.gather(1, targets[at]).double().sum().cpu()
        for index, other in enumerate(others):
            found = other.head.logits(other.hidden[at]).log_softmax(-1)
            same, of_labels = (found.argmax(-1) == best).sum(), -found.gather(1, targets[at]).double().sum()
            kl = torch.linalg.vecdot(odds, torch.sub(tuned, found, out=found)).clamp_min(0)  # below 0 by rounding
            totals[index] += torch.stack([kl.double().sum(), same.double(), of_labels]).cpu()
            highest[index] = max(highest[index], kl.max().item())
    _move(heads, "cpu")
    means = (totals / len(labels)).tolist()
    drifts = [Drift(kl, high, top1, nll) for (kl, top1, nll), high in zip(means, highest.tolist(), strict=True)]
    return (loss / len(labels)).item(), drifts


def _tuned_answers(run: Run, encoded: Sequence[Encoded], target: Target, *, use_cpu: bool) -> tuple[Answers, Answers]:
    """The answers of base + adapter and of the base alone, the base in the target's precision."""
    model, _ = load_tuned(run, use_cpu=use_cpu, in_4bit=target == "nf4", offload=True)
    tuned, untuned = _answers(model, encoded, f"answers of the adapter, {target}", [True, False])
    return tuned, untuned


def _answers(model: Any, encoded: Sequence[Encoded], task: str, tuned: Sequence[bool]) -> list[Answers]:
    """The model's answers, once with each of `tuned`: the adapter on or off. The model is only its head thereafter."""
    import torch

    inner = unwrap(model)
    body = getattr(inner, inner.base_model_prefix, None)
    if body is None:
        raise _unmeasurable(inner)
    hidden: list[list[Any]] = [[] for _ in tuned]
    own: list[Any] = []
    output: Any = None
    for number, row in enumerate(track(encoded, task, len(encoded))):
        kept = torch.tensor(row.labels[1:]) != IGNORE_INDEX
        ids = torch.tensor([row.input_ids], device=_first_device(inner))
        for found, with_adapter in zip(hidden, tuned, strict=True):
            with torch.inference_mode(), nullcontext() if with_adapter else _adapter_off(model):
                output = body(input_ids=ids, use_cache=False)
                found.append(output.last_hidden_state[0, :-1].cpu()[kept])
                if number == 0:
                    own.append((output.last_hidden_state[0, -CHECKED:].cpu(), _own_logits(inner, ids)))
    replace_body(model)
    answers = [
        Answers(torch.cat(found), Head(model, type(output), tuned=on)) for found, on in zip(hidden, tuned, strict=True)
    ]
    for (states, expected), checked in zip(own, answers, strict=True):
        logits = checked.head.logits(states)
        if (logits - expected).abs().max() > 0.02 * expected.abs().max():  # rounding to 16 bits is below a tenth of it
            raise _unmeasurable(inner)
    return answers


CHECKED = 8
"""Tokens at which the logits made of hidden states are compared with those that the whole model gives."""


def _own_logits(inner: Any, ids: Any) -> Any:
    """The whole model's logits of the last tokens of a row: float32, (CHECKED, vocabulary), on the CPU."""
    few = {"logits_to_keep": CHECKED} if "logits_to_keep" in inspect.signature(inner.forward).parameters else {}
    return inner(input_ids=ids, use_cache=False, **few).logits[0, -CHECKED:].float().cpu()


def replace_body(model: Any) -> None:
    """Put a placeholder, which returns what it is told, in the place of the body, and take the head to the CPU."""
    from torch import nn

    class Placeholder(nn.Module):
        output: Any = None

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.output

    inner = unwrap(model)
    setattr(inner, inner.base_model_prefix, Placeholder())
    bring_home(inner)
    nn.Module.to(inner, "cpu")  # the model's own refuses where layers were offloaded
    _free_memory()


def _unmeasurable(model: Any) -> RunError:
    name = type(model).__name__
    return RunError(f"{name} makes its logits in a way that cannot be measured apart: merge with --no-drift --force")


@contextmanager
def _adapter_off(model: Any) -> Iterator[None]:
    """Like PEFT's `disable_adapter`, which refuses a model of which only a head without adapter is left."""
    model.base_model.disable_adapter_layers()
    try:
        yield
    finally:
        model.base_model.enable_adapter_layers()


def _body(inner: Any) -> Any:
    return getattr(inner, inner.base_model_prefix)


def _first_device(inner: Any) -> Any:
    """Where the ids go: with the embedding, unless that is offloaded, when accelerate moves them itself."""
    device = inner.get_input_embeddings().weight.device
    return "cpu" if device.type == "meta" else device


def _move(heads: Iterable[Head], device: int | str) -> None:
    from torch import nn

    for head in heads:
        nn.Module.to(unwrap(head.model), device)
    if device == "cpu":
        _free_memory()


def _free_memory() -> None:
    import torch

    gc.collect()
    torch.cuda.empty_cache()
