"""README.md of the repository: what a stranger needs to know to use the model, from the run folder; never a row."""

from collections.abc import Sequence
from typing import Any

import yaml

from train.core.config import Config
from train.exports.hub.card_facts import CardFacts
from train.exports.hub.card_usage import as_text, quote, usage
from train.exports.hub.licences import Licence
from train.models.base import describe_template

LIBRARY = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}
RELATION = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}


def model_card(facts: CardFacts) -> str:
    """The whole README.md. Pushed again it is the same to the byte."""
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


def metadata(facts: CardFacts) -> dict[str, Any]:
    """The metadata at the head of the card, as the Hub reads it."""
    entries: dict[str, Any] = {}
    if facts.licence:
        entries["license"] = facts.licence.id
        if facts.licence.name:
            entries["license_name"] = facts.licence.name
        if facts.licence.link:
            entries["license_link"] = facts.licence.link
    if facts.base:
        entries |= {"base_model": facts.base, "base_model_relation": RELATION[facts.artifact]}
    entries |= {"library_name": LIBRARY[facts.artifact], "pipeline_tag": "text-generation"}
    if facts.languages:
        entries["language"] = list(facts.languages)
    method = ["lora" if facts.config.lora else "full-tuning", "dpo" if facts.config.dpo else "sft", "trl"]
    return entries | {"tags": [*method, *(["gguf"] if facts.artifact == "gguf" else []), "govor"]}


def _what_it_is(facts: CardFacts) -> str:
    kind = {
        "adapter": f"A LoRA adapter for {facts.base_name}",
        "merged": f"{facts.base_name}, " + ("with a LoRA adapter merged in" if facts.config.lora else "tuned whole"),
        "gguf": f"{facts.base_name}, tuned and converted to GGUF",
    }[facts.artifact]
    return f"{kind}: it was trained on dialogues to answer in the manner of one person. Made with govor.\n"


def _data(facts: CardFacts) -> str:
    train, held_out = (facts.manifest["data"].get(name) or {} for name in ("train", "held_out"))
    rows = [
        ("Source", facts.source or "not stated"),
        ("Languages", ", ".join(facts.languages) or "not stated"),
        ("Dialogues to train on", _count(train.get("rows"))),
        ("Tokens in them, of these learned", f"{_count(train.get('tokens'))}, {_count(train.get('trained_tokens'))}"),
        ("Dialogues held out", _count(held_out.get("rows"))),
    ]
    too_long = {name: len(train.get(name) or ()) for name in ("dropped", "truncated", "split")}
    if any(too_long.values()):
        rows.append(("Too long", ", ".join(f"{count} {name}" for name, count in too_long.items() if count)))
    learned = "the answers alone" if facts.config.training.assistant_only_loss else "whole conversations"
    return f"{_table(rows)}\nLearned were {learned}. The dialogues themselves are not published here.\n"


def _training(facts: CardFacts) -> str:
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
        ("Chat template", describe_template(manifest.get("template") or {})),
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
    versions = (manifest.get("versions") or {}).items()
    rows.append(("Versions", ", ".join(f"{name} {version}" for name, version in versions if version)))
    return _table(rows)


def _measured(facts: CardFacts) -> str:
    manifest = facts.manifest
    evaluation, parity = manifest.get("evaluation"), manifest.get("parity")
    lines = []
    if evaluation and "verdict" in evaluation:
        lines.append(f"- Judged by sampled answers: {evaluation['verdict']['en']}")
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
    if facts.artifact != "adapter" and facts.config.lora:
        lines.append(_drift(manifest.get("merge")))
    return "\n".join(lines) + "\n"


def _drift(merge: dict[str, Any] | None) -> str:
    """A line on how far merging moved the answers."""
    drift = (merge or {}).get("drift")
    if not merge or not drift:
        return "- The merged model was not compared with the adapter."
    merged = drift[merge["target"]]
    unmerged = merged.get("adapter_loss", drift["adapter_loss"])
    trained = f", {drift['adapter_loss']:.3f} over the 4-bit base of training" * (unmerged != drift["adapter_loss"])
    return (
        f"- Merged against the adapter at {_count(drift['tokens'])} held-out tokens: mean KL {merged['mean_kl']:.1g} "
        f"nats, the same likeliest token at {merged['top1']:.1%} of them, held-out loss {merged['loss']:.3f} "
        f"({unmerged:.3f} as adapter{trained})."
    )


def _samples(facts: CardFacts) -> str:
    if not facts.samples:
        return ""
    lines = ["## Answers\n", "One sampled answer each, unedited.\n"]
    for sample in facts.samples:
        lines += [
            quote(sample.prompt),
            "",
            f"**Base:** {as_text(' '.join(sample.before.split()))}",
            "",
            f"**This model:** {as_text(' '.join(sample.after.split()))}",
            "",
        ]
    return "\n".join(lines)


def _limits(facts: CardFacts) -> str:
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
    if config.model.load_in_4bit and facts.artifact == "adapter":
        lines.append("It was trained over the base in NF4; over 16-bit weights its answers differ a little.")
    if facts.artifact == "gguf":
        lines.append("The figures above are of the model before its conversion and quantisation.")
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _licence(facts: CardFacts) -> str:
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
    """The number as 1,234,567: ten digits in a row would read as somebody's phone number."""
    return "unknown" if number is None else f"{number:,}"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {_cell(value)} |\n" for name, value in rows)


def _cell(text: str) -> str:
    return _one_line(text).replace("|", "\\|")


def _one_line(text: str) -> str:
    """The text on one line, its markup escaped."""
    return " ".join(text.split()).replace("<", "&lt;")
