"""Codecs read from runs: what `--config.codec=runs/vq_vae` names."""

from byoljax.config import ConfigError, user_errors
from byoljax.encoders import codec, method_network
from byoljax.encoders.load import stored_parts
from byoljax.encoders.method_network import preprocessing_of
from byoljax.workdir import checkpoint, run_dir


def load(path: str) -> codec.Codec:
  """The codec that a run has trained.

  Args:
    path: the run's directory, or one of its checkpoints/<step>.

  Raises:
    ConfigError: nothing there, or a run that trained no codec.
  """
  if not path:
    raise ConfigError("config.codec is empty: name a run of vq_vae, vq_gan or dvae, 'runs/vq_vae'.")
  with user_errors('config.codec'):
    directory = checkpoint.checkpoint_directory(path)
  run = directory.parent.parent
  config = run_dir.run_config(run)
  method = method_network.method(config, run)
  if method is None or method.decode is None:
    raise ConfigError(
      f"config.codec='{path}' trained no codes: name a run of vq_vae, vq_gan or dvae."
    )
  roles = tuple(role for role, _, _ in codec.net_of(method).parts)
  params, bn = stored_parts(directory, 'online', roles)
  recorded = run_dir.run_record(run) | {'digest': codec.digest((params, bn))}
  found = codec.of_method(method, preprocessing_of(config), params, bn, recorded)
  assert found is not None
  return found
