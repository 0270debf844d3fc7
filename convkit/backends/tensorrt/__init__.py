"""TensorRT-RTX and TensorRT: what NVIDIA's parser makes of an ONNX file, and engines."""
