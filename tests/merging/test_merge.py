"""govor merge: the weights against PEFT's own merge, the drift report, memory, and what must not be left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from importlib import import_module
from pathlib import Path

import pytest
import torch
from accelerate.utils import has_offloaded_params
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, Qwen3ForCausalLM

from tests.conftest import REPOSITORY, govor
from train.chats.readers import read_rows
from train.core.config import dump_config, load_config
from train.core.errors import BaseError, MachineError, RunError
from train.core.files import note_files
from train.core.runs import Run
from train.encoding.loss_mask import encode_row
from train.evaluation.meter import score
from train.merging.drift import TILES, Drift, Measured, MergeDrift, Tune, measure_drift
from train.merging.merge import LEAST_BOUND, MAX_DRIFT, Merged, merge, report
from train.models.base import weights_fingerprint
from train.models.load import load_base, load_merged, load_tokenizer, load_tuned
from train.models.load import resolve_precision as precision_of
from train.models.save import copy_tokenizer
from train.sft import train


@pytest.fixture
def make_run(write_config, base, tokenizer, rows_file):
    """A run around an adapter of random weights, as training would leave it."""

    def make(base: Path = base, held_out: int = 3, model: dict | None = None, **lora) -> Run:
        config = load_config(write_config(model={"name_or_path": str(base), **(model or {})}))
        run = Run(Path("runs/made"))
        run.adapter.mkdir(parents=True)
        run.config_file.write_text(dump_config(config), encoding="utf-8")
        torch.manual_seed(1)
        whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        lora = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **lora}
        tuned = get_peft_model(whole, LoraConfig(task_type="CAUSAL_LM", **lora))
        with torch.no_grad():
            for parameter in tuned.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn_like(parameter)
        tuned.peft_config["default"].base_model_name_or_path = str(base)
        tuned.save_pretrained(run.adapter, save_embedding_layers=False)
        copy_tokenizer(base, tokenizer, run.adapter)
        rows = rows_file.read_text(encoding="utf-8").splitlines(keepends=True)[:held_out]
        run.held_out_file.write_text("".join(rows), encoding="utf-8")
        manifest = {
            "base": {"path": str(base), "revision": None, "weights": weights_fingerprint(base)},
            "data": {"held_out": {"rows": held_out}, "system_message": None},
            "template": {"end_of_turn": [tokenizer.eos_token_id]},
        }
        run.manifest_file.write_text(json.dumps(manifest), encoding="utf-8")
        return run

    return make


@pytest.fixture
def make_base(tokenizer, base):
    """Saves a model of random weights with the tiny base's tokenizer."""

    def make(config, folder: str = "other", dtype=torch.float32, max_shard_size="10GB") -> Path:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        for name, parameter in model.named_parameters():  # biases begin at zero, which would hide their loss
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        copy_tokenizer(base, tokenizer, Path(folder))
        shutil.copy(base / "generation_config.json", folder)
        return Path(folder).absolute()

    return make


