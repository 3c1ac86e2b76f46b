"""`Codec`: a trained codec as one value: images to codes, codes to images.

A prior is trained on the codes of one. It keeps a copy of the codec, so that it samples wherever it
is, and the run remembers which codec that was, by the digest of its weights.
"""

from collections.abc import Callable, Mapping
import dataclasses
import hashlib
import math
from typing import Any

import jax
import numpy as np

from byoljax.encoders.encoder import Preprocessing
from byoljax.method import Decode, Method
from byoljax.models.net import Net
from byoljax.models.taps import taps_of, truncate

PyTree = Any
CODES, OUTPUT = 'codes', 'output'


@dataclasses.dataclass(frozen=True, eq=False)
class Codec:
  """A codec with its weights and its preprocessing.

  Attributes:
    net: its network, with an output 'codes' [b, n].
    decode: see `method.Decode`.
    params: parameters by role; empty where only the network is known.
    bn: running statistics by role, the codebook among them.
    preprocessing: of its images.
    codes: K, how many there are.
    recorded: what a run remembers: 'config' and 'facts' of the codec's run, its weights' 'digest'.
  """

  net: Net
  decode: Decode
  params: PyTree = dataclasses.field(repr=False)
  bn: PyTree = dataclasses.field(repr=False)
  preprocessing: Preprocessing
  codes: int
  recorded: Mapping[str, Any]

  def grid(self, size: int) -> int:
    """Codes on each side of an image of `size` pixels on each side."""
    shape = (1, size, size, self.preprocessing.channels)
    return math.isqrt(taps_of(self.net, jax.ShapeDtypeStruct(shape, np.float32))[CODES][1])


def of_method(
  method: Method, preprocessing: Preprocessing, params: PyTree, bn: PyTree, recorded: Mapping
) -> Codec | None:
  """The codec that a method trains; None if it trains none."""
  if method.decode is None:
    return None
  modules: dict[str, Any] = {name: module for _, name, module in method.net.parts}
  codes = modules[CODES].codes
  return Codec(net_of(method), method.decode, params, bn, preprocessing, codes, recorded)


def net_of(method: Method) -> Net:
  """The network of a codec, without what only training needs."""
  return truncate(method.net, (OUTPUT,))


def digest(tree: PyTree) -> str:
  """SHA-256 of names, shapes and values of all arrays, in hexadecimal."""
  found = hashlib.sha256()
  add: Callable[[bytes], None] = found.update
  for path, leaf in jax.tree.leaves_with_path(tree):
    array = np.ascontiguousarray(leaf)
    add(f'{jax.tree_util.keystr(path)} {array.dtype} {array.shape}'.encode())
    add(array.tobytes())
  return found.hexdigest()
