# The service with a bundle inside. It starts without network, as a user without rights.
#
#   docker build -t asr-sound:cpu .
#   docker build -t asr-sound:cuda --build-arg DEVICE=cuda .
#   docker build -t mine --build-arg BUNDLE=models/mine .
#
# BASE             any Debian-like image with Python 3.11 or 3.12
# DEVICE           cpu or cuda: which build of torch. PyPI's brings CUDA's libraries along
# TORCH_CPU_INDEX  where the CPU build comes from; empty: wherever pip looks anyway
# BUNDLE           the bundle's folder, inside the checkout
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS builder
ARG DEVICE=cpu
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
# kenlm is built from source; pip brings the cmake for it. Debian's own Python has its headers in python3-dev.
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ make \
      $(python -c "import os, sysconfig as s; os.path.exists(s.get_path('include') + '/Python.h') or print('python3-dev')") \
 && rm -rf /var/lib/apt/lists/*
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
# The dependencies are a layer of their own: a change of the code leaves it alone.
COPY pyproject.toml .
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      >requirements.txt \
 && case "$DEVICE" in cpu) index="$TORCH_CPU_INDEX" ;; cuda) index= ;; *) echo "DEVICE is cpu or cuda" >&2; exit 1 ;; esac \
 && pip install ${index:+--extra-index-url "$index"} -r requirements.txt
COPY README.md LICENSE ./
COPY asr asr
COPY service service
RUN pip install --no-deps .

FROM ${BASE}
ARG BUNDLE=models/default
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin asr && install -d -o asr -g asr /jobs
COPY --from=builder /venv /venv
WORKDIR /app
COPY docker/healthcheck.py .
COPY ${BUNDLE} models/default
# HOME is for libraries that want a cache folder (numba keeps compiled code there); nothing is downloaded, whatever a
# library thinks.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HUB_OFFLINE=1 \
    ASR_HOST=0.0.0.0 \
    ASR_PORT=8000
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["python", "healthcheck.py"]
ENTRYPOINT ["asr-sound"]
CMD ["serve"]
