"""Head, attention and SwiGLU block by themselves, at an 8B's width: govor's kernels beside what they replace."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Qwen3Config, Qwen3Model

from gpu_check.machine import GIB, device, has_cuda, median_seconds, sixteen_bits
from gpu_check.report import Report
from train.core.compat import keep_input_types, trl_head_function
from train.tuning.kernels import attention, head, lora

TILE_POWERS = (24, 26, 28)
"""head.TILE is 2 to this; measured to find the one that suits a GPU."""


def kernel_timings(report: Report, work: Path) -> None:
    tokens, width, vocabulary = (4096, 4096, 151936) if has_cuda() else (64, 64, 1000)
    hidden = torch.randn(tokens, width, device=device(), dtype=sixteen_bits(), requires_grad=True)
    time_heads(report, hidden, vocabulary)
    time_attention(report)
    time_swiglu(report, hidden)


def measure(report: Report, name: str, call: Callable[[], Any]) -> None:
    """Record the milliseconds of a call and the GPU memory that it takes beside what is there."""
    with report.fail_on_error(name):
        before = torch.cuda.memory_allocated() if has_cuda() else 0
        if has_cuda():
            torch.cuda.reset_peak_memory_stats()
        figures = {"ms": round(median_seconds(call, repeat=5, warm=2) * 1e3, 2)}
        if has_cuda():
            figures["extra_gib"] = round((torch.cuda.max_memory_allocated() - before) / GIB, 2)
        report.record(**{name: figures})
        report.check(f"{name} runs", True)


def time_heads(report: Report, hidden: Tensor, vocabulary: int) -> None:
    """The loss at every position, forward and back."""
    weight = (torch.randn(vocabulary, hidden.shape[1], device=device()) * 0.02).to(sixteen_bits())
    targets = torch.randint(0, vocabulary, (len(hidden),), device=device())
    default_tile = head.TILE
    for power in TILE_POWERS:
        head.TILE = 2**power
        measure(
            report,
            f"head_govor_tile_2^{power}",
            lambda: head.TrainedLoss.apply(hidden, weight, None, targets, True)[0].backward(),
        )
    head.TILE = default_tile

    def trl_head() -> None:
        outputs = ("log_probs", "is_top1")
        log_probs, *_ = trl_head_function().apply(hidden, weight, None, targets, 1.0, 32768, None, 1.0, outputs)
        (-log_probs.sum()).backward()

    def plain_head() -> None:
        cross_entropy((hidden @ weight.t()).float(), targets, reduction="sum").backward()

    measure(report, "head_trl", trl_head)
    measure(report, "head_plain", plain_head)
    if not has_cuda():
        report.needs("CUDA", "Liger's head")
    elif find_spec("liger_kernel") is None:
        report.needs("liger-kernel", "Liger's head")
    else:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        liger = LigerFusedLinearCrossEntropyLoss(reduction="sum")
        measure(report, "head_liger", lambda: liger(weight, hidden, targets).backward())


def time_attention(report: Report) -> None:
    """Rows of chat lengths end to end, and the same rows padded to the longest."""
    lengths = [300, 700, 1100, 200, 900, 400, 600, 1024] if has_cuda() else [5, 9]
    heads, key_heads, head_dim = 32, 8, 128

    def random(rows: int, heads: int, tokens: int) -> Tensor:
        shape = (rows, heads, tokens, head_dim)
        return torch.randn(shape, device=device(), dtype=sixteen_bits(), requires_grad=True)

    query, key, value = (random(1, count, sum(lengths)) for count in (heads, key_heads, key_heads))
    ends = torch.tensor([0, *lengths], device=device()).cumsum(0).to(torch.int32)

    def end_to_end() -> None:
        ended = {"cu_seq_lens_q": ends, "max_length_q": max(lengths)}
        attention.attention(None, query, key, value, None, **ended)[0].sum().backward()

    padded = [random(len(lengths), count, max(lengths)) for count in (heads, key_heads, key_heads)]
    if not has_cuda():
        report.needs("CUDA", "torch's variable-length attention (the CPU runs row by row instead)")
    measure(report, "attention_varlen", end_to_end)
    measure(report, "attention_padded", lambda: attention.attention(None, *padded, None)[0].sum().backward())


def time_swiglu(report: Report, hidden: Tensor) -> None:
    """A tuned SwiGLU block as PEFT runs it, then as one function."""
    width = hidden.shape[1]
    block = nn.Module()
    shape = Qwen3Config(vocab_size=8, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=1)
    block.mlp = Qwen3Model(shape).layers[0].mlp
    block.forward = block.mlp.forward
    adapter = LoraConfig(r=16, lora_alpha=32, target_modules=["gate_proj", "up_proj", "down_proj"])
    tuned = get_peft_model(block.to(device(), sixteen_bits()), adapter).to(device())
    keep_input_types(tuned)
    mlp = block.mlp

    def forward_and_back() -> None:
        with torch.autocast(device(), dtype=sixteen_bits()):
            output = mlp(hidden)
        output.float().sum().backward()

    measure(report, "swiglu_peft", forward_and_back)
    lora.fuse_swiglu(mlp)
    measure(report, "swiglu_govor", forward_and_back)
