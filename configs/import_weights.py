"""Weights of another library as a run that can be evaluated, embedded and exported.

    python -m byoljax.main --config=configs/import_weights.py --config.file=resnet50.pth
    python -m byoljax.main --config=configs/linear.py --config.pretrained=runs/resnet50 \\
      --config.data.name=imagenette

Read are safetensors and PyTorch's checkpoints (`.pth`, `.pt`, `.pth.tar`), without PyTorch and
without running what is in them: ResNets under torchvision's or timm's names, as published by MoCo,
SimSiam, SwAV, Barlow Twins, VICReg, DINO, solo-learn and lightly. Depth, width and stem are found
out. Where a file holds several networks (MoCo's query and key, DINO's student and teacher),
`prefix` says which.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = '') -> ConfigDict:
  shared = base.get_config()
  config = ConfigDict(
    {
      'task': 'import',
      'file': '',  # or a folder with model.safetensors
      'prefix': '',  # what stands before 'conv1.weight'; '' = there is only one
      'seed': 0,  # of the random encoder that results are compared with
      'data': shared.data,  # what evaluations use unless they name their own
      'encoder': shared.encoder,
      'evals': {'image_size': 224, 'batch_size': 512},
      'log': {'verbose': False},
    }
  )
  return base.finish(config, [option for option in arg.split(',') if option])
