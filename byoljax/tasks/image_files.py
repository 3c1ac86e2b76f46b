"""Image files that a user names on the command line, as evaluation sees them."""

from collections.abc import Sequence
import pathlib

import numpy as np

from byoljax.config import ConfigError, user_errors


def named(paths: Sequence[str]) -> list[str]:
  """Files, and instead of each folder the images in it, see `folder.every_image`.

  Raises:
    ConfigError: a folder without an image.
  """
  from byoljax.data.sources import folder

  found = []
  for path in map(pathlib.Path, paths):
    with user_errors():
      inside = [path / file for file in folder.every_image(path)] if path.is_dir() else [path]
    found += map(str, inside)
  return found


def read(paths: Sequence[str], size: int, range_: str = '') -> np.ndarray:
  """Image files as evaluation sees them: center crops [n, size, size, C], uint8 or float32.

  Args:
    paths: the files.
    size: side of the crops.
    range_: which numbers are black and white, see `data.sources.pixels`.

  Raises:
    ConfigError: a file is not there or is no image.
  """
  from byoljax.data.batches import pipeline
  from byoljax.data.sources import arrays, image_file, pixels, source

  made = []
  with user_errors():
    field, _ = pixels.image_field(paths, lambda row: source.bytes_of(paths[row]), range_)
  for path in paths:
    try:
      image = pixels.decode(pathlib.Path(path).read_bytes(), field)
    except OSError as error:
      raise ConfigError(f"'{path}' cannot be read: {error.strerror}.") from error
    except image_file.UnreadableImageError as error:
      raise ConfigError(f"'{path}' is no image that can be read: {error}.") from error
    one = arrays.from_arrays(image[None], None, name=path)
    (batch,) = pipeline.eval_batches(one, image_size=size, batch_size=1)
    made.append(batch['image'][0])
  return np.stack(made)
