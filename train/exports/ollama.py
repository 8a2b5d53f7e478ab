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
from train.exports.gguf.check import check_gguf
from train.exports.gguf.export import GGUF_TYPES, resolve_type, write_gguf
from train.exports.gguf.prompts import comparison_prompts, prompt_of
from train.exports.llamafactory.settings import top_k_of
from train.models.base import context_length, language_config, read_json
from train.models.load import load_run_tokenizer
from train.models.save import GENERATION_FILE

MARKS = ("Modelfile",)
"""Files by which an earlier export is recognised."""
CHECKED_PROMPTS = 50
"""The template is checked against so many held-out prompts, at most."""
MIN_CONTEXT = 4096
PROBES = ("probe-one", "probe-two", "probe-three")


class TemplatePieces(NamedTuple):
    """What a chat template writes around the messages of a conversation that begins with a question."""

    start: str
    """What stands before the first user message where there is no system message."""
    before_system: str | None
    """What stands before the system message; None where the template takes none."""
    after_system: str
    """What stands between the system message and the first user message."""
    after_user: str
    """What stands after a user message that an answer follows."""
    after_assistant: str
    after_last_user: str
    """What stands after the last user message, where the model answers."""


def export_ollama(
    run: Run, folder: Path | None = None, *, quantization: str | None = None, force: bool = False
) -> tuple[list[str], bool]:
    """Write RUN/exports/ollama; returns (lines for the user, whether the file answers as the merged model)."""
    gguf_type = resolve_type(run, quantization)
    folder = folder or run.path / "exports" / "ollama"
    require_replaceable(folder, MARKS, force=force)
    tokenizer = load_run_tokenizer(run, run.merged)
    pieces = find_pieces(tokenizer)
    prompts = comparison_prompts(run, CHECKED_PROMPTS)
    equal = sum(render_prompt(pieces, messages) == prompt_of(tokenizer, messages) for messages in prompts)
    if not equal:
        raise BaseError(
            f"{run.config().model.name_or_path}: its chat template cannot be said in Ollama's: none of {len(prompts)} "
            "prompts renders alike; govor export --to gguf writes the file, whose own chat template llama.cpp uses"
        )
    name = run.path.resolve().name
    with complete_folder(folder, replace=force) as aside:
        file = aside / f"{name}-{gguf_type}.gguf"
        lines = write_gguf(run, file, gguf_type)
        if adds_bos(file):
            pieces = without_bos(pieces, tokenizer.bos_token)
        (aside / "Modelfile").write_text(modelfile(run, tokenizer, pieces, file.name), encoding="utf-8")
    comparison, passed = check_gguf(run, folder / file.name, exact=gguf_type in GGUF_TYPES.values())
    lines[0] = f"wrote {folder}: Modelfile, {file.name} ({gguf_type}, tokenizer and chat template inside)"
    if run.template_date():
        lines.append("note: the chat template writes the day's date into prompts; TEMPLATE keeps that of this export")
    lines.append(f"TEMPLATE renders {equal} of {len(prompts)} prompts as the model's own chat template")
    return [*lines, *comparison, f"next: ollama create {name.lower()} -f {folder / 'Modelfile'}"], passed


def find_pieces(tokenizer: Any) -> TemplatePieces:
    """Find the pieces in a rendered conversation; BaseError where it does not show its messages in turn."""
    one, two, three = PROBES
    turns: list[Message] = [
        {"role": "user", "content": one},
        {"role": "assistant", "content": two},
        {"role": "user", "content": three},
    ]
    start, after_user, after_assistant, after_last_user = _between(prompt_of(tokenizer, turns), PROBES)
    try:
        text = prompt_of(tokenizer, [{"role": "system", "content": "probe-system"}, *turns])
        before_system, after_system, *_ = _between(text, ("probe-system", *PROBES))
    except DataError:  # refuses a system message
        return TemplatePieces(start, None, "", after_user, after_assistant, after_last_user)
    return TemplatePieces(start, before_system, after_system, after_user, after_assistant, after_last_user)


def _between(text: str, messages: Sequence[str]) -> list[str]:
    """The text before, between and after the messages."""
    pieces = []
    for message in messages:
        piece, found, text = text.partition(message)
        if not found:
            raise BaseError("its chat template does not show a conversation in turn: no TEMPLATE of Ollama can say it")
        pieces.append(piece)
    return [*pieces, text]


