"""Whether a kernel computes what the model does without it, there and back.

Loss and the gradient of every trained weight are compared, in train mode, with checkpointing where training has it, in
training's types; then the loss as evaluation computes it. The adapter's B is random meanwhile: before the first step it
is zero, which hides the adapter's output and A's gradient. Windows are narrow, so that much lies outside of them. How
far results may differ is measured on the model itself: a few times as far as they do when the output of every layer is
rounded otherwise. Each layer amplifies that. Where it changes the gradient of the whole model by much, as in 16 bits it
does, the first layers are tried by themselves as well.
"""

import inspect
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from train.models.base import context_length
from train.models.load import unwrap
from train.tuning.kernels import head
from train.tuning.kernels.head import IGNORE_INDEX

SHORT = 21, 13  # tokens of the rows after the long one
LONG = {"cpu": 64, "cuda": 160}
"""Tokens of the long row, at least; on a GPU more than a block of flash attention."""
WINDOW = 24
"""Tokens of a window meanwhile. Of a window of 512 a row of 552 leaves so little out that rounding hides it."""
HEAD_ROWS = 24  # in a tile of the kernel `head`, so that the rows fill several
MOST_LOGITS = 2**24  # made at a time without the kernel `head`: 64 MiB in float32
ADAPTER_STD = 0.05  # of B: with r = 8 the adapter's output is then a tenth of the base's and more
ROUNDINGS = 2.5  # times what another rounding changes, a kernel may change
LEAST = {torch.float32: 1e-4, torch.float16: 3e-3, torch.bfloat16: 1e-2}
"""Share of a gradient that a kernel may always change."""
QUIET = 0.1
"""Share of the gradient by which rounding may change it before the first layers are tried by themselves as well."""
LOSS_DRAWS, LOSS_ROUNDINGS = 4, 4
"""Of one number a single rounding tells little: from so many its deviation, and times that a kernel may change it."""
LOSS_FINER = 5  # times less it may always change the loss, a sum in which roundings even out
FAILURES = (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError)  # a GPU without room is the first


class Refused(Exception):  # noqa: N818 (nothing is wrong: the plain path runs)
    """A kernel cannot run here; the message says why."""

    tried = False
    """Whether it was put in and failed."""


class Batch(NamedTuple):
    """What the model is given."""

    ids: Tensor
    """[rows, tokens]"""
    labels: Tensor
    more: dict[str, Any]
    """Beside them."""


class Reference(NamedTuple):
    """What the model computed as it was, and how far a kernel may be from that."""

    layers: int
    """The first ones, which ran."""
    loss: float
    gradients: list[Tensor | None]
    """Of each trained weight, on the CPU."""
    bounds: list[float]
    """As shares of their sizes: of the loss, of all gradients as one, of each gradient."""


