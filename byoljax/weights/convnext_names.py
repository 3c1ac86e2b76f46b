"""ConvNeXt's parameters under timm's names, and back; and from those of others.

ours                          timm                            torchvision
stem_{conv,norm}              stem.{0,1}                      features.0.{0,1}
stage2_{norm,conv}            stages.1.downsample.{0,1}       features.2.{0,1}
stage2_block0/depthwise       stages.1.blocks.0.conv_dw       features.3.0.block.0
stage2_block0/norm            stages.1.blocks.0.norm          features.3.0.block.2
stage2_block0/{fc1,fc2}       stages.1.blocks.0.mlp.fc{1,2}   features.3.0.block.{3,5}
stage2_block0/scale           stages.1.blocks.0.gamma         features.3.0.layer_scale
norm                          head.norm                       classifier.0
"""

from collections.abc import Collection, Mapping
import functools
import re
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict
import numpy as np

from byoljax.models.convnext import CONVNEXTS
from byoljax.weights.formats import Format, Found, Path, PyTree, State

_STAGES = 4
# Pixels a place from which on timm dilates a stage in place of halving its map.
COARSEST = 32


class Names(NamedTuple):
  """How a library calls the parts; `before` is a stage's number less one.

  Attributes:
    stem: of the convolution and the norm in front, parts 0 and 1.
    downsample: of the norm and the convolution before a stage, parts 0 and 1.
    block: of a part of a block.
    parts: ours -> theirs, within a block.
    last: of the norm at the end.
    inside: what the names of an encoder begin with.
  """

  stem: str
  downsample: str
  block: str
  parts: Mapping[str, str]
  last: str
  inside: tuple[str, ...]

  def name_of(self, path: Path) -> str:
    """The library's name of a leaf of our parameters.

    Args:
      path: ('stage1_block0', 'fc1', 'kernel'), say.

    Raises:
      ValueError: a ConvNeXt has no such thing.
    """
    first, *rest = path
    leaf = {'kernel': '.weight', 'scale': '.weight', 'bias': '.bias'}[rest[-1]]
    match = re.fullmatch(r'stem_(conv|norm)|stage(\d)_(?:(conv|norm)|block(\d+))|norm', first)
    if match is None:
      raise ValueError(f'{"/".join(path)} has no counterpart in a ConvNeXt of other libraries.')
    if first == 'norm':
      return self.last + leaf
    if match[1]:
      return self.stem.format(part=int(match[1] == 'norm')) + leaf
    before = int(match[2]) - 1
    places = {'before': before, 'even': 2 * before, 'odd': 2 * before + 1}
    if match[3]:
      return self.downsample.format(part=int(match[3] == 'conv'), **places) + leaf
    part = self.parts[rest[0]]
    name = self.block.format(part=part, number=match[4], **places)
    return name if rest == ['scale'] else name + leaf


TIMM = Names(
  'stem.{part}',
  'stages.{before}.downsample.{part}',
  'stages.{before}.blocks.{number}.{part}',
  {
    'depthwise': 'conv_dw',
    'norm': 'norm',
    'fc1': 'mlp.fc1',
    'fc2': 'mlp.fc2',
    'scale': 'gamma',
  },
  'head.norm',
  ('stem.', 'stages.', 'head.norm.', 'norm_pre.'),
)
TORCHVISION = Names(
  'features.0.{part}',
  'features.{even}.{part}',
  'features.{odd}.{number}.{part}',
  {
    'depthwise': 'block.0',
    'norm': 'block.2',
    'fc1': 'block.3',
    'fc2': 'block.5',
    'scale': 'layer_scale',
  },
  'classifier.0',
  ('features.', 'classifier.0.'),
)
AUTHORS = Names(
  'downsample_layers.0.{part}',
  'downsample_layers.{before}.{part}',
  'stages.{before}.{number}.{part}',
  {
    'depthwise': 'dwconv',
    'norm': 'norm',
    'fc1': 'pwconv1',
    'fc2': 'pwconv2',
    'scale': 'gamma',
  },
  'norm',
  ('downsample_layers.', 'stages.', 'norm.'),
)


