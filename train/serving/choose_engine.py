"""Runs → engines: which one serves which run, with what command. No engine is started here."""

import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from train.core.cards import first_card_memory
from train.core.config import Config
from train.core.errors import MachineError, RunError
from train.core.runs import Run
from train.encoding.loss_mask import template_hash
from train.models.base import chosen_template, context_length, run_base, stop_ids
from train.models.load import (
    free_memory,
    load_model_config,
    load_run_tokenizer,
    load_tokenizer,
    model_device,
    quiet_libraries,
    require_safe_adapter,
    resolve_precision,
)
from train.models.safetensors_files import weight_files
from train.models.save import TEMPLATE_FILE, TOKENIZER_FILES, copy_tokenizer
from train.serving import transformers_serve, vllm
from train.serving.engine import Engine
from train.serving.engine_api import Adapters, EngineApi, Served, Weights

EngineName = Literal["auto", "vllm", "transformers"]


def served_models(
    runs: Sequence[Run],
    *,
    engine: EngineName = "auto",
    merged: bool = False,
    program: str | None = None,
    flags: Sequence[str] = (),
    system: bool = True,
    later: Sequence[Path] = (),
) -> list[Served]:
    """Each run with its engine, in the order of `runs`; a RunError or MachineError says what is missing.

    `merged`: serve merged/ also where the engine could take base + adapter. `program`: the vllm executable, if it is
    not on PATH. `flags`: for the engine's command line, where that is vLLM's. `system`: a conversation without a system
    message gets that of the run's rows. `later`: adapters that the engines need room for, see `served_beside`.
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
        return [_by_transformers(run, system) for run in runs]
    return _by_vllm(runs, vllm_program, merged, flags, system, later)


def served_base(
    name: str,
    config: Config,
    base: Path,
    view: Path,
    *,
    program: str | None = None,
    later: Sequence[Path] = (),
    running: Served | None = None,
) -> Served:
    """A base as it is, with the chat template that its runs have. `base`: its folder; `config`: as its runs begin with.

    `view`: a folder for links to the base's files, which must stay as long as the engine; filled where it is empty.
    `program`, `later`: as in `served_models`. `running`: what is served now; its engine is taken if it has this base.
    """
    quiet_libraries()
    trust_code = config.model.trust_remote_code
    tokenizer = load_tokenizer(base, trust_remote_code=trust_code)
    chosen = chosen_template(config.model)
    if chosen is not None:
        tokenizer.chat_template = chosen
    if not any(view.iterdir()):
        _link(base, view)
        copy_tokenizer(base, tokenizer, view)
    in_4bit = config.model.load_in_4bit and not config.training.use_cpu
    vllm_program = find_vllm(program)
    adapters = None
    if vllm_program is None:
        api: EngineApi = transformers_serve.TransformersServeApi()
        engine = _transformers_engine(name, config, view.parent, view.name, in_4bit=in_4bit)
    else:
        api = vllm.VllmApi()
        weights = Weights(base.resolve(), True, template_hash(tokenizer), _dtype_of(config), trust_code, in_4bit)
        if running and running.adapters and running.adapters.weights == weights:
            engine, adapters = running.engine, running.adapters
        else:
            adapters = _adapters(weights, {}, later)
            engine = _vllm_engine(vllm_program, [name], weights, adapters, view / TEMPLATE_FILE, (), 1)
    return _served(
        name,
        None,
        config,
        engine,
        vllm.BASE_NAME if vllm_program else view.name,
        api,
        tokenizer,
        folder=view,
        stop=sorted(stop_ids(base) or {tokenizer.eos_token_id}),
        adapters=adapters,
        description=f"base {config.model.name_or_path}",
        created=int((base / "config.json").stat().st_mtime),
    )


def _link(base: Path, view: Path) -> None:
    """Links to the base's files in `view`, less those of its tokenizer."""
    for file in base.iterdir():
        if file.name not in (*TOKENIZER_FILES, TEMPLATE_FILE):
            (view / file.name).symlink_to(file.absolute())


