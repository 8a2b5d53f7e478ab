"""What upload_and_finetune.py does without sending anything: check, estimate, rehearse, write request bodies."""

import json
import shlex
from pathlib import Path

from train.chats.checks import check_file, problem_location
from train.chats.readers import read_rows
from train.chats.split import require_disjoint
from train.core.errors import DataError
from train.core.files import require_new, write_whole

from .asked import Asked
from .estimate import estimate, show
from .providers import PROVIDERS, Provider, Service, body
from .vertex import gemini_rows, object_name, rest_body, sdk_arguments

CONFIGS = ("google_finetune_config.json", "vertex_finetune_config.json", "kimi_finetune_config.json")


def validate(asked: Asked, provider: Provider) -> None:
    """Say that the files are right, or every problem, and leave with 1."""
    for path, kind in ((asked.file, "training"), (asked.validation_file, "validation")):
        if path is None:
            continue
        report = check_file(path)
        few = [p for p in report.errors if p.kind == "too_few_examples"] if kind == "validation" else []
        if report.error_count > len(few):  # of the rows held out there may be few
            for problem in report.errors:
                print(f"{problem_location(path, problem)}: {problem.message} [{problem.kind}]")
            print(f"❌ Validation failed: {report.error_count} errors")
            raise SystemExit(1)
        if path.stat().st_size > provider.largest:
            raise DataError(f"{path}: larger than the {provider.largest >> 20} MiB that {provider.title} takes")
        print(f"✅ Validation passed: {report.examples} {kind} examples")
        if report.warning_count:
            print(f"   {report.warning_count} warnings: govor validate {shlex.quote(str(path))}")
    if asked.file is not None and asked.validation_file is not None:
        require_disjoint(read_rows(asked.file), read_rows(asked.validation_file), asked.file, asked.validation_file)


def print_estimate(asked: Asked, provider: Provider) -> None:
    assert asked.file is not None
    model = asked.model or provider.model
    print(show(estimate(asked.file, provider, model, asked.epochs), provider, model, asked.epochs is not None))


def rehearse(asked: Asked, provider: Provider, service: Service) -> None:
    """Let the SDK print its requests; what an answer would tell stands in capitals."""
    if asked.list_jobs:
        service.jobs()
    elif asked.cancel:
        service.cancel(asked.cancel)
    elif asked.test:
        service.chat(asked.test, [{"role": "user", "content": "PROMPT"}])
    elif asked.monitor:
        service.job(asked.monitor)
        service.news(asked.monitor, set())
    else:
        assert asked.file is not None
        file = service.upload(asked.file)
        held_out = service.upload(asked.validation_file) if asked.validation_file else None
        if not asked.upload_only:
            job = service.create(asked.request(provider), file, held_out)
            service.job(job.id)
            service.news(job.id, set())
            service.chat("FINE_TUNED_MODEL", [{"role": "user", "content": "PROMPT"}])


def rehearse_vertex(asked: Asked, provider: Provider) -> None:
    """The same for Google, by the bodies that its SDK sends."""
    place = asked.place()
    jobs = place.jobs_url("v1beta1")
    if asked.list_jobs:
        print(f"GET {jobs}")
    elif asked.monitor or asked.cancel:
        id_ = (asked.monitor or asked.cancel or "").rpartition("/")[2]
        print(f"GET {jobs}/{id_}" if asked.monitor else f"POST {jobs}/{id_}:cancel")
    elif asked.test:
        print(f"POST {jobs.partition('/projects/')[0]}/{asked.test}:generateContent, for each of five prompts")
    else:
        uris = []
        for path in filter(None, (asked.file, asked.validation_file)):
            lines = gemini_rows(path, asked.when_lossy)
            uris.append(f"gs://{place.bucket}/{object_name(path, lines)}")
            size = sum(len(line.encode()) for line in lines)
            print(f"upload to Cloud Storage: {uris[-1]} ({len(lines)} rows, {size:,} bytes)")
        if not asked.upload_only:
            made = rest_body(asked.request(provider), uris[0], uris[1] if len(uris) > 1 else None)
            print(f"\nPOST {jobs}\nAuthorization: Bearer ***\n{json.dumps(made, ensure_ascii=False, indent=2)}")


def write_configs(asked: Asked, provider: Provider) -> None:
    """Request bodies for those who send them themselves; what is not known yet stands in capitals."""
    for name in CONFIGS:
        require_new(Path(name), asked.force)
    place = asked.place()
    stems = [f"{path.stem}-gemini.jsonl" if path else None for path in (asked.file, asked.validation_file)]
    training, validation = (f"gs://{place.bucket}/{stem}" if stem else None for stem in stems)
    training = training or f"gs://{place.bucket}/TRAINING_ROWS.jsonl"
    google, kimi = (
        asked.request(provider)._replace(model=asked.model if asked.model and provider.name == name else usual)
        for name, usual in ((name, PROVIDERS[name].model) for name in ("vertex", "kimi"))
    )
    held_out = "VALIDATION_FILE_ID" if asked.validation_file else None
    made = (
        sdk_arguments(google, training, validation),
        rest_body(google, training, validation),
        body(kimi, "FILE_ID", held_out),
    )
    for name, content in zip(CONFIGS, made, strict=True):
        write_whole(Path(name), [json.dumps(content, ensure_ascii=False, indent=2) + "\n"], replace=asked.force)
    for path, stem in zip((asked.file, asked.validation_file), stems, strict=True):
        if path and stem:
            print(f"govor convert {shlex.quote(str(path))} --to gemini -o {shlex.quote(stem)}")
            print(f"gcloud storage cp {shlex.quote(stem)} gs://{place.bucket}/{shlex.quote(stem)}")
    print(f"{CONFIGS[0]}: arguments of client.tunings.tune in google-genai (config as types.CreateTuningJobConfig)")
    print(f"{CONFIGS[1]}: body of POST {place.jobs_url()}")
    print(
        f"{CONFIGS[2]}: body of POST …/fine_tuning/jobs in OpenAI's form. Kimi documents no such address (2026-11-20): "
        "it is for a host that tunes Kimi's open weights behind this API"
    )
