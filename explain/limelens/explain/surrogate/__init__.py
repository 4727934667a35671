"""From samples to weights: the surrogate, other methods, feature selection and stability."""