def served_beside(running: Served, run: Run, *, system: bool = True) -> Served | None:
    """The run out of an engine that runs already, with its adapter loaded into it; None where it needs another engine.

    MachineError where the engine does not take the adapter.
    """
    adapters = running.adapters
    if adapters is None or not run.adapter.exists():
        return None
    if _weights_of(run, merged=False) != adapters.weights or vllm.rank_of(run.adapter) > adapters.rank:
        return None
    vllm.load_adapter(running, served_name(run), run.adapter.absolute())
    return _served_run(run, running.engine, served_name(run), running.engine_api, adapters=adapters,
                       splits_thoughts=running.splits_thoughts, system=system)  # fmt: skip


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


def _by_transformers(run: Run, system: bool) -> Served:
    folder = _merged_folder(run)
    in_4bit = _only_fits_in_4bit(run, folder)
    engine = _transformers_engine(served_name(run), run.config(), run.path, folder.name, in_4bit=in_4bit)
    return _served_run(run, engine, folder.name, transformers_serve.TransformersServeApi(), system=system)


def _transformers_engine(name: str, config: Config, parent: Path, folder: str, *, in_4bit: bool) -> Engine:
    """An engine for the model in parent/folder."""
    command_line = transformers_serve.command(
        folder,  # relative to where it is started: a path with @ or : would be read as a revision or a file
        dtype=_dtype_of(config),
        use_cpu=config.training.use_cpu,
        attention=config.model.attn_implementation,
        trust_code=config.model.trust_remote_code,
        in_4bit=in_4bit,
    )
    return Engine(
        f"{transformers_serve.TransformersServeApi.title} ({name})",
        lambda port: [*command_line, "--port", str(port)],
        environment=transformers_serve.ENVIRONMENT,
        folder=parent,
    )


def _by_vllm(
    runs: Sequence[Run], program: str, merged: bool, flags: Sequence[str], system: bool, later: Sequence[Path]
) -> list[Served]:
    groups: dict[Weights, list[Run]] = {}
    for run in runs:
        groups.setdefault(_weights_of(run, merged), []).append(run)
    served = {}
    for weights, members in groups.items():
        names = [served_name(run) for run in members]
        paths = {served_name(run): run.adapter.absolute() for run in members}
        adapters = _adapters(weights, paths, later) if weights.adapter else None
        template = (tokenizer_folder(members[0]) / TEMPLATE_FILE).absolute()
        engine = _vllm_engine(program, names, weights, adapters, template, flags, len(groups))
        splits_thoughts = any(flag.startswith("--reasoning-parser") for flag in flags)
        for run in members:
            name = served_name(run) if weights.adapter else vllm.BASE_NAME
            served[served_name(run)] = _served_run(
                run, engine, name, vllm.VllmApi(), adapters=adapters, splits_thoughts=splits_thoughts, system=system
            )
    return [served[served_name(run)] for run in runs]


def _adapters(weights: Weights, paths: dict[str, Path], later: Sequence[Path]) -> Adapters | None:
    """Adapters over one base, with room for the others that may come; None where there are none at all."""
    room = [path for path in later if vllm.supports_adapter(require_safe_adapter(path))]
    ranks = [vllm.rank_of(path) for path in (*paths.values(), *room)]
    return Adapters(weights, paths, max(ranks), max(len(paths), len(room))) if ranks else None


