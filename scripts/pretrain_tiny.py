"""Pre-trains a very small Russian base (Qwen3 architecture) on public-domain text, and teaches it to answer in turns.

    python scripts/pretrain_tiny.py OUT --plays PLAYS.jsonl.gz --prose PROSE.jsonl.gz [--work runs/tiny-ru] [--resume]

Three phases, one after another: windows of 256 tokens at the full learning rate; then windows of 1,024 while it falls
to zero; in the last of these half of every batch is dialogue from the plays in the chat template, with the loss on the
answers and their end. data/tiny-ru/README.md has the figures.
"""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from make_tiny_base import CHATML, SPECIAL
from tiny_text import IGNORE_INDEX, TOKENS, prepare

from train.core.files import complete_folder


@dataclass(frozen=True)
class Schedule:
    """What decides the result."""

    tokens: int
    batch: int  # tokens a step
    short: int  # window of the first phase
    long: int
    decay: float  # share of the steps in which the learning rate falls
    chat: float  # share of the steps with dialogue
    plays: float  # share of the plays in the first phase
    learning_rate: float
    muon_rate: float
    layers: int
    hidden_size: int
    vocab_size: int
    seed: int
    warm_up: int = 200  # steps

    @property
    def steps(self) -> int:
        return self.tokens // self.batch

    @property
    def stable(self) -> int:
        """The first step of the falling learning rate."""
        return self.steps - round(self.decay * self.steps)

    def rate(self, step: int) -> float:
        """Share of the learning rate: warm-up, constant, down to zero."""
        return min(1.0, (step + 1) / (self.warm_up + 1), (self.steps - step) / max(1, self.steps - self.stable))


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--plays", required=True, type=click.Path(path_type=Path, exists=True), help="JSONL of speeches.")
@click.option("--prose", required=True, type=click.Path(path_type=Path, exists=True), help="JSONL of works.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/tiny-ru"), help="Tokens, checkpoints, log.")
@click.option("--resume", is_flag=True, help="Go on; --tokens, --decay, --chat may be others.")
@click.option("--tokens", default=40_000_000, help="Tokens to train on, all phases together.")
@click.option("--batch", default=4096, help="Tokens a step.")
@click.option("--short", default=256, help="Tokens in a window at the full learning rate.")
@click.option("--long", "long_", default=1024, help="Tokens in a window while it falls; the model's context.")
@click.option("--decay", default=0.3, help="Share of the steps in which the learning rate falls.")
@click.option("--chat", default=0.15, help="Share of the steps, the last ones, with dialogue.")
@click.option("--plays-share", default=0.35, help="Share of the plays at the full learning rate; then a half.")
@click.option("--learning-rate", default=3e-3, help="AdamW: embeddings and norms.")
@click.option("--muon-rate", default=5e-3, help="Muon: all other matrices; 0 gives them to AdamW.")
@click.option("--layers", default=6)
@click.option("--hidden-size", default=256)
@click.option("--vocab-size", default=8192)
@click.option("--seed", default=0)
@click.option("--warm-up", default=200, help="Steps.")
@click.option("--minutes-between-saves", default=4.0, help="Checkpoints.")
@click.option("--eval-steps", default=400, help="Steps between two lines of the log.")
@click.option("--compile/--no-compile", "compiled", default=True, help="torch.compile: 1.3 times the speed on a CPU.")
@click.option("--threads", default=2, help="CPU threads; each takes its part of every batch.")
@click.option("--stop-at", default=0, help="Save and stop before this step (0: never).")
def main(out: Path, plays: Path, prose: Path, work: Path, resume: bool, long_: int, plays_share: float,
         minutes_between_saves: float, eval_steps: int, compiled: bool, threads: int, stop_at: int,
         **options: Any) -> None:  # fmt: skip
    """Pre-train and write the model to the new folder OUT."""
    plan = Schedule(long=long_, plays=plays_share, **options)
    if out.exists():
        raise click.ClickException(f"{out} is there already: remove it or name another folder")
    if work.exists() and not resume:
        raise click.ClickException(f"{work} is there already: --resume goes on with it, or name another --work")
    if work.exists() and not (work / TOKENS).is_file():
        raise click.ClickException(f"{work} holds nothing to go on with ({TOKENS} is missing): name another --work")
    work.mkdir(parents=True, exist_ok=True)
    data = prepare(work, plays, prose, plan.vocab_size, plan.long)
    if train(work, data, plan, minutes_between_saves, eval_steps, compiled, threads, stop_at):
        export(work, out, plan)


