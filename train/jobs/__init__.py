"""Jobs: the OpenAI fine-tuning API on one's own GPU.

    objects.py      requests and answers, as they stand on the wire
    catalogue.py    the bases that clients may name, catalogue.yaml
    recipe.py       a request → the config of one run; what `auto` means
    store.py        everything that must survive: SQLite and files in the data folder
    uploads.py      a multipart upload, streamed to disk
    metrics.py      a run's metrics → events, checkpoints, the result file
    processes.py    the training processes: start, find again, stop
    worker.py       makes the processes follow the store
    chats.py        which engine answers, and when none may
    routes.py       the routes
    server.py       the verb: one server for a data folder
    client.py       govor jobs list | show | cancel

The store says what ought to be, the worker makes it so. A request only changes the store, in one transaction; the
worker compares it with the processes that really run, four times a second, and starts, stops or settles them. So it
does not matter when anything is killed: whoever starts next finds the store and the processes, and goes on.

A training process belongs to nobody: it runs in a session of its own, carries its job's name in its environment, and
goes on when the server dies. The next server finds it by that name. Its result is judged by the run folder alone.
"""
