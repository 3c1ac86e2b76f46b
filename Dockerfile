# byoljax in a container.
#
#   docker build -t byoljax .
#   docker run --rm -v "$PWD:/work" byoljax pretrain byol:folder_small --data.dir=photos
#
# With an NVIDIA GPU (the host needs a driver for CUDA 13 and the NVIDIA Container Toolkit):
#
#   docker build -t byoljax:cuda --build-arg EXTRA=cuda .
#   docker run --rm --gpus all -v "$PWD:/work" byoljax:cuda pretrain byol:folder --data.dir=photos
#
# What is written belongs to user 1000; another one is named by `docker run --user "$(id -u)"`.
FROM python:3.13-slim

# An extra of pyproject.toml: 'cuda', 'tpu', or none.
ARG EXTRA=""

COPY . /source
RUN pip install --no-cache-dir -c /source/constraints.txt "/source${EXTRA:+[$EXTRA]}" \
  && rm -r /source \
  && useradd --uid 1000 --create-home byoljax \
  && mkdir --mode 1777 /work /data

# Built-in images and compiled programs, and TFDS's sets: mount something there to keep them.
ENV BYOLJAX_DATA=/data/byoljax TFDS_DATA_DIR=/data/tfds HOME=/data
USER byoljax
WORKDIR /work
ENTRYPOINT ["byoljax"]
CMD ["--help"]
