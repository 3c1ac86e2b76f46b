"""The trained networks that a recipe names and a method starts or learns from."""

from typing import Any

from byoljax.config import Config
from byoljax.encoders import load_codec, load_perceptual, teachers

_LOADERS = {
  'teacher': teachers.load,
  'codec': load_codec.load,
  'perceptual': load_perceptual.load,
}


def load(config: Config) -> dict[str, Any]:
  """Those of the fields 'teacher', 'codec' and 'perceptual', as `Setting.given` has them.

  Raises:
    ConfigError: there is none, or it expects images that are normalized otherwise.
  """
  found: dict[str, Any] = {}
  for name, load_one in _LOADERS.items():
    if name in config:
      found[name] = load_one(config[name])
      seen = found[name].preprocessing
      teachers.require_same_normalization(name, seen, config.data.mean, config.data.std)
  return found
