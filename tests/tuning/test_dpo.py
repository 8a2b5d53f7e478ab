"""Preference tuning over a tiny model: what is learned, against what, and that a run is a run like any other."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.conftest import REPOSITORY, govor
from train.chats.pairs import question_of, questions_of, read_pair_split, read_pairs, split_pairs
from train.core.config import load_config
from train.core.errors import ConfigError, DataError, RunError
from train.core.runs import Run
from train.dpo import train
from train.encoding.held_out import encode_held_out, held_out_rows
from train.encoding.loss_mask import encode_row, render
from train.encoding.pairs import encode_pairs, tell_by_length
from train.encoding.rows import encode_rows
from train.evaluation.judged_rows import persona_run, trained_rows
from train.evaluation.meter import make_meter
from train.models.load import load_run_tokenizer, load_tuned
from train.sft import train as train_on_rows

OTHERS = ("Не знаю.", "Спроси кого-нибудь ещё.", "Мне всё равно.", "Давай потом, я занята.")
"""What nobody prefers."""


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory, rows_file) -> Path:
    """Of the 24 short dialogues each last answer, preferred to one of OTHERS."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number, line in enumerate(rows_file.read_text(encoding="utf-8").splitlines()):
            *prompt, answer = json.loads(line)["messages"]
            other = {"role": "assistant", "content": OTHERS[number % len(OTHERS)]}
            row = {"input": {"messages": prompt}, "preferred_output": [answer], "non_preferred_output": [other]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


@pytest.fixture
def write_dpo(write_config, pairs_file):
    """As `write_config`, with a section dpo over the pairs."""

    def write(**sections) -> Path:
        sections["data"] = {"train_file": str(pairs_file), **sections.get("data", {})}
        return write_config(**{"dpo": {"beta": 0.1}, **sections})

    return write


def tiny(path: Path, *overrides: str) -> Run:
    return train(load_config(path, overrides))


@pytest.fixture(scope="session")
def dpo_run(tmp_path_factory, base, pairs_file):
    """A finished preference run that tests only read."""
    folder = tmp_path_factory.mktemp("dpo")
    tree = {
        "name": "dpo",
        "model": {"name_or_path": str(base), "dtype": "float32"},
        "data": {"train_file": str(pairs_file), "eval_fraction": 0.2},
        "lora": {"r": 8, "lora_alpha": 16},
        "training": {"use_cpu": True, "learning_rate": 0.005, "num_train_epochs": 5, "logging_steps": 2,
                     "per_device_eval_batch_size": 4, "max_length": 512},
        "dpo": {"beta": 0.1},
        "generation": {"max_new_tokens": 8},
        "prompts": ["Кто я?"],
    }  # fmt: skip
    config = folder / "dpo.yaml"
    config.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = train(load_config(config))
    return Run(folder / run.path)


def summed(model, encoded) -> float:
    """Log-probability of a pair's answer under a model, in nats."""
    start, end = encoded.answers[-1]
    with torch.inference_mode():
        scores = model(torch.tensor([encoded.input_ids])).logits[0].log_softmax(-1)
    return sum(float(scores[at - 1, encoded.input_ids[at]]) for at in range(start, end))


def rewards(tuned, reference, pairs, beta: float) -> list[float]:
    """The margin of each pair, computed anew by the formula of the paper."""
    return [
        beta * (summed(tuned, one) - summed(reference, one) - summed(tuned, two) + summed(reference, two))
        for one, two in zip(pairs.preferred.encoded, pairs.other, strict=True)
    ]


def held_out_pairs(run: Run):
    split, tokenizer = read_pair_split(run.config()), load_run_tokenizer(run)
    return encode_pairs(lambda rows: encode_rows(tokenizer, rows, max_length=512), split.held_out)


class TestWhatIsLearned:
    def test_unseen_pairs_are_told_apart(self, dpo_run):
        lines = [entry for entry in dpo_run.metrics() if "eval_loss" in entry]
        first, last = lines[0], lines[-1]
        assert first["eval_loss"] == pytest.approx(math.log(2)) and first["eval_rewards/margins"] == 0
        assert last["eval_rewards/margins"] > 0 and last["eval_rewards/accuracies"] >= 0.8
        assert {"loss", "rewards/margins", "rewards/accuracies"} <= {*dpo_run.metrics()[1]}

    def test_the_figures_are_those_of_the_formula(self, dpo_run, base):
        """Counted pair by pair: 5 pairs in batches of 4 would weigh the last one four times."""
        pairs = held_out_pairs(dpo_run)
        assert len(pairs.other) % 4
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        tuned, _ = load_tuned(dpo_run)
        margins = rewards(tuned, plain, pairs, 0.1)
        last = [entry for entry in dpo_run.metrics() if "eval_loss" in entry][-1]
        assert last["eval_rewards/margins"] == pytest.approx(sum(margins) / len(margins), abs=1e-4)
        assert last["eval_rewards/accuracies"] == pytest.approx(sum(m > 0 for m in margins) / len(margins))

    def test_length_alone_is_named_beside(self, dpo_run, capsys):
        told = dpo_run.manifest()["preferences"]
        assert told == tell_by_length(*(held_out_pairs(dpo_run),) * 2)._asdict() | {"shorter": told["shorter"]}
        from train.tuning.manifest import summary

        text = summary(dpo_run)
        assert "held-out pairs told rightly" in text and "by length alone" in text
        page = dpo_run.report_file.read_text(encoding="utf-8")
        assert page.count("<svg") >= 3

    def test_the_adapter_stands_alone_over_the_untouched_base(self, dpo_run, base):
        assert not (dpo_run.adapter / "ref").exists()
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        PeftModel.from_pretrained(plain, dpo_run.adapter)

    def test_eval_and_merge_work_on_it(self, dpo_run, working_folder):
        shutil.copytree(dpo_run.path, "runs/dpo")
        result = govor("eval", "runs/dpo", "--quick")
        assert result.exit_code == 0 and "held-out loss" in result.output
        assert govor("merge", "runs/dpo").exit_code == 0


class TestPairs:
    def test_prompts_and_ends_are_those_of_rows(self, dpo_run, pairs_file):
        tokenizer = load_run_tokenizer(dpo_run)
        pairs = read_pairs(pairs_file)
        encoded = encode_pairs(lambda rows: encode_rows(tokenizer, rows, max_length=512), pairs)
        for pair, one, two in zip(pairs, encoded.preferred.encoded, encoded.other, strict=True):
            served = render(
                tokenizer, [{k: v for k, v in m.items() if k != "weight"} for m in pair.other.messages[:-1]]
            )
            start = one.answers[-1][0]
            assert one.input_ids[:start] == two.input_ids[:start] == served
            whole = encode_row(tokenizer, pair.other)
            assert two.input_ids == whole.input_ids[: whole.answers[-1][1]]
            assert {one.input_ids[-1], two.input_ids[-1]} == {tokenizer.eos_token_id}

    def test_the_held_out_rows_are_kept_as_rows(self, dpo_run):
        rows, tokenizer = held_out_rows(dpo_run), load_run_tokenizer(dpo_run)
        kept = [*encode_held_out(dpo_run, tokenizer, rows)]
        pairs = held_out_pairs(dpo_run)
        assert [e.input_ids[: e.answers[-1][1]] for e in kept] == [e.input_ids for e in pairs.preferred.encoded]

    def test_evaluation_finds_the_rows_again(self, dpo_run):
        """So that copies and manner are measured against the preferred answers."""
        trained = trained_rows(dpo_run, held_out_rows(dpo_run))
        assert trained and len(trained) == dpo_run.manifest()["data"]["train"]["rows"]

    def test_inspect_and_plan_see_both_answers(self, write_dpo, pairs_file):
        path = str(write_dpo())
        shown = json.loads(govor("inspect", path, "--json").output)["rows"]
        assert len(shown) == 48 and {row["row"] for row in shown} == set(range(1, 25))
        plan = json.loads(govor("plan", path, "--json").output)
        assert plan["tokens"]["how"].startswith("counted") and "both answers" in plan["tokens"]["how"]
        split = read_pair_split(load_config(Path(path)))
        by_row = {}
        for row in shown:
            by_row[row["row"]] = by_row.get(row["row"], 0) + len(row["tokens"])
        assert plan["tokens"]["epoch"] == sum(by_row[pair.preferred.line] for pair in split.train)

    def test_a_dialogue_stands_on_one_side(self):
        """Every turn of the shipped dialogues, two votes on each; turns of one dialogue share its first question."""
        rows = []
        for line in (REPOSITORY / "data/natasha.jsonl").read_text(encoding="utf-8").splitlines()[:150]:
            messages = json.loads(line)["messages"]
            for at in [at for at, message in enumerate(messages) if message["role"] == "assistant"]:
                for other in ("Не знаю.", "Мне пора."):
                    rows.append({"input": {"messages": messages[:at]}, "preferred_output": [messages[at]],
                                 "non_preferred_output": [{"role": "assistant", "content": other}]})  # fmt: skip
        Path("votes.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        for seed in range(3):
            found = split_pairs(read_pairs(Path("votes.jsonl")), 0.2, seed)
            asked = [{next(m["content"] for m in pair.preferred.messages if m["role"] == "user") for pair in side}
                     for side in (found.train, found.held_out)]  # fmt: skip
            assert len(asked[1]) > 10 and not asked[0] & asked[1]
            assert 0.1 <= len(found.held_out) / len(rows) <= 0.3

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"non_preferred_output": [{"role": "assistant", "content": "А"}]}, "the two answers are the same"),
            ({"preferred_output": [{"role": "assistant", "content": "А"}] * 2}, "more than one turn of the assistant"),
            ({"preferred_output": [{"role": "user", "content": "А"}]}, "assistant"),
        ],
    )
    def test_what_is_no_pair_is_named_by_line(self, change, said, pairs_file):
        row = {"input": {"messages": [{"role": "user", "content": "Кто я?"}]},
               "preferred_output": [{"role": "assistant", "content": "А"}],
               "non_preferred_output": [{"role": "assistant", "content": "Б"}]}  # fmt: skip
        good = pairs_file.read_text(encoding="utf-8").splitlines()[:10]
        Path("p.jsonl").write_text("\n".join([*good, json.dumps(row | change, ensure_ascii=False)]))
        with pytest.raises(DataError, match=rf"p\.jsonl:11: .*{said}"):
            read_pairs(Path("p.jsonl"))
        result = govor("validate", "p.jsonl")
        assert result.exit_code == 1 and said in result.output

    def test_rows_of_one_answer_are_refused_and_said(self, write_dpo, rows_file):
        with pytest.raises(DataError, match="its rows have one answer"):
            tiny(write_dpo(data={"train_file": str(rows_file)}))
        assert not Path("runs/x").exists()

    def test_a_pair_goes_as_a_whole(self, write_dpo, pairs_file):
        lines = pairs_file.read_text(encoding="utf-8").splitlines()
        long = json.loads(lines[3])
        long["non_preferred_output"][0]["content"] = "Не знаю, " * 400
        lines[3] = json.dumps(long, ensure_ascii=False)
        Path("p.jsonl").write_text("\n".join(lines))
        data = {"train_file": "p.jsonl", "eval_fraction": 0.0}
        with pytest.raises(DataError, match=r"longer than training\.max_length"):
            tiny(write_dpo(data=data))
        run = tiny(write_dpo(data={**data, "too_long": "drop"}, training={"max_steps": 1}))
        assert run.manifest()["data"]["train"]["rows"] == 23
        assert run.manifest()["data"]["train"]["dropped"][0][0] == 4