def tiny_config(base: Path, **changes):
    config = AutoConfig.from_pretrained(base)
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def by_peft(run: Run, base: Path) -> dict[str, torch.Tensor]:
    """PEFT's merge of the whole model, in float32."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, run.adapter).merge_and_unload().state_dict()


def logits(model, run: Run) -> torch.Tensor:
    ids = encode_row(load_tokenizer(run.adapter), read_rows(run.held_out_file)[0]).input_ids
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits


def assert_same_answers(run: Run) -> None:
    """The merged model says what base + adapter says, and something else than the base."""
    model, _ = load_tuned(run)
    tuned, merged = logits(model, run), logits(load_merged(run), run)
    assert torch.allclose(tuned, merged, atol=2e-4)
    with model.disable_adapter():
        assert (logits(model, run) - tuned).abs().max() > 1e-2


class TestWeights:
    def test_merged_logits_equal_base_plus_adapter(self, run):
        merge(run, measure=False)
        assert type(load_merged(run)).__name__ == "Qwen3ForCausalLM"
        assert_same_answers(run)

    def test_weights_are_w_plus_scaled_b_a(self, run, base):
        merge(run, measure=False)
        before, after = weights(base), weights(run.merged)
        adapter = load_file(run.adapter / "adapter_model.safetensors")
        name = "model.layers.0.mlp.up_proj"
        a, b = (adapter[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
        lora = run.config().lora
        expected = before[f"{name}.weight"] + lora.lora_alpha / lora.r * b @ a
        assert torch.allclose(after[f"{name}.weight"], expected, atol=1e-6)
        assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])

    @pytest.mark.parametrize(
        "lora",
        [
            {},
            {"use_rslora": True},
            {"use_dora": True},
            {"target_modules": ["q_proj", "v_proj"]},
            {"target_modules": r".*layers\.1\..*(up|down)_proj"},
            {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 8}, "alpha_pattern": {"q_proj": 32}},
            {"modules_to_save": ["norm"]},
            {"bias": "all"},
            {"bias": "lora_only", "target_modules": ["k_proj"]},
            {"lora_bias": True, "target_modules": ["q_proj", "k_proj"]},
            {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        ],
        ids=str,
    )
    @pytest.mark.filterwarnings("ignore:Adapter 'default'")  # PEFT takes every lora_B.bias for a broken shard
    def test_equal_to_peft_rounded_once(self, make_base, make_run, base, lora):
        """To the bit of the sum in float32, rounded once."""
        dtype = torch.bfloat16
        other = make_base(tiny_config(base, attention_bias=True, tie_word_embeddings=False), dtype=dtype)
        run = make_run(other, model={"dtype": "auto"}, **lora)
        merge(run, measure=False)
        before, after, expected = weights(other), weights(run.merged), by_peft(run, other)
        assert after.keys() == before.keys() == expected.keys()
        for name in before:
            assert after[name].dtype == dtype
            assert torch.equal(after[name], expected[name].to(dtype)), name
        assert any(not torch.equal(after[name], before[name]) for name in before)
        assert json.loads((run.merged / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")

    def test_conv1d(self, make_base, make_run, tokenizer):
        config = AutoConfig.for_model("gpt2", vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=2)
        other = make_base(config)
        run = make_run(other, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
        merge(run, measure=False)
        assert_same_answers(run)

    @pytest.mark.parametrize(
        "lora",
        [
            {"target_modules": ["q_proj", "lm_head"]},
            {"target_modules": ["q_proj", "embed_tokens"]},
            {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
            {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        ],
        ids=str,
    )
    @pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
    def test_head_and_embedding_part_where_one_is_trained(self, make_run, base, lora):
        """PEFT's own merge would change both; the merged model's config no longer ties them."""
        run = make_run(base, **lora)
        merge(run, measure=False)
        assert_same_answers(run)
        assert not load_merged(run).config.tie_word_embeddings
        assert {"lm_head.weight", "model.embed_tokens.weight"} <= weights(run.merged).keys()

    def test_shards_keep_their_names_and_tensors(self, make_base, make_run, base):
        other = make_base(tiny_config(base), max_shard_size="100KB")
        run = make_run(other)
        merge(run, measure=False)
        index = json.loads((other / "model.safetensors.index.json").read_text())
        ours = json.loads((run.merged / "model.safetensors.index.json").read_text())
        assert len({*index["weight_map"].values()}) > 3
        assert ours["weight_map"] == index["weight_map"]
        assert ours["metadata"]["total_size"] == index["metadata"]["total_size"]
        for file in other.glob("*.safetensors"):
            assert load_file(file).keys() == load_file(run.merged / file.name).keys()
        expected = by_peft(run, other)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(run.merged).items())

    def test_names_without_the_prefix(self, make_base, make_run, base):
        """Checkpoints of the bare model, such as GPT-2's, name their tensors without `model.`."""
        other = make_base(tiny_config(base))
        file = other / "model.safetensors"
        save_file({k.removeprefix("model."): v for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
        run = make_run(other)
        merge(run, measure=False)
        assert "layers.0.mlp.up_proj.weight" in weights(run.merged)
        assert_same_answers(run)

    def test_experts_in_parts_are_copied(self, make_base, make_run, tokenizer, capsys):
        """transformers stacks a mixture's experts as it loads them; an adapter on the attention needs none of them."""
        other = make_base(moe_config(tokenizer))
        run = make_run(other, target_modules=["q_proj", "v_proj"])
        merge(run, measure=False)
        assert weights(run.merged).keys() == weights(other).keys()
        assert "whole model" not in capsys.readouterr().err
        assert_same_answers(run)

    def test_adapted_experts_take_the_whole_model(self, make_base, make_run, tokenizer, capsys):
        other = make_base(moe_config(tokenizer))
        run = make_run(other, target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"])
        merge(run, measure=False)
        assert capsys.readouterr().err == (
            "the adapter has target_parameters: merging with the whole model in memory\n"
        )
        assert_same_answers(run)

    def test_config_s_dtype_is_written(self, make_run, base):
        run = make_run(base, model={"dtype": "bfloat16"})
        merge(run, measure=False)
        assert {tensor.dtype for tensor in weights(run.merged).values()} == {torch.bfloat16}
        expected = by_peft(run, base)
        assert all(torch.equal(v, expected[k].to(torch.bfloat16)) for k, v in weights(run.merged).items())
        assert AutoModelForCausalLM.from_pretrained(run.merged, dtype="auto").dtype == torch.bfloat16


def losses_by_hand(run: Run) -> dict[tuple[str, bool], float]:
    """Held-out loss of base + adapter (True) and base (False) in both precisions, from whole logits."""
    found = {}
    for target in ("nf4", "16bit"):
        model, tokenizer = load_tuned(run, in_4bit=target == "nf4")
        rows = [encode_row(tokenizer, row) for row in read_rows(run.held_out_file)]
        found[target, True] = score(model, rows).loss
        with model.disable_adapter():
            found[target, False] = score(model, rows).loss
    return found


def moe_config(tokenizer):
    return AutoConfig.for_model(
        "qwen3_moe", vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, moe_intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=4,
        num_experts_per_tok=2, max_position_embeddings=1024, initializer_range=0.1, tie_word_embeddings=False,
    )  # fmt: skip


class TestNf4:
    def test_weights_are_those_that_training_saw(self, make_base, make_run, base):
        """Every layer that transformers holds in NF4 is unpacked to the bit, adapted or not; the rest is the base's."""
        other = make_base(tiny_config(base), dtype=torch.bfloat16)
        run = make_run(other, model={"dtype": "bfloat16", "load_in_4bit": True}, target_modules=["q_proj", "up_proj"])
        merge(run, "nf4", measure=False)
        config = run.config()
        packed = load_base(config.model, other, precision_of(config), use_cpu=True)
        assert sum(type(module).__name__ == "Linear4bit" for module in packed.modules()) == 14
        unpacked = packed.dequantize().float()
        expected = PeftModel.from_pretrained(unpacked, run.adapter).merge_and_unload().state_dict()
        before, after = weights(other), weights(run.merged)
        assert after.keys() == before.keys()
        for name in before:
            assert torch.equal(after[name], expected[name].to(torch.bfloat16)), name
        assert not torch.equal(
            after["model.layers.0.mlp.down_proj.weight"], before["model.layers.0.mlp.down_proj.weight"]
        )
        assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])

    def test_drift_of_both_targets_side_by_side(self, make_base, make_run, base):
        other = make_base(tiny_config(base), dtype=torch.bfloat16)
        run = make_run(other, model={"dtype": "bfloat16", "load_in_4bit": True})
        result = govor("merge", str(run.path), "--target", "nf4", "--compare")
        assert result.exit_code == 0, result.output
        saved = run.manifest()["merge"]
        assert saved["target"] == "nf4"
        drift = saved["drift"]
        for target in ("nf4", "16bit"):  # each against base + adapter in its own precision
            assert drift[target]["mean_kl"] < 1e-4
            assert drift[target]["loss"] == pytest.approx(drift[target]["adapter_loss"], abs=1e-3)
            assert f"merged, {target}" in result.stdout
        assert drift["nf4"]["adapter_loss"] == drift["adapter_loss"]
        assert drift["nf4"]["base_loss"] == drift["untuned"]["loss"]
        assert abs(drift["16bit"]["base_loss"] - drift["untuned"]["loss"]) > 1e-3
        left = {path.name for path in run.path.iterdir()}
        assert left == {"adapter", "merged", "config.yaml", "manifest.json", "held_out.jsonl"}

    def test_what_nf4_costs_the_base_is_not_the_merge_s_fault(self, make_base, make_run, base):
        """The merged model is far from what was trained, and as near as rounding allows to the adapter in 16 bits."""
        other = make_base(tiny_config(base, initializer_range=0.5))
        run = make_run(other, model={"load_in_4bit": True})
        result = merge(run)
        assert result.passed
        tune = result.measured.targets["16bit"].tune
        assert result.measured.targets["16bit"].merged.mean_kl < 1e-6
        figures = run.manifest()["merge"]["drift"]
        losses = losses_by_hand(run)
        assert figures["adapter_loss"] == pytest.approx(losses["nf4", True], rel=1e-4)
        assert figures["untuned"]["loss"] == pytest.approx(losses["nf4", False], rel=1e-4)
        assert tune.loss == pytest.approx(losses["16bit", True], rel=1e-4)
        assert tune.untuned.loss == pytest.approx(losses["16bit", False], rel=1e-4)
        shown = report(result, measured=True)
        gap, gain = losses["nf4", False] - losses["16bit", False], losses["nf4", False] - losses["nf4", True]
        kept = losses["16bit", False] - losses["16bit", True]
        assert f"NF4 costs the base {gap:.3f} nats a token" in shown
        assert f"of the {gain:.3f} that training gained over NF4, {kept:.3f} stay in 16 bits" in shown
        best = "16bit" if losses["16bit", True] <= losses["nf4", True] else "nf4"
        assert shown.splitlines()[-1].startswith(f"use {best}: held-out loss ")

    def test_base_is_the_default(self, make_run, base):
        run = make_run(base, model={"dtype": "float32", "load_in_4bit": True})
        merge(run, measure=False)
        expected = by_peft(run, base)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(run.merged).items())

    @pytest.mark.parametrize(("words", "said"), [(("--target", "nf4"), "merge it into the base, 16bit"),
                                                 (("--compare",), "there is one target, 16bit")])  # fmt: skip
    def test_not_for_a_run_over_16_bit_weights(self, run, words, said):
        result = govor("merge", str(run.path), *words)
        assert result.exit_code == 2
        assert said in result.stderr
        assert not run.merged.exists()


