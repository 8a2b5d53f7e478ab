"""The guides whose commands our users followed: what each script does unless told, and how it says it.

The scripts in scripts/analysis/ are upload_and_finetune.py with one of these. A guide's words name its provider also
where --base-url sends everything to another server, which is then said first.
"""

from pathlib import Path
from typing import Any, NamedTuple

DATA = Path("data")


class Guide(NamedTuple):
    """What differs between the scripts."""

    provider: str | None = None
    """Who tunes where no --base-url is given; None: by --base-url, else the local server."""
    script: str = "upload_and_finetune.py"
    """Path below scripts/."""
    model: str | None = None
    """The model to tune; None: the provider's usual one."""
    log: str | None = None
    """The log's name in logs/, to which every run adds; None: a file of its own for each run."""
    to: str = ""
    """After «File uploaded successfully»."""
    within: str = ""
    """After «Fine-tuning job created successfully»."""

    def defaults(self) -> dict[str, Any]:
        """Options that are not given on the command line."""
        return {
            "file": newest_rows(), "model": self.model, "epochs": 3, "learning_rate": 0.1, "suffix": "natasha-v1",
        }  # fmt: skip


def _of(name: str, provider: str, model: str, title: str = "") -> Guide:
    to, within = (f" to {title}", f" in {title}") if title else ("", "")
    return Guide(provider, f"analysis/upload_and_finetune_{name}.py", model, f"finetune_{name}.log", to, within)


PLAIN = Guide()
GUIDES = {
    "natasha": _of("natasha", "openai", "gpt-4-turbo"),
    "kimi": _of("kimi", "kimi", "moonshot-v1-8k", "Kimi"),
    "vertex": _of("vertex", "vertex", "gemini-1.5-pro-002", "Vertex AI"),
    "google": _of("google", "google", "gemini-2.5-flash", "Google"),
}


def newest_rows() -> Path | None:
    """The newest data/natasha_finetuning_*.jsonl, else data/natasha.jsonl; None where there is neither."""
    collected = sorted(DATA.glob("natasha_finetuning_*.jsonl"), key=lambda path: (path.stat().st_mtime, path.name))
    shipped = DATA / "natasha.jsonl"
    return collected[-1] if collected else shipped if shipped.is_file() else None
