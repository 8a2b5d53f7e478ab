"""Every kernel against the plain path: the same loss and gradients, less kept, off by itself where it cannot run."""

import time
from importlib.util import find_spec
from pathlib import Path

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import train.tuning.kernels.head
import train.tuning.trainer
from train.core.compat import attn_implementation
from train.core.config import load_config
from train.core.errors import ConfigError
from train.core.runs import Run
from train.encoding.held_out import encode_held_out, held_out_rows
from train.encoding.loss_mask import Encoded
from train.evaluation.meter import score
from train.models.load import load_base, load_tokenizer, load_tuned, resolve_precision
from train.sft import train as train_run
from train.tuning.arguments import trl_arguments
from train.tuning.kernels import ON_BY_DEFAULT, PUT_IN, attention, lora, switch_on
from train.tuning.kernels.batches import ByLength
from train.tuning.kernels.self_check import end_to_end
from train.tuning.trainer import build_trainer, make_fast

KERNELS = ["varlen", "head", "lora_qkv", "lora_mlp", "norm"]
LENGTHS = (9, 5, 12)
IDS = (torch.arange(sum(LENGTHS)) * 37 + 5) % 600
LABELS = torch.where(torch.arange(sum(LENGTHS)) % 3 > 0, IDS, -100)
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


def tuned(model, **lora):
    """With an adapter whose B is not zero, so that every product counts."""
    torch.manual_seed(1)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **{**LORA, **lora}))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def qwen3(base, dtype=torch.float32, **lora):
    return tuned(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), **lora)


