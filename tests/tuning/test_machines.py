"""Several machines: each network namespace of Linux stands for one, with its own address and its own ports."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.conftest import REPOSITORY, require_equal_up_to_rounding
from train.core.config import load_config
from train.core.runs import Run
from train.sft import train as train_run

CONFIG = REPOSITORY / "configs/accelerate/multi-node.yaml"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def machines():
    """(words before a command, address of the first, its interface) for each of two machines.

    Without the right to make namespaces both are this one, told apart by their ranks alone.
    """
    names = [f"govor{os.getpid()}{end}" for end in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", names[0][-8:], "netns", names[0], "type", "veth", "peer", names[1][-8:], "netns", names[1])
        for number, name in enumerate(names, 1):
            ip("-n", name, "addr", "add", f"10.97.0.{number}/24", "dev", name[-8:])
            for device in ("lo", name[-8:]):
                ip("-n", name, "link", "set", device, "up")
        yield [(["ip", "netns", "exec", name], "10.97.0.1", name[-8:]) for name in names]
    except (OSError, subprocess.CalledProcessError):
        yield [([], "127.0.0.1", "lo")] * 2
    finally:
        for name in names if shutil.which("ip") else []:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.mark.long
def test_two_machines_agree_with_one_process(machines, write_config):
    """The shipped multi-node.yaml, started on both, learns what one process learns at the same effective batch."""
    alone = train_run(load_config(write_config(name="alone")))
    config = write_config(name="both", training={"per_device_train_batch_size": 2})
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", str(CONFIG)]
    started = []
    for rank, (inside, address, interface) in enumerate(machines):
        folder = Path(f"machine{rank}")
        folder.mkdir()
        words = [*inside, *command, "--main_process_ip", address, "--machine_rank", str(rank),
                 str(REPOSITORY / "train/sft.py"), str(config)]  # fmt: skip
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": interface}
        started.append(subprocess.Popen(words, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert "2 processes on cpu (MULTI_" in said[0]
    assert not list(Path("machine1").rglob("*.safetensors"))  # the first machine writes
    both = Run(Path("machine0/runs/both"))
    assert both.manifest()["processes"]["num_processes"] == 2
    losses = [[e["loss"] for e in run.metrics() if "loss" in e] for run in (alone, both)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    one, two = (load_file(run.adapter / "adapter_model.safetensors") for run in (alone, both))
    require_equal_up_to_rounding(one, two)
