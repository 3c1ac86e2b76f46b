"""DINOv3's vision transformers under the names of timm, of the authors and of Hugging Face.

They are ViTs with rotary positions (`vit_names` has those of DINOv2); weights are written under
timm's names, its `Eva`. What differs from the other ViTs:

    ours                       timm's                  the authors'
    registers  RD              reg_token  1RD          storage_tokens
    block1/qkv/kernel  IO      blocks.0.attn.qkv.weight
    block1/q/bias, v/bias      blocks.0.attn.q_bias    qkv.bias, its keys' part masked
    block1/ls1/scale           blocks.0.gamma_1        blocks.0.ls1.gamma
    block1/fc1  both parts     mlp.fc1_g, mlp.fc1_x    mlp.w1, mlp.w2
    block1/fc2                 mlp.fc2                 mlp.w3 with SwiGLU

Hugging Face's are `embeddings.register_tokens`, `layer.0.attention.q_proj.weight` and so on. The
authors store the periods of the positions, rounded to bfloat16, and compute with them; timm and
Hugging Face compute them anew. So each file's features are those of who wrote it. The mask token is
left out, and so is the LayerNorm that the largest one has for local crops while it trains. timm
stores weights with biases of queries and values, or without where they are zero. Weights trained on
satellite images want these images' mean and standard deviation, which are not in the file.
"""

from collections.abc import Collection, Mapping, Sequence
import re
from typing import Any

from flax.traverse_util import flatten_dict
import ml_dtypes
import numpy as np

from byoljax.models.positions import rotary_periods
from byoljax.models.vit import VITS
from byoljax.weights import formats, vit_names
from byoljax.weights.formats import Format, Found, Path, PyTree, State

_ANCHOR = 'patch_embed.proj.weight'
_PERIODS = 'rope_embed.periods'
_BLOCK = re.compile(r'blocks\.(\d+)\.attn\.qkv\.weight')
_HUGGING_FACE = 'embeddings.register_tokens'
# Hugging Face's words, in this order -> timm's.
_WORDS = (
  (r'^embeddings\.patch_embeddings\.', 'patch_embed.proj.'),
  (r'^embeddings\.register_tokens$', 'reg_token'),
  (r'^embeddings\.', ''),
  (r'^layer\.(\d+)\.', r'blocks.\1.'),
  (r'\.attention\.o_proj\.', '.attn.proj.'),
  (r'\.attention\.([qkv])_proj\.', r'.attn.\1.'),
  (r'\.layer_scale([12])\.lambda1$', r'.gamma_\1'),
  (r'\.gate_proj\.', '.fc1_g.'),
  (r'\.down_proj\.', '.fc2.'),
)
# The authors' -> timm's.
_AUTHORS = (
  (r'^storage_tokens$', 'reg_token'),
  (r'\.ls([12])\.gamma$', r'.gamma_\1'),
  (r'\.mlp\.w1\.', '.mlp.fc1_g.'),
  (r'\.mlp\.w2\.', '.mlp.fc1_x.'),
  (r'\.mlp\.w3\.', '.mlp.fc2.'),
)


def prefixes(names: Collection[str]) -> list[str]:
  """What may stand before the names of such a network."""
  present = set(names)
  found = [name.removesuffix(_ANCHOR) for name in names if name.endswith(_ANCHOR)]
  theirs = [name.removesuffix(_HUGGING_FACE) for name in names if name.endswith(_HUGGING_FACE)]
  return [prefix for prefix in found if vit_names.is_rotary(present, prefix)] + [
    # DINOv2's have positions there.
    prefix
    for prefix in theirs
    if f'{prefix}embeddings.position_embeddings' not in present
  ]