class TestReference:
    def test_a_run_s_adapter_is_where_it_begins_and_what_it_is_compared_with(self, write_dpo, finished_run, base):
        start = {"r": 16, "lora_alpha": 32, "start_from": str(finished_run.path)}
        run = tiny(write_dpo(lora=start, training={"num_train_epochs": 2, "max_steps": -1, "learning_rate": 0.002}))
        lines = [entry for entry in run.metrics() if "eval_loss" in entry]
        assert lines[0]["eval_rewards/margins"] == 0 and lines[-1]["eval_rewards/margins"] > 0
        before, _ = load_tuned(finished_run)
        after, _ = load_tuned(run)
        margins = rewards(after, before, held_out_pairs(run), 0.1)
        assert lines[-1]["eval_rewards/margins"] == pytest.approx(sum(margins) / len(margins), abs=1e-4)
        for folder in (run.adapter, *run.checkpoints.glob("checkpoint-*")):
            assert not (folder / "ref").exists()
        old, new = (load_file(one.adapter / "adapter_model.safetensors") for one in (finished_run, run))
        assert old.keys() == new.keys()

    def test_it_is_judged_by_the_rows_of_the_run_that_it_went_on_from(self, write_dpo, finished_run):
        """The better of two answers may be the model's own: nearer to that is not nearer to the persona."""
        start = {"r": 16, "lora_alpha": 32, "start_from": str(finished_run.path)}
        run = tiny(write_dpo(lora=start, training={"max_steps": 1}))
        assert persona_run(run) == finished_run
        held_out, pairs = held_out_rows(finished_run), read_pair_split(run.config()).split.train
        meter = make_meter(run, None, load_run_tokenizer(run), None)
        assert meter.rows == held_out and meter.trained == trained_rows(finished_run, held_out)
        assert {row.line for row in pairs} <= {row.line for row in meter.other}
        run.update_manifest(start={"adapter_model.safetensors": "of another time"})
        assert persona_run(run) == run

    def test_questions_that_it_holds_out_are_not_trained(self, write_dpo, finished_run):
        start = {"r": 16, "lora_alpha": 32, "start_from": str(finished_run.path)}
        split = read_pair_split(load_config(write_dpo(lora=start)))
        kept_apart = questions_of(held_out_rows(finished_run))
        asked = {question_of(pair.preferred.messages[:-1]) for pair in split.train}
        assert asked and not asked & kept_apart
        plain = read_pair_split(load_config(write_dpo()))
        assert {question_of(pair.preferred.messages[:-1]) for pair in plain.train} & kept_apart
        assert len(split.split.left_out) == len(plain.train) - len(split.train)

    def test_it_may_not_change_before_a_run_is_resumed(self, write_dpo, finished_run, monkeypatch):
        shutil.copytree(finished_run.path, "start")
        config = write_dpo(lora={"r": 16, "lora_alpha": 32, "start_from": "start"}, training=STEPS)
        with pytest.raises(ZeroDivisionError):
            dying_at(3, config, monkeypatch)
        weights = Path("start/adapter/adapter_model.safetensors")
        from safetensors.torch import save_file

        save_file({name: 2 * weight for name, weight in load_file(weights).items()}, weights, {"format": "pt"})
        with pytest.raises(RunError, match=r"lora\.start_from=start: its adapter has changed"):
            train(load_config(config), resume=True)

    def test_nor_may_the_questions_that_it_holds_out(self, write_dpo, finished_run, monkeypatch):
        shutil.copytree(finished_run.path, "start")
        config = write_dpo(lora={"r": 16, "lora_alpha": 32, "start_from": "start"}, training=STEPS)
        with pytest.raises(ZeroDivisionError):
            dying_at(3, config, monkeypatch)
        shutil.move("start/held_out.jsonl", "away.jsonl")
        with pytest.raises(RunError, match=r"was begun with \d+ rows of .* tokens, would go on with \d+ of"):
            train(load_config(config), resume=True)
        shutil.move("away.jsonl", "start/held_out.jsonl")
        assert train(load_config(config), resume=True).adapter.is_dir()

    def test_a_tuned_head_is_scored_as_it_is(self, write_dpo, base):
        lora = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "lm_head"]}
        run = tiny(write_dpo(lora=lora))
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        tuned, _ = load_tuned(run)
        margins = rewards(tuned, plain, held_out_pairs(run), 0.1)
        last = [entry for entry in run.metrics() if "eval_loss" in entry][-1]
        assert last["eval_rewards/margins"] == pytest.approx(sum(margins) / len(margins), abs=1e-4)
        weights = load_file(run.adapter / "adapter_model.safetensors")
        assert any(
            "lm_head" in name and float(weight.abs().max()) > 0 for name, weight in weights.items() if "lora_B" in name
        )


