"""README.md of the repository: what a stranger needs to know to use the model, from the run folder; never a row."""

from collections.abc import Sequence
from typing import Any

import yaml

from train.core.config import Config
from train.exports.hub.card_facts import Facts
from train.exports.hub.card_usage import quote, usage
from train.exports.hub.licences import Licence

LIBRARY = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}
RELATION = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}


def card(facts: Facts) -> str:
    """The whole file. Pushed again it is the same to the byte."""
    parts = [
        f"---\n{yaml.safe_dump(metadata(facts), allow_unicode=True, sort_keys=False)}---\n",
        f"# {facts.name}\n",
        _what_it_is(facts),
        f"## Use\n\n{usage(facts)}",
        f"## Data\n\n{_data(facts)}",
        f"## Training\n\n{_training(facts)}",
        f"## Measured\n\n{_measured(facts)}",
        _samples(facts),
        f"## Limits\n\n{_limits(facts)}",
        f"## Licence\n\n{_licence(facts)}",
    ]
    return "\n".join(part for part in parts if part)


def metadata(facts: Facts) -> dict[str, Any]:
    """As the Hub reads it from the card's head."""
    found: dict[str, Any] = {}
    if facts.licence:
        found["license"] = facts.licence.id
        if facts.licence.name:
            found["license_name"] = facts.licence.name
        if facts.licence.link:
            found["license_link"] = facts.licence.link
    if facts.base:
        found |= {"base_model": facts.base, "base_model_relation": RELATION[facts.what]}
    found |= {"library_name": LIBRARY[facts.what], "pipeline_tag": "text-generation"}
    if facts.languages:
        found["language"] = list(facts.languages)
    method = ["lora" if facts.config.lora else "full-tuning", "sft", "trl"]
    return found | {"tags": [*method, *(["gguf"] if facts.what == "gguf" else []), "govor"]}


def _what_it_is(facts: Facts) -> str:
    kind = {
        "adapter": f"A LoRA adapter for {facts.base_name}",
        "merged": f"{facts.base_name}, " + ("with a LoRA adapter merged in" if facts.config.lora else "tuned whole"),
        "gguf": f"{facts.base_name}, tuned and converted to GGUF",
    }[facts.what]
    return f"{kind}: it was trained on dialogues to answer in the manner of one person. Made with govor.\n"


def _data(facts: Facts) -> str:
    train, held_out = (facts.manifest["data"].get(name) or {} for name in ("train", "held_out"))
    rows = [
        ("Source", facts.source or "not stated"),
        ("Languages", ", ".join(facts.languages) or "not stated"),
        ("Dialogues to train on", _count(train.get("rows"))),
        ("Tokens in them, of these learned", f"{_count(train.get('tokens'))}, {_count(train.get('trained_tokens'))}"),
        ("Dialogues held out", _count(held_out.get("rows"))),
    ]
    changed = {name: len(train.get(name) or ()) for name in ("dropped", "truncated", "split")}
    if any(changed.values()):
        rows.append(("Too long", ", ".join(f"{count} {name}" for name, count in changed.items() if count)))
    learned = "the answers alone" if facts.config.training.assistant_only_loss else "whole conversations"
    return f"{_table(rows)}\nLearned were {learned}. The dialogues themselves are not published here.\n"


def _training(facts: Facts) -> str:
    config, training, manifest = facts.config, facts.config.training, facts.manifest
    processes = manifest.get("processes") or {}
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
    batch *= processes.get("num_processes", 1)
    rows = [("Method", _method(config))]
    if config.lora:
        targets = config.lora.target_modules
        rows += [
            ("Rank, alpha, dropout", f"{config.lora.r}, {config.lora.lora_alpha}, {config.lora.lora_dropout:g}"),
            ("Adapted layers", targets if isinstance(targets, str) else ", ".join(targets)),
        ]
    if parameters := manifest.get("parameters"):
        rows.append(("Weights trained", f"{_count(parameters['trainable'])} of {_count(parameters['all'])}"))
    rows += [
        (
            "Learning rate",
            f"{training.learning_rate:g}, {training.lr_scheduler_type}, warm-up {training.warmup_steps:g}",
        ),
        ("Steps, rows a step", f"{_count(facts.steps)}, {_count(batch)}"),
        ("Longest row", f"{_count(training.max_length)} tokens"),
        ("Optimizer", training.optim),
        ("Seed", str(training.seed)),
        ("Hardware", f"{processes.get('num_processes', 1)} × {processes.get('device', 'unknown')}"),
    ]
    if "seconds" in manifest:
        rows.append(("Time", f"{manifest['seconds'] / 60:.1f} minutes"))
    versions = {name: found for name, found in (manifest.get("versions") or {}).items() if found}
    rows.append(("Versions", ", ".join(f"{name} {found}" for name, found in versions.items())))
    return _table(rows)


