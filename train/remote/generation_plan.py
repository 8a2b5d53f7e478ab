"""The plan of govor generate: what is to be asked by whom, how many rows of each, and the words of the requests."""

import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import yaml
from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, ValidationError

from train.core.bounded_yaml import BoundedLoader
from train.core.config import Section
from train.core.errors import ConfigError

Quotas = Annotated[dict[str, PositiveFloat], Field(min_length=1)]
"""Values, each with its weight."""


OWNED = {"model", "messages", "n", "stream", "max_tokens", "max_completion_tokens"}
"""What a plan's parameters may not set: it would change what a request costs, or what comes back."""


def _no_owned(parameters: dict[str, Any]) -> dict[str, Any]:
    if owned := sorted(OWNED & parameters.keys()):
        raise ValueError(f"{', '.join(owned)}: govor sets it itself")
    return parameters


Parameters = Annotated[dict[str, float | int | str | bool], AfterValidator(_no_owned)]


class Plan(Section):
    """A plan file."""

    rows: PositiveInt = 100
    """Rows wanted."""
    config: Path | None = None
    """Training config whose held-out rows are never sent, relative to the working folder. Without it they are those
    that training would hold out by its defaults."""
    domains: Quotas
    """What the questions are about."""
    askers: Quotas
    """Who asks."""
    kinds: Quotas
    """What kind of question."""
    lengths: Quotas
    """How long the question is."""
    questions: str
    """Asks for questions. {count}, {domain}, {asker}, {kind}, {length}, {examples} and {text} are replaced."""
    answers: str
    """System message under which a question is answered. {system} is that of the rows; {text} as above."""
    examples: Annotated[int, Field(ge=0, le=20)] = 3
    """Training rows shown with each request."""
    spare: Annotated[int, Field(ge=0, le=20)] = 2
    """Questions asked for beyond the number needed, in place of those that are refused."""
    rounds: Annotated[int, Field(ge=1, le=10)] = 2
    """How often what is missing is asked for."""
    question_tokens: PositiveInt = 700
    """Longest list of questions, in tokens; reasoning counts."""
    answer_tokens: PositiveInt = 700
    """Longest answer, in tokens; reasoning counts."""
    parameters: Parameters = Field(default_factory=dict)
    """Sampling parameters to send, such as temperature; none are sent otherwise."""
    style_percentile: Annotated[float, Field(ge=0, lt=50)] = 10
    """An answer is refused that is less like the persona's than so many of a hundred real ones."""


class Cell(NamedTuple):
    """One combination of the plan's values."""

    domain: str
    asker: str
    kind: str
    length: str


SectionT = TypeVar("SectionT", bound=Section)


def load_plan(path: Path) -> Plan:
    """The plan file; ConfigError that names every problem."""
    return load_section(path, Plan, "--plan")


def load_section(path: Path, kind: type[SectionT], option: str) -> SectionT:
    """The section that a YAML file holds; ConfigError under the option, with every problem."""
    try:
        return kind.model_validate(yaml.load(path.read_text(encoding="utf-8"), BoundedLoader))
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option} {path}: not valid YAML: {' '.join(str(error).split())[:200]}") from None
    except ValidationError as error:
        found = (f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}" for one in error.errors())
        raise ConfigError(f"{option} {path}: {'; '.join(found)}") from None


def cells(plan: Plan, rows: int) -> list[Cell]:
    """A cell for each row: every value as often as its quota says, combined by a fixed chance."""
    columns = []
    for number, quotas in enumerate((plan.domains, plan.askers, plan.kinds, plan.lengths)):
        column = [value for value, count in shares(quotas, rows).items() for _ in range(count)]
        random.Random(number).shuffle(column)
        columns.append(column)
    return [Cell(*values) for values in zip(*columns, strict=True)]


def shares(quotas: Mapping[str, float], rows: int) -> dict[str, int]:
    """`rows` divided by weight, what is left over to the largest remainders."""
    whole = sum(quotas.values())
    exact = {value: rows * weight / whole for value, weight in quotas.items()}
    counts = {value: int(share) for value, share in exact.items()}
    missing = rows - sum(counts.values())
    for value in sorted(exact, key=lambda value: counts[value] - exact[value])[:missing]:
        counts[value] += 1
    return counts


def filled(template: str, values: Mapping[str, object]) -> str:
    """The template with {name} replaced by its value; a {name} within a value stays."""
    return re.sub(r"\{(\w+)\}", lambda found: str(values.get(found[1], found[0])), template).strip()


def listed_questions(texts: Iterable[str]) -> str:
    """Questions as a list in a request."""
    return "\n".join(f"- {' '.join(text.split())}" for text in texts)
