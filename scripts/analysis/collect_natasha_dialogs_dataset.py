"""The guide's collecting: exports of chats → data/natasha_finetuning_….jsonl, dialogues and a table, by govor collect.

    python scripts/analysis/collect_natasha_dialogs_dataset.py --limit 2000 --sample 5
    python scripts/analysis/collect_natasha_dialogs_dataset.py ChatExport_2026-11-28 --persona "Мама"

The chats are read from exports that the messenger's own program has made (Telegram Desktop: ⋮ → Export chat history);
nothing is fetched, and no account is needed.
"""

import json
from pathlib import Path

import click

from train.cli import main as govor
from train.core.errors import GovorError, one_line_errors

PATH = click.Path(path_type=Path)
EXPORTS = ("ChatExport_*", "result.json", "data/ChatExport_*", "data/result.json")
"""Where exports are looked for unless one is named: as Telegram Desktop names them."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("exports", type=PATH, nargs=-1, metavar="[EXPORT…]")
@click.option("--persona", default="Наташа", show_default=True, help="Whose answers are to be learned: name or id.")
@click.option("--limit", type=click.IntRange(1), help="At most so many exchanges of a chat, the latest.")
@click.option("--sample", default=3, show_default=True, type=click.IntRange(0), help="Dialogues to print.")
@click.option("--force", is_flag=True, help="Replace the files of today.")
def main(exports: tuple[Path, ...], persona: str, limit: int | None, sample: int, force: bool) -> None:
    """Make training rows of the persona's dialogues in data/."""
    with one_line_errors():
        found = [str(path) for path in exports or [p for pattern in EXPORTS for p in sorted(Path().glob(pattern))]]
        if not found:
            raise GovorError(
                f"no export of chats here ({', '.join(EXPORTS)}): make one in Telegram Desktop (⋮ → Export chat "
                "history), and name its folder or file"
            )
    options = ["--persona", persona, "--slug", "natasha", "-o", "data"]
    options += [*(["--most-per-chat", str(limit)] if limit else []), *(["--force"] if force else [])]
    govor(["collect", *found, *options], standalone_mode=False)
    written = max(Path("data").glob("natasha_dialogs_dataset_*.json"), key=lambda path: path.stat().st_mtime)
    for number, dialogue in enumerate(json.loads(written.read_text(encoding="utf-8"))[:sample], 1):
        print(f"\nDialogue {number}, {dialogue['channel']}, {dialogue['date']}")
        print("\n".join(f"{turn['speaker']}: {turn['text']}" for turn in dialogue["turns"]))


if __name__ == "__main__":
    main()
