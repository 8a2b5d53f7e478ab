"""The trial of a kernel on the model: every planted fault is found, and nothing that is right is refused."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Gemma3TextConfig, Qwen3Config

from train.core.compat import forbid_cpu_repacking
from train.tuning.kernels import attention, head, lora, norm, self_check, switch_on

KERNELS = ["varlen", "head", "lora_qkv", "lora_mlp", "norm"]
LORA = ["lora_qkv", "lora_mlp"]
WINDOW = 48


def small(dtype=torch.float32, window=None, head_dim=16, folder=None, layers=2, **more):
    """Qwen3 with random weights and a fresh adapter, whose B is zero; in NF4 through `folder`."""
    torch.manual_seed(0)
    windowed = {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 0} if window else {}
    config = Qwen3Config(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, head_dim=head_dim, tie_word_embeddings=True, **windowed, **more,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(dtype)
    if folder:
        model.save_pretrained(folder)
        settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, quantization_config=settings, attn_implementation="sdpa"
        )
        forbid_cpu_repacking(model)
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear"))


# The faults: each takes pytest's monkeypatch


def a_gradient_too_large(patch, times=7):
    good = lora.Layer.backward

    def bad(*arguments):
        da, db, dx = good(*arguments)
        return None if da is None else da * times, db, dx

    patch.setattr(lora.Layer, "backward", bad)


def b_gradient_of_wrong_sign(patch):
    good = lora.Layer.backward

    def bad(*arguments):
        da, db, dx = good(*arguments)
        return da, None if db is None else -db, dx

    patch.setattr(lora.Layer, "backward", bad)


def input_gradient_without_the_adapter(patch):
    good = lora.Layer.backward

    def bad(layer, x, xa, dy, dx):
        before = None if dx is None else dx.clone()
        da, db, _ = good(layer, x, xa, dy, dx)
        return da, db, good(layer._replace(a=None, b=None), x, None, dy, before)[2]

    patch.setattr(lora.Layer, "backward", bad)


def adapter_output_too_large(patch):
    good = lora.Layer.forward
    patch.setattr(lora.Layer, "forward", lambda layer, x: good(layer._replace(scaling=layer.scaling * 5), x))


def other_output_when_computed_again(patch):
    """As a kernel that keeps something from one call to the next, which checkpointing calls twice."""
    good, seen = lora.Layer.forward, set()

    def bad(layer, x):
        again = id(layer.base) in seen
        seen.symmetric_difference_update({id(layer.base)})
        return good(layer._replace(scaling=layer.scaling * 2) if again else layer, x)

    patch.setattr(lora.Layer, "forward", bad)


def gate_gradient_of_another_function(patch):
    good = lora.LoraSwiglu.backward

    def bad(ctx, dy):
        found = list(good(ctx, dy))
        return (*found[:3], None if found[3] is None else found[3] * 1.5, *found[4:])

    patch.setattr(lora.LoraSwiglu, "backward", bad)


def window_ignored(patch):
    good = attention._plain
    patch.setattr(attention, "_plain", lambda q, k, v, dropout, scaling, _: good(q, k, v, dropout, scaling, None))


def window_one_wider(patch):
    good = attention._plain
    patch.setattr(attention, "_plain", lambda q, k, v, drop, scaling, window: good(q, k, v, drop, scaling, window + 1))


def rows_see_each_other(patch):
    good = attention.attention
    patch.setattr(attention, "attention", lambda *parts, cu_seq_lens_q=None, **more: good(*parts, **more))


def third_row_sees_the_second(patch):
    good = attention.attention

    def bad(*parts, cu_seq_lens_q=None, **more):
        ends = cu_seq_lens_q if cu_seq_lens_q is None else torch.cat([cu_seq_lens_q[:2], cu_seq_lens_q[-1:]])
        return good(*parts, cu_seq_lens_q=ends, **more)

    patch.setattr(attention, "attention", bad)


def first_row_of_a_batch_alone(patch):
    """As a kernel that takes the first dimension for 1."""
    good = lora._run

    def bad(function, x, layers):
        made = good(function, x, layers)
        for y in made if isinstance(made, list) else [made]:
            y[1:] *= 1.5
        return made

    patch.setattr(lora, "_run", bad)


def other_loss_without_gradients(patch):
    """As training's evaluation would compute it."""
    good = head.TrainedLoss.apply

    def bad(hidden, weight, bias, targets, learn):
        loss, correct = good(hidden, weight, bias, targets, learn)
        return (loss if learn else loss * 0.9), correct

    patch.setattr(head.TrainedLoss, "apply", bad)


