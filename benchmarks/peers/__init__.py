"""The same handler behind other servers, measured beside limelens in one run."""
