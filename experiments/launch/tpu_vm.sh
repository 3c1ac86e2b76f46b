#!/bin/bash
# BYOL on ImageNet on a slice of TPU VMs: tpu_vm.sh create | install | run | log | delete
#
# Every command goes to all hosts of the slice (--worker=all); the TPU tells each which one it is.
# WORKDIR and TFDS_DATA_DIR must be on a file system that all hosts have mounted, such as Filestore.
set -euo pipefail

NAME=${NAME:-byol}
ZONE=${ZONE:-us-west4-a}
ACCELERATOR=${ACCELERATOR:-v5litepod-32}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
REPOSITORY=${REPOSITORY:-https://example.com/byoljax.git}
WORKDIR=${WORKDIR:-/shared/runs/byol}
TFDS_DATA_DIR=${TFDS_DATA_DIR:-/shared/tensorflow_datasets}

everywhere() {
  gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"
}

case "${1:-}" in
  create)
    gcloud compute tpus tpu-vm create "$NAME" --zone="$ZONE" \
      --accelerator-type="$ACCELERATOR" --version="$RUNTIME"
    ;;
  install)
    everywhere "git clone $REPOSITORY byoljax && cd byoljax && pip install -e '.[tf]' 'jax[tpu]'"
    ;;
  run)
    # Goes on when the connection ends; started again, it goes on from the last checkpoint.
    everywhere "cd byoljax && TFDS_DATA_DIR=$TFDS_DATA_DIR nohup \
      python3 -m byoljax.main --config=configs/byol.py:imagenet,300 --workdir=$WORKDIR \
      --config.encoder.dtype=bfloat16 --config.checkpoint.every='1 epochs' \
      --distributed=auto --wait_for_processes=600 >> ~/byol.log 2>&1 < /dev/null &"
    ;;
  log)
    everywhere 'tail -n 5 ~/byol.log'
    ;;
  delete)
    gcloud compute tpus tpu-vm delete "$NAME" --zone="$ZONE"
    ;;
  *)
    echo "usage: $0 create | install | run | log | delete" >&2
    exit 2
    ;;
esac
