"""`FeatureNet`: a trained encoder as the maps of its stages, to compare images by.

A codec's reconstructions are compared by them. The run keeps a copy, and remembers which encoder
that was, by the digest of its weights.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from byoljax.encoders.encoder import Preprocessing, network
from byoljax.models.net import Net
from byoljax.models.taps import taps_of, truncate

PyTree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureNet:
  """An encoder with its weights and preprocessing, read out at its stages.

  Attributes:
    net: its network, with the maps among its outputs.
    taps: names of the maps [b, h, w, C], or of a vision transformer's tokens [b, n, C].
    params: parameters by role; empty where only the network is known.
    bn: running statistics by role.
    preprocessing: of its images.
    recorded: what a run remembers: 'config' and 'facts' of the encoder's run, and its 'digest'.
  """

  net: Net
  taps: tuple[str, ...]
  params: PyTree
  bn: PyTree
  preprocessing: Preprocessing
  recorded: Mapping[str, Any]


def of_fields(
  fields: Mapping[str, Any],
  preprocessing: Preprocessing,
  params: PyTree,
  bn: PyTree,
  recorded: Mapping[str, Any],
) -> FeatureNet:
  """The stages of the encoder that the fields of a configuration name.

  Raises:
    ValueError: it has no maps, or comes with its method alone.
  """
  net = network(fields, preprocessing)
  shapes = taps_of(net, preprocessing.example())
  taps = tuple(tap for tap, shape in shapes.items() if len(shape) in (3, 4))
  if not taps:
    raise ValueError(f"the encoder '{fields['name']}' has no maps to compare images by.")
  return FeatureNet(truncate(net, taps), taps, params, bn, preprocessing, recorded)
