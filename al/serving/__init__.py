"""Models of a run behind HTTP: OpenAI's API, and that of the NeurIPS LLM Efficiency Challenge.

    server.py       uvicorn on a socket, the service behind it, and a shutdown that lets answers under way end
    app.py          the application: routes, errors, health and metrics
    guard.py        which requests are read at all: host, token, origin, size and time of the body
    openai_*.py     OpenAI's routes and their documents
    challenge.py    the challenge's routes
    connection.py   what routes share, and clients that leave
    answers.py      one request's answers, assembled from the steps of the batch
    text.py         text of tokens as they come, up to a stop sequence
    models.py       the models by name, and the limits of a request
    worker.py       the thread that owns the model; asyncio only waits for its steps
    problems.py     errors in OpenAI's form
    metrics.py      counters for Prometheus

A request's way: guard → route → models (tokens, limits) → worker (trainer.generation.continuous) → answers → document.
"""