class TestDrift:
    def test_a_faithful_merge_passes_and_is_recorded(self, run):
        result = govor("merge", str(run.path))
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("merged model: runs/done/merged (16bit, float32, ")
        assert "✅ mean KL" in result.stdout
        saved = run.manifest()["merge"]
        assert saved["passed"] is True
        assert saved["drift"]["rows"] == 5
        assert saved["drift"]["16bit"]["mean_kl"] < 1e-6
        assert saved["drift"]["16bit"]["top1"] == 1
        assert saved["drift"]["16bit"]["loss"] == pytest.approx(saved["drift"]["adapter_loss"], abs=1e-5)

    def test_losses_are_those_of_eval(self, run):
        merge(run)
        govor("eval", str(run.path), "--quick")
        drift, evaluation = run.manifest()["merge"]["drift"], run.manifest()["evaluation"]
        assert drift["adapter_loss"] == pytest.approx(evaluation["tuned_loss"], rel=1e-5)
        assert drift["untuned"]["loss"] == pytest.approx(evaluation["base_loss"], rel=1e-5)

    def test_kl_is_that_of_the_definition(self, run, base):
        """Against torch.distributions, over one row, for the base in the merged model's place."""
        merge(run, measure=False)
        measured = measure_drift(run, [("16bit", base)], use_cpu=True)
        found = measured.targets["16bit"].merged
        assert found == pytest.approx(measured.trained.untuned, rel=1e-4)
        total, highest, count = 0.0, 0.0, 0
        model, tokenizer = load_tuned(run)
        for row in read_rows(run.held_out_file):
            encoded = encode_row(tokenizer, row)
            kept = torch.tensor(encoded.labels[1:]) != -100
            with torch.inference_mode():
                tuned = model(torch.tensor([encoded.input_ids])).logits[0, :-1][kept]
                with model.disable_adapter():
                    plain = model(torch.tensor([encoded.input_ids])).logits[0, :-1][kept]
            p, q = (torch.distributions.Categorical(logits=x.double()) for x in (tuned, plain))
            kl = torch.distributions.kl_divergence(p, q)
            total, highest, count = total + kl.sum().item(), max(highest, kl.max().item()), count + len(kl)
        assert found.mean_kl == pytest.approx(total / count, rel=1e-3)
        assert found.max_kl == pytest.approx(highest, rel=1e-3)
        assert count == measured.tokens

    def test_a_lost_adapter_is_above_the_default_bound(self, run, base):
        result = merge(run)
        assert LEAST_BOUND <= result.bound <= MAX_DRIFT
        assert result.measured.trained.untuned.mean_kl > 2 * result.bound * 0.99

    def test_rounding_to_bfloat16_passes(self, make_base, make_run, base):
        run = make_run(make_base(tiny_config(base), dtype=torch.bfloat16), model={"dtype": "auto"})
        result = merge(run)
        assert result.passed
        assert 0 < result.measured.targets["16bit"].merged.mean_kl < result.bound / 10

    def test_above_the_bound_it_exits_1_and_says_so(self, make_base, make_run, base):
        run = make_run(make_base(tiny_config(base), dtype=torch.bfloat16), model={"dtype": "auto"})
        result = govor("merge", str(run.path), "--max-drift", "0")
        assert result.exit_code == 1
        assert "❌ mean KL" in result.stdout
        assert run.manifest()["merge"]["passed"] is False
        assert run.merged.exists()

    @pytest.mark.parametrize(
        ("kind", "settings"),
        [
            ("gemma2", {"final_logit_softcapping": 1.5, "head_dim": 16, "num_key_value_heads": 2}),
            ("granite", {"logits_scaling": 7.0}),
            ("cohere", {"logit_scale": 0.25}),
            ("gpt_neox", {}),
        ],
    )
    def test_logits_go_the_model_s_own_way(self, make_base, make_run, tokenizer, monkeypatch, kind, settings):
        """Softcapping and scaling behind the head count, and the size of a tile does not."""
        monkeypatch.setitem(TILES, "cpu", 5 * len(tokenizer))
        sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
        config = AutoConfig.for_model(
            kind, vocab_size=len(tokenizer), initializer_range=0.1, **sizes, **ends, **settings
        )
        run = make_run(make_base(config), model={"attn_implementation": "eager"})
        measured = measure_drift(run, [("16bit", Path(run.config().model.name_or_path))], use_cpu=True)
        losses = losses_by_hand(run)
        assert measured.trained.loss == pytest.approx(losses["16bit", True], rel=1e-4)
        assert measured.trained.untuned.loss == pytest.approx(losses["16bit", False], rel=1e-4)
        assert measured.targets["16bit"].merged == pytest.approx(measured.trained.untuned, rel=1e-4)

    @pytest.mark.parametrize("lora", [{}, {"modules_to_save": ["lm_head"]}], ids=str)
    @pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
    def test_a_tuned_head(self, make_run, base, lora):
        run = make_run(base, target_modules=["q_proj"] if lora else ["q_proj", "lm_head"], **lora)
        result = merge(run)
        losses = losses_by_hand(run)
        assert result.measured.trained.loss == pytest.approx(losses["16bit", True], rel=1e-4)
        assert result.measured.trained.untuned.loss == pytest.approx(losses["16bit", False], rel=1e-4)
        assert result.measured.targets["16bit"].merged.mean_kl < 1e-6

    def test_a_model_whose_logits_are_not_those_of_its_body(self, run, monkeypatch):
        """As a model could whose head does more than read the body's last hidden states."""
        merge(run, measure=False)
        original = Qwen3ForCausalLM.forward

        def forward(self, *args, **kwargs):
            found = original(self, *args, **kwargs)
            if type(self.model).__name__ == "Qwen3Model":
                found.logits = found.logits.flip(-1)
            return found

        monkeypatch.setattr(Qwen3ForCausalLM, "forward", forward)
        result = govor("merge", str(run.path), "--force")
        assert result.exit_code == 2
        assert result.stderr.splitlines()[-1] == (
            "error: Qwen3ForCausalLM makes its logits in a way that cannot be measured apart: "
            "merge with --no-drift --force"
        )

    @pytest.mark.parametrize("tied", [True, False])
    def test_a_model_that_does_not_fit(self, make_base, make_run, base, monkeypatch, tied):
        """Its layers wait in files: the figures are those of the model in memory, and the base stays as it is."""
        other = make_base(tiny_config(base, tie_word_embeddings=tied), max_shard_size="100KB")
        before = weights_fingerprint(other)
        run = make_run(other)
        expected = merge(run).measured
        for limit in (0, 200_000):  # every layer in the files, and some
            monkeypatch.setattr("train.models.load.free_memory", lambda device, limit=limit: {"cpu": limit})
            model, _ = load_tuned(run, offload=True)
            assert any(has_offloaded_params(module) for module in model.modules())
            found = merge(run, force=True).measured
            assert found.trained.loss == pytest.approx(expected.trained.loss, rel=1e-6)
            assert found.trained.untuned == pytest.approx(expected.trained.untuned, rel=1e-5)
            merged = found.targets["16bit"].merged
            assert merged.mean_kl < 1e-6
            assert merged.loss == pytest.approx(expected.targets["16bit"].merged.loss, rel=1e-6)
        assert weights_fingerprint(other) == before

    @pytest.mark.parametrize("lora", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}], ids=str)
    @pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
    def test_adapters_that_need_their_layers_weights_are_not_offloaded(self, make_run, base, monkeypatch, lora):
        monkeypatch.setattr("train.models.load.free_memory", lambda device: {"cpu": 0})
        model, _ = load_tuned(make_run(base, **lora), offload=True)
        assert not any(has_offloaded_params(module) for module in model.modules())

    @pytest.mark.parametrize(
        ("in_4bit", "merged", "said"),
        [
            (False, False, "does not fit the GPU: try model.load_in_4bit=true"),
            (True, False, "does not fit the GPU even in NF4: choose a smaller base"),
            (True, True, "runs/made/merged does not fit the GPU: govor merge --device cpu, and for use govor export"),
        ],
    )
    def test_advice_where_memory_ends(self, make_run, base, monkeypatch, in_4bit, merged, said):
        """It does not advise what is set already."""
        run = make_run(base, model={"load_in_4bit": in_4bit})
        run.merged.mkdir()

        def full(*arguments, **settings):
            raise torch.OutOfMemoryError

        monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
        with pytest.raises(MachineError) as error:
            load_merged(run) if merged else load_tuned(run)
        assert said in str(error.value)

    @pytest.mark.parametrize(
        ("where", "said"),
        [
            ("replace_merged", "for the merge: govor merge runs/done --device cpu"),
            ("measure_drift", "for its check: govor merge runs/done --device cpu --force"),
        ],
    )
    def test_a_card_that_fills_up_on_the_way(self, run, monkeypatch, where, said):
        def full(*_, **__):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        monkeypatch.setattr(f"train.merging.merge.{where}", full)
        result = govor("merge", str(run.path))
        assert result.exit_code == 2 and result.stderr.strip().endswith(said)

    def test_the_check_leaves_nothing_on_disk_and_needs_no_room(self, run, monkeypatch):
        """A vocabulary of 262,144 used to need 2.5 GB and more for log-probabilities."""
        merge(run, measure=False)
        usage = shutil.disk_usage(".")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        assert measure_drift(run, [("16bit", run.merged)], use_cpu=True).targets["16bit"].merged.mean_kl < 1e-6
        assert not list(run.path.glob("drift*")) and not list(run.path.glob(".drift*"))

    def test_nothing_held_out(self, make_run, base):
        run = make_run(base, held_out=0)
        result = govor("merge", str(run.path))
        assert result.exit_code == 0
        assert result.stdout.endswith("its drift was not measured: no row was held out\n")
        assert run.manifest()["merge"]["passed"] is None

    def test_not_asked_for(self, run):
        result = govor("merge", str(run.path), "--no-drift")
        assert result.exit_code == 0
        assert result.stdout.endswith("its drift was not measured\n")
        assert govor("merge", str(run.path), "--no-drift", "--compare").stderr == (
            "error: --no-drift measures nothing: leave out --compare and --max-drift\n"
        )


