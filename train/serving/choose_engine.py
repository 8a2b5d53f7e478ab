"""Runs → engines: which one serves which run, with what command. No process is started here."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from train.core.errors import MachineError, RunError
from train.core.runs import Run
from train.encoding.loss_mask import template_hash
from train.models.base import run_base, stop_ids
from train.models.load import load_tokenizer, quiet_libraries, resolve_precision
from train.models.save import TEMPLATE_FILE
from train.serving import transformers_serve, vllm
from train.serving.engine import Engine
from train.serving.engine_api import Dialect, Served

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


def served_models(
    runs: Sequence[Run],
    *,
    engine: EngineName = "auto",
    merged: bool = False,
    program: str | None = None,
    flags: Sequence[str] = (),
) -> list[Served]:
    """Each run with its engine, in the order given; a RunError or MachineError says what is missing.

    `merged`: serve merged/ also where the engine could take base + adapter. `program`: the vllm executable, if it is
    not on PATH. `flags`: for the engine's command line, where that is vLLM's.
    """
    quiet_libraries()
    names = [name_of(run) for run in runs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise RunError(f"two runs are called {twice[0]}: rename the folder of one, its name is the model's")
    found = find_vllm(program) if engine != "transformers" else None
    if engine == "vllm" and found is None:
        raise MachineError(
            "no vllm executable on PATH: install vLLM in an environment of its own (pip install vllm) and name it with "
            "--vllm ENV/bin/vllm, or serve with --engine transformers"
        )
    if found is None:
        if flags:
            raise MachineError(f"{' '.join(flags)}: flags are passed on to vLLM, and there is none")
        return [_by_transformers(run) for run in runs]
    return _by_vllm(runs, found, merged, flags)


def name_of(run: Run) -> str:
    return run.path.resolve().name


def trained_in(run: Run) -> Path:
    """The folder with the tokenizer and the frozen template of training."""
    return run.adapter if run.adapter.exists() else run.merged


def find_vllm(program: str | None) -> str | None:
    """Path of the executable; MachineError where a named one is not there."""
    found = shutil.which(program or "vllm")
    if found is None and program:
        raise MachineError(f"{program}: no such executable")
    return found


def _by_transformers(run: Run) -> Served:
    folder = _merged(run)
    config = run.config()
    words = transformers_serve.command(
        folder.name,  # relative to the run: a path with @ or : would be read as a revision or a file
        dtype=_dtype(run),
        use_cpu=config.training.use_cpu,
        attention=config.model.attn_implementation,
        trust_code=config.model.trust_remote_code,
    )
    title = transformers_serve.TransformersServe.title
    engine = Engine(
        f"{title} ({name_of(run)})",
        lambda port: [*words, "--port", str(port)],
        environment=transformers_serve.QUIET,
        folder=run.path,
    )
    return _served(run, engine, folder.name, transformers_serve.TransformersServe(), adapter=False)


def _by_vllm(runs: Sequence[Run], program: str, merged: bool, flags: Sequence[str]) -> list[Served]:
    groups: dict[Weights, list[Run]] = {}
    for run in runs:
        groups.setdefault(_weights(run, merged), []).append(run)
    served = {}
    for weights, members in groups.items():
        names = [name_of(run) for run in members]
        words = vllm.command(
            program,
            weights.folder.absolute(),
            (trained_in(members[0]) / TEMPLATE_FILE).absolute(),
            {name_of(run): run.adapter.absolute() for run in members} if weights.adapter else {},
            dtype=weights.dtype,
            flags=[*["--trust-remote-code"] * weights.trust_code, *_share(len(groups), flags), *flags],
        )
        engine = Engine(
            f"vLLM ({', '.join(names)})",
            lambda port, words=words: [*words, "--port", str(port)],  # type: ignore[misc]
            environment=vllm.QUIET,
            key_variable="VLLM_API_KEY",
        )
        apart = any(flag.startswith("--reasoning-parser") for flag in flags)
        for run in members:
            name = name_of(run) if weights.adapter else vllm.BASE
            served[name_of(run)] = _served(
                run, engine, name, vllm.VLLM(), adapter=weights.adapter, thoughts_apart=apart
            )
    return [served[name_of(run)] for run in runs]


def _share(engines: int, flags: Sequence[str]) -> list[str]:
    """Each engine its part of the GPU's memory: one alone takes nine tenths of it."""
    if engines == 1 or any(flag.startswith("--gpu-memory-utilization") for flag in flags):
        return []
    return ["--gpu-memory-utilization", f"{0.9 / engines:.2f}"]


def _weights(run: Run, merged: bool) -> Weights:
    adapter = run.adapter.exists() and not merged and vllm.loads(run.adapter)
    folder = run_base(run) if adapter else _merged(run)
    template = template_hash(load_tokenizer(trained_in(run)))
    return Weights(folder, adapter, template, _dtype(run), run.config().model.trust_remote_code)


def _merged(run: Run) -> Path:
    if not run.merged.exists():
        what = "transformers serve cannot load an adapter" if run.adapter.exists() else "its model is gone"
        raise RunError(f"{run.path} has no merged model, and this needs one ({what}): govor merge {run.path}")
    return run.merged


def _dtype(run: Run) -> str:
    """The type that `govor chat` computes in too; on a GPU a fully tuned model may be halved by the engine."""
    config = run.config()
    weights = str(resolve_precision(config).weights).removeprefix("torch.")
    explicit = config.model.dtype != "auto" or config.training.use_cpu
    return weights if explicit or config.lora is not None else "auto"


def _served(
    run: Run, engine: Engine, name: str, dialect: Dialect, *, adapter: bool, thoughts_apart: bool = False
) -> Served:
    """`name`: inside the engine."""
    from transformers import AutoConfig

    manifest = run.manifest()
    source = run_base(run) if adapter else run.merged
    config = AutoConfig.from_pretrained(source, trust_remote_code=run.config().model.trust_remote_code)
    named = run.config().model.name_or_path
    base = Path(named).name if Path(named).exists() else named
    tokenizer = load_tokenizer(trained_in(run))
    if isinstance(dialect, transformers_serve.TransformersServe):
        thoughts_apart = transformers_serve.splits_thoughts(tokenizer, config)
    return Served(
        name=name_of(run),
        run=run,
        what=f"adapter over {base}" if adapter else f"merged from {base}" if run.adapter.exists() else f"tuned {base}",
        engine=engine,
        model=name,
        dialect=dialect,
        tokenizer=tokenizer,
        generation=run.config().generation,
        stop=tuple(dict.fromkeys([*manifest["template"]["end_of_turn"], *sorted(stop_ids(source))])),
        trained_context=int(config.get_text_config().max_position_embeddings),
        thoughts_apart=thoughts_apart,
        created=int(run.manifest_file.stat().st_mtime),
    )
