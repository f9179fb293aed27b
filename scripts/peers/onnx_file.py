"""Writes an ONNX model anew as transformers.js reads it.

python -m peers.onnx_file SOURCE TARGET HEAD_SIZE
"""

import sys
from pathlib import Path

import onnx


def main() -> None:
    source, target, head_size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    weights = target.with_name(f"{target.name}_data")
    target.parent.mkdir(parents=True, exist_ok=True)
    for path in (target, weights):
        path.unlink(missing_ok=True)
    model = onnx.load(source)
    for value in model.graph.input:
        if value.name.startswith("past_key_values."):
            # It makes the empty cache of these shapes, and a name would count as 0.
            value.type.tensor_type.shape.dim[3].dim_value = head_size
    onnx.save_model(model, target, save_as_external_data=True, location=weights.name)


if __name__ == "__main__":
    main()
