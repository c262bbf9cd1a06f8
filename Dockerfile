# Winnow in a container, with the packages of the lock files. Two targets:
#
#   docker build --target cpu -t winnow:cpu .      the demo: model, embedder and pool are inside, and it needs no network
#   docker run --rm -v "$PWD/runs:/winnow/runs" winnow:cpu
#
#   docker build --target cuda -t winnow:cuda .    for an NVIDIA GPU; models come from the hub or a mounted folder
#   docker run --rm --gpus all -v "$PWD/runs:/winnow/runs" -v "$PWD/data:/data" winnow:cuda round --pool /data/mine.jsonl --budget 5000
#
# runs/ must be writable for the user with number 1000, or add --user "$(id -u)".
FROM python:3.11-slim AS system

# Triton and Inductor compile kernels with a C++ compiler when they first run. make installs, as outside a container. Debian keeps no earlier
# versions of these, so none is pinned.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ make && rm -rf /var/lib/apt/lists/*

WORKDIR /winnow
RUN useradd --create-home --uid 1000 winnow && mkdir runs cache && chmod 1777 runs cache
ENV WINNOW_CACHE=/winnow/cache HF_HOME=/winnow/cache/huggingface PIP_NO_CACHE_DIR=1 PATH=/winnow/.venv/bin:$PATH
COPY Makefile requirements.lock requirements-cuda.lock /winnow/
ENTRYPOINT ["python", "cli.py"]


FROM system AS cpu

# An index with PyTorch's build for CPUs, whose hash is in the lock file, makes the image some gigabytes smaller: --build-arg PIP_EXTRA_INDEX_URL=URL
ARG PIP_EXTRA_INDEX_URL
RUN make .venv/.installed

COPY cli.py pyproject.toml /winnow/
COPY selection /winnow/selection
COPY trainer /winnow/trainer
COPY configs /winnow/configs
COPY al /winnow/al
RUN make assets && chmod -R a+rwX cache

ENV HF_HUB_OFFLINE=1
USER 1000
CMD ["round", "--config", "demo", "--run", "runs/demo", "--budget", "100"]


FROM system AS cuda

# On Linux PyPI's torch brings CUDA; make then installs its libraries from requirements-cuda.lock.
RUN make .venv/.installed && python -c "import torch; assert torch.version.cuda, 'this torch has no CUDA'"

COPY cli.py pyproject.toml /winnow/
COPY selection /winnow/selection
COPY trainer /winnow/trainer
COPY configs /winnow/configs
COPY al /winnow/al

USER 1000
CMD ["--help"]
