"""What a self-supervised method is: a few pure functions and the promises that they keep.

The train step, the loop, the evaluations and the checkpoints know nothing else about a method.
A linear probe is a method, too.

The contract, checked for every row of `byoljax.methods.METHODS`:

1. `loss` is this device's value; its mean over the devices is the objective. Terms that need the
   global batch use `collectives.all_gather` or `collectives.pmean`.
2. What comes back in `method_state` is identical on all devices.
3. `key` is the same on all devices and a function of (seed, step). Noise that differs between
   examples folds in the example's global position, so results do not depend on the device count.
4. Schedules are functions of the traced `step`; there is no Python branch on it.
5. `init` copies, it never aliases: the whole state is donated to the step.
6. Losses, moving averages and statistics are float32 whatever the compute dtype.
7. Queues and banks are written by `remember` alone, after the gradients: a memory that `loss` wrote
   while the backward pass may still read it would be copied in every step.
8. A method imports no other method, and reads `batch['label']` only if it is supervised.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from byoljax import streams
from byoljax.length import Length

PyTree = Any
Batch = dict[str, Any]
"""One device's part of a batch, b examples.

views: tuple of float32 [b, S, S, 3], normalized; sizes may differ between views.
index: int32 [b], position in the data set. label: int32 [b], -1 where unknown.
"""


class Aux(NamedTuple):
  """What `Method.loss` returns beside the loss.

  Attributes:
    method_state: the new method state, identical on all devices.
    metrics: scalars of this device; the step averages them over the devices.
    embedding: float32 [b, D], the encoder's output for view 0, for probes and collapse metrics.
    rows: what `Method.remember` writes into queues and banks, arrays identical on all devices.
  """

  method_state: PyTree
  metrics: dict[str, jax.Array]
  embedding: jax.Array
  rows: PyTree = ()


class Refresh(NamedTuple):
  """Rare work between two steps that needs the whole data set: clustering, say.

  It is a function of its arguments alone and happens before the step that it is due at, so that a
  resumed run repeats it exactly.

  Attributes:
    every: steps from one to the next; the first one is due before step 0.
    apply: (params, method_state, features, key, step) -> (params, method_state). Runs on the host,
      on every process alike. `features()` computes {tap: float32 [N, D]}, what `embed` gives for
      every training image, un-augmented, in the order of their index; it is slow, and not called
      unless it is needed. `key` is a function of (seed, step).
  """

  every: int
  apply: Callable[
    [PyTree, PyTree, Callable[[], dict[str, Any]], jax.Array, int], tuple[PyTree, PyTree]
  ]


class Method(NamedTuple):
  """A self-supervised method as pure functions; see the module's contract.

  Attributes:
    init: (key, batch) -> (params, method_state). `params` is a dict of roles ('encoder', ...).
    loss: (params, method_state, batch, key, step) -> (float32 scalar, Aux). Differentiated with
      respect to `params` only.
    post_step: (params, method_state, step) -> (params, method_state), after the optimizer.
    embed: (params, method_state, images [N, S, S, 3]) -> {tap: [N, D]}; evaluation mode, without
      collectives. The default tap is 'embedding'.
    groups: (params) -> tree of optimizer group names with the structure of `params`.
    refresh: rare work between steps, such as clustering; see `Refresh`.
    remember: (method_state, rows, finite) -> method_state, before `post_step`: writes the rows of a
      batch into queues and banks, unless the bool scalar `finite` says that its gradient was not.
      Micro-batches are written one after the other once the gradients of all are there.
    net: the `models.net.Net` whose parts `params` holds by role, from images on, the encoder first:
      evaluations read any of its taps; None for an encoder alone.
    memories: names, from the method state on, of arrays [N, D] whose rows devices may share: only
      read and written through `ops.memory`.
  """

  init: Callable[[jax.Array, Batch], tuple[PyTree, PyTree]]
  loss: Callable[[PyTree, PyTree, Batch, jax.Array, jax.Array], tuple[jax.Array, Aux]]
  post_step: Callable[[PyTree, PyTree, jax.Array], tuple[PyTree, PyTree]]
  embed: Callable[[PyTree, PyTree, jax.Array], dict[str, jax.Array]]
  groups: Callable[[PyTree], PyTree]
  refresh: Refresh | None = None
  remember: Callable[[PyTree, PyTree, jax.Array], PyTree] = lambda state, rows, finite: state
  net: Any = None
  memories: tuple[tuple[str, ...], ...] = ()


class Setting(NamedTuple):
  """What a method's builder may know about the run that it is built for.

  Attributes:
    total_steps: optimizer steps of the whole run; schedules end there.
    steps_per_epoch: optimizer steps in one pass over the data.
    batch_size: global batch B of one forward pass: of a micro-batch where gradients accumulate.
    accumulate: micro-batches per optimizer step.
    num_devices: how many devices share a batch.
    num_examples: size of the training set.
    num_classes: classes of the training set; 0 without labels.
    axis: the mapped axis, or None on a single device.
    dtype: compute type of the networks, 'float32' or 'bfloat16'.
    given: trained networks by name, `byoljax.encoders.encoder.Encoder`s: 'encoder', to start from
      or to put something on; 'teacher', a classifier to learn from.
  """

  total_steps: int
  steps_per_epoch: int = 1
  batch_size: int = 256
  accumulate: int = 1
  num_devices: int = 1
  num_examples: int = 0
  num_classes: int = 0
  axis: str | None = None
  dtype: str = 'float32'
  given: Mapping[str, Any] = MappingProxyType({})

  def steps(self, field: str, text: str) -> int:
    """The duration `text` ('2 epochs', '500 steps', '10 %') of the field in optimizer steps.

    Raises:
      ValueError: not a duration.
    """
    length = Length(self.batch_size * self.accumulate, self.steps_per_epoch, self.total_steps)
    return length.steps(field, text)


MakeEncoder = Callable[..., Any]
"""(bn_axis, bn_groups=0) -> encoder module: a method decides where its statistics are shared.

