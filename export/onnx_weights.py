"""How a screener's matrices are stored.

    fp32    as trained
    fp16    half precision, for GPUs; ONNX Runtime widens it again on a CPU
    small   int8 rows with one fp32 scale each, then ``Cast`` and ``Mul``: a quarter of the size;
            ONNX Runtime folds them when it loads the file and computes in fp32 on every CPU
    int8    ONNX Runtime's quantizer: int8 kernels, faster on a CPU (benchmarks/screener_weights.py)

int8 kernels must decide alike everywhere. Without VNNI they add two products of a byte and a
signed byte in 16 bits, which saturate at 32,767: so weights keep to the reduced range of [-64, 64],
and the sum of no two products leaves it (2 x 255 x 64 = 32,640). The quantizer's own scale of the
inputs is one for a whole batch, so that a score would depend on its company (measured: by up to
0.13); here every token has its own. Kernels of another kind still sum fp32 in another order, which
may turn the rounding of an input: scores then differ in the second decimal, seldom a decision
(tests/drills/without_vnni.py).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from sro_edge.export.quiet import quiet

WEIGHTS = ("small", "fp32", "fp16", "int8")
INT16_LIMIT = 32_767
_LARGEST_BYTE = 255
_STEPS = (127, 123, 121, 118)  # to a row's largest element: the first that is no earlier rounding
_UNRELATED = 0.245  # mean distance to the next step, of .25 where steps and weights are unrelated
_STORED_BEFORE = 1e-3  # largest distance of a matrix that was stored so before
_SMALLEST_STORED = 4096  # elements; below, fp32 costs nothing
# Sums over many tokens or dimensions, and what comes after them, stay in fp32.
_KEPT_FP32 = ("ReduceSum", "ReduceL2", "Sigmoid", "Range")


def store(model: onnx.ModelProto, weights: str) -> onnx.ModelProto:
    """``model`` (fp32; changed) with its weights stored as one of :data:`WEIGHTS`."""
    if weights == "fp16":
        return _to_fp16(model)
    if weights == "int8":
        model = quantize(model)
    if weights in ("int8", "small"):
        store_rows(model)
    return model


def quantize(model: onnx.ModelProto, reduce_range: bool = True) -> onnx.ModelProto:
    """A copy whose constant matrix products run in int8 kernels.

    Args:
        model: in fp32.
        reduce_range: keep weights in [-64, 64], see the module; for tests.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, quiet():
        file = Path(folder) / "int8.onnx"
        quantize_dynamic(
            model,
            file,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        quantized = onnx.load(file)
    _scale_each_token(quantized)
    return quantized


def largest_pair(model: onnx.ModelProto) -> int:
    """Largest sum of two products that an int8 kernel of ``model`` can meet, whatever the input."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = [
        numpy_helper.to_array(constants[node.input[1]]).astype(np.int64)
        for node in model.graph.node
        if node.op_type == "MatMulInteger"
    ]
    return 2 * _LARGEST_BYTE * max((int(np.abs(w).max()) for w in weights), default=0)


def _scale_each_token(model: onnx.ModelProto) -> None:
    """Put a scale for each token in the place of every ``DynamicQuantizeLinear``'s one a batch.

    x (B, T, K) becomes bytes round(127 x / max|x|) + 128, the maximum taken over K. The products
    are scaled by the weights first, then by the tokens: in the quantizer's order, ONNX Runtime 1.32
    would fuse them into a ``MatMulIntegerToFloat`` that reads the first token's scale only.
    """
    graph, nodes = model.graph, []
    scales, zero_points, both = set(), set(), {}
    for node in graph.node:
        if node.op_type == "DynamicQuantizeLinear":
            quantized, scale, zero_point = node.output
            scales.add(scale)
            zero_points.add(zero_point)
            nodes += _quantize_tokens(node.input[0], quantized, scale)
        elif node.op_type == "Mul" and node.input[0] in scales:  # token scale x weight scale
            both[node.output[0]] = tuple(node.input)
        elif node.op_type == "Mul" and node.input[1] in both:
            token, weight = both[node.input[1]]
            part = f"{node.output[0]}.weights"
            nodes += [
                helper.make_node("Mul", [node.input[0], weight], [part]),
                helper.make_node("Mul", [part, token], [node.output[0]]),
            ]
        else:
            for place, name in enumerate(node.input):
                if name in zero_points:
                    node.input[place] = "token.middle"
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    constants = {
        "token.middle": np.uint8(128),
        "token.offset": np.float32(128),
        "token.steps": np.float32(127),
        "token.least": np.float32(1e-12),
        "token.axis": np.array([-1]),
    }
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )


def _quantize_tokens(source: str, quantized: str, scale: str) -> list[onnx.NodeProto]:
    """Nodes that turn ``source`` (B, T, K) into bytes and a scale (B, T, 1)."""
    name = f"{source}.token"
    steps = [
        ("Abs", [source], f"{name}.size"),
        ("ReduceMax", [f"{name}.size", "token.axis"], f"{name}.largest"),
        ("Max", [f"{name}.largest", "token.least"], f"{name}.range"),
        ("Div", [f"{name}.range", "token.steps"], scale),
        ("Div", [source, scale], f"{name}.scaled"),
        ("Round", [f"{name}.scaled"], f"{name}.rounded"),
        ("Add", [f"{name}.rounded", "token.offset"], f"{name}.shifted"),
    ]
    nodes = [helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps]
    to_byte = onnx.TensorProto.UINT8
    return [*nodes, helper.make_node("Cast", [f"{name}.shifted"], [quantized], to=to_byte)]


def store_rows(model: onnx.ModelProto) -> None:
    """Store every large fp32 matrix as int8 rows with a scale each: see ``small`` above."""
    graph = model.graph
    axes = _row_axes(graph)
    nodes = []
    for tensor in list(graph.initializer):
        size = int(np.prod(tensor.dims))
        if tensor.name not in axes or len(tensor.dims) != 2 or size < _SMALLEST_STORED:
            continue
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        name = tensor.name
        steps, scale = to_int8(numpy_helper.to_array(tensor), axes[name])
        graph.initializer.remove(tensor)
        graph.initializer.extend(
            [
                numpy_helper.from_array(steps, f"{name}.int8"),
                numpy_helper.from_array(scale, f"{name}.scale"),
            ]
        )
        to_float = onnx.TensorProto.FLOAT
        nodes += [
            helper.make_node("Cast", [f"{name}.int8"], [f"{name}.steps"], to=to_float),
            helper.make_node("Mul", [f"{name}.steps", f"{name}.scale"], [name]),
        ]
    for node in reversed(nodes):
        graph.node.insert(0, node)


def _row_axes(graph: onnx.GraphProto) -> dict[str, int]:
    """Matrix name -> the axis a scale covers: the inputs of one output, or one table row."""
    axes = {}
    for node in graph.node:
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        if node.op_type == "Gather":
            axes[node.input[0]] = 1
        elif node.op_type in ("MatMul", "Gemm"):
            axes[node.input[1]] = 1 if transposed else 0
    return axes


def to_int8(
    matrix: npt.NDArray[np.float32], axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Steps (R, C) and their scale: (R, 1) for ``axis`` 1, (1, C) for ``axis`` 0.

    Steps times scale differ from ``matrix`` by at most half a scale. A matrix that training moved
    by less than a step since it was last stored would be rounded back to where it was, and lose
    what it learned: its steps are made somewhat larger, so that they lie elsewhere.
    """
    largest = np.abs(matrix).max(axis=axis, keepdims=True)
    largest[largest == 0] = 1
    tried = []
    for count in _STEPS:
        scale = largest / np.float32(count)
        exact = matrix / scale
        steps = np.rint(exact)
        rest = np.abs(exact - steps)
        if rest.max() < _STORED_BEFORE:
            return steps.astype(np.int8), scale
        tried.append((float(rest.mean()), steps.astype(np.int8), scale))
    _, steps, scale = next((t for t in tried if t[0] > _UNRELATED), tried[0])
    return steps, scale


def _to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers import float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    kept = [*float16.DEFAULT_OP_BLOCK_LIST, *_KEPT_FP32]
    with quiet():
        half: onnx.ModelProto = float16.convert_float_to_float16(
            model, keep_io_types=True, op_block_list=kept
        )
    OnnxModel(half).topological_sort()  # the casts lie at the end
    return half
