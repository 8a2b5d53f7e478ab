"""The processes of a training: launched, joined, each with one GPU; the first of them speaks."""

import os
import platform
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from train.core.compat import launched_on_cpu, launched_with_fsdp
from train.core.config import Training, load_config
from train.core.errors import MachineError
from train.core.launch import launch_command, split_at_flags
from train.core.runs import require_free, resumable_run
from train.models.load import Precision
from train.plan.estimate import CONTEXT
from train.plan.fit import as_begun

TIMEOUT = 1800  # seconds that a process waits for the others: transformers' own default of ddp_timeout


def launch(config_file: Path, arguments: Sequence[str], *, resume: bool) -> int:
    """Print the `accelerate launch` command for a training and run it; its exit code.

    `arguments` are overrides, then accelerate's flags. What is wrong with the config shows before the launcher starts.
    """
    overrides, flags = split_at_flags(arguments)
    config = load_config(config_file, overrides)
    if resume:
        resumable_run(as_begun(config))
    else:
        require_free(config.name)
    command = launch_command(config_file, config, [*overrides, *(["--resume"] if resume else [])], flags)
    print(shlex.join(command), file=sys.stderr, flush=True)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the script, which saves first; the launcher inherits this
    return subprocess.run(command).returncode


def join_processes(training: Training) -> Any:
    """accelerate's PartialState of this process; MachineError where the processes are not what was asked for.

    TrainingArguments makes the same state anew, and this object then shows that one: accelerate shares its contents.
    """
    from accelerate import PartialState

    cpu = training.use_cpu or launched_on_cpu()
    wait = {} if cpu else {"timeout": timedelta(seconds=getattr(training, "ddp_timeout", None) or TIMEOUT)}
    state = PartialState(cpu=cpu, backend=getattr(training, "ddp_backend", None), **wait)
    if launched_with_fsdp() and (cpu or state.num_processes == 1):
        raise MachineError(f"FSDP was asked for, but accelerate runs {state.distributed_type.value}: FSDP needs GPUs")
    if int(os.environ.get("WORLD_SIZE", "1")) != state.num_processes:
        started = os.environ["WORLD_SIZE"]
        raise MachineError(f"{started} processes were started, accelerate joined {state.num_processes}")
    if training.use_cpu and os.environ.get("OMP_NUM_THREADS") == "1":
        import torch  # `accelerate launch` sets one thread a process, which leaves the other cores idle

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    return state


def smallest_gpu_bytes(state: Any) -> int | None:
    """Memory of the smallest GPU that takes part, in bytes, without what others have taken of it; None without CUDA.

    A desktop may have a GiB, an engine that serves most of it. All processes must call it.
    """
    import torch
    from accelerate.utils import gather_object

    if state.device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(state.device)  # our own context is there by now
    return int(min(gather_object([min(total, free + CONTEXT)])))


def describe(state: Any, precision: Precision) -> str:
    """The processes and types in a line: `1 process on NVIDIA H100 (NO), bfloat16 weights, bf16 autocast`."""
    count = f"{state.num_processes} process{'es' if state.num_processes > 1 else ''}"
    kind = f"{precision.weights} weights".removeprefix("torch.")
    autocast = f", {precision.autocast} autocast" if precision.autocast else ""
    return f"{count} on {device_name(state.device)} ({state.distributed_type.value}), {kind}{autocast}"


def device_name(device: Any) -> str:
    """The name of a torch.device: `NVIDIA H100`, or `cpu`."""
    import torch

    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else str(device.type)


def see_one_gpu() -> None:
    """Hide the other GPUs from a process that works alone; the trainer would refuse to run beside them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]


ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""What torch reads settings of its allocator from; the last two are older and win over the first."""


def use_expandable_segments() -> None:
    """Have torch's CUDA allocator grow its segments, so that rows of many lengths leave no gaps; before torch loads.

    Nothing where the user has set the allocator up. Torch cannot do it on Windows, and under WSL the first allocation
    may fail (pytorch/pytorch#192330).
    """
    wsl = "microsoft" in platform.release().lower()
    if sys.platform == "linux" and not wsl and not any(name in os.environ for name in ALLOCATOR_VARIABLES):
        os.environ[ALLOCATOR_VARIABLES[0]] = "expandable_segments:True"


def end_with_launcher() -> None:
    """Save and stop also where only the launcher was told to end (Linux; elsewhere signal this process)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def say(state: Any, text: str) -> None:
    """Print a line on stderr, once for all processes."""
    if state.is_main_process:
        print(text, file=sys.stderr, flush=True)
