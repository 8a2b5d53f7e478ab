"""A run for other tools: LLaMA-Factory's folder, llama.cpp's GGUF, Ollama's Modelfile, a repository on the Hub.

Each exporter takes a run (or, where that makes sense, a config), writes aside, renames, and names what it wrote.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from train.core.config import Config, load_config
from train.core.errors import GovorError
from train.core.runs import Run, open_run

ExportTarget = Literal["llamafactory", "gguf", "ollama"]


def export(
    source: Path,
    overrides: Sequence[str],
    target: ExportTarget,
    output: Path | None,
    *,
    quantization: str | None,
    force: bool,
    trust_remote_code: bool = False,
) -> bool:
    """Write the run folder `source`, or for LLaMA-Factory a config file, for another tool; print what was written.

    Returns whether the written file answers as the merged model; True where nothing is compared.
    """
    if target != "llamafactory":
        if overrides:
            raise GovorError(f"--to {target} takes a finished run as it is: leave out {overrides[0]}")
        from train.exports.gguf.export import export_gguf
        from train.exports.ollama import export_ollama

        opened = open_run(source, trust_remote_code=trust_remote_code)
        to_file = export_gguf if target == "gguf" else export_ollama
        lines, passed = to_file(opened, output, quantization=quantization, force=force)
    else:
        from train.exports.llamafactory.export import export_llamafactory

        if quantization:
            raise GovorError("--quantization is for gguf and ollama")
        if overrides and not source.is_file():
            raise GovorError(f"{source} is no config file: overrides go with a config, a run is exported as it was")
        trusted = ["model.trust_remote_code=true"] if trust_remote_code else []
        if source.is_file():
            run_or_config: Config | Run = load_config(source, [*overrides, *trusted])
        else:
            run_or_config = open_run(source, trust_remote_code=trust_remote_code)
        lines, passed = export_llamafactory(run_or_config, output, force=force), True
    print("\n".join(lines))
    return passed
