"""Tokens of a text, counted with a base's tokenizer."""

from collections.abc import Callable

from train.chats.rows import Row


def token_counter(base: str, chat_template: str | None = None) -> Callable[[Row], int]:
    """Counts a row's tokens as the base's chat template and tokenizer make them. Loads no weights.

    `chat_template`: instead of the base's own, as `model.chat_template` of a config.
    """
    from train.core.config import Model
    from train.encoding.chosen_template import load_base_tokenizer
    from train.encoding.loss_mask import encode_row
    from train.models.base import find_base
    from train.models.load import quiet_libraries

    quiet_libraries()
    model = Model(name_or_path=base, chat_template=chat_template)
    tokenizer = load_base_tokenizer(model, find_base(model))
    return lambda row: len(encode_row(tokenizer, row).input_ids)
