"""Makes boxes.npz: torchvision's operators on boxes, with its order of coordinates.

Run with PyTorch and torchvision installed: python tests/golden/make_boxes.py
Boxes are (x_min, y_min, x_max, y_max) and codes (x, y, w, h) here; tests swap them. RoIAlign is the
one that torchvision has in Python, so that its compiled operators are not needed; it differs from
them more than a pixel outside of the map only. Non-maximum suppression, which it has in no other
form, is compared with the sequential algorithm in NumPy.

  iou          box_iou of BOXES with OTHERS                                          1e-6
  encoded      BoxCoder(10, 10, 5, 5) of OTHERS beside BOXES[: len(OTHERS)]          1e-5
  decoded      the boxes of CODES beside BOXES[: len(CODES)]                         1e-4 of a side
  roi_<b>_<s>  RoIAlign(aligned=True) of FEATURES, b bins, s samples, scale 1/4     1e-5
  roi_grad     gradient of the sum of its squares (7 bins, 2 samples), the map's     1e-4
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

import pathlib

import box_tensors
import numpy as np
import torch
from torchvision import ops
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops.roi_align import _roi_align

BOXES, OTHERS, CODES, FEATURES, ROIS = (
  torch.from_numpy(array) for array in box_tensors.everything()
)


def pooled(features, bins, samples):
  """torchvision's RoIAlign of one image."""
  regions = torch.cat([torch.zeros(len(ROIS), 1), ROIS], 1)  # All of image 0.
  return _roi_align(features[None], regions, 0.25, bins, bins, samples, True)


coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
made = {
  'iou': ops.box_iou(BOXES, OTHERS),
  'encoded': coder.encode_single(OTHERS, BOXES[: len(OTHERS)]),
  'decoded': coder.decode_single(CODES, BOXES[: len(CODES)]),
}
for bins, samples in box_tensors.GRIDS:
  made[f'roi_{bins}_{samples}'] = pooled(FEATURES, bins, samples)
features = FEATURES.clone().requires_grad_()
pooled(features, 7, 2).square().sum().backward()
made['roi_grad'] = features.grad
arrays = {name: value.detach().numpy() for name, value in made.items()}
np.savez_compressed(pathlib.Path(__file__).with_name('boxes.npz'), **arrays)
