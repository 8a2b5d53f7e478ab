"""What a card can run, said before anything is loaded."""

import json

import pytest
import torch

from train.core.config import load_config
from train.core.errors import ConfigError, MachineError
from train.models.load import Precision, precision_warning, require_compiled_for, require_device

CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize(
    ("capability", "architectures"),
    [((7, 5), CUDA_13), ((8, 9), CUDA_13), ((12, 1), CUDA_13), ((13, 0), CUDA_13), ((9, 0), ["sm_90a"])],
)
def test_a_card_that_torch_has_code_for(capability, architectures):
    require_compiled_for(capability, architectures)


@pytest.mark.parametrize(
    ("capability", "architectures"), [((6, 1), CUDA_13), ((7, 0), CUDA_13), ((11, 0), ["sm_90", "sm_120"])]
)
def test_a_card_that_torch_has_no_code_for(capability, architectures, monkeypatch, write_config):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)
    with pytest.raises(MachineError, match=rf"compute capability {capability[0]}\.{capability[1]}; it has sm_"):
        require_device(load_config(write_config(training={"use_cpu": False})))


def test_nf4_under_fsdp_is_refused(monkeypatch, write_config):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    require_device(load_config(write_config()))
    with pytest.raises(ConfigError, match=r"model\.load_in_4bit: under FSDP every process would hold the whole base"):
        require_device(load_config(write_config(model={"load_in_4bit": True})))


def test_gemma_in_float16_is_warned_of(working_folder):
    for family, text in (("gemma3_text", {}), ("gemma3", {"text_config": {"model_type": "gemma3_text"}})):
        (working_folder / "config.json").write_text(json.dumps({"model_type": family, **text}), encoding="utf-8")
        assert "known to overflow in float16" in str(precision_warning(working_folder, Precision(None, "fp16")))
        assert precision_warning(working_folder, Precision(None, "bf16")) is None
    (working_folder / "config.json").write_text('{"model_type": "qwen3"}', encoding="utf-8")
    assert precision_warning(working_folder, Precision(None, "fp16")) is None