def result_with(*, kl: float, base: float, adapter: float, target_base: float, merged: float) -> Merged:
    """A merge into 16 bits after QLoRA with these losses."""
    trained = Tune(adapter, Drift(0.4, 1.0, 0.8, base))
    at_target = MergeDrift(Drift(kl, 1.0, 0.9, merged), Tune(merged, Drift(0.3, 1.0, 0.8, target_base)))
    measured = Measured(22, 1024, trained, {"16bit": at_target})
    return Merged(Path("runs/x/merged"), "16bit", "bfloat16", 1.0, "nf4", measured, None)


class TestVerdict:
    def test_of_the_issue(self):
        """Gemma 3 270M after six steps of QLoRA: the gate refused the model with the better held-out loss."""
        result = result_with(kl=1e-4, base=4.791, adapter=4.527, target_base=4.442, merged=4.325)
        assert result.passed
        assert report(result, measured=True).splitlines()[-3:] == [
            "✅ mean KL 0.0001 is within 0.1 nats a token",
            "NF4 costs the base 0.349 nats a token (4.442 in 16 bits, 4.791 in NF4); of the 0.264 that training gained "
            "over NF4, 0.117 stay in 16 bits",
            "use 16bit: held-out loss 4.325, against 4.527 of nf4",
        ]

    @pytest.mark.parametrize(
        ("figures", "fault"),
        [
            ({"merged": 4.5, "target_base": 4.53}, "held-out loss 4.500 keeps 0.030 of the 0.600 nats that training"),
            ({"merged": 4.5, "target_base": 4.57}, None),  # more than a tenth stays
            ({"merged": 4.1, "target_base": 4.11}, None),  # better than the adapter
            ({"merged": 4.2, "target_base": 4.9, "kl": 0.11}, "mean KL 0.11 is above 0.1 nats a token: it answers"),
            ({"merged": 4.2, "target_base": 4.9, "kl": float("nan")}, "mean KL nan is above 0.1 nats a token"),
            ({"merged": 4.9, "target_base": 4.8, "adapter": 4.9}, None),  # training itself gained nothing
        ],
    )
    def test_rule(self, figures, fault):
        result = result_with(**({"kl": 1e-4, "base": 4.8, "adapter": 4.2} | figures))
        assert result.passed is (fault is None)
        assert (result.fault or "").startswith(fault or "")
        assert ("❌ " in report(result, measured=True)) is (fault is not None)

    def test_advice_names_the_other_target(self):
        result = result_with(kl=1e-4, base=4.8, adapter=4.2, target_base=4.7, merged=4.5)
        assert report(result, measured=True).splitlines()[-1] == (
            "use nf4: held-out loss 4.200, against 4.500 of 16bit: govor merge runs/x --target nf4 --force"
        )


