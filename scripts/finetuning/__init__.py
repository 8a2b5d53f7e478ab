"""What upload_and_finetune.py and the guides' scripts in analysis/ are made of.

    guides.py       what the guides' scripts do unless told, and their words
    arguments.py    the command line, and what is wrong with it before anything is sent
    providers.py    what each provider can do, where it is, which key it takes
    offline.py      what is done without sending anything: check, estimate, rehearse, write request bodies
    estimate.py     tokens and price
    openai_api.py   every provider that speaks OpenAI's API, through OpenAI's own SDK
    vertex.py       Google, through its own SDKs
    watch.py        the screen and the log while a job runs

All of it runs on `Provider`, `JobRequest`, `Job` and `Event` of providers.py; no other file knows a provider's terms.
"""