def _vllm_engine(
    program: str,
    names: Sequence[str],
    weights: Weights,
    adapters: Adapters | None,
    template: Path,
    flags: Sequence[str],
    engines: int,
) -> Engine:
    """An engine of vLLM for those weights; GovorError for flags that are not the user's to set.

    `names`: of the models, for people. `engines`: how many share the GPU.
    """
    quantized = any(flag.split("=")[0] in ("--quantization", "-q") for flag in flags)
    in_4bit = weights.in_4bit and not quantized
    if in_4bit and not vllm.has_bitsandbytes(program):
        in_4bit = False
        _note(
            f"{', '.join(names)}: trained over NF4, but this vLLM loads no NF4 (pip install vllm-bnb-plugin in its "
            f"environment): it takes {_gib(_weights_size(weights.folder))} of 16-bit weights"
        )
    own = [*["--trust-remote-code"] * weights.trust_code, *vllm.IN_4BIT * in_4bit, *_memory_share(engines, flags)]
    own += vllm.tool_flags(template.read_text(encoding="utf-8"), flags)

    def command_line() -> list[str]:
        return vllm.command(
            program, weights.folder.absolute(), template, adapters, dtype=weights.dtype, flags=[*own, *flags]
        )

    command_line()  # what is wrong with the flags is said now
    loads_later = adapters is not None and adapters.count > len(adapters.paths)
    return Engine(
        f"vLLM ({', '.join(names)})",
        lambda port: [*command_line(), "--port", str(port)],
        environment=vllm.ENVIRONMENT | (vllm.RUNTIME_ADAPTERS if loads_later else {}),
    )


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
    folder = run_base(run).resolve() if adapter else _merged_folder(run)
    template = template_hash(load_run_tokenizer(run))
    config = run.config()
    trained_so = config.model.load_in_4bit and not config.training.use_cpu
    in_4bit = trained_so if adapter else _only_fits_in_4bit(run, folder)
    return Weights(folder, adapter, template, _dtype_of(config), config.model.trust_remote_code, in_4bit)


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


def _dtype_of(config: Config) -> str:
    """The type that `govor chat` computes in too, but the engine's choice for a fully tuned model on a GPU."""
    weights = str(resolve_precision(config).weights).removeprefix("torch.")
    explicit = config.model.dtype != "auto" or config.training.use_cpu
    return weights if explicit or config.lora is not None else "auto"


def _served_run(
    run: Run,
    engine: Engine,
    name: str,
    engine_api: EngineApi,
    *,
    adapters: Adapters | None = None,
    splits_thoughts: bool = False,
    system: bool,
) -> Served:
    """The run as it is served; `name` is its model's name inside the engine."""
    config = run.config()
    source = run_base(run) if adapters else run.merged
    base = config.model.name_or_path
    base = Path(base).name if Path(base).exists() else base
    tuned = f"merged from {base}" if run.adapter.exists() else f"tuned {base}"
    return _served(
        served_name(run),
        run,
        config,
        engine,
        name,
        engine_api,
        load_run_tokenizer(run),
        folder=source,
        stop=[*run.end_of_turn(), *sorted(stop_ids(source))],
        adapters=adapters,
        splits_thoughts=splits_thoughts,
        description=f"adapter over {base}" if adapters else tuned,
        created=int(run.manifest_file.stat().st_mtime),
        system=run.manifest()["data"]["system_message"] if system else None,
    )


def _served(
    name: str,
    run: Run | None,
    config: Config,
    engine: Engine,
    model: str,
    engine_api: EngineApi,
    tokenizer: Any,
    *,
    folder: Path,
    stop: Sequence[int],
    adapters: Adapters | None,
    splits_thoughts: bool = False,
    description: str,
    created: int,
    system: str | None = None,
) -> Served:
    trust_code = config.model.trust_remote_code
    model_config = load_model_config(folder, trust_remote_code=trust_code)
    if isinstance(engine_api, transformers_serve.TransformersServeApi):
        splits_thoughts = transformers_serve.splits_thoughts(tokenizer, model_config)
    return Served(
        name=name,
        run=run,
        folder=folder,
        trust_code=trust_code,
        description=description,
        engine=engine,
        model=model,
        engine_api=engine_api,
        tokenizer=tokenizer,
        generation=config.generation,
        stop=tuple(dict.fromkeys(stop)),
        trained_context=context_length(model_config.get_text_config().to_dict()),
        splits_thoughts=splits_thoughts,
        created=created,
        system=system,
        adapters=adapters,
    )
