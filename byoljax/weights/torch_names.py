"""A ResNet's parameters under the names that torchvision and timm give them, and back.

torchvision's and timm's ResNets share their names; so do MoCo, SimSiam, SwAV, Barlow Twins, VICReg
and DINO's ResNets, behind a prefix ('module.encoder_q.', 'backbone.', ...) that is found here. The
computation is the same: same stride position (v1.5), same padding, same epsilon.

    ours                              theirs
    stem_conv/kernel  HWIO            conv1.weight  OIHW
    stem_bn/{scale,bias}              bn1.{weight,bias}
    stem_bn/{mean,var}                bn1.{running_mean,running_var}
    stage1_block0/conv2/kernel        layer1.0.conv2.weight
    stage2_block0/shortcut_conv       layer2.0.downsample.0
    stage2_block0/shortcut_bn         layer2.0.downsample.1

PyTorch's running variance is the unbiased one, ours the biased one: with hundreds of pixels per
channel in a batch they hardly differ, and evaluation uses either alike.
"""

from collections.abc import Iterable, Mapping
import re
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict, unflatten_dict
import numpy as np

PyTree = Any
_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
_ANCHOR = 'conv1.weight'


class Architecture(NamedTuple):
  """What a ResNet's weights tell about it.

  Attributes:
    name: 'resnet18' ... 'resnet200'.
    width: multiplies all channels.
    stem: 'imagenet' or 'cifar'.
  """

  name: str
  width: int
  stem: str


def name_of(path: tuple[str, ...]) -> str:
  """torchvision's name of a leaf of an encoder's parameters or statistics.

  Args:
    path: ('stage1_block0', 'conv1', 'kernel'), say.

  Raises:
    ValueError: ResNets of torchvision have no such thing.
  """
  *modules, leaf = path
  if modules == ['stem_conv'] or modules == ['stem_bn']:
    theirs = modules[0].removeprefix('stem_') + '1'
  else:
    block = re.fullmatch(r'stage(\d+)_block(\d+)', modules[0]) if len(modules) == 2 else None
    inner = re.fullmatch(r'(?:conv|bn)[123]|shortcut_(conv|bn)', modules[-1])
    if block is None or inner is None:
      raise ValueError(f'{"/".join(path)} has no counterpart in a ResNet of torchvision.')
    part = {'conv': 'downsample.0', 'bn': 'downsample.1', None: modules[-1]}[inner[1]]
    theirs = f'layer{block[1]}.{block[2]}.{part}'
  return f'{theirs}.{_LEAVES[leaf]}'


def to_torch(params: PyTree, batch_stats: PyTree) -> dict[str, np.ndarray]:
  """An encoder's weights as a state dict: float32, convolutions OIHW.

  Args:
    params: nested dicts of a ResNet's parameters.
    batch_stats: the same of its running statistics.

  Raises:
    ValueError: not a plain ResNet.
  """
  state: dict[str, np.ndarray] = {}
  for path, value in (flatten_dict(params) | flatten_dict(batch_stats)).items():
    array = np.asarray(value, np.float32)
    state[name_of(path)] = array.transpose(3, 2, 0, 1).copy() if array.ndim == 4 else array
  for name in [name for name in state if name.endswith('running_var')]:
    # PyTorch counts the batches; without a momentum of its own nothing depends on it.
    state[name.replace('running_var', 'num_batches_tracked')] = np.zeros((), np.int64)
  return state


