"""A prior on the codes of a codec: what makes VQ-VAE, VQ-GAN and DALL-E draw images.

A causal network predicts the codes of an image one after the other, in raster order: a transformer,
or a Gated PixelCNN. The codec (`Setting.given['codec']`: a run of vq_vae, vq_gan or dvae) is
frozen, and a copy is kept.

    VQ-VAE's prior     a Gated PixelCNN, whose gates are given the class
    VQ-GAN's hybrid    `keep` < 1: some of the codes that are read are drawn anew (their code)
    DALL-E's           the class stands before the codes, as its caption, and is predicted as well:
                       (text_weight * text + image_weight * image) / (text_weight + image_weight),
                       1 and 7 in arXiv 2102.12092, section 2.2

Different from the papers: DALL-E has 256 text tokens of captions and sparse attention, this one a
word of its own for every class and nothing else; VQ-GAN's weight decay is that of linear layers
alone, here the tables of codes, places and classes decay, too.

With `condition='class'` labels are read: what is learned is the distribution of images given their
class, and features are no longer self-supervised. Evaluations give no class, which has a vector of
its own; it learns only where `drop_class` leaves out the class of some examples (no paper's; 0.1 is
usual for guidance, Ho and Salimans, arXiv 2207.12598) and stays a random draw where not.

'bits_per_dim' is of a code, not of a number of the image: log2 K for K equally probable codes.
"""

from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from byoljax import streams
from byoljax.devices import collectives
from byoljax.losses import likelihoods
from byoljax.method import (
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Setting,
  default_groups,
  evaluation_outputs,
)
from byoljax.method import (
  keep as nothing_after,
)
from byoljax.methods.checks import only_view
from byoljax.methods.generative.frozen import copy_of
from byoljax.methods.reconstruction.autoencoder import picture
from byoljax.models import decoders, pixelcnn
from byoljax.models.code_pixelcnn import CodePixelCNN
from byoljax.models.code_transformer import CodeTransformer
from byoljax.models.frozen_codec import CODEC, FrozenNet, codes_of
from byoljax.models.net import Net, Statistics, stack
from byoljax.models.token_transformer import Size, TokenHead
from byoljax.ops import sampling as drawing
from byoljax.ops.sampling import Sampling
from byoljax.suggest import check_name

PyTree = Any
CONDITIONS, NETWORKS = ('none', 'class'), ('transformer', 'pixelcnn')
_UNKNOWN_CLASS = (
  'evaluations tell this prior no class, and method.drop_class=0 never trains it without one: '
  'features follow a random vector in its place. method.drop_class=0.1 trains that case, too.'
)
ENCODER, HEAD, LOGITS, TEXT, TEXT_LOGITS = 'encoder', 'head', 'logits', 'text', 'text_logits'


