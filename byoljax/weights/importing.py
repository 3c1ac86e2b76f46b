"""An encoder from the weights of another library: which network it is, and its parameters."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import numpy as np

from byoljax.encoders.encoder import Encoder, Preprocessing, network, pool_of
from byoljax.weights import (
  alexnet_names,
  convnext_names,
  dinov3_names,
  exported,
  files,
  formats,
  haiku_names,
  own_names,
  simclr_names,
  torch_names,
  vit_names,
)
from byoljax.weights.formats import Format, Found

PyTree = Any
DEFAULT_SIZE = 224  # where neither weights nor configuration say a size
# What most published weights were trained with.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Imported(flax.struct.PyTreeNode):
  """A checkpoint's state with an encoder, heads that came with it, and nothing else.

  Attributes:
    params: {'encoder': parameters, ...} by role.
    method_state: {'bn': {'encoder': running statistics, ...}}.
  """

  params: PyTree
  method_state: PyTree


FORMATS = (
  torch_names.FORMAT,
  torch_names.CHILDREN,
  vit_names.FORMAT,
  dinov3_names.FORMAT,
  *convnext_names.FORMATS,
  alexnet_names.FORMAT,
  simclr_names.FORMAT,
  haiku_names.FORMAT,
  own_names.FORMAT,
)


# Of batch normalization, which says nothing about the network.
_COUNTERS = 'num_batches_tracked'


class Reading(NamedTuple):
  """An encoder from another library, and how it was made to be used.

  Attributes:
    encoder: see `Encoder`; its weights may have further roles, such as MAE's 'decoder'.
    prefix: what stood before its names.
    found: what its weights told; of an exported folder, which tells all, the encoder's name alone.
    unread: names in the file that are not the encoder's, nor of a head that was taken.
  """

  encoder: Encoder
  prefix: str
  found: Found
  unread: tuple[str, ...] = ()


def encoder_of(
  path: str,
  fields: Mapping[str, Any],
  *,
  mean: tuple[float, ...] = IMAGENET_MEAN,
  std: tuple[float, ...] = IMAGENET_STD,
  range_: str = '',
  prefix: str | None = None,
  image_size: int = 0,
) -> Reading:
  """The encoder whose weights are in a file.

  Args:
    path: any file or folder that `files.read` takes. A folder that `exporting.write` made tells all
      of the following but the prefix.
    fields: as in `config.encoder`; what follows from the weights is found out.
    mean: of images, per channel, where the weights do not tell.
    std: of images, per channel, where the weights do not tell.
    range_: which numbers of images are black and white, see `Preprocessing`.
    prefix: of the encoder's names, '' where nothing stands before them; None: there is one encoder.
    image_size: side S of the images that it will see; 0 for what the weights were made for.

  Raises:
    ValueError: the file cannot be read, holds no encoder or several, or weights that do not fit.
  """
  state = files.read(path)
  found = [(form, start) for form in FORMATS for start in form.prefixes(state)]
  chosen = [each for each in found if prefix in (None, each[1])]
  if len(chosen) != 1:
    behind = '' if prefix is None else f' with prefix={prefix!r}'
    raise ValueError(f"'{path}' holds {len(chosen)} encoders{behind}; {_choices(found, state)}")
  form, prefix = chosen[0]
  stored = exported.beside(path)
  told = form.find_out(state, prefix, fields) if stored is None else stored
  fields = dict(fields) | told.fields
  side = image_size or told.image_size or DEFAULT_SIZE
  preprocessing = Preprocessing(told.mean or mean, told.std or std, side, told.range or range_)
  net = network(fields, preprocessing)
  params, bn = jax.eval_shape(lambda: net.init(jax.random.key(0), preprocessing.example()))
  *trees, names = formats.placed(form, state, prefix, told, params['encoder'], bn['encoder'])
  own_params, own_bn = ({'encoder': tree} for tree in trees)
  heads, head_names = form.beside(state, prefix, told)
  own_params, own_bn = own_params | heads, own_bn | {role: {} for role in heads}
  encoder = Encoder(net, own_params, own_bn, preprocessing, pool=pool_of(fields), fields=fields)
  unread = tuple(
    name
    for name in form.completed(state, prefix)
    if name not in names | head_names and not name.endswith(_COUNTERS)
  )
  told = told if stored is None else told._replace(fields={'name': fields['name']})
  return Reading(encoder, prefix, told._replace(image_size=side), unread)


def _choices(found: list[tuple[Format, str]], state: Mapping[str, np.ndarray]) -> str:
  if found:
    return 'set prefix to one of ' + ', '.join(repr(name) for _, name in found) + '.'
  some = ', '.join(list(state)[:5]) + (f' and {len(state) - 5} more' if len(state) > 5 else '')
  known = '; '.join(form.what for form in FORMATS)
  return f'its names are {some or "none"}; known are {known}.'
