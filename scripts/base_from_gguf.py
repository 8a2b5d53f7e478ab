"""Makes a base for govor out of a GGUF file: weights unpacked to 16 bits, config, tokenizer, chat template if any.

    python scripts/base_from_gguf.py model-q4_k_m.gguf -o bases/model

For those who have a model as GGUF alone. What its quantisation took from the weights does not come back: where the
16-bit model can be had, that is the better base.
"""

from pathlib import Path
from typing import NamedTuple

import click

from train.core import compat
from train.core.errors import GovorError, one_line_errors
from train.core.files import complete_folder
from train.core.progress import progress

TYPES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
UNQUANTISED = {"F32", "F16", "BF16", "F64"}


class Base(NamedTuple):
    """What was made of a file."""

    parameters: int
    quantised: list[str]
    """Types of the quantised weights in the file, the most frequent first."""
    template: bool
    """Whether the file has a chat template."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the base, a new one.")
@click.option("--dtype", type=click.Choice(list(TYPES)), default="bf16", show_default=True, help="Type of the weights.")
def main(file: Path, output: Path, dtype: str) -> None:
    """Make a base in a folder out of the GGUF file FILE."""
    with one_line_errors():
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise GovorError(f"{output} is there already: name a new folder with -o")
        made = base_from_gguf(file, output, dtype)
    print(f"{output}: {made.parameters:,} parameters in {dtype}")
    if made.quantised:
        print(f"the weights were quantised ({', '.join(made.quantised)}): what that cost does not come back")
    if not made.template:
        print("the file has no chat template: training needs one, see model.chat_template in configs/README.md")


def base_from_gguf(file: Path, folder: Path, dtype: str = "bf16") -> Base:
    """Write the base to a new folder. GovorError where transformers cannot unpack the file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    quantised = read_types(file)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with progress(f"unpacking {file.name}"):
            model = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=getattr(torch, TYPES[dtype]),
            )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # an architecture or a tokenizer that it does not know, damaged data, …
        summary = str(error).strip().split("\n", 1)[0] or type(error).__name__
        if "ignore_mismatched_sizes" in summary:  # it fills what the file says in other words with its defaults
            summary = "its weights have other shapes than transformers reads from the file's settings"
        raise GovorError(f"{file}: transformers cannot unpack it: {summary}") from None
    with complete_folder(folder) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
    return Base(sum(weight.numel() for weight in model.parameters()), quantised, bool(tokenizer.chat_template))


def read_types(file: Path) -> list[str]:
    """The types of the file's quantised weights; GovorError for what is no GGUF of an architecture that can be had."""
    from collections import Counter

    architectures = compat.gguf_architectures()
    if not file.is_file():
        raise GovorError(f"{file}: no such file")
    with file.open("rb") as start:
        if start.read(4) != b"GGUF":
            raise GovorError(f"{file} is no GGUF file")
    from gguf import GGUFReader

    try:
        reader = GGUFReader(str(file))
        architecture = reader.fields["general.architecture"].contents()
    except Exception as error:  # cut off, another version of the format
        raise GovorError(f"{file}: damaged, or of a version that cannot be read: {error}") from None
    if str(architecture).replace("moe", "_moe") not in architectures and architecture not in architectures:
        raise GovorError(f"{file}: transformers unpacks no {architecture}, but {', '.join(sorted(architectures))}")
    kinds = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    return [kind for kind, _ in kinds.most_common() if kind not in UNQUANTISED]


if __name__ == "__main__":
    main()
