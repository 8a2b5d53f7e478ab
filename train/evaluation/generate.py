"""Answers from a model: one token by token, or many at once."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from train.chats.rows import Message
from train.core.config import Generation
from train.core.errors import GovorError
from train.encoding.loss_mask import render
from train.models.base import context_length
from train.models.load import unwrap

STAGE = 32
"""Tokens after which the answers of a batch that have ended leave it."""


def answer(
    model: Any,
    tokenizer: Any,
    messages: Sequence[Message],
    generation: Generation,
    *,
    stop: Sequence[int],
    seed: int | None = None,
    on_text: Callable[[str], None] | None = None,
) -> str:
    """The assistant's next turn. `on_text` receives it in pieces; the same seed gives the same answer.

    `stop`: ids of the tokens that end a turn, besides those that the base itself names.
    GovorError where the conversation fills the model's whole context.
    """
    import torch
    from transformers import TextStreamer, set_seed

    class Pieces(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if on_text is not None:
                on_text(text)

    prompt = render(tokenizer, messages)
    if (room := context_of(model) - len(prompt)) < 1:
        said = f"the conversation has {len(prompt)} tokens, the model reads {context_of(model)}: begin a new one"
        raise GovorError(said)
    ids = torch.tensor([prompt], device=model.device)
    if seed is not None:
        set_seed(seed)
    with torch.inference_mode():
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=_settings(model, tokenizer, generation, stop, room),
            streamer=Pieces(tokenizer, skip_prompt=True, skip_special_tokens=True) if on_text else None,
        )
    text: str = tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True)
    return text.strip()


def answer_batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    generation: Generation,
    *,
    stop: Sequence[int],
    seed: int,
) -> list[str]:
    """One answer to each prompt of token ids, all generated together; the same prompts and seed give the same answers.

    Shorter prompts are padded on the left and masked, so that greedy answers are those of `answer`. Each prompt must
    leave room in the model's context. An answer that has ended leaves the batch after STAGE tokens at most, since a
    step costs what its rows cost, and the longest answer is some times as long as the average one. A model that keeps
    more than keys and values, such as a recurrent one, goes on with the whole batch.
    """
    import torch
    from transformers import set_seed

    width = max(map(len, prompts))
    settings = _settings(model, tokenizer, generation, stop, context_of(model) - width)
    ends = torch.tensor(settings.eos_token_id, device=model.device)
    last = width + settings.max_new_tokens
    # Padded with a token of the prompt's own: a penalty for repetition counts what stands in the padding, too
    ids = torch.tensor([[prompt[0]] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    cache = _cache(model)
    stage, kept = (STAGE, {"past_key_values": cache}) if cache is not None else (settings.max_new_tokens, {})
    live = list(range(len(prompts)))
    answers = [""] * len(prompts)
    set_seed(seed)
    while live:
        settings.max_new_tokens = min(stage, last - ids.shape[1])
        with torch.inference_mode():
            ids = model.generate(ids, attention_mask=mask, generation_config=settings, **kept)
        ended = torch.isin(ids[:, width:], ends).any(dim=1) | (ids.shape[1] >= last)
        for row in ended.nonzero().flatten().tolist():
            answers[live[row]] = tokenizer.decode(ids[row, width:], skip_special_tokens=True).strip()
        going = (~ended).nonzero().flatten()
        live = [live[row] for row in going.tolist()]
        ids, mask = ids[going], torch.nn.functional.pad(mask[going], (0, ids.shape[1] - mask.shape[1]), value=1)
        if cache is not None:
            cache.batch_select_indices(going)
    return answers


def logits_at(model: Any, ids: Sequence[int], places: Any) -> Any:
    """What the model predicts after the tokens of `ids` at these places: a tensor [places, vocabulary].

    No others are made where it can leave them out: half of the work where the vocabulary has 262,144.
    """
    import torch

    chooses = "logits_to_keep" in inspect.signature(unwrap(model).forward).parameters
    with torch.inference_mode():
        made = model(torch.tensor([ids], device=model.device), **({"logits_to_keep": places} if chooses else {}))
    return (made.logits[0] if chooses else made.logits[0, places]).float()


def _cache(model: Any) -> Any:
    """An empty cache that rows can be taken from; None where the model's is another kind."""
    from train.evaluation.cache import roomy_cache

    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    takes = "past_key_values" in inspect.signature(plain.forward).parameters
    return roomy_cache(model.config) if takes else None


def context_of(model: Any) -> int:
    """How many tokens the model reads."""
    return context_length(model.config.get_text_config().to_dict())


def _settings(model: Any, tokenizer: Any, generation: Generation, stop: Sequence[int], room: int) -> Any:
    """The sampling settings as transformers takes them, for answers of at most `room` tokens."""
    from transformers import GenerationConfig

    settings = generation.model_dump()
    if not generation.do_sample:
        del settings["temperature"], settings["top_p"]
    settings["max_new_tokens"] = min(generation.max_new_tokens, room)
    ends = model.generation_config.eos_token_id or []
    stop = sorted({*stop, *(ends if isinstance(ends, list) else [ends])})
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop[0]
    return GenerationConfig(**settings, eos_token_id=stop, pad_token_id=pad)
