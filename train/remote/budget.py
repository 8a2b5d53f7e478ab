"""What may be spent: an amount is reserved before a request is sent, so that it is never exceeded."""

import re
from decimal import Decimal
from typing import NamedTuple

from train.core.errors import ConfigError
from train.remote.services import Endpoint, TokenPrice

MILLION = 1_000_000


class Usage(NamedTuple):
    """Tokens of a request and of its answer; tokens of reasoning are tokens of the answer."""

    input: int
    output: int


class Budget:
    """A limit in US dollars or in tokens, what is spent of it, and what requests under way may still cost.

    Without a limit it only counts. `price`: None where it is not known; then the limit is one of tokens.
    """

    def __init__(self, limit: Decimal | int | None, price: TokenPrice | None, *, in_money: bool) -> None:
        self.limit, self.price, self.in_money = limit, price, in_money
        self.spent: Decimal | int = 0
        self.reserved: Decimal | int = 0

    def cost(self, usage: Usage) -> Decimal | int:
        """What so many tokens cost, in the budget's unit."""
        if not self.in_money:
            return sum(usage)
        return money(usage, self.price)

    def reserve(self, usage: Usage) -> bool:
        """Set aside what a request may cost at most; False, and nothing set aside, where the limit leaves no room."""
        cost = self.cost(usage)
        if self.limit is not None and self.spent + self.reserved + cost > self.limit:
            return False
        self.reserved += cost
        return True

    def settle(self, reserved: Usage, used: Usage) -> None:
        """Put in place of what was set aside for a request what it has really used."""
        self.reserved -= self.cost(reserved)
        self.charge(used)

    def charge(self, used: Usage) -> None:
        self.spent += self.cost(used)

    def describe(self) -> str:
        """What is spent, and of how much: `0.0031 of 2 USD`."""
        return f"{self.amount(self.spent)}{f' of {self.amount(self.limit)}' if self.limit is not None else ''}"

    def amount(self, value: Decimal | int) -> str:
        return f"{value:.4f} USD" if self.in_money else f"{value:,} tokens"


def money(usage: Usage, price: TokenPrice | None) -> Decimal:
    """US dollars for so many tokens."""
    assert price is not None
    return (Decimal(str(price.input)) * usage.input + Decimal(str(price.output)) * usage.output) / MILLION


def open_budget(endpoint: Endpoint, dollars: str | None, tokens: int | None) -> Budget:
    """The budget that --budget (`2USD`) or --max-tokens states; ConfigError for money where no price is known."""
    if dollars is None:
        return Budget(tokens, endpoint.price, in_money=False)
    if tokens is not None:
        raise ConfigError("--budget and --max-tokens both say where to stop: give one of them")
    found = re.fullmatch(r"\$?(\d+(?:\.\d+)?) ?(?:usd|\$)?", dollars.strip(), re.IGNORECASE)
    if not found:
        raise ConfigError(f"--budget {dollars}: expected US dollars, such as 2USD or 0.50USD")
    if endpoint.price is None:
        raise ConfigError(
            f"--budget {dollars}: no price is known for {endpoint.model} at {endpoint.host}: give --max-tokens, or put "
            "its price for input and output into train/plan/prices.yaml"
        )
    return Budget(Decimal(found[1]), endpoint.price, in_money=True)
