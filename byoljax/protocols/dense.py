"""Training and testing of a head with an output at every pixel, on an encoder or with it."""

from collections.abc import Callable
import dataclasses
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byoljax.config import user_errors
from byoljax.data.batches import whole
from byoljax.data.sources.source import Source
from byoljax.devices import mapping
from byoljax.encoders.dense import DEPTH, SEGMENTATION, DenseModel, Design
from byoljax.encoders.encoder import Encoder, network
from byoljax.method import MakeEncoder, Method, Setting
from byoljax.methods.supervised import depth, segmentation
from byoljax.protocols import dense_evaluation, sweep, training
from byoljax.protocols.dense_protocol import FROZEN, KINDS, DenseData, DenseProtocol
from byoljax.protocols.sweep import Held
from byoljax.train.record import Logging
from byoljax.train.run import Run
from byoljax.workdir.run_dir import say


class TrainedDense(NamedTuple):
  """What training leaves.

  Attributes:
    result: its numbers.
    model: the network that was tested.
  """

  result: dict[str, Any]
  model: DenseModel


def fit(
  kind: str,
  encoder: Encoder,
  data: DenseData,
  protocol: DenseProtocol,
  mode: str,
  *,
  logging: Logging,
  workdir: pathlib.Path | None = None,
) -> TrainedDense:
  """Trains on `data.data.train` and tests the network of the last step, once.

  With several learning rates each is trained on the training images less a part, and scored on that
  part; the best is then trained on all of them.

  Args:
    kind: a key of `KINDS`.
    encoder: where it starts; a random one trains from scratch.
    data: see `DenseData`.
    protocol: see `DenseProtocol`.
    mode: 'frozen' or 'finetuned'.
    logging: see `train.record.Logging`.
    workdir: where the runs can be resumed; None keeps them in memory.

  Returns:
    Results of the metric with 'base_lr', 'sweep' with its 'held_out', numbers of examples and, of
    classes, the 'iou' of each. None is what is not known, as of a rate that diverged.

  Raises:
    Stopped: the process was asked to stop; in a directory everything is saved.
    ConfigError: a protocol that does not fit the data.
  """
  encoder = _dilated(encoder, protocol.output_stride)
  design = _design(encoder, data, protocol)
  train, made = data.data.train, list[Held]()
  if len(protocol.rates) > 1:
    held_out, rest = training.hold_out(train, protocol.held_out, protocol.seed)

    def tried(number: int, home: pathlib.Path | None) -> Held:
      rate = protocol.rates[number]
      run = _run(kind, encoder, data, rest, protocol, mode, rate, logging)
      return _held_out(kind, run, design, held_out, data, rate, logging, home)

    made = sweep.run(workdir, [{'base_lr': rate} for rate in protocol.rates], tried)
  rate = protocol.rates[sweep.best(made)]
  run = _run(kind, encoder, data, train, protocol, mode, rate, logging)
  state = training.train(run, workdir, logging)
  params, bn = mapping.fetch((dict(state.params), dict(state.method_state.bn)))
  scores, ious = dense_evaluation.evaluate(
    kind, design, params, bn, data.data.test, data.field, data.data.batch_size
  )
  result = {
    # JSON knows neither NaN nor infinity.
    **{name: value if math.isfinite(value) else None for name, value in scores.items()},
    'base_lr': rate,
    'sweep': [
      {
        'base_lr': each,
        'held_out': None if held.score is None else KINDS[kind].sign * held.score,
      }
      for each, held in zip(protocol.rates, made, strict=False)
    ],
    'train_examples': train.size,
    'test_examples': data.data.test.size,
    'steps': run.length.total_steps,
    'batch_size': run.length.batch_size,
  }
  if ious:
    # What occurs nowhere has none.
    known = {name: value for name, value in zip(data.classes, ious, strict=True) if value == value}
    result['iou'] = known
  return TrainedDense(result, DenseModel(kind, design, params, bn, data.classes, {}))


def check(
  encoder: Encoder, data: DenseData, protocol: DenseProtocol, logging: Logging, where: str
) -> None:
  """Checks a protocol against the data and the network before anything is computed or written.

  Args:
    encoder: as for `fit`.
    data: see `DenseData`.
    protocol: see `DenseProtocol`.
    logging: see `Logging`.
    where: the protocol's fields in the configuration, for messages.

  Raises:
    ConfigError: what `fit` would raise about it.
  """
  protocol.check(where)
  with user_errors(where):
    encoder = _dilated(encoder, protocol.output_stride)
    example = encoder.preprocessing._replace(image_size=data.data.image_size).example()
    design = _design(encoder, data, protocol)
    net = design.net

    def outputs() -> dict[str, jax.Array]:
      params, bn = net.init(jax.random.key(0), example)
      image = jnp.zeros(example.shape, example.dtype)
      return net.apply(params, bn, image, train=False, inputs={'head': {'image': image}})[0]

    jax.eval_shape(outputs)
  trained, tested = [data.data.train], [data.data.test]
  if len(protocol.rates) > 1:
    held_out, rest = training.hold_out(data.data.train, protocol.held_out, protocol.seed)
    trained, tested = [*trained, rest], [*tested, held_out]
  for source in tested:
    _check_sizes(source, design, where)
  for source in trained:
    _set_up(source, data, protocol, next(iter(protocol.rates)), logging, where)


