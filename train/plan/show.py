"""A plan as tables: drawn with rich in a terminal, as plain lines elsewhere."""

import json
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from train.core.config import Config
from train.plan import Plan, plan_to_json
from train.plan import plan as make_plan
from train.plan.answering import A_YEAR
from train.plan.estimate import UTILIZATION, find_gpu
from train.plan.fit import describe_change, format_gib


class Part(NamedTuple):
    """One table of the plan."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def show_plan(config: Config, gpu: str | None, *, as_json: bool) -> bool:
    """Print the plan of a config; False where it does not fit the GPU given by name or memory (`RTX 4090`, `8GB`)."""
    plan = make_plan(config, find_gpu(gpu) if gpu else None)
    if as_json:
        print(json.dumps(plan_to_json(plan), ensure_ascii=False))
    else:
        show(plan, Console())
    return plan.fits is not False


def show(plan: Plan, console: Console) -> None:
    """Print the plan, its verdict last."""
    for part in _parts(plan):
        if not console.is_terminal:
            print(_plain(part), end="\n\n")
            continue
        table = Table(title=part.title, title_justify="left", box=box.SIMPLE_HEAD, show_header=any(part.columns))
        for index, column in enumerate(part.columns):
            table.add_column(column, justify="left" if index == 0 or len(part.columns) < 3 else "right")
        for row in part.rows:
            table.add_row(*row)
        console.print(table)
    print(verdict(plan))


def verdict(plan: Plan) -> str:
    """Whether the run fits its GPU, in a line."""
    peak = format_gib(plan.memory.peak)
    if plan.config.training.use_cpu:
        return f"on the CPU: about {peak} of memory"
    if plan.requested_gpu is None:
        fitting = [card for card in plan.cards if card.fits]
        least = min(fitting, key=lambda card: card.gpu.memory, default=None)
        where = (
            f"fits from {format_gib(least.gpu.memory)} ({least.gpu.name})" if least else "fits none of the known GPUs"
        )
        return f"about {peak} on each GPU: {where}; --gpu says more"
    of = f"{plan.requested_gpu.name}: needs about {peak}, {format_gib(plan.requested_gpu.usable)} are usable"
    if plan.fits:
        return f"fits {of}"
    if plan.smallest_change is None:
        return f"does not fit {of}, and no option helps: choose a smaller base"
    change, needed = plan.smallest_change
    return f"does not fit {of}; the smallest change that fits: {describe_change(change)} (about {format_gib(needed)})"


def _parts(plan: Plan) -> list[Part]:
    parts = [_run(plan), _memory(plan), *([_needs(plan)] if plan.needs else [])]
    if plan.cards:
        parts.append(_cards(plan))
    return [*parts, _prices(plan), _answering(plan)]


def _run(plan: Plan) -> Part:
    config, tokens, work, training = plan.config, plan.tokens, plan.work, plan.config.training
    method = "full tuning" if config.lora is None else f"LoRA r={config.lora.r}"
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
    rows: list[tuple[str, ...]] = [
        ("base", f"{config.model.name_or_path}, {'NF4, ' if config.model.load_in_4bit else ''}{method}"),
        ("parameters", f"{plan.shapes.parameters:,}, from {plan.shapes.source}"),
        ("trained", f"{plan.trained:,} ({plan.trained / plan.shapes.parameters:.2%})"),
        ("rows", f"{len(tokens.lengths)} to train on, {len(tokens.held_out)} held out"),
        (
            "tokens an epoch",
            f"{tokens.total:,}, of them {tokens.trained:,} trained; longest row {max(tokens.lengths):,}",
        ),
        ("", tokens.how),
        ("tokens in the run", f"{work.tokens:,}, of them {round(tokens.trained * work.epochs):,} trained"),
        ("steps", f"{work.steps:,} of {batch} rows in {training.gradient_accumulation_steps} parts"),
        ("epochs", f"{work.epochs:.4g}"),
    ]
    if tokens.too_long:
        what = f"{tokens.too_long} rows are longer than training.max_length={training.max_length}"
        rows.insert(6, ("", f"{what}; data.too_long={config.data.too_long}"))
    if plan.fit_choice:
        rows.append(("fit", plan.fit_choice))
    elif training.fit:
        rows.append(("fit", "training.fit chooses for the card at hand: --gpu shows what"))
    return Part(config.name, ("", ""), rows)


def _memory(plan: Plan) -> Part:
    held = plan.memory
    saved = "recomputed" if plan.config.training.activation_checkpointing else "kept"
    rows: list[tuple[str, ...]] = [
        ("base", format_gib(held.base)),
        ("adapter", format_gib(held.adapter)),
        ("gradients", format_gib(held.gradients)),
        ("optimizer states", format_gib(held.optimizer)),
        (f"activations ({saved})", format_gib(held.activations)),
        ("of these never at once", format_gib(-held.never_at_once)),
        ("scratch of loss and backward pass", format_gib(held.scratch)),
        ("16-bit copies of weights", format_gib(held.workspace)),
        ("peak", format_gib(held.peak)),
    ]
    where = "the CPU" if plan.config.training.use_cpu else "each GPU"
    return Part(f"memory on {where}, estimated", ("", ""), rows)


def _needs(plan: Plan) -> Part:
    gpu, rows = plan.requested_gpu, []
    for need in plan.needs:
        fits = ("yes" if need.bytes <= gpu.usable else "no",) if gpu else ()
        rows.append((need.verb, format_gib(need.bytes), *fits, need.loads))
    columns = ("verb", "memory", *(["fits"] if gpu else []), "holds")
    return Part("each verb on the card, at the least, estimated", columns, rows)


def _cards(plan: Plan) -> Part:
    rows: list[tuple[str, ...]] = []
    for card in plan.cards:
        time = "speed not known" if card.seconds is None else " – ".join(map(_time, card.seconds))
        rows.append(
            (card.gpu.name, format_gib(card.gpu.memory), "yes" if card.fits else "no", time if card.fits else "–")
        )
    low, high = UTILIZATION
    title = f"time, estimated at {low:.0%} to {high:.0%} of the GPU's peak"
    return Part(title, ("GPU", "memory", "fits", "time"), rows)


def _prices(plan: Plan) -> Part:
    rows: list[tuple[str, ...]] = []
    for price in plan.prices:
        cost = "–" if price.cost is None or price.price is None else f"${price.cost:.2f}"
        each = "" if price.price is None else f"${price.price:g} a million"
        gone = f"not offered any more since {price.gone}" if price.gone else None
        notes = [price.note, gone, None if price.verified or price.price is None else "price not verified"]
        name = f"{price.service} {price.model or ''}".strip()
        rows.append((name, cost, each, price.as_of, ", ".join(filter(None, notes))))
    return Part("the same tokens at hosted services", ("service", "cost", "price", "as of", ""), rows)


def _answering(plan: Plan) -> Part:
    rows: list[tuple[str, ...]] = [
        (one.name, dollars(one.thousand), dollars(one.year), one.note) for one in plan.answering
    ]
    title = f"asking: a request of {plan.request.prompt:.0f} tokens and {plan.request.answer:.0f} of answer, estimated"
    return Part(title, ("service", "1,000", f"a year of {A_YEAR:,}", ""), rows)


def dollars(cost: float | None) -> str:
    """`$0.03`, and `$0.0047` below ten cents; `–` where it is not known."""
    return "–" if cost is None else f"${cost:,.2f}" if cost >= 0.1 else f"${cost:.4f}"


def _plain(part: Part) -> str:
    header = [part.columns] if any(part.columns) else []
    lines = [*header, *part.rows]
    widths = [max(len(row[at]) for row in lines) for at in range(len(part.columns))]
    text = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines)
    return "\n".join([part.title, *(f"  {line}" for line in text)])


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
