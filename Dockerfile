# slimcodec compresses and decompresses by ONNX Runtime; docs/deploy.md says how it is run.
#
#     docker build -t slimcodec .
FROM debian:bookworm-slim AS system
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*

# The compiler that makes the wheel stays here.
FROM system AS build
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev python3-dev python3-venv
RUN python3 -m venv /tools && python3 -m venv --without-pip /opt/slimcodec
COPY . /source
RUN /tools/bin/pip wheel --no-deps --wheel-dir /wheels /source
# EXTRAS="[server]" adds what docs/server.py needs. numpy is not held to what CompressAI needs, which is not here.
ARG EXTRAS=""
RUN grep -v '^numpy==' /source/constraints.txt > /constraints.txt \
    && /tools/bin/pip --python /opt/slimcodec/bin/python install --no-cache-dir --constraint /constraints.txt \
        "$(echo /wheels/slimcodec-*.whl)$EXTRAS" \
    && find /opt/slimcodec -type d -name tests -prune -exec rm -rf {} +

FROM system
COPY --from=build /opt/slimcodec /opt/slimcodec
# Nothing is written where the root is read-only, and no home is needed.
ENV PATH=/opt/slimcodec/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /work
ENTRYPOINT ["slimcodec"]
CMD ["--help"]
