"""The OpenAI fine-tuning API on one's own GPU: `govor jobs`.

    wire.py               requests and responses, as they stand on the wire
    bases.py              the bases that clients may name, catalogue.yaml
    run_config.py         a job's request → the config of its run; what `auto` means

    data_folder.py        the data folder is claimed, or refused where it is somebody's
    store.py              everything that must survive: SQLite and files in the data folder
    change.py             one change of the store: the statements of a transaction
    uploads.py            a multipart form with a file, streamed to disk

    server.py             `govor jobs serve`: the app and its worker
    file_routes.py        files: upload, list, download, delete
    upload_routes.py      uploads: parts that become a file
    job_routes.py         jobs with their events and checkpoints; models
    route_helpers.py      what all routes share
    create_job.py         a request → the job in the store, once however often it comes
    engine_gate.py        whose turn it is with the engine that answers chats; training comes before all
    model_loader.py       a model, a checkpoint or a base → the engine that answers for it

    worker.py             makes the processes follow the store
    executors.py          where trainings run: what the worker asks of this machine, or of a cluster
    ray_executor.py       trainings on the nodes of a Ray cluster
    ray_api.py            what is asked of the cluster, over HTTP
    validate_files.py     checks the files of new jobs
    training_process.py   the training processes: start, find again, stop
    metrics_to_events.py  a training's new steps and checkpoints become events
    step_metrics.py       metrics.jsonl → steps and the result file, in OpenAI's names
    finish.py             what the end of a process means for its job
    job_errors.py         the server's log, and a job's errors in OpenAI's words

    client.py             govor jobs list | show | cancel | nodes

The store says what ought to be, the worker makes it so. A request only changes the store, in one transaction; the
worker compares it with the processes that really run, four times a second, and starts, stops or settles them. So it
does not matter when anything is killed: whoever starts next finds the store and the processes, and goes on.

A training process belongs to nobody: it runs in a session of its own, carries its job's name in its environment, and
goes on when the server dies. The next server finds it by that name. Its result is judged by the run folder alone.
"""
