"""AlexNet's parameters under torchvision's names, and back.

torchvision's AlexNet has no batch normalization: 'alexnet_plain' here. Its first linear layer reads
the last map channels first, ours channels last.

    ours                             theirs
    layer1/conv/{kernel,bias}        features.0.{weight,bias}
    layer2 ... layer5                features.3, 6, 8, 10
    layer6/linear/{kernel,bias}      classifier.1.{weight,bias}
    layer7                           classifier.4
"""

from collections.abc import Collection, Mapping
from typing import Any

from flax.traverse_util import flatten_dict
import numpy as np

from byoljax.models.alexnet import ALEXNETS, GRIDS
from byoljax.weights.formats import Format, Found, Path, PyTree, State

_NAME = 'alexnet_plain'
_CHANNELS = ALEXNETS[_NAME].channels
_LAYERS = {
  'layer1': 'features.0',
  'layer2': 'features.3',
  'layer3': 'features.6',
  'layer4': 'features.8',
  'layer5': 'features.10',
  'layer6': 'classifier.1',
  'layer7': 'classifier.4',
}
_LEAVES = {'kernel': 'weight', 'bias': 'bias'}
_FIRST, _LINEAR = 'features.0.weight', 'classifier.1.weight'
_GRID = GRIDS['imagenet']


def name_of(path: Path) -> str:
  """torchvision's name of a leaf of an encoder's parameters: ('layer1', 'conv', 'kernel'), say."""
  return f'{_LAYERS[path[0]]}.{_LEAVES[path[-1]]}'


def to_torch(params: PyTree) -> dict[str, np.ndarray]:
  """The weights of an 'alexnet_plain' as a state dict, float32, without the classifier."""
  state: dict[str, np.ndarray] = {}
  for path, value in flatten_dict(params).items():
    array = np.asarray(value, np.float32)
    if path[0] == 'layer6' and array.ndim == 2:
      array = array.reshape(_GRID, _GRID, -1, array.shape[1])
      array = array.transpose(3, 2, 0, 1).reshape(array.shape[3], -1)
    elif array.ndim == 2:
      array = array.T
    elif array.ndim == 4:
      array = array.transpose(3, 2, 0, 1)
    state[name_of(path)] = np.ascontiguousarray(array)
  return state


def prefixes(names: Collection[str]) -> list[str]:
  """What may stand before an AlexNet's names, in the order in which it is found."""
  present = set(names)
  found = [name.removesuffix(_FIRST) for name in names if name.endswith(_FIRST)]
  wanted = [f'{layer}.weight' for layer in _LAYERS.values()]
  return [prefix for prefix in found if all(prefix + name in present for name in wanted)]


def find_out(state: State, prefix: str, fields: Mapping[str, Any]) -> Found:
  """Widths; see `Format.find_out`."""
  del fields
  first, linear = state[prefix + _FIRST], state[prefix + _LINEAR]
  if first.ndim != 4 or first.shape[1:] != (3, 11, 11) or first.shape[0] % _CHANNELS[0]:
    raise ValueError(
      f'{prefix}{_FIRST} is {first.shape}: AlexNet begins with 64, 128, ... kernels of 3 x 11 x 11.'
    )
  if linear.ndim != 2:
    raise ValueError(f'{prefix}{_LINEAR} is {linear.shape}, no matrix of a linear layer.')
  width = first.shape[0] // _CHANNELS[0]
  return Found({'name': _NAME, 'width': width, 'stem': 'imagenet', 'fc_dim': linear.shape[0]})


def _turned(path: Path, array: np.ndarray) -> np.ndarray:
  if path[0] == 'layer6' and array.ndim == 2 and not array.shape[1] % _GRID**2:
    array = array.reshape(array.shape[0], -1, _GRID, _GRID)
    return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _inside(prefix: str, name: str) -> bool:
  # classifier.6 is the classifier itself.
  rest = name.removeprefix(prefix)
  return name.startswith(prefix) and rest.startswith(('features.', 'classifier.1.', 'classifier.4'))


FORMAT = Format(
  what="AlexNet under torchvision's names (features.0.weight, classifier.1.weight, ...)",
  prefixes=prefixes,
  find_out=find_out,
  names=lambda state, prefix, found: lambda path: prefix + name_of(path),
  turned=_turned,
  inside=_inside,
)
