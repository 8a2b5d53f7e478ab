"""One answer from a model, token by token."""

from collections.abc import Callable, Sequence
from typing import Any

from train.chats.rows import Message
from train.core.config import Generation
from train.core.errors import GovorError
from train.encoding.loss_mask import render


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
    from transformers import GenerationConfig, TextStreamer, set_seed

    class Pieces(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if on_text is not None:
                on_text(text)

    prompt = render(tokenizer, messages)
    context = model.config.get_text_config().max_position_embeddings
    room = context - len(prompt)
    if room < 1:
        raise GovorError(f"the conversation has {len(prompt)} tokens, the model reads {context}: begin a new one")
    settings = generation.model_dump()
    if not generation.do_sample:
        del settings["temperature"], settings["top_p"]
    settings["max_new_tokens"] = min(generation.max_new_tokens, room)
    ends = model.generation_config.eos_token_id or []
    stop = sorted({*stop, *(ends if isinstance(ends, list) else [ends])})
    ids = torch.tensor([prompt], device=model.device)
    if seed is not None:
        set_seed(seed)
    with torch.inference_mode():
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=GenerationConfig(
                **settings,
                eos_token_id=stop,
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop[0],
            ),
            streamer=Pieces(tokenizer, skip_prompt=True, skip_special_tokens=True) if on_text else None,
        )
    text: str = tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True)
    return text.strip()