`bn_axis` is the mapped axis or None; `bn_groups` splits the global batch into that many groups with
statistics of their own, 0 keeps it whole.
"""


def default_groups(params: PyTree) -> PyTree:
  """Puts every parameter into the optimizer group 'default'."""
  return jax.tree.map(lambda _: 'default', params)


def evaluation_outputs(
  net: Any, *taps: str
) -> Callable[[PyTree, PyTree, jax.Array], dict[str, jax.Array]]:
  """The `embed` of a method whose running statistics are `method_state.bn`.

  Args:
    net: a `models.net.Net`.
    taps: names of its outputs, in its order; nothing after the last one is computed.
  """

  def embed(params: PyTree, method_state: PyTree, images: jax.Array) -> dict[str, jax.Array]:
    outputs, _ = net.apply(params, method_state.bn, images, train=False, upto=taps[-1])
    return {tap: outputs[tap] for tap in taps}

  return embed


def check_sizes(projector: Sequence[int], predictor: Sequence[int] = ()) -> None:
  """Raises ValueError unless the sizes of a projector and of its predictor, if any, make sense."""
  sizes = (*projector, *predictor)
  if not projector or min(sizes) < 1:
    raise ValueError(
      f'projector={tuple(projector)} and predictor={tuple(predictor)}: give at least an output '
      f'size of the projector, and sizes of at least 1, such as (2048, 256).'
    )
  if predictor and predictor[-1] != projector[-1]:
    raise ValueError(
      f'the predictor puts out {predictor[-1]} values but the projector {projector[-1]}: '
      f'the last numbers of both must be equal.'
    )


def check_groups(bn_groups: int, setting: Setting) -> None:
  """Raises ValueError unless the batch splits into groups of batch normalization, whole devices."""
  if bn_groups == 0:
    return
  batch, devices = setting.batch_size, setting.num_devices
  if bn_groups < 0 or bn_groups % devices or batch % bn_groups or batch // bn_groups < 2:
    raise ValueError(
      f'bn_groups={bn_groups} must be a multiple of the {devices} devices and split a batch of '
      f'{batch} into equal parts of at least 2; 0 shares statistics over the whole batch.'
    )


def keep(params: PyTree, method_state: PyTree, step: jax.Array) -> tuple[PyTree, PyTree]:
  """The `post_step` of a method that does nothing after the optimizer."""
  del step
  return params, method_state


def with_online_probe(
  method: Method,
  head_init: Callable[[jax.Array, jax.Array], PyTree],
  head_apply: Callable[[PyTree, jax.Array], jax.Array],
  probe_loss: Callable[[jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]],
) -> Method:
  """Adds a linear classifier that watches the embedding and never touches it.

  The probe sees the embedding of view 0 behind a stop-gradient, its parameters form the optimizer
  group 'probe', and its metrics are named 'probe/*'. The encoder's training is bit-equal with and
  without it, whatever the labels are.

  Args:
    method: the method to watch.
    head_init: (key, embedding [b, D]) -> head parameters.
    head_apply: (head parameters, embedding [b, D]) -> logits [b, C].
    probe_loss: (logits [b, C], labels int32 [b]) -> (scalar, metrics); labels of -1 do not count.

  Returns:
    The method with one more role, 'probe', in its parameters.
  """

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
    params, state = method.init(key, batch)
    embedding = method.embed(params, state, batch['views'][0])['embedding']
    return params | {'probe': head_init(jax.random.fold_in(key, streams.PROBE), embedding)}, state

  def loss(
    params: PyTree, state: PyTree, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    value, aux = method.loss(_without_probe(params), state, batch, key, step)
    logits = head_apply(params['probe'], jax.lax.stop_gradient(aux.embedding))
    probe_value, metrics = probe_loss(logits, batch['label'])
    named = {f'probe/{name}': metric for name, metric in metrics.items()}
    return value + probe_value, aux._replace(metrics=aux.metrics | named)

  def post_step(params: PyTree, state: PyTree, step: jax.Array) -> tuple[PyTree, PyTree]:
    inner, state = method.post_step(_without_probe(params), state, step)
    return inner | {'probe': params['probe']}, state

  def embed(params: PyTree, state: PyTree, images: jax.Array) -> dict[str, jax.Array]:
    return method.embed(_without_probe(params), state, images)

  def groups(params: PyTree) -> PyTree:
    probe = jax.tree.map(lambda _: 'probe', params['probe'])
    return method.groups(_without_probe(params)) | {'probe': probe}

  return method._replace(init=init, loss=loss, post_step=post_step, embed=embed, groups=groups)


def _without_probe(params: PyTree) -> PyTree:
  return {role: value for role, value in params.items() if role != 'probe'}


def embedding_size(method: Method, params: PyTree, state: PyTree, images: jax.Array) -> int:
  """The number D of embedding dimensions, found without computing anything."""
  shapes = jax.eval_shape(method.embed, params, state, images)
  return int(shapes['embedding'].shape[-1])
