"""Makes paper_nets.npz: the pretext papers' networks in PyTorch, AlexNet from torchvision.

torchvision has AlexNet without batch normalization; the other networks are in no library and
written here, from their papers and with PyTorch's functions alone.
Run with PyTorch and torchvision installed: python tests/golden/make_paper_nets.py
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

from collections.abc import Callable
import pathlib

import numpy as np
from paper_tensors import CASES, KEPT, TAPS, images, tensor
import torch
from torch.nn import functional
import torchvision

Taps = dict[str, torch.Tensor]


def draw(name: str, *shape: int) -> torch.Tensor:
  return torch.from_numpy(tensor(name, shape)).double()


def norm(x: torch.Tensor, name: str, train: bool) -> torch.Tensor:
  parts = ('running_mean', 'running_var', 'weight', 'bias')
  drawn = [draw(f'{name}.{part}', x.shape[1]) for part in parts]
  return functional.batch_norm(x, *drawn, training=train)


def conv(x: torch.Tensor, name: str, out: int, size: int, stride: int = 1) -> torch.Tensor:
  kernel = draw(f'{name}.weight', out, x.shape[1], size, size)
  return functional.conv2d(x, kernel, stride=stride, padding=size // 2)


def unit(x: torch.Tensor, name: str, out: int, size: int, train: bool) -> torch.Tensor:
  return norm(conv(x, f'{name}.conv', out, size), f'{name}.bn', train).relu()


def alexnet_plain(x: torch.Tensor, train: bool, taps: Taps) -> torch.Tensor:
  """torchvision's network with narrow fully connected layers."""
  del train
  model = torchvision.models.alexnet(weights=None)
  model.classifier[1] = torch.nn.Linear(256 * 6 * 6, 8)
  model.classifier[4] = torch.nn.Linear(8, 8)
  model.classifier[6] = torch.nn.Identity()
  for name, value in model.state_dict().items():
    value.copy_(torch.from_numpy(tensor(name, tuple(value.shape))))
  model.double().eval()
  for index, tap in ((1, 'conv1'), (11, 'conv5')):
    model.features[index].register_forward_hook(
      lambda module, inputs, output, tap=tap: taps.update({tap: output.clone()})
    )
  return model(x)


def alexnet(x: torch.Tensor, train: bool, taps: Taps) -> torch.Tensor:
  """RotNet's network with a 3x3 stem, padded pools and narrow fully connected layers."""
  for number, (out, size) in enumerate(((64, 3), (192, 5), (384, 3), (256, 3), (256, 3)), start=1):
    x = taps[f'conv{number}'] = unit(x, f'layer{number}', out, size, train)
    if number in (1, 2, 5):
      x = functional.max_pool2d(x, 3, 2, padding=1)
  x = functional.adaptive_avg_pool2d(x, 4).flatten(1)
  for number in (6, 7):
    x = functional.linear(x, draw(f'layer{number}.linear.weight', 8, x.shape[1]))
    x = norm(x, f'layer{number}.bn', train).relu()
  return x


def nin(x: torch.Tensor, train: bool, taps: Taps) -> torch.Tensor:
  plan = (((192, 5), (160, 1), (96, 1)), ((192, 5), (192, 1), (192, 1)))
  plan += (((192, 3), (192, 1), (192, 1)),) * 2
  for block, layers in enumerate(plan, start=1):
    for number, (out, size) in enumerate(layers, start=1):
      x = unit(x, f'block{block}_layer{number}', out, size, train)
      taps[f'block{block}_conv{number}'] = x
    if block == 1:
      x = functional.max_pool2d(x, 3, 2, padding=1)
    if block == 2:
      x = functional.avg_pool2d(x, 3, 2, padding=1)
    taps[f'block{block}'] = x
  return x.mean((2, 3))


def exemplar_cnn(x: torch.Tensor, train: bool, taps: Taps) -> torch.Tensor:
  """64c5-128c5-256c5-512f."""
  del train
  for number, out in enumerate((64, 128, 256), start=1):
    x = conv(x, f'layer{number}.conv', out, 5)
    x = (x + draw(f'layer{number}.conv.bias', out)[:, None, None]).relu()
    taps[f'conv{number}'] = x
    if number < 3:
      x = functional.max_pool2d(x, 2)
  x = functional.adaptive_avg_pool2d(x, 8).flatten(1)
  weight, bias = draw('fc.linear.weight', 512, x.shape[1]), draw('fc.linear.bias', 512)
  return functional.linear(x, weight, bias).relu()


def wide_resnet(x: torch.Tensor, train: bool, taps: Taps) -> torch.Tensor:
  """WRN-16-8: two blocks in each of three groups."""
  x = taps['stem'] = conv(x, 'stem_conv', 16, 3)
  for stage, out in ((1, 128), (2, 256), (3, 512)):
    for block in (0, 1):
      name, stride = f'stage{stage}_block{block}', 2 if stage > 1 and block == 0 else 1
      active = norm(x, f'{name}.bn1', train).relu()
      y = norm(conv(active, f'{name}.conv1', out, 3, stride), f'{name}.bn2', train).relu()
      y = conv(y, f'{name}.conv2', out, 3)
      x = y + (conv(active, f'{name}.shortcut_conv', out, 1, stride) if block == 0 else x)
      taps[f'stage{stage}_1' if block == 0 else f'stage{stage}'] = x
  return norm(x, 'bn', train).relu().mean((2, 3))


NETWORKS: dict[str, Callable[[torch.Tensor, bool, Taps], torch.Tensor]] = {
  'alexnet_plain': alexnet_plain,
  'alexnet': alexnet,
  'nin': nin,
  'exemplar_cnn': exemplar_cnn,
  'wrn_16_8': wide_resnet,
}


def main() -> None:
  results = {'count/alexnet_plain': np.int64(0)}
  for case in CASES:
    x = torch.from_numpy(images(case).transpose(0, 3, 1, 2).copy()).double()
    with torch.no_grad():
      for mode in ('eval', 'train'):
        taps: Taps = {}
        y = NETWORKS[case](x, mode == 'train', taps).numpy()
        results[f'{case}/{mode}'] = y[:KEPT]
        print(case, mode, y.shape, y.std(), (y == 0).mean())
        if mode == 'eval':
          means = {tap: taps[tap].mean((2, 3)).numpy()[0] for tap in TAPS[case]}
          results |= {f'{case}/{tap}': mean for tap, mean in means.items()}
  whole = torchvision.models.alexnet(weights=None)
  whole.classifier[6] = torch.nn.Identity()
  results['count/alexnet_plain'] = np.int64(sum(p.numel() for p in whole.parameters()))
  path = pathlib.Path(__file__).with_name('paper_nets.npz')
  single = {k: v.astype(np.float32) if v.ndim else v for k, v in results.items()}
  np.savez_compressed(path, **single)
  print(path, path.stat().st_size)


if __name__ == '__main__':
  main()