def small(kind, config, **more):
    sizes = {"vocab_size": 600, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    torch.manual_seed(0)
    return kind(config(**sizes, **heads, initializer_range=0.1, **more))


def results(model, kernels=(), autocast=None):
    """(loss, {name: gradient}) over three rows of different lengths, mean over the trained tokens."""
    rows = list(zip(IDS.split(LENGTHS), LABELS.split(LENGTHS), strict=True))
    count = sum(int((labels[1:] != -100).sum()) for _, labels in rows)
    model.train().zero_grad()
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        if "head" in kernels:
            loss = sum(
                model(input_ids=ids[None], labels=labels[None], use_cache=False, trained_loss=True)["loss_sum"]
                for ids, labels in rows
            )
        else:
            if "varlen" in kernels:
                logits = model(input_ids=IDS[None], use_cache=False, **end_to_end(LENGTHS, "cpu")).logits[0]
            else:
                logits = torch.cat([model(input_ids=ids[None], use_cache=False).logits[0] for ids, _ in rows])
            parts = zip(logits.split(LENGTHS), rows, strict=True)
            loss = sum(functional.cross_entropy(z[:-1].float(), y[1:], reduction="sum") for z, (_, y) in parts)
    loss = loss / count
    loss.backward()
    return float(loss.detach()), {n: p.grad.float().clone() for n, p in model.named_parameters() if p.requires_grad}


def difference(found, expected):
    """The largest relative distance of a gradient."""
    return max(float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_computes_what_the_plain_path_does(kernel, base):
    model = qwen3(base)
    loss, gradients = results(model)
    assert switch_on(model, [kernel]) == {kernel}
    fast_loss, fast = results(model, [kernel])
    assert fast_loss == pytest.approx(loss, rel=1e-6)
    assert difference(fast, gradients) < 1e-5


@pytest.mark.parametrize("kernels", [KERNELS, ["lora_mlp", "norm"], ["lora_qkv", "norm"]])
def test_kernels_work_together(kernels, base):
    model = qwen3(base)
    loss, gradients = results(model)
    assert switch_on(model, kernels) == set(kernels)
    fast_loss, fast = results(model, kernels)
    assert fast_loss == pytest.approx(loss, rel=1e-6)
    assert difference(fast, gradients) < 1e-5


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("kernel", KERNELS)
def test_in_bfloat16_a_kernel_rounds_no_worse_than_the_plain_path(kernel, autocast, base):
    """Both are compared with float32: the kernel's gradients are at most as far from it again by half."""
    reference = qwen3(base)
    loss, gradients = results(reference)
    model = qwen3(base, torch.bfloat16)
    plain_loss, plain = results(model, autocast=autocast)
    assert switch_on(model, [kernel], autocast=autocast) == {kernel}
    fast_loss, fast = results(model, [kernel], autocast)
    assert abs(fast_loss - loss) <= 1.5 * abs(plain_loss - loss) + 1e-3 * loss
    assert difference(fast, gradients) <= 1.5 * difference(plain, gradients)
    assert difference(plain, gradients) < 0.1


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("kernels", [["head"], KERNELS])
def test_a_head_with_an_adapter_is_seen_and_trained(kernels, base, monkeypatch):
    """Three tiles of it, as in the plain path."""
    layers = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
    model = qwen3(base, target_modules=layers)
    loss, gradients = results(model)
    assert switch_on(model, kernels) == set(kernels)
    monkeypatch.setattr(train.tuning.kernels.head, "TILE", 600 * 3)
    fast_loss, fast = results(model, kernels)
    assert fast_loss == pytest.approx(loss, rel=1e-6)
    assert sum("lm_head.lora_" in name for name in fast) == 2
    assert difference(fast, gradients) < 1e-5


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("over", [1, 2])
def test_no_tile_of_the_head_is_so_short_that_its_gradient_is_inexact(over):
    """As Gemma's vocabulary: torch's product of one or two rows adds up 262,144 numbers naively, 3e-4 off."""
    vocabulary, width = 262_144, 16
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(vocabulary, width, generator=generator)
    count = train.tuning.kernels.head.TILE // vocabulary + over
    hidden = torch.randn(count, width, generator=generator)
    targets = torch.randint(vocabulary, (count,), generator=generator)
    exact = hidden.double().requires_grad_()
    functional.cross_entropy(exact @ weight.double().T, targets, reduction="sum").backward()
    found = hidden.clone().requires_grad_()
    train.tuning.kernels.head.TrainedLoss.apply(found, weight, None, targets, True)[0].backward()
    error = (found.grad - exact.grad).norm(dim=1) / exact.grad.norm(dim=1)
    assert error.max() < 1e-5


def test_an_adapter_on_the_head_learns_with_kernels_and_without(write_config):
    """TRL's own loss reads the head's weight alone and leaves B at zero."""
    lora, order = {"target_modules": ["q_proj", "lm_head"]}, {"train_sampling_strategy": "random"}
    runs = [
        train_run(load_config(write_config(name=kernels, lora=lora, training={**order, "kernels": kernels})))
        for kernels in ("auto", "off")
    ]
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), rel=1e-4)
    for run in runs:
        weights = load_file(run.adapter / "adapter_model.safetensors")
        assert any("lm_head.lora_B" in name for name in weights)
        assert all(weight.abs().max() > 0 for weight in weights.values())
        model, tokenizer = load_tuned(run)
        after = score(model, encode_held_out(run, tokenizer, held_out_rows(run))).loss
        assert after == pytest.approx(losses(run, "eval_loss")[-1], rel=2e-2)  # that one is a mean over batches


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"training": {"loss_type": "dft"}}, "an adapter on the head .* the loss is not the plain one"),
        ({"lora": {"init_lora_weights": "pissa"}}, "pissa begins in the base's weights"),
    ],
)
def test_an_adapter_on_the_head_is_refused_where_it_would_go_wrong(sections, reason, write_config):
    lora = {"target_modules": ["q_proj", "lm_head"], **sections.get("lora", {})}
    with pytest.raises(ConfigError, match=reason):
        train_run(load_config(write_config(**{**sections, "lora": lora})))


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_a_run_with_an_adapter_on_the_head_goes_on_as_if_nothing_had_happened(write_config):
    lora, training = {"target_modules": ["q_proj", "lm_head"]}, {"save_strategy": "steps", "save_steps": 2}
    whole = train_run(load_config(write_config(name="whole", lora=lora, training=training)))
    config = load_config(write_config(name="cut", lora=lora, training=training))

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            "train.tuning.trainer.Trainer.evaluate", lambda self, **_: stop() if self.state.global_step else {}
        )
        train_run(config)
    run = train_run(config, resume=True)
    file = "adapter_model.safetensors"
    assert (run.adapter / file).read_bytes() == (whole.adapter / file).read_bytes()


