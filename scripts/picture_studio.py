"""Takes the guides' pictures of the studio in both languages: data/studio-{run,rows}.{en,ru}.png.

make demo .browser/installed
PYTHONPATH=.browser .venv/bin/python scripts/picture_studio.py runs/tiny data --force

Needs Chromium, and Playwright as `make test-studio` installs it. To be done again only when a page has changed.
"""

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from PIL import Image

from train.core.errors import GovorError, one_line_errors
from train.core.files import aside_file, require_new

SIZE = {"width": 960, "height": 860}
PATIENCE = 120_000  # milliseconds
LANGUAGES = {"en": "en-US", "ru": "ru-RU"}


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path, exists=True))
@click.option("--rows", default="natasha.jsonl", show_default=True, help="File of rows.")
@click.option("--config", default="configs/tiny.yaml", show_default=True, help="As whose base the rows are seen.")
@click.option("--force", is_flag=True, help="Replace the pictures.")
def main(run: Path, out: Path, rows: str, config: str, force: bool) -> None:
    """Pictures of RUN and of a file of rows beside it, into the folder OUT."""
    from playwright.sync_api import sync_playwright

    def show_run(page: Any) -> None:
        page.locator("h1 .state").wait_for()
        page.locator("figure[data-points]:not([data-points='0']) canvas").wait_for()

    def show_rows(page: Any) -> None:
        page.locator("select").nth(1).select_option(config)
        page.locator("mark.seen").first.wait_for()

    pages: dict[str, tuple[str, Callable[[Any], None]]] = {
        "run": (f"#run/{run.name}", show_run),
        "rows": (f"#rows/{rows}", show_rows),
    }
    with one_line_errors(), sync_playwright() as playwright, studio(run.parent.parent) as url:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for language, locale in LANGUAGES.items():
            page = browser.new_page(locale=locale, color_scheme="light", viewport=SIZE)  # type: ignore[arg-type]
            page.set_default_timeout(PATIENCE)
            for name, (address, ready) in pages.items():
                target = out / f"studio-{name}.{language}.png"
                require_new(target, force)
                page.goto(f"{url}/{address}")
                ready(page)
                page.wait_for_timeout(500)
                write_picture(target, page.screenshot(), replace=force)
                print(target)
        browser.close()


@contextmanager
def studio(project: Path) -> Iterator[str]:
    """`govor studio` on a free port; its URL."""
    command = [sys.executable, "-m", "train.cli", "studio", "--port", "0", str(project)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            found = re.search(r"http://\S+:\d+", process.stdout.readline() if process.stdout else "")
            if found is None:
                raise GovorError("the studio did not start: its message stands above")
            yield found[0]
        finally:
            process.terminate()


def write_picture(target: Path, screenshot: bytes, *, replace: bool) -> None:
    """In 64 colours, which a page of text has no more of: a third of the bytes."""
    picture = Image.open(io.BytesIO(screenshot)).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    with aside_file(target, replace=replace) as file:
        picture.save(file, "PNG", optimize=True)


if __name__ == "__main__":
    main()