def to_timm(params: PyTree) -> dict[str, np.ndarray]:
  """An encoder's weights as a state dict, float32, under timm's names."""
  state: dict[str, np.ndarray] = {}
  for path, value in flatten_dict(params).items():
    array = np.asarray(value, np.float32)
    array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    state[TIMM.name_of(path)] = np.ascontiguousarray(array)
  return state


def _prefixes(names: Names, present: Collection[str]) -> list[str]:
  """What may stand before a ConvNeXt's names, in the order in which it is found."""
  paths = ('stem_conv', 'kernel'), ('stage1_block0', 'depthwise', 'kernel'), ('norm', 'scale')
  first, *others = map(names.name_of, paths)
  given = set(present)
  found = [name.removesuffix(first) for name in present if name.endswith(first)]
  return [prefix for prefix in found if all(prefix + name in given for name in others)]


def _find_out(names: Names, state: State, prefix: str, fields: Mapping[str, Any]) -> Found:
  """Depths, channels and patch; see `Format.find_out`."""
  del fields
  stem = prefix + names.name_of(('stem_conv', 'kernel'))
  kernel = state[stem]
  if kernel.ndim != 4 or kernel.shape[1] != 3 or kernel.shape[2] != kernel.shape[3]:
    raise ValueError(f'{stem} is {kernel.shape}: patches are squares of 3 channels, (D, 3, p, p).')
  if names is TIMM and 4 * kernel.shape[2] >= COARSEST:
    raise ValueError(
      f'{stem} is {kernel.shape}: with patches of {kernel.shape[2]} pixels the last stage of a '
      "ConvNeXt of timm's is dilated, which ours is not."
    )
  depths, dims = [], [kernel.shape[0]]
  for stage in range(1, _STAGES + 1):
    if stage > 1:
      down = state.get(prefix + names.name_of((f'stage{stage}_conv', 'bias')))
      dims.append(0 if down is None else down.size)
    depth = 0
    while prefix + names.name_of((f'stage{stage}_block{depth}', 'fc1', 'bias')) in state:
      depth += 1
    depths.append(depth)
  for name, size in CONVNEXTS.items():
    width = dims[0] // size.dims[0]
    if tuple(depths) == size.depths and dims == [width * dim for dim in size.dims]:
      return Found({'name': name, 'width': width, 'patch_size': kernel.shape[2]})
  known = ', '.join(f'{name} {size.depths} {size.dims}' for name, size in CONVNEXTS.items())
  raise ValueError(
    f'a ConvNeXt of {tuple(depths)} blocks and {tuple(dims)} channels is none of {known}.'
  )


def _turned(path: Path, array: np.ndarray) -> np.ndarray:
  if path[-1] == 'scale':
    return array.reshape(-1)  # torchvision's layer_scale is [C,1,1].
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _inside(names: Names, prefix: str, name: str) -> bool:
  return name.startswith(prefix) and name.removeprefix(prefix).startswith(names.inside)


def _format(what: str, names: Names) -> Format:
  return Format(
    what=f'ConvNeXts under {what}',
    prefixes=functools.partial(_prefixes, names),
    find_out=functools.partial(_find_out, names),
    names=lambda state, prefix, found: lambda path: prefix + names.name_of(path),
    turned=_turned,
    inside=functools.partial(_inside, names),
  )


FORMATS = (
  _format("timm's names (stem.0.weight, stages.0.blocks.0.conv_dw.weight, ...)", TIMM),
  _format("torchvision's (features.0.0.weight, features.1.0.block.0.weight, ...)", TORCHVISION),
  _format("the authors' (downsample_layers.0.0.weight, stages.0.0.dwconv.weight, ...)", AUTHORS),
)