@pytest.mark.parametrize("kernel", ["lora_qkv", "lora_mlp"])
def test_over_nf4(kernel, base, write_config):
    config = load_config(write_config(model={"load_in_4bit": True}))
    model = tuned(load_base(config.model, base, resolve_precision(config), use_cpu=True))
    loss, gradients = results(model)
    assert switch_on(model, [kernel]) == {kernel}
    fast_loss, fast = results(model, [kernel])
    assert fast_loss == pytest.approx(loss, rel=1e-5)
    assert difference(fast, gradients) < 1e-3


def test_checkpointing_computes_a_kernel_anew(base):
    model = qwen3(base)
    loss, gradients = results(model)
    switch_on(model, KERNELS)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    fast_loss, fast = results(model, KERNELS)
    assert fast_loss == pytest.approx(loss, rel=1e-6) and difference(fast, gradients) < 1e-5


def test_layers_with_biases_and_layers_without_an_adapter(base):
    model = tuned(
        small(LlamaForCausalLM, LlamaConfig, attention_bias=True, mlp_bias=True), target_modules=["q_proj", "down_proj"]
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    loss, gradients = results(model)
    assert switch_on(model, KERNELS) == set(KERNELS)
    fast_loss, fast = results(model, KERNELS)
    assert fast_loss == pytest.approx(loss, rel=1e-6) and difference(fast, gradients) < 1e-5


def test_full_tuning_has_the_kernels_that_need_no_adapter(base, capsys):
    """The head's weights, tied to the embedding here, get their gradient too."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    loss, gradients = results(model)
    assert switch_on(model, KERNELS) == {"varlen", "head"}
    fast_loss, fast = results(model, ["varlen", "head"])
    assert fast_loss == pytest.approx(loss, rel=1e-6) and difference(fast, gradients) < 1e-5
    assert "kernel norm is off: its norms are trained" in capsys.readouterr().err


@pytest.mark.parametrize("window", [None, 4])
def test_rows_do_not_see_each_other_nor_beyond_a_window(window):
    model = small(MistralForCausalLM, MistralConfig, sliding_window=window)
    plain = [model(row[None], use_cache=False).logits[0] for row in IDS.split(LENGTHS)]
    assert switch_on(model, ["varlen"]) == {"varlen"}
    other = IDS.clone()
    other[: LENGTHS[0]] = 7
    one, two = (model(ids[None], use_cache=False, **end_to_end(LENGTHS, "cpu")).logits[0] for ids in (IDS, other))
    assert torch.allclose(one, torch.cat(plain), atol=1e-5)
    assert torch.equal(one[LENGTHS[0] :], two[LENGTHS[0] :])
    assert not torch.allclose(one[: LENGTHS[0]], two[: LENGTHS[0]])


class TestFallback:
    """Off by itself, named once, and the model as it was."""

    def refused(self, capsys, model, kernels, reason):
        loss, gradients = results(model)
        assert switch_on(model, kernels) == set()
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == len(kernels), lines
        for kernel, line in zip(kernels, lines, strict=True):
            assert line.startswith(f"kernel {kernel} is off: ") and reason in line, line
        again, same = results(model)
        assert again == loss and all(torch.equal(same[name], gradients[name]) for name in same)

    @pytest.mark.parametrize(
        ("lora", "reason"),
        [
            ({"use_dora": True}, "the adapter is a Dora"),
            ({"lora_dropout": 0.1}, "lora_dropout is not 0"),
            ({"target_modules": ["o_proj"]}, "that an adapter tunes"),
        ],
    )
    def test_adapters_that_peft_must_run(self, lora, reason, base, capsys):
        model = qwen3(base, **lora)
        torch.manual_seed(0)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()
                module.train = lambda *_: None  # no two passes would drop the same
        self.refused(capsys, model, ["lora_qkv", "lora_mlp"], reason)

    def test_a_family_whose_logits_are_squashed(self, capsys):
        model = tuned(small(Gemma2ForCausalLM, Gemma2Config))
        self.refused(capsys, model, ["head"], "final_logit_softcapping")
        self.refused(capsys, model, ["lora_mlp"], "no SwiGLU block")
        self.refused(capsys, model, ["norm"], "no RMSNorm as Llama's")
        self.refused(capsys, model, ["varlen"], "attn_implementation is eager")

    def test_a_block_that_only_looks_like_swiglu(self, capsys):
        model = tuned(small(LlamaForCausalLM, LlamaConfig))
        for module in model.modules():
            if type(module).__name__ == "LlamaMLP":
                plain = module.forward
                module.forward = lambda x, plain=plain: plain(x) * 1.5
        self.refused(capsys, model, ["lora_mlp"], "it changed the model's results by")

    def test_attention_that_was_chosen(self, base, capsys):
        model = tuned(AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager"))
        self.refused(capsys, model, ["varlen"], "model.attn_implementation is eager")

    def test_a_model_that_is_spread(self, base, capsys):
        model = qwen3(base)
        assert switch_on(model, ["head"], sharded=True) == set()
        assert "kernel head is off: the weights are spread" in capsys.readouterr().err

    def test_nothing_is_said_of_what_nobody_asked_for(self, base, capsys):
        assert switch_on(qwen3(base, use_dora=True), "auto") == {"varlen", "head"}
        assert switch_on(qwen3(base), "off") == set()
        assert capsys.readouterr().err == ""


def test_an_adapter_that_is_switched_off_is_off_in_a_kernel_too(base):
    model = qwen3(base)
    with model.disable_adapter(), torch.inference_mode():
        expected = model(IDS[None]).logits
    switch_on(model, ["lora_qkv", "lora_mlp"])
    with model.disable_adapter(), torch.inference_mode():
        assert torch.equal(model(IDS[None]).logits, expected)
    with torch.inference_mode():
        assert not torch.allclose(model(IDS[None]).logits, expected)


def kept_bytes(model, tokens):
    """Bytes a token that autograd keeps of a forward pass, weights apart, each storage once."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor, lest its address be given away again
        return tensor

    ids = torch.zeros(1, tokens, dtype=torch.long)
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model.get_base_model().model(inputs_embeds=embedded, use_cache=False)
    return sum(size for size, _ in kept.values()) / tokens


def wide(layers, kernels=(), *, cast=False):
    """Layers with the proportions of Qwen3-8B's (4096 wide, 12288 inside, 32 and 8 heads of 128), at an eighth."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=64, hidden_size=512, intermediate_size=1536, num_hidden_layers=layers, head_dim=16,
        num_attention_heads=32, num_key_value_heads=8,
    )  # fmt: skip
    model = get_peft_model(Qwen3ForCausalLM(config).to(torch.bfloat16), LoraConfig(r=2, target_modules="all-linear"))
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = cast
    for name in kernels:
        PUT_IN[name](model)  # untried: a trial of this width in bfloat16 takes a CPU seconds
    return model


def test_what_is_kept_for_the_backward_pass():
    """Megabytes a token over 36 layers of an 8B's width, reckoned from one layer of an eighth of it."""

    def kept(*how, **more):
        return (kept_bytes(wide(2, *how, **more), 32) - kept_bytes(wide(1, *how, **more), 32)) * 8 * 36 / 1e6

    by_default, uncast = kept(cast=True), kept()
    fused, normed = kept(["lora_qkv", "lora_mlp"]), kept(["lora_qkv", "lora_mlp", "norm"])
    assert by_default > 8 and uncast < 0.87 * by_default
    assert fused < 5.2 and normed < 3.6


class TestOrder:
    LENGTHS = torch.randint(1, 600, (205,), generator=torch.Generator().manual_seed(3)).tolist()

    def test_every_row_once_and_another_order_each_epoch(self):
        order = ByLength(self.LENGTHS, 8, 42)
        first, again = list(order), list(order)
        order.set_epoch(1)
        assert sorted(first) == list(range(205)) and first == again != list(order)
        assert list(ByLength(self.LENGTHS, 8, 43)) != first

    def test_less_padding(self):
        def padded(rows):
            batches = [[self.LENGTHS[row] for row in rows[at : at + 8]] for at in range(0, len(rows), 8)]
            return sum(len(batch) * max(batch) for batch in batches) / sum(self.LENGTHS)

        assert padded(list(ByLength(self.LENGTHS, 8, 42))) < 1.15 < 1.5 < padded(list(range(205)))

    def test_fewer_rows_than_a_batch(self):
        assert sorted(ByLength([3, 1, 2], 8, 0)) == [0, 1, 2]


def losses(run, name="loss"):
    return [entry[name] for entry in run.metrics() if name in entry]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_with_and_without(dtype, write_config):
    """The same rows in the same order, every kernel against none: the same curve, in float32 to 1e-4 and better."""
    order = {"train_sampling_strategy": "random", "max_steps": 6}
    runs = [
        train_run(load_config(write_config(name=name, model={"dtype": dtype}, training={**order, "kernels": kernels})))
        for name, kernels in (("with", KERNELS), ("without", "off"))
    ]
    assert runs[0].manifest()["kernels"] == sorted(KERNELS) and runs[1].manifest()["kernels"] == []
    for name in ("loss", "eval_loss", "grad_norm", "mean_token_accuracy", "num_tokens"):
        fast, plain = (losses(run, name) for run in runs)
        assert fast == pytest.approx(plain, rel=2e-4 if dtype == "float32" else 3e-2, abs=5e-3), name
    first, plain = losses(runs[0])[0], losses(runs[1])[0]
    assert first == pytest.approx(plain, rel=1e-6 if dtype == "float32" else 1e-3)


@pytest.mark.long
def test_by_default_it_learns_as_well(write_config):
    """Held-out loss at the end over three seeds: with what is on by default, and with the plain path and its order."""
    ends = {
        kernels: [
            losses(train_run(load_config(write_config(name=f"{kernels}-{seed}", training=settings))), "eval_loss")[-1]
            for seed in (1, 2, 3)
            for settings in [{"kernels": kernels, "seed": seed, "data_seed": seed, "max_steps": 12}]
        ]
        for kernels in ("auto", "off")
    }
    noise = max(max(found) - min(found) for found in ends.values())
    assert abs(sum(ends["auto"]) - sum(ends["off"])) / 3 <= noise < 0.2 * ends["off"][0]


def test_by_default_on_a_cpu(write_config):
    run = train_run(load_config(write_config(training={"max_steps": 1})))
    assert run.manifest()["kernels"] == sorted(ON_BY_DEFAULT["cpu"])


def test_packing_goes_the_same_way(write_config):
    runs = [
        train_run(load_config(write_config(name=name, training={"packing": True, "max_steps": 2, "kernels": kernels})))
        for name, kernels in (("with", "auto"), ("without", "off"))
    ]
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), rel=1e-5)


