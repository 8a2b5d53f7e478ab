"""The part of the card that says how to load the model: commands and code that run as they stand."""

import re

from train.exports.hub.card_facts import CardFacts

VLLM_RANKS = (16, 32, 64, 128, 256, 320, 512)
ANSWER_CODE = """\
messages = [{messages}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
).to(model.device)
answer = model.generate(**inputs)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))"""
PEFT_CODE = """\
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("{repo}", dtype="auto", device_map="auto")
tokenizer = AutoTokenizer.from_pretrained("{repo}")
{answer_code}"""
TRANSFORMERS_CODE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{repo}", dtype="auto", device_map="auto")
tokenizer = AutoTokenizer.from_pretrained("{repo}")
{answer_code}"""


def usage(facts: CardFacts) -> str:
    """The text of the card's section «Use»."""
    repo = facts.repo
    turns = ["system", "user"] if facts.manifest["data"].get("system_message") else ["user"]
    answer_code = ANSWER_CODE.format(messages=", ".join(f'{{"role": "{role}", "content": "…"}}' for role in turns))
    if facts.artifact == "gguf":
        lines = ["With Ollama:\n", _code("sh", f"ollama run hf.co/{repo}")]
        lines += ["With llama.cpp:\n", _code("sh", f"llama-server -hf {repo}")]
    elif facts.artifact == "adapter":
        lines = ["With PEFT:\n", _code("python", PEFT_CODE.format(repo=repo, answer_code=answer_code))]
        lines += ["With vLLM (ask for the model by the name before `=`):\n", _code("sh", _vllm(facts))]
        lines += ["Ollama and llama.cpp take a merged model as GGUF, not this adapter.\n"]
    else:
        lines = ["With transformers:\n", _code("python", TRANSFORMERS_CODE.format(repo=repo, answer_code=answer_code))]
        lines += ["With vLLM:\n", _code("sh", f"vllm serve {repo}"), "Ollama takes it as GGUF.\n"]
    return "\n".join([*lines, _sampling(facts), *_system(facts)])


def _vllm(facts: CardFacts) -> str:
    lora = facts.config.lora
    rank = (lora.r if lora else 0) * (2 if lora and lora.changes_base else 1)
    max_rank = next((allowed for allowed in VLLM_RANKS if allowed >= rank), rank)
    start = f"vllm serve {facts.base or 'BASE'} --enable-lora --max-lora-rank {max_rank}"
    return f"{start} \\\n  --lora-modules {facts.name}={facts.repo}"


def _sampling(facts: CardFacts) -> str:
    generation = facts.config.generation
    sampling = (
        f"temperature {generation.temperature:g}, top_p {generation.top_p:g}" if generation.do_sample else "greedy"
    )
    sampling += f", repetition_penalty {generation.repetition_penalty:g}"
    if facts.artifact == "gguf":
        return f"It was tried with {sampling}.\n"
    return (
        f"`generation_config.json` holds the sampling ({sampling}); the chat template is the one it was trained with.\n"
    )


def _system(facts: CardFacts) -> list[str]:
    if facts.system:
        head = "Every dialogue that it was trained on began with this system message; give it too:"
        return [f"{head}\n\n{quote(facts.system)}\n"]
    if facts.manifest["data"].get("system_message"):
        return [
            "Every dialogue that it was trained on began with one system message, which is not shown here; without it "
            "the model may answer less like itself.\n"
        ]
    return []


def quote(text: str) -> str:
    """The text as a block quotation, its markup escaped."""
    return "\n".join(f"> {as_text(line)}".rstrip() for line in text.splitlines())


def as_text(line: str) -> str:
    """A line that shows as it is: no markup, link, picture or formula in it comes to life.

    By CommonMark a backslash takes the meaning from any punctuation; GitHub's and the Hub's dialects make links of bare
    addresses and formulas of what stands between dollars.
    """
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"[\\`*_\[\]|~$]", r"\\\g<0>", line)
    line = re.sub(r"(?=://)|(?<=\bwww)(?=\.)|(?<=\w)(?=@\w)", r"\\", line)
    return re.sub(r"^\s*([0-9]{1,9})?(?=[#+=.)-])", r"\1\\", line)  # no heading, list or rule begins


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```\n"
