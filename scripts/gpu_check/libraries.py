"""The machine itself, and torch, bitsandbytes and transformers as govor uses them."""

import importlib
import os
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gpu_check.machine import GIB, REPOSITORY, device, has_cuda, median_seconds, sixteen_bits
from gpu_check.report import Report

LIBRARIES = (
    *("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets", "huggingface_hub"),
    *("triton", "liger-kernel"),
)
OUR_MODULES = (
    *("train.cli", "train.sft", "train.dpo", "train.models.load", "train.tuning.trainer", "train.tuning.rehearsal"),
    *("train.tuning.kernels", "train.merging.merge", "train.evaluation.evaluate"),
)
OPTIMIZERS = ("adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit")


def environment(report: Report, work: Path) -> None:
    """Versions, the card, how fast it multiplies and copies."""
    import torch

    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            report.record(**{name: version(name)})
    report.record(python=sys.version.split()[0], cores=os.cpu_count())
    for module in (*OUR_MODULES, "datasketch"):  # the last is imported with the rows, and wants scipy
        with report.fail_on_error(f"import {module}"):
            importlib.import_module(module)
            report.check(f"import {module}", True)
    if has_cuda():
        card = torch.cuda.get_device_properties(0)
        report.record(
            card=card.name,
            memory_gib=round(card.total_memory / GIB, 1),
            compute_capability=f"{card.major}.{card.minor}",
            bf16=torch.cuda.is_bf16_supported(including_emulation=False),
            cuda=torch.version.cuda,
        )
    else:
        report.needs("CUDA", "the card's name, memory and compute capability")
    size = 8192 if has_cuda() else 256
    left, right = (torch.randn(size, size, device=device(), dtype=sixteen_bits()) for _ in range(2))
    seconds = median_seconds(lambda: left @ right)
    report.record(matmul_tflops=round(2 * size**3 / seconds / 1e12, 1))
    source = torch.empty(2**31 if has_cuda() else 2**20, dtype=torch.uint8, device=device())
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source))
    report.record(copy_gb_per_s=round(2 * source.numel() / seconds / 1e9, 1))


def libraries(report: Report, work: Path) -> None:
    """NF4, optimizers, the compiler and the attention, each against what they ought to compute."""
    with report.fail_on_error("NF4 there and back as govor's merge does it"):
        nf4_there_and_back(report)
    for name in OPTIMIZERS:
        with report.fail_on_error(f"optimizer {name}"):
            optimizer_step(report, name, work)
    with report.fail_on_error("torch.compile after import_peft"):
        compile_after_import_peft(report)
    with report.fail_on_error("attention with fewer key heads"):
        fused_attention(report)


def nf4_there_and_back(report: Report) -> None:
    import torch

    from train.merging.merge_tensors import nf4_round_trip

    weight = torch.randn(1024, 512).mul(0.02).to(torch.bfloat16)
    on_cpu = nf4_round_trip(weight.clone())
    error = float((weight.float() - on_cpu.float()).norm() / weight.float().norm())
    report.check("NF4 loses a tenth of a weight's size", 0.05 < error < 0.15, f"{error:.4f}")
    if not has_cuda():
        report.needs("CUDA", "NF4 on the GPU against NF4 on the CPU")
        return
    differing = float((on_cpu != nf4_round_trip(weight.cuda()).cpu()).float().mean())
    report.check("NF4 on the GPU equals NF4 on the CPU", differing < 0.01, f"{differing:.2e} of the numbers differ")


def optimizer_step(report: Report, name: str, work: Path) -> None:
    import torch
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(str(work / "optimizer"), optim=name, use_cpu=not has_cuda(), report_to="none")
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    weight = torch.nn.Parameter(torch.randn(128, 128, device=device()))
    before, optimizer = weight.detach().clone(), optimizer_class([weight], **options)
    weight.pow(2).sum().backward()
    optimizer.step()
    report.check(f"optimizer {name} steps", bool((weight != before).any() and weight.isfinite().all()))


def compile_after_import_peft(report: Report) -> None:
    """govor keeps the compiler out while PEFT is imported; it must work afterwards all the same."""
    import torch

    from train.core.config import load_config
    from train.models.load import import_peft

    import_peft(load_config(REPOSITORY / "configs/tiny.yaml"))
    if not has_cuda():  # on a CPU it would ask for a C++ compiler
        report.needs("CUDA", "torch.compile after import_peft")
        return
    result = torch.compile(lambda x: (x * 2).relu() + 1)(torch.ones(64, device=device()))
    report.check("torch.compile works after import_peft", bool((result == 3).all()))


def fused_attention(report: Report) -> None:
    """Without a mask transformers sets enable_gqa: a fused attention must take that, or memory grows with T²."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    if has_cuda() and torch.cuda.get_device_capability() < (8, 0):
        report.needs("compute capability 8.0", "attention with fewer key heads (govor repeats them here)")
        return
    query, key = (torch.randn(1, heads, 512, 128, device=device(), dtype=torch.float16) for heads in (32, 8))
    fused = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    with sdpa_kernel(fused):
        scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=True)
    report.check("a fused attention takes fewer key heads than query heads", True)
