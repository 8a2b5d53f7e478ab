"""Exports: LLaMA-Factory's folder, GGUF, Ollama. What the tools themselves make of them stands in test_peers.py."""

import copy
import json
import shutil
from collections import namedtuple
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tests.encoding.test_template_families import DIALOGUE as TALK
from tests.encoding.test_template_families import SHIPPED, SPECIAL
from train.chats.readers import read_rows
from train.chats.rows import Row
from train.cli import main
from train.core.config import Training, config_class, load_config
from train.core.errors import BaseError
from train.core.runs import Run
from train.encoding.rows import encode_rows
from train.exports.gguf.export import export_gguf
from train.exports.gguf.pretokenizer import PRE_TOKENIZERS, find_pre_tokenizer
from train.exports.gguf.prompts import prompt_of
from train.exports.llamafactory.export import export_llamafactory
from train.exports.llamafactory.readme import readme
from train.exports.llamafactory.rows import text_rows
from train.exports.llamafactory.settings import (
    NEWER_FIELDS,
    NO_COUNTERPART,
    TRANSLATED,
    TRL_ONLY,
    named_targets,
    training_settings,
)
from train.exports.llamafactory.templates import choose_template
from train.exports.ollama import find_pieces, render_prompt
from train.merging.merge import merge

SYSTEM = {"role": "system", "content": "Ты Наташа."}


@pytest.fixture(scope="module")
def merged_run(finished_run, tmp_path_factory) -> Run:
    """The finished run, copied and merged; tests only read it."""
    run = Run(tmp_path_factory.mktemp("merged") / "done")
    shutil.copytree(finished_run.path, run.path)
    merge(run, measure=False)
    return run


@pytest.fixture
def tokenizer_of(tokenizer_with):
    """A small tokenizer with one of the templates that TRL ships."""

    def make(name: str):
        template = (SHIPPED / f"{name}.jinja").read_text(encoding="utf-8")
        eos = next((end for end in ENDS if end in template), "</s>")
        return tokenizer_with(template, SPECIAL.findall(template), eos)

    return make


ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<|end|>", "<|END_OF_TURN_TOKEN|>")


def export(*words: object):
    return CliRunner().invoke(main, ["export", *map(str, words)])


def problem(result) -> str:
    """The one line of an error."""
    assert result.exit_code != 0
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.output
    return lines[0]


