# Training, and nodes of a Ray cluster: `bpr train-refiner`, `bpr extract`, `bpr refine` on many
# machines, replicas of the service.
#
#   docker build -f docker/training.Dockerfile -t bpr-training .
#   docker run --gpus all --shm-size 8g -v "$PWD":/data bpr-training \
#       bpr train-refiner --images /data/photos --instance-maps /data/maps --out /data/runs/mine
#
# docker/compose.ray.yaml starts a cluster of it. `docker/check.py` runs every step without Docker.

FROM debian:12.11-slim AS base
ENV PATH=/opt/venv/bin:$PATH \
    VIRTUAL_ENV=/opt/venv \
    UV_LINK_MODE=copy \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# Debian's archive keeps only the newest build of a package: a pinned one would not install
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home bpr

FROM base AS builder
WORKDIR /build
COPY requirements/uv.txt requirements/
RUN python3 -m venv /opt/venv \
    && pip install --no-cache-dir --require-hashes --requirement requirements/uv.txt

# The wheel of bpr; bpr/ holds links to the five folders beside it
FROM builder AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY bpr bpr
COPY detector detector
COPY refiner refiner
COPY pipeline pipeline
COPY service service
COPY scripts scripts
RUN --mount=type=cache,target=/root/.cache/uv \
    uv build --wheel --out-dir /wheel

FROM builder AS packages
COPY requirements/cluster.txt requirements/
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --compile-bytecode --require-hashes --requirement requirements/cluster.txt
COPY --from=wheel /wheel /wheel
RUN uv pip install --compile-bytecode --no-deps /wheel/*.whl

FROM base AS training
COPY --from=packages /opt/venv /opt/venv
# where a node of Ray answers; a container that only trains has none and says --no-healthcheck
ENV RAY_USAGE_STATS_ENABLED=0 \
    XDG_CACHE_HOME=/tmp/cache
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 \
    CMD ["ray", "health-check"]
WORKDIR /home/bpr
USER 10001:10001
CMD ["bpr", "--help"]
