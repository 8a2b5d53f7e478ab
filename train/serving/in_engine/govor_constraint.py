"""Answers of `transformers serve` that are held to a grammar: llguidance as a logits processor of generate().

The grammar comes as a field of the request's generation config, the only thing of a request that reaches generate().
Only what the engine's own environment has is imported.
"""

from functools import lru_cache
from typing import Any

FIELD = "govor_grammar"
"""The field of the generation config: a grammar as llguidance's LLMatcher takes it."""


def install() -> None:
    """Have every model's generate() hold its answer to the grammar of its generation config, where that has one."""
    from transformers import GenerationMixin, LogitsProcessorList

    generate = GenerationMixin.generate

    def constrained(model: Any, *arguments: Any, **named: Any) -> Any:
        grammar = getattr(named.get("generation_config"), FIELD, None)
        if grammar is not None:
            named["logits_processor"] = LogitsProcessorList([Constraint(model, grammar, **named)])
        return generate(model, *arguments, **named)

    GenerationMixin.generate = constrained


class Constraint:
    """A logits processor that leaves only the tokens with which the answer can still fit the grammar."""

    def __init__(
        self, model: Any, grammar: str, *, generation_config: Any, tokenizer: Any, input_ids: Any, **_: Any
    ) -> None:
        import llguidance

        end = generation_config.eos_token_id
        vocabulary = model.config.get_text_config().vocab_size
        tokens = _tokens(getattr(tokenizer, "tokenizer", tokenizer), vocabulary, tuple(end))
        self.matcher = llguidance.LLMatcher(tokens, grammar)
        self.read = int(input_ids.shape[-1])
        """How many ids the matcher need not read again: the prompt, then what it has read of the answer."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores (1, vocabulary) with -inf for every token that does not fit; ids (1, length)."""
        import torch

        self.matcher.consume_tokens(input_ids[0, self.read :].tolist())
        self.read = input_ids.shape[-1]
        allowed = torch.frombuffer(bytearray(self.matcher.compute_logit_bias()), dtype=torch.uint8)
        return scores.masked_fill(allowed[: scores.shape[-1]].to(scores.device) == 0, -torch.inf)


@lru_cache(maxsize=4)
def _tokens(tokenizer: Any, vocabulary: int, end: tuple[int, ...]) -> Any:
    """llguidance's reading of a tokenizer, which takes a second."""
    from llguidance.hf import from_tokenizer

    return from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(end))