def batch_of(data: dict[str, np.ndarray], plan: Schedule, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The step's ids and labels (rows, window); seed and step decide them, so that a checkpoint needs no more."""
    draw = np.random.default_rng([plan.seed, step])
    window = plan.short if step < plan.stable else plan.long
    rows = max(1, plan.batch // window)
    chats = rows // 2 if step >= plan.steps - round(plan.chat * plan.steps) else 0
    share = plan.plays if step < plan.stable else 0.5
    windows = []
    for _ in range(rows - chats):
        stream = data["plays"] if draw.random() < share else data["prose"]
        start = draw.integers(len(stream) - window)
        windows.append(stream[start : start + window])
    ids = np.stack(windows).astype(np.int64)
    if not chats:
        return ids, ids
    chosen = draw.integers(len(data["chat"]), size=chats)
    return (
        np.concatenate([ids, data["chat"][chosen].astype(np.int64)]),
        np.concatenate([ids, data["chat_labels"][chosen].astype(np.int64)]),
    )


# --- model --------------------------------------------------------------------------------------------------------


def new_model(plan: Schedule, tokenizer: Any) -> Any:
    """Qwen3 with tied embeddings; widths are multiples of 256 so that every quantised GGUF type fits."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(plan.seed)
    heads = max(1, plan.hidden_size // 64)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=plan.hidden_size,
            intermediate_size=3 * plan.hidden_size,
            num_hidden_layers=plan.layers,
            num_attention_heads=heads,
            num_key_value_heads=max(1, heads // 2),
            head_dim=64,
            max_position_embeddings=plan.long,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.token_to_id(SPECIAL["end"]),
            pad_token_id=tokenizer.token_to_id(SPECIAL["pad"]),
            bos_token_id=None,
        )
    )
    for layer in model.model.layers:  # a block that begins as nothing learns faster than a random one
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


def new_optimizers(model: Any, plan: Schedule) -> list[Any]:
    """Muon for the matrices inside the blocks, AdamW for embeddings and norms; initial_lr is what the plan scales."""
    import torch

    inside = [parameter for name, parameter in model.named_parameters() if parameter.ndim == 2 and "embed" not in name]
    others = [parameter for name, parameter in model.named_parameters() if parameter.ndim < 2 or "embed" in name]
    adam: dict[str, Any] = {"betas": (0.9, 0.95), "fused": True}
    optimizers = [torch.optim.AdamW(others, lr=plan.learning_rate, weight_decay=0.0, **adam)]
    if plan.muon_rate:
        muon = torch.optim.Muon(inside, lr=plan.muon_rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        optimizers.append(muon)
    else:
        optimizers.append(torch.optim.AdamW(inside, lr=plan.learning_rate, weight_decay=0.1, **adam))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def token_loss(model: Any, ids: Any, labels: Any) -> Any:
    """Sum of the cross-entropy (nats) of labels (rows, window) given ids, matrices in bfloat16."""
    import torch
    from torch.nn import functional

    with torch.autocast(ids.device.type, torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        logits = functional.linear(hidden[:, :-1], model.lm_head.weight)
    targets = labels[:, 1:].flatten()
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets, ignore_index=IGNORE_INDEX, reduction="sum")


# --- training -----------------------------------------------------------------------------------------------------


def train(work: Path, data: dict[str, np.ndarray], plan: Schedule, minutes: float, eval_steps: int, compiled: bool,
          threads: int, stop_at: int) -> bool:  # fmt: skip
    """Train to the plan's last step; False when stopped before it."""
    import torch
    from tokenizers import Tokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    model = new_model(plan, Tokenizer.from_file(str(work / "tokenizer.json"))).to(device)
    optimizers = new_optimizers(model, plan)
    first, before = load(work, model, optimizers, plan)
    gradients = Gradients(model, 1 if device == "cuda" else threads, compiled)
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, steps {first} to {plan.steps}, {device}",
        flush=True,
    )
    clock = Clock(before)
    saved = time.monotonic()
    for step in range(first, plan.steps):
        if step == plan.stable:
            save(work / "stable.pt", step, model, optimizers, plan, clock.spent())
        if stop_at and step >= stop_at:
            save(work / "checkpoint.pt", step, model, optimizers, plan, clock.spent())
            return False
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * plan.rate(step)
        loss = gradients.set(*(torch.from_numpy(part).to(device) for part in batch_of(data, plan, step)))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        done = step + 1
        if done % eval_steps == 0 or done == plan.steps:
            bits = tried_bits(model, data, device)
            cpu, wall = (seconds / 60 for seconds in clock.spent())
            line = {"step": done, "tokens": done * plan.batch, "loss": loss, "bits": bits, "cpu": cpu, "wall": wall}
            line = json.dumps({key: round(value, 4) for key, value in line.items()})
            print(line, flush=True)
            with (work / "log.jsonl").open("a") as file:
                file.write(line + "\n")
        if time.monotonic() - saved > 60 * minutes or done == plan.steps:
            save(work / "checkpoint.pt", done, model, optimizers, plan, clock.spent())
            saved = time.monotonic()
    return True


class Gradients:
    """Sets the gradients of a batch; each of several Python threads works through its part of the rows alone.

    Two such threads are as fast as two threads inside every operation on an idle machine, several times faster on a
    busy one (nobody waits at a barrier thousands of times a step), and they give the same bytes every time.
    """

    def __init__(self, model: Any, threads: int, compiled: bool) -> None:
        import torch

        self.model, self.threads, self.seen = model, threads, set()
        self.parameters = list(model.parameters())
        self.loss = torch.compile(token_loss, dynamic=False) if compiled else token_loss
        self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def set(self, ids: Any, labels: Any) -> float:
        """Fill every parameter's grad and return the mean loss (nats a token)."""
        import torch

        count = (labels[:, 1:] != IGNORE_INDEX).sum()

        def part(some_ids: Any, some_labels: Any) -> tuple[float, Any]:
            loss = self.loss(self.model, some_ids, some_labels) / count
            return loss.item(), torch.autograd.grad(loss, self.parameters)

        # A new shape is compiled in one thread
        run = self.pool.map if ids.shape in self.seen else map
        self.seen.add(ids.shape)
        losses, gradients = zip(*run(part, ids.chunk(self.threads), labels.chunk(self.threads)), strict=True)
        for parameter, *parts in zip(self.parameters, *gradients, strict=True):
            parameter.grad = sum(parts[1:], start=parts[0])
        return sum(losses)


class Clock:
    """CPU and wall seconds, those before a resume counted in."""

    def __init__(self, before: tuple[float, float]) -> None:
        self.cpu, self.wall = before[0] - time.process_time(), before[1] - time.monotonic()

    def spent(self) -> tuple[float, float]:
        return self.cpu + time.process_time(), self.wall + time.monotonic()


def tried_bits(model: Any, data: dict[str, np.ndarray], device: str, window: int = 256) -> float:
    """Bits a character on the plays for tries, in windows without what stands before them: a little pessimistic."""
    import torch

    stream = data["tried"].astype(np.int64)
    count = len(stream) // window
    windows = torch.from_numpy(stream[: count * window].reshape(count, window)).to(device)
    with torch.no_grad():
        nats = [token_loss(model, part, part).item() for part in windows.split(16)]
    tokens_measured = count * (window - 1)
    return sum(nats) / tokens_measured * len(stream) / int(data["tried_characters"]) / float(np.log(2))


def save(path: Path, step: int, model: Any, optimizers: list[Any], plan: Schedule, spent: tuple[float, float]) -> None:
    """Save the state of the training; written aside and renamed, so that a kill leaves the last whole one."""
    import torch

    aside = path.with_suffix(".partial")
    state = {"step": step, "model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
    with aside.open("wb") as file:
        torch.save({**state, "plan": asdict(plan), "spent": spent}, file)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)


def load(work: Path, model: Any, optimizers: list[Any], plan: Schedule) -> tuple[int, tuple[float, float]]:
    """The step to go on with and (CPU, wall) seconds spent before it; a longer plan starts where no rate has fallen."""
    import torch

    states = [
        torch.load(work / name, weights_only=True, map_location="cpu")
        for name in ("checkpoint.pt", "stable.pt")
        if (work / name).is_file()
    ]
    for state in states:
        before = Schedule(**state["plan"])
        differ = [
            f"--{name.replace('_', '-')} {value}"
            for name, value in asdict(before).items()
            if name not in ("tokens", "decay", "chat") and asdict(plan)[name] != value
        ]
        if differ:
            raise click.ClickException(
                f"{work} was begun with {', '.join(differ)}: only --tokens, --decay, --chat may change"
            )
        if before == plan or state["step"] <= min(before.stable, plan.stable):
            model.load_state_dict(state["model"])
            for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(kept)
            return state["step"], state["spent"]
    if states:
        least = states[-1]["step"]
        raise click.ClickException(
            f"{work} is at step {least}, the rate is to fall from {plan.stable} on: more --tokens"
        )
    return 0, (0.0, 0.0)


def export(work: Path, out: Path, plan: Schedule) -> None:
    """The last checkpoint as a Hugging Face folder in bfloat16."""
    import torch
    from tokenizers import Tokenizer
    from transformers import GenerationConfig, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    raw = Tokenizer.from_file(str(work / "tokenizer.json"))
    model = new_model(plan, raw)
    model.load_state_dict(torch.load(work / "checkpoint.pt", weights_only=True, map_location="cpu")["model"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token=SPECIAL["end"],
        pad_token=SPECIAL["pad"],
        chat_template=CHATML,
        model_max_length=plan.long,
        clean_up_tokenization_spaces=False,
    )
    stop = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    model.generation_config = GenerationConfig(**stop)
    with complete_folder(out) as aside:
        model.to(torch.bfloat16).save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        settings = aside / "tokenizer_config.json"  # transformers 4 does not know the class name that 5 writes
        named = {**json.loads(settings.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}
        settings.write_text(json.dumps(named, ensure_ascii=False, indent=2) + "\n")


if __name__ == "__main__":
    main()