def test_without_varlen_rows_of_like_length_come_together_and_a_run_goes_on_in_the_same_order(write_config):
    """Two epochs and the same bytes after stopping in the second."""
    settings = {"kernels": "off", "max_steps": 9, "save_strategy": "steps", "save_steps": 7, "eval_strategy": "no"}
    whole = train_run(load_config(write_config(name="whole", training=settings)))
    from train.tuning.trainer import Trainer

    original = Trainer.training_step

    def cut(self, *more, **named):
        if self.state.global_step == 8:
            raise KeyboardInterrupt
        return original(self, *more, **named)

    config = load_config(write_config(name="cut", training=settings))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "training_step", cut)
        train_run(config)
    run = train_run(config, resume=True)
    file = "adapter_model.safetensors"
    assert (run.adapter / file).read_bytes() == (whole.adapter / file).read_bytes()
    assert losses(run) == losses(whole)


@pytest.mark.parametrize(("capability", "flash"), [((6, 1), False), ((7, 5), False), ((8, 0), True), ((12, 0), True)])
def test_flash_attention_begins_with_ampere(capability, flash, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert attention.has_flash(torch.device("cuda")) is flash
    assert not attention.has_flash(torch.device("cpu"))


@pytest.mark.parametrize(("flash", "window", "repeated"), [(True, None, False), (True, 4, True), (False, None, True)])
def test_keys_are_repeated_where_only_the_plain_mathematics_would_take_them(flash, window, repeated, monkeypatch):
    asked = {}
    original = functional.scaled_dot_product_attention

    def spy(query, key, value, **more):
        asked.update(more, heads=key.shape[1])
        return original(query, key, value, **more)

    monkeypatch.setattr(attention, "_flash_runs", lambda *_: flash)
    monkeypatch.setattr(functional, "scaled_dot_product_attention", spy)
    query, key = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8)
    out, _ = attention.attention(None, query, key, key, None, sliding_window=window)
    assert (asked["heads"], asked["enable_gqa"]) == ((4, False) if repeated else (2, True))
    wide = key.repeat_interleave(2, dim=1)
    mask = torch.ones(6, 6, dtype=torch.bool).tril().triu(1 - (window or 6))
    assert torch.allclose(out, original(query, wide, wide, attn_mask=mask).transpose(1, 2), atol=1e-5)