class TestFiles:
    def test_tokenizer_and_what_stands_beside_it_are_the_base_s(self, make_base, make_run, base):
        other = make_base(tiny_config(base))
        (other / "preprocessor_config.json").write_text("{}")
        run = make_run(other)
        merge(run, measure=False)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json"):
            assert (run.merged / name).read_bytes() == (other / name).read_bytes()
        assert {path.name for path in run.merged.glob("[!.]*")} == {path.name for path in other.iterdir()}
        before, after = (json.loads((folder / "config.json").read_text()) for folder in (other, run.merged))
        assert before == after

    def test_it_does_not_overwrite(self, run):
        merge(run, measure=False)
        result = govor("merge", str(run.path))
        assert (result.exit_code, result.stderr) == (
            2, "error: runs/done/merged is there already (16bit): --force replaces it\n",
        )  # fmt: skip

    def test_force_replaces_it(self, make_run, base):
        run = make_run(base, model={"load_in_4bit": True})
        merge(run, measure=False)
        first = weights(run.merged)
        for name in ("merged.old", "merged.new", "merged/gguf"):  # as somebody may have put them there
            (run.path / name).mkdir()
            (run.path / name / "mine").write_text("x")
        assert govor("merge", str(run.path), "--target", "nf4", "--force", "--no-drift").exit_code == 0
        assert all((run.path / name / "mine").exists() for name in ("merged.old", "merged.new", "merged/gguf"))
        name = "model.layers.0.mlp.up_proj.weight"
        assert not torch.equal(first[name], weights(run.merged)[name])
        assert run.manifest()["merge"]["target"] == "nf4"
        there = {path.name for path in run.path.iterdir() if path.is_dir()}
        assert there == {"adapter", "merged", "merged.old", "merged.new"}

    def test_a_link_in_the_place_of_merged_is_not_followed(self, run):
        Path("foreign").mkdir()
        for name in ("model.safetensors", "thesis.txt"):
            Path("foreign", name).write_text("mine")
        run.merged.symlink_to(Path("foreign").absolute())
        result = govor("merge", str(run.path), "--force", "--no-drift")
        assert result.exit_code == 2 and f"{run.merged} is a link to" in result.stderr
        assert sorted(path.name for path in Path("foreign").iterdir()) == ["model.safetensors", "thesis.txt"]
        assert run.merged.is_symlink()

    def test_weights_of_an_earlier_merge_do_not_stay(self, run):
        """The base may have been saved in other shards since: an index that names them would be believed."""
        merge(run, measure=False)
        earlier = ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
        for name in earlier:
            (run.merged / name).write_text("{}")
        note_files(run.merged)
        (run.merged / "notes.txt").write_text("mine")
        merge(run, measure=False, force=True)
        assert not any((run.merged / name).exists() for name in earlier)
        assert (run.merged / "notes.txt").read_text() == "mine"

    def test_a_model_that_came_meanwhile_is_not_replaced_unasked(self, run, monkeypatch):
        module = import_module("train.merging.merge")
        original = module.write_merged

        def write(*more):
            run.merged.mkdir()
            (run.merged / "config.json").write_text("mine")
            return original(*more)

        monkeypatch.setattr(module, "write_merged", write)
        result = govor("merge", str(run.path), "--no-drift")
        assert result.exit_code == 2 and "merged has come into being meanwhile" in result.stderr
        assert [path.name for path in run.merged.iterdir()] == ["config.json"]

    def test_a_failed_replacement_leaves_the_old_one(self, run):
        merge(run, measure=False)
        before, saved = weights(run.merged), run.manifest()["merge"]
        (run.adapter / "adapter_model.safetensors").write_bytes(b"damaged")
        with pytest.raises(RunError, match="runs/done/adapter does not fit the base"):
            merge(run, force=True)
        assert all(torch.equal(before[name], tensor) for name, tensor in weights(run.merged).items())
        assert run.manifest()["merge"] == saved