def prior(
  net: Net,
  given: Any,
  setting: Setting,
  *,
  text_weight: float,
  image_weight: float,
  keep: float,
  drop_class: float,
) -> Method:
  """The method over a network; `build` makes it.

  Args:
    net: outputs 'embedding', 'logits' and, with a text, 'text_logits'.
    given: the codec.
    setting: the run.
    text_weight: of the class's likelihood.
    image_weight: of the codes'.
    keep: share of the codes that are read as they are.
    drop_class: share of the examples whose class is not told.
  """
  encoder, head = net.parts[0][2], net.parts[1][2]
  classes, before = encoder.classes, encoder.before

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, Statistics]:
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), only_view(batch))
    if given.params:
      bn = bn | {ENCODER: bn[ENCODER] | {CODEC: copy_of(given, key, only_view(batch))}}
    return params, Statistics(bn)

  def noisy(codes: jax.Array, key: jax.Array) -> jax.Array:
    """Codes of which some were drawn anew, each example by itself."""
    if keep == 1:
      return codes
    keys = collectives.example_keys(
      jax.random.fold_in(key, streams.CODE_NOISE), len(codes), setting.axis
    )

    def one(own: jax.Array, row: jax.Array) -> jax.Array:
      which, what = jax.random.split(own)
      others = jax.random.randint(what, row.shape, 0, encoder.vocabulary)
      return jnp.where(jax.random.uniform(which, row.shape) < keep, row, others)

    return jax.vmap(one)(keys, codes)

  def told(label: jax.Array, key: jax.Array) -> jax.Array:
    """The classes, -1 where an example's is left out."""
    if not drop_class:
      return label
    keys = collectives.example_keys(
      jax.random.fold_in(key, streams.DROPPED_CLASSES), len(label), setting.axis
    )
    return jnp.where(jax.vmap(jax.random.uniform)(keys) < drop_class, -1, label)

  def predicted(
    params: PyTree, bn: PyTree, view: jax.Array, label: Any, codes: jax.Array, train: bool
  ) -> tuple[dict[str, jax.Array], PyTree]:
    inputs = {'tokens': codes} | ({'condition': label} if classes else {})
    return net.apply(params, bn, view, train=train, inputs={ENCODER: inputs})

  def loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del step
    view = only_view(batch)
    codes = codes_of(encoder.codec.net, state.bn[ENCODER][CODEC], view)
    label = told(batch['label'], key) if classes else None
    made, bn = predicted(params, state.bn, view, label, noisy(codes, key), train=True)
    image = likelihoods.categorical_nll(made[LOGITS][:, before:], codes).mean()
    metrics = {'bits_per_dim': likelihoods.bits(lax.stop_gradient(image))}
    value = image
    if text_weight:
      label = jnp.where(batch['label'] < 0, classes, batch['label'])
      text = likelihoods.categorical_nll(made[TEXT_LOGITS][:, 0], label).mean()
      value = (text_weight * text + image_weight * image) / (text_weight + image_weight)
      metrics |= {'loss/text': text, 'loss/image': image}
    return value, Aux(Statistics(bn), lax.stop_gradient(metrics), made['embedding'])

  def sample(
    params: PyTree,
    state: Statistics,
    key: jax.Array,
    condition: jax.Array | None,
    sampling: Sampling,
  ) -> jax.Array:
    if condition is not None and not classes:
      raise ValueError(
        "this prior was trained without classes: give none, or train with condition='class'."
      )
    grid = given.grid(sampling.size)
    if grid != encoder.grid:
      raise ValueError(
        f'size={sampling.size}: an image of that size has {grid} x {grid} codes, but this prior '
        f'was made for {encoder.grid} x {encoder.grid}.'
      )
    if classes and condition is None:
      own = drawing.keys(jax.random.fold_in(key, streams.SAMPLE_CLASSES), sampling.count)
      condition = jax.vmap(lambda own: jax.random.randint(own, (), 0, classes))(own)
    return drawn(params, state, key, sampling, condition)

  def drawn(
    params: PyTree,
    state: Statistics,
    key: jax.Array,
    sampling: Sampling,
    condition: jax.Array | None,
    prefix: jax.Array | None = None,
  ) -> jax.Array:
    """Images of codes, of which `prefix` are the first."""
    codes = encoder.generate(
      params[ENCODER], head, params[HEAD], key, sampling, condition=condition, prefix=prefix
    )
    frozen = state.bn[ENCODER][CODEC]

    def paint(own: jax.Array) -> jax.Array:
      square = own.reshape(1, encoder.grid, encoder.grid)
      return given.decode(frozen['params'], frozen['bn'], square)[0]

    # One by one: convolutions round differently in batches of other sizes.
    return lax.map(paint, codes)

  def pictures(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array
  ) -> dict[str, jax.Array]:
    """The upper half of an image, and how the prior goes on from its codes."""
    view = batch['views'][0]
    codes = codes_of(encoder.codec.net, state.bn[ENCODER][CODEC], view)
    upper = encoder.grid // 2
    condition = jnp.where(batch['label'] < 0, classes, batch['label']) if classes else None
    first = codes[:, : upper * encoder.grid]
    output = drawn(params, state, key, Sampling(len(view)), condition, first)
    image = picture(view, setting)
    known = jnp.arange(view.shape[1]) < view.shape[1] * upper // encoder.grid
    return {
      'image': image,
      'input': jnp.where(known[None, :, None, None], image, 0.5),
      'output': decoders.fitted(output, view),
    }

  def bits(params: PyTree, state: Statistics, batch: Batch) -> jax.Array:
    view, label = batch['views'][0], batch['label'] if classes else None
    codes = codes_of(encoder.codec.net, state.bn[ENCODER][CODEC], view)
    made, _ = predicted(params, state.bn, view, label, codes, train=False)
    nats = likelihoods.categorical_nll(made[LOGITS][:, before:], codes)
    return likelihoods.bits_of_each(nats, codes.shape[1])

  return Method(
    init,
    loss,
    nothing_after,
    evaluation_outputs(net, 'embedding'),
    default_groups,
    net=net,
    pictures=pictures,
    sample=sample,
    bits=bits,
    notes=(_UNKNOWN_CLASS,) if classes and not drop_class else (),
  )


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  network: str = 'transformer',
  grid: int = 16,
  dim: int = 1024,
  depth: int = 24,
  heads: int = 16,
  condition: str = 'none',
  text_weight: float = 0.0,
  image_weight: float = 1.0,
  keep: float = 1.0,
  drop_class: float = 0.0,
) -> Method:
  """Builds a prior over the codes of `setting.given['codec']`.

  Args:
    make_encoder: not called; the network is the codec's and the one over codes.
    setting: the run.
    network: 'transformer', or 'pixelcnn', which is gated.
    grid: codes on each side of an image.
    dim: width of the transformer, channels of the PixelCNN.
    depth: its blocks.
    heads: attention heads of a block; they divide `dim`. A PixelCNN has none.
    condition: 'none', or 'class', which stands before the codes or moves the gates.
    text_weight: of the class's own likelihood, 0 or more; above 0 with a condition only, which a
      transformer predicts.
    image_weight: of the codes' likelihood beside it, above 0.
    keep: share of the codes that are read as they are, in (0, 1]; the others are drawn anew.
    drop_class: share of the examples whose class is not told, in [0, 1); 0 without a condition.

  Raises:
    ValueError: no codec, or an argument out of range.
  """
  del make_encoder
  given = setting.given.get('codec')
  if given is None:
    raise ValueError("a prior needs a codec: set config.codec to a run, such as 'runs/vq_vae'.")
  _check_network(network, grid, dim, depth, heads)
  _check_condition(condition, network, text_weight, image_weight, setting)
  if not 0 < keep <= 1:
    raise ValueError(f'keep={keep} of the codes must be above 0 and at most 1.')
  if not 0 <= drop_class < 1 or (drop_class and condition == 'none'):
    raise ValueError(
      f"drop_class={drop_class} must be at least 0 and below 1, and 0 where condition='none'."
    )
  classes = setting.num_classes if condition == 'class' else 0
  dtype = jnp.dtype(setting.dtype)
  frozen = FrozenNet(given.net.parts, given.net.reads)
  kind, size = CodeTransformer, Size(dim, depth, heads)
  if network == 'pixelcnn':
    kind, size = CodePixelCNN, pixelcnn.Size(dim, depth, gated=True)
  encoder = kind(frozen, size, given.codes, grid, classes, dtype)
  parts = [
    (ENCODER, 'embedding', encoder),
    (HEAD, LOGITS, TokenHead(given.codes, dtype)),
  ]
  reads = {HEAD: f'{ENCODER}/sequence'}
  if text_weight:
    parts.append((TEXT, TEXT_LOGITS, TokenHead(classes + 1, dtype)))
    reads[TEXT] = f'{ENCODER}/sequence'
  net = stack(parts, reads=reads)
  weights = {'text_weight': text_weight, 'image_weight': image_weight}
  return prior(net, given, setting, **weights, keep=keep, drop_class=drop_class)


def _check_network(network: str, grid: int, dim: int, depth: int, heads: int) -> None:
  """Raises ValueError unless there is such a network."""
  check_name('network', network, NETWORKS)
  if min(grid, dim, depth, heads) < 1 or (dim % heads and network == 'transformer'):
    raise ValueError(
      f'grid={grid}, dim={dim}, depth={depth} and heads={heads} must be at least 1, and heads must '
      'divide dim.'
    )


def _check_condition(
  condition: str, network: str, text_weight: float, image_weight: float, setting: Setting
) -> None:
  """Raises ValueError unless there are such classes, and likelihoods of them."""
  check_name('condition', condition, CONDITIONS)
  if condition == 'class' and not setting.num_classes:
    raise ValueError("condition='class' needs labelled images; take 'none'.")
  predicted = condition == 'class' and network == 'transformer'
  if text_weight < 0 or image_weight <= 0 or (text_weight and not predicted):
    raise ValueError(
      f"text_weight={text_weight} must be 0 or more, 0 where condition='none' or "
      f"network='pixelcnn', and image_weight={image_weight} above 0."
    )
