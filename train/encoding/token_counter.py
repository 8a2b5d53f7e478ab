"""Tokens of a text, counted with a base's tokenizer."""

from collections.abc import Callable

from train.chats.rows import Row


def token_counter(base: str) -> Callable[[Row], int]:
    """Counts a row's tokens as the base's chat template and tokenizer make them. Loads no weights."""
    from train.core.config import Model
    from train.encoding.loss_mask import encode_row
    from train.models.base import find_base
    from train.models.load import load_tokenizer, quiet_libraries

    quiet_libraries()
    tokenizer = load_tokenizer(find_base(Model(name_or_path=base)))
    return lambda row: len(encode_row(tokenizer, row).input_ids)
