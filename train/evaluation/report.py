"""report.html: one self-contained page about a run, from its folder."""

import html
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from train.core.files import write_atomically
from train.core.runs import Run
from train.models.base import describe_template


class Sample(NamedTuple):
    """One prompt and its answers."""

    prompt: str
    before: str
    after: str


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{name}</title>
<style>
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
 table {{ border-collapse: collapse; width: 100% }} td, th {{ border-top: 1px solid #ddd; padding: .4rem .8rem .4rem 0;
 text-align: left; vertical-align: top; white-space: pre-wrap; overflow-wrap: anywhere }}
 svg {{ max-width: 100%; height: auto }} pre {{ background: #f6f6f6; padding: 1rem; overflow-x: auto }}
</style>
<h1>{name}</h1>
<table>{facts}</table>
<h2>Loss</h2>
{loss}
<h2>Tokens a row</h2>
{lengths}
{samples}
<h2>Config</h2>
<pre>{config}</pre>
</html>
"""


def write_report(run: Run, samples: Sequence[Sample] = ()) -> None:
    """Write the run's report.html, over an earlier one: loss curve, lengths, config and the samples given."""
    manifest = run.manifest()
    facts = "".join(f"<tr><th>{_text(key)}</th><td>{_text(value)}</td></tr>" for key, value in _facts(manifest))
    answers = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in sample) + "</tr>" for sample in samples)
    head = "<h2>Answers</h2><table><tr><th>prompt</th><th>base</th><th>tuned</th></tr>"
    page = PAGE.format(
        name=_text(run.path.name),
        facts=facts,
        loss=loss_curve(run.metrics()),
        lengths=_histogram(manifest["lengths"]),
        samples=f"{head}{answers}</table>" if samples else "",
        config=_text(run.config_file.read_text(encoding="utf-8")),
    )
    write_atomically(run.report_file, page)


def _facts(manifest: dict[str, Any]) -> list[tuple[str, object]]:
    data, result = manifest["data"], manifest.get("evaluation", {})
    facts: list[tuple[str, object]] = [
        ("base", manifest["base"]["name_or_path"]),
        ("chat template", describe_template(manifest["template"])),
        ("trained", f"{data['train']['rows']} rows, {data['train']['trained_tokens']} trained tokens an epoch"),
        ("held out", f"{data['held_out']['rows']} rows"),
        ("parameters", f"{manifest['parameters']['trainable']:,} trained of {manifest['parameters']['all']:,}"),
        ("machine", f"{manifest['processes']['device']} × {manifest['processes']['num_processes']}"),
        ("finished", manifest.get("finished", "no")),
        *((("training took", f"{manifest['seconds']:,.0f} s"),) if "seconds" in manifest else ()),
        *((("system message", data["system_message"]),) if data.get("system_message") else ()),
        *(("warning", text) for text in manifest.get("warnings", ())),
    ]
    if "verdict" in result:
        facts.append(("evaluation", result["verdict"]["en"]))
    if "base_loss" in result:
        facts.append(("held-out loss", f"{result['base_loss']:.3f} before, {result['tuned_loss']:.3f} after"))
    return facts


def loss_curve(metrics: Sequence[dict[str, Any]]) -> str:
    """SVG of training and held-out loss over steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("loss", "training"), ("eval_loss", "held out")):
        points = [(m["step"], m[name]) for m in metrics if name in m and math.isfinite(m[name])]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss, nats a token")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    return _svg(figure)


def _histogram(lengths: dict[str, list[float]]) -> str:
    """SVG of `counts` rows in the bins between `edges` (one more than counts)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    axes.stairs(lengths["counts"], lengths["edges"], fill=True)
    axes.set_xlabel("tokens")
    axes.set_ylabel("rows")
    return _svg(figure)


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _text(value: object) -> str:
    return html.escape(str(value))
