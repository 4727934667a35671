"""What a camera and the way to us do to an image, whatever it shows."""

import numpy as np
from PIL import Image, ImageFilter

from limelens.train.synthetic.painting import Pixels


def photograph(image: Pixels, rng: np.random.Generator) -> Pixels:
    """The image with a random exposure, tint, focus, noise, and perhaps no colours.

    Args:
        image: `(H, W, 3)` uint8 RGB; left as it is.
        rng: Where all of it comes from.

    Returns:
        `(H, W, 3)` uint8, of the same size.
    """
    height, width = image.shape[:2]
    photo = Image.fromarray(image)
    if rng.random() < 0.35:  # enlarged from fewer pixels
        factor = float(rng.uniform(0.35, 0.9))
        fewer = (max(8, round(width * factor)), max(8, round(height * factor)))
        photo = photo.resize(fewer, Image.Resampling.BILINEAR)
        photo = photo.resize((width, height), Image.Resampling.BILINEAR)
    elif rng.random() < 0.5:
        photo = photo.filter(ImageFilter.BoxBlur(float(rng.uniform(0.2, 0.9)) * width / 160))
    values = np.asarray(photo, dtype=np.float32)
    gain = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.05, 3)).astype(np.float32)
    contrast = float(rng.uniform(0.8, 1.15))
    values = (values - 118) * contrast + 118 + float(rng.normal(0, 8))
    values = values * gain
    if rng.random() < 0.06:
        values = np.repeat(values.mean(axis=2, keepdims=True), 3, axis=2)
    strength = float(rng.choice((0.0, 2.0, 4.0, 9.0), p=(0.3, 0.35, 0.25, 0.1)))
    if strength:
        values = values + rng.standard_normal(values.shape, dtype=np.float32) * np.float32(strength)
    return np.clip(values, 0, 255).astype(np.uint8)
