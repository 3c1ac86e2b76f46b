"""What a network begins with: a fixed stage that turns normalized images into its own input.

Part of the network, so pretraining, evaluations and exports all start from the same images,
normalized with the data's mean and standard deviation. Inputs that are defined on RGB in [0, 1]
undo that normalization first. There are no parameters.

    rgb        the images as they are, whatever number of channels they have
    gray       luma (BT.601), normalized as the data are on average; 1 channel
    lightness  CIE L* / 50 - 1, in [-1, 1]; 1 channel
    ab         CIE a* and b* / 110, about [-1, 1]; 2 channels (colorization, Zhang et al.)
    lab        lightness and ab; 3 channels
    sobel      the gradient of the mean over the normalized channels, across and down; 2 channels

Two further inputs split a network into two of half its width that share nothing (`models.halves`):

    lab_halves   one sees the lightness, the other one ab
    rgbd_halves  one sees RGB, the other one the fourth channel, a depth

'sobel' is DeepCluster's published input (Caron et al., arXiv 1807.05520, and its code): the plain
mean of the three normalized channels, Sobel's 3x3 filters, zeros outside of the image.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from byoljax.ops import color


class Input(NamedTuple):
  """One kind of input.

  Attributes:
    channels: of the images it is defined for; () for any number.
    apply: (normalized images float32 [b,H,W,C], mean [1,1,1,C], std) -> float32 [b,H,W,C'].
  """

  channels: tuple[int, ...]
  apply: Callable[[jax.Array, np.ndarray, np.ndarray], jax.Array]


def _gray(x: jax.Array, mean: np.ndarray, std: np.ndarray) -> jax.Array:
  if x.shape[-1] == 1:
    return x
  center, spread = (np.float32(np.dot(values.ravel(), color.LUMA)) for values in (mean, std))
  return (color.luma(x * std + mean) - center) / spread


def _lightness(x: jax.Array, mean: np.ndarray, std: np.ndarray) -> jax.Array:
  return color.rgb_to_lab(x * std + mean)[..., :1] / 50.0 - 1.0


def _ab(x: jax.Array, mean: np.ndarray, std: np.ndarray) -> jax.Array:
  return color.rgb_to_lab(x * std + mean)[..., 1:] / 110.0


def _lab(x: jax.Array, mean: np.ndarray, std: np.ndarray) -> jax.Array:
  lab = color.rgb_to_lab(x * std + mean)
  return jnp.concatenate([lab[..., :1] / 50.0 - 1.0, lab[..., 1:] / 110.0], axis=-1)


def _sobel(x: jax.Array, mean: np.ndarray, std: np.ndarray) -> jax.Array:
  del mean, std
  gray = jnp.pad(jnp.mean(x, axis=-1), ((0, 0), (1, 1), (1, 1)))
  # The filters are separable: [1, 2, 1] along one axis, [1, 0, -1] along the other.
  down = gray[:, :-2] + 2.0 * gray[:, 1:-1] + gray[:, 2:]
  across = gray[:, :, :-2] + 2.0 * gray[:, :, 1:-1] + gray[:, :, 2:]
  return jnp.stack([down[:, :, :-2] - down[:, :, 2:], across[:, :-2] - across[:, 2:]], axis=-1)


INPUTS: dict[str, Input] = {
  'rgb': Input((), lambda x, mean, std: x),
  'gray': Input((1, 3), _gray),
  'lightness': Input((3,), _lightness),
  'ab': Input((3,), _ab),
  'lab': Input((3,), _lab),
  'sobel': Input((), _sobel),
}


# Input -> what the two halves of a network begin with.
HALVES: dict[str, tuple[str, str]] = {
  'lab_halves': ('lightness', 'ab'),
  'rgbd_halves': ('rgb', 'rgb'),
}


class WithInput(nn.Module):
  """A network behind a fixed input stage; parameters and taps are the network's own.

  Attributes:
    network: a module called as module(images, train=...).
    kind: a key of `INPUTS`.
    mean: of the data, per channel.
    std: of the data, per channel.
  """

  network: nn.Module
  kind: str
  mean: tuple[float, ...]
  std: tuple[float, ...]

  def setup(self) -> None:
    """Gives the network this module's place among parameters, running statistics and taps."""
    nn.share_scope(self, self.network)

  def __call__(self, x: jax.Array, *, train: bool, **inputs: jax.Array) -> jax.Array:
    """Images float32 [b,H,W,C], normalized -> what the network makes of its input."""
    return self.network(self.stage(x), train=train, **inputs)

  def stage(self, x: jax.Array) -> jax.Array:
    """The network's input."""
    mean, std = (
      np.asarray(values, np.float32).reshape(1, 1, 1, -1) for values in (self.mean, self.std)
    )
    return INPUTS[self.kind].apply(x.astype(jnp.float32), mean, std)


class TransformerWithInput(WithInput):
  """The same of a vision transformer, which is asked for its tokens and its size.

  A class of its own: a property of linen that has no answer raises what `hasattr` does not catch.
  """

  def tokens(
    self, x: jax.Array, keep: jax.Array | None = None, branches: jax.Array | None = None
  ) -> jax.Array:
    """`ViT.tokens` of a vision transformer behind this input."""
    return self.network.tokens(self.stage(x), keep, branches)

  @property
  def patch(self) -> int:
    """Edge of a patch of a vision transformer."""
    return self.network.patch

  @property
  def grid(self) -> int:
    """Patches on each side that a vision transformer's positions are made for."""
    return self.network.grid

  @property
  def depth(self) -> int:
    """Number of a vision transformer's blocks."""
    return self.network.depth

  @property
  def attention(self) -> str:
    """What computes a vision transformer's attention."""
    return self.network.attention


def with_input(
  network: nn.Module, kind: str, mean: Sequence[float] | None, std: Sequence[float] | None
) -> nn.Module:
  """The network behind an input stage; the network itself for 'rgb'.

  Args:
    network: a module called as module(images, train=...).
    kind: a key of `INPUTS`.
    mean: of the data, per channel.
    std: of the data, per channel.

  Raises:
    ValueError: an unknown input, or one that is not defined for so many channels.
  """
  if kind not in INPUTS:
    raise ValueError(f'input={kind!r} is not one of {", ".join((*INPUTS, *HALVES))}.')
  if kind == 'rgb':
    return network
  if mean is None or std is None:
    raise ValueError(f'input={kind!r} needs the mean and std that images are normalized with.')
  allowed, channels = INPUTS[kind].channels, len(mean)
  if allowed and channels not in allowed:
    counts = ' or '.join(map(str, allowed))
    raise ValueError(
      f'input={kind!r} is made of images of {counts} channels, but the data have {channels}: take '
      "input='rgb', which is the images as they are."
    )
  made = TransformerWithInput if hasattr(network, 'patch') else WithInput
  return made(network, kind, tuple(mean), tuple(std))
