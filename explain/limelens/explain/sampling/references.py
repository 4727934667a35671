"""Reference images: images of other labels, in whose place a hidden segment shows their pixels.

What stands for "absent" should be what is there when the label is not: for a mask, a bare mouth. A
fill made of the image itself can seldom show that. This is the background data of SHAP's kernel
method and the counterfactual infilling of Chang et al., with whole images as infill. Knows labelled
images and probabilities. Does not know segments or the model.

    Lundberg, Lee: A Unified Approach to Interpreting Model Predictions, NeurIPS 2017, section 4.
        https://arxiv.org/abs/1705.07874
    Chang et al.: Explaining Image Classifiers by Counterfactual Generation, ICLR 2019.
        https://arxiv.org/abs/1807.08024
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.explain.errors import InvalidArgumentError
from limelens.explain.settings import References

MAX_REFERENCES = 16
"""How many are used at most: they fill one canvas, which a device holds beside the model."""
_PRESENT = 0.5  # the probability from which the image has a label


def references_for(
    probabilities: NDArray[np.floating], references: References | None, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """The first `MAX_REFERENCES` references that have none of the labels of an image.

    An image has its most probable label, and others from a probability of 0.5. Where every
    reference has one of these, those without the most probable one are used.

    Args:
        probabilities: `(C,)` the model's, for the image to be explained.
        references: Images and their labels; None: there are none.
        size: Height and width to resize them to.

    Returns:
        `(M, H, W, 3)` uint8, M of 1 or more.

    Raises:
        InvalidArgumentError: There are none, or all have the image's most probable label.
    """
    if references is None:
        raise InvalidArgumentError(
            "hide",
            "hide is 'references', and none are known: a bundle has its golden images, a function "
            "needs references=",
        )
    images, labels = references
    num_labels = probabilities.size
    if labels.shape[1] > num_labels:
        raise InvalidArgumentError(
            "references", f"references have {labels.shape[1]} labels; predict has {num_labels}"
        )
    labels = np.pad(labels, ((0, 0), (0, num_labels - labels.shape[1])))
    top = int(np.argmax(probabilities))
    has = probabilities >= _PRESENT
    has[top] = True
    usable = ~labels[:, has].any(axis=1)
    if not usable.any():
        usable = ~labels[:, top]
    if not usable.any():
        raise InvalidArgumentError(
            "references",
            f"every reference has the image's label, {top}: give images of other labels too",
        )
    chosen = images[np.flatnonzero(usable)[:MAX_REFERENCES]]
    if chosen.shape[1:3] == size:
        return chosen
    height, width = size
    return np.stack([np.asarray(Image.fromarray(one).resize((width, height))) for one in chosen])
