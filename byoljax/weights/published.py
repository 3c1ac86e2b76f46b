"""Published weights that `byoljax import` reads: whose, for which encoder, in which file."""

from typing import NamedTuple


class Published(NamedTuple):
  """Weights of one source.

  Attributes:
    whose: method or library, and paper.
    encoders: names in `models.options.FAMILIES`.
    files: names of files as their authors publish them, or what writes them.
  """

  whose: str
  encoders: tuple[str, ...]
  files: str


_RESNETS = tuple(f'resnet{depth}' for depth in (18, 34, 50, 101, 152))
_SIZES = ('small', 'base', 'large', 'giant')

_DINOV3 = ('small', 'small_plus', 'base', 'large', 'huge_plus', '7b')
_DINOV3_FILES = "dinov3_vits16_pretrain_lvd1689m-08c60483.pth, Hugging Face's model.safetensors"

PUBLISHED = (
  Published('torchvision', (*_RESNETS, 'alexnet_plain'),
            'resnet50-11ad3fa6.pth, alexnet-owt-7be5be79.pth'),
  Published('MoCo v1 and v2', ('resnet50',), 'moco_v2_800ep_pretrain.pth.tar'),
  Published(
    'MoCo v3', ('resnet50', 'vit_small', 'vit_base'), 'r-50-1000ep.pth.tar, vit-s-300ep.pth.tar'
  ),
  Published('SimSiam', ('resnet50',), 'checkpoint_0099.pth.tar'),
  Published('SwAV', ('resnet50',), 'swav_800ep_pretrain.pth.tar'),
  Published('Barlow Twins, VICReg', ('resnet50',), 'resnet50.pth'),
  Published(
    'DINO',
    ('resnet50', 'vit_small_6heads', 'vit_base'),
    'dino_resnet50_pretrain.pth, dino_deitsmall16_pretrain.pth',
  ),
  Published('MAE', ('vit_base', 'vit_large', 'vit_huge'), 'mae_pretrain_vit_base.pth'),
  Published(
    'DINOv2', tuple(f'dinov2_{size}' for size in _SIZES), 'dinov2_vits14_pretrain.pth'
  ),
  Published(
    'DINOv2 with registers',
    tuple(f'dinov2_{size}_reg' for size in _SIZES),
    'dinov2_vits14_reg4_pretrain.pth',
  ),
  Published('DINOv3', tuple(f'dinov3_{size}' for size in _DINOV3), _DINOV3_FILES),
  Published(
    'timm',
    ('vit_tiny', 'vit_small_6heads', 'vit_base', 'vit_large', 'convnext_tiny', 'convnext_base',
     'dinov2_small', 'dinov2_small_reg', 'dinov3_small'),
    "a model's model.safetensors, or torch.save(model.state_dict(), ...)",
  ),
  Published('ConvNeXt', ('convnext_tiny', 'convnext_small', 'convnext_base'),
            'convnext_tiny_1k_224_ema.pth'),
  Published('SimCLR v1 and v2', ('resnet50', 'resnet101', 'resnet152'),
            "TensorFlow's model.ckpt-*.index with its data file"),
  Published('BYOL', ('resnet50',), 'pretrain_res50x1.pkl, by DeepMind'),
  Published('solo-learn, lightly', ('resnet18', 'resnet50'), '*.ckpt'),
)  # fmt: skip
