# The bridge alone, without a compiler, sources, embedded PostgreSQL or root.

FROM python:3.13-slim AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY bridge bridge
COPY sql sql
COPY templates templates
COPY examples/pgbridge.js examples/
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    BRIDGE_HOST=0.0.0.0 \
    BRIDGE_PORT=8080
# The versions that the tests use.
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    --mount=type=bind,source=tests/constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir --constraint /constraints.txt /wheels/*.whl
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent pgbridge
# A mounted pgbridge.toml is read from here.
WORKDIR /etc/pgbridge
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['BRIDGE_PORT']}/readyz\", timeout=4)"]
ENTRYPOINT ["pgbridge"]
CMD ["run"]
