"""The processes of a training: what the launcher gave, one GPU for one process, who speaks."""

import os
import signal
import sys
from typing import Any

from train.core.errors import MachineError
from train.models.load import Precision


def require_processes(arguments: Any) -> Any:
    """accelerate's state; MachineError where it is not what the launcher was asked for."""
    state = arguments.distributed_state
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and state.distributed_type != "FSDP":
        raise MachineError(f"FSDP was asked for, but accelerate runs {state.distributed_type.value}: FSDP needs GPUs")
    if int(os.environ.get("WORLD_SIZE", "1")) != state.num_processes:
        started = os.environ["WORLD_SIZE"]
        raise MachineError(f"{started} processes were started, accelerate joined {state.num_processes}")
    if arguments.use_cpu and os.environ.get("OMP_NUM_THREADS") == "1":
        import torch  # `accelerate launch` sets one thread a process, which leaves the other cores idle

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    return state


def describe(state: Any, precision: Precision) -> str:
    """`1 process on NVIDIA H100 (NO), bfloat16 weights, bf16 autocast`."""
    count = f"{state.num_processes} process{'es' if state.num_processes > 1 else ''}"
    kind = f"{precision.weights} weights".removeprefix("torch.")
    autocast = f", {precision.autocast} autocast" if precision.autocast else ""
    return f"{count} on {device_name(state.device)} ({state.distributed_type.value}), {kind}{autocast}"


def device_name(device: Any) -> str:
    import torch

    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else str(device.type)


def see_one_gpu() -> None:
    """Hide the other GPUs from a process that works alone; the trainer would refuse to run beside them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]


def end_with_launcher() -> None:
    """Save and stop also where only the launcher was told to end (Linux; elsewhere signal this process)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def say(state: Any, text: str) -> None:
    if state.is_main_process:
        print(text, file=sys.stderr, flush=True)