def from_torch(
  state: Mapping[str, np.ndarray], params: PyTree, batch_stats: PyTree, prefix: str = ''
) -> tuple[PyTree, PyTree]:
  """A state dict as an encoder's parameters and statistics, float32.

  Args:
    state: arrays by name.
    params: what is wanted: a tree with the names and shapes, values do not matter.
    batch_stats: the same for the running statistics.
    prefix: stands before every name that counts.

  Raises:
    ValueError: names are missing or shapes differ; all of them are listed.
  """
  missing, differ, known, made = [], [], set(), []
  for tree in (params, batch_stats):
    leaves: dict[tuple[str, ...], np.ndarray] = {}
    wanted: dict[tuple[str, ...], Any] = flatten_dict(tree)
    for path, own in wanted.items():
      name = prefix + name_of(path)
      known.add(name)
      if name not in state:
        missing.append(name)
        continue
      array = np.asarray(state[name], np.float32)
      array = np.ascontiguousarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array)
      if array.shape != tuple(own.shape):
        differ.append(f'{name}: {array.shape}, not {tuple(own.shape)}')
      leaves[path] = array
    made.append(unflatten_dict(leaves))
  if missing or differ:
    theirs = [name for name in state if name.startswith(prefix)]
    unexpected = [name for name in theirs if name not in known and not _harmless(name, prefix)]
    found = {'missing': missing, 'of another shape': differ, 'unexpected': unexpected}
    lines = [f'{what}: {_listed(names)}' for what, names in found.items() if names]
    raise ValueError('the weights do not fit the encoder:\n  ' + '\n  '.join(lines))
  return made[0], made[1]


def prefixes(names: Iterable[str]) -> list[str]:
  """What may stand before a ResNet's names, in the order in which it is found.

  Every name of the stem is looked for, so that a projector's `conv1` is none.
  """
  names = list(names)
  stem = ('conv1.weight', 'bn1.weight', 'bn1.running_var', 'layer1.0.conv1.weight')
  found = [name.removesuffix(_ANCHOR) for name in names if name.endswith(_ANCHOR)]
  present = set(names)
  return [prefix for prefix in found if all(prefix + name in present for name in stem)]


def architecture(
  state: Mapping[str, np.ndarray], prefix: str, known: Mapping[str, tuple[bool, tuple[int, ...]]]
) -> Architecture:
  """Which ResNet the weights belong to.

  Args:
    state: arrays by name.
    prefix: stands before every name that counts.
    known: name -> (bottleneck blocks?, blocks in each stage), `models.resnet.RESNETS`.

  Raises:
    ValueError: none that is known.
  """
  stem = state[prefix + _ANCHOR]
  blocks = re.compile(re.escape(prefix) + r'layer(\d+)\.(\d+)\.conv1\.weight')
  counts: dict[int, int] = {}
  for name in state:
    if match := blocks.fullmatch(name):
      stage = int(match[1])
      counts[stage] = max(counts.get(stage, 0), int(match[2]) + 1)
  depth = tuple(counts[stage] for stage in sorted(counts))
  bottleneck = f'{prefix}layer1.0.conv3.weight' in state
  names = [name for name, form in known.items() if form == (bottleneck, depth)]
  if not names:
    raise ValueError(
      f'{depth} {"bottleneck" if bottleneck else "basic"} blocks are none of {", ".join(known)}.'
    )
  kernels = {(7, 7): 'imagenet', (3, 3): 'cifar'}
  if stem.ndim != 4 or stem.shape[2:] not in kernels or stem.shape[1] != 3 or stem.shape[0] % 64:
    raise ValueError(
      f'{prefix}{_ANCHOR} is {stem.shape}: a stem has 64, 128, ... channels and kernels of '
      f'3 x 7 x 7 or 3 x 3 x 3.'
    )
  return Architecture(names[0], stem.shape[0] // 64, kernels[stem.shape[2:]])


def _harmless(name: str, prefix: str) -> bool:
  """Whether a name that is not needed is no sign of another network: a classifier, a counter."""
  rest = name.removeprefix(prefix)
  return rest.startswith(('fc.', 'head.')) or rest.endswith('num_batches_tracked')


def _listed(names: list[str]) -> str:
  """The first few names, and how many more there are."""
  shown = ', '.join(names[:8])
  return shown if len(names) <= 8 else f'{shown} and {len(names) - 8} more'
