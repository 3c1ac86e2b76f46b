"""Detections and objects of detection.npz, drawn by name: y_min, x_min, y_max, x_max in pixels."""

import numpy as np
import philox

CLASSES, SIDE = 3, 320


def cases():
  """Images of (boxes, scores, classes) and (boxes, classes, crowd, areas).

  Objects of all of COCO's sizes, crowds, areas that are not those of the boxes, an image without
  objects, one without detections, equal scores, several detections of an object, more than 100.
  """
  made = []
  for number in range(8):
    count = 0 if number == 3 else 6
    center = philox.uniform(f'{number} center', (count, 2), 95, SIDE - 95)
    side = np.exp(philox.uniform(f'{number} side', (count, 2), np.log(14), np.log(190)))
    objects = np.concatenate([center - side / 2, center + side / 2], 1).astype(np.float64)
    classes = np.floor(philox.uniform(f'{number} classes', (count,), 0, CLASSES)).astype(int)
    crowd = (philox.uniform(f'{number} crowd', (count,), 0, 1) > 0.85).astype(int)
    filled = philox.uniform(f'{number} filled', (count,), 0.5, 1)
    areas = filled * np.prod(objects[:, 2:] - objects[:, :2], axis=1)
    each = 0 if number == 4 else 25 if number == 5 else 3
    near = np.repeat(objects, each, axis=0)
    moved = philox.uniform(f'{number} moved', near.shape, -0.12, 0.12)
    near = near + moved * np.tile(np.repeat(side, each, axis=0), 2)
    named = np.repeat(classes, each)
    confused = philox.uniform(f'{number} confused', named.shape, 0, 1) > 0.85
    named = np.where(confused, (named + 1) % CLASSES, named)
    low = philox.uniform(f'{number} elsewhere', (5, 2), 0, 200).astype(np.float64)
    size = philox.uniform(f'{number} size', (5, 2), 10, 100).astype(np.float64)
    boxes = np.concatenate([near, np.concatenate([low, low + size], 1)])
    named = np.concatenate([named, np.arange(5) % CLASSES])
    if number == 4:
      boxes, named = boxes[:0], named[:0]
    scores = philox.uniform(f'{number} scores', named.shape, 0, 1).astype(np.float64).round(2)
    made.append(((boxes, scores, named), (objects, classes, crowd, areas)))
  return made
