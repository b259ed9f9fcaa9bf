# mae with the versions that the tests run with.
#   docker build -t mae .                          PyTorch with CUDA; the host needs driver and NVIDIA's container toolkit
#   docker build -t mae --build-arg BACKEND=cpu .  PyTorch without
#   docker run --gpus all --shm-size=8g -v "$PWD:/data" mae pretrain auto data.train=photos/ output=runs/photos
# Data workers hand batches over in shared memory, of which a container has 64 MB by default: hence --shm-size.
# Files are written as user 1000; --user "$(id -u):$(id -g)" for another.
FROM python:3.13-slim

# "": PyTorch's default; cpu, cu130 …: uv's --torch-backend
ARG BACKEND=""
ARG EXTRAS="formats,hf,onnx,parquet,s3,tensorboard"

# A C++ compiler: train.compile=true needs one.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 mae \
    && install --directory --owner=mae /data

WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY configs configs
COPY launch launch
COPY mae mae
# hadolint ignore=DL3013
RUN pip install --no-cache-dir uv \
    && uv pip install --system --no-cache --compile-bytecode ${BACKEND:+--torch-backend "$BACKEND"} \
        --constraint constraints.txt ".[$EXTRAS]"

USER 1000
WORKDIR /data
ENTRYPOINT ["mae"]
CMD ["--help"]
