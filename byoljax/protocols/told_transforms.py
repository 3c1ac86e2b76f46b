"""What a network that tells transforms apart says about the transforms of clean images."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byoljax.data.sources.source import Source
from byoljax.encoders.encoder import Encoder
from byoljax.evals import features, frozen, normality, scores
from byoljax.method import Transforms
from byoljax.protocols import extraction
from byoljax.protocols.extraction import EvalData

LOGITS = 'logits'


def log_probabilities(
  encoder: Encoder, transforms: Transforms, source: Source, data: EvalData
) -> tuple[np.ndarray, np.ndarray]:
  """Logarithms of the softmax float32 [N, K, K] (image, transform, class), and labels int32 [N].

  Args:
    encoder: read out at `LOGITS`.
    transforms: K of them, the classes of the logits in their order.
    source: the images.
    data: how they are read.
  """

  def told(params: Any, bn: Any, images: jax.Array) -> dict[str, jax.Array]:
    def of_one(way: jax.Array) -> jax.Array:
      return jax.nn.log_softmax(encoder.read(params, bn, transforms.apply(images, way)))

    every = jax.lax.map(of_one, jnp.arange(transforms.count))
    return {LOGITS: jnp.moveaxis(every, 0, 1).reshape(len(images), -1)}

  extract = features.make_extractor(told, encoder.preprocessing.normalize, tap=LOGITS)
  found, labels = extract(encoder.params, encoder.bn, extraction.eval_batches(source, data))
  return found.reshape(len(found), transforms.count, -1), labels


def anomaly(
  encoder: Encoder, transforms: Transforms, data: EvalData, normal: Sequence[int]
) -> dict[str, Any]:
  """Both scores of `evals.normality` on the test images: normal classes against all others.

  Args:
    encoder: of a network that was trained on the normal classes, read out at `LOGITS`.
    transforms: that it tells apart.
    data: training images, of which the normal ones fit the Dirichlets, and test images.
    normal: classes.

  Returns:
    {'probability' and 'dirichlet': {'auroc', 'by_class'}}, as `frozen.anomaly` gives them.

  Raises:
    ValueError: fewer than two normal training images, or no test image, or no other one.
  """
  bank = data.train.of_classes(normal)
  fitted = normality.fit_dirichlets(log_probabilities(encoder, transforms, bank, data)[0])
  log_y, labels = log_probabilities(encoder, transforms, data.test, data)
  known = labels >= 0
  inside = np.isin(labels[known], normal)
  made = {}
  for name, score in (
    ('probability', normality.probability(log_y[known])),
    ('dirichlet', normality.dirichlet(log_y[known], fitted)),
  ):
    value = scores.auroc(score, inside)
    made[name] = {'auroc': value, 'by_class': {frozen.group_name(normal): value}}
  return made
