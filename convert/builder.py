"""A thin layer over onnx_ir's tape: the operators, weights and Linears that the graphs of this stage are made of."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from convert.tensors import repeated, scalar, side_by_side, typed
from shipvlm.errors import InputError

Precision = Literal["fp32", "fp16"]
FLOATS: dict[Precision, ir.DataType] = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16}
OPSET = 24
# The oldest file format that has all types used here, so that the most runtimes read it.
IR_VERSION = 10
# Input columns that share a scale, of weights that runtimes multiply without unpacking them first; the best first.
BLOCKS = (128, 64, 32, 16)


class GraphBuilder:
    """One graph in the making: inputs, nodes, and weights taken by name from `tensors`, computing in `dtype`."""

    def __init__(self, tensors: Mapping[str, ir.TensorProtocol], precision: Precision) -> None:
        self.tensors = tensors
        self.dtype = FLOATS[precision]
        self._tape = Tape()
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._values: dict[str, ir.Value] = {}  # initializers and what is derived from them alone, by name

    def input(self, name: str, shape: Sequence[int | str], dtype: ir.DataType | None = None) -> ir.Value:
        """Declare an input, of the graph's float type unless `dtype` says otherwise."""
        self._inputs.append(ir.val(name, dtype=dtype or self.dtype, shape=shape))
        return self._inputs[-1]

    def output(self, value: ir.Value, name: str, shape: Sequence[int | str]) -> None:
        """Make `value` an output, of the graph's float type."""
        value.name, value.dtype, value.shape = name, self.dtype, ir.Shape(shape)
        self._outputs.append(value)

    def op(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Add a node of a standard operator with one output. Trailing inputs may be left out, others be None."""
        return self._tape.op(kind, inputs, attributes)

    def split(self, value: ir.Value, *sizes: int) -> Sequence[ir.Value]:
        """Cut the last axis into parts of these `sizes`."""
        return self._tape.op_multi_out("Split", [value, self.constant(*sizes)], {"axis": -1}, num_outputs=len(sizes))

    def constant(self, *numbers: int) -> ir.Value:
        """A vector of int64."""
        return self._initializer(ir.tensor(np.array(numbers, np.int64), name=f"constant {numbers}"))

    def zero(self, dtype: ir.DataType | None = None) -> ir.Value:
        """A scalar 0, of the graph's float type unless `dtype` says otherwise."""
        dtype = dtype or self.dtype
        return self._initializer(ir.tensor(np.zeros((), dtype.numpy()), name=f"zero {dtype.name}"))

    def reshape(self, value: ir.Value, *sizes: int) -> ir.Value:
        """Give `value` another shape; 0 keeps a dimension, -1 takes what is left."""
        return self.op("Reshape", value, self.constant(*sizes))

    def weight(self, name: str) -> ir.Value:
        """The tensor `name` as it is stored, in the graph's float type."""
        return self._float(self.tensors[name])

    def rows(self, name: str, index: ir.Value) -> ir.Value:
        """Rows of the table `name` by their `index`, in the graph's float type."""
        stored = self._narrowed(self.tensors[name])
        found = self.op("Gather", self._initializer(stored), index)
        return found if stored.dtype == self.dtype else self.op("Cast", found, to=self.dtype)

    def rms_norm(self, value: ir.Value, name: str, epsilon: float) -> ir.Value:
        """Root mean square norm over the last axis, statistics in FP32 whatever the graph's type."""
        return self.op("RMSNormalization", value, self.weight(f"{name}.weight"), epsilon=epsilon, stash_type=1)

    def layer_norm(self, value: ir.Value, name: str, epsilon: float) -> ir.Value:
        """Layer norm over the last axis, statistics in FP32 whatever the graph's type."""
        weight, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.op("LayerNormalization", value, weight, bias, epsilon=epsilon, stash_type=1)

    def linear(self, value: ir.Value, *names: str) -> ir.Value:
        """`value` [..., in] through the Linears `names`, side by side in one product: [..., all out].

        INT8 Linears get `QuantizeLinear` and `DequantizeLinear` around their input, with the scale of the checkpoint.
        Raises `InputError` where the Linears do not agree about their input or their type.
        """
        # Stored [in, out]: MatMul takes it as it is, and a runtime need not transpose it at load.
        weight = side_by_side([self.tensors[f"{name}.weight"] for name in names])
        if weight.dtype in (ir.DataType.INT8, ir.DataType.INT4):
            static = f"{names[0]}.input_scale" in self.tensors
            value = self._through_int8(value, names) if static else value
            scales = side_by_side([self.tensors[f"{name}.weight_scale"] for name in names])
            factor = self._dequantized(weight, scales, whole_columns=static)
        else:
            factor = self._float(weight)
        product = self.op("MatMul", value, factor)
        biases = [self.weight(f"{name}.bias") for name in names if f"{name}.bias" in self.tensors]
        return self.op("Add", product, *biases) if biases else product

    def model(self, name: str) -> ir.Model:
        """The finished graph."""
        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._tape.nodes,
            initializers=self._tape.initializers,
            opset_imports={"": OPSET},
            name=name,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="shipvlm")

    def _through_int8(self, value: ir.Value, names: Sequence[str]) -> ir.Value:
        scales = [self.tensors[f"{name}.input_scale"] for name in names]
        numbers = [scalar(scale) for scale in scales]
        if len(set(numbers)) > 1 or not 0 < numbers[0] < math.inf:
            raise InputError(
                f"{', '.join(names)} read the same input and have the input_scale {', '.join(map(str, numbers))}: "
                "it must be one positive number; quantize them together"
            )
        scale = self._initializer(typed(scales[0], self.dtype, (), exact=True))
        zero = self.zero(ir.DataType.INT8)
        return self.op("DequantizeLinear", self.op("QuantizeLinear", value, scale, zero), scale, zero)

    def _dequantized(self, weight: ir.TensorProtocol, scales: ir.TensorProtocol, whole_columns: bool) -> ir.Value:
        """Integers `weight` [in, out] times `scales` [groups of in, out], exactly as the checkpoint has them.

        A runtime that multiplies INT8 by INT8 wants one scale a column. One that multiplies floats by packed integers
        wants blocks: a scale of a whole column is written down once a block then.
        """
        columns, groups = weight.shape.numpy()[0], scales.shape.numpy()[0]
        initializer = self._initializer(weight)
        block = columns // groups
        if groups == 1 and not whole_columns:
            block = next((size for size in BLOCKS if columns % size == 0), columns)
        if block == columns:
            scale = typed(scales, self.dtype, (scales.shape.numpy()[1],), exact=True)
            return self.op("DequantizeLinear", initializer, self._initializer(scale), axis=1)
        scale = typed(repeated(scales, columns // block // groups), self.dtype, exact=True)
        return self.op("DequantizeLinear", initializer, self._initializer(scale), axis=0, block_size=block)

    def _float(self, tensor: ir.TensorProtocol) -> ir.Value:
        """The initializer of a float `tensor`, with a Cast where it is narrower than the graph's type: the file stays
        as small as the checkpoint, and ONNX Runtime folds the Cast when it loads."""
        stored = self._narrowed(tensor)
        if stored.dtype == self.dtype:
            return self._initializer(stored)
        name = f"{tensor.name} as {self.dtype.name}"
        if name not in self._values:
            self._values[name] = self.op("Cast", self._initializer(stored), to=self.dtype)
        return self._values[name]

    def _narrowed(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        return tensor if tensor.dtype.itemsize < self.dtype.itemsize else typed(tensor, self.dtype)

    def _initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        assert tensor.name is not None
        if tensor.name not in self._values:
            self._values[tensor.name] = self._tape.initializer(tensor)
        return self._values[tensor.name]
