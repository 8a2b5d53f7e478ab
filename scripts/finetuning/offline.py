"""What upload_and_finetune.py does without sending anything: check, estimate, rehearse, write request bodies."""

import json
import shlex
import sys
from pathlib import Path

from train.chats.checks import check_file, problem_location
from train.chats.readers import read_rows
from train.chats.split import require_disjoint
from train.core.errors import DataError
from train.core.files import require_new, write_whole

from .arguments import Arguments
from .estimate import describe, estimate
from .providers import PROVIDERS, Provider, Service, openai_body
from .vertex import gemini_rows, object_name, rest_body, sdk_arguments

CONFIGS = ("google_finetune_config.json", "vertex_finetune_config.json", "kimi_finetune_config.json")


def validate(arguments: Arguments, provider: Provider) -> None:
    """Print that the files are right; or print every problem and exit with 1."""
    for path, kind in ((arguments.file, "training"), (arguments.validation_file, "validation")):
        if path is None:
            continue
        report = check_file(path)
        too_few = [p for p in report.errors if p.kind == "too_few_examples"] if kind == "validation" else []
        if report.error_count > len(too_few):  # of the rows held out there may be few
            for problem in report.errors:
                print(f"{problem_location(path, problem)}: {problem.message} [{problem.kind}]")
            print(f"❌ Validation failed: {report.error_count} errors")
            raise SystemExit(1)
        if path.stat().st_size > provider.max_bytes:
            raise DataError(f"{path}: larger than the {provider.max_bytes >> 20} MiB that {provider.title} takes")
        print(f"✅ Validation passed: {report.examples} {kind} examples")
        if report.warning_count:
            print(f"   {report.warning_count} warnings: govor validate {shlex.quote(str(path))}")
    if arguments.file is not None and arguments.validation_file is not None:
        if arguments.file.read_bytes() == arguments.validation_file.read_bytes():
            print(
                "warning: training and validation file hold the same rows: a loss on them says nothing of new ones",
                file=sys.stderr,
            )
            return
        require_disjoint(
            read_rows(arguments.file), read_rows(arguments.validation_file), arguments.file, arguments.validation_file
        )


def print_estimate(arguments: Arguments, provider: Provider) -> None:
    """Print tokens and price of the training file."""
    assert arguments.file is not None
    model = arguments.model or provider.model
    print(
        describe(
            estimate(arguments.file, provider, model, arguments.epochs),
            arguments.file,
            provider,
            model,
            arguments.epochs is not None,
        )
    )


def rehearse(arguments: Arguments, provider: Provider, service: Service) -> None:
    """Let the SDK print its requests; what an answer would tell stands in capitals."""
    if arguments.list_jobs:
        service.jobs()
    elif arguments.cancel:
        service.cancel(arguments.cancel)
    elif arguments.test:
        service.chat(arguments.test, [{"role": "user", "content": "PROMPT"}])
    elif arguments.monitor:
        service.job(arguments.monitor)
        service.new_events(arguments.monitor, set())
    else:
        assert arguments.file is not None
        file = service.upload(arguments.file)
        held_out = service.upload(arguments.validation_file) if arguments.validation_file else None
        if not arguments.upload_only:
            job = service.create(arguments.job_request(provider), file, held_out)
            service.job(job.id)
            service.new_events(job.id, set())
            service.chat("FINE_TUNED_MODEL", [{"role": "user", "content": "PROMPT"}])


def rehearse_vertex(arguments: Arguments, provider: Provider) -> None:
    """Print the requests that Google's SDK would send, by their bodies."""
    project = arguments.google_project()
    jobs = project.jobs_url("v1beta1")
    if arguments.list_jobs:
        print(f"GET {jobs}")
    elif arguments.monitor or arguments.cancel:
        id_ = (arguments.monitor or arguments.cancel or "").rpartition("/")[2]
        print(f"GET {jobs}/{id_}" if arguments.monitor else f"POST {jobs}/{id_}:cancel")
    elif arguments.test:
        print(f"POST {jobs.partition('/projects/')[0]}/{arguments.test}:generateContent, for each of five prompts")
    else:
        uris = []
        for path in filter(None, (arguments.file, arguments.validation_file)):
            lines = gemini_rows(path, arguments.when_lossy)
            uris.append(f"gs://{project.bucket}/{object_name(path, lines)}")
            size = sum(len(line.encode()) for line in lines)
            print(f"upload to Cloud Storage: {uris[-1]} ({len(lines)} rows, {size:,} bytes)")
        if not arguments.upload_only:
            request = rest_body(arguments.job_request(provider), uris[0], uris[1] if len(uris) > 1 else None)
            print(f"\nPOST {jobs}\nAuthorization: Bearer ***\n{json.dumps(request, ensure_ascii=False, indent=2)}")


def write_configs(arguments: Arguments, provider: Provider) -> None:
    """Write request bodies for those who send them themselves; what is not known yet stands in capitals."""
    for name in CONFIGS:
        require_new(Path(name), arguments.force)
    project = arguments.google_project()
    stems = [f"{path.stem}-gemini.jsonl" if path else None for path in (arguments.file, arguments.validation_file)]
    training, validation = (f"gs://{project.bucket}/{stem}" if stem else None for stem in stems)
    training = training or f"gs://{project.bucket}/TRAINING_ROWS.jsonl"
    google, kimi = (
        arguments.job_request(provider)._replace(
            model=arguments.model if arguments.model and provider.name == name else usual
        )
        for name, usual in ((name, PROVIDERS[name].model) for name in ("vertex", "kimi"))
    )
    held_out = "VALIDATION_FILE_ID" if arguments.validation_file else None
    bodies = (
        sdk_arguments(google, training, validation),
        rest_body(google, training, validation),
        openai_body(kimi, "FILE_ID", held_out),
    )
    for name, content in zip(CONFIGS, bodies, strict=True):
        write_whole(Path(name), [json.dumps(content, ensure_ascii=False, indent=2) + "\n"], replace=arguments.force)
    for path, stem in zip((arguments.file, arguments.validation_file), stems, strict=True):
        if path and stem:
            print(f"govor convert {shlex.quote(str(path))} --to gemini -o {shlex.quote(stem)}")
            print(f"gcloud storage cp {shlex.quote(stem)} gs://{project.bucket}/{shlex.quote(stem)}")
    print(f"{CONFIGS[0]}: arguments of client.tunings.tune in google-genai (config as types.CreateTuningJobConfig)")
    print(f"{CONFIGS[1]}: body of POST {project.jobs_url()}")
    print(
        f"{CONFIGS[2]}: body of POST …/fine_tuning/jobs in OpenAI's form. Kimi documents no such address (2026-11-20): "
        "it is for a host that tunes Kimi's open weights behind this API"
    )
