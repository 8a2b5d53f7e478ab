"""Whether a GGUF file makes the same prompt tokens and chooses the same answer tokens as the merged model."""

import importlib.util
import math
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from train.core.files import format_bytes
from train.core.runs import Run
from train.exports.gguf.prompts import comparison_prompts, prompt_of
from train.models.load import load_merged, load_run_tokenizer, quiet_libraries
from train.models.safetensors_files import read_headers, weight_files

COMPARED_PROMPTS = 6
COMPARED_TOKENS = 24
"""Tokens of each answer that are compared, at most."""


class Comparison(NamedTuple):
    """How a GGUF file answers held-out prompts, beside the merged model."""

    prompts: int
    same_prompts: int
    """Prompts that become the same tokens."""
    same_answers: int
    """Greedy answers that are the same, token by token."""
    tokens: int
    """Tokens of all the merged model's answers."""
    same_tokens: int
    """Of `tokens`, those that the file would choose too after the same text."""
    same_template: bool
    """Whether the chat template inside is the model's own."""


def check_gguf(run: Run, file: Path, *, exact: bool) -> tuple[list[str], bool]:
    """Compare the file with the merged model; returns (lines for the user, whether it passed).

    It passes unchecked, and the lines say so, where llama-cpp-python or the memory is missing. `exact`: the file's
    weights are not quantised.
    """
    if importlib.util.find_spec("llama_cpp") is None:
        return ["not compared with the merged model: that needs llama-cpp-python"], True
    weights = sum(math.prod(stored.shape) for stored in read_headers(weight_files(run.merged)).values())
    needed = 4.4 * weights + file.stat().st_size
    if psutil.virtual_memory().available < needed:
        return [f"not compared with the merged model: that needs {format_bytes(needed)} of free memory"], True
    result = compare_with_merged(run, file)
    lines = [
        f"llama.cpp makes the same tokens of {result.same_prompts} of {result.prompts} prompts; {result.same_answers} "
        f"greedy answers are the merged model's, {result.same_tokens} of {result.tokens} tokens "
        f"({result.same_tokens / result.tokens:.1%})"
    ]
    if not result.same_template:
        lines.append("❌ the chat template inside is not the model's own")
    if result.same_prompts < result.prompts:
        lines.append("❌ the model would be asked other tokens than it was trained on")
    if exact and result.same_tokens < 0.9 * result.tokens:
        lines.append("❌ the file chooses other words than the merged model, though its weights are not quantised")
    return lines, len(lines) == 1


def compare_with_merged(run: Run, file: Path) -> Comparison:
    """Let the merged model answer the comparison prompts greedily, and see which tokens the file would choose."""
    import llama_cpp  # type: ignore[import-not-found, unused-ignore]
    import torch

    quiet_libraries()
    tokenizer = load_run_tokenizer(run, run.merged)
    model = load_merged(run, use_cpu=True)
    texts = [prompt_of(tokenizer, messages) for messages in comparison_prompts(run, COMPARED_PROMPTS)]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    context = max(map(len, ids)) + COMPARED_TOKENS
    engine = llama_cpp.Llama(str(file), n_ctx=context, n_batch=context, logits_all=True, verbose=False)
    same_template = engine.metadata.get("tokenizer.chat_template") == tokenizer.chat_template
    same_prompts = same_answers = tokens = same_tokens = 0
    for text, prompt in zip(texts, ids, strict=True):
        same_prompts += engine.tokenize(text.encode(), add_bos=False, special=True) == prompt
        with torch.no_grad():
            answer = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=COMPARED_TOKENS,
                do_sample=False,
                repetition_penalty=1.0,
            )[0, len(prompt) :].tolist()
        chosen = _chosen_tokens(engine, prompt, answer)
        tokens += len(answer)
        same_tokens += sum(a == b for a, b in zip(answer, chosen, strict=True))
        same_answers += answer == chosen
    return Comparison(len(texts), same_prompts, same_answers, tokens, same_tokens, same_template)


def _chosen_tokens(engine: Any, prompt: list[int], answer: list[int]) -> list[int]:
    """The token that the file would choose at each place of the answer."""
    engine.reset()
    engine.eval([*prompt, *answer])
    return [int(scores.argmax()) for scores in engine.scores[len(prompt) - 1 : len(prompt) + len(answer) - 1]]
