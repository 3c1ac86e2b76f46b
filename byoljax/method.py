"""What a method is: a few pure functions and the promises that they keep.

The train step, the loop, the evaluations and the checkpoints know nothing else about a method. A
linear probe and fine-tuning are methods, too.

In a step, `byoljax.step` calls, per device and in this order:

    batch = transform(augment(batch, step), key, step)
    value, aux = loss(params, method_state, batch, key, step)    # differentiated in params
    method_state = remember(aux.method_state, aux.rows, finite)
    params, method_state, metrics = post_step(params, method_state, step)    # after the optimizer

The contract, checked for every row of `byoljax.methods.METHODS`:

1. `loss` is this device's value; its mean over the devices is the objective. Terms that need the
   global batch use `collectives.all_gather` or `collectives.pmean`.
2. What comes back in `method_state` is identical on all devices.
3. `key` is the same on all devices and a function of (seed, step). Draws that differ between
   examples fold in the example's global position (`collectives.positions`), so that results do not
   depend on the number of devices. A key is folded with one of `byoljax.streams` first.
4. Schedules are functions of the traced `step`; there is no Python branch on it.
5. `init` copies, it never aliases: the whole state is donated to the step.
6. Losses, moving averages and statistics are float32 whatever the compute dtype.
7. Queues and banks are written by `remember` alone, after the gradients: a memory that `loss` wrote
   while the backward pass may still read it would be copied in every step.
8. A method imports no other method, and reads `batch['label']` only if it is supervised.
9. Networks are found in the TrainState where `NETWORKS` says.

Metrics are float32 scalars by name. The loop, the progress line and the curves rely on three:

- 'loss' is added by the step: the mean over the devices of what `loss` returned, with phases the
  sum of theirs. Where a metric of `loss` has this name, that one is shown: a linear probe with
  several heads shows its best head's.
- 'grad_norm' is added by the step: the L2 norm of the objective's gradient, all parameters together
  but the online probe's, before clipping. A step is finite if this is.
- 'tau' comes from `post_step` where a target moves: the weight of the old target in this step.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byoljax.devices import collectives
from byoljax.length import Length
from byoljax.ops.sampling import Sampling

PyTree = Any
Batch = dict[str, Any]
"""One device's part of a batch, b examples.

views: tuple of float32 [b, H, W, C], normalized; sizes may differ between views.
index: int32 [b], position in the data set.
epoch: int32 [b], how often the example's source was passed through before: a function of the step.
drawn: tuple of float32 [b, 12], the parameters of every view's augmentation (`data.augment.drawn`).
label: int32 [b], -1 where unknown, or [b, classes] where an image has several.
pretext_label: int32 [n * b], by `Method.transform`: what a pretext task asks; previews show it.
Further fields of the source by name, aligned with the views, as the method asks for them.
"""

NETWORKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
  'online': (('params',), ('method_state', 'bn')),
  'target': (('method_state', 'target_params'), ('method_state', 'target_bn')),
}
"""Where a network is found in a TrainState: paths to its parameters and to its running statistics.

