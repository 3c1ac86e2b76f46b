"""Encoders that no other library has, under our own names, as `exporting.write` writes them.

params/stem_conv/kernel, batch_stats/stem_bn/mean, ...

The names do not tell the network: `config.json` beside the weights does, see `exported`.
"""

from collections.abc import Collection, Mapping
from typing import Any

from byoljax.weights.formats import Format, Found, Path, State

_TREES = ('params', 'batch_stats')


def _prefixes(names: Collection[str]) -> list[str]:
  """One encoder, where all names are ours."""
  return [''] if names and all(name.partition('/')[0] in _TREES for name in names) else []


def _find_out(state: State, prefix: str, fields: Mapping[str, Any]) -> Found:
  raise ValueError(
    'the file holds an encoder of byoljax, but no config.json beside it says which: keep '
    'model.safetensors and config.json of an exported folder together.'
  )


def _names(state: State, prefix: str, found: Found):
  def name_of(path: Path) -> str:
    statistics = '/'.join(('batch_stats', *path))
    return statistics if statistics in state else '/'.join(('params', *path))

  return name_of


FORMAT = Format(
  what="byoljax's own (params/stem_conv/kernel, ..., with config.json beside them)",
  prefixes=_prefixes,
  find_out=_find_out,
  names=_names,
  turned=lambda path, array: array,
  inside=lambda prefix, name: True,
)
