"""A trained encoder as a function of images: `byoljax.load('runs/byol')`.

    embed = byoljax.load('runs/byol')
    h = embed(images)  # uint8 [b, S, S, 3] -> float32 [b, D]

Pure: the same images give the same features, whatever the batch they come in.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from byoljax.data.augment import device
from byoljax.protocols import extraction

PyTree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Embedder:
  """An encoder with its weights and its normalization.

  Attributes:
    encoder: see `evaluate.Encoder`.
    mean: per channel, of images in [0, 1].
    std: per channel.
    image_size: side of the images that it was evaluated on; others work, too.
  """

  encoder: extraction.Encoder
  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  image_size: int

  def __call__(self, images: Any) -> jax.Array:
    """Features float32 [b, D].

    Args:
      images: uint8 [b, S, S, 3], or float in [0, 1].

    Raises:
      ValueError: another shape.
    """
    if np.ndim(images) != 4 or np.shape(images)[-1] != 3:
      raise ValueError(
        f'images are [b, S, S, 3], got {np.shape(images)}: one image needs a first axis of 1.'
      )
    return self._compiled(self.encoder.params, self.encoder.bn, images)

  @property
  def dim(self) -> int:
    """D, the number of features."""
    side = self.image_size
    image = jax.ShapeDtypeStruct((1, side, side, 3), np.uint8)
    return jax.eval_shape(self.apply, self.encoder.params, self.encoder.bn, image).shape[-1]

  def apply(self, params: PyTree, bn: PyTree, images: jax.Array) -> jax.Array:
    """The same as a pure function of the weights, to be compiled, exported or differentiated."""
    normalized = device.make_eval_transform(self.mean, self.std)(images)
    return self.encoder.read(params, bn, normalized)

  @functools.cached_property
  def _compiled(self) -> Any:
    return jax.jit(self.apply)


def load(run: str, network: str = 'online', tap: str = 'embedding') -> Embedder:
  """The encoder of a run.

  Args:
    run: a run's directory, or one of its checkpoints/<step>.
    network: 'online' or 'target'; 'random', 'random_rescaled' and 'pixels' are baselines.
    tap: where it is read out: 'embedding', an inner map such as 'stage1', 'projection', ...

  Raises:
    ConfigError: nothing to load there, or no such tap.
  """
  encoder, config, _ = extraction.load_encoder(str(run), network, tap)
  return of(encoder, config)


def of(encoder: extraction.Encoder, config: Any) -> Embedder:
  """An encoder with what the configuration of its run says about images."""
  return Embedder(encoder, tuple(config.data.mean), tuple(config.data.std), config.evals.image_size)
