"""From a guard folder to the artifact: one ONNX graph and its manifest."""
