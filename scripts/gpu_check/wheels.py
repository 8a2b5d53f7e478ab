"""Fetches the wheels for a GPU machine that has torch but no package registry (Python 3.12, x86-64).

    python scripts/gpu_check/wheels.py [.wheels]

About 42 MiB. run.sh installs them there, beside that machine's own torch, triton, numpy, pandas, pyarrow, matplotlib,
psutil, regex, scipy and what those need. Versions are those of constraints.txt.
"""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
NAMES = (
    *("trl", "peft", "transformers", "tokenizers", "huggingface_hub", "accelerate", "datasets", "multiprocess", "dill"),
    *("xxhash", "fsspec", "httpx2", "httpcore2", "truststore", "anyio", "msgspec", "pydantic", "pydantic_core"),
    *("annotated-types", "typing-inspection", "typing_extensions", "pymorphy3", "pymorphy3-dicts-ru", "DAWG2-Python"),
    *("datasketch", "ijson", "fastapi", "starlette", "uvicorn", "python-multipart", "annotated-doc", "click"),
    *("rich", "zstandard"),
)
BITSANDBYTES = "bitsandbytes"
"""Fetched apart: it is 43 MB for all versions of CUDA."""
KEPT_LIBRARIES = "libbitsandbytes_cuda130.so", "libbitsandbytes_cpu.so"
PEERS = ("liger-kernel==0.8.5",)
"""Measured beside govor, and no dependency of it."""
PLATFORMS = "manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"


def main(folder: Path) -> None:
    versions = pinned()
    fetch([f"{name}=={versions[name]}" for name in NAMES], folder)
    fetch(PEERS, folder)
    with tempfile.TemporaryDirectory() as aside:
        fetch([f"{BITSANDBYTES}=={versions[BITSANDBYTES]}"], Path(aside))
        for wheel in Path(aside).glob("*.whl"):
            without_other_libraries(wheel, folder / wheel.name)
    size = sum(wheel.stat().st_size for wheel in folder.glob("*.whl"))
    print(f"{folder}: {len(list(folder.glob('*.whl')))} wheels, {size / 2**20:.1f} MiB")


def pinned() -> dict[str, str]:
    """Version by name, from constraints.txt."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def fetch(requirements: Sequence[str], folder: Path) -> None:
    target = ["--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp"]
    for platform in PLATFORMS:
        target += ["--platform", platform]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *target, "--dest", str(folder)]
    subprocess.run([*command, *requirements], check=True)


def without_other_libraries(wheel: Path, target: Path) -> None:
    """Copy a wheel of bitsandbytes without the libraries of other CUDA versions."""
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as small:
        names = source.namelist()
        dropped = {name for name in names if name.endswith(".so") and not name.endswith(KEPT_LIBRARIES)}
        for name in names:
            if name in dropped:
                continue
            data = source.read(name)
            if name.endswith(".dist-info/RECORD"):
                lines = data.decode().splitlines()
                data = "".join(f"{line}\n" for line in lines if line.split(",")[0] not in dropped).encode()
            small.writestr(source.getinfo(name), data)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".wheels"))
