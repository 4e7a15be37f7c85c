# docs/image.md tells how to use it and what its arguments do. Builds with every builder since 20.10.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS system
ARG DEBIAN_FRONTEND=noninteractive
# Debian's archive keeps one version of a package: a pinned one cannot be installed a month later.
# hadolint ignore=DL3008
RUN apt-get update -qq \
    && apt-get install -qq --no-install-recommends \
      binutils busybox ca-certificates git git-lfs openssl python3 python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,source=.ci/rootfs.py,target=/build/rootfs.py \
    python3 /build/rootfs.py /rootfs

FROM system AS packages
ARG EXTRAS=sign,hub-xet
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG PIP_DISABLE_PIP_VERSION_CHECK=1
ARG PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv --without-pip /opt/slogpt-hf
# PyTorch's own index has CPU wheels a tenth of the size. The secret, where given, is pip's
# configuration: an index that needs a password, or a folder of wheels; then torch is what it has.
RUN --mount=type=bind,source=constraints.txt,target=constraints.txt \
    --mount=type=bind,source=pyproject.toml,target=pyproject.toml \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip() { python3 -m pip --quiet --python /opt/slogpt-hf/bin/python "$@"; } \
    && { pip install --no-cache-dir --no-compile --constraint constraints.txt --no-deps \
        --index-url "${TORCH_INDEX}" torch \
      || { [ -s /etc/pip.conf ] \
        && pip install --no-cache-dir --no-compile --constraint constraints.txt torch; }; } \
    && python3 -c 'import sys, tomllib; \
project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
extras = [project["optional-dependencies"][name] for name in sys.argv[1].split(",") if name]; \
print(*project["dependencies"], *sum(extras, []), sep="\n")' "${EXTRAS}" >/tmp/requirements.txt \
    && pip install --no-cache-dir --no-compile --constraint constraints.txt --requirement /tmp/requirements.txt
# KEEP names parts of prune.py to leave in, COMPILE is imported, all or none.
ARG KEEP
ARG COMPILE=imported
# One moment for all files: what did not change is the same layer in every build.
RUN --mount=type=bind,source=.ci/prune.py,target=prune.py \
    --mount=type=bind,source=.ci/compile.py,target=compile.py \
    site=$(echo /opt/slogpt-hf/lib/python3*/site-packages) \
    && python3 prune.py "${site}" "${KEEP}" \
    && PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0 HOME=/tmp \
      /opt/slogpt-hf/bin/python compile.py "${site}" /rootfs "${COMPILE}" \
    && find /opt/slogpt-hf /rootfs -exec touch --no-dereference --date=@1 {} +

FROM packages AS application
COPY LICENSE README.md pyproject.toml ./
COPY slogpt_hf slogpt_hf
COPY --chmod=0755 entrypoint entrypoint
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m pip --quiet wheel --no-deps --wheel-dir wheel . \
    && python3 -m pip --quiet --python /opt/slogpt-hf/bin/python install --no-cache-dir --no-compile --no-deps \
      --no-index --root /app --prefix /opt/slogpt-hf wheel/*.whl \
    && cp entrypoint /app/opt/slogpt-hf/bin/ \
    && PYTHONHASHSEED=0 python3 -m compileall -q --invalidation-mode unchecked-hash \
      -s /app /app/opt/slogpt-hf/lib \
    && find /app -exec touch --no-dereference --date=@1 {} +

FROM scratch
COPY --from=packages /rootfs /
COPY --from=packages /opt/slogpt-hf /opt/slogpt-hf
COPY --from=application /app /
# HOME and HF_HOME where a read-only container has its tmpfs; any user may write there.
ENV HF_HOME=/tmp/hf \
    HOME=/tmp \
    LANG=C.UTF-8 \
    PATH=/opt/slogpt-hf/bin:/usr/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
WORKDIR /work
USER 65532:65532
ARG REVISION=unknown
ARG SOURCE=https://github.com/slogpt/slogpt-hf
ARG VERSION=unknown
LABEL org.opencontainers.image.title="slogpt-hf" \
      org.opencontainers.image.description="Release SloGPT checkpoints on the Hugging Face Hub, with a proof that says what it rests on" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}"
ENTRYPOINT ["/opt/slogpt-hf/bin/python", "/opt/slogpt-hf/bin/entrypoint"]