def read_yaml(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def folder(finished_run, tmp_path_factory) -> Path:
    """For LLaMA-Factory, of the finished run."""
    folder = tmp_path_factory.mktemp("lf") / "out"
    export_llamafactory(finished_run, folder)
    return folder


@pytest.fixture(scope="module")
def file(merged_run, tmp_path_factory) -> Path:
    """The merged model as GGUF in half precision."""
    file = tmp_path_factory.mktemp("gguf") / "x.gguf"
    lines, passed = export_gguf(merged_run, file, quantization="f16")
    assert passed and lines[0].startswith(f"wrote {file}: f16, ")
    return file


class TestLlamaFactory:
    def test_rows_are_those_of_the_run(self, folder, finished_run):
        """The ids, the split and the order that were trained."""
        from datasets import load_from_disk

        from train.models.load import load_tokenizer

        parts = load_from_disk(str(folder / "tokenized"))
        manifest = finished_run.manifest()["data"]
        tokenizer = load_tokenizer(finished_run.adapter)
        held_out = read_rows(finished_run.held_out_file)
        expected = encode_rows(tokenizer, held_out, max_length=512).encoded
        assert parts["validation"]["input_ids"][:] == [one.input_ids for one in expected]
        assert parts["validation"]["labels"][:] == [one.labels for one in expected]
        for name, part in (("train", "train"), ("held_out", "validation")):
            labels = parts[part]["labels"][:]
            assert len(parts[part]) == manifest[name]["rows"]
            assert sum(map(len, parts[part]["input_ids"])) == manifest[name]["tokens"]
            assert sum(label != -100 for row in labels for label in row) == manifest[name]["trained_tokens"]

    def test_text_says_the_same(self, folder, finished_run):
        info = json.loads((folder / "dataset_info.json").read_bytes())
        assert {name: entry["formatting"] for name, entry in info.items()} == {
            "done_train": "sharegpt", "done_held_out": "sharegpt",
        }  # fmt: skip
        assert [row.messages for row in read_rows(folder / "held_out.jsonl")] == [
            row.messages for row in read_rows(finished_run.held_out_file)
        ]
        assert {"messages", "system", "tools"} == set(info["done_train"]["columns"])
        columns = set(info["done_train"]["columns"].values())
        assert all(set(record) == columns for record in lines_of(folder / "train.jsonl"))

    def test_settings(self, folder, finished_run):
        train = read_yaml(folder / "train.yaml")
        base = finished_run.config().model.name_or_path
        assert train["model_name_or_path"] == base and Path(base).is_absolute()
        expected = {
            "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_rank": 16, "lora_alpha": 32,
            "lora_target": "all", "template": "qwen3_nothink", "cutoff_len": 512, "learning_rate": 0.02, "seed": 42,
            "max_steps": 6, "num_train_epochs": 3, "per_device_train_batch_size": 4, "warmup_steps": 0.05,
            "lr_scheduler_type": "cosine", "weight_decay": 0, "optim": "adamw_torch_fused", "use_cpu": True,
            "disable_gradient_checkpointing": False, "dataset": "done_train", "eval_dataset": "done_held_out",
            "tokenized_path": "tokenized", "gradient_accumulation_steps": 1, "flash_attn": "sdpa", "report_to": "none",
        }  # fmt: skip
        assert {key: train.get(key) for key in expected} == expected
        assert "bf16" not in train and "quantization_bit" not in train
        answering = read_yaml(folder / "inference.yaml")
        system = read_rows(finished_run.held_out_file)[0].messages[0]["content"]
        assert answering["default_system"] == system
        assert (answering["max_new_tokens"], answering["temperature"], answering["top_k"]) == (8, 0.8, 50)
        assert read_yaml(folder / "api.yaml") == {k: v for k, v in answering.items() if k != "default_system"}
        assert read_yaml(folder / "merge.yaml")["adapter_name_or_path"] == "adapter"
        for file in finished_run.adapter.glob("[!.]*"):
            assert (folder / "adapter" / file.name).read_bytes() == file.read_bytes()

    def test_nothing_of_the_training_section_is_lost(self, write_config, working_folder):
        """Every field is in train.yaml or in the account of what is not."""
        odd = {"fit": "auto", "packing": True, "loss_type": "dft", "dataloader_in_order": False, "max_grad_norm": 0.5}
        config = load_config(write_config(training=odd))
        left_out: dict[str, str] = {}
        found = training_settings(config, left_out, evaluate=True)
        assert found["max_grad_norm"] == 0.5
        assert {"training.fit", "training.packing", "training.loss_type", "training.dataloader_in_order"} == set(
            left_out
        )
        named = {"max_length": "cutoff_len", "activation_checkpointing": "disable_gradient_checkpointing"}
        for name in {*Training.model_fields, *odd} - {"assistant_only_loss", "kernels"}:  # as they are by default
            told = f"training.{name}" in left_out or named.get(name, name) in found
            assert told or getattr(config.training, name) is None, name

    def test_an_adapter_on_the_head_is_said_aloud(self, write_config):
        result = export(
            write_config(name="soon", lora={"target_modules": ["q_proj", "lm_head"]}), "--to", "llamafactory"
        )
        assert result.exit_code == 0, result.output
        assert read_yaml(Path("soon-llamafactory/train.yaml"))["lora_target"] == "q_proj,lm_head"
        assert "no counterpart: `lora.target_modules`: lm_head: where a base's head" in result.output

    def test_of_a_config_before_any_run(self, write_config, working_folder):
        result = export(write_config(name="soon"), "training.max_steps=9", "--to", "llamafactory")
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("wrote soon-llamafactory: README.md, api.yaml, dataset_info.json,")
        assert "adapter/" not in result.stdout
        assert read_yaml(Path("soon-llamafactory/train.yaml"))["max_steps"] == 9
        assert read_yaml(Path("soon-llamafactory/merge.yaml"))["adapter_name_or_path"] == "saves"
        assert not Path("runs").exists()

    @pytest.mark.parametrize(
        ("sections", "expected"),
        [
            ({"model": {"load_in_4bit": True}, "training": {"use_cpu": False}},
             {"quantization_bit": 4, "quantization_method": "bnb", "quantization_type": "nf4",
              "double_quantization": True}),
            ({"model": {"dtype": "auto"}, "training": {"use_cpu": False}}, {"bf16": True}),
            ({"model": {"dtype": "float16", "attn_implementation": "flash_attention_2"},
              "training": {"use_cpu": False}}, {"fp16": True, "flash_attn": "fa2"}),
            ({"lora": {"init_lora_weights": "pissa_niter_8", "use_rslora": True, "lora_dropout": 0.1}},
             {"pissa_init": True, "pissa_iter": 8, "use_rslora": True, "lora_dropout": 0.1}),
            ({"lora": {"target_modules": ["q_proj", "v_proj"]}}, {"lora_target": "q_proj,v_proj"}),
            ({"training": {"assistant_only_loss": False}}, {"train_on_prompt": True}),
            ({"data": {"eval_fraction": 0}}, {"eval_strategy": "no", "eval_on_start": False}),
            ({"lora": None}, {"finetuning_type": "full"}),
        ],
    )  # fmt: skip
    def test_mapping(self, write_config, sections, expected):
        export_llamafactory(load_config(write_config(**sections)), Path("out"))
        train = read_yaml(Path("out/train.yaml"))
        assert {key: train.get(key) for key in expected} == expected
        assert ("eval_dataset" in train) == (train["eval_strategy"] != "no")
        assert Path("out/merge.yaml").exists() == (train["finetuning_type"] == "lora")

    def test_a_regular_expression_becomes_names(self, write_config):
        pattern = r".*layers\.1\.self_attn\.(q|v)_proj"
        export_llamafactory(load_config(write_config(lora={"target_modules": pattern})), Path("out"))
        names = ["model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"]
        assert read_yaml(Path("out/train.yaml"))["lora_target"].split(",") == names
        assert named_targets("nothing", ["model.x.weight"]) is None
        config = write_config(lora={"target_modules": "no_such"})
        assert "fits no layer" in problem(export(config, "--to", "llamafactory", "-o", "other"))

    def test_alpaca_stays_alpaca(self, write_config, working_folder):
        records = [{"instruction": f"问题 {n}？", "input": "背景" * (n % 2), "output": f"回答 {n}。"} for n in range(9)]
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (working_folder / "a.jsonl").write_text(text, encoding="utf-8")
        export_llamafactory(load_config(write_config(data={"train_file": "a.jsonl"})), Path("out"))
        info = json.loads(Path("out/dataset_info.json").read_bytes())
        assert {entry["formatting"] for entry in info.values()} == {"alpaca"}
        said = [row.messages for part in ("train", "held_out") for row in read_rows(Path(f"out/{part}.jsonl"))]
        original = [row.messages for row in read_rows(Path("a.jsonl"))]
        assert sorted(map(str, said)) == sorted(map(str, original))

    def test_what_the_text_cannot_say_is_said(self, write_config, working_folder):
        rows = [
            {"messages": [*TALK[:1], {**TALK[1], "weight": 0}, *TALK[2:]]},
            {"messages": [TALK[0], TALK[2], TALK[3]]},
            {"messages": [SYSTEM, *TALK]},
        ]
        path = working_folder / "odd.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        result = export(
            write_config(data={"train_file": str(path), "eval_fraction": 0}), "--to", "llamafactory", "-o", "out"
        )
        assert result.exit_code == 0, result.output
        assert "weights of 1 rows: the text files have no place for them" in result.stdout
        assert "1 rows do not go question, answer, question" in result.stdout
        page = Path("out/README.md").read_text(encoding="utf-8")
        assert "weights of 1 rows" in page and "`prompts`" in page
        assert len(lines_of(Path("out/train.jsonl"))) == 2
        from datasets import load_from_disk

        tokenized = load_from_disk("out/tokenized")["train"]
        assert len(tokenized) == 3
        assert sum(label != -100 for label in tokenized["labels"][0]) < sum(
            label != -100 for label in tokenized["labels"][2]
        )

    def test_never_in_the_place_of_something_else(self, write_config, working_folder):
        config = write_config()
        words = (config, "--to", "llamafactory", "-o", "out")
        assert export(*words).exit_code == 0
        before = Path("out/train.yaml").stat().st_mtime_ns
        assert problem(export(*words)) == "error: out is there already: --force replaces it"
        assert Path("out/train.yaml").stat().st_mtime_ns == before
        (working_folder / "out/mine.txt").write_text("mine")
        (working_folder / "out/saves/adapter").mkdir(parents=True)  # where LLaMA-Factory's own training goes
        result = export(*words, "--force")
        assert result.exit_code == 0 and Path("out/train.yaml").stat().st_mtime_ns > before
        assert Path("out/mine.txt").read_text() == "mine" and Path("out/saves/adapter").is_dir()
        assert "left as they were: mine.txt, saves" in result.stderr
        Path("photos").mkdir()
        Path("photos/one.jpg").write_bytes(b"1")
        for more in ((), ("--force",)):
            assert "holds other files" in problem(export(config, "--to", "llamafactory", "-o", "photos", *more))
        assert "you stand in" in problem(export(config, "--to", "llamafactory", "-o", ".", "--force"))
        assert sorted(path.name for path in Path().iterdir()) == ["out", "photos", "x.yaml"]

    def test_a_broken_export_leaves_what_was_there(self, write_config, working_folder, monkeypatch):
        config = load_config(write_config())
        export_llamafactory(config, Path("out"))
        module = import_module("train.exports.llamafactory.export")
        monkeypatch.setattr(module, "_write_yaml", lambda *_: (_ for _ in ()).throw(OSError(28, "full", "x")))
        with pytest.raises(OSError):
            export_llamafactory(config, Path("out"), force=True)
        assert Path("out/train.yaml").is_file()
        assert sorted(path.name for path in Path().iterdir()) == ["out", "x.yaml"]

    def test_rows_that_have_changed(self, finished_run, tmp_path):
        run = Run(tmp_path / "run")
        shutil.copytree(finished_run.path, run.path)
        manifest = run.manifest()
        manifest["data"]["train"]["sha256"] = "0"
        run.update_manifest(data=manifest["data"])
        assert "has changed since" in problem(export(run.path, "--to", "llamafactory"))

    @pytest.mark.parametrize(("contents", "said"), [("{", "not valid JSON"), ('{"top_k": "x"}', "top_k is 'x'")])
    def test_damaged_sampling_settings_are_named(self, contents, said, run):
        (run.adapter / "generation_config.json").write_text(contents, encoding="utf-8")
        with pytest.raises(BaseError, match=rf"generation_config\.json: {said}"):
            export_llamafactory(run)

    def test_wrong_use(self, finished_run, write_config):
        assert "leave out a=1" in problem(export(finished_run.path, "a=1", "--to", "gguf"))
        assert "is no config file" in problem(export(finished_run.path, "a=1", "--to", "llamafactory"))
        asked = export(write_config(), "--to", "llamafactory", "--quantization", "f16")
        assert "--quantization is for gguf and ollama" in problem(asked)


