"""Draws a run's loss curve into an SVG file.

python scripts/plot_loss.py runs/tiny data/tiny-loss.svg
"""

from pathlib import Path

import click

from train.errors import one_line_errors
from train.files import write_atomically
from train.report import loss_curve
from train.runs import open_run


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(run: Path, out: Path) -> None:
    """Training and held-out loss of RUN over its steps, into OUT."""
    with one_line_errors():
        write_atomically(out, loss_curve(open_run(run).metrics()))
    print(out)


if __name__ == "__main__":
    main()