STEPS = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 3}


def dying_at(step: int, config: Path, monkeypatch) -> None:
    from train.tuning.preference_trainer import PreferenceTrainer

    with monkeypatch.context() as patch:
        original = PreferenceTrainer.training_step

        def training_step(self, *more, **named):
            if self.state.global_step == step:
                raise ZeroDivisionError
            return original(self, *more, **named)

        patch.setattr(PreferenceTrainer, "training_step", training_step)
        train(load_config(config))


def learned(run: Run) -> list[dict]:
    """Metrics without what the clock says."""
    return [{k: v for k, v in entry.items() if k not in ("tokens_per_second", "memory_gib")} for entry in run.metrics()]


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.long
def test_resumed_to_the_byte(start, write_dpo, finished_run, monkeypatch):
    lora = {"r": 16, "lora_alpha": 32, **({"start_from": str(finished_run.path)} if start else {})}
    whole = tiny(write_dpo(name="whole", lora=lora, training=STEPS))
    config = write_dpo(name="cut", lora=lora, training=STEPS)
    with pytest.raises(ZeroDivisionError):
        dying_at(5, config, monkeypatch)
    assert not Path("runs/cut/adapter").exists()
    cut = train(load_config(config), resume=True)
    name = "adapter/adapter_model.safetensors"
    assert (cut.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert learned(cut) == learned(whole)


@pytest.mark.long
def test_qlora(write_dpo, finished_run):
    lora = {"r": 16, "lora_alpha": 32, "start_from": str(finished_run.path)}
    run = tiny(write_dpo(lora=lora, model={"load_in_4bit": True}, training={"max_steps": 25, "learning_rate": 0.005}))
    lines = [entry for entry in run.metrics() if "eval_loss" in entry]
    assert lines[0]["eval_rewards/margins"] == 0 and lines[-1]["eval_rewards/margins"] > 0
    weights = load_file(run.adapter / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"lora": None}, r"dpo: the reference is"),
        ({"lora": {"init_lora_weights": "pissa"}}, r"lora\.init_lora_weights"),
        ({"data": {"too_long": "truncate"}}, r"data\.too_long=truncate"),
        ({"training": {"fit": "auto"}}, r"training\.fit"),
        ({"training": {"kernels": ["head"]}}, r"training\.kernels"),
        ({"training": {"assistant_only_loss": False}}, r"training\.assistant_only_loss"),
        ({"training": {"label_smoothing_factor": 0.1}}, r"training\.label_smoothing_factor .* dpo\.label_smoothing"),
        ({"dpo": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1]}}, r"dpo\.loss_weights"),
        ({"dpo": {"loss_type": ["exo_pair"]}}, r"dpo\.label_smoothing"),
        ({"dpo": {"loss_type": ["nll"]}}, r"dpo\.loss_type"),
    ],
)
def test_what_does_not_go_together(sections, said, write_dpo):
    with pytest.raises(ConfigError, match=said):
        load_config(write_dpo(**sections))