Both are dicts with the roles of `Method.net` on top ('encoder' first; statistics may be empty). A
target has some of the online roles, 'encoder' among them, with the same structure and shapes; a
method without one lacks the fields, or they are None or empty. Checkpoints, evaluations and the
distribution of the state over devices rely on this.
"""


class Aux(NamedTuple):
  """What `Method.loss` returns beside the loss.

  Attributes:
    method_state: the new method state, identical on all devices.
    metrics: float32 scalars of this device by name; the step averages them over the devices and
      micro-batches.
    embedding: float32 [b, D], the encoder's output for view 0, for the online probe and the
      collapse metrics.
    rows: what `Method.remember` writes into queues and banks, arrays identical on all devices.
    others: float32 [b, D], the same of views 1, 2, ...: with `embedding` what a part beside the
      method learns from, through which its gradient reaches the encoder. See `encodes_all_views`.
    compared: what `Method.compare` takes, arrays [b, ...].
  """

  method_state: PyTree
  metrics: dict[str, jax.Array]
  embedding: jax.Array
  rows: PyTree = ()
  others: tuple[jax.Array, ...] = ()
  compared: PyTree = ()


Loss = Callable[[PyTree, PyTree, Batch, jax.Array, jax.Array], tuple[jax.Array, Aux]]
"""(params, method_state, batch, key, step) -> (float32 scalar, Aux)."""


Compare = Callable[[PyTree, PyTree, jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
"""(outputs to compare, method_state, key, step) -> (float32 scalar, metrics)."""
COTANGENTS = 'cotangents'


def comparison(
  compare: Compare, compared: PyTree, state: PyTree, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """`compare`, as the `loss` of a method that has it calls it.

  With micro-batches the step compares the outputs of all, and hands each its part of the gradient,
  `batch['cotangents']`: the loss is then their inner product (Gao et al. 2021, arXiv 2101.06983).
  Where this is None, only the outputs are wanted.
  """
  if COTANGENTS not in batch:
    return compare(compared, state, key, step)
  given = batch[COTANGENTS]
  if given is None:
    return jnp.zeros((), jnp.float32), {}
  products = jax.tree.map(lambda x, g: jnp.sum(x * g), compared, given)
  return sum(jax.tree.leaves(products), jnp.zeros((), jnp.float32)), {}


class Phase(NamedTuple):
  """One of several updates within a step: of a discriminator, say, and then of a generator.

  Phases follow each other on the same batch: each differentiates its own loss with respect to its
  own roles, has an optimizer state of its own, and sees the parameters and the method state that
  the phases before it left.

  Attributes:
    loss: as `Method.loss`; it gets the parameters of all roles. Of the first phase's Aux the
      embedding and the rows count, of every one's the method state and the metrics.
    roles: the names in `params` that it trains. No two phases train the same; a role that none
      trains never changes.
  """

  loss: Loss
  roles: tuple[str, ...]


class Refresh(NamedTuple):
  """Rare work between two steps that needs the whole data set, such as clustering.

  It is a function of its arguments alone and happens before the step that it is due at, so that a
  resumed run repeats it exactly.

  Attributes:
    every: steps from one to the next; the first one is due before step 0.
    apply: (params, method_state, features, key, step) -> (params, method_state). Runs on the host,
      on every process alike, with replicated arrays. `features()` computes {tap: float32 [N, D]},
      what `embed` gives for every training image, un-augmented, in the order of their index; it is
      slow, and not called unless it is needed. `key` is a function of (seed, step).
    embed: as `Method.embed`; None: that of the method.
    rows: of how many images, spread evenly over the training set, `features` tells; 0: of all.
    initial: whether it makes initial values of the network, before step 0 and never again. A run
      that starts from given weights goes without it: it would replace them.
  """

  every: int
  apply: Callable[
    [PyTree, PyTree, Callable[[], dict[str, Any]], jax.Array, int], tuple[PyTree, PyTree]
  ]
  embed: Callable[[PyTree, PyTree, jax.Array], dict[str, jax.Array]] | None = None
  rows: int = 0
  initial: bool = False


def same_batch(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
  """The `transform` of a method that trains on the augmented views as they are."""
  del key, step
  return batch


def transformed(method: 'Method', batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
  """`method.transform` outside of a mapped step, as on a single device: for shapes and previews."""

  def one(batch: Batch) -> Batch:
    return method.transform(batch, key, step)

  alone = jax.tree.map(lambda x: x[None], batch)
  return jax.tree.map(lambda x: x[0], jax.vmap(one, axis_name=collectives.AXIS)(alone))


def keep(
  params: PyTree, method_state: PyTree, step: jax.Array
) -> tuple[PyTree, PyTree, dict[str, jax.Array]]:
  """The `post_step` of a method that does nothing after the optimizer."""
  del step
  return params, method_state, {}


def remember_nothing(method_state: PyTree, rows: PyTree, finite: jax.Array) -> PyTree:
  """The `remember` of a method without queues and banks."""
  del rows, finite
  return method_state


class Target(NamedTuple):
  """Where a network that follows the online one is found in the method state.

  Attributes:
    params: path of its parameters, a dict of roles.
    bn: path of its running statistics, by role.
    prefix: what its roles are called by in `params`, but for the encoder's: 'pair_' of 'projector'
      where the online one is 'pair_projector'.
  """

  params: tuple[str, ...] = NETWORKS['target'][0][1:]
  bn: tuple[str, ...] = NETWORKS['target'][1][1:]
  prefix: str = ''

  def online(self, role: str) -> str:
    """What one of its roles is called in `params`."""
    return role if role == 'encoder' else self.prefix + role


class Transforms(NamedTuple):
  """Whole images in all the ways that a pretext task tells apart: its output 'logits' says which.

  Attributes:
    count: K, the number of ways.
    apply: (images [b, H, W, C], way, an int32 scalar in [0, K)) -> images of the same shape.
  """

  count: int
  apply: Callable[[jax.Array, jax.Array], jax.Array]


Pictures = Callable[[PyTree, PyTree, Batch, jax.Array], dict[str, jax.Array]]
"""(params, method_state, batch, key) -> what is shown of images, in this order, by name.

