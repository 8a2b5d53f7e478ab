"""What answering costs: 1,000 requests and a year of 100,000, at hosted services and on one's own card.

A card is taken to answer one request after another: the prompt by its operations, each token of the answer by reading
all weights once, both at the speed of its data sheet, at full power. Engines that batch need less, idle time costs
more. None of it was measured by us.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from train.core.config import Config
from train.plan.estimate import UTILIZATION, Gpu, Price, own_costs
from train.plan.memory import GIB, base_bytes
from train.plan.shapes import Shapes
from train.plan.tokens import Tokens

A_YEAR = 100_000
"""Requests that the second figure is for."""


class Request(NamedTuple):
    """A request of the size that the rows have, in tokens."""

    prompt: float
    """A row without its last answer."""
    answer: float


class Answering(NamedTuple):
    """What requests cost somewhere, in US dollars."""

    name: str
    thousand: float | None
    """1,000 requests; None where the price is not known."""
    year: float | None
    """A_YEAR requests; None where the price is not known."""
    note: str


def request_of(tokens: Tokens) -> Request:
    """The mean request of the training rows."""
    row = tokens.total / max(1, len(tokens.lengths))
    return Request(max(0.0, row - tokens.answer), tokens.answer)


def hosted(request: Request, prices: Iterable[Price]) -> list[Answering]:
    """The services of the price table."""
    found = []
    for price in prices:
        name = f"{price.service} {price.model or ''}".strip()
        thousand = None
        if price.input is not None and price.output is not None:
            thousand = 1000 * (request.prompt * price.input + request.answer * price.output) / 1e6
        doubt = "" if price.verified else ", not verified"
        note = "not known"
        if thousand is not None:
            note = f"${price.input:g} in, ${price.output:g} out a million as of {price.as_of}{doubt}"
        gone = f"not offered any more since {price.gone}" if price.gone else None
        found.append(_answering(name, thousand, ", ".join(filter(None, (note, gone)))))
    return found


def own(request: Request, config: Config, shapes: Shapes, cards: Sequence[Gpu]) -> list[Answering]:
    """The cards whose speed and power are known, for their electricity; the card's own price stands in the note."""
    costs = own_costs()
    weights, found = base_bytes(config, shapes), []
    for card in cards:
        if not (card.tflops and card.bandwidth and card.watts):
            continue
        prompt = request.prompt * 2 * shapes.multiplied / (card.tflops * 1e12 * UTILIZATION[1])
        seconds = prompt + request.answer * weights / (card.bandwidth * 1e9)
        thousand = 1000 * seconds * card.watts / 3.6e6 * costs.electricity
        note = f"{card.watts:g} W at ${costs.electricity:g} a kWh, {seconds:.1f} s a request at best"
        bought = f"the card: ${card.price:,} new, ${card.price / costs.years:,.0f} a year" if card.price else None
        found.append(
            _answering(f"your own {card.name}", thousand, "; ".join((note, bought or "the card's price is not known")))
        )
    return found


def smallest_card(cards: Iterable[Gpu], config: Config, shapes: Shapes) -> list[Gpu]:
    """The card of least memory that holds the base and 1 GiB for dialogues, with the least power of those alike."""
    needed = base_bytes(config, shapes) + GIB
    fitting = [card for card in cards if card.usable >= needed and card.watts]
    return sorted(fitting, key=lambda card: (card.memory, card.watts or 0))[:1]


def _answering(name: str, thousand: float | None, note: str) -> Answering:
    return Answering(name, thousand, None if thousand is None else thousand * A_YEAR / 1000, note)
