"""Measures `govor validate` side by side with other readers of the same file, in one run, and prints the ratios.

    python scripts/bench_data.py [--megabytes 200] [--rounds 3] [--rows data/natasha.jsonl]

Each reader runs in a process of its own, in turn, so that the machine's drift falls on all of them alike; the medians
count. Peak memory is the process's, as the operating system saw it.
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click

READERS = {
    "govor validate": "from train.chats.checks import check_file; report = check_file(Path(sys.argv[1]))\n"
    "assert not report.error_count, report.errors[:3]",
    "json.loads loop": "import json\nfor line in open(sys.argv[1], 'rb'): json.loads(line)",
    "datasets.load_dataset": "import datasets; datasets.disable_progress_bars()\n"
    "datasets.load_dataset('json', data_files=sys.argv[1], cache_dir=sys.argv[1] + '.cache' + str(time.time()))",
}


@click.command()
@click.option("--megabytes", default=200)
@click.option("--rounds", default=3)
@click.option("--rows", type=click.Path(path_type=Path, exists=True), default=Path("data/natasha.jsonl"))
def main(megabytes: int, rounds: int, rows: Path) -> None:
    """Speed and memory on a file of that size, made of different rows like those given."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        count = write_rows(path, rows.read_bytes().splitlines(), megabytes * 1_000_000)
        size = path.stat().st_size
        print(f"{size / 1e6:.0f} MB, {count:,} rows, {rounds} rounds")
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in READERS}
        for _ in range(rounds):
            for name, code in READERS.items():
                found[name].append(measure(code, path))
        own = statistics.median(seconds for seconds, _ in found["govor validate"])
        for name, runs in found.items():
            seconds, memory = (statistics.median(values) for values in zip(*runs, strict=True))
            speed, ratio = size / 1e6 / seconds, seconds / own
            print(f"{name:24} {speed:7.0f} MB/s   {memory:6.0f} MB peak   {ratio:5.2f} × govor's time")
        bound = 80 + 16e-6 * count
        peak = max(memory for _, memory in found["govor validate"])
        print(f"memory bound 80 MB + 16 bytes a row = {bound:.0f} MB: {'kept' if peak <= bound else 'BROKEN'}")


def write_rows(path: Path, lines: list[bytes], size: int) -> int:
    """Rows until the file has that many bytes, each made different by a number in its first answer."""
    written = count = 0
    with path.open("wb") as file:
        while written < size:
            for line in lines:
                at = line.rindex(b'"}]')
                written += file.write(line[:at] + b" %d" % count + line[at:] + b"\n")
                count += 1
    return count


def measure(code: str, path: Path) -> tuple[float, float]:
    """(seconds, peak MB) of the code over the file, in a process of its own; imports do not count as time."""
    script = (
        "import sys, time, resource\nfrom pathlib import Path\nimport train.chats.checks, json, datasets\n"
        if "datasets" in code
        else "import sys, time, resource\nfrom pathlib import Path\nimport train.chats.checks, json\n"
    )
    script += "started = time.perf_counter()\n" + code
    script += "\nprint(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    output = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True).stdout
    seconds, kilobytes = map(float, output.split())
    return seconds, kilobytes * 1024 / 1e6


if __name__ == "__main__":
    main()
