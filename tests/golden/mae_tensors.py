"""A small masked autoencoder under the names of MAE's authors: shapes, weights, inputs."""

import imported_tensors
import numpy as np
import philox

VIT = imported_tensors.VIT
DECODER = {'decoder_embed_dim': 32, 'decoder_depth': 2, 'decoder_num_heads': 4}
PLACES = (VIT['img_size'] // VIT['patch_size']) ** 2
VISIBLE = 4
# Of the pixels of each patch, every so many are kept.
STRIDE = 6
# Parameters whose gradients are kept: they are zero unless all went through the right patches.
GRADIENTS = ('mask_token', 'cls_token', 'patch_embed.proj.bias', 'decoder_pred.bias')


def shapes() -> dict[str, tuple[int, ...]]:
  """{name: shape} of everything in the authors' checkpoint, fixed positions included."""
  patch, dim, own = VIT['patch_size'], VIT['embed_dim'], DECODER['decoder_embed_dim']
  pixels = 3 * patch * patch
  found = {
    'cls_token': (1, 1, dim),
    'pos_embed': (1, 1 + PLACES, dim),
    'mask_token': (1, 1, own),
    'decoder_pos_embed': (1, 1 + PLACES, own),
    'patch_embed.proj.weight': (dim, 3, patch, patch),
    'patch_embed.proj.bias': (dim,),
    'decoder_embed.weight': (own, dim),
    'decoder_embed.bias': (own,),
    'decoder_pred.weight': (pixels, own),
    'decoder_pred.bias': (pixels,),
  }
  for prefix, depth, width in (('', VIT['depth'], dim), ('decoder_', 2, own)):
    for leaf in ('weight', 'bias'):
      found[f'{prefix}norm.{leaf}'] = (width,)
    for i in range(depth):
      block = f'{prefix}blocks.{i}'
      for name, out, into in (
        ('attn.qkv', 3 * width, width),
        ('attn.proj', width, width),
        ('mlp.fc1', 4 * width, width),
        ('mlp.fc2', width, 4 * width),
      ):
        found |= {f'{block}.{name}.weight': (out, into), f'{block}.{name}.bias': (out,)}
      for name in ('norm1', 'norm2'):
        found |= {f'{block}.{name}.{leaf}': (width,) for leaf in ('weight', 'bias')}
  return found


def positions(grid: int, dim: int) -> np.ndarray:
  """MAE's table [1,1 + grid^2,dim], across before down, zero for the class token."""
  table = np.zeros((1, 1 + grid * grid, dim))
  omega = 10000.0 ** (-np.arange(dim // 4) / (dim // 4))
  for row in range(grid):
    for column in range(grid):
      waves = [f(place * omega) for place in (column, row) for f in (np.sin, np.cos)]
      table[0, 1 + row * grid + column] = np.concatenate(waves)
  return table.astype(np.float32)


def state() -> dict[str, np.ndarray]:
  """The checkpoint: weights drawn by name, positions as the authors compute them."""
  made = {name: imported_tensors.vit(name, shape) for name, shape in shapes().items()}
  grid = VIT['img_size'] // VIT['patch_size']
  for name in ('pos_embed', 'decoder_pos_embed'):
    made[name] = positions(grid, made[name].shape[-1])
  return made


def images() -> np.ndarray:
  """Random images [2,32,32,3] in [-2, 2)."""
  return philox.images('mae', 2, VIT['img_size'])


def noise() -> np.ndarray:
  """What patches are sorted by: the lowest stay visible; [2,PLACES]."""
  return philox.uniform('mae noise', (2, PLACES), 0.0, 1.0)
