"""The form of manifest.json, as far as later verbs read it: a damaged one is refused by the key, before it is used."""

from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter


class Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class Base(Part):
    name_or_path: str = ""
    path: str
    revision: str | None = None
    weights: dict[str, str]


class Rows(Part):
    sha256: str = ""
    rows: int
    tokens: int = 0
    trained_tokens: int = 0
    dropped: list[Any] | None = None
    truncated: list[Any] | None = None
    split: list[Any] | None = None


class Data(Part):
    train: Rows | None = None
    held_out: Rows | None = None
    system_message: str | None = None


class Template(Part):
    sha256: str = ""
    end_of_turn: list[int]
    date: str | None = None
    name: str | None = None
    replaces_own: bool = False


class Lengths(Part):
    counts: list[int]
    edges: list[float]


class Parameters(Part):
    trainable: int
    all: int


class Processes(Part):
    num_processes: int = 1
    device: str = ""


class Parity(Part):
    prompts: int
    differing: list[int]


class Evaluation(Part):
    base_loss: float | None = None
    tuned_loss: float | None = None
    rows: int = 0
    verdict: dict[str, str] | None = None


class Preferences(Part):
    shorter: float
    accuracy: float | None = None


class Push(Part):
    commit: str | None = None
    files: list[str] = []


class Manifest(Part):
    """What stands in manifest.json; entries of other versions may stand beside."""

    status: str | None = None
    versions: dict[str, str | None] | None = None
    base: Base
    data: Data
    template: Template
    lengths: Lengths | None = None
    parameters: Parameters | None = None
    processes: Processes | None = None
    parity: Parity | None = None
    evaluation: Evaluation | None = None
    preferences: Preferences | None = None
    start: dict[str, str] | None = None
    merge: dict[str, Any] | None = None
    pushed: dict[str, Push] | None = None
    warnings: list[str] = []
    seconds: float = 0
    steps: int = 0
    finished: str | None = None


MANIFEST = TypeAdapter(Manifest)