def head_forgets_all_but_the_first_tile(patch):
    good = head.TrainedLoss.backward

    def bad(ctx, d, correct):
        dhidden, *more = good(ctx, d, correct)
        dhidden[head.TILE // 512 :] = 0
        return dhidden, *more

    patch.setattr(head.TrainedLoss, "backward", bad)


def norm_made_again_without_its_weight(patch):
    patch.setattr(norm.Normed, "again", lambda kept: (kept.x.float() * kept.rstd).to(kept.x.dtype) * 1.2)


def norm_gradient_without_the_mean(patch):
    def bad(ctx, dy, _):
        x, rstd, weight = ctx.saved_tensors
        return ((dy * weight).float() * rstd).to(x.dtype) * 1.1, None, None

    patch.setattr(norm.RmsNorm, "backward", bad)


LORA_FAULTS = [
    a_gradient_too_large,
    b_gradient_of_wrong_sign,
    input_gradient_without_the_adapter,
    adapter_output_too_large,
    other_output_when_computed_again,
]
WINDOW_FAULTS = [window_ignored, window_one_wider]
REAL_WINDOW = 512
FAULTS = [
    *((fault, LORA, {}) for fault in LORA_FAULTS),
    (gate_gradient_of_another_function, ["lora_mlp"], {}),
    *((fault, ["varlen"], {"window": window}) for fault in WINDOW_FAULTS for window in (WINDOW, REAL_WINDOW)),
    (rows_see_each_other, ["varlen"], {}),
    (third_row_sees_the_second, ["varlen"], {}),
    (first_row_of_a_batch_alone, LORA, {}),
    (other_loss_without_gradients, ["head"], {}),
    (head_forgets_all_but_the_first_tile, ["head"], {}),
    (norm_made_again_without_its_weight, ["lora_qkv", "norm"], {}),
    (norm_gradient_without_the_mean, ["norm"], {}),
]


TYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize(
    ("fault", "kernels", "shape", "dtype"),
    [(*fault, TYPES[number % 3]) for number, fault in enumerate(FAULTS)]
    + [(*fault, TYPES[(number + 1) % 3]) for number, fault in enumerate(FAULTS)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_fault_is_found(fault, kernels, shape, dtype, monkeypatch, capsys):
    model = small(dtype, **shape)
    fault(monkeypatch)
    assert not {kernels[-1]} & switch_on(model, kernels)
    assert "it changed the model's results by" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "dtype"),
    [(fault, TYPES[1 + number % 2]) for number, fault in enumerate(LORA_FAULTS)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_fault_is_found_over_nf4(fault, dtype, monkeypatch, tmp_path):
    model = small(dtype, folder=tmp_path / "base")
    fault(monkeypatch)
    assert switch_on(model, LORA) == set()


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("fault", [*WINDOW_FAULTS, rows_see_each_other], ids=lambda fault: fault.__name__)
def test_a_fault_of_attention_is_found_at_every_width(fault, head_dim, monkeypatch):
    model = small(torch.bfloat16, window=WINDOW, head_dim=head_dim)
    fault(monkeypatch)
    assert switch_on(model, ["varlen"]) == set()


@pytest.mark.parametrize(
    ("dtype", "window", "head_dim", "autocast", "checkpointing"),
    [
        (torch.float32, None, 16, None, True),
        (torch.float32, WINDOW, 64, None, False),
        (torch.float32, None, 128, torch.bfloat16, True),
        (torch.float32, WINDOW, 256, torch.bfloat16, True),
        (torch.bfloat16, WINDOW, 64, torch.bfloat16, True),
        (torch.bfloat16, None, 128, torch.bfloat16, False),
        (torch.bfloat16, WINDOW, 256, None, True),
        (torch.float16, WINDOW, 64, torch.float16, True),
        (torch.float16, None, 128, torch.float16, False),
        (torch.float16, WINDOW, 256, None, True),
    ],
)
def test_nothing_right_is_refused(dtype, window, head_dim, autocast, checkpointing, capsys):
    model = small(dtype, window, head_dim)
    assert switch_on(model, KERNELS, autocast=autocast, checkpointing=checkpointing) == set(KERNELS)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_nothing_right_is_refused_over_nf4(dtype, tmp_path):
    assert switch_on(small(dtype, folder=tmp_path / "base"), KERNELS, autocast=dtype) == set(KERNELS)


def test_the_model_is_as_it_was():
    """Its adapter, its modes, its gradients and its random numbers."""
    model = small()
    model.eval()
    model.get_base_model().model.layers[0].train()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    switch_on(model, KERNELS)
    assert [module.training for module in model.modules()] == modes
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_takes_no_part():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, attention_dropout=0.3,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    model = get_peft_model(base, LoraConfig(r=8, target_modules="all-linear", lora_dropout=0.2))
    assert switch_on(model, ["varlen", "head", "norm"]) == {"varlen", "head", "norm"}
    assert all(layer.self_attn.attention_dropout == 0.3 for layer in base.model.layers)


def test_a_window_that_no_row_exceeds_is_not_tried(monkeypatch):
    model = small(window=WINDOW)
    window_ignored(monkeypatch)
    assert switch_on(model, ["varlen"], longest=WINDOW) == {"varlen"}
    assert switch_on(small(window=WINDOW), ["varlen"], longest=WINDOW + 2) == set()


def test_a_model_that_overflows_is_left_alone(capsys):
    model = small(torch.float16)
    model.get_input_embeddings().weight.data.mul_(1e6)
    assert switch_on(model, KERNELS) == set()
    assert "rounding alone changes the model's gradient by nan" in capsys.readouterr().err


NOISY = {"layers": 24, "initializer_range": 0.3}
"""Rounding to bfloat16 changes the gradient of such a model by a third, that of its first two layers by a twentieth."""


@pytest.mark.parametrize("noisy", [NOISY, {"layers": 48, "initializer_range": 0.4}], ids=["a third", "half"])
def test_where_depth_amplifies_rounding_the_first_layers_are_tried(noisy, monkeypatch, capsys):
    assert switch_on(small(torch.bfloat16, **noisy), KERNELS, autocast=torch.bfloat16) == set(KERNELS)
    assert capsys.readouterr().err == ""
    a_gradient_too_large(monkeypatch, times=1.3)
    assert switch_on(small(torch.bfloat16, **noisy), LORA, autocast=torch.bfloat16) == set()


def test_a_small_fault_hides_in_the_rounding_of_a_whole_model(monkeypatch):
    """Why the first layers are tried by themselves."""
    monkeypatch.setattr(self_check, "_depths", lambda model: [NOISY["layers"]])
    a_gradient_too_large(monkeypatch, times=1.3)
    assert switch_on(small(torch.bfloat16, **NOISY), ["lora_mlp"], autocast=torch.bfloat16) == {"lora_mlp"}


def test_layers_that_do_not_run_by_themselves_are_not_tried():
    model = small(torch.bfloat16, **NOISY)
    base = model.get_base_model()

    def all_or_none(*_):
        if base.config.num_hidden_layers < NOISY["layers"]:
            raise RuntimeError("shapes do not fit")

    base.model.register_forward_pre_hook(all_or_none)
    assert switch_on(model, KERNELS, autocast=torch.bfloat16) == set(KERNELS)


def test_the_first_layers_hold_one_of_every_kind():
    config = Gemma3TextConfig(vocab_size=99, hidden_size=32, intermediate_size=32, num_hidden_layers=14, head_dim=16)
    gemma = AutoModelForCausalLM.from_config(config)
    assert self_check._depths(gemma) == [14, 6]  # five with a window, then one without
    assert self_check._depths(small(layers=9)) == [9, 2]
    assert self_check._depths(small(layers=2)) == [2]
