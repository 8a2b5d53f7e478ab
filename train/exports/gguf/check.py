"""A GGUF file made to answer: the same prompt tokens and the same choices as the merged model?"""

import importlib.util
import math
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from train.core.files import format_bytes
from train.core.runs import Run
from train.exports.gguf.prompts import asked, prompt_of
from train.models.load import load_merged, load_tokenizer, quiet_libraries
from train.models.safetensors_files import read_headers, weight_files

PROMPTS = 6
"""Prompts that are answered."""
TOKENS = 24
"""Longest answer compared."""


class Compared(NamedTuple):
    prompts: int
    same_ids: int
    """Prompts that become the same tokens."""
    answers: int
    """Greedy answers that are the same, token by token."""
    tokens: int
    choices: int
    """Of `tokens`, those that the file would choose too after the same words."""
    template: bool
    """The chat template inside is the model's own."""


def compare(run: Run, file: Path, *, exact: bool) -> tuple[list[str], bool]:
    """(what to tell the user, whether it passed). `exact`: the file's weights are not quantised."""
    if importlib.util.find_spec("llama_cpp") is None:
        return ["not compared with the merged model: that needs llama-cpp-python"], True
    weights = sum(math.prod(stored.shape) for stored in read_headers(weight_files(run.merged)).values())
    needed = 4.4 * weights + file.stat().st_size
    if psutil.virtual_memory().available < needed:
        return [f"not compared with the merged model: that needs {format_bytes(needed)} of free memory"], True
    found = measure(run, file)
    lines = [
        f"llama.cpp makes the same tokens of {found.same_ids} of {found.prompts} prompts; {found.answers} greedy "
        f"answers are the merged model's, {found.choices} of {found.tokens} tokens ({found.choices / found.tokens:.1%})"
    ]
    if not found.template:
        lines.append("❌ the chat template inside is not the model's own")
    if found.same_ids < found.prompts:
        lines.append("❌ the model would be asked other tokens than it was trained on")
    if exact and found.choices < 0.9 * found.tokens:
        lines.append("❌ the file chooses other words than the merged model, though its weights are not quantised")
    return lines, len(lines) == 1


def measure(run: Run, file: Path) -> Compared:
    """Prompts of held-out rows, or those of the config, answered greedily by the model and judged by the file."""
    import llama_cpp  # type: ignore[import-not-found, unused-ignore]
    import torch

    quiet_libraries()
    tokenizer = load_tokenizer(run.merged)
    model = load_merged(run, use_cpu=True)
    texts = [prompt_of(tokenizer, messages) for messages in asked(run, PROMPTS)]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    context = max(map(len, ids)) + TOKENS
    engine = llama_cpp.Llama(str(file), n_ctx=context, n_batch=context, logits_all=True, verbose=False)
    template = engine.metadata.get("tokenizer.chat_template") == tokenizer.chat_template
    same_ids = answers = tokens = choices = 0
    for text, prompt in zip(texts, ids, strict=True):
        same_ids += engine.tokenize(text.encode(), add_bos=False, special=True) == prompt
        with torch.no_grad():
            said = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=TOKENS,
                do_sample=False,
                repetition_penalty=1.0,
            )[0, len(prompt) :].tolist()
        chosen = _choices(engine, prompt, said)
        tokens += len(said)
        choices += sum(a == b for a, b in zip(said, chosen, strict=True))
        answers += said == chosen
    return Compared(len(texts), same_ids, answers, tokens, choices, template)


def _choices(engine: Any, prompt: list[int], said: list[int]) -> list[int]:
    """What the file would choose at each place of the answer."""
    engine.reset()
    engine.eval([*prompt, *said])
    return [int(scores.argmax()) for scores in engine.scores[len(prompt) - 1 : len(prompt) + len(said) - 1]]
