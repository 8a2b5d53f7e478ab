"""Runs → engines: which one serves which run, with what command. No engine is started here."""

import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from train.core.cards import first_card_memory
from train.core.errors import MachineError, RunError
from train.core.runs import Run
from train.encoding.loss_mask import template_hash
from train.models.base import context_length, run_base, stop_ids
from train.models.load import (
    free_memory,
    load_run_tokenizer,
    model_device,
    quiet_libraries,
    require_safe_adapter,
    resolve_precision,
)
from train.models.safetensors_files import weight_files
from train.models.save import TEMPLATE_FILE
from train.serving import transformers_serve, vllm
from train.serving.engine import Engine
from train.serving.engine_api import EngineApi, Served

EngineName = Literal["auto", "vllm", "transformers"]


class Weights(NamedTuple):
    """What an engine loads for a run; runs that differ in the name alone can share an engine."""

    folder: Path
    """Base or merged model."""
    adapter: bool
    template: str
    """sha256 of the chat template: an engine has one for all its models."""
    dtype: str
    trust_code: bool
    in_4bit: bool
    """Loaded in NF4: the adapter was trained so, or whole the model has no room on the card."""


def served_models(
    runs: Sequence[Run],
    *,
    engine: EngineName = "auto",
    merged: bool = False,
    program: str | None = None,
    flags: Sequence[str] = (),
) -> list[Served]:
    """Each run with its engine, in the order of `runs`; a RunError or MachineError says what is missing.

    `merged`: serve merged/ also where the engine could take base + adapter. `program`: the vllm executable, if it is
    not on PATH. `flags`: for the engine's command line, where that is vLLM's.
    """
    quiet_libraries()
    names = [served_name(run) for run in runs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise RunError(f"two runs are called {twice[0]}: rename the folder of one, its name is the model's")
    vllm_program = find_vllm(program) if engine != "transformers" else None
    if engine == "vllm" and vllm_program is None:
        raise MachineError(
            "no vllm executable on PATH: install vLLM in an environment of its own (pip install vllm) and name it with "
            "--vllm ENV/bin/vllm, or serve with --engine transformers"
        )
    if vllm_program is None:
        if flags:
            raise MachineError(f"{' '.join(flags)}: flags are passed on to vLLM, and there is none")
        return [_by_transformers(run) for run in runs]
    return _by_vllm(runs, vllm_program, merged, flags)


def served_name(run: Run) -> str:
    """The name by which clients ask for the run: that of its folder."""
    return run.path.resolve().name


def tokenizer_folder(run: Run) -> Path:
    """The folder that holds the tokenizer and the chat template of training."""
    return run.adapter if run.adapter.exists() else run.merged


def find_vllm(program: str | None) -> str | None:
    """Path of the vllm executable; None where there is none, MachineError where `program` names one that is missing."""
    path = shutil.which(program or "vllm")
    if path is None and program:
        raise MachineError(f"{program}: no such executable")
    return path


def _by_transformers(run: Run) -> Served:
    folder = _merged_folder(run)
    config = run.config()
    command_line = transformers_serve.command(
        folder.name,  # relative to the run: a path with @ or : would be read as a revision or a file
        dtype=_dtype_of(run),
        use_cpu=config.training.use_cpu,
        attention=config.model.attn_implementation,
        trust_code=config.model.trust_remote_code,
        in_4bit=_only_fits_in_4bit(run, folder),
    )
    title = transformers_serve.TransformersServeApi.title
    engine = Engine(
        f"{title} ({served_name(run)})",
        lambda port: [*command_line, "--port", str(port)],
        environment=transformers_serve.ENVIRONMENT,
        folder=run.path,
    )
    return _served(run, engine, folder.name, transformers_serve.TransformersServeApi(), adapter=False)


def _by_vllm(runs: Sequence[Run], program: str, merged: bool, flags: Sequence[str]) -> list[Served]:
    groups: dict[Weights, list[Run]] = {}
    for run in runs:
        groups.setdefault(_weights_of(run, merged), []).append(run)
    served = {}
    quantized = any(flag.split("=")[0] in ("--quantization", "-q") for flag in flags)
    for weights, members in groups.items():
        names = [served_name(run) for run in members]
        in_4bit = weights.in_4bit and not quantized
        if in_4bit and not vllm.has_bitsandbytes(program):
            in_4bit = False
            _note(
                f"{', '.join(names)}: trained over NF4, but this vLLM loads no NF4 (pip install vllm-bnb-plugin in its "
                f"environment): it takes {_gib(_weights_size(weights.folder))} of 16-bit weights"
            )
        command_line = vllm.command(
            program,
            weights.folder.absolute(),
            (tokenizer_folder(members[0]) / TEMPLATE_FILE).absolute(),
            {served_name(run): run.adapter.absolute() for run in members} if weights.adapter else {},
            dtype=weights.dtype,
            flags=[
                *["--trust-remote-code"] * weights.trust_code,
                *vllm.IN_4BIT * in_4bit,
                *_memory_share(len(groups), flags),
                *flags,
            ],
        )
        engine = Engine(
            f"vLLM ({', '.join(names)})",
            lambda port, command_line=command_line: [*command_line, "--port", str(port)],  # type: ignore[misc]
            environment=vllm.ENVIRONMENT,
        )
        splits_thoughts = any(flag.startswith("--reasoning-parser") for flag in flags)
        for run in members:
            name = served_name(run) if weights.adapter else vllm.BASE_NAME
            served[served_name(run)] = _served(
                run, engine, name, vllm.VllmApi(), adapter=weights.adapter, splits_thoughts=splits_thoughts
            )
    return [served[served_name(run)] for run in runs]


def _memory_share(engines: int, flags: Sequence[str]) -> list[str]:
    """The flags that give each of the engines its part of the memory that is free on the GPU; no GPU, an equal part.

    vLLM takes the share as one of the whole memory, and ends where less than that is free. MachineError where there is
    nothing to share.
    """
    if any(flag.replace("_", "-").startswith("--gpu-memory-utilization") for flag in flags):
        return []
    memory = first_card_memory()
    if memory is None:  # on a CPU vLLM means the machine's memory
        return [] if engines == 1 else ["--gpu-memory-utilization", f"{vllm.LARGEST_SHARE / engines:.2f}"]
    share = min(vllm.LARGEST_SHARE, memory.free / memory.total - engines * vllm.MARGIN / memory.total) / engines
    if share < vllm.SMALLEST_SHARE:
        free, total = (f"{size / 2**30:.1f}" for size in memory)
        raise MachineError(f"of the GPU's {total} GiB only {free} are free, too little for vLLM: end what uses it")
    return ["--gpu-memory-utilization", f"{math.floor(1000 * share) / 1000}"]


def _weights_of(run: Run, merged: bool) -> Weights:
    adapter = run.adapter.exists() and not merged and vllm.supports_adapter(require_safe_adapter(run.adapter))
    folder = run_base(run) if adapter else _merged_folder(run)
    template = template_hash(load_run_tokenizer(run))
    config = run.config()
    trained_so = config.model.load_in_4bit and not config.training.use_cpu
    in_4bit = trained_so if adapter else _only_fits_in_4bit(run, folder)
    return Weights(folder, adapter, template, _dtype_of(run), config.model.trust_remote_code, in_4bit)


def _only_fits_in_4bit(run: Run, folder: Path) -> bool:
    """Whether a whole model is to be loaded in NF4: it does not fit the GPU, and was trained over NF4.

    Says so, and where it was not trained over NF4 what it needs.
    """
    config = run.config()
    free = free_memory(model_device(use_cpu=config.training.use_cpu))
    free.pop("cpu", None)
    size = _weights_size(folder)
    if not free or size <= max(free.values()):
        return False
    in_4bit = config.model.load_in_4bit
    instead = "they are loaded in 4 bits" if in_4bit else "it will hardly start"
    _note(
        f"{served_name(run)}: {_gib(size)} of merged weights, and the GPU has {_gib(max(free.values()))} for them: "
        f"{instead}; Ollama serves it in less: govor export {run.path} --to ollama --quantization q4_k_m"
    )
    return in_4bit


def _weights_size(folder: Path) -> int:
    """Bytes of the model's weight files."""
    return sum(file.stat().st_size for file in weight_files(folder))


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


def _merged_folder(run: Run) -> Path:
    if not run.merged.exists():
        what = "transformers serve cannot load an adapter" if run.adapter.exists() else "its model is gone"
        raise RunError(f"{run.path} has no merged model, and this needs one ({what}): govor merge {run.path}")
    return run.merged


def _dtype_of(run: Run) -> str:
    """The type that `govor chat` computes in too, but the engine's choice for a fully tuned model on a GPU."""
    config = run.config()
    weights = str(resolve_precision(config).weights).removeprefix("torch.")
    explicit = config.model.dtype != "auto" or config.training.use_cpu
    return weights if explicit or config.lora is not None else "auto"


def _served(
    run: Run, engine: Engine, name: str, engine_api: EngineApi, *, adapter: bool, splits_thoughts: bool = False
) -> Served:
    """The run as it is served; `name` is its model's name inside the engine."""
    from transformers import AutoConfig

    source = run_base(run) if adapter else run.merged
    config = AutoConfig.from_pretrained(source, trust_remote_code=run.config().model.trust_remote_code)
    base = run.config().model.name_or_path
    base = Path(base).name if Path(base).exists() else base
    tuned = f"merged from {base}" if run.adapter.exists() else f"tuned {base}"
    description = f"adapter over {base}" if adapter else tuned
    tokenizer = load_run_tokenizer(run)
    if isinstance(engine_api, transformers_serve.TransformersServeApi):
        splits_thoughts = transformers_serve.splits_thoughts(tokenizer, config)
    return Served(
        name=served_name(run),
        run=run,
        description=description,
        engine=engine,
        model=name,
        engine_api=engine_api,
        tokenizer=tokenizer,
        generation=run.config().generation,
        stop=tuple(dict.fromkeys([*run.end_of_turn(), *sorted(stop_ids(source))])),
        trained_context=context_length(config.get_text_config().to_dict()),
        splits_thoughts=splits_thoughts,
        created=int(run.manifest_file.stat().st_mtime),
    )
