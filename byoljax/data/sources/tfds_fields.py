"""Further fields of TFDS sets: which features they are, and their values in parsed examples.

A field is the feature of its name: an image (a map, mask or second frame, which stays encoded), a
tensor of known shape (a map, or a label), a class or number (a label), or a sequence of dicts with
'bbox' and, if there are classes, 'label' (boxes).
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from byoljax.data.fields import Field, cast, dtype_of
from byoljax.data.sources import tensorflow_import
from byoljax.suggest import did_you_mean


def resolve(fields: Sequence[Field], features: Mapping[str, Any], where: str) -> tuple[Field, ...]:
  """The fields with channels and type as the features of a set have them.

  Raises:
    ValueError: no such feature, or one that cannot be of the field's kind.
  """
  return tuple(_resolve(field, features, where) for field in fields)


def _resolve(field: Field, features: Mapping[str, Any], where: str) -> Field:
  if field.name not in features:
    hint = did_you_mean(field.name, features)
    raise ValueError(f'{where} has no feature {field.name!r}: it has {", ".join(features)}{hint}')
  feature = features[field.name]
  shape, number = feature.shape, feature.np_dtype
  if field.kind == 'boxes':
    if not isinstance(number, dict) or 'bbox' not in number or not field.channels:
      raise ValueError(
        f"{where}: {field.name!r} can be boxes if it is a sequence with 'bbox' and the field says "
        f"how many an image has at most, as in Field({field.name!r}, 'boxes', 100)."
      )
    return dataclasses.replace(field, dtype='float32')
  if isinstance(number, dict) or (field.has_pixels and len(shape) not in (2, 3)):
    raise ValueError(f'{where}: {field.name!r}, {feature}, cannot be of kind {field.kind}.')
  try:
    dtype = dtype_of(field.kind, np.dtype(number))
  except ValueError as error:
    raise ValueError(f'{where}: {field.name!r} has {error}.') from error
  channels = (shape[2] if len(shape) == 3 else 1) if field.has_pixels else sum(shape)
  return dataclasses.replace(field, channels=channels, dtype=dtype)


def parsers(fields: Sequence[Field], features: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """TensorFlow's description of the stored features of each field, by the field's name."""
  tf = tensorflow_import.tensorflow()
  tfds = tensorflow_import.tensorflow_datasets()
  made: dict[str, dict[str, Any]] = {}
  for field in fields:
    feature, name = features[field.name], field.name
    if field.kind == 'boxes':
      made[name] = {f'{name}/bbox': tf.io.RaggedFeature(tf.float32)}
      if 'label' in feature.np_dtype:
        made[name][f'{name}/label'] = tf.io.RaggedFeature(tf.int64)
    elif isinstance(feature, tfds.features.Image):
      made[name] = {name: tf.io.FixedLenFeature((), tf.string, default_value=b'')}
    else:
      stored = tf.float32 if np.issubdtype(feature.np_dtype, np.floating) else tf.int64
      nothing = np.zeros(feature.shape, stored.as_numpy_dtype)
      made[name] = {name: tf.io.FixedLenFeature(feature.shape, stored, default_value=nothing)}
  return made


def value(field: Field, parsed: Mapping[str, Any]) -> np.ndarray:
  """The values of a field in b parsed examples, as `Source.read` gives them."""
  if field.kind == 'boxes':
    return _boxes(field, parsed)
  array = parsed[field.name].numpy()
  if array.dtype == object:
    return array
  array = cast(array, field.dtype)
  if not field.has_pixels:
    return array
  # Each example is an array of its own, as if it were a file.
  rows = np.empty(len(array), object)
  rows[:] = [one if one.ndim == 3 else one[..., None] for one in array]
  return rows


class TooManyBoxesError(ValueError):
  """An image has more boxes than its field has room for."""


def _boxes(field: Field, parsed: Mapping[str, Any]) -> np.ndarray:
  corners = parsed[f'{field.name}/bbox']
  classes = parsed.get(f'{field.name}/label')
  rows = int(corners.nrows())
  made = np.zeros((rows, field.channels, 5), np.float32)
  made[..., 4] = -1
  for row in range(rows):
    found = corners[row].numpy().reshape(-1, 4)
    if len(found) > field.channels:
      raise TooManyBoxesError(
        f'an image has {len(found)} boxes in {field.name}, more than the {field.channels} asked '
        f'for: write {field.name}:boxes:{len(found)} or more.'
      )
    made[row, : len(found), :4] = found
    made[row, : len(found), 4] = 0 if classes is None else classes[row].numpy()
  return made
