"""A program of its own: llama.cpp's converter, told which BPE pre-tokenizer a model has where it cannot know.

    python -P -m train.exports.gguf.run_converter PRE TRUST MODEL --outfile FILE --outtype TYPE …

llama.cpp tells the ways to cut text into words apart by a hash over a tokenizer's ids, so a tokenizer with a vocabulary
of its own is unknown to it even where it cuts as a known one does. PRE names that one; `-`: there is none. TRUST is
trusted or untrusted: whether code that lies beside the model may run.
"""

import sys

from train.core.compat import convert_to_gguf


def main() -> None:
    """Convert the model as the command line says."""
    pre_tokenizer = sys.argv.pop(1)
    trusted = sys.argv.pop(1) == "trusted"
    convert_to_gguf(None if pre_tokenizer == "-" else pre_tokenizer, trust_remote_code=trusted)


if __name__ == "__main__":
    main()
