"""The steps in order of importance: what does not fit in a call is left for the next."""

import importlib
from pathlib import Path
from typing import NamedTuple

from gpu_check.report import Report
from gpu_check.training_speed import ALL_KERNELS, SETUPS, is_made, step_name


class Step(NamedTuple):
    name: str
    limit: int
    """Seconds at most, on a card."""
    function: str
    """MODULE.FUNCTION of this package, called with the report, the work folder and the arguments."""
    arguments: tuple[str, ...] = ()
    base: str | None = None
    """The base that it trains."""
    every_card: bool = False
    """Whether it sees all cards; the others see the first alone, lest plain TRL spread its batches over all."""

    def run(self, report: Report, work: Path) -> None:
        module, function = self.function.split(".")
        getattr(importlib.import_module(f"gpu_check.{module}"), function)(report, work, *self.arguments)

    def made(self, work: Path) -> bool:
        """Whether what it makes for later steps, if anything, is there."""
        return self.function != MAKE_BASE or is_made(work, self.arguments[0])


MAKE_BASE = "training_speed.make_base_and_rows"


def training(setup: str, tool: str, kernels: str = "", *, limit: int = 60) -> Step:
    arguments = (setup, tool, kernels)
    return Step(step_name(*arguments), limit, "training_speed.train", arguments, base=SETUPS[setup].base)


STEPS = (
    Step("environment", 60, "libraries.environment"),
    Step("libraries", 60, "libraries.libraries"),
    Step("kernel-accuracy", 90, "kernel_accuracy.kernel_accuracy"),
    Step("base-8b", 80, MAKE_BASE, ("qwen3-8b",)),
    training("8b-bf16", "govor", "off", limit=75),
    training("8b-bf16", "govor", ALL_KERNELS, limit=75),
    training("8b-bf16", "govor", "auto", limit=75),
    training("8b-bf16", "trl", limit=75),
    training("8b-bf16", "liger", limit=75),
    Step("base-4b", 55, MAKE_BASE, ("qwen3-4b",)),
    training("4b-nf4", "govor", "off"),
    training("4b-nf4", "govor", ALL_KERNELS),
    training("4b-nf4", "govor", "auto"),
    training("4b-nf4", "trl"),
    Step("kernel-timings", 60, "kernel_timings.kernel_timings"),
    Step("demo-bf16", 70, "verbs.demo", ("bf16",)),
    Step("demo-kernels", 60, "verbs.demo", ("kernels",)),
    Step("demo-nf4", 90, "verbs.demo", ("nf4",)),
    Step("small-card", 60, "verbs.small_card", base="qwen3-4b"),
    Step("out-of-memory", 60, "verbs.out_of_memory", base="qwen3-4b"),
    Step("merge-and-eval-4b", 110, "verbs.merge_and_eval_4b", base="qwen3-4b"),
    training("4b-nf4-short", "govor", "off"),
    training("4b-nf4-short", "govor", ALL_KERNELS),
    training("8b-bf16-kept", "govor", "off"),
    training("8b-bf16-kept", "govor", ALL_KERNELS),
    Step("demo-fp16", 50, "verbs.demo", ("fp16",)),
    Step("ddp", 60, "verbs.ddp"),
    Step("fsdp2", 60, "verbs.fsdp2", every_card=True),
    training("4b-nf4", "unsloth", limit=90),
    Step("gpu-tests", 205, "verbs.gpu_tests"),
    Step("own-tests", 90, "verbs.own_tests"),
)
BY_NAME = {step.name: step for step in STEPS}
MAKERS = {step.arguments[0]: step for step in STEPS if step.function == MAKE_BASE}
"""The step that makes each base."""