@pytest.mark.parametrize(
    ("shipped", "model_type", "name", "thinking"),
    [
        ("qwen3_instruct_2507", "qwen3", "qwen3_nothink", True),
        ("qwen3", "qwen3", "qwen3", True),
        ("qwen2_5", "qwen2", "qwen", True),
        ("qwen3_5_nothink", "qwen3_5", "qwen3_5", False),
        ("qwen3_5_nothink", "qwen3_5_text", "qwen3", False),  # the other wants an image processor
        ("llama3", "llama", "llama3", True),
        ("gemma3", "gemma3", "gemma3", True),
        ("gemma3", "gemma3_text", "gemma", True),
        ("gemma", "gemma2", "gemma", True),
        ("phi3_5", "phi3", "phi", True),
        ("cohere", "cohere", "cohere", True),
    ],
)
def test_the_template_that_renders_as_trained(tokenizer_of, shipped, model_type, name, thinking):
    tokenizer = tokenizer_of(shipped)
    rows = [Row(1, TALK), Row(2, TALK[:2])]
    if shipped not in ("gemma",):
        rows.append(Row(3, [SYSTEM, *TALK]))
    image_processor = model_type in ("qwen3_5", "gemma3")
    encoding = encode_rows(tokenizer, rows, max_length=999)
    choice = choose_template(tokenizer, encoding, model_type, image_processor=image_processor)
    assert choice is not None
    assert (choice.template.name, choice.thinking, choice.same_prompts) == (name, thinking, len(rows))


