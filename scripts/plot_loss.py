"""Draws a run's loss curve into an SVG file.

python scripts/plot_loss.py runs/tiny data/tiny-loss.svg --force
"""

from pathlib import Path

import click

from train.core.errors import one_line_errors
from train.core.files import require_new, write_whole
from train.core.pages import speaker
from train.core.runs import open_run
from train.evaluation.report import loss_curve


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace the file.")
def main(run: Path, out: Path, force: bool) -> None:
    """Training and held-out loss of RUN over its steps, into OUT."""
    with one_line_errors():
        require_new(out, force)
        write_whole(out, [loss_curve(open_run(run).metrics(), speaker("en", {}))], replace=force)
    print(out)


if __name__ == "__main__":
    main()
