"""The same handler behind limelens and other servers, measured in one run."""
