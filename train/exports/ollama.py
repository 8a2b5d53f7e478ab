"""A folder for Ollama: the GGUF file and a Modelfile whose TEMPLATE renders as the model's own chat template does.

Ollama renders with Go templates. This one is put together from what the chat template writes around the messages of a
conversation: the pieces are found by rendering one, then checked against held-out prompts.
"""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from train.chats.rows import Message, text_of
from train.core.errors import BaseError, DataError, GovorError
from train.core.files import complete_folder, require_replaceable
from train.core.runs import Run
from train.exports.gguf.check import compare
from train.exports.gguf.export import OWN_TYPE, resolve_type, write_gguf
from train.exports.gguf.prompts import asked, prompt_of
from train.exports.llamafactory.settings import top_k_of
from train.models.load import load_tokenizer
from train.models.save import GENERATION_FILE

MARKS = ("Modelfile",)
"""An earlier export is known by these."""
CHECKED = 50
"""Held-out prompts that the template is checked against."""
LEAST_CONTEXT = 4096
WORDS = ("probe-one", "probe-two", "probe-three")


class Pieces(NamedTuple):
    """What a chat template writes around the messages of a conversation that begins with a question."""

    before: str
    """Before the first question, without a system message."""
    before_system: str | None
    """None where it takes no system message."""
    after_system: str
    """To the first question."""
    after_question: str
    after_answer: str
    answer_next: str
    """After the last question, where the model answers."""


def export_ollama(
    run: Run, folder: Path | None = None, *, quantization: str | None = None, force: bool = False
) -> tuple[list[str], bool]:
    """Write RUN/exports/ollama; (what to tell the user, whether the file answers as the merged model)."""
    kind = resolve_type(run, quantization)
    folder = folder or run.path / "exports" / "ollama"
    require_replaceable(folder, MARKS, force=force)
    tokenizer = load_tokenizer(run.merged)
    pieces = find_pieces(tokenizer)
    prompts = asked(run, CHECKED)
    equal = sum(render(pieces, messages) == prompt_of(tokenizer, messages) for messages in prompts)
    if not equal:
        raise BaseError(
            f"{run.config().model.name_or_path}: its chat template cannot be said in Ollama's: none of {len(prompts)} "
            "prompts renders alike; govor export --to gguf writes the file, whose own chat template llama.cpp uses"
        )
    name = run.path.resolve().name
    with complete_folder(folder, replace=force) as aside:
        file = aside / f"{name}-{kind}.gguf"
        lines = write_gguf(run, file, kind)
        if adds_bos(file):
            pieces = without_bos(pieces, tokenizer.bos_token)
        (aside / "Modelfile").write_text(modelfile(run, tokenizer, pieces, file.name), encoding="utf-8")
    told, passed = compare(run, folder / file.name, exact=kind in OWN_TYPE.values())
    lines[0] = f"wrote {folder}: Modelfile, {file.name} ({kind}, tokenizer and chat template inside)"
    if run.manifest()["template"].get("date"):
        lines.append("note: the chat template writes the day's date into prompts; TEMPLATE keeps that of this export")
    lines.append(f"TEMPLATE renders {equal} of {len(prompts)} prompts as the model's own chat template")
    return [*lines, *told, f"next: ollama create {name.lower()} -f {folder / 'Modelfile'}"], passed


def find_pieces(tokenizer: Any) -> Pieces:
    """From a rendered conversation; BaseError where it does not show its messages in turn."""
    one, two, three = WORDS
    turns = [
        {"role": "user", "content": one},
        {"role": "assistant", "content": two},
        {"role": "user", "content": three},
    ]
    before, after_question, after_answer, answer_next = _between(prompt_of(tokenizer, turns), WORDS)
    try:
        text = prompt_of(tokenizer, [{"role": "system", "content": "probe-system"}, *turns])
        before_system, after_system, *_ = _between(text, ("probe-system", *WORDS))
    except DataError:  # refuses a system message
        return Pieces(before, None, "", after_question, after_answer, answer_next)
    return Pieces(before, before_system, after_system, after_question, after_answer, answer_next)


def _between(text: str, words: Sequence[str]) -> list[str]:
    """What stands before, between and after the words."""
    pieces = []
    for word in words:
        piece, found, text = text.partition(word)
        if not found:
            raise BaseError("its chat template does not show a conversation in turn: no TEMPLATE of Ollama can say it")
        pieces.append(piece)
    return [*pieces, text]


