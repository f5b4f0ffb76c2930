# The HTTP service.
#
#   docker build -f docker/service.Dockerfile -t bpr-service .                         # CPU
#   docker build -f docker/service.Dockerfile -t bpr-service:cuda --target cuda .      # NVIDIA GPUs
#   docker run --read-only --tmpfs /tmp -p 8000:8000 bpr-service
#
# Settings are variables: docs/service.md. `docker/check.py` runs every step without Docker.

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

# Without PyTorch: OpenVINO reads the shipped weights
FROM builder AS cpu-packages
COPY requirements/serve.txt requirements/
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --compile-bytecode --require-hashes --requirement requirements/serve.txt
COPY --from=wheel /wheel /wheel
RUN uv pip install --compile-bytecode --no-deps /wheel/*.whl

FROM builder AS cuda-packages
COPY requirements/serve-cuda.txt requirements/
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --compile-bytecode --require-hashes --requirement requirements/serve-cuda.txt
COPY --from=wheel /wheel /wheel
RUN uv pip install --compile-bytecode --no-deps /wheel/*.whl

FROM base AS service
ENV BPR_HOST=0.0.0.0 \
    BPR_PORT=8000 \
    XDG_CACHE_HOME=/tmp/cache
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"BPR_PORT\"]}/readyz', timeout=4)"]
STOPSIGNAL SIGTERM
WORKDIR /home/bpr
ENTRYPOINT ["bpr"]
CMD ["serve"]

FROM service AS cuda
COPY --from=cuda-packages /opt/venv /opt/venv
ENV BPR_DEVICE=cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001

FROM service AS cpu
COPY --from=cpu-packages /opt/venv /opt/venv
USER 10001:10001
