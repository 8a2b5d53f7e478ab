"""What the page of a run reads from its folder."""

import pytest

from train.encoding.held_out import held_out_rows
from train.evaluation.sampling import AnswerFile, held_out_prompts
from train.models.base import weights_fingerprint
from train.studio.run_page import answers_by_state, changed_options, describe

pytestmark = pytest.mark.slow


def test_answers_of_each_state_to_the_same_prompts(run):
    """As `govor eval --checkpoints` keeps them: under the weights of the model that gave them."""
    import json

    assert answers_by_state(run) is None
    prompts = held_out_prompts(held_out_rows(run))
    checkpoint = run.checkpoints / "checkpoint-6"
    file = AnswerFile(run.evaluation / "answers.jsonl")
    run.evaluation.mkdir()
    models = {"base": run.manifest()["base"]["weights"], "tuned": weights_fingerprint(run.adapter)}
    # the last checkpoint has the weights of the adapter: that they are the tuned model's is what is shown
    assert weights_fingerprint(checkpoint) == models["tuned"]
    for name, weights in models.items():
        key = json.dumps(weights, sort_keys=True, ensure_ascii=False)
        file.append(key, "[]", [(prompt, 0, f"{name} {at}") for at, prompt in enumerate(prompts)])
    file.append(json.dumps({"other": "weights"}), "[]", [(prompts[0], 0, "no model of this run")])
    with file.path.open("a") as handle:
        handle.write('{"model": "half')
    told = answers_by_state(run)
    assert told["states"] == ["base", "tuned"]
    for at, shown in enumerate(told["prompts"]):
        assert shown["answers"] == [f"base {at}", f"tuned {at}"] and shown["real"] == prompts[at].real.text
        assert shown["messages"][-1]["content"] == prompts[at].messages[-1]["content"]


def test_only_what_was_changed_is_listed(run):
    options = {one["option"]: (one["value"], one["default"]) for one in changed_options(run.config())}
    assert options["training.learning_rate"] == (0.02, 0.0002) and options["training.max_steps"][0] == 6
    assert "lora.r" not in options and "training.seed" not in options
    told = describe(run)
    assert told["parity"] == {"prompts": told["parity"]["prompts"], "differing": []}
    assert told["data"]["train"]["rows"] == 19 and told["merge"] is None and told["evaluated"] is None
