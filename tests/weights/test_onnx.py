"""ONNX: the same numbers in another runtime, and one sentence where that cannot be."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from byoljax.encoders.classifier import Classifier, Origin
from byoljax.encoders.encoder import Preprocessing, random_encoder
from byoljax.ops import readouts
from byoljax.weights import exporting_classifier, onnx_file
from configs import base

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
IMAGE = jax.ShapeDtypeStruct((16, 16, 3), np.uint8)


def run(model, images):
  """Output of a model by the interpreter of the package onnx, which is slow and independent."""
  reference = pytest.importorskip('onnx.reference')
  return reference.ReferenceEvaluator(model).run(None, {'images': images})[0]


def network(x):
  """Every operation that has a translation of some length, in a few lines."""
  x = x.astype(jnp.float32) / 255
  kernel = np.linspace(-1, 1, 3 * 3 * 3 * 4, dtype=np.float32).reshape(3, 3, 3, 4)
  pads = ((0, 1), (1, 0))
  names = ('NHWC', 'HWIO', 'NHWC')
  x = jax.lax.conv_general_dilated(x, kernel, (2, 2), pads, dimension_numbers=names)
  x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 1, 1, 1), 'VALID')
  x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), 'SAME')
  tokens = jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, ::2].reshape(x.shape[0], -1, 4)
  first = jnp.broadcast_to(np.ones((1, 1, 4), np.float32), (x.shape[0], 1, 4))
  tokens = jnp.concatenate([first, jnp.stack([tokens, -tokens], 1)[:, 1, ::-1]], 1)
  share = jax.nn.softmax(jnp.einsum('bnc,bmc->bnm', tokens, tokens), -1)
  tokens = jax.nn.gelu(jnp.einsum('bnm,bmc->bnc', share, tokens), approximate=False)
  tokens = jnp.where(tokens > 0.1, jnp.cbrt(tokens), tokens**3)
  return (
    jax.nn.sigmoid(tokens[:, 0]) + tokens.mean(1) * jax.lax.rsqrt(tokens.var((1, 2)) + 1)[:, None]
  )


def test_operations():
  pytest.importorskip('onnx')
  model = onnx_file.model(network, IMAGE)
  for images in (IMAGES, IMAGES[:1]):
    # float32 in another order; five times the difference seen, 6e-7.
    np.testing.assert_allclose(run(model, images), network(jnp.asarray(images)), atol=3e-6)


@jax.custom_vjp
def doubled(x):
  return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, slope: (slope,))


def test_calls_are_what_they_call():
  """`encoder.remat`, `jax.jit` and rules for gradients change nothing about a value."""
  pytest.importorskip('onnx')

  def function(x):
    return jax.checkpoint(lambda y: jax.jit(jax.nn.relu)(doubled(y)) + 1)(x.mean((1, 2)))

  # Sums of 256 numbers up to 255 in another order: as in `test_operations`, relative.
  np.testing.assert_allclose(
    run(onnx_file.model(function, IMAGE), IMAGES), function(jnp.asarray(IMAGES)), rtol=3e-6
  )


@pytest.mark.parametrize('kind', ['linear', 'neighbors'])
def test_classifiers(kind, tmp_path):
  pytest.importorskip('onnx')
  rng = np.random.default_rng(1)
  encoder = random_encoder({'name': 'pixels'}, Preprocessing((0.5,) * 3, (0.25,) * 3, 16), 0)
  dim = 16 * 16 * 3
  readout = readouts.Linear(
    rng.normal(size=(dim, 4)).astype(np.float32) / 30, np.zeros(4, np.float32), unit=True
  )
  if kind == 'neighbors':
    bank = np.asarray(encoder(rng.integers(0, 256, (9, 16, 16, 3)).astype(np.uint8)))
    readout = readouts.neighbors(bank, np.arange(9) % 4, classes=4, k=5)
  made = Classifier(encoder, readout, ('a', 'b', 'c', 'd'), 0.7, {}, Origin({}, 'online'))
  card = tmp_path / 'README.md'
  card.write_text('import safetensors.torch')
  exporting_classifier.write(made, tmp_path)
  exporting_classifier.write_onnx(made, tmp_path)
  assert "InferenceSession('classifier.onnx')" in card.read_text()
  assert ("features @ head['weight'].T" in card.read_text()) == (kind == 'linear')
  found = run((tmp_path / 'classifier.onnx').read_bytes(), IMAGES)
  np.testing.assert_allclose(found, made.predict(IMAGES), atol=2e-6)  # as above
  if kind == 'linear':  # By the card's formula for PyTorch, which is NumPy's but for the names.
    head, features = load_file(tmp_path / 'classifier.safetensors'), np.asarray(encoder(IMAGES))
    features = features / (np.linalg.norm(features, axis=1, keepdims=True) + 1e-5)
    logits = (features @ head['weight'].T + head['bias']) / made.temperature
    np.testing.assert_allclose(jax.nn.softmax(logits), made.predict(IMAGES), atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'options', 'side'),
  [('small', {}, 32), ('resnet18', {'stem': 'cifar'}, 32), ('vit_micro', {}, 32),
   ('dinov2_micro_reg', {}, 28), ('convnext_micro', {}, 32), ('nin', {}, 32)],
)  # fmt: skip
def test_networks_in_onnxruntime(name, options, side):
  runtime = pytest.importorskip('onnxruntime')
  pytest.importorskip('onnx')
  fields = {**base.get_config().encoder.to_dict(), 'name': name, **options}
  encoder = random_encoder(fields, Preprocessing((0.5,) * 3, (0.25,) * 3, side), 0)
  images = np.random.default_rng(0).integers(0, 256, (3, side, side, 3)).astype(np.uint8)
  model = onnx_file.model(
    lambda x: encoder.apply(encoder.params, encoder.bn, x), encoder.preprocessing.image
  )
  due = np.asarray(encoder(images))
  session = runtime.InferenceSession(model, providers=['CPUExecutionProvider'])
  (found,) = session.run(None, {'images': images})
  # Ten times what was seen, relative to the largest.
  np.testing.assert_allclose(found, due, atol=1e-5 * max(1.0, float(np.abs(due).max())))


def test_without_the_package(monkeypatch):
  monkeypatch.setitem(sys.modules, 'onnx', None)
  with pytest.raises(ValueError, match=r"pip install 'byoljax\[onnx\]'"):
    onnx_file.model(network, IMAGE)


def test_what_has_no_translation_is_named():
  pytest.importorskip('onnx')
  twice = lambda x: jax.lax.fori_loop(0, 3, lambda _, y: 2 * y, x)  # noqa: E731
  cases = ((lambda x: jnp.sort(x, 1), 'sort'), (lambda x: x[::-1], 'rev'), (twice, 'scan'))
  for function, name in cases:
    with pytest.raises(ValueError, match=name):
      onnx_file.model(function, IMAGE)
