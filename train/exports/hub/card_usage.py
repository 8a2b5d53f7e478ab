"""The part of the card that says how to load the model: commands and code that run as they stand."""

from train.exports.hub.card_facts import Facts

VLLM_RANKS = (16, 32, 64, 128, 256, 320, 512)
ASK = """\
messages = [{messages}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
).to(model.device)
answer = model.generate(**inputs)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))"""
PEFT = """\
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("{repo}", dtype="auto", device_map="auto")
tokenizer = AutoTokenizer.from_pretrained("{repo}")
{ask}"""
TRANSFORMERS = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{repo}", dtype="auto", device_map="auto")
tokenizer = AutoTokenizer.from_pretrained("{repo}")
{ask}"""


def usage(facts: Facts) -> str:
    """The section's text."""
    repo = facts.repo
    turns = ["system", "user"] if facts.manifest["data"].get("system_message") else ["user"]
    ask = ASK.format(messages=", ".join(f'{{"role": "{role}", "content": "…"}}' for role in turns))
    if facts.what == "gguf":
        lines = ["With Ollama:\n", _code("sh", f"ollama run hf.co/{repo}")]
        lines += ["With llama.cpp:\n", _code("sh", f"llama-server -hf {repo}")]
    elif facts.what == "adapter":
        lines = ["With PEFT:\n", _code("python", PEFT.format(repo=repo, ask=ask))]
        lines += ["With vLLM (ask for the model by the name before `=`):\n", _code("sh", _vllm(facts))]
        lines += ["Ollama and llama.cpp take a merged model as GGUF, not this adapter.\n"]
    else:
        lines = ["With transformers:\n", _code("python", TRANSFORMERS.format(repo=repo, ask=ask))]
        lines += ["With vLLM:\n", _code("sh", f"vllm serve {repo}"), "Ollama takes it as GGUF.\n"]
    return "\n".join([*lines, _sampling(facts), *_system(facts)])


def _vllm(facts: Facts) -> str:
    lora = facts.config.lora
    rank = (lora.r if lora else 0) * (2 if lora and lora.changes_base else 1)
    fits = next((known for known in VLLM_RANKS if known >= rank), rank)
    start = f"vllm serve {facts.base or 'BASE'} --enable-lora --max-lora-rank {fits}"
    return f"{start} \\\n  --lora-modules {facts.name}={facts.repo}"


def _sampling(facts: Facts) -> str:
    generation = facts.config.generation
    kind = f"temperature {generation.temperature:g}, top_p {generation.top_p:g}" if generation.do_sample else "greedy"
    kind += f", repetition_penalty {generation.repetition_penalty:g}"
    if facts.what == "gguf":
        return f"It was tried with {kind}.\n"
    return f"`generation_config.json` holds the sampling ({kind}); the chat template is the one it was trained with.\n"


def _system(facts: Facts) -> list[str]:
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
    """A block quotation, none of it markup."""
    return "\n".join(f"> {line}".rstrip() for line in text.replace("<", "&lt;").split("\n"))


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```\n"
