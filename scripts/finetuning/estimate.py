"""How many tokens a training file has for a provider, and what they cost there."""

from pathlib import Path
from typing import NamedTuple

from train.chats.readers import read_rows
from train.core.config import Config, config_class
from train.core.errors import BaseError
from train.jobs.bases import load_catalogue, merge_sections
from train.jobs.run_config import auto_epochs
from train.models.base import local_folder
from train.plan.answering import A_YEAR, Answering, Request, hosted, own, request_of, smallest_card
from train.plan.estimate import Price, known_gpus, prices
from train.plan.shapes import find_shapes
from train.plan.show import dollars
from train.plan.tokens import count_tokens

from .providers import PROVIDERS, Provider


class Estimate(NamedTuple):
    """The size of a training file."""

    rows: int
    tokens: int
    """Tokens of one epoch."""
    epochs: int
    how: str
    """How the tokens were counted."""
    request: Request
    """A request of the size of the rows."""


def estimate(path: Path, provider: Provider, model: str, epochs: int | None) -> Estimate:
    """Tokens of the file, counted where the base's tokenizer is on this disk; DataError where a row is bad."""
    rows = read_rows(path)
    folder = None
    tree = {"name": "x", "data": {"train_file": str(path)}, "model": {"name_or_path": model},
            "training": {"max_length": provider.max_length}}  # fmt: skip
    config = (provider.name == "local" and _config_of(path, model)) or config_class().model_validate(tree)
    if provider.name == "local":
        try:
            folder = local_folder(config.model)
        except BaseError:  # a name that only the server knows
            folder = None
    tokens = count_tokens(config, folder, provider.family, rows, [])
    return Estimate(len(rows), tokens.total, epochs or auto_epochs(len(rows)), tokens.how, request_of(tokens))


def _config_of(path: Path, model: str) -> Config | None:
    """The config of a job of the catalogue's base; None where the catalogue has none of that name."""
    base = load_catalogue().find(model)
    tree = base and merge_sections(base.tree, {"name": "x", "data": {"train_file": str(path)}})
    return config_class().model_validate(tree) if tree else None


def describe(result: Estimate, path: Path, provider: Provider, model: str, epochs_chosen: bool) -> str:
    """Tokens, price, and what asking costs, in lines of text. `epochs_chosen`: the user gave the number of epochs."""
    return "\n".join(
        [*_training(result, provider, model, epochs_chosen), *_asking(result.request, path, provider, model)]
    )


def _asking(request: Request, path: Path, provider: Provider, model: str) -> list[str]:
    """What requests of the rows' size cost there, and on a card of one's own."""
    table = prices(0)
    if provider.name != "local":
        table = _matching(table, provider, model)
    config = _config_of(path, model if provider.name == "local" else PROVIDERS["local"].model)
    found = hosted(request, table)
    if config and not config.training.use_cpu:
        try:
            shapes, _ = find_shapes(config.model)
        except BaseError:  # its size is not known here
            pass
        else:
            cards = smallest_card(known_gpus().values(), config, shapes)
            found = [*own(request, config, shapes, cards), *found]
    head = f"Asking, 1,000 requests of {request.prompt:.0f} tokens with answers of {request.answer:.0f}"
    return [f"{head}; a year of {A_YEAR:,}:", *map(_asking_line, found)] if found else []


def _asking_line(one: Answering) -> str:
    return f"  {one.name}: {dollars(one.thousand)}; {dollars(one.year)} ({one.note})"


def _matching(table: list[Price], provider: Provider, model: str) -> list[Price]:
    """The table's prices of that model at the provider, the longest name first."""
    found = [
        price
        for price in table
        if price.service == provider.service and price.model and _normalized(model).startswith(_normalized(price.model))
    ]
    return sorted(found, key=lambda price: -len(price.model or ""))[:1]


def _training(result: Estimate, provider: Provider, model: str, epochs_chosen: bool) -> list[str]:
    """Tokens and price."""
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
        return [*lines, *(f"  {_line(price)}" for price in table)]
    if matches := _matching(table, provider, model):
        lines.append(f"Price: {_line(matches[0])}")
    else:
        lines.append(f"Price: none is known for {model}; the table (train/plan/prices.yaml) has:")
        lines += [f"  {_line(price)}" for price in table if price.service == provider.service]
    return lines


def _normalized(model: str) -> str:
    """The name without the differences of case, spaces and dashes between tables and APIs."""
    return model.lower().replace(" ", "-").rpartition("/")[2]


def _line(price: Price) -> str:
    name = f"{price.service} {price.model or ''}".strip()
    if price.price is None or price.cost is None:
        gone = f", not offered any more since {price.gone}" if price.gone else ""
        return f"{name}: {price.note or 'no price'}{gone} (as of {price.as_of})"
    doubt = "" if price.verified else ", not verified"
    note = f"; {price.note}" if price.note else ""
    note += f"; not offered any more since {price.gone}" if price.gone else ""
    return f"{name}: ${price.cost:.2f} (${price.price:g} a million tokens as of {price.as_of}{doubt}{note})"
