"""How a codec uses its codebook: how often each code stands in held-out images."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byoljax import streams
from byoljax.data.batches import pipeline
from byoljax.data.sources.source import Source
from byoljax.encoders.codec import CODES
from byoljax.encoders.stored_method import StoredMethod
from byoljax.ops import codebook
from byoljax.report import pictures
from byoljax.report.reconstructions import Strips

_MOST = 512  # images


def write(stored: StoredMethod, source: Source, path: pathlib.Path) -> Strips:
  """Draws the histogram of the last checkpoint; a table has the use at each.

  Args:
    stored: of a run of a method with codes (`Method.decode`).
    source: held-out images.
    path: the PNG to write; its folder is made.
  """
  order = np.random.default_rng((0, streams.REPORT_SAMPLE, 3)).permutation(source.size)
  chosen = source.subset(np.sort(order[:_MOST]))
  net = stored.method.net
  size = {name: module for _, name, module in net.parts}[CODES].codes

  @jax.jit
  def codes_of(params: Any, bn: Any, images: jax.Array) -> jax.Array:
    view = stored.preprocessing.normalize(images)
    return net.apply(params, bn, view, train=False, upto=CODES)[0][CODES]

  rows, counts = [], np.zeros(size, int)
  for step in stored.steps():
    params, state = stored.stored(step, chosen)
    counts = np.zeros(size, int)
    side = stored.preprocessing.image_size
    for batch in pipeline.eval_batches(chosen, image_size=side, batch_size=min(64, chosen.size)):
      codes = np.asarray(codes_of(params, state.bn, batch['image']))[batch['valid']]
      counts += np.bincount(codes.astype(int).ravel(), minlength=size)
    rows.append(
      {
        'step': f'{step:,}',
        'codes used': f'{np.count_nonzero(counts)} of {size}',
        'perplexity': f'{float(codebook.perplexity(jnp.asarray(counts))):.1f}',
      }
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  pictures.histogram(path, counts, 'code, by frequency')
  note = (
    f'How often each code occurs in {chosen.size} images of {source.name}, the most frequent '
    'first, at the last checkpoint; the line is where all would be were they used alike. The '
    'perplexity, e to the entropy, is how many equally frequent codes would say as much.'
  )
  return Strips(path, rows, note)
