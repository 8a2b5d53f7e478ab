"""Whether the base can learn to end an answer: its output must tell the token that ends one from all others."""

from collections.abc import Sequence
from typing import Any

from train.encoding.loss_mask import IGNORE_INDEX, Encoded

ALIKE = 0.98
"""Cosine from which two rows of the output matrix count as the same. Rows of a base's trained tokens stay under 0.8."""
MANY = 100
"""So many rows alike are those of tokens that pretraining never saw. Gemma 3 270M has 6,021 like <end_of_turn> and
none like <eos>; SmolLM2-135M-Instruct, in 4 bits, 28 like its <|im_end|>, which it was trained to write."""


def unlearned_end_of_turn(model: Any, tokenizer: Any, rows: Sequence[Encoded]) -> str | None:
    """A sentence on a token that ends answers and that the model cannot learn to write; None where there is none.

    A token that pretraining never saw has the same row in the output matrix as all others of that kind. An adapter on
    the layers below moves what comes in, and so raises all of them or none. One on the output itself, or training
    it whole, tells them apart.
    """
    import torch

    output = model.get_output_embeddings()
    if output is None or output.weight.is_meta or any(weight.requires_grad for weight in output.parameters()):
        return None
    ends = {next(label for label in reversed(row.labels) if label != IGNORE_INDEX) for row in rows}
    with torch.no_grad():
        for end in sorted(ends):
            wanted = torch.nn.functional.normalize(output.weight[end].float(), dim=0)
            alike = -1  # the row itself
            for part in output.weight.split(1 << 15):
                alike += int((torch.nn.functional.normalize(part.float(), dim=1) @ wanted > ALIKE).sum())
            if alike >= MANY or not wanted.any():
                return (
                    f"the base never learned {tokenizer.convert_ids_to_tokens(end)!r}, which ends each answer here: "
                    f"to it the token is like {alike} others that it never saw, and an adapter on its layers cannot "
                    "part them, so the tuned model will hardly ever stop. Choose a model.chat_template that ends an "
                    "answer with a token the base knows, as configs/gemma-base.jinja does, or train its output too: "
                    "lora.target_modules: [all-linear, lm_head]"
                )
    return None
