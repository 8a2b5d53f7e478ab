"""All that a model card tells of a run."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from train.core.config import Config
from train.evaluation.report import Sample
from train.exports.hub.licences import Licence

What = Literal["adapter", "merged", "gguf"]


class Facts(NamedTuple):
    """What is known of the run, and what the user states."""

    repo: str
    what: What
    config: Config
    manifest: dict[str, Any]
    steps: int
    base: str | None
    """The base's public name; None where it has none."""
    licence: Licence | None
    """Of this model. None: not known yet."""
    base_licence: Licence | None
    languages: Sequence[str]
    source: str | None
    """Where the chats come from, in the user's words."""
    system: str | None
    """The system message of the rows, if it is to be shown."""
    samples: Sequence[Sample]

    @property
    def base_name(self) -> str:
        return f"[{self.base}](https://huggingface.co/{self.base})" if self.base else "a model without a public name"

    @property
    def name(self) -> str:
        return self.repo.split("/")[1]
