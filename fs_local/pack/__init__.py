"""What a fit leaves and a run takes: a manifest, arrays, and the same computation as an ONNX graph, in one file.

`file` saves and loads a pack, `manifest` is its schema, `archive` the container (whose reader trusts nothing), `graph` the
ONNX side, `evaluator` evaluates a pack's decision by numpy or by ONNX Runtime.
"""
