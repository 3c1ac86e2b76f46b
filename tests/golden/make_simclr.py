"""Makes simclr.npz: features of SimCLR's small ResNets, in plain TensorFlow operations.

Also tf1.* and tf2.*, two checkpoints of a few numbers as TensorFlow itself writes them.
Run with TensorFlow installed: python tests/golden/make_simclr.py
"""

import pathlib

from imported_tensors import BLOCKS, resnet, resnet_images
import numpy as np
import tensorflow as tf

FOLDER = pathlib.Path(__file__).parent
# name -> (bottleneck blocks, blocks of each stage, CIFAR stem, selective kernels)
CASES = {
  'bottleneck': (True, BLOCKS, False, False),
  'selective': (True, BLOCKS, False, True),
  'basic_cifar': (False, (2, 2, 2, 2), True, False),
}


class Layers:
  """Layers that number themselves as they are made, and draw their weights by that name."""

  def __init__(self, prefix: str):
    self.prefix, self.count = prefix, {'conv2d': 0, 'batch_normalization': 0}
    self.shapes: dict[str, tuple[int, ...]] = {}

  def _variable(self, module: str, leaf: str, shape: tuple[int, ...]) -> tf.Tensor:
    name = f'{self.prefix}{module}/{leaf}'
    self.shapes[name] = shape
    return tf.constant(resnet(name, shape), tf.float64)

  def _next(self, kind: str) -> str:
    number = self.count[kind]
    self.count[kind] += 1
    return f'{kind}_{number}' if number else kind

  def conv(self, x, filters: int, kernel: int, stride: int):
    """With a stride, padded as if there were none."""
    name = self._next('conv2d')
    w = self._variable(name, 'kernel', (kernel, kernel, x.shape[3], filters))
    if stride > 1:
      before = (kernel - 1) // 2
      both = [before, kernel - 1 - before]
      x = tf.pad(x, [[0, 0], both, both, [0, 0]])
    return tf.nn.conv2d(x, w, stride, 'VALID' if stride > 1 else 'SAME')

  def norm(self, x, relu: bool = True):
    """In evaluation, epsilon 1e-5."""
    name, shape = self._next('batch_normalization'), (x.shape[3],)
    gamma, beta, mean, variance = (
      self._variable(name, leaf, shape)
      for leaf in ('gamma', 'beta', 'moving_mean', 'moving_variance')
    )
    y = gamma * (x - mean) / tf.sqrt(variance + 1e-5) + beta
    return tf.nn.relu(y) if relu else y

  def selective_kernel(self, x, filters: int, stride: int):
    """Two paths of 3x3, weighed channel by channel."""
    x = self.norm(self.conv(x, 2 * filters, 3, stride))
    a, b = tf.split(x, 2, axis=3)
    seen = tf.reduce_mean(a + b, [1, 2], keepdims=True)
    seen = self.norm(self.conv(seen, max(filters // 16, 32), 1, 1))
    one, other = tf.split(self.conv(seen, 2 * filters, 1, 1), 2, axis=3)
    total = tf.exp(one) + tf.exp(other)
    return (a * tf.exp(one) + b * tf.exp(other)) / total

  def block(self, x, filters: int, stride: int, first: bool, bottleneck: bool, selective: bool):
    """One residual block; the first of a stage has a projection, which is made first."""
    shortcut, out = x, filters * (4 if bottleneck else 1)
    if first:
      if selective:
        if stride > 1:
          shortcut = tf.pad(shortcut, [[0, 0], [0, 1], [0, 1], [0, 0]])
        shortcut = tf.nn.avg_pool2d(shortcut, 2, stride, 'VALID' if stride > 1 else 'SAME')
      shortcut = self.norm(self.conv(shortcut, out, 1, 1 if selective else stride), relu=False)
    if not bottleneck:
      x = self.norm(self.conv(x, filters, 3, stride))
      return tf.nn.relu(shortcut + self.norm(self.conv(x, filters, 3, 1), relu=False))
    x = self.norm(self.conv(x, filters, 1, 1))
    if selective:
      x = self.selective_kernel(x, filters, stride)
    else:
      x = self.norm(self.conv(x, filters, 3, stride))
    return tf.nn.relu(shortcut + self.norm(self.conv(x, out, 1, 1), relu=False))

  def network(self, x, bottleneck: bool, blocks, cifar: bool, selective: bool):
    """Images to features."""
    if cifar:
      x = self.norm(self.conv(x, 64, 3, 1))
    else:
      if selective:
        x = self.norm(self.conv(x, 32, 3, 2))
        x = self.norm(self.conv(x, 32, 3, 1))
        x = self.norm(self.conv(x, 64, 3, 1))
      else:
        x = self.norm(self.conv(x, 64, 7, 2))
      x = tf.nn.max_pool2d(x, 3, 2, 'SAME')
    for stage, depth in enumerate(blocks):
      for i in range(depth):
        stride = 2 if stage and not i else 1
        x = self.block(x, 64 * 2**stage, stride, not i, bottleneck, selective)
    return tf.reduce_mean(x, [1, 2])


def small_checkpoints() -> None:
  """A few numbers in TF1's and in TF2's form."""
  numbers = {f'base_model/conv2d_{i}/kernel': np.arange(4, dtype=np.float32) + i for i in range(40)}
  numbers |= {'global_step': np.int64(7), 'half': np.float16([1.5]), 'empty': np.zeros((0, 3))}
  tensors = [tf.constant(value) for value in numbers.values()]
  prefix = str(FOLDER / 'tf1')
  tf.raw_ops.SaveV2(
    prefix=prefix, tensor_names=list(numbers), shape_and_slices=[''] * len(numbers), tensors=tensors
  )
  module = tf.Module()
  layer = tf.Module()
  name = 'resnet/conv2d_fixed_padding/conv2d/kernel'
  layer.kernel = tf.Variable(np.arange(6, dtype=np.float32).reshape(1, 2, 3), name=name)
  module.layers = [layer]
  tf.train.Checkpoint(model=module).write(str(FOLDER / 'tf2'))


def main() -> None:
  results = {}
  for case, arguments in CASES.items():
    layers = Layers('base_model/')
    y = layers.network(tf.constant(resnet_images(), tf.float64), *arguments).numpy()
    results[case] = y.astype(np.float32)
    names = sorted(layers.shapes)
    results[f'{case}/names'] = np.array(names)
    rank4 = [(1,) * (4 - len(layers.shapes[name])) + layers.shapes[name] for name in names]
    results[f'{case}/shapes'] = np.array(rank4, np.int32)
    print(case, y.shape, y.std(), len(names))
  path = FOLDER / 'simclr.npz'
  np.savez_compressed(path, **results)
  print(path, path.stat().st_size)
  small_checkpoints()
  for file in sorted(FOLDER.glob('tf[12].*')):
    print(file.name, file.stat().st_size)


if __name__ == '__main__':
  main()
