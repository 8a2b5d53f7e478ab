"""Serving: existing engines, each in a process of its own, and the OpenAI API in front of them.

    keeper.py        the small process between us and an engine: ends the engine when we end, however we end
    engines.py       Engine: start, health, restart with back-off, stop
    models.py        Served: a run as it is served; served_models() gives the runs their engines
    vllm.py, transformers_serve.py   what each engine calls things: its command, its requests, its answers
    asked.py         chat requests: what may be asked, sampling defaults
    envelope.py      OpenAI's error envelope
    app.py           routes and keys
    parity.py        the engine's prompt equals training's
    serve.py         the verb

For a service of its own (`govor jobs serve`):

    [served] = served_models([open_run(Path("runs/natasha"))])     # no process runs yet
    served.engine.start()            # returns at once; again: nothing happens
    served.engine.wait_ready()       # blocks; MachineError with the engine's last lines where it dies
    served.engine.state              # "stopped", "starting" (also: again, after it died) or "ready"
    served.engine.healthy()          # asks the engine itself
    served.engine.stop()             # blocks until its processes are gone; the memory is free

    async def resolve(model_id: str) -> Served:                    # may start an engine and need its time
        ...                                                        # ApiError, or raise model_not_found(model_id)
    app = FastAPI()
    app.include_router(chat_routes(resolve))                       # POST /v1/chat/completions
    app.include_router(model_routes(lambda: served_now))           # GET /v1/models, /v1/models/{id}
    envelope_errors(app)                                           # every 4xx and 5xx in OpenAI's envelope

While `state` is not "ready" the chat route answers 503 with retry-after by itself. `not_ready(seconds)` is that error.
The engine's life is in threads, not in the event loop: from async code call `await asyncio.to_thread(engine.stop)`.
"""
