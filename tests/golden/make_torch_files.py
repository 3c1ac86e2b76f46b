"""Makes torch_zip.pth and torch_legacy.pth: a small checkpoint in both forms of PyTorch's files.

Beside them torch_module.pth, a module saved as a whole, and torch_script.pt, one as TorchScript.

Run with PyTorch installed: python tests/golden/make_torch_files.py
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

import argparse
from collections import OrderedDict
import pathlib

import philox
import torch

SHAPES = {'conv1.weight': (4, 3, 3, 3), 'fc.bias': (5,)}


def checkpoint() -> dict:
  """What training scripts store: weights, an optimizer's state, and objects of other modules."""
  tensors = {name: torch.from_numpy(philox.uniform(name, shape, -1, 1)) for name, shape in
             SHAPES.items()}  # fmt: skip
  whole = torch.from_numpy(philox.uniform('whole', (6, 4), -1, 1))
  state = OrderedDict((f'module.{name}', tensor) for name, tensor in tensors.items())
  state |= {
    'parameter': torch.nn.Parameter(torch.ones(2)),
    'turned': whole.t(),
    'part': whole[2:4, 1:],
    'half': whole.half(),
    'brain': whole.bfloat16(),
    'count': torch.tensor(7),
    'mask': torch.tensor([True, False]),
    'empty': torch.zeros(0, 3),
  }
  return {
    'epoch': 3,
    'arch': 'resnet50',
    'args': argparse.Namespace(lr=0.03, root=pathlib.PurePosixPath('data')),
    'state_dict': state,
    'optimizer': {'state': {0: {'momentum_buffer': whole + 1}}, 'param_groups': [{'lr': 0.1}]},
  }


def main() -> None:
  folder = pathlib.Path(__file__).parent
  for name, zipped in (('torch_zip.pth', True), ('torch_legacy.pth', False)):
    torch.save(checkpoint(), folder / name, _use_new_zipfile_serialization=zipped)
    print(name, (folder / name).stat().st_size)
  torch.save(torch.nn.Linear(1, 1), folder / 'torch_module.pth')
  torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), folder / 'torch_script.pt')


if __name__ == '__main__':
  main()
