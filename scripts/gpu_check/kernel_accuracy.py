"""Each kernel in 16 bits against float32 without kernels; the yardstick is what 16 bits lose without kernels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Qwen3Config

from gpu_check.machine import device, has_cuda, sixteen_bits
from gpu_check.report import Report
from train.core.compat import tuner_layer_class
from train.tuning.kernels import PUT_IN
from train.tuning.kernels.self_check import end_to_end

KERNELS = tuple(PUT_IN)
ALONE = tuple((name,) for name in KERNELS)
ALL = (*ALONE, KERNELS)
VOCABULARY = 2048
ALLOWED = 1.3, 0.02
"""A kernel's gradient may be off by this many times the plain path's error, plus this share of the gradient."""
LOSS_SHARE = 1e-3
"""The same of the loss, a sum over tokens whose roundings even out."""


class Case(NamedTuple):
    title: str
    kernel_sets: Sequence[tuple[str, ...]]
    dtype: torch.dtype = torch.bfloat16
    head_dim: int = 128
    window: int | None = None
    nf4: bool = False


VARLEN = (("varlen",),)
CASES = (
    Case("head_dim 128", ALL),
    Case("head_dim 64", VARLEN, head_dim=64),
    Case("head_dim 256", VARLEN, head_dim=256),
    Case("window of 16", VARLEN, window=16),
    Case("float16", ALL, dtype=torch.float16),
    Case("NF4", (("lora_qkv",), ("lora_mlp",), KERNELS), nf4=True),
)


class Result(NamedTuple):
    loss: float
    gradient: Tensor
    """The gradients of every trained weight, one after the other."""

    def away_from(self, reference: "Result") -> float:
        """Length of the gradients' difference as a share of the reference's length."""
        return float((self.gradient - reference.gradient).norm() / reference.gradient.norm())


def kernel_accuracy(report: Report, work: Path) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    for case in CASES:
        if case.dtype == torch.float16 and not has_cuda():
            case = case._replace(dtype=torch.bfloat16)
            report.needs("CUDA", "float16 (the CPU runs bfloat16 instead)")
        elif case.dtype != sixteen_bits() and has_cuda() and case.dtype == torch.bfloat16:
            case = case._replace(dtype=torch.float16)
            report.needs("compute capability 8.0", f"bfloat16, {case.title} (float16 runs instead)")
        with report.fail_on_error(case.title):
            check_case(report, case, work)


def check_case(report: Report, case: Case, work: Path) -> None:
    """NF4 is compared with NF4 without kernels, in the same type: float32 weights would say what NF4 loses."""
    plain = loss_and_gradient(build_model(case, work), (), case.dtype)
    reference, plain_error, plain_loss_error = plain, 0.0, 0.0
    if not case.nf4:
        wide = case._replace(dtype=torch.float32)
        reference = loss_and_gradient(build_model(wide, work), (), None)
        plain_error = plain.away_from(reference)
        plain_loss_error = abs(plain.loss - reference.loss) / reference.loss
    factor, share = ALLOWED
    for kernels in case.kernel_sets:
        for checkpointing in (False, True):
            what = f"{case.title} {'+'.join(kernels)}{' checkpointed' if checkpointing else ''}"
            with report.fail_on_error(what):
                result = loss_and_gradient(build_model(case, work), kernels, case.dtype, checkpointing=checkpointing)
                error = result.away_from(reference)
                loss_error = abs(result.loss - reference.loss) / reference.loss
                detail = f"gradient off by {error:.4f}, {plain_error:.4f} without kernels; loss by {loss_error:.1e}"
                right = error < factor * plain_error + share
                report.check(what, right and loss_error < factor * plain_loss_error + LOSS_SHARE, detail)


def build_model(case: Case, work: Path) -> Any:
    """The same random weights each time, with an adapter whose B is not zero, so that every product counts."""
    torch.manual_seed(0)
    windowed = {"use_sliding_window": True, "sliding_window": case.window, "max_window_layers": 0}
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=256 if has_cuda() else 64,
        intermediate_size=768 if has_cuda() else 192,
        num_hidden_layers=4 if has_cuda() else 2,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=case.head_dim,
        tie_word_embeddings=True,
        initializer_range=0.05,
        **(windowed if case.window else {}),
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(case.dtype)
    if case.nf4:
        model = quantized(model, case.dtype, work / "kernel-base")
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"))
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = (torch.randn(parameter.shape) * 0.02).to(device())
    return model.to(device())


def quantized(model: Any, dtype: torch.dtype, folder: Path) -> Any:
    """The model in NF4, through a folder as any base."""
    model.save_pretrained(folder)
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, quantization_config=settings, device_map={"": device()}, attn_implementation="sdpa"
    )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # as models/load.py does, and for its reason
            module.support_avx512bf16_for_cpu = False
    return model


def loss_and_gradient(
    model: Any, kernels: Sequence[str], autocast: torch.dtype | None, *, checkpointing: bool = False
) -> Result:
    """A training step's loss and gradient over rows of different lengths, end to end where `varlen` is on."""
    for name in kernels:
        PUT_IN[name](model)
    for module in model.modules():
        if isinstance(module, tuner_layer_class()):  # as tuning/trainer.py sets it
            module.cast_input_dtype_enabled = autocast is None
    model.train()
    if checkpointing:
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    loss = torch.zeros((), device=device())
    with torch.autocast(device(), dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        for ids, labels, more in batches(end_to_end_rows="varlen" in kernels):
            if "head" in kernels:
                output = model(input_ids=ids, labels=labels, use_cache=False, trained_loss=True, **more)
                loss = loss + output["loss_sum"]
            else:
                logits = model(input_ids=ids, use_cache=False, **more).logits[0, :-1].float()
                loss = loss + cross_entropy(logits, labels[0, 1:], reduction="sum")
    loss.backward()
    gradients = [parameter.grad.flatten().float() for parameter in model.parameters() if parameter.requires_grad]
    return Result(float(loss), torch.cat(gradients))


def batches(*, end_to_end_rows: bool) -> list[tuple[Tensor, Tensor, dict[str, Any]]]:
    """(ids [1, tokens], labels [1, tokens], what else the model is given), a third of the tokens not trained."""
    lengths = (61, 33, 170) if has_cuda() else (21, 13)
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, VOCABULARY, (sum(lengths),), generator=generator).to(device())
    labels = ids.clone()
    labels[::3] = -100
    for row in labels.split(lengths):
        row[0] = -100  # the row before it does not predict it
    if end_to_end_rows:
        return [(ids[None], labels[None], end_to_end(lengths, device()))]
    rows = zip(ids.split(lengths), labels.split(lengths), strict=True)
    return [(row_ids[None], row_labels[None], {}) for row_ids, row_labels in rows]