def test_no_template_is_taken_where_none_fits(tokenizer, write_config):
    """LLaMA-Factory reads the tokenizer's own then, and the user is told."""
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = tokenizer.chat_template.replace("message.role +", "message.role + ':' +")
    encoding = encode_rows(changed, [Row(1, TALK)], max_length=999)
    assert choose_template(changed, encoding, "qwen3") is None
    assert choose_template(tokenizer, encode_rows(tokenizer, [Row(1, TALK)], max_length=999), "qwen3") is not None
    text, notes = readme(
        load_config(write_config()), None, {}, text_rows([], alpaca=False), text_rows([], alpaca=False), encoding,
        tuned=True,
    )  # fmt: skip
    assert "`template` is left out" in text and len(notes) == 1


class TestGguf:
    def fields(self, file: Path) -> dict:
        reader = import_module("gguf").GGUFReader(str(file))
        return {name: field.contents() for name, field in reader.fields.items()}

    def test_what_is_inside(self, file, merged_run, tokenizer):
        found = self.fields(file)
        assert found["general.architecture"] == "qwen3" and found["general.name"] == "done"
        assert found["tokenizer.ggml.pre"] == "qwen2"
        assert found["tokenizer.chat_template"] == tokenizer.chat_template
        assert found["tokenizer.ggml.eos_token_id"] == tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert found["tokenizer.ggml.tokens"][: len(tokenizer)] == tokenizer.convert_ids_to_tokens(
            range(len(tokenizer))
        )
        assert list(file.parent.iterdir()) == [file]

    def test_weights_are_the_merged_ones(self, file, merged_run):
        """W of every layer, rounded once to half precision."""
        import numpy as np
        from safetensors.numpy import load_file

        weights = load_file(merged_run.merged / "model.safetensors")
        tensors = {tensor.name: tensor for tensor in import_module("gguf").GGUFReader(str(file)).tensors}
        for ours, theirs in (("mlp.down_proj", "ffn_down"), ("self_attn.v_proj", "attn_v")):
            for layer in range(2):
                whole = weights[f"model.layers.{layer}.{ours}.weight"]
                assert np.array_equal(tensors[f"blk.{layer}.{theirs}.weight"].data, whole.astype(np.float16))

    def test_overwriting(self, merged_run, file):
        before = file.stat().st_mtime_ns
        words = (merged_run.path, "--to", "gguf", "-o", file)
        assert problem(export(*words)) == f"error: {file} is there already: --force replaces it"
        assert file.stat().st_mtime_ns == before
        assert "ends in .gguf" in problem(export(merged_run.path, "--to", "gguf", "-o", file.parent / "x.bin"))

    def test_disk(self, merged_run, tmp_path, monkeypatch):
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 8, 1))
        said = problem(export(merged_run.path, "--to", "gguf", "-o", tmp_path / "x.gguf"))
        assert "the f32 file needs" in said and "1 B is free" in said

    def test_types(self, merged_run, tmp_path, monkeypatch):
        assert "--quantization q9 is unknown: f32, f16" in problem(
            export(merged_run.path, "--to", "gguf", "--quantization", "q9")
        )
        monkeypatch.setenv("PATH", str(tmp_path))
        asked = export(merged_run.path, "--to", "gguf", "--quantization", "q4_k_m", "-o", tmp_path / "x.gguf")
        if asked.exit_code:  # without llama-cpp-python
            command = f"llama-quantize {tmp_path / 'done-f16.gguf'} {tmp_path / 'x.gguf'} Q4_K_M"
            assert problem(asked).endswith(command)

    def test_not_merged(self, finished_run):
        assert f"govor merge {finished_run.path}" in problem(export(finished_run.path, "--to", "gguf"))

    def test_an_unknown_way_to_cut_words(self, merged_run, tmp_path):
        run = Run(tmp_path / "odd")
        shutil.copytree(merged_run.path, run.path)
        file = run.merged / "tokenizer.json"
        tree = json.loads(file.read_bytes())
        tree["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"\s|[^\s]{1,5}"}
        file.write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")
        said = problem(export(run.path, "--to", "gguf"))
        assert "does not know how its tokenizer cuts text into words" in said
        assert list((run.path / "exports").iterdir()) == []


class TestCut:
    def test_known_ways(self, tokenizer):
        cut = find_pre_tokenizer(tokenizer, ["Привет, мир! 123"])
        assert cut is not None and cut.name == "qwen2"

    def test_what_differs_is_told(self, tokenizer):
        """Words as Qwen2 cuts them, but without English contractions: of no account in Russian."""
        changed = with_cut(tokenizer, PRE_TOKENIZERS["qwen2"].partition("|[^")[2].join(("[^", "")))
        assert find_pre_tokenizer(changed, ["Привет, мир! 123"]) == ("qwen2", "'Moore")
        assert find_pre_tokenizer(changed, ["Привет", "O'Moore"]) is None

    def test_digits(self, tokenizer):
        assert find_pre_tokenizer(with_cut(tokenizer, PRE_TOKENIZERS["llama-bpe"]), ["1234"]) == ("llama-bpe", None)


def with_cut(tokenizer, words: str):
    """The tokenizer with another idea of a word."""
    from tokenizers import Regex, pre_tokenizers

    changed = copy.deepcopy(tokenizer)
    split = pre_tokenizers.Split(Regex(words), behavior="isolated")
    changed.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return changed


class TestOllama:
    def test_folder(self, merged_run, tmp_path):
        folder = tmp_path / "ollama"
        result = export(merged_run.path, "--to", "ollama", "--quantization", "q8_0", "-o", folder)
        assert result.exit_code == 0, result.output
        assert sorted(path.name for path in folder.glob("[!.]*")) == ["Modelfile", "done-q8_0.gguf"]
        assert result.stdout.strip().endswith(f"next: ollama create done -f {folder / 'Modelfile'}")
        assert "TEMPLATE renders 5 of 5 prompts as the model's own chat template" in result.stdout
        text = (folder / "Modelfile").read_text(encoding="utf-8")
        assert text.startswith('FROM ./done-q8_0.gguf\n\nTEMPLATE """')
        parameters = dict(line.split(" ", 2)[1:] for line in text.splitlines() if line.startswith("PARAMETER "))
        assert parameters == {
            "stop": '"<|im_end|>"', "temperature": "0.8", "top_p": "0.9", "top_k": "50", "repeat_penalty": "1.05",
            "repeat_last_n": "-1", "num_predict": "8", "num_ctx": "1024",
        }  # fmt: skip
        system = read_rows(merged_run.held_out_file)[0].messages[0]["content"]
        assert text.endswith(f'SYSTEM """{system}"""\n')
        assert "is there already" in problem(export(merged_run.path, "--to", "ollama", "-o", folder))

    @pytest.mark.parametrize(
        "shipped",
        ["qwen3_instruct_2507", "qwen3", "qwen2_5", "qwen3_5_nothink", "llama3", "gemma3", "phi3_5", "cohere",
         "deepseekv3", "gemma4"],
    )  # fmt: skip
    def test_pieces_render_as_the_chat_template(self, tokenizer_of, shipped):
        tokenizer = tokenizer_of(shipped)
        pieces = find_pieces(tokenizer)
        for messages in (TALK[:1], TALK[:3], [SYSTEM, *TALK[:1]], [SYSTEM, *TALK[:3]]):
            assert render_prompt(pieces, messages) == prompt_of(tokenizer, messages)

    def test_a_template_that_cannot_be_said(self, merged_run, tmp_path):
        run = Run(tmp_path / "odd")
        shutil.copytree(merged_run.path, run.path)
        template = "{% for m in messages %}{{ m.role }}{{ m.content | upper }}<|im_end|>{% endfor %}"
        (run.merged / "chat_template.jinja").write_text(template)
        assert "no TEMPLATE of Ollama can say it" in problem(export(run.path, "--to", "ollama"))
        (run.merged / "chat_template.jinja").write_text(
            "{% for m in messages %}{{ m.role }}{{ m.content }}<|im_end|>{% endfor %}{{ messages[0].content | length }}"
        )
        assert "cannot be said in Ollama's" in problem(export(run.path, "--to", "ollama"))
        assert not (run.path / "exports" / "ollama").exists()


def test_plain_libraries_load_adapter_and_merged(merged_run):
    """Without a line of ours: the same logits from base + adapter and from the merged model."""
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    chat = [{"role": "user", "content": "Кто я?"}]
    prompts = [
        AutoTokenizer.from_pretrained(folder).apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        for folder in (merged_run.adapter, merged_run.merged)
    ]
    assert torch.equal(*prompts)
    tuned = AutoPeftModelForCausalLM.from_pretrained(merged_run.adapter, dtype=torch.float32).eval()
    merged = AutoModelForCausalLM.from_pretrained(merged_run.merged, dtype=torch.float32).eval()
    with torch.no_grad():
        one, two = tuned(prompts[0]).logits, merged(prompts[0]).logits
        with tuned.disable_adapter():
            base = tuned(prompts[0]).logits
    assert (one - two).abs().max() < 1e-4
    assert (one - base).abs().max() > 0.1


def test_every_setting_of_ours_is_accounted_for():
    """What SFTConfig does not know, LLaMA-Factory's trainer does not either, and it refuses unknown keys."""
    from trl import SFTConfig

    own = set(Training.model_fields) - set(SFTConfig.__dataclass_fields__)
    assert own <= set(NO_COUNTERPART)
    fields = set(type(config_class().model_fields["training"].default).model_fields)
    assert {*TRANSLATED, *NO_COUNTERPART, *TRL_ONLY, *NEWER_FIELDS} - {"gradient_checkpointing_kwargs"} <= fields