def trainer_of(config, base):
    precision = resolve_precision(config)
    arguments = trl_arguments(config, Run(Path("runs/x")), precision, evaluate=False)
    rows = [
        Encoded(list(range(1, 9 + n)), [-100, -100, *range(3, 9 + n)], [(2, 8 + n)], last_turn_only=False, dated=False)
        for n in range(8)
    ]
    return build_trainer(config, base, load_tokenizer(base), precision, arguments, rows, []), precision


def test_a_card_without_flash_attention_has_its_keys_repeated_without_kernels_too(base, write_config, monkeypatch):
    config = load_config(write_config(training={"kernels": "off"}))
    trainer, precision = trainer_of(config, base)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.inference_mode():
        expected = trainer.model(input_ids=ids, use_cache=False).logits
    monkeypatch.setattr(type(trainer.args), "device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    make_fast(trainer, config, precision, sharded=False)
    assert attn_implementation(trainer.model.get_base_model()) == attention.NAME
    with torch.inference_mode():
        assert torch.allclose(trainer.model(input_ids=ids, use_cache=False).logits, expected, atol=1e-5)


@pytest.mark.parametrize(("delayed", "on"), [(lora.Layer, False), (peft.tuners.lora.Linear, True)])
def test_a_run_times_its_kernels_and_keeps_the_faster(delayed, on, base, write_config, monkeypatch, capsys):
    """Either govor's layers or PEFT's are made slow."""
    monkeypatch.setattr(train.tuning.trainer, "TIMED", ("cpu",))
    forward = delayed.forward

    def slow(*arguments, **named):
        time.sleep(0.02)
        return forward(*arguments, **named)

    monkeypatch.setattr(delayed, "forward", slow)
    trainer, _ = trainer_of(load_config(write_config()), base)
    said = capsys.readouterr().err
    assert f"kernels varlen, head, lora_qkv, lora_mlp are {'on' if on else 'off'}: " in said
    assert trainer.kernels == (set(ON_BY_DEFAULT["cpu"]) if on else set())
    assert trainer.padding_free is trainer.data_collator.padding_free is on
    assert attn_implementation(trainer.model.get_base_model()) == (attention.NAME if on else "sdpa")
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_norms_that_another_library_has_replaced_are_left_to_it(base, capsys):
    model = qwen3(base)
    for module in model.modules():
        if type(module).__name__ == "Qwen3RMSNorm":
            module.forward = module.forward  # as Liger binds its own
    assert switch_on(model, ["norm"]) == set()
    assert "its norms are replaced already (training.use_liger_kernel)" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("liger_kernel") is not None, reason="Liger is installed")
def test_liger_is_asked_for_before_anything_is_loaded(base, write_config):
    with pytest.raises(ConfigError, match=r"training\.use_liger_kernel: pip install liger-kernel first"):
        trainer_of(load_config(write_config(training={"use_liger_kernel": True})), base)


def test_ddp_looks_for_no_unused_weights(base, write_config):
    trainer, _ = trainer_of(load_config(write_config()), base)
    assert trainer.args.ddp_find_unused_parameters is False
