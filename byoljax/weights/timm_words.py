"""Encoders in the words of timm: the name of a model, the arguments of its constructor."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from byoljax.models import convnext, vit
from byoljax.weights import convnext_names


class Model(NamedTuple):
  """What timm makes a network from.

  Attributes:
    name: for `timm.create_model`.
    arguments: what differs from that name's own.
    side: of the images that the weights are written for.
    about: entries of `pretrained_cfg` that depend on the network.
  """

  name: str
  arguments: Mapping[str, Any]
  side: int
  about: Mapping[str, Any]


def model_of(fields: Mapping[str, Any], side: int) -> Model | None:
  """The network of these fields of `config.encoder` for images of a side; None: timm has none."""
  if fields['name'] in vit.VITS:
    if vit.VITS[fields['name']].rotary:
      return _dinov3(fields, side)
    return None if fields.get('positions') in vit.ROTARY else _vit(fields, side)
  if fields['name'] in convnext.CONVNEXTS:
    return _convnext(fields, side)
  return None


def _vit(fields: Mapping[str, Any], side: int) -> Model:
  """The nearest of timm's ViTs; its size, patch and image size are given beside it."""
  sizes = ('tiny', 'small', 'base', 'large', 'huge', 'giant')
  size, width = vit.VITS[fields['name']], fields['width']
  patch = fields['patch_size'] or size.patch
  if fields.get('positions') == 'learned':
    side = (fields['grid'] or size.grid) * patch  # What the table of positions is for.
  arguments = {
    'img_size': side,
    'patch_size': patch,
    'embed_dim': size.dim * width,
    'depth': size.depth,
    'num_heads': size.heads * width,
    'num_classes': 0,
  }
  if fields['pool'] == 'mean':
    arguments |= {'global_pool': 'avg', 'fc_norm': False}
  nearest = next((each for each in sizes if each in fields['name']), sizes[0])
  about = {'pool_size': None, 'first_conv': 'patch_embed.proj', 'classifier': 'head'}
  usual = 14 if nearest == 'huge' else 16
  name = f'vit_{nearest}_patch{usual}_224'
  if size.layer_scale:  # timm's have the scales, and SwiGLU and the registers where they belong.
    nearest = nearest if nearest in ('small', 'base', 'large', 'giant') else 'small'
    name = f'vit_{nearest}_patch14{"_reg4" if size.registers else ""}_dinov2'
  return Model(name, arguments, side, about)


def _dinov3(fields: Mapping[str, Any], side: int) -> Model:
  """timm's, whose periods are not rounded; its size and patch are given beside it."""
  size, width = vit.VITS[fields['name']], fields['width']
  patch = fields['patch_size'] or size.patch
  arguments = {
    'img_size': side,
    'patch_size': patch,
    'embed_dim': size.dim * width,
    'depth': size.depth,
    'num_heads': size.heads * width,
    'mlp_ratio': size.inside,
    'qkv_bias': True,
    'num_classes': 0,
    'global_pool': 'avg' if fields['pool'] == 'mean' else 'token',
  }
  about = {'pool_size': None, 'first_conv': 'patch_embed.proj', 'classifier': 'head'}
  name = 'vit_small_plus' if size.swiglu else 'vit_small'
  return Model(f'{name}_patch16_dinov3_qkvb', arguments, side, about)


def _convnext(fields: Mapping[str, Any], side: int) -> Model | None:
  size, width = convnext.CONVNEXTS[fields['name']], fields['width']
  patch = fields['patch_size'] or size.patch
  # timm's first stage halves a map of 2 pixels a place once more, and no stage one of 32.
  if patch == 2 or 4 * patch >= convnext_names.COARSEST:
    return None
  arguments = {
    'depths': size.depths,
    'dims': tuple(width * dim for dim in size.dims),
    'patch_size': patch,
    'num_classes': 0,
  }
  name = fields['name'] if fields['name'] != 'convnext_micro' else 'convnext_tiny'
  about = {
    'pool_size': [side // (8 * patch)] * 2,
    'first_conv': 'stem.0',
    'classifier': 'head.fc',
  }
  return Model(name, arguments, side, about)
