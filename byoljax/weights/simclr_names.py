"""A ResNet's parameters under the names of SimCLR's TensorFlow code, versions 1 and 2.

Layers are numbered in the order in which they are made, convolutions and batch normalizations each
by themselves: the stem, then block by block, a projected shortcut before the block's own layers.

    ours                          theirs
    stem_conv/kernel              base_model/conv2d/kernel
    stem_bn/{scale,bias}          base_model/batch_normalization/{gamma,beta}
    stem_bn/{mean,var}            .../{moving_mean,moving_variance}
    stage1_block0/shortcut_conv   base_model/conv2d_1
    stage1_block0/conv1           base_model/conv2d_2

In version 2 there is 'ema_model/base_model/', too; TF2's code writes 'resnet/conv2d_fixed_padding/
conv2d', 'resnet/block_group1/.../sync_batch_normalization_7', with the same numbers. Layouts are
ours. Selective kernels (`sk1`) are found out. The network pads as `padding='fixed'` does and sees
images in [0, 1] that are not normalized.
"""

from collections.abc import Collection, Iterator, Mapping
import re
from typing import Any

import numpy as np

from byoljax.models.resnet import RESNETS
from byoljax.weights.formats import Format, Found, Path, State

_LEAVES = {
  'kernel': 'kernel',
  'scale': 'gamma',
  'bias': 'beta',
  'mean': 'moving_mean',
  'var': 'moving_variance',
}
# The prefix is the shortest beginning behind which there are only TF2's groups of layers.
_CONV = re.compile(
  r'(?P<prefix>(?:[^/]+/)*?)(?:block_group\d+/(?:[^/]+/)*)?(?:conv2d_fixed_padding(?:_\d+)?/)?'
  r'conv2d(?:_(?P<number>\d+))?/kernel'
)
_NORM = re.compile(r'(?:sync_)?batch_normalization(?:_(\d+))?')


def prefixes(names: Collection[str]) -> list[str]:
  """What may stand before a ResNet's names, in the order in which it is found."""
  found = (match['prefix'] for name in names if (match := _CONV.fullmatch(name)))
  return list(dict.fromkeys(found))


def _convs(names: Collection[str], prefix: str) -> list[str]:
  """The convolutions behind a prefix, in the order in which they were made."""
  matches = [match for name in names if (match := _CONV.fullmatch(name))]
  own = [match for match in matches if match['prefix'] == prefix]
  return [match[0] for match in sorted(own, key=lambda match: int(match['number'] or 0))]


def _norms(names: Collection[str], prefix: str) -> list[str]:
  """The batch normalizations behind a prefix, in the order in which they were made."""
  numbers: dict[str, int] = {}
  for name in names:
    module, _, leaf = name.rpartition('/')
    match = _NORM.fullmatch(module.rpartition('/')[2])
    if name.startswith(prefix) and match and leaf in _LEAVES.values():
      numbers[module] = int(match[1] or 0)
  return sorted(numbers, key=lambda module: numbers[module])


def find_out(state: State, prefix: str, fields: Mapping[str, Any]) -> Found:
  """Depth, width, stem and selective kernels; see `Format.find_out`."""
  del fields
  convs = _convs(state, prefix)
  first, second = (state[name].shape for name in (convs * 2)[:2])
  counts = {}
  for name in RESNETS:
    for selective in (False, True) if RESNETS[name][0] else (False,):
      for stem in ('imagenet', 'cifar'):
        own = {'name': name, 'stem': stem, 'selective_kernel': selective}
        counts.setdefault(sum(kind == 'conv' for kind, _ in _order(own)), []).append(own)
  if len(convs) not in counts or len(first) != 4 or len(second) != 4:
    raise ValueError(
      f"{len(convs)} convolutions behind '{prefix}' are none of SimCLR's {', '.join(RESNETS)}."
    )
  stem = 'cifar' if first[0] == 3 and second[0] == 1 else 'imagenet'
  kinds = counts[len(convs)]
  own = next((own for own in kinds if own['stem'] == stem), kinds[0])
  unit = 32 if own['selective_kernel'] and stem == 'imagenet' else 64
  if first[3] % unit or not first[3]:
    raise ValueError(f'{convs[0]} is {first}: a stem has {unit}, {2 * unit}, ... channels.')
  norms = len(_norms(state, prefix))
  if norms != (wanted := sum(kind == 'bn' for kind, _ in _order(own))):
    raise ValueError(
      f"{norms} batch normalizations behind '{prefix}' are too "
      f'{"few" if norms < wanted else "many"} for {own["name"]}, which has {wanted}.'
    )
  return Found(
    own
    | {
      'width': first[3] // unit,
      'padding': 'fixed',
      'first_projection': not RESNETS[own['name']][0],
      'resnet_d': False,
    },
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
  )


def _order(fields: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
  """('conv' or 'bn', our module) in the order in which their code makes layers."""
  bottleneck, blocks = RESNETS[fields['name']]
  selective = fields['selective_kernel']
  long = selective and fields['stem'] == 'imagenet'
  for stem in ('stem1', 'stem2', 'stem') if long else ('stem',):
    yield 'conv', (f'{stem}_conv',)
    yield 'bn', (f'{stem}_bn',)
  for stage, depth in enumerate(blocks, start=1):
    for block in range(depth):
      inner = f'stage{stage}_block{block}'
      if block == 0:
        yield 'conv', (inner, 'shortcut_conv')
        yield 'bn', (inner, 'shortcut_bn')
      for i in (1, 2, 3) if bottleneck else (1, 2):
        if selective and i == 2:
          for part in ('conv', 'bn', 'reduce_conv', 'reduce_bn', 'weigh_conv'):
            yield part.rpartition('_')[2], (inner, 'selective_kernel', part)
        else:
          yield 'conv', (inner, f'conv{i}')
          yield 'bn', (inner, f'bn{i}')


def _names(state: State, prefix: str, found: Found):
  left = {'conv': iter(_convs(state, prefix)), 'bn': iter(_norms(state, prefix))}
  theirs = {}
  for kind, module in _order(found.fields):
    name = next(left[kind])
    theirs[module] = name.removesuffix('/kernel')
  return lambda path: f'{theirs[path[:-1]]}/{_LEAVES[path[-1]]}'


def _turned(path: Path, array: np.ndarray) -> np.ndarray:
  del path
  return array


def _inside(prefix: str, name: str) -> bool:
  module = name.rpartition('/')[0].rpartition('/')[2]
  # What optimizers keep is one level deeper.
  return name.startswith(prefix) and bool(re.fullmatch(r'conv2d(_\d+)?', module))


FORMAT = Format(
  what="ResNets of SimCLR's TensorFlow code (base_model/conv2d/kernel, ...)",
  prefixes=prefixes,
  find_out=find_out,
  names=_names,
  turned=_turned,
  inside=_inside,
)