class TestBadInput:
    def test_disk_too_small(self, run, monkeypatch):
        usage = shutil.disk_usage(".")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(MachineError, match="the merged model needs"):
            merge(run)
        assert not run.merged.exists()

    def test_base_that_has_changed(self, make_base, make_run, base):
        other = make_base(tiny_config(base))
        run = make_run(other)
        file = other / "model.safetensors"
        changed = bytearray(file.read_bytes())
        changed[-1] ^= 1
        file.write_bytes(changed)
        with pytest.raises(BaseError, match=f"{other} has changed since runs/made was trained on it"):
            merge(run)

    def test_fully_tuned(self, run):
        run.adapter.rename(run.merged)
        assert govor("merge", str(run.path)).stderr == (
            "error: runs/done was tuned whole: runs/done/merged already is the model\n"
        )

    def test_adapter_of_another_base_by_name(self, run):
        file = run.adapter / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": "Qwen/Qwen3-8B"}))
        result = govor("merge", str(run.path))
        assert result.exit_code == 2
        assert result.stderr.startswith("error: runs/done/adapter was trained over Qwen/Qwen3-8B, the run over ")
        assert result.stderr.count("\n") == 1

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"hidden_size": 32}, "size mismatch for "),
            ({"num_hidden_layers": 3}, "model.layers.2."),
            ({"num_hidden_layers": 1}, "is not in the adapter's file"),
        ],
    )
    def test_adapter_of_another_base_by_shape(self, make_base, make_run, base, changes, said):
        """The adapter is of a base with these changes, the run's own base is the tiny one or has more layers."""
        if changes == {"num_hidden_layers": 1}:
            mine, theirs = base, make_base(tiny_config(base, num_hidden_layers=1, layer_types=["full_attention"]))
        else:
            kinds = ["full_attention"] * changes.get("num_hidden_layers", 2)
            mine, theirs = base, make_base(tiny_config(base, layer_types=kinds, **changes))
        run = make_run(theirs)
        adapter = run.path.rename("runs/theirs") / "adapter"
        run = make_run(mine)
        shutil.copy(adapter / "adapter_model.safetensors", run.adapter)
        with pytest.raises(RunError, match="runs/made/adapter does not fit the base: ") as error:
            merge(run)
        assert said in str(error.value)
        assert "\n" not in str(error.value)
        assert not run.merged.exists()

    def test_layers_that_the_files_lack(self, make_base, make_run, base):
        other = make_base(tiny_config(base))
        run = make_run(other)
        file = other / "model.safetensors"
        tensors = load_file(file)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, file, metadata={"format": "pt"})
        manifest = run.manifest()
        run.update_manifest(base={**manifest["base"], "weights": weights_fingerprint(other)})
        with pytest.raises(
            RunError, match=r"changes model\.layers\.1\.mlp\.up_proj\.weight, which the base's files do not"
        ):
            merge(run)

    def test_adapter_of_numbers_that_are_not_finite(self, run):
        file = run.adapter / "adapter_model.safetensors"
        tensors = load_file(file)
        next(iter(tensors.values()))[0, 0] = float("nan")
        save_file(tensors, file, metadata={"format": "pt"})
        with pytest.raises(RunError, match="holds numbers that are not finite"):
            merge(run)
        assert not run.merged.exists()

    def test_base_stored_quantised(self, make_base, make_run, base):
        other = make_base(tiny_config(base))
        run = make_run(other)
        file = other / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": {"quant_method": "gptq"}}))
        with pytest.raises(BaseError, match=r"is stored quantised \(gptq\)"):
            merge(run)

    def test_a_kind_that_has_nothing_to_merge(self, run):
        (run.adapter / "adapter_model.safetensors").unlink()
        file = run.adapter / "adapter_config.json"
        name = json.loads(file.read_text())["base_model_name_or_path"]
        file.write_text(json.dumps({"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4,
                                    "base_model_name_or_path": name}))  # fmt: skip
        result = govor("merge", str(run.path))
        assert result.exit_code == 2
        assert result.stderr.splitlines()[-1].startswith("error: runs/done/adapter cannot be merged into ")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_no_gpu(self, run):
        result = govor("merge", str(run.path), "--device", "cuda")
        assert result.exit_code == 2
        assert result.stderr.endswith("sees no CUDA GPU: merge with --device cpu\n")


