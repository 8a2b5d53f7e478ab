"""The guide's analysis: a file of dialogues or rows → tables, JSON and a page, by govor analyze.

python scripts/analysis/analyze_natasha_dataset.py --input data/natasha_dialogs_dataset_2026-11-29.json
"""

from pathlib import Path

import click

from train.cli import main as govor
from train.core.errors import GovorError, one_line_errors

PATTERNS = ("natasha_dialogs_dataset_*.json", "natasha_finetuning_*.jsonl", "natasha.jsonl")
"""What is looked for in data/ unless a file is named; the newest of the first kind that is there."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--input", "file", type=click.Path(path_type=Path), help="Dialogues or rows.  [default: the newest]")
@click.option("--force", is_flag=True, help="Replace an earlier analysis of this file.")
def main(file: Path | None, force: bool) -> None:
    """Measure the file; the results are in data/dataset_analysis_NAME/."""
    with one_line_errors():
        found = [sorted(Path("data").glob(name), key=lambda path: path.stat().st_mtime) for name in PATTERNS]
        file = file or next((paths[-1] for paths in found if paths), None)
        if file is None:
            raise GovorError(f"data/ has none of {', '.join(PATTERNS)}: name the file with --input")
    folder = Path("data") / f"dataset_analysis_{file.stem}"
    govor(["analyze", str(file), "-o", str(folder), *(["--force"] if force else [])])


if __name__ == "__main__":
    main()
