"""A vision transformer's parameters under timm's names, and back.

timm's ViTs, MoCo v3's, DINO's and MAE's encoders share their names; the computation is the same:
pre-norm blocks, exact GELU, LayerNorm with epsilon 1e-6.

    ours                          theirs
    patch_embed/kernel  (HWI)O    patch_embed.proj.weight  OIHW
    cls  D                        cls_token  11D
    positions  (1+n)D             pos_embed  1(1+n)D
    block1/qkv/kernel  IO         blocks.0.attn.qkv.weight  OI
    block1/fc1                    blocks.0.mlp.fc1
    norm/{scale,bias}             norm.{weight,bias}

Fixed positions (MoCo v3's, MAE's) are stored, too: they are recognized by their values. The number
of heads is not in the weights: it is 64 channels a head, DINO's and timm's rule, except for a ViT-S
with MoCo v3's positions, which has 12. Where query, key and value have no bias it becomes zero.

DINOv2's have `ls1.gamma` and `ls2.gamma` beside, `mlp.w12` and `mlp.w3` where timm says fc1 and
fc2, and perhaps registers. With these timm adds the class token's position to the token:

    registers  RD                 register_tokens  1RD, in timm reg_token
    block1/ls1/scale              blocks.0.ls1.gamma

MAE's decoder, where a checkpoint has it, becomes the role 'decoder':

    mask  D                       mask_token  11D
    embed                         decoder_embed
    block1/...                    decoder_blocks.0...
    norm                          decoder_norm
    pixels                        decoder_pred
"""

from collections.abc import Collection, Mapping
import math
import re
from typing import Any

from flax.traverse_util import flatten_dict
import jax
import numpy as np

from byoljax.models.masked_decoder import MaskedDecoder
from byoljax.models.net import stack
from byoljax.models.positions import sincos_positions
from byoljax.models.vit import VITS, Size
from byoljax.weights import formats
from byoljax.weights.formats import Format, Found, Path, PyTree, State

_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias'}
_TOP = {'patch_embed': 'patch_embed.proj', 'norm': 'norm'}
_PARTS = {
  'norm1': 'norm1',
  'qkv': 'attn.qkv',
  'proj': 'attn.proj',
  'norm2': 'norm2',
  'fc1': 'mlp.fc1',
  'fc2': 'mlp.fc2',
  'ls1': 'ls1',
  'ls2': 'ls2',
}
_DECODER = {'embed': 'decoder_embed', 'norm': 'decoder_norm', 'pixels': 'decoder_pred'}
_ALONE = {'cls': 'cls_token', 'positions': 'pos_embed', 'registers': 'reg_token'}
_ANCHOR = 'patch_embed.proj.weight'
_QKV = re.compile(r'blocks\.(\d+)\.attn\.qkv\.weight')
_DECODER_QKV = re.compile(r'decoder_blocks\.(\d+)\.attn\.qkv\.weight')
_INSIDE = (
  'blocks.', 'patch_embed.', 'norm.', 'norm_pre.', 'fc_norm.', 'cls_token', 'reg_token',
  'register_tokens', 'dist_token', 'rel_pos', 'patch_norm.',
)  # fmt: skip
_HEAD_WIDTH = 64


def name_of(path: Path) -> str:
  """timm's name of a leaf of an encoder's parameters.

  Args:
    path: ('block1', 'qkv', 'kernel'), say.

  Raises:
    ValueError: its ViTs have no such thing.
  """
  *modules, leaf = path
  if not modules and leaf in _ALONE:
    return _ALONE[leaf]
  if len(modules) == 1 and modules[0] in _TOP:
    return f'{_TOP[modules[0]]}.{_LEAVES[leaf]}'
  block = re.fullmatch(r'block(\d+)', modules[0]) if len(modules) == 2 else None
  if block is None or modules[1] not in _PARTS:
    raise ValueError(f'{"/".join(path)} has no counterpart in a ViT of timm.')
  own = 'gamma' if modules[1] in ('ls1', 'ls2') else _LEAVES[leaf]
  return f'blocks.{int(block[1]) - 1}.{_PARTS[modules[1]]}.{own}'


def to_timm(params: PyTree, patch: int, positions: np.ndarray | None) -> dict[str, np.ndarray]:
  """An encoder's weights as a state dict, float32.

  Args:
    params: nested dicts of a ViT's parameters.
    patch: edge of a patch in pixels.
    positions: [n,D] of the patches where they are fixed; None where they are among the parameters.
  """
  state: dict[str, np.ndarray] = {}
  for path, value in flatten_dict(params).items():
    state[name_of(path)] = array_of(path, value, patch)
  if positions is not None:
    state['pos_embed'] = np.pad(positions.astype(np.float32), ((1, 0), (0, 0)))[None]
  if 'reg_token' in state:
    table = state['pos_embed']
    state['cls_token'] = state['cls_token'] + table[:, :1]
    state['pos_embed'] = table[:, 1:].copy()
  return state


