"""How many tokens a training file has for a provider, and what they cost there."""

from pathlib import Path
from typing import NamedTuple

from train.chats.readers import read_rows
from train.core.config import config_class
from train.core.errors import BaseError
from train.jobs.bases import load_catalogue, merge_sections
from train.jobs.run_config import auto_epochs
from train.models.base import local_folder
from train.plan.estimate import Price, prices
from train.plan.tokens import count_tokens

from .providers import Provider


class Estimate(NamedTuple):
    """The size of a training file."""

    rows: int
    tokens: int
    """Tokens of one epoch."""
    epochs: int
    how: str
    """How the tokens were counted."""


def estimate(path: Path, provider: Provider, model: str, epochs: int | None) -> Estimate:
    """Tokens of the file, counted where the base's tokenizer is on this disk; DataError where a row is bad."""
    rows = read_rows(path)
    tree = {"name": "x", "data": {"train_file": str(path)}, "model": {"name_or_path": model},
            "training": {"max_length": provider.max_length}}  # fmt: skip
    folder = None
    if provider.name == "local" and (base := load_catalogue().find(model)):
        tree = merge_sections(base.tree, {"name": "x", "data": {"train_file": str(path)}})
    config = config_class().model_validate(tree)
    if provider.name == "local":
        try:
            folder = local_folder(config.model)
        except BaseError:  # a name that only the server knows
            folder = None
    tokens = count_tokens(config, folder, provider.family, rows, [])
    return Estimate(len(rows), tokens.total, epochs or auto_epochs(len(rows)), tokens.how)


def describe(result: Estimate, provider: Provider, model: str, epochs_chosen: bool) -> str:
    """Tokens and price, in lines of text. `epochs_chosen`: the user gave the number of epochs."""
    total = result.tokens * result.epochs
    auto = "" if epochs_chosen else ", as `auto` would choose"
    lines = [
        f"Training examples: {result.rows:,}",
        f"Tokens: {result.tokens:,} an epoch × {result.epochs} epochs{auto} = {total:,}",
        f"        {result.how}",
    ]
    table = prices(total)
    if provider.name == "local":
        lines.append("Price: none, it is your own machine; the same tokens at hosted services:")
        return "\n".join([*lines, *(f"  {_line(price)}" for price in table)])
    of_provider = [price for price in table if price.service == provider.service]
    matches = [
        price for price in of_provider if price.model and _normalized(model).startswith(_normalized(price.model))
    ]
    if matches:
        lines.append(f"Price: {_line(max(matches, key=lambda price: len(price.model or '')))}")
    else:
        lines.append(f"Price: none is known for {model}; the table (train/plan/prices.yaml) has:")
        lines += [f"  {_line(price)}" for price in of_provider]
    return "\n".join(lines)


def _normalized(model: str) -> str:
    """The name without the differences of case, spaces and dashes between tables and APIs."""
    return model.lower().replace(" ", "-").rpartition("/")[2]


def _line(price: Price) -> str:
    name = f"{price.service} {price.model or ''}".strip()
    if price.price is None or price.cost is None:
        return f"{name}: {price.note or 'no price'} (as of {price.as_of})"
    doubt = "" if price.verified else ", not verified"
    note = f"; {price.note}" if price.note else ""
    return f"{name}: ${price.cost:.2f} (${price.price:g} a million tokens as of {price.as_of}{doubt}{note})"
