"""A ResNet's parameters under the names of Haiku, as DeepMind's BYOL checkpoints store them.

    ours                          theirs
    stem_conv/kernel              <p>params.res_net50/~/initial_conv.w
    stem_bn/{scale,bias}  C       <p>params.res_net50/~/initial_batchnorm.{scale,offset}  111C
    stem_bn/{mean,var}    C       <p>state.res_net50/~/initial_batchnorm/~/{mean,var}_ema.average
    stage1_block0/conv2           .../block_group_0/~/block_0/~/conv_1
    stage1_block0/shortcut_bn     .../block_group_0/~/block_0/~/shortcut_batchnorm

The prefix <p> is 'experiment_state.online_' or 'experiment_state.target_' after pretraining and
'experiment_state.backbone_' after linear evaluation. Their averages are free of the start's bias,
so they are what evaluation uses. The network pads as `padding='same'` does.
"""

from collections.abc import Collection, Mapping
import re
from typing import Any

import numpy as np

from byoljax.models.resnet import RESNETS
from byoljax.weights import formats
from byoljax.weights.formats import Format, Found, Path, State

_LEAVES = {'kernel': 'w', 'scale': 'scale', 'bias': 'offset'}
_STATISTICS = {'mean': '/~/mean_ema.average', 'var': '/~/var_ema.average'}
_ANCHOR = re.compile(r'(?P<prefix>.*?)params\.(?P<net>[^.]*/~/)initial_conv\.w')
_INSIDE = re.compile(r'(?:params|state)\.[^.]*/~/(?:initial|block_group|final)_.*')


def prefixes(names: Collection[str]) -> list[str]:
  """What may stand before a ResNet's names, in the order in which it is found."""
  return [match['prefix'] for name in names if (match := _ANCHOR.fullmatch(name))]


def _net(state: State, prefix: str) -> str:
  """What Haiku calls the network, 'res_net50/~/'."""
  matches = (match for name in state if (match := _ANCHOR.fullmatch(name)))
  return next(match['net'] for match in matches if match['prefix'] == prefix)


def find_out(state: State, prefix: str, fields: Mapping[str, Any]) -> Found:
  """Depth and width; see `Format.find_out`."""
  del fields
  start = f'{prefix}params.{_net(state, prefix)}'
  stem = state[f'{start}initial_conv.w']
  block = re.compile(re.escape(start) + r'block_group_(\d+)/~/block_(\d+)/~/conv_0\.w')
  depth = formats.depth_of([m.groups() for name in state if (m := block.fullmatch(name))], 0)
  name = formats.resnet_of(f'{start}block_group_0/~/block_0/~/conv_2.w' in state, depth)
  if stem.ndim != 4 or stem.shape[:3] != (7, 7, 3) or stem.shape[3] % 64:
    raise ValueError(
      f'{start}initial_conv.w is {stem.shape}: a stem is 7 x 7 x 3 with 64, 128, ... channels.'
    )
  return Found(
    {
      'name': name,
      'width': stem.shape[3] // 64,
      'stem': 'imagenet',
      'padding': 'same',
      'first_projection': not RESNETS[name][0],
      'selective_kernel': False,
      'resnet_d': False,
    }
  )


def _names(state: State, prefix: str, found: Found):
  del found
  net = _net(state, prefix)

  def name_of(path: Path) -> str:
    *modules, leaf = path
    if modules[0] in ('stem_conv', 'stem_bn'):
      module = modules[0].replace('stem_', 'initial_')
    else:
      stage, block = re.findall(r'\d+', modules[0])
      part = re.sub(r'(\d)$', lambda match: f'_{int(match[1]) - 1}', modules[1])
      module = f'block_group_{int(stage) - 1}/~/block_{block}/~/{part}'
    module = net + re.sub(r'bn(_\d)?$', r'batchnorm\1', module)
    if leaf in _STATISTICS:
      return f'{prefix}state.{module}{_STATISTICS[leaf]}'
    return f'{prefix}params.{module}.{_LEAVES[leaf]}'

  return name_of


def _turned(path: Path, array: np.ndarray) -> np.ndarray:
  """Scales, shifts and averages are [1,1,1,C] there."""
  return array.reshape(-1) if path[-1] != 'kernel' and array.shape[:-1] == (1, 1, 1) else array


def _inside(prefix: str, name: str) -> bool:
  bookkeeping = name.endswith(('.counter', '.hidden'))
  return (
    name.startswith(prefix)
    and not bookkeeping
    and bool(_INSIDE.fullmatch(name.removeprefix(prefix)))
  )


FORMAT = Format(
  what="ResNets of Haiku (res_net50/~/initial_conv, ...), as DeepMind's BYOL stores them",
  prefixes=prefixes,
  find_out=find_out,
  names=_names,
  turned=_turned,
  inside=_inside,
)