def _measured(facts: Facts) -> str:
    manifest = facts.manifest
    evaluation, parity = manifest.get("evaluation"), manifest.get("parity")
    lines = []
    if evaluation and evaluation.get("base_loss") is not None:
        before, after = evaluation["base_loss"], evaluation["tuned_loss"]
        lines.append(
            f"- Held-out loss over {_count(evaluation['rows'])} dialogues, nats a token: **{before:.3f} before, "
            f"{after:.3f} after** training ({after / before - 1:+.0%})."
        )
    else:
        lines.append("- The held-out loss was not measured.")
    if parity and parity.get("prompts"):
        same = parity["prompts"] - len(parity["differing"])
        lines.append(f"- {same} of {parity['prompts']} held-out prompts render exactly as in training.")
    if facts.what != "adapter" and facts.config.lora:
        lines.append(_drift(manifest.get("merge")))
    return "\n".join(lines) + "\n"


def _drift(merge: dict[str, Any] | None) -> str:
    """How far merging moved the answers."""
    measured = (merge or {}).get("drift")
    if not merge or not measured:
        return "- The merged model was not compared with the adapter."
    found = measured[merge["target"]]
    return (
        f"- Merged against the adapter at {_count(measured['tokens'])} held-out tokens: mean KL {found['mean_kl']:.1g} "
        f"nats, the same likeliest token at {found['top1']:.1%} of them, held-out loss {found['loss']:.3f} "
        f"({measured['adapter_loss']:.3f} as adapter)."
    )


def _samples(facts: Facts) -> str:
    if not facts.samples:
        return ""
    lines = ["## Answers\n", "One sampled answer each, unedited.\n"]
    for sample in facts.samples:
        lines += [
            quote(sample.prompt),
            "",
            f"**Base:** {_flat(sample.before)}",
            "",
            f"**This model:** {_flat(sample.after)}",
            "",
        ]
    return "\n".join(lines)


def _limits(facts: Facts) -> str:
    config, manifest = facts.config, facts.manifest
    held_out = (manifest["data"].get("held_out") or {}).get("rows") or 0
    train = (manifest["data"].get("train") or {}).get("rows") or 0
    lines = [
        "It imitates a manner of speaking. What it says is made up, may be wrong, and is nobody's word: do not present "
        "it as a real person's.",
        f"It learned from {_count(train)} dialogues. On other subjects, in other languages and beyond "
        f"{_count(config.training.max_length)} tokens it was not tried.",
        f"Loss on {_count(held_out)} held-out dialogues says how well it predicts such text, not whether it is right, "
        "safe or kind." if held_out else "No dialogue was held out: nothing says how it does on text it has not seen.",
        "It may repeat what stood in its training data. It brings along the base's own faults.",
        "No advice on health, law or money should be taken from it.",
    ]  # fmt: skip
    if config.model.load_in_4bit and facts.what == "adapter":
        lines.append("It was trained over the base in NF4; over 16-bit weights its answers differ a little.")
    if facts.what == "gguf":
        lines.append("The figures above are of the model before its conversion and quantisation.")
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _licence(facts: Facts) -> str:
    lines = [f"This model: {_link(facts.licence)}. Its base, {facts.base_name}: {_link(facts.base_licence)}."]
    if facts.base_licence and facts.base_licence.condition:
        if facts.base_licence.id.startswith("llama"):
            lines.insert(0, "Built with Llama.")
        lines.append(f"The base's licence asks: {facts.base_licence.condition}.")
    return "\n\n".join(lines) + "\n"


def _link(licence: Licence | None) -> str:
    if licence is None:
        return "licence unknown"
    return f"[{licence.name or licence.id}]({licence.link})" if licence.link else licence.name or licence.id


def _method(config: Config) -> str:
    if not config.lora:
        return "all weights tuned"
    kind = "DoRA" if config.lora.use_dora else "LoRA"
    start = f", begun as {config.lora.init_lora_weights}" if config.lora.init_lora_weights is not True else ""
    return f"{kind} over the base in NF4 (QLoRA){start}" if config.model.load_in_4bit else f"{kind}{start}"


def _count(number: int | None) -> str:
    """1,234,567 and never ten digits in a row, which would read as somebody's number."""
    return "unknown" if number is None else f"{number:,}"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {_cell(value)} |\n" for name, value in rows)


def _cell(text: str) -> str:
    return _flat(text).replace("|", "\\|")


def _flat(text: str) -> str:
    """On one line, and none of it markup."""
    return " ".join(text.split()).replace("<", "&lt;")
