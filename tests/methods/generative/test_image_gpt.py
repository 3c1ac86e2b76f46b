"""Image GPT and masked tokens: the palette, likelihoods, what is asked for and hidden."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.length import Length
from byoljax.method import Setting, transformed
from byoljax.methods import METHODS
from byoljax.models.image_transformer import ImageTransformer, nearest
from byoljax.models.token_transformer import Size
from byoljax.ops import masking
from byoljax.ops.sampling import Sampling
from tests.methods.test_contract import SIZE, TinyEncoder, batch_of, make

KEY, STEP = jax.random.key(0), jnp.int32(0)
SETTING = Setting(Length(9, 1, 1), mean=(0.5,), std=(0.25,))


def gray(name, side, palette, **settings):
  """A method on gray images; causal for 'image_gpt'."""

  def encoder(bn_axis, bn_groups=0):
    del bn_axis, bn_groups
    return ImageTransformer(Size(8, 1, 2), palette, side, name == 'image_gpt')

  return METHODS[name](encoder, SETTING, **settings)


def at_random(method, batch, scale=0.7):
  params, state = jax.jit(method.init)(KEY, batch)
  rng = np.random.default_rng(1)
  draw = lambda x: jnp.asarray(scale * rng.normal(size=x.shape), jnp.float32)  # noqa: E731
  return jax.tree.map(draw, params), state


def hidden_from(method, views):
  return jax.jit(lambda views: transformed(method, {'views': (views,)}, KEY, STEP))(views)


def test_a_pixel_is_its_nearest_color():
  rng = np.random.default_rng(0)
  palette, images = rng.normal(size=(6, 3)), rng.normal(size=(2, 4, 5, 3))
  distances = ((images[..., None, :] - palette) ** 2).sum(-1)
  found = nearest(jnp.asarray(palette, jnp.float32), jnp.asarray(images, jnp.float32))
  np.testing.assert_array_equal(found, distances.argmin(-1))


def test_the_palette_is_found_once_from_the_colors_of_the_images():
  method = gray('image_gpt', 4, 3)
  values = np.array([-1.0, 0.5, 2.0], np.float32)
  images = values[np.random.default_rng(0).integers(0, 3, (40, 4, 4, 1))]
  batch = {'views': (jnp.asarray(images),)}
  params, state = jax.jit(method.init)(KEY, batch)
  features = lambda: method.refresh.embed(params, state, images)  # noqa: E731
  assert features()['colors'].shape == (40, 16)
  _, found = method.refresh.apply(params, state, features, KEY, 0)
  # k-means starts at random rows, two of which may be alike: such a color is not moved.
  palette = np.unique(np.asarray(found.bn['encoder']['palette']))
  assert set(palette.round(5)) <= {-1.0, 0.5, 2.0, 1.25, -0.25} and len(palette) >= 2
  assert method.refresh.apply(params, found, features, KEY, 1)[1] is found


def test_probabilities_of_all_images_sum_to_one():
  side, palette = 2, 3
  method = gray('image_gpt', side, palette)
  batch = {'views': (jnp.zeros((1, side, side, 1)),)}
  params, state = at_random(method, batch)
  colors = np.asarray(state.bn['encoder']['palette'])[:, 0]
  images = np.array(list(itertools.product(range(palette), repeat=side * side)))
  views = jnp.asarray(colors[images].reshape(-1, 1, side, side, 1))

  def log_probability(view):
    return -method.loss(params, state, {'views': (view,)}, KEY, STEP)[0] * side * side

  chances = np.exp(jax.jit(jax.vmap(log_probability))(views))
  assert chances.sum() == pytest.approx(1.0, rel=1e-5)
  count = 3000
  draw = jax.jit(lambda key: method.sample(params, state, key, None, Sampling(count, side)))
  shown = np.asarray(draw(KEY)).reshape(count, -1)
  order = np.abs(shown[..., None] - np.clip(colors * 0.25 + 0.5, 0, 1)).argmin(-1)
  which = order @ palette ** np.arange(side * side)[::-1]
  found = np.bincount(which, minlength=len(images)) / count
  # Five standard errors of each share.
  assert np.all(np.abs(found - chances) < 5 * np.sqrt(chances / count) + 1 / count)
  with pytest.raises(ValueError, match='draws images of 2 pixels'):
    method.sample(params, state, KEY, None, Sampling(count, 3))
  with pytest.raises(ValueError, match='without classes'):
    method.sample(params, state, KEY, jnp.zeros(3, jnp.int32), Sampling(count, side))


def test_at_first_every_color_is_as_probable():
  method = make('image_gpt', axis=None)
  batch = batch_of('image_gpt')
  params, state = jax.jit(method.init)(KEY, batch)
  value, aux = jax.jit(method.loss)(params, state, batch, KEY, STEP)
  # A sum of float32 over 2,048 pixels: found 6e-6.
  assert float(value) == pytest.approx(np.log(6), rel=3e-5)
  assert float(aux.metrics['bits_per_dim']) == pytest.approx(np.log2(6), rel=3e-5)


@pytest.mark.slow
def test_the_completed_picture_has_the_upper_half():
  """As `test_a_series_goes_on_after_its_first_half`, of images."""
  method = make('image_gpt', axis=None)
  batch = jax.tree.map(jnp.asarray, batch_of('image_gpt', rows=2))
  params, state = at_random(method, batch)
  shown = jax.jit(method.pictures)(params, state, batch, KEY)
  own = np.asarray(shown['output'])[:, : SIZE // 2]
  palette = np.asarray(state.bn['encoder']['palette'])
  tokens = nearest(palette, batch['views'][0])
  np.testing.assert_allclose(own, np.clip(palette[tokens], 0, 1)[:, : SIZE // 2], atol=1e-6)
  np.testing.assert_array_equal(shown['input'][:, : SIZE // 2], shown['image'][:, : SIZE // 2])


def test_what_is_asked_for_is_hidden_replaced_or_left():
  method = gray('masked_tokens', 8, 6, mask_ratio=0.5, treatment=(0.5, 0.3, 0.2))
  views = jnp.asarray(np.random.default_rng(0).normal(size=(300, 8, 8, 1)), jnp.float32)
  batch = hidden_from(method, views)
  asked, hidden = np.asarray(batch['asked']), np.asarray(batch['hidden'])
  replaced = np.asarray(batch['other']) >= 0
  assert np.all(asked.sum((1, 2)) == 32) and not np.any((hidden | replaced) & ~asked)
  assert not np.any(hidden & replaced) and batch['other'].max() == 5
  # 9,600 tokens: five standard errors of a share.
  error = 5 * 0.5 / np.sqrt(9600)
  assert hidden[asked].mean() == pytest.approx(0.5, abs=error)
  assert replaced[asked].mean() == pytest.approx(0.3, abs=error)
  np.testing.assert_array_equal(batch['views'][0], np.where(hidden[..., None], 0, views))


def test_only_what_is_asked_for_counts_and_hidden_tokens_are_not_seen():
  method = gray('masked_tokens', 4, 5, mask_ratio=0.5, treatment=(1.0, 0.0, 0.0))
  views = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 1)), jnp.float32)
  batch = hidden_from(method, views)
  params, state = at_random(method, batch)
  loss = jax.jit(lambda target: method.loss(params, state, batch | {'target': target}, KEY, STEP))
  value, aux = loss(views)
  inputs = {'encoder': {'tokens': nearest(state.bn['encoder']['palette'], views),
                        'hidden': batch['hidden']}}  # fmt: skip
  apply = jax.jit(functools.partial(method.net.apply, train=True))
  made, _ = apply(params, state.bn, views, inputs=inputs)
  logits = np.asarray(made['logits'], np.float64)
  chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  tokens = np.asarray(inputs['encoder']['tokens'])
  picked = np.take_along_axis(chances, tokens[..., None], -1)[..., 0]
  asked = np.asarray(batch['asked'])
  assert float(value) == pytest.approx(-picked[asked].mean(), rel=1e-5)
  right = (chances.argmax(-1) == tokens)[asked].mean()
  assert float(aux.metrics['masked_accuracy']) == pytest.approx(right, rel=1e-6)
  # Other colors at hidden places change the answer, and not what the network makes of the rest.
  other = loss(jnp.where(batch['hidden'][..., None], -views, views))[1]
  np.testing.assert_array_equal(other.embedding, aux.embedding)


def test_rectangles_mask_as_many_places_in_every_image():
  keys = jax.random.split(KEY, 200)
  mask = jax.jit(lambda keys: masking.block_masks(keys, 8, 10, 32, least=6, aspect=0.3))
  masks = np.asarray(mask(keys)).reshape(-1, 8, 10)
  assert np.all(masks.sum((1, 2)) == 32) and masks.any(0).all()
  # Neighbors of masked places are masked more often than places anywhere, 40 %.
  beside = masks[:, :, 1:][masks[:, :, :-1]].mean()
  assert beside > 0.65


def test_rectangles_lie_and_stand_and_lose_rows_on_either_side_alike():
  """Of one rectangle each, or of two where rounding made the first one too small."""
  keys = jax.random.split(KEY, 400)
  mask = jax.jit(lambda keys: masking.block_masks(keys, 14, 14, 16, least=16, aspect=0.3))
  masks = np.asarray(mask(keys)).reshape(-1, 14, 14)
  tall, wide = (masks.any(axis).sum(1) for axis in (2, 1))
  # Four standard errors of the difference of two shares of 400.
  assert abs((tall > wide).mean() - (wide > tall).mean()) < 0.2
  assert (wide > tall).mean() > 0.2
  # Half of them are one rectangle that was too large by less than a row.
  lost = (tall * wide > 16) & (tall * wide <= 16 + wide)
  rows = [own[own > 0] for own in masks[lost].sum(2)]
  upper, lower = (np.mean([own[end] < own.max() for own in rows]) for end in (0, -1))
  assert len(rows) > 150 and abs(upper - lower) < 0.3  # Four again, of 150 and more.


def borders(masks):
  """How many neighbors, one masked and one not, there are in each mask."""
  return sum(np.abs(np.diff(masks.astype(int), axis=axis)).sum((1, 2)) for axis in (1, 2))


def test_rectangles_are_those_of_beits_algorithm():
  """As long borders, on average, as masks that are drawn one rectangle after the other."""
  keys, rng, drawn = jax.random.split(KEY, 400), np.random.default_rng(0), []
  masks = jax.jit(lambda keys: masking.block_masks(keys, 14, 14, 75, least=16, aspect=0.3))(keys)
  for _ in range(400):
    mask = np.zeros((14, 14), bool)
    while mask.sum() < 75:
      area = rng.uniform(16, max(16, 75 - mask.sum()))
      ratio = np.exp(rng.uniform(np.log(0.3), -np.log(0.3)))
      tall, wide = (int(np.clip(round(side), 1, 14)) for side in (
        np.sqrt(area * ratio), np.sqrt(area / ratio)))  # fmt: skip
      top, left = rng.integers(15 - tall), rng.integers(15 - wide)
      before = mask.copy()
      mask[top : top + tall, left : left + wide] = True
    new = np.flatnonzero(mask & ~before)
    mask.ravel()[new[::-1][: mask.sum() - 75] if rng.random() < 0.5 else new[: mask.sum() - 75]] = 0
    drawn.append(mask)
  found, wanted = borders(np.asarray(masks).reshape(-1, 14, 14)), borders(np.array(drawn))
  # Four standard errors of the difference of two means of 400.
  assert abs(found.mean() - wanted.mean()) < 4 * np.sqrt((found.var() + wanted.var()) / 400)
  assert found.mean() < 45, 'scattered tokens have longer borders'


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'mask_ratio': 0.0}, 'mask_ratio=0.0'),
    ({'treatment': (0.8, 0.1)}, 'treatment='),
    ({'treatment': (0.8, 0.1, 0.2)}, 'treatment='),
    ({'treatment': (0.0, 0.0, 1.0)}, 'hide or replace some'),
    ({'least_block': -1}, 'least_block=-1'),
    ({'least_block': 60}, 'more than the 26'),
  ],
)
def test_settings_out_of_range(changes, said):
  with pytest.raises(ValueError, match=said):
    make('masked_tokens', axis=None, **changes)


def test_networks_that_do_not_suit():
  with pytest.raises(ValueError, match=r'encoder\.name one of image_gpt_micro, '):
    METHODS['image_gpt'](TinyEncoder, SETTING)
  with pytest.raises(ValueError, match=r'encoder\.name one of image_bert_micro, '):
    METHODS['masked_tokens'](lambda axis: ImageTransformer(Size(8, 1, 2), 3, 4), SETTING)
  method = gray('image_gpt', 4, 3)
  with pytest.raises(ValueError, match=r'4 x 4 pixels.*encoder\.grid'):
    jax.eval_shape(method.init, KEY, {'views': (jnp.zeros((1, 5, 5, 1)),)})
  masked = gray('masked_tokens', 4, 3)
  with pytest.raises(ValueError, match=r'4 x 4 pixels.*encoder\.grid'):
    masked.transform({'views': (jnp.zeros((1, 5, 5, 1)),)}, KEY, STEP)


def on_series(steps, channels, palette, side):
  def encoder(bn_axis, bn_groups=0):
    del bn_axis, bn_groups
    return ImageTransformer(Size(8, 1, 2), palette, side, series=(steps, channels))

  return METHODS['image_gpt'](encoder, SETTING)


def test_a_series_is_its_numbers_alone():
  """Likelihoods of all series sum to one; what fills the image up is not seen."""
  steps, channels, palette, side = 2, 2, 3, 3
  method = on_series(steps, channels, palette, side)
  batch = {'views': (jnp.zeros((1, side, side, 1)),)}
  params, state = at_random(method, batch)
  values = np.asarray(state.bn['encoder']['palette'])[:, 0]
  numbers = np.array(list(itertools.product(range(palette), repeat=steps * channels)))
  spare = np.random.default_rng(2).normal(size=(len(numbers), side**2 - 4))
  images = np.concatenate([values[numbers], spare], 1).reshape(-1, 1, side, side, 1)

  def log_probability(view):
    return -method.loss(params, state, {'views': (view,)}, KEY, STEP)[0] * steps * channels

  chances = np.exp(jax.jit(jax.vmap(log_probability))(jnp.asarray(images, jnp.float32)))
  assert chances.sum() == pytest.approx(1.0, rel=1e-5)
  made = jax.eval_shape(lambda x: method.net.apply(params, state.bn, x, train=False)[0], images[0])
  assert made['logits'].shape == (1, steps, channels, palette)


def test_a_series_goes_on_after_its_first_half():
  method = on_series(4, 3, 5, 4)
  batch = {'views': (jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 4, 1)), jnp.float32),)}
  params, state = at_random(method, batch)
  shown = jax.tree.map(np.asarray, jax.jit(method.pictures)(params, state, batch, KEY))
  palette = np.asarray(state.bn['encoder']['palette'])
  tokens = np.asarray(nearest(palette, batch['views'][0])).reshape(3, -1)
  known = np.clip(palette[tokens[:, :6], 0] * 0.25 + 0.5, 0, 1)
  np.testing.assert_allclose(shown['output'].reshape(3, -1)[:, :6], known, atol=1e-6)
  # The spare pixels are of no value: the middle of the scale.
  assert np.all(shown['output'].reshape(3, -1)[:, 12:] == 0.5)
  assert np.all(shown['input'].reshape(3, -1)[:, 6:] == 0.5)
  assert method.show(shown['output']).shape[-1] == 3
  with pytest.raises(ValueError, match='reads images, not series'):
    METHODS['masked_tokens'](
      lambda axis: ImageTransformer(Size(8, 1, 2), 5, 4, False, (4, 3)), SETTING
    )
