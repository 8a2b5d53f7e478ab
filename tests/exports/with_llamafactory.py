"""Runs inside LLaMA-Factory's own environment, for test_peers.py: what it makes of rows, templates and questions.

python with_llamafactory.py rows TRAIN.yaml OUT.json       the ids and labels that `train` would train on
python with_llamafactory.py render JOB.json OUT.json       prompts and rows in its templates
python with_llamafactory.py answer CHAT.yaml PROMPTS.json OUT.json   greedy answers
python with_llamafactory.py settings OUT.json              the names that it knows
"""

import json
import sys
from pathlib import Path


def rows(settings: str) -> object:
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    sys.argv = ["llamafactory-cli", settings]
    model, data, training, _, _ = get_train_args()
    module = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data)
    datasets = get_dataset(template, model, data, training, stage="sft", **module)
    return {
        name: [[list(row["input_ids"]), list(row["labels"])] for row in datasets[f"{name}_dataset"]]
        for name in ("train", "eval")
    }


def render(job: str) -> object:
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.data.mm_plugin import get_mm_plugin
    from llamafactory.data.processor import SupervisedDatasetProcessor
    from llamafactory.hparams import DataArguments
    from transformers import AutoTokenizer

    results = []
    for case in json.loads(Path(job).read_text(encoding="utf-8")):
        tokenizer = AutoTokenizer.from_pretrained(case["tokenizer"])
        data = DataArguments(
            template=case["template"], enable_thinking=case["thinking"], mask_history=case["last_turn"], cutoff_len=4096
        )
        template = get_template_and_fix_tokenizer(tokenizer, data)
        processor = SupervisedDatasetProcessor(template, tokenizer, None, data)
        rendered = []
        for system, turns in case["rows"]:
            messages = [*turns[:-1], {"role": "assistant", "content": ""}]
            prompt, _ = template.encode_oneturn(tokenizer, messages, system)
            template.mm_plugin = get_mm_plugin("base")  # as of a base with an image processor, which these have not
            whole = processor._encode_data_example(turns[:-1], turns[-1:], system, None, [], [], [])
            rendered.append([prompt, *whole])
        results.append(rendered)
    return results


def answer(settings: str, prompts: str) -> object:
    from llamafactory.chat import ChatModel
    from omegaconf import OmegaConf

    chat = ChatModel(OmegaConf.to_container(OmegaConf.load(settings)))
    return [
        chat.chat(messages, system, do_sample=False, repetition_penalty=1.0, temperature=1.0)[0].response_text
        for system, messages in json.loads(Path(prompts).read_text(encoding="utf-8"))
    ]


def settings() -> object:
    from dataclasses import fields

    from llamafactory.hparams import DataArguments, FinetuningArguments, ModelArguments, TrainingArguments

    classes = (DataArguments, FinetuningArguments, ModelArguments, TrainingArguments)
    return [field.name for arguments in classes for field in fields(arguments)]


if __name__ == "__main__":
    mode, *words, out = sys.argv[1:]
    result = {"rows": rows, "render": render, "answer": answer, "settings": settings}[mode](*words)
    Path(out).write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