def array_of(path: Path, value: Any, patch: int) -> np.ndarray:
  """A leaf in timm's layout, float32; `patch` is the edge of a patch in pixels."""
  array = np.asarray(value, np.float32)
  if path == ('patch_embed', 'kernel'):
    return array.reshape(patch, patch, -1, array.shape[-1]).transpose(3, 2, 0, 1).copy()
  if path[-1] == 'kernel':
    return array.T.copy()
  return array.reshape(1, -1, array.shape[-1]) if path[-1] in _ALONE else array


def prefixes(names: Collection[str]) -> list[str]:
  """What may stand before a ViT's names, in the order in which it is found."""
  present = set(names)
  found = [name.removesuffix(_ANCHOR) for name in names if name.endswith(_ANCHOR)]
  return [
    prefix
    for prefix in found
    if f'{prefix}blocks.0.attn.qkv.weight' in present and not is_rotary(present, prefix)
  ]


def is_rotary(names: Collection[str], prefix: str) -> bool:
  """Whether there are registers and no positions, as in DINOv3 (`dinov3_names`)."""
  there = [end for end in ('storage_tokens', 'reg_token') if prefix + end in names]
  return bool(there) and f'{prefix}pos_embed' not in names


def find_out(state: State, prefix: str, fields: Mapping[str, Any]) -> Found:
  """Size, patch, positions and image size; see `Format.find_out`.

  `fields['name']` counts where several of our encoders have weights like these: it says how many
  heads there are.
  """
  state = _completed(state, prefix)
  kernel = state[prefix + _ANCHOR]
  if kernel.ndim != 4 or kernel.shape[1] != 3 or kernel.shape[2] != kernel.shape[3]:
    raise ValueError(
      f'{prefix}{_ANCHOR} is {kernel.shape}: patches are squares of 3 channels, (D, 3, p, p).'
    )
  dim, patch = kernel.shape[0], kernel.shape[2]
  own = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
  (depth,) = formats.depth_of([('1', m[1]) for name in own if (m := _QKV.fullmatch(name))])
  kind_of = _kind(state, prefix)
  same = {name: size for name, size in VITS.items() if _kind_of(size) == kind_of}
  names = [name for name, size in same.items() if (size.dim, size.depth) == (dim, depth)]
  if not names:
    known = ', '.join(f'{name} ({size.dim}, {size.depth})' for name, size in same.items())
    raise ValueError(
      f'a ViT of width {dim} and depth {depth}{_said(kind_of)} is none of {known or "ours"}.'
    )
  grid, kind = _positions(
    state.get(f'{prefix}pos_embed'), dim, VITS[names[0]].grid, f'{prefix}pos_embed'
  )
  usual = [name for name in names if VITS[name].heads == dim // _HEAD_WIDTH]
  name = (usual or names)[0] if kind != 'sincos' else names[0]
  if fields.get('name') in names:
    name = fields['name']
  others = [f'encoder.name={other}' for other in names if other != name]
  doubt = f'{VITS[name].heads} heads'
  if others:
    doubt += f', which the weights do not tell ({" or ".join(others)} for another number)'
  found = {
    'name': name,
    'width': 1,
    'patch_size': patch,
    'positions': kind,
    'grid': grid,
  }
  return Found(found, image_size=grid * patch, doubt=doubt)


# Whether a ViT has scales on its branches, registers, SwiGLU.
_Kind = tuple[bool, bool, bool]


def _kind(state: State, prefix: str) -> _Kind:
  into, out = (state.get(f'{prefix}blocks.0.mlp.{name}.weight') for name in ('fc1', 'fc2'))
  scaled = any(name.startswith(prefix) and name.endswith('.ls1.gamma') for name in state)
  return scaled, f'{prefix}reg_token' in state, formats.is_swiglu(into, out)


def _kind_of(size: Size) -> _Kind:
  return (size.layer_scale > 0, size.registers > 0, size.swiglu)


def _said(kind: _Kind) -> str:
  words = ('LayerScale', 'registers', 'SwiGLU')
  found = [word for word, there in zip(words, kind, strict=True) if there]
  return f' with {" and ".join(found)}' if found else ''


def _positions(table: np.ndarray | None, dim: int, default: int, name: str) -> tuple[int, str]:
  """(patches on a side, which of `vit.POSITIONS` they are)."""
  if table is None:
    return default, 'learned'  # what is missing is listed later
  grid = math.isqrt(max(table.shape[1] - 1, 0)) if table.ndim == 3 else 0
  if not grid or table.shape != (1, 1 + grid * grid, dim):
    raise ValueError(
      f'{name} is {table.shape}: positions are those of a square map of patches behind '
      f"the class token's, (1, 1 + n x n, {dim})."
    )
  for kind in ('sincos', 'sincos_xy') if dim % 4 == 0 and not table[0, 0].any() else ():
    own = sincos_positions(grid, grid, dim, grid, xy=kind == 'sincos_xy')
    if np.allclose(table[0, 1:], own, rtol=0, atol=1e-5):
      return grid, kind
  return grid, 'learned'


def _turned(path: Path, array: np.ndarray) -> np.ndarray:
  if path == ('patch_embed', 'kernel') and array.ndim == 4:
    return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
  if path[-1] == 'kernel' and array.ndim == 2:
    return array.T
  if path[-1] in _ALONE and array.ndim == 3 and len(array) == 1:
    return array.reshape(-1) if path[-1] == 'cls' else array[0]
  return array


def _inside(prefix: str, name: str) -> bool:
  return name.startswith(prefix) and name.removeprefix(prefix).startswith(_INSIDE)


def _completed(state: State, prefix: str) -> State:
  """Under timm's names, with what is left out where it is zero.

  That is the bias of query, key and value where no block has one, and beside registers the position
  of the class token.
  """
  state = {_renamed(prefix, name): array for name, array in state.items()}
  table = state.get(f'{prefix}pos_embed')
  alone = (
    table is not None and table.ndim == 3 and math.isqrt(table.shape[1]) ** 2 == table.shape[1]
  )
  if table is not None and alone and f'{prefix}reg_token' in state:
    state[f'{prefix}pos_embed'] = np.pad(table, ((0, 0), (1, 0), (0, 0)))
  own = [name for name in state if name.startswith(prefix)]
  kernels = [name for name in own if _QKV.fullmatch(name.removeprefix(prefix))]
  biases = [name.removesuffix('weight') + 'bias' for name in kernels]
  if any(name in state for name in biases):
    return state
  zeros = (np.zeros(state[name].shape[:1], np.float32) for name in kernels)
  return dict(state) | dict(zip(biases, zeros, strict=True))


def _renamed(prefix: str, name: str) -> str:
  """The name in timm of what DINOv2's authors call otherwise."""
  if not name.startswith(prefix):
    return name
  own = name.removeprefix(prefix)
  if own == 'register_tokens':
    return f'{prefix}reg_token'
  own = re.sub(r'^(blocks\.\d+\.mlp\.)w12\.', r'\1fc1.', own)
  return prefix + re.sub(r'^(blocks\.\d+\.mlp\.)w3\.', r'\1fc2.', own)


def _decoder_name(path: Path) -> str:
  """The authors' name of a leaf of a masked autoencoder's decoder."""
  first, *rest = path
  if path == ('mask',):
    return 'mask_token'
  if first in _DECODER:
    return f'{_DECODER[first]}.{_LEAVES[rest[0]]}'
  return f'decoder_{name_of(path)}'


def beside(state: State, prefix: str, found: Found) -> tuple[dict[str, PyTree], set[str]]:
  """A masked autoencoder's decoder, {'decoder': parameters}, where there is one, and its names.

  Among these is that of the encoder's positions: fixed ones are no parameters, but were read.

  Raises:
    ValueError: it is not all there, or is not MAE's: its positions are not the fixed ones.
  """
  positions = {f'{prefix}pos_embed'}
  if f'{prefix}decoder_pred.weight' not in state:
    return {}, positions
  dim, size, kind = state[f'{prefix}decoder_pred.weight'].shape[-1], VITS[found.fields['name']], ''
  grid = 0
  table = f'{prefix}decoder_pos_embed'
  if table in state:
    grid, kind = _positions(state[table], dim, 0, table)
  if kind != 'sincos_xy' or grid != found.fields['grid']:
    raise ValueError(
      f"{table} must be there and be MAE's fixed positions of {found.fields['grid']} x "
      f'{found.fields["grid"]} patches.'
    )
  own = [name.removeprefix(prefix) for name in state]
  (depth,) = formats.depth_of([('1', m[1]) for name in own if (m := _DECODER_QKV.fullmatch(name))])
  decoder = MaskedDecoder(found.fields['patch_size'], dim=dim, depth=depth, heads=1)
  tokens = jax.ShapeDtypeStruct((1, 1 + grid * grid, size.dim), np.float32)
  net = stack((('decoder', 'pixels', decoder),))
  wanted, _ = jax.eval_shape(lambda: net.init(jax.random.key(0), tokens))
  params, _, names = formats.placed(_DECODER_FORMAT, state, prefix, found, wanted['decoder'], {})
  return {'decoder': params}, names | positions | {table}


_DECODER_FORMAT = Format(
  what="MAE's decoder",
  prefixes=prefixes,
  find_out=find_out,
  names=lambda state, prefix, found: lambda path: prefix + _decoder_name(path),
  turned=lambda path, array: array.reshape(-1) if path == ('mask',) else _turned(path, array),
  inside=lambda prefix, name: (
    name.startswith(f'{prefix}decoder_') and name != f'{prefix}decoder_pos_embed'
  ),
)
FORMAT = Format(
  what="ViTs under timm's names (patch_embed.proj.weight, blocks.0.attn.qkv.weight, ...)",
  prefixes=prefixes,
  find_out=find_out,
  names=lambda state, prefix, found: lambda path: prefix + name_of(path),
  turned=_turned,
  inside=_inside,
  completed=_completed,
  beside=beside,
)
