# Compresses and decompresses by ONNX Runtime, without PyTorch. docs/deploy.md says how it is run.
#
#     docker build -t slimcodec .
#
# Both images have Debian 12's Python 3.11. That of distroless has neither a shell nor a package manager, and its user
# is not root.
FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev python3-dev python3-venv
RUN python3 -m venv /tools && python3 -m venv --without-pip /opt/slimcodec
COPY . /source
RUN /tools/bin/pip wheel --no-deps --wheel-dir /wheels /source
# EXTRAS=[server] adds what a server takes. CompressAI, which is not here, is what holds numpy to an old version.
ARG EXTRAS=""
RUN grep -v '^numpy==' /source/constraints.txt > /constraints.txt \
    && /tools/bin/pip --python /opt/slimcodec/bin/python install --no-cache-dir --constraint /constraints.txt \
        "$(echo /wheels/slimcodec-*.whl)$EXTRAS"
# What nothing here imports.
RUN cd /opt/slimcodec/lib/python3*/site-packages \
    && rm -rf onnxruntime/quantization onnxruntime/tools onnxruntime/transformers \
    && find . -type d -name tests -prune -exec rm -rf {} +

FROM gcr.io/distroless/python3-debian12:nonroot
COPY --from=build /opt/slimcodec /opt/slimcodec
# The bytecode is there, and the root may be read-only.
ENV PATH=/opt/slimcodec/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1
WORKDIR /work
ENTRYPOINT ["slimcodec"]
CMD ["--help"]