def test_a_field_of_rows_is_refused_before_anything_starts(write_dpo):
    with pytest.raises(ConfigError, match=r"training\.packing belongs to rows of one answer"):
        tiny(write_dpo(training={"packing": True}))
    assert not Path("runs/x").exists()


def test_losses_may_be_added_up(write_dpo):
    run = tiny(write_dpo(dpo={"loss_type": ["sigmoid", "sft"], "loss_weights": [1, 0.2], "ld_alpha": 0.5}))
    assert run.adapter.exists()


def test_its_rate_and_epochs_are_smaller_unless_given(write_dpo):
    tree = yaml.safe_load(write_dpo().read_text(encoding="utf-8"))
    del tree["training"]["learning_rate"]
    Path("y.yaml").write_text(yaml.safe_dump(tree))
    config = load_config(Path("y.yaml"))
    assert (config.training.learning_rate, config.training.num_train_epochs) == (1e-5, 1)
    assert load_config(Path("y.yaml"), ["training.learning_rate=1e-4"]).training.learning_rate == 1e-4


def test_each_script_names_the_other(write_dpo, write_config):
    with pytest.raises(ConfigError, match=r"train/dpo\.py"):
        train_on_rows(load_config(write_dpo()))
    with pytest.raises(ConfigError, match=r"train/sft\.py"):
        train(load_config(write_config()))


def test_govor_train_takes_the_script_of_the_config(write_dpo, write_config):
    from train.core.launch import launch_command

    for path, script in ((write_dpo(name="a"), "dpo.py"), (write_config(name="b"), "sft.py")):
        command = launch_command(path, load_config(path), ["training.max_steps=1"], ())
        assert str(REPOSITORY / "train" / script) in command
