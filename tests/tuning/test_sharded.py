"""What is saved of a model that FSDP2 has spread: two processes on CPUs, joined by gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import REPOSITORY

PROGRAM = """
import sys
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM
from train.tuning.save import adapter_state_dict

torch.distributed.init_process_group("gloo")
torch.manual_seed(0)
model = get_peft_model(AutoModelForCausalLM.from_pretrained(sys.argv[1]), LoraConfig(r=4, target_modules="all-linear"))
for name, parameter in model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(parameter)
whole = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
mesh = init_device_mesh("cpu", (2,))
for layer in model.get_base_model().model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
gathered = adapter_state_dict(model)
rank = torch.distributed.get_rank()
if rank == 0:
    save_file(whole, "whole.safetensors")
    model.save_pretrained("adapter", state_dict=gathered, save_embedding_layers=False)
save_file({name: tensor.contiguous() for name, tensor in gathered.items()}, f"gathered-{rank}.safetensors")
torch.distributed.destroy_process_group()
"""


@pytest.mark.long
def test_an_adapter_is_saved_without_gathering_the_base(base):
    Path("program.py").write_text(PROGRAM, encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([*launcher, "program.py", str(base)], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    whole = load_file("whole.safetensors")
    first, second = (load_file(f"gathered-{rank}.safetensors") for rank in (0, 1))
    assert second == {}, "the first process alone writes, so it alone gets the weights"
    assert first.keys() == whole.keys(), "the base stays where it is"
    assert all(torch.equal(first[name], whole[name]) for name in whole)
    saved = load_file("adapter/adapter_model.safetensors")
    assert {name.replace(".weight", ".default.weight"): tuple(t.shape) for name, t in saved.items()} == {
        name: tuple(tensor.shape) for name, tensor in whole.items()
    }
