"""From a run to a bundle: one ONNX file, in one precision or several, with its model card."""