Each float32 [b, H, W, 3], or [b, H, W, 1] in gray, in [0, 1]. 'output' is compared with 'target',
or with 'image' where there is no target; 'input' is what was left to the network. The batch is not
augmented and not transformed: whole images in `views[0]`, normalized, with the further fields of
the source that the method asks for, each a tuple of one. Evaluation mode, on one device, without
collectives.
"""


Sample = Callable[[PyTree, PyTree, jax.Array, jax.Array | None, Sampling], jax.Array]
"""(params, method_state, key, condition, sampling) -> new images, float32 [n, H, W, C] in [0, 1].

`condition`: int32 [n], the class of each; None for any. A function of the key alone: each image has
draws of its own, that do not depend on how many there are. Evaluation mode, on one device, without
collectives. Raises ValueError where there is a condition and the method knows none.
"""


Bits = Callable[[PyTree, PyTree, Batch], jax.Array]
"""(params, method_state, batch) -> bits per dimension of each image, float32 [b].

-log2 of an image's probability by its dimensions, as the method counts these: numbers, colors of
a palette, or codes. The batch as for `Pictures`, with the label. Evaluation mode, on one device,
without collectives.
"""


Decode = Callable[[PyTree, PyTree, jax.Array], jax.Array]
"""(params, running statistics, codes int32 [b, h, w]) -> images, float32 [b, H, W, C] in [0, 1].

