"""Makes torchvision_names.json: names and shapes of its ResNets' state dicts.

Run with PyTorch and torchvision installed: python tests/golden/make_torchvision_names.py
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

import json
import pathlib

import torch
import torchvision

NAMES = ('resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152')


def main() -> None:
  found = {}
  with torch.device('meta'):
    for name in NAMES:
      state = torchvision.models.get_model(name, weights=None).state_dict()
      found[name] = {key: list(value.shape) for key, value in state.items()}
  path = pathlib.Path(__file__).with_name('torchvision_names.json')
  path.write_text(json.dumps(found, separators=(',', ':')) + '\n')
  print(path.name, path.stat().st_size)


if __name__ == '__main__':
  main()
