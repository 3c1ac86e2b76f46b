"""Makes byol_haiku.npz: features of BYOL's small ResNets, in PyTorch with explicit padding.

Run with PyTorch installed: python tests/golden/make_byol_haiku.py
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

import pathlib

from imported_tensors import BLOCKS, resnet, resnet_images
import numpy as np
import torch
from torch.nn import functional as F

# name -> (bottleneck blocks, blocks of each stage)
CASES = {'bottleneck': (True, BLOCKS), 'basic': (False, (2, 2, 2, 2))}


def same(x: torch.Tensor, kernel: int, stride: int, value: float = 0.0) -> torch.Tensor:
  """Padded as TensorFlow and XLA do for 'SAME': what is odd goes to the bottom and the right."""
  pads = []
  for size in (x.shape[3], x.shape[2]):
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    pads += [total // 2, total - total // 2]
  return F.pad(x, pads, value=value)


class Network:
  """Layers that draw their weights by their names in Haiku."""

  def __init__(self, params: str, state: str):
    self.params, self.state, self.shapes = params, state, {}

  def _variable(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    self.shapes[name] = shape
    return torch.from_numpy(resnet(name, shape)).double()

  def conv(self, x: torch.Tensor, name: str, channels: int, kernel: int, stride: int):
    w = self._variable(f'{self.params}{name}.w', (kernel, kernel, x.shape[1], channels))
    return F.conv2d(same(x, kernel, stride), w.permute(3, 2, 0, 1), stride=stride)

  def norm(self, x: torch.Tensor, name: str):
    shape = (1, 1, 1, x.shape[1])
    names = [f'{self.params}{name}.scale', f'{self.params}{name}.offset']
    names += [f'{self.state}{name}/~/{kind}_ema.average' for kind in ('mean', 'var')]
    scale, offset, mean, var = (self._variable(n, shape).reshape(1, -1, 1, 1) for n in names)
    return (x - mean) * scale * torch.rsqrt(var + 1e-5) + offset

  def block(self, x, name: str, channels: int, stride: int, first: bool, bottleneck: bool):
    shortcut = x
    if first:
      out = channels * (4 if bottleneck else 1)
      shortcut = self.conv(x, f'{name}shortcut_conv', out, 1, stride)
      shortcut = self.norm(shortcut, f'{name}shortcut_batchnorm')
    if bottleneck:
      plan = ((channels, 1, 1), (channels, 3, stride), (4 * channels, 1, 1))
    else:
      plan = ((channels, 3, stride), (channels, 3, 1))
    for i, (width, kernel, step) in enumerate(plan):
      x = self.norm(self.conv(x, f'{name}conv_{i}', width, kernel, step), f'{name}batchnorm_{i}')
      if i < len(plan) - 1:
        x = F.relu(x)
    return F.relu(x + shortcut)

  def __call__(self, x: torch.Tensor, bottleneck: bool, blocks) -> torch.Tensor:
    x = F.relu(self.norm(self.conv(x, 'initial_conv', 64, 7, 2), 'initial_batchnorm'))
    x = F.max_pool2d(same(x, 3, 2, float('-inf')), 3, 2)
    for group, depth in enumerate(blocks):
      for i in range(depth):
        stride = 2 if group and not i else 1
        name = f'block_group_{group}/~/block_{i}/~/'
        x = self.block(x, name, 64 * 2**group, stride, not i, bottleneck)
    return x.mean((2, 3))


def main() -> None:
  results = {}
  for case, arguments in CASES.items():
    network = Network('online_params.res_net50/~/', 'online_state.res_net50/~/')
    x = torch.from_numpy(resnet_images().transpose(0, 3, 1, 2).copy()).double()
    y = network(x, *arguments).numpy()
    names = sorted(network.shapes)
    results |= {
      case: y.astype(np.float32),
      f'{case}/names': np.array(names),
      f'{case}/shapes': np.array([network.shapes[name] for name in names], np.int32),
    }
    print(case, y.shape, y.std(), len(names))
  path = pathlib.Path(__file__).with_name('byol_haiku.npz')
  np.savez_compressed(path, **results)
  print(path, path.stat().st_size)


if __name__ == '__main__':
  main()