def _check_sizes(source: Source, design: Design, where: str) -> None:
  """Checks that the network takes whole images of a source, the smallest and the largest ones.

  Raises:
    ConfigError: it does not.
  """
  with user_errors(where):
    multiple, least = design.sides
    sizes = [each[:2] for each in whole.groups(source, multiple=multiple, least=least)]
  example = design.preprocessing.example()
  params, bn = jax.eval_shape(design.net.init, jax.random.key(0), example)
  for size in dict.fromkeys((min(sizes, key=min), max(sizes, key=math.prod))):
    image = jax.ShapeDtypeStruct((1, *size, example.shape[-1]), jnp.float32)
    with user_errors(f'{where}: images of {source.name} at {size[0]} x {size[1]} pixels'):
      inside = jax.ShapeDtypeStruct(image.shape[:3], bool)
      jax.eval_shape(design.outputs, params, bn, image, inside)


def _dilated(encoder: Encoder, output_stride: int) -> Encoder:
  """The encoder with a larger last map; 0 leaves it as it is.

  Raises:
    ValueError: it is no ResNet.
  """
  if not output_stride:
    return encoder
  fields = {**encoder.fields, 'output_stride': output_stride}
  if not str(fields.get('name', '')).startswith('resnet'):
    name = fields.get('name', 'another module')
    raise ValueError(
      f'output_stride={output_stride} dilates ResNets of ours, and this encoder is {name!r}: '
      'set it to 0, as the recipes :linear and :small do.'
    )
  return dataclasses.replace(encoder, net=network(fields, encoder.preprocessing), fields=fields)


def _design(encoder: Encoder, data: DenseData, protocol: DenseProtocol) -> Design:
  """What the trained network is made of."""
  size = data.data.image_size
  fields = dict(encoder.fields)
  return Design(
    tuple(sorted(fields.items())) if fields else encoder.net.parts[0][2],
    encoder.preprocessing._replace(
      mean=tuple(data.data.mean), std=tuple(data.data.std), image_size=size
    ),
    protocol.options,
    data.channels,
    size if protocol.evaluation == 'windows' else 0,
    protocol.multiple,
    protocol.reduce,
  )


def _held_out(
  kind: str,
  run: Run,
  design: Design,
  held_out: Source,
  data: DenseData,
  rate: float,
  logging: Logging,
  home: pathlib.Path | None,
) -> Held:
  """One rate on held-out images."""
  what = KINDS[kind]
  state = training.train(run, home, logging)
  params, bn = mapping.fetch((dict(state.params), dict(state.method_state.bn)))
  scores, _ = dense_evaluation.evaluate(
    kind, design, params, bn, held_out, data.field, data.data.batch_size
  )
  title, form = what.results[what.headline]
  say(f'base_lr {rate:g}: {title} {form.format(scores[what.headline])} of held-out images')
  return Held(what.sign * scores[what.headline])


def _set_up(
  source: Source,
  data: DenseData,
  protocol: DenseProtocol,
  rate: float,
  logging: Logging,
  where: str,
) -> training.Setup:
  """How one rate is trained."""
  optim = {**protocol.optim, 'base_lr': rate}
  if protocol.head_lr != 1.0:
    own = {'base_lr': protocol.head_lr * rate}
    optim['groups'] = {**optim.get('groups', {}), 'head': own}
  low, high = (scale / protocol.reduce for scale in protocol.zoom)
  return training.set_up(
    source,
    data.data,
    optimizer=optim,
    length=protocol.length,
    batch_size=protocol.batch_size,
    crop_scale=(1.0, 1.0),
    zoom=(low, high),
    logging=logging,
    where=where,
  )


def _run(
  kind: str,
  encoder: Encoder,
  data: DenseData,
  source: Source,
  protocol: DenseProtocol,
  mode: str,
  rate: float,
  logging: Logging,
) -> Run:
  """The training of one rate."""

  def method(setting: Setting) -> Method:
    shared: dict[str, Any] = {
      'frozen': mode == FROZEN,
      'batch_norm': protocol.batch_norm,
      'head': protocol.head,
      'taps': protocol.taps,
      'width': protocol.width,
    }
    return _BUILD[kind](encoder.make_encoder, setting, data, protocol, shared)

  return training.classifier_run(
    source,
    data.data,
    method,
    _set_up(source, data, protocol, rate, logging, 'train'),
    encoder=encoder,
    seed=protocol.seed,
    fields=(data.field,),
  )


def _segmentation(
  make: MakeEncoder, setting: Setting, data: DenseData, protocol: DenseProtocol, shared: Any
) -> Method:
  del protocol
  return segmentation.build(make, setting, classes=data.channels, mask=data.field, **shared)


def _depth(
  make: MakeEncoder, setting: Setting, data: DenseData, protocol: DenseProtocol, shared: Any
) -> Method:
  own = {'depth': data.field, 'mean_depth': data.mean_depth, 'up_channels': protocol.up_channels}
  return depth.build(make, setting, **own, **shared)


_BUILD: dict[str, Callable[..., Method]] = {SEGMENTATION: _segmentation, DEPTH: _depth}
