"""Makes daemon/subtitled/media/silero_vad/silero_vad_16k_dense.onnx from a file of the silero-vad package.

    python tools/convert_vad_model.py silero_vad_16k_sequence.onnx

The result computes the same probabilities, but for rounding, in a quarter of the time: matrix products take the place of
convolutions over one to four steps. Needs the package onnx, in an environment of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESULT = Path(__file__).parent.parent / "daemon/subtitled/media/silero_vad/silero_vad_16k_dense.onnx"
STEPS, BINS, UNITS = 4, 129, 128
"""The spectra of one frame, the bins of each, and the units of the recurrent layer."""
STRIDES = (1, 2, 2, 1)
"""Of the encoder's convolutions, which have three taps and a padding of one step."""


class Graph:
    """Nodes and constants of a model, as they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        """Add a constant; return its name."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, kind: str, inputs: list[str], *outputs: str, **attributes: int) -> str:
        """Add a node; return the name of its first output."""
        self.nodes.append(helper.make_node(kind, inputs, list(outputs), **attributes))
        return outputs[0]


def add_magnitudes(graph: Graph, basis: NDArray[np.float32]) -> str:
    """Add the magnitudes of the spectra, (frames, 4 * 129), given the basis (258, 256): cosines, then sines.

    Cosines are even about sample 128 and sines odd, so half of the products suffice.
    """
    cosines, sines = basis[:BINS, 1:129].T.copy(), basis[BINS:, 1:129].T
    middle = np.arange(1, 128)
    if not (
        np.array_equal(basis[:BINS, middle], basis[:BINS, 256 - middle])
        and np.array_equal(basis[BINS:, middle], -basis[BINS:, 256 - middle])
        and not basis[:, 0].any()
    ):
        raise ValueError("the basis is not symmetric: these are not windowed cosines and sines")
    cosines[127] /= 2  # sample 128 is added to itself
    squares = []
    for name, part in (("even", cosines), ("odd", sines)):
        found = graph.node("MatMul", [name, graph.constant(f"{name}_basis", part)], f"{name}_spectrum")
        squares.append(graph.node("Mul", [found, found], f"{name}_power"))
    magnitudes = graph.node("Sqrt", [graph.node("Add", squares, "power")], "magnitudes")
    rows = graph.constant("row", np.array([-1, STEPS * BINS], np.int64))
    return graph.node("Reshape", [magnitudes, rows], "encoder0")


def add_layer(
    graph: Graph,
    name: str,
    inputs: str,
    steps: int,
    kernel: NDArray[np.float32],
    bias: NDArray[np.float32],
    stride: int,
) -> tuple[str, int]:
    """Add a convolution with its ReLU as one product with a matrix (steps * channels, steps * channels)."""
    results = (steps - 1) // stride + 1
    columns = []
    taps = {tap for at in range(results) for tap in range(3) if 0 <= at * stride + tap - 1 < steps}
    # The model's loader puts the matrix together, so the file has each tap once.
    named = {tap: graph.constant(f"{name}_tap{tap}", kernel[:, :, tap].T) for tap in sorted(taps)}
    zeros = ""
    if steps > 2:
        zeros = graph.constant(f"{name}_zeros", np.zeros((kernel.shape[1], kernel.shape[0]), np.float32))
    for at in range(results):
        parts = [named.get(step - at * stride + 1, zeros) for step in range(steps)]
        columns.append(graph.node("Concat", parts, f"{name}_column{at}", axis=0))
    matrix = graph.node("Concat", columns, f"{name}_matrix", axis=1)
    tiled = graph.constant(f"{name}_bias", np.tile(bias, results))
    product = graph.node("Gemm", [inputs, matrix, tiled], f"{name}_sum")
    return graph.node("Relu", [product], f"{name}_output"), results


def converted(source: Path) -> onnx.ModelProto:
    """Return the model; raises ValueError or KeyError if the source is built in another way."""
    kept = {one.name: numpy_helper.to_array(one) for one in onnx.load(source).graph.initializer}
    graph = Graph()
    values, steps = add_magnitudes(graph, kept["stft.forward_basis_buffer"][:, 0]), STEPS
    for layer, stride in enumerate(STRIDES):
        kernel, bias = (kept[f"encoder.{layer}.{part}"] for part in ("weight", "bias"))
        values, steps = add_layer(graph, f"encoder{layer + 1}", values, steps, kernel, bias, stride)
    recurrent = sorted(name for name in kept if name.startswith("onnx::LSTM_"))
    sequence = graph.node(
        "Unsqueeze", [values, graph.constant("batch_axis", np.array([1], np.int64))], "sequence"
    )
    inputs = [
        sequence,
        *(graph.constant(f"recurrent{at}", kept[name]) for at, name in enumerate(recurrent)),
        "",
        "h",
        "c",
    ]
    hidden = graph.node("LSTM", inputs, "hidden", "hn", "cn", hidden_size=UNITS)
    hidden = graph.node(
        "Reshape", [hidden, graph.constant("units", np.array([-1, UNITS], np.int64))], "units_of_frames"
    )
    weights = graph.constant("output_weights", kept["output.weight"].reshape(UNITS, 1))
    score = graph.node(
        "Gemm",
        [
            graph.node("Relu", [hidden], "rectified"),
            weights,
            graph.constant("output_bias", kept["output.bias"]),
        ],
        "score",
    )
    flat = graph.constant("flat", np.array([-1], np.int64))
    graph.node("Reshape", [graph.node("Sigmoid", [score], "probabilities"), flat], "speech_probs")

    def floats(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    state: list[int | str] = [1, 1, UNITS]
    folded: list[int | str] = ["frames", STEPS, 128]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "silero_vad_16k_dense",
            [floats("even", folded), floats("odd", folded), floats("h", state), floats("c", state)],
            [floats("speech_probs", ["frames"]), floats("hn", state), floats("cn", state)],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", 16)],
        ir_version=8,
        producer_name=Path(__file__).name,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    onnx.save(converted(Path(sys.argv[1])), RESULT)
