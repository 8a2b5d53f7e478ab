"""What a model card tells of a run."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from train.core.config import Config
from train.evaluation.report import Sample
from train.exports.hub.licences import Licence

Artifact = Literal["adapter", "merged", "gguf"]
"""What of a run is pushed: its adapter, its merged model, or its GGUF exports."""


class CardFacts(NamedTuple):
    """What is known of the run, and what the user states."""

    repo: str
    artifact: Artifact
    config: Config
    manifest: dict[str, Any]
    steps: int
    base: str | None
    """The base's public name; None where it has none."""
    licence: Licence | None
    """The licence of this model; None where it is not known yet."""
    base_licence: Licence | None
    languages: Sequence[str]
    source: str | None
    """Where the chats come from, in the user's words."""
    system: str | None
    """The system message of the rows; None where there is none or it is not to be shown."""
    samples: Sequence[Sample]

    @property
    def base_name(self) -> str:
        """The base as the card names it: a link to its page where it has one."""
        return f"[{self.base}](https://huggingface.co/{self.base})" if self.base else "a model without a public name"

    @property
    def name(self) -> str:
        """The repository's name without its owner."""
        return self.repo.split("/")[1]