Of a codec: what its decoder makes of codes, in evaluation mode, on one device, without collectives.
"""


class Method(NamedTuple):
  """A method as pure functions; see the module's contract.

  Attributes:
    init: (key, batch) -> (params, method_state). `params` is a dict of roles ('encoder', ...);
      `batch` is augmented and transformed, and only its shapes matter.
    loss: see `Loss`. Differentiated with respect to `params` only. Not called where there are
      `phases`.
    post_step: (params, method_state, step) -> (params, method_state, metrics), after the optimizer;
      `step` counts the steps before this one. The metrics are equal on all devices.
    embed: (params, method_state, images [N, H, W, C]) -> {tap: [N, D]}; evaluation mode, without
      collectives. The default tap is 'embedding'.
    groups: (params) -> tree of optimizer group names with the structure of `params`. With phases,
      roles of other phases come empty.
    refresh: rare work between steps, such as clustering; see `Refresh`.
    remember: (method_state, rows, finite) -> method_state, before `post_step`: writes the rows of a
      batch into queues and banks, unless the bool scalar `finite` says that its gradient was not.
      Micro-batches are written one after the other once the gradients of all are there.
    net: the `models.net.Net` whose parts `params` holds by role, from images on, the encoder first:
      evaluations read any of its taps; None for an encoder alone.
    memories: names, from the method state on, of arrays [N, D] whose rows devices may share: only
      read and written through `ops.memory`.
    targets: networks that follow the online one, which devices may share and a warm start begins
      with the same weights. The state of a method without one lacks them, or they are empty.
    transform: (batch, key, step) -> batch, after the augmentation: what the network really sees,
      such as tiles, turns or masks, and labels that are made from the key. Previews show it.
    phases: updates that alternate within a step, see `Phase`; () for the single one of `loss`.
    starts: beginning of a path in `params`, such as 'projector/last', -> step from which on the
      optimizer sees the parameters there; until then they keep every bit.
    transforms: of whole images, where telling them apart is the task; see `Transforms`. How well
      that succeeds on an image says how much it is like the training images.
    encodes_all_views: whether the trained encoder sees every view: then `Aux.others` is complete.
    only_encodes_views: whether the method does nothing with views but encode them: then patches can
      be left out of them, see `methods.dropped_tokens`.
    compare: (compared of the whole batch, method_state, key, step) -> (this device's loss,
      metrics): of a method whose loss compares images, what it is of the outputs in
      `Aux.compared`; see `comparison`. With micro-batches the loss is then that of the batch.
    notes: what a user should know about this method on these data, one sentence each: they go into
      the log (`byoljax.methods.notes`).
    pictures: see `Pictures`; None where there is nothing to look at.
    bits: see `Bits`; None where images have no probability.
    show: images [b, H, W, C] in [0, 1] -> pictures of them [b, h, w, 1 or 3], where their numbers
      are none: series as curves. On the host. None: they are what they look like.
    decode: see `Decode`; None where there are no codes.
    sample: see `Sample`; None where no new images can be drawn.
    classifies: the network, 'online' or 'target', whose role 'head', a `heads.LinearHead` on the
      embedding, tells the classes of the data apart; '' where none does. Runs test it and keep it
      as a classifier.
    streams: how many parts of the data it looks for in each batch, in the shares `Setting.shares`;
      one that looks for a single part may still be given several, but not by `data.labels`.
  """

  init: Callable[[jax.Array, Batch], tuple[PyTree, PyTree]]
  loss: Loss
  post_step: Callable[[PyTree, PyTree, jax.Array], tuple[PyTree, PyTree, dict[str, jax.Array]]]
  embed: Callable[[PyTree, PyTree, jax.Array], dict[str, jax.Array]]
  groups: Callable[[PyTree], PyTree]
  refresh: Refresh | None = None
  remember: Callable[[PyTree, PyTree, jax.Array], PyTree] = remember_nothing
  net: Any = None
  memories: tuple[tuple[str, ...], ...] = ()
  targets: tuple[Target, ...] = (Target(),)
  transform: Callable[[Batch, jax.Array, jax.Array], Batch] = same_batch
  phases: tuple[Phase, ...] = ()
  starts: Mapping[str, int] = MappingProxyType({})
  transforms: Transforms | None = None
  encodes_all_views: bool = False
  only_encodes_views: bool = False
  compare: Compare | None = None
  notes: tuple[str, ...] = ()
  pictures: Pictures | None = None
  sample: Sample | None = None
  decode: Decode | None = None
  bits: Bits | None = None
  show: Callable[[Any], Any] | None = None
  classifies: str = ''
  streams: int = 1


class Setting(NamedTuple):
  """What a method's builder may know about the run that it is built for.

  Attributes:
    length: of the run; schedules end with it.
    accumulate: micro-batches per optimizer step.
    num_devices: how many devices share a batch.
    num_examples: size of the training set.
    num_classes: classes of the training set; 0 without labels.
    axis: the mapped axis, or None on a single device.
    dtype: compute type of the networks, 'float32' or 'bfloat16'.
    given: trained networks by name, `byoljax.encoders.encoder.Encoder`s: 'encoder', to start from
      or to put something on; 'teacher', a classifier to learn from; 'codec', an
      `encoders.codec.Codec`; 'perceptual', an `encoders.perceptual.FeatureNet`.
    mean: of the images in [0, 1], per channel; views come with it subtracted.
    std: per channel; views come divided by it.
    shares: rows of each part of the data in a unit of a batch, see `data.batches.order.MixedOrder`;
      one number where there is one part.
    views: settings of the views, `data.augment.views.ViewSpec`s; () of a stored run's method.
  """

  length: Length
  accumulate: int = 1
  num_devices: int = 1
  num_examples: int = 0
  num_classes: int = 0
  axis: str | None = None
  dtype: str = 'float32'
  given: Mapping[str, Any] = MappingProxyType({})
  mean: tuple[float, ...] = (0.0, 0.0, 0.0)
  std: tuple[float, ...] = (1.0, 1.0, 1.0)
  shares: tuple[int, ...] = (1,)
  views: tuple[Any, ...] = ()

  @property
  def micro_batch_size(self) -> int:
    """Examples of one forward pass, over all devices."""
    return self.length.batch_size // self.accumulate


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
