"""Whether a kernel computes what the model does without it: two short rows there and back."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LENGTHS = 7, 5
FAILURES = (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError)  # a GPU without room is the first


class Refused(Exception):  # noqa: N818 (nothing is wrong: the plain path runs)
    """A kernel cannot run here; the message says why."""

    tried = False
    """Whether it was put in and failed."""


class SelfCheck:
    """Loss and gradients of the model as it was, to `check` each kernel against once it is put in."""

    def __init__(self, model: Any, autocast: Any) -> None:
        """Compute loss and gradients; `autocast`: the torch.dtype of training's autocast, None where it has none."""
        self.model, self.autocast = model, autocast
        parameter = next(model.parameters())
        self.device = parameter.device
        narrow = autocast or parameter.dtype if parameter.is_floating_point() else torch.bfloat16
        self.tolerance = 1e-4 if narrow == torch.float32 else 5e-2
        vocabulary = model.config.get_text_config().vocab_size
        self.ids = (torch.arange(sum(LENGTHS), device=self.device) * 7919 + 13) % vocabulary
        try:
            self.loss, self.logits, self.slopes = self._run(flat=False, head=False)
        except FAILURES as error:  # training will say what is wrong
            raise Refused(f"the model does not run: {_first_line(error)}") from None

    def check(self, *, flat: bool, head: bool) -> None:
        """Refused unless loss, logits and gradients are the same but for rounding.

        `flat`: both rows end to end. `head`: by the kernel of that name, which makes no logits.
        """
        try:
            loss, logits, slopes = self._run(flat=flat, head=head)
            differences = [_difference(self.loss, loss), _difference(self.slopes, slopes)]
            if logits is not None and self.logits is not None:
                differences.append(_difference(self.logits, logits))
            wrong = [difference for difference in differences if not difference < self.tolerance]
            failure = f"it changed the model's results by {wrong[0]:.1e} of their size" if wrong else None
        except FAILURES as error:
            failure = _first_line(error)
        if failure:
            refused = Refused(f"in its trial on this model: {failure}")
            refused.tried = True
            raise refused

    def _run(self, *, flat: bool, head: bool) -> tuple[Tensor, Tensor | None, Tensor]:
        """(loss, logits [tokens, vocabulary], length of every trained weight's gradient)."""
        learned = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        training = self.model.training
        self.model.eval().zero_grad()
        try:
            with torch.enable_grad(), self._autocast():
                loss, logits = self._head_loss(flat=flat) if head else self._loss(flat=flat)
            loss.backward()
            slopes = [p.grad.float().norm() if p.grad is not None else loss.new_zeros(()) for p in learned]
        finally:
            self.model.train(training).zero_grad()
        return loss.detach().float(), logits, torch.stack([slope.float() for slope in slopes])

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=self.autocast) if self.autocast else nullcontext()

    def _loss(self, *, flat: bool) -> tuple[Tensor, Tensor]:
        if flat:
            logits = self.model(input_ids=self.ids[None], use_cache=False, **end_to_end(LENGTHS, self.device)).logits[0]
        else:
            rows = self.ids.split(LENGTHS)
            logits = torch.cat([self.model(input_ids=row[None], use_cache=False).logits[0] for row in rows])
        loss = torch.zeros((), device=self.device)
        for row, scores in zip(self.ids.split(LENGTHS), logits.split(LENGTHS), strict=True):
            loss = loss + functional.cross_entropy(scores[:-1].float(), row[1:], reduction="sum")
        return loss, logits.detach()

    def _head_loss(self, *, flat: bool) -> tuple[Tensor, None]:
        rows = [(row, row.clone()) for row in self.ids.split(LENGTHS)]
        for _, labels in rows:
            labels[0] = -100  # the row before it does not predict it
        more = end_to_end(LENGTHS, self.device) if flat else {}
        if flat:
            rows = [(self.ids, torch.cat([labels for _, labels in rows]))]
        losses = [
            self.model(input_ids=ids[None], labels=labels[None], use_cache=False, trained_loss=True, **more)["loss_sum"]
            for ids, labels in rows
        ]
        return torch.stack(losses).sum(), None


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


def _difference(before: Tensor, after: Tensor) -> float:
    """Length of the difference as a share of the length before; 0 for two zeros."""
    size = float(before.float().norm())
    return float((after.float() - before.float()).norm()) / size if size else float(after.float().norm())


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
