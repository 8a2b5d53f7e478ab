"""Bits a character on the plays set aside: xz, a 5-gram character model with Kneser–Ney smoothing, and models.

    python scripts/bits_per_character.py --plays PLAYS.jsonl.gz --prose PROSE.jsonl.gz data/tiny-ru …

Everything sees the same training text and is measured on the same characters, line breaks counted in. For the n-grams
a character that the training text never showed costs what an equal share of all of Unicode costs.
"""

import lzma
import math
from pathlib import Path
from typing import Any

import click
import numpy as np
from tiny_text import HELD_OUT, TRIED_ON, play_text, read_plays, read_prose

UNICODE = 0x110000
DIGIT = 10  # bits of one character's number in an n-gram's


@click.command()
@click.argument("models", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--plays", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--prose", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--order", default=5, help="Characters in the longest n-gram, at most 6.")
@click.option("--window", default=1024, help="Tokens that a model sees at most.")
def main(models: tuple[Path, ...], plays: Path, prose: Path, order: int, window: int) -> None:
    """Print a row for each way."""
    speeches = read_plays(plays)
    kept_back = {name: some for name, some in speeches.items() if name in HELD_OUT + TRIED_ON}
    held_out = [play_text(speeches[name]) for name in HELD_OUT if name in speeches]
    if not held_out:
        raise click.ClickException(f"{plays} has none of the plays that are set aside")
    train = [play_text(some) for name, some in speeches.items() if name not in kept_back] + read_prose(prose, kept_back)
    print(f"{len(held_out)} plays, {sum(map(len, held_out)):,} characters; trained on {sum(map(len, train)):,}")
    print(f"| xz -9 | {xz_bits(held_out):.3f} |", flush=True)
    print(f"| {order}-gram characters, Kneser–Ney | {ngram_bits(train, held_out, order):.3f} |", flush=True)
    for model in models:
        print(f"| {model} | {model_bits(model, held_out, window):.3f} |", flush=True)


def xz_bits(texts: list[str]) -> float:
    """All texts as one file, as `xz -9` writes it."""
    text = "".join(texts)
    return 8 * len(lzma.compress(text.encode(), preset=9)) / len(text)


def ngram_bits(train: list[str], held_out: list[str], order: int) -> float:
    """Interpolated Kneser–Ney, one discount for each order; texts begin after line breaks."""
    known = {character: number for number, character in enumerate(sorted(set("".join(train)) | {"\n"}))}
    if len(known) + 1 >= 1 << DIGIT or order * DIGIT > 62:
        raise click.ClickException(f"{len(known)} characters and n-grams of {order} do not fit into 64 bits")

    def numbers(texts: list[str]) -> np.ndarray:
        start = "\n" * (order - 1)
        return np.array([known.get(c, len(known)) for text in texts for c in start + text], dtype=np.int64)

    def grams(stream: np.ndarray, length: int) -> np.ndarray:
        codes = np.zeros(len(stream) - order + 1, dtype=np.int64)
        for place in range(order - length, order):
            codes = codes << DIGIT | stream[place : place + len(codes)]
        return codes

    stream, wanted = numbers(train), numbers(held_out)
    longest, counts = np.unique(grams(stream, order), return_counts=True)
    levels = [(longest, counts)]  # shorter n-grams count what stands before them, not how often they occur
    for length in range(order - 1, 0, -1):
        levels.append(np.unique(levels[-1][0] & (1 << DIGIT * length) - 1, return_counts=True))
    probability = np.full(len(grams(wanted, 1)), 1 / UNICODE)
    for length in range(1, order + 1):
        codes, counts = levels[order - length]
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        discount = once / (once + 2 * twice) if once else 0.5
        contexts, first = np.unique(codes >> DIGIT, return_index=True)
        totals = np.add.reduceat(counts, first)
        kinds = np.diff(np.append(first, len(codes)))
        codes_wanted = grams(wanted, length)
        total, kind = (pick(contexts, values, codes_wanted >> DIGIT) for values in (totals, kinds))
        count = pick(codes, counts, codes_wanted)
        seen = total > 0
        own = np.maximum(count[seen] - discount, 0) + discount * kind[seen] * probability[seen]
        probability[seen] = own / total[seen]
    inside = np.concatenate([np.arange(len(text) + order - 1) >= order - 1 for text in held_out])[order - 1 :]
    return float(-np.log2(probability[inside]).mean())


def pick(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values of the wanted keys (sorted keys), 0 where there is none."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)


def model_bits(folder: Path, texts: list[str], window: int) -> float:
    """A causal model in windows that overlap by half: all but the first tokens have half a window before them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    nats = 0.0
    for text in texts:
        ids = torch.tensor([tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
                            *tokenizer(text, add_special_tokens=False)["input_ids"]])  # fmt: skip
        done = 1  # the token before the text costs nothing
        while done < len(ids):
            start = max(0, done - window // 2)
            end = min(len(ids), start + window)
            part = ids[start:end]
            with torch.no_grad():
                scores = model(part[None, :-1]).logits[0].float().log_softmax(-1)
            nats -= scores.gather(1, part[1:, None])[done - start - 1 :].sum().item()
            done = end
    return nats / math.log(2) / sum(map(len, texts))


if __name__ == "__main__":
    main()
