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

from collections.abc import Collection, Mapping
import re
from typing import Any

from flax.traverse_util import flatten_dict
import numpy as np

from byoljax.weights import formats
from byoljax.weights.formats import Format, Found, Path, PyTree, State

_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
_ANCHOR = 'conv1.weight'
_STEM = (_ANCHOR, 'bn1.weight', 'bn1.running_var', 'layer1.0.conv1.weight')
_BLOCK = re.compile(r'layer(\d+)\.(\d+)\.conv1\.weight')
_STEMS = {(7, 7): 'imagenet', (3, 3): 'cifar'}


def name_of(path: Path) -> str:
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


def prefixes(names: Collection[str]) -> list[str]:
  """What may stand before a ResNet's names, in the order in which it is found.

  Every name of the stem is looked for, so that a projector's `conv1` is none.
  """
  found = [name.removesuffix(_ANCHOR) for name in names if name.endswith(_ANCHOR)]
  present = set(names)
  return [prefix for prefix in found if all(prefix + name in present for name in _STEM)]


def find_out(state: State, prefix: str, fields: Mapping[str, Any]) -> Found:
  """Depth, width and stem; see `Format.find_out`."""
  del fields
  stem = state[prefix + _ANCHOR]
  own = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
  depth = formats.depth_of([match.groups() for name in own if (match := _BLOCK.fullmatch(name))])
  name = formats.resnet_of('layer1.0.conv3.weight' in own, depth)
  if stem.ndim != 4 or stem.shape[2:] not in _STEMS or stem.shape[1] != 3 or stem.shape[0] % 64:
    raise ValueError(
      f'{prefix}{_ANCHOR} is {stem.shape}: a stem has 64, 128, ... channels and kernels of '
      f'3 x 7 x 7 or 3 x 3 x 3.'
    )
  return Found({'name': name, 'width': stem.shape[0] // 64, 'stem': _STEMS[stem.shape[2:]]})


def _turned(path: Path, array: np.ndarray) -> np.ndarray:
  del path
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def _inside(prefix: str, name: str) -> bool:
  rest = name.removeprefix(prefix)
  return bool(
    name.startswith(prefix)
    and re.match(r'(conv\d|bn\d|layer\d+)\.', rest)
    and not rest.endswith('num_batches_tracked')
  )


FORMAT = Format(
  what="ResNets under torchvision's names (conv1.weight, layer1.0.conv1.weight, ...)",
  prefixes=prefixes,
  find_out=find_out,
  names=lambda state, prefix, found: lambda path: prefix + name_of(path),
  turned=_turned,
  inside=_inside,
)


# Many, lightly's examples among them, train `nn.Sequential(*list(resnet.children())[:-1])`, whose
# parts have numbers for names; 2 and 3 are ReLU and pooling. The children of lightly's own
# ResNetGenerator have the first stage at 2: no ReLU is among them, so it is another network.
_CHILDREN = {'conv1': '0', 'bn1': '1', **{f'layer{stage}': str(stage + 3) for stage in range(1, 5)}}


def _child(name: str) -> str:
  """'layer1.0.conv1.weight' -> '4.0.conv1.weight'."""
  part, _, rest = name.partition('.')
  return f'{_CHILDREN[part]}.{rest}'


def _children_prefixes(names: Collection[str]) -> list[str]:
  present = set(names)
  found = [name.removesuffix(_child(_ANCHOR)) for name in names if name.endswith(_child(_ANCHOR))]
  return [prefix for prefix in found if all(prefix + _child(name) in present for name in _STEM)]


def _children_found(state: State, prefix: str, fields: Mapping[str, Any]) -> Found:
  parts = {number: part for part, number in _CHILDREN.items()}
  named = {}
  for name, array in state.items():
    number, _, rest = name.removeprefix(prefix).partition('.')
    if name.startswith(prefix) and number in parts:
      named[f'{parts[number]}.{rest}'] = array
  return find_out(named, '', fields)


def _is_child(prefix: str, name: str) -> bool:
  inner = name.startswith(prefix) and name.removeprefix(prefix).partition('.')[0]
  return inner in _CHILDREN.values() and not name.endswith('num_batches_tracked')


CHILDREN = Format(
  what='the same as the numbered parts of an nn.Sequential (0.weight, 4.0.conv1.weight, ...)',
  prefixes=_children_prefixes,
  find_out=_children_found,
  names=lambda state, prefix, found: lambda path: prefix + _child(name_of(path)),
  turned=_turned,
  inside=_is_child,
)
