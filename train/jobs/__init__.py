"""Jobs: the OpenAI fine-tuning API on one's own GPU.

    objects.py      requests and answers, as they stand on the wire
    catalogue.py    the bases that clients may name, catalogue.yaml
    recipe.py       a request → the config of one run; what `auto` means

    store.py        everything that must survive: SQLite and files in the data folder
    change.py       one change of it: the statements of a transaction
    uploads.py      a multipart upload, streamed to disk

    server.py       the verb: one server for a data folder
    answers.py      what all routes share
    file_routes.py, job_routes.py, model_routes.py
    creation.py     a request for a job → the job, once however often it comes
    chats.py        which engine answers, and when none may

    worker.py       makes the processes follow the store
    processes.py    the training processes: start, find again, stop
    checking.py     the files of new jobs are checked
    following.py    a training's new steps and checkpoints become events
    metrics.py      a run's metrics → steps and the result file, in OpenAI's words
    outcome.py      what the end of a process means for its job
    words.py        the log, and what is wrong with a job in OpenAI's words

    client.py       govor jobs list | show | cancel

The store says what ought to be, the worker makes it so. A request only changes the store, in one transaction; the
worker compares it with the processes that really run, four times a second, and starts, stops or settles them. So it
does not matter when anything is killed: whoever starts next finds the store and the processes, and goes on.

A training process belongs to nobody: it runs in a session of its own, carries its job's name in its environment, and
goes on when the server dies. The next server finds it by that name. Its result is judged by the run folder alone.
"""
