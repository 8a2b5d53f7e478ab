"""Serving: existing engines, each in a process of its own, and the OpenAI API in front of them.

    serve.py          `govor serve`: runs by name behind the OpenAI API
    choose_engine.py  runs → their engines, by served_models()
    engine.py         an engine's life: start, health, restart with back-off, stop
    supervisor.py     the small process between us and an engine: ends the engine when we end, however we end
    engine_api.py     a run as it is served, and what govor needs to know of an engine's own API:
    vllm.py           of vLLM's
    transformers_serve.py   of `transformers serve`'s

    in_engine/        what runs in an engine's own process: the key that it asks for

    routes.py         the routes
    answering.py      a chat request → its engine's answer, for all routes that ask for one
    responses.py      /v1/responses on top of it: OpenAI's events
    response_request.py   its requests → chat requests
    response_store.py     responses that are kept, in SQLite
    completions.py    /v1/completions on top of it
    plain_requests.py HEAD, trailing slashes, gzip'd bodies
    guard.py          who may talk to a server: the key, or this machine's programs and no web page
    api_errors.py     OpenAI's error envelope; requests read so that an error names the field
    chat_request.py   chat requests: their fields, and how the answer is sampled
    stream.py         an engine's stream → OpenAI's
    prompt_check.py   the prompts that an engine makes equal those of training

    chat.py           `govor chat`: a conversation in the terminal

For a service of its own (`govor jobs serve`):

    [served] = served_models([open_run(Path("runs/natasha"))])     # no process runs yet
    served.engine.start()            # returns at once; again: nothing happens
    served.engine.wait_ready()       # blocks; MachineError with the engine's last lines where it dies
    served.engine.state              # "stopped", "starting" (also: again, after it died) or "ready"
    served.engine.healthy()          # asks the engine itself
    served.engine.stop()             # blocks until its processes are gone; the memory is free
    served_beside(served, run)       # vLLM: another run's adapter in the engine that runs; None where it needs its own
    served_base(name, config, folder, view)     # a base as it is

    async def resolve(model_id: str) -> Served:                    # may start an engine and need its time
        ...                                                        # ApiError, or raise model_not_found(model_id)
    app = FastAPI()
    app.include_router(chat_routes(resolve, ResponseStore(path)))  # chat, responses, completions
    app.include_router(model_routes(lambda: served_now))           # GET /v1/models, /v1/models/{id}
    guard(app, Access(key))                                        # who may ask
    install_error_handlers(app)                                    # last: every 4xx and 5xx in OpenAI's envelope

While `state` is not "ready" the chat route answers 503 with retry-after by itself. `not_ready(seconds)` is that error.
The engine's life is in threads, not in the event loop: from async code call `await asyncio.to_thread(engine.stop)`.
"""
