"""Graphs made smaller without another answer, and ONNX Runtime's own graph for one machine."""
