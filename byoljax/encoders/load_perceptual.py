"""Encoders to compare images by, read from runs: what `--config.perceptual=runs/byol` names."""

from byoljax.config import ConfigError, user_errors
from byoljax.encoders import codec, perceptual
from byoljax.encoders.load import load_encoder
from byoljax.workdir import run_dir


def load(path: str) -> perceptual.FeatureNet:
  """The encoder of a run, read out at its stages.

  Args:
    path: the run's directory, or one of its checkpoints/<step>.

  Raises:
    ConfigError: nothing there, or an encoder without maps.
  """
  if not path:
    raise ConfigError("config.perceptual is empty: name a run, such as 'runs/byol'.")
  encoder, config, directory = load_encoder(path, 'online')
  weights = (encoder.params, encoder.bn)
  recorded = run_dir.run_record(directory.parent.parent) | {'digest': codec.digest(weights)}
  with user_errors('config.perceptual'):
    return perceptual.of_fields(
      dict(config.encoder), encoder.preprocessing, *weights, recorded=recorded
    )
