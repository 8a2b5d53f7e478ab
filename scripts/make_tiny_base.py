"""Builds a small Qwen3-architecture base with a tokenizer and random weights, in seconds, offline.

    python scripts/make_tiny_base.py OUT [--rows data/natasha.jsonl] [--seed 0] [--hidden-size 192] …

It lets every verb run for real where no pre-trained model can be had. The same seed and rows give the same bytes.
"""

import json
from pathlib import Path

import click

from train.core.errors import one_line_errors
from train.core.files import complete_folder, require_replaceable

MARKS = ("config.json", "model.safetensors", "tokenizer.json")
"""An earlier base is known by these."""
SPECIAL = {"pad": "<|endoftext|>", "start": "<|im_start|>", "end": "<|im_end|>"}
CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--rows", type=click.Path(path_type=Path, exists=True), default=Path("data/natasha.jsonl"))
@click.option("--seed", default=0)
@click.option("--vocab-size", default=4096)
@click.option("--hidden-size", default=192)
@click.option("--layers", default=4)
@click.option("--force", is_flag=True, help="Replace the folder.")
def main(out: Path, rows: Path, seed: int, vocab_size: int, hidden_size: int, layers: int, force: bool) -> None:
    """Build the model in the folder OUT."""
    with one_line_errors():
        require_replaceable(out, MARKS, force=force)
        shape = {"vocab_size": vocab_size, "hidden_size": hidden_size, "layers": layers}
        parameters = make_tiny_base(out, rows, seed=seed, replace=force, **shape)
    print(f"{out}: {parameters:,} parameters, random weights (seed {seed})")


def make_tiny_base(
    out: Path, rows: Path, *, seed: int = 0, vocab_size: int = 4096, hidden_size: int = 192, layers: int = 4,
    replace: bool = False,
) -> int:  # fmt: skip
    """Write the model to a new folder, or with `replace` over one made before; return its number of parameters."""
    import torch
    from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(texts_of(rows), vocab_size),
        eos_token=SPECIAL["end"],
        pad_token=SPECIAL["pad"],
        chat_template=CHATML,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    stop = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=3 * hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=hidden_size // 4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            initializer_range=0.05,  # at the usual 0.02 the tied head is so flat that an adapter can teach it nothing
            **stop,
        )
    )
    model.generation_config = GenerationConfig(**stop)
    with complete_folder(out, replace=replace) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
    return sum(parameter.numel() for parameter in model.parameters())


def texts_of(rows: Path) -> list[str]:
    """Every message's text."""
    return [
        message["content"]
        for line in rows.read_bytes().splitlines()
        for message in json.loads(line)["messages"]
        if isinstance(message["content"], str)
    ]


def train_tokenizer(texts: list[str], vocab_size: int):  # noqa: ANN201 (tokenizers.Tokenizer, imported here alone)
    """Byte-level BPE with Qwen2's idea of a word, so that any text survives a round trip."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    # Exactly Qwen2's expression, English endings included: GGUF names pre-tokenizers and has no other way to say it
    words = Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


if __name__ == "__main__":
    main()
