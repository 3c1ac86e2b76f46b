"""The vision transformers by name: their dimensions, and what the branches consist of."""

from typing import NamedTuple


class Size(NamedTuple):
  """Dimensions of a vision transformer.

  Attributes:
    dim: width of a token.
    depth: blocks.
    heads: attention heads of a block; they divide `dim`.
    patch: default edge of a patch in pixels.
    grid: coordinates span this many patches on each side.
    registers: further tokens behind the class token.
    layer_scale: what the learned scales of the branches begin with; 0 where there are none.
    swiglu: whether the MLP is SwiGLU.
    inside: width inside of the MLP, in widths of a token; with SwiGLU in multiples of 8.
    rotary: whether positions are rotary ones, and no others.
    epsilon: of LayerNorm.
  """

  dim: int
  depth: int
  heads: int
  patch: int = 16
  grid: int = 14
  registers: int = 0
  layer_scale: float = 0.0
  swiglu: bool = False
  inside: float = 4.0
  rotary: bool = False
  epsilon: float = 1e-6

  @property
  def hidden(self) -> int:
    """Width inside of the MLP; with SwiGLU of its products."""
    width = round(self.dim * self.inside)
    return -(-width // 8) * 8 if self.swiglu else width


# DINO's ViT-S has 6 heads (as DeiT's), MoCo v3's 12; parameters are alike. 'vit_micro' is for CPU
# cores and images of about 32 px: 0.2 M parameters.
_DINOV2 = {'patch': 14, 'grid': 37, 'layer_scale': 1e-5}
_DINOV2_SIZES = {
  'dinov2_micro': Size(64, 4, 4, patch=4, grid=8, layer_scale=1e-5),
  'dinov2_small': Size(384, 12, 6, **_DINOV2),
  'dinov2_base': Size(768, 12, 12, **_DINOV2),
  'dinov2_large': Size(1024, 24, 16, **_DINOV2),
  'dinov2_giant': Size(1536, 40, 24, **_DINOV2, swiglu=True, inside=8 / 3),
}
_DINOV3 = {'registers': 4, 'layer_scale': 1e-5, 'rotary': True, 'epsilon': 1e-5}
_DINOV3_SIZES = {
  'dinov3_micro': Size(64, 4, 4, patch=4, grid=8, **_DINOV3),
  'dinov3_micro_plus': Size(64, 4, 4, patch=4, grid=8, **_DINOV3, swiglu=True),
  'dinov3_small': Size(384, 12, 6, **_DINOV3),
  'dinov3_small_plus': Size(384, 12, 6, **_DINOV3, swiglu=True),
  'dinov3_base': Size(768, 12, 12, **_DINOV3),
  'dinov3_large': Size(1024, 24, 16, **_DINOV3),
  'dinov3_huge_plus': Size(1280, 32, 20, **_DINOV3, swiglu=True),
  'dinov3_7b': Size(4096, 40, 32, **_DINOV3, swiglu=True, inside=2.0),
}
VITS = {
  'vit_micro': Size(64, 4, 4, patch=4, grid=8),
  'vit_tiny': Size(192, 12, 3),
  'vit_small': Size(384, 12, 12),
  'vit_small_6heads': Size(384, 12, 6),
  'vit_base': Size(768, 12, 12),
  'vit_large': Size(1024, 24, 16),
  'vit_huge': Size(1280, 32, 16, patch=14, grid=16),
  **_DINOV2_SIZES,
  **{f'{name}_reg': size._replace(registers=4) for name, size in _DINOV2_SIZES.items()},
  **_DINOV3_SIZES,
}
