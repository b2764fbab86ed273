# The daemon in a container: docs/operations.md, "In a container". Build: docker build -t subtitled .
#
# The driver comes from the host (NVIDIA Container Toolkit); the only CUDA library that CTranslate2 loads comes from pip, so no
# CUDA image is needed. Without GPUs: docker build --build-arg CUDA=0 -t subtitled .

# To pin the base, pass its digest: --build-arg BASE=python:3.12-slim@sha256:… (docker buildx imagetools inspect
# python:3.12-slim prints it; without a registry it could not be looked up here).
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements.lock ./
RUN python -m venv /opt/subtitled
RUN /opt/subtitled/bin/pip install --no-deps --require-hashes -r requirements.lock
ARG CUDA=1
RUN if [ "$CUDA" = 1 ]; then /opt/subtitled/bin/pip install --no-deps nvidia-cublas-cu12; fi
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY daemon daemon
RUN /opt/subtitled/bin/pip install --no-deps --no-build-isolation .

FROM ${BASE}
# A separate user with a fixed number, so that folders of the host can be owned by it.
ARG UID=10001
RUN groupadd --gid "$UID" subtitled \
 && useradd --uid "$UID" --gid "$UID" --home-dir /var/lib/subtitled --no-create-home --shell /usr/sbin/nologin subtitled \
 && install -d -o subtitled -g subtitled -m 0750 /var/lib/subtitled /run/subtitled \
 && install -d -o subtitled -g subtitled -m 2775 /srv/subtitled/inbox /srv/subtitled/outbox
COPY --from=build /opt/subtitled /opt/subtitled
COPY container/entrypoint.sh /usr/local/bin/entrypoint
ENV PATH=/opt/subtitled/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/var/lib/subtitled \
    HF_HOME=/var/lib/subtitled/models \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SUBTITLED_LISTEN__METRICS=0.0.0.0:9477 \
    SUBTITLED_HTTP__LISTEN=0.0.0.0:8600 \
    SUBTITLED_HTTP__TOKEN_FILE=/var/lib/subtitled/tokens \
    SUBTITLED_LOG__FORMAT=json
USER subtitled
WORKDIR /var/lib/subtitled
VOLUME /var/lib/subtitled
EXPOSE 8600 9477
# The first start may download a model; the daemon answers during the download.
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s --retries=3 CMD ["subtitle", "ping", "--timeout", "10"]
# SIGTERM: running leases may finish within recovery.stop_timeout_s; allow the container more time than that.
STOPSIGNAL SIGTERM
ENTRYPOINT ["entrypoint"]
CMD ["run"]
