# Processors:  docker build -t neuron-opsd .
# NVIDIA:      docker build -t neuron-opsd:cuda --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 --build-arg PIP_EXTRA_INDEX_URL= .
# Run:         docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" neuron-opsd run neuron_opsd ... (with --gpus all for NVIDIA)
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}

# PyTorch's own index has builds without CUDA. Empty: PyPI's builds, which bring CUDA.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
# Extras of pyproject.toml, such as "server,datasets".
ARG EXTRAS=""
ARG VENV=/opt/venv

# CUDA's images have no Python. Its version is the image's own.
# hadolint ignore=DL3008
RUN command -v python3 || { apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*; }

ENV PATH=${VENV}/bin:${PATH} PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv ${VENV}

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY constraints constraints
COPY src src
RUN pip install --constraint constraints/cpu.txt ".${EXTRAS:+[${EXTRAS}]}" && neuron-opsd recipes

# Models and stages are cached in the mounted folder, so they outlive the container and belong to its user.
ENV HF_HOME=/work/.cache/huggingface XDG_CACHE_HOME=/work/.cache
WORKDIR /work
USER 1000
ENTRYPOINT ["neuron-opsd"]
CMD ["--help"]
