"""From a checkpoint or a foreign ONNX file to a calibrated bundle."""