def find_out(state: State, prefix: str, fields: Mapping[str, Any]) -> Found:
  """Size, patch and the periods of the positions; see `Format.find_out`."""
  del fields
  stored = state.get(prefix + _PERIODS)
  state = completed(state, prefix)
  kernel = state.get(prefix + _ANCHOR)
  if kernel is None or kernel.ndim != 4 or kernel.shape[1] != 3:
    what = 'missing' if kernel is None else str(kernel.shape)
    raise ValueError(f'{prefix}{_ANCHOR} is {what}: patches have 3 channels, (D, 3, p, p).')
  own = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
  numbers = [('1', match[1]) for name in own if (match := _BLOCK.fullmatch(name))]
  depth = formats.depth_of(numbers)[0] if numbers else 0
  first, second = (state.get(f'{prefix}blocks.0.mlp.{name}.weight') for name in ('fc1', 'fc2'))
  swiglu = formats.is_swiglu(first, second)
  known = {name: size for name, size in VITS.items() if size.rotary}
  form = (len(kernel), depth, swiglu)
  names = [name for name, s in known.items() if (s.dim, s.depth, s.swiglu) == form]
  if not names:
    listed = ', '.join(f'{name} ({size.dim}, {size.depth})' for name, size in known.items())
    kind = ' with SwiGLU' if swiglu else ''
    raise ValueError(
      f'a ViT with registers and rotary positions of width {len(kernel)} and depth {depth}{kind} '
      f'is none of {listed}.'
    )
  size, patch = VITS[names[0]], kernel.shape[2]
  found = {
    'name': names[0],
    'width': 1,
    'patch_size': patch,
    'positions': _positions(stored, size.dim // size.heads),
    'grid': 0,
  }
  return Found(found, image_size=size.grid * patch, doubt=f'{size.heads} heads')


def _positions(stored: np.ndarray | None, dim: int) -> str:
  """Which of `vit.ROTARY` have these periods; of None, who has none stored computes them anew."""
  own = rotary_periods(dim)
  if stored is None or np.allclose(stored, own, rtol=1e-6, atol=0):
    return 'rope'
  if np.allclose(stored, own.astype(ml_dtypes.bfloat16).astype(np.float32), rtol=1e-6, atol=0):
    return 'rope_bf16'
  raise ValueError(
    f'{_PERIODS} are not those of base 100 for heads of {dim} channels, in float32 or bfloat16.'
  )


def completed(state: State, prefix: str) -> State:
  """Under timm's names, both parts of SwiGLU as one, with biases that are left out as zero.

  Raises:
    ValueError: keys have a bias.
  """
  words = _WORDS if prefix + _HUGGING_FACE in state else _AUTHORS
  own: dict[str, np.ndarray] = {}
  others: dict[str, np.ndarray] = {}
  for name, array in state.items():
    inner = name.removeprefix(prefix) if name.startswith(prefix) else None
    if inner is None:
      others[name] = array
    elif not inner.endswith(('.bias_mask', _PERIODS)):
      for theirs, here in words:
        inner = re.sub(theirs, here, inner)
      if words is _WORDS and f'{prefix}layer.0.mlp.gate_proj.weight' in state:
        inner = inner.replace('.up_proj.', '.fc1_x.')
      own[inner.replace('.up_proj.', '.fc1.')] = array
  masked = f'{prefix}blocks.0.attn.qkv.bias_mask' in state
  for start in sorted({m[1] for name in own if (m := re.match(r'(blocks\.\d+\.)', name))}):
    _join_attention(own, f'{start}attn.', masked, prefix)
    for leaf in ('weight', 'bias'):
      _join(own, [f'{start}mlp.fc1_{part}.{leaf}' for part in 'gx'], f'{start}mlp.fc1.{leaf}')
  return others | {prefix + name: array for name, array in own.items()}


def _join(own: dict[str, np.ndarray], parts: Sequence[str], whole: str) -> None:
  """Makes one array of several, where all of them are there and of one shape."""
  shapes = {own[part].shape if part in own else () for part in parts}
  if len(shapes) == 1 and shapes != {()}:
    own[whole] = np.concatenate([own.pop(part) for part in parts])


def _join_attention(own: dict[str, np.ndarray], start: str, masked: bool, prefix: str) -> None:
  """Makes of what there is the three matrices as one, and a bias of queries and of values."""
  _join(own, [f'{start}{part}.weight' for part in 'qkv'], f'{start}qkv.weight')
  for part in 'qv':
    if f'{start}{part}.bias' in own:
      own[f'{start}{part}_bias'] = own.pop(f'{start}{part}.bias')
  keys = own.pop(f'{start}k.bias', None)
  biases = own.get(f'{start}qkv.bias')
  if biases is not None and biases.ndim == 1 and len(biases) % 3 == 0:
    query, keys, value = np.split(own.pop(f'{start}qkv.bias'), 3)
    own |= {f'{start}q_bias': query, f'{start}v_bias': value}
    keys = None if masked else keys
  if keys is not None and np.any(keys):
    raise ValueError(f'{prefix}{start}qkv has a bias of the keys, which DINOv3 has not.')
  if f'{start}qkv.weight' in own:
    rows = own[f'{start}qkv.weight'].shape[:1]
    zeros = np.zeros([count // 3 for count in rows], np.float32)
    for part in 'qv':
      own.setdefault(f'{start}{part}_bias', zeros)


def name_of(path: Path) -> str:
  """The name of a leaf as `completed` has it."""
  block = re.fullmatch(r'block(\d+)', path[0])
  if block and path[1] in ('q', 'v'):
    return f'blocks.{int(block[1]) - 1}.attn.{path[1]}_bias'
  if block and path[1] in ('ls1', 'ls2'):
    return f'blocks.{int(block[1]) - 1}.gamma_{path[1][-1]}'
  return vit_names.name_of(path)


def to_timm(params: PyTree, patch: int, swiglu: bool) -> dict[str, np.ndarray]:
  """An encoder's weights as the state dict of timm's network, float32.

  Args:
    params: nested dicts of a ViT's parameters.
    patch: edge of a patch in pixels.
    swiglu: whether its MLP is SwiGLU.
  """
  state: dict[str, np.ndarray] = {}
  for path, value in flatten_dict(params).items():
    name, array = name_of(path), vit_names.array_of(path, value, patch)
    if swiglu and '.mlp.fc1.' in name:
      for part, half in zip('gx', np.split(array, 2), strict=True):
        state[name.replace('fc1', f'fc1_{part}')] = half.copy()
    else:
      state[name] = array
  return state


FORMAT = Format(
  what="DINOv3's ViTs (reg_token or storage_tokens, no pos_embed, blocks.0.attn.qkv.weight, ...)",
  prefixes=prefixes,
  find_out=find_out,
  names=lambda state, prefix, found: lambda path: prefix + name_of(path),
  turned=vit_names.FORMAT.turned,
  inside=vit_names.FORMAT.inside,
  completed=completed,
)