class TestGeneration:
    def test_settings_are_the_config_s(self, run, base, tokenizer):
        merge(run, measure=False)
        for folder in (run.adapter, run.merged):
            saved = GenerationConfig.from_pretrained(folder)
            for name, value in run.config().generation.model_dump().items():
                assert getattr(saved, name) == value, name
            assert saved.eos_token_id == tokenizer.eos_token_id
            assert saved.pad_token_id == tokenizer.pad_token_id

    def test_the_trained_end_of_turn_stops_whatever_the_base_says(self, make_base, write_config, base, tokenizer):
        """The base stops at another token and has settings of its own; generate() without arguments obeys ours."""
        other = make_base(tiny_config(base))
        own = {"eos_token_id": [tokenizer.pad_token_id], "top_k": 7, "temperature": 0.1, "max_length": 30}
        (other / "generation_config.json").write_text(json.dumps(own))
        answer = [{"role": "user", "content": "Как ты?"}, {"role": "assistant", "content": "Хорошо."}]
        Path("one.jsonl").write_text(
            (json.dumps({"messages": answer}, ensure_ascii=False) + "\n") * 8, encoding="utf-8"
        )
        run = train(load_config(write_config(
            model={"name_or_path": str(other)}, data={"train_file": "one.jsonl", "eval_fraction": 0},
            training={"max_steps": 15, "learning_rate": 0.03}, generation={"temperature": 0.5, "max_new_tokens": 60},
        )))  # fmt: skip
        merge(run, measure=False)
        saved = json.loads((run.merged / "generation_config.json").read_text())
        assert saved["eos_token_id"] == [tokenizer.pad_token_id, tokenizer.eos_token_id]
        assert (saved["top_k"], saved["temperature"], saved["max_new_tokens"]) == (7, 0.5, 60)
        assert "max_length" not in saved
        model = AutoModelForCausalLM.from_pretrained(run.merged)
        prompt = tokenizer.apply_chat_template(answer[:1], add_generation_prompt=True, return_tensors="pt")["input_ids"]
        said = model.generate(prompt, do_sample=False)[0, prompt.shape[1] :].tolist()
        assert said[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(said, skip_special_tokens=True) == "Хорошо."

    def test_greedy_is_valid_to_transformers(self, make_run, base):
        run = make_run(base)
        text = run.config_file.read_text(encoding="utf-8").replace("do_sample: true", "do_sample: false")
        run.config_file.write_text(text, encoding="utf-8")
        merge(run, measure=False)
        saved = GenerationConfig.from_pretrained(run.merged)
        saved.validate(strict=True)
        assert saved.do_sample is False


SCRIPT = """
    import resource, sys, torch, transformers, peft
    from pathlib import Path
    from transformers import AutoModelForCausalLM
    from peft import PeftModel, LoraConfig
    from train.merging.merge import merge
    from train.core.runs import open_run
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    merge(open_run(Path("runs/made")), measure=False, force=True)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.fixture
def big_run(make_run, base, tokenizer) -> Run:
    """A run whose base has shards of about 60 MB, 300 MB together."""
    size = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 16, "head_dim": 64}
    heads = {"num_attention_heads": 12, "num_key_value_heads": 4, "layer_types": ["full_attention"] * 16}
    config = tiny_config(base, **size, **heads)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(0.01)
    model.tie_weights()
    model.save_pretrained("big", max_shard_size="60MB")
    copy_tokenizer(base, tokenizer, Path("big"))
    return make_run(Path("big").absolute(), model={"dtype": "auto"}, r=8)


class TestBigModels:
    def start(self) -> subprocess.Popen:
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
        repository = str(REPOSITORY)
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": repository, "OMP_NUM_THREADS": "1"},
        )

    @pytest.mark.long
    def test_memory_and_sigkill(self, big_run):
        """It needs less than its largest shard, and what a killed merge leaves is no model."""
        base = Path("big")
        shards = [file.stat().st_size for file in base.glob("*.safetensors")]
        assert len(shards) >= 4
        half = ".merged.*.partial"
        with self.start() as process:
            while process.poll() is None and len([*big_run.path.glob(f"{half}/*.safetensors")]) < 2:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert [*big_run.path.glob(half)], "killed in the middle"
        assert not big_run.merged.exists()

        with self.start() as process:
            grown = int(process.communicate()[0])
        assert process.returncode == 0
        assert grown < 1.5 * max(shards) < sum(shards) / 2
        assert not [*big_run.path.glob(half)]
        assert weights(big_run.merged).keys() == weights(base).keys()