def render_prompt(pieces: TemplatePieces, messages: Sequence[Message]) -> str:
    """The prompt as Ollama renders it from TEMPLATE."""
    system = "\n\n".join(text_of(message) for message in messages if message["role"] == "system")
    turns = [message for message in messages if message["role"] != "system"]
    text = f"{pieces.before_system}{system}{pieces.after_system}" if system else pieces.start
    for index, message in enumerate(turns):
        last = index == len(turns) - 1
        if message["role"] == "user":
            text += text_of(message) + (pieces.after_last_user if last else pieces.after_user)
        else:
            text += text_of(message) + ("" if last else pieces.after_assistant)
    return text


def go_template(pieces: TemplatePieces) -> str:
    """TEMPLATE for Ollama, which hands over `.System` and `.Messages`, neighbours of one role joined."""
    start = _go_string(pieces.start)
    if pieces.before_system is not None:
        system = f"{_go_string(pieces.before_system)}{{{{ .System }}}}{_go_string(pieces.after_system)}"
        start = f"{{{{- if .System }}}}{system}{{{{ else }}}}{start}{{{{ end }}}}"
    return "\n".join(
        [
            start,
            "{{- range $i, $_ := .Messages }}",
            "{{- $last := eq (len (slice $.Messages $i)) 1 }}",
            '{{- if eq .Role "user" }}{{ .Content }}'
            f"{{{{ if $last }}}}{_go_string(pieces.after_last_user)}"
            f"{{{{ else }}}}{_go_string(pieces.after_user)}{{{{ end }}}}",
            '{{- else if eq .Role "assistant" }}{{ .Content }}'
            f"{{{{ if not $last }}}}{_go_string(pieces.after_assistant)}{{{{ end }}}}",
            "{{- end }}",
            "{{- end }}",
        ]
    )


def _go_string(text: str) -> str:
    """The text as a Go template writes it: a string literal with line breaks and quotes escaped."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


def adds_bos(file: Path) -> bool:
    """Whether llama.cpp puts the bos token before every prompt itself."""
    reader = importlib.import_module("gguf").GGUFReader(str(file))
    field = reader.fields.get("tokenizer.ggml.add_bos_token")
    if field is not None:
        return bool(field.contents())
    return bool(reader.fields["tokenizer.ggml.model"].contents() == "llama")


def without_bos(pieces: TemplatePieces, bos: str | None) -> TemplatePieces:
    """The pieces for a file before whose prompts llama.cpp itself puts the bos token."""
    system = pieces.before_system
    return pieces._replace(
        start=pieces.start.removeprefix(bos or ""),
        before_system=None if system is None else system.removeprefix(bos or ""),
    )


def modelfile(run: Run, tokenizer: Any, pieces: TemplatePieces, file_name: str) -> str:
    """The Modelfile: FROM, TEMPLATE, PARAMETER and, where the rows share a system message, SYSTEM."""
    lines = [f"FROM ./{file_name}", "", f'TEMPLATE """{go_template(pieces)}"""', ""]
    lines += [f"PARAMETER {name} {value}" for name, value in parameters(run, tokenizer)]
    system = run.manifest()["data"].get("system_message")
    if system and pieces.before_system is not None:
        if '"""' in system:
            raise GovorError('the system message holds """, which a Modelfile cannot say: export with --to gguf')
        lines += ["", f'SYSTEM """{system}"""']
    return "\n".join(lines) + "\n"


def parameters(run: Run, tokenizer: Any) -> list[tuple[str, str]]:
    """(name, value) of every PARAMETER: the run's sampling, the stop strings, the context."""
    config, generation = run.config(), read_json(run.merged / GENERATION_FILE)
    window = context_length(language_config(run.merged))
    sampling = config.generation
    ends = tokenizer.convert_ids_to_tokens(run.end_of_turn())
    context = max(MIN_CONTEXT, config.training.max_length + sampling.max_new_tokens)
    values: list[tuple[str, object]] = [("stop", json.dumps(end, ensure_ascii=False)) for end in ends]
    values.append(("temperature", sampling.temperature if sampling.do_sample else 0))
    if sampling.do_sample:
        values += [("top_p", sampling.top_p), ("top_k", top_k_of(generation))]
    values += [
        ("repeat_penalty", sampling.repetition_penalty),
        ("repeat_last_n", -1),  # over all that was said, as transformers does
        ("num_predict", sampling.max_new_tokens),
        ("num_ctx", min(context, window)),
    ]
    return [(name, str(value)) for name, value in values]