class SelfCheck:
    """Loss and gradients of the model as it was, to `check` each kernel against once it is put in."""

    def __init__(
        self,
        model: Any,
        autocast: torch.dtype | None,
        *,
        checkpointing: bool = True,
        longest: int | None = None,
    ) -> None:
        """Compute loss and gradients and how far rounding moves them; Refused where the model does not run.

        `autocast`: the type of training's autocast, None where it has none. `longest`: tokens of training's longest
        row; a window that no row exceeds is not tried.
        """
        self.model, self.autocast, self.checkpointing = model, autocast, checkpointing
        self.longest = longest
        self.base = unwrap(model)
        self.keeps_logits = "logits_to_keep" in inspect.signature(type(self.base).forward).parameters
        self.learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
        parameter = next(model.parameters())
        self.device = parameter.device
        narrow = autocast or (parameter.dtype if parameter.is_floating_point() else torch.bfloat16)
        self.vocabulary = model.config.get_text_config().vocab_size
        self.lengths = (_long_row(model, longest), *SHORT)
        self.ids = (torch.arange(sum(self.lengths), device=self.device) * 7919 + 13) % self.vocabulary
        self.labels = self._labels(max(2 * HEAD_ROWS, MOST_LOGITS // self.vocabulary))
        least = LEAST.get(narrow, LEAST[torch.bfloat16])
        self.references: list[Reference] = []
        whole, *first = _depths(model)
        try:
            noise = self._refer_to(whole, least)
        except FAILURES as error:  # training will say what is wrong
            raise Refused(f"the model does not run: {_first_line(error)}") from None
        if noise > QUIET:
            with suppress(*FAILURES):  # Gemma 3n, say, has inputs for all its layers at once
                for layers in first:
                    noise = self._refer_to(layers, least)
        if not self.references:
            raise Refused(f"rounding alone changes the model's gradient by {noise:.1e} of its size")

    def _refer_to(self, layers: int, least: float) -> float:
        """Keep what the first `layers` layers compute, unless rounding changes it too much; how much it does.

        `least`: what a kernel may always change.
        """
        with self._training(layers):
            rows = list(self._rows())
            loss = self._backward(rows, head=False)
            gradients = [None if p.grad is None else p.grad.cpu() for p in self.learned.values()]
            plain = Reference(layers, loss, gradients, [])
            with _rounded_otherwise(self.model, 0):
                noise = self._differences(plain, self._backward(rows, head=False))
            drawn = [noise[0]]
            for draw in range(1, LOSS_DRAWS):
                with torch.no_grad(), _rounded_otherwise(self.model, draw):
                    total = sum(float(self._loss(row, head=False)) for row in rows)
                drawn.append(_share(abs(total - loss), abs(loss)))
        bounds = [max(least, ROUNDINGS * difference) for difference in noise]
        bounds[0] = max(least / LOSS_FINER, LOSS_ROUNDINGS * float(np.sqrt(np.mean(np.square(drawn)))))
        if bounds[0] < torch.inf and ROUNDINGS * noise[1] < 1:
            self.references.append(plain._replace(bounds=bounds))
        return noise[1]

    def check(self, *, flat: bool, head: bool) -> None:
        """Refused unless loss and gradients are the same but for rounding.

        `flat`: the rows end to end, else padded to the longest. `head`: by the kernel of that name, which makes no
        logits.
        """
        batch = self._end_to_end() if flat else self._padded()
        try:
            failures = [self._failure(reference, batch, head) for reference in self.references]
        except FAILURES as error:
            failures = [_first_line(error)]
        if failure := next(filter(None, failures), None):
            refused = Refused(f"in its trial on this model: {failure}")
            refused.tried = True
            raise refused

    def _failure(self, reference: Reference, batch: Batch, head: bool) -> str | None:
        """What differs by more than the reference allows."""
        with self._training(reference.layers):
            differences = self._differences(reference, self._backward([batch], head=head))
            with torch.no_grad():
                evaluated = float(self._loss(batch, head))
        differences.append(_share(abs(evaluated - reference.loss), abs(reference.loss)))
        names = ("loss", "gradient", *(f"gradient of {name}" for name in self.learned), "loss without gradients")
        for name, difference, bound in zip(names, differences, [*reference.bounds, reference.bounds[0]], strict=True):
            undecided = bound >= 1 and difference < torch.inf  # rounding moves it as far: the whole gradient decides
            if not (difference < bound or undecided):
                return f"it changed the model's results by {difference:.1e} of their size ({name})"
        return None

    def _labels(self, count: int) -> Tensor:
        """The ids at about `count` positions, -100 elsewhere: all in the short rows, others in the long one.

        With one or two in a row the plain path itself would be too inexact to compare with, see head.py.
        """
        long, *short = self.lengths
        places = torch.linspace(1, long - 1, min(long - 1, max(1, count - sum(short)))).long()
        chosen = torch.cat([places, torch.arange(long, sum(self.lengths))]).to(self.device)
        labels = torch.full_like(self.ids, IGNORE_INDEX)
        labels[chosen] = self.ids[chosen]
        for row in labels.split(self.lengths):
            row[0] = IGNORE_INDEX  # the row before it does not predict it
        return labels

    @contextmanager
    def _training(self, layers: int) -> Iterator[None]:
        """The first layers as training has them, but with a random B, narrow windows and no dropout."""
        modules = list(self.model.modules())
        dropouts = [module for module in modules if isinstance(module, torch.nn.Dropout)]
        attentions = [module for module in modules if getattr(module, "attention_dropout", 0.0)]
        checkpoint = self.checkpointing and not any(getattr(m, "gradient_checkpointing", False) for m in modules)
        with ExitStack() as stack:
            stack.callback(self.model.zero_grad)
            stack.enter_context(_attribute_set([self.model.config.get_text_config()], "num_hidden_layers", layers))
            stack.enter_context(_attribute_set(modules, "training", True))
            stack.enter_context(_attribute_set(dropouts, "training", False))
            stack.enter_context(_attribute_set(attentions, "attention_dropout", 0.0))
            stack.enter_context(_attribute_set([head], "TILE", HEAD_ROWS * self.vocabulary))
            stack.enter_context(_attribute_set(_windowed(self.model, self.longest), "sliding_window", WINDOW))
            stack.enter_context(_random_adapter(self.learned))
            if checkpoint and self.base.supports_gradient_checkpointing:
                stack.enter_context(checkpointed(self.base))
            yield

    def _rows(self) -> Iterator[Batch]:
        """Each row by itself."""
        for ids, labels in zip(self.ids.split(self.lengths), self.labels.split(self.lengths), strict=True):
            yield Batch(ids[None], labels[None], {})

    def _end_to_end(self) -> Batch:
        return Batch(self.ids[None], self.labels[None], end_to_end(self.lengths, self.device))

    def _padded(self) -> Batch:
        ids, labels = (
            pad_sequence(list(whole.split(self.lengths)), batch_first=True, padding_value=value)
            for whole, value in ((self.ids, 0), (self.labels, IGNORE_INDEX))
        )
        ends = torch.tensor(self.lengths, device=self.device)[:, None]
        mask = (torch.arange(ids.shape[1], device=self.device) < ends).long()
        return Batch(ids, labels, {"attention_mask": mask})

    def _backward(self, batches: Iterable[Batch], *, head: bool) -> float:
        """The loss, a sum; its gradients are left with the weights."""
        self.model.zero_grad()
        total = 0.0
        for batch in batches:
            with torch.enable_grad():
                loss = self._loss(batch, head)
            loss.backward()
            total += float(loss.detach())
        return total

    def _loss(self, batch: Batch, head: bool) -> Tensor:
        """The sum over the labels of a batch."""
        ids, labels, more = batch
        with torch.autocast(self.device.type, dtype=self.autocast) if self.autocast else nullcontext():
            if head:
                made = self.model(input_ids=ids, labels=labels, use_cache=False, trained_loss=True, **more)
                return made["loss_sum"]
            targets = labels[:, 1:]
            places = (targets != IGNORE_INDEX).any(0).nonzero()[:, 0]
            kept = {"logits_to_keep": places} if self.keeps_logits else {}
            logits = self.model(input_ids=ids, use_cache=False, **kept, **more).logits
            logits, targets = logits if kept else logits[:, places], targets[:, places]
            trained = targets != IGNORE_INDEX
            # In float32 torch's own sum over a vocabulary of 262,144 puts the gradient 1e-4 off on a CPU
            return functional.cross_entropy(logits[trained].double(), targets[trained], reduction="sum")

    def _differences(self, reference: Reference, loss: float) -> list[float]:
        """How far a loss and the gradients with the weights are from the reference's.

        Each as a share of its size: the loss, all gradients as one, each gradient.
        """
        each, changed, whole = [], 0.0, 0.0
        for parameter, before in zip(self.learned.values(), reference.gradients, strict=True):
            after = parameter.grad
            if before is None or after is None:
                each.append(0.0 if before is after else torch.inf)
                continue
            wide = before.to(after.device).float()
            change, size = float((after.float() - wide).norm()), float(wide.norm())
            changed, whole = changed + change**2, whole + size**2
            each.append(_share(change, size))
        return [_share(abs(loss - reference.loss), abs(reference.loss)), _share(changed**0.5, whole**0.5), *each]


def end_to_end(lengths: tuple[int, ...], device: Any) -> dict[str, Any]:
    """What a model is told of rows that lie end to end, as TRL's collator puts it."""
    ends = torch.tensor((0, *lengths), device=device).cumsum(0).to(torch.int32)
    return {
        "position_ids": torch.cat([torch.arange(length, device=device) for length in lengths])[None],
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


def _long_row(model: Any, longest: int | None) -> int:
    """Tokens of the long row, no more than training's longest has."""
    wanted = LONG.get(next(model.parameters()).device.type, LONG["cuda"])
    positions = context_length(model.config.get_text_config().to_dict())
    return max(2, min(length for length in (wanted, longest, positions) if length))


def _depths(model: Any) -> list[int]:
    """All layers; then so many of the first that there is one of every kind, and two at least.

    transformers runs as many as the config's num_hidden_layers says.
    """
    config = model.config.get_text_config()
    kinds = list(getattr(config, "layer_types", None) or [])
    first = max(2, *(kinds.index(kind) + 1 for kind in kinds)) if kinds else 2
    return [config.num_hidden_layers, *([first] if first < config.num_hidden_layers else [])]


def _windowed(model: Any, longest: int | None) -> list[Any]:
    """The modules, and the configs from which masks are made, with a window that training's rows exceed."""
    modules = list(model.modules())
    configs = {id(config): config for module in modules if (config := getattr(module, "config", None)) is not None}
    found = ((one, getattr(one, "sliding_window", None)) for one in (*modules, *configs.values()))
    return [one for one, window in found if isinstance(window, int) and WINDOW < window < (longest or window + 1)]


@contextmanager
def _attribute_set(modules: Iterable[Any], name: str, value: Any) -> Iterator[None]:
    before = [(module, getattr(module, name)) for module in modules]
    for module, _ in before:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, was in before:
            setattr(module, name, was)


@contextmanager
def _random_adapter(learned: dict[str, Any]) -> Iterator[None]:
    """Random numbers in every B of an adapter, always the same ones."""
    generator = torch.Generator().manual_seed(0)
    before = [(p, p.detach().clone()) for name, p in learned.items() if ".lora_B." in name or "_embedding_B." in name]
    for parameter, _ in before:
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * ADAPTER_STD)
    try:
        yield
    finally:
        for parameter, was in before:
            parameter.data.copy_(was)


@contextmanager
def checkpointed(base: Any) -> Iterator[None]:
    """Activation checkpointing switched on; transformers 5.20 has renamed both calls."""
    renamed = hasattr(base, "activation_checkpointing_enable")
    enable = base.activation_checkpointing_enable if renamed else base.gradient_checkpointing_enable
    disable = base.activation_checkpointing_disable if renamed else base.gradient_checkpointing_disable
    enable({"use_reentrant": False})
    try:
        yield
    finally:
        disable()


@contextmanager
def _rounded_otherwise(model: Any, draw: int) -> Iterator[None]:
    """Of every innermost module's output two numbers in nine a unit in their last place off, at random by `draw`.

    To round all of it otherwise moves it about as far.
    """

    def nudge(number: int) -> Any:
        def hook(_: Any, __: Any, output: Any) -> Any:
            if not isinstance(output, Tensor) or not output.is_floating_point():
                return None
            generator = torch.Generator(output.device).manual_seed(number + 100_000 * draw)
            steps = torch.randint(-4, 5, output.shape, generator=generator, device=output.device, dtype=output.dtype)
            steps = (steps / 4).trunc()
            return output * (1 + steps * torch.finfo(output.dtype).eps)

        return hook

    inner = [module for module in model.modules() if next(module.children(), None) is None]
    hooks = [module.register_forward_hook(nudge(number)) for number, module in enumerate(inner)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _share(change: float, size: float) -> float:
    """`change` as a share of `size`; 0 for two zeros, infinite for a change of nothing."""
    return change / size if size else 0.0 if change == 0 else torch.inf


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
