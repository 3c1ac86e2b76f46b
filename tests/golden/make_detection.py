"""Makes detection.npz: COCO's average precision by pycocotools of the cases in detection_cases.py.

Run with pycocotools and NumPy installed: python tests/golden/make_detection.py
  stats      pycocotools' AP, AP50, AP75, small, medium, large
  each       AP of every threshold, class and range of areas, [T, K, A], -1 where no object counts
"""

import contextlib
import io
import pathlib

import detection_cases
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CASES = detection_cases.cases()


def xywh(box):
  """COCO's boxes: x, y, width, height."""
  return [float(v) for v in (box[1], box[0], box[3] - box[1], box[2] - box[0])]


truth, found = [], []
for number, ((boxes, scores, named), (objects, classes, crowd, areas)) in enumerate(CASES, 1):
  for box, kind, many, area in zip(objects, classes, crowd, areas, strict=True):
    entry = {'image_id': number, 'category_id': int(kind) + 1, 'bbox': xywh(box)}
    truth.append(
      entry | {'id': len(truth) + 1, 'iscrowd': int(many), 'area': float(area), 'ignore': 0}
    )
  for box, score, kind in zip(boxes, scores, named, strict=True):
    entry = {'image_id': number, 'category_id': int(kind) + 1, 'bbox': xywh(box)}
    found.append(entry | {'score': float(score)})
coco = COCO()
coco.dataset = {
  'images': [{'id': i + 1, 'height': 320, 'width': 320} for i in range(len(CASES))],
  'categories': [{'id': i + 1, 'name': str(i)} for i in range(detection_cases.CLASSES)],
  'annotations': truth,
}
with contextlib.redirect_stdout(io.StringIO()):
  coco.createIndex()
  evaluation = COCOeval(coco, coco.loadRes(found), 'bbox')
  evaluation.evaluate()
  evaluation.accumulate()
  evaluation.summarize()
each = evaluation.eval['precision'][..., -1].mean(1)
np.savez_compressed(
  pathlib.Path(__file__).with_name('detection.npz'), stats=evaluation.stats[:6], each=each
)
