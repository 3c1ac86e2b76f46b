"""Weights of another library as a run that can be evaluated, embedded and exported.

    python -m byoljax.main --config=configs/import_weights.py --config.file=resnet50.pth
    python -m byoljax.main --config=configs/linear.py --config.pretrained=runs/resnet50 \\
      --config.data.name=imagenette

Read are, without the libraries that wrote them and without running what is in them:

    safetensors; `.pth`, `.pt`, `.pth.tar`   ResNets under torchvision's names (MoCo, SimSiam, SwAV,
                                             Barlow Twins, VICReg, solo-learn, lightly) and ViTs
                                             under timm's (MoCo v3, DINO, MAE, timm)
    model.ckpt-1000, SavedModels             SimCLR and SimCLR v2 (TensorFlow 1 and 2)
    `.pkl`                                   DeepMind's BYOL (Haiku)

What network it is, is found out: depth, width, stem, padding, patches, positions. A ViT's heads are
not in its weights: 64 channels a head, but 12 heads for a ViT-S with MoCo v3's positions; say
`--config.encoder.name=vit_small_6heads` or `vit_small` where that is wrong. Where a file holds
several networks (query and key, student and teacher, BYOL's online and target, SimCLR v2's EMA),
`prefix` says which; `--config.prefix=` is the one with nothing before its names. SimCLR's networks
see images that are not normalized: `data.mean` and `data.std` follow. A folder that byoljax
exported says itself what its encoder is and which images it takes.
"""

from ml_collections import ConfigDict

from . import base


def get_config(arg: str = '') -> ConfigDict:
  shared = base.get_config()
  config = ConfigDict(
    {
      'task': 'import',
      'file': '',  # or a folder with model.safetensors or a TensorFlow checkpoint
      # What stands before the encoder's names, '' = nothing; None = there is only one.
      'prefix': None,
      'seed': 0,  # seed of the random encoder used as a baseline
      'data': shared.data,  # what evaluations use unless they name their own
      'encoder': shared.encoder,
      # 0 = what the weights were made for, 224 where they do not tell.
      'evals': {'image_size': 0, 'batch_size': 512},
      'log': {'verbose': False},
    }
  )
  return base.finish(config, [option for option in arg.split(',') if option])