def render(pieces: Pieces, messages: Sequence[Message]) -> str:
    """The prompt as the TEMPLATE writes it."""
    system = "\n\n".join(text_of(message) for message in messages if message["role"] == "system")
    turns = [message for message in messages if message["role"] != "system"]
    text = f"{pieces.before_system}{system}{pieces.after_system}" if system else pieces.before
    for index, message in enumerate(turns):
        last = index == len(turns) - 1
        if message["role"] == "user":
            text += text_of(message) + (pieces.answer_next if last else pieces.after_question)
        else:
            text += text_of(message) + ("" if last else pieces.after_answer)
    return text


def go_template(pieces: Pieces) -> str:
    """The same for Ollama, which hands over `.System` and `.Messages`, neighbours of one role joined."""
    before = _go(pieces.before)
    if pieces.before_system is not None:
        system = f"{_go(pieces.before_system)}{{{{ .System }}}}{_go(pieces.after_system)}"
        before = f"{{{{- if .System }}}}{system}{{{{ else }}}}{before}{{{{ end }}}}"
    return "\n".join(
        [
            before,
            "{{- range $i, $_ := .Messages }}",
            "{{- $last := eq (len (slice $.Messages $i)) 1 }}",
            '{{- if eq .Role "user" }}{{ .Content }}'
            f"{{{{ if $last }}}}{_go(pieces.answer_next)}{{{{ else }}}}{_go(pieces.after_question)}{{{{ end }}}}",
            '{{- else if eq .Role "assistant" }}{{ .Content }}'
            f"{{{{ if not $last }}}}{_go(pieces.after_answer)}{{{{ end }}}}",
            "{{- end }}",
            "{{- end }}",
        ]
    )


def _go(text: str) -> str:
    """The text as a string of Go's, line breaks and quotes escaped."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


def adds_bos(file: Path) -> bool:
    """Whether llama.cpp puts the bos token before every prompt itself."""
    reader = importlib.import_module("gguf").GGUFReader(str(file))
    field = reader.fields.get("tokenizer.ggml.add_bos_token")
    if field is not None:
        return bool(field.contents())
    return bool(reader.fields["tokenizer.ggml.model"].contents() == "llama")


def without_bos(pieces: Pieces, bos: str | None) -> Pieces:
    system = pieces.before_system
    return pieces._replace(
        before=pieces.before.removeprefix(bos or ""),
        before_system=None if system is None else system.removeprefix(bos or ""),
    )


def modelfile(run: Run, tokenizer: Any, pieces: Pieces, file_name: str) -> str:
    """FROM, TEMPLATE, PARAMETER and, where the rows share one, SYSTEM."""
    lines = [f"FROM ./{file_name}", "", f'TEMPLATE """{go_template(pieces)}"""', ""]
    lines += [f"PARAMETER {name} {value}" for name, value in parameters(run, tokenizer)]
    system = run.manifest()["data"].get("system_message")
    if system and pieces.before_system is not None:
        if '"""' in system:
            raise GovorError('the system message holds """, which a Modelfile cannot say: export with --to gguf')
        lines += ["", f'SYSTEM """{system}"""']
    return "\n".join(lines) + "\n"


def parameters(run: Run, tokenizer: Any) -> list[tuple[str, str]]:
    """How it samples and where it stops, as the run was told and trained."""
    config, saved = run.config(), json.loads((run.merged / GENERATION_FILE).read_bytes())
    window = json.loads((run.merged / "config.json").read_bytes())
    window = window.get("text_config", window).get("max_position_embeddings", LEAST_CONTEXT)
    sampling = config.generation
    ends = tokenizer.convert_ids_to_tokens(run.manifest()["template"]["end_of_turn"])
    context = max(LEAST_CONTEXT, config.training.max_length + sampling.max_new_tokens)
    found: list[tuple[str, object]] = [("stop", json.dumps(end, ensure_ascii=False)) for end in ends]
    found.append(("temperature", sampling.temperature if sampling.do_sample else 0))
    if sampling.do_sample:
        found += [("top_p", sampling.top_p), ("top_k", top_k_of(saved))]
    found += [
        ("repeat_penalty", sampling.repetition_penalty),
        ("repeat_last_n", -1),  # over all that was said, as transformers does
        ("num_predict", sampling.max_new_tokens),
        ("num_ctx", min(context, window)),
    ]
    return [(name, str(value)) for name, value in found]
