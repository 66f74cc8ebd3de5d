# The page and the DICOM node in one image: base + serve + dicom, without torch. docs/containers.md has the commands.
FROM python:3.13-slim AS build
RUN pip install --no-cache-dir uv
COPY pyproject.toml README.md LICENSE requirements.lock /src/
COPY src /src/src
WORKDIR /src
# Exact versions of the lock, as far as these extras need them; without the tests that packages bring (25 MB).
RUN uv venv /usr/local/agcxr \
    && uv build --wheel --out-dir /dist \
    && wheel="$(echo /dist/agcxr-*.whl)" \
    && uv pip install --no-cache --python /usr/local/agcxr/bin/python --constraints requirements.lock "${wheel}[serve,dicom]" \
    && find /usr/local/agcxr -type d -name tests -prune -exec rm -r {} +

FROM python:3.13-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin agcxr && install -d -o agcxr -g agcxr /var/lib/agcxr
COPY --from=build /usr/local/agcxr /usr/local/agcxr
ENV PATH=/usr/local/agcxr/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER agcxr
WORKDIR /var/lib/agcxr
VOLUME /var/lib/agcxr
EXPOSE 8000 11112
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["agcxr"]
CMD ["serve", "starter"]
