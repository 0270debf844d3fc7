"""What each type of layer of an ``INetworkDefinition`` can be asked for: its class, attributes and weights."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ATTENTION", "LAYERS", "PLUGIN", "LayerKind"]


@dataclass(frozen=True)
class LayerKind:
    """The class of a layer type in the bindings, with the names of its attributes and of its weights.

    ``owner`` is the attribute that holds the loop, conditional or attention that the layer is a part of.
    """

    cls: str
    attributes: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    owner: str = ""


_WINDOW = ("stride_nd", "pre_padding", "post_padding", "padding_mode")
_KERNEL = ("kernel_size_nd", "num_output_maps", "num_groups", "dilation_nd", *_WINDOW)

LAYERS = {
    "ACTIVATION": LayerKind("IActivationLayer", ("type", "alpha", "beta")),
    "ASSERTION": LayerKind("IAssertionLayer", ("message",)),
    "ATTENTION_INPUT": LayerKind("IAttentionInputLayer", owner="attention"),
    "ATTENTION_OUTPUT": LayerKind("IAttentionOutputLayer", owner="attention"),
    "CAST": LayerKind("ICastLayer", ("to_type",)),
    "CONCATENATION": LayerKind("IConcatenationLayer", ("axis",)),
    "CONDITION": LayerKind("IConditionLayer", owner="conditional"),
    "CONDITIONAL_INPUT": LayerKind("IIfConditionalInputLayer", owner="conditional"),
    "CONDITIONAL_OUTPUT": LayerKind("IIfConditionalOutputLayer", owner="conditional"),
    "CONSTANT": LayerKind("IConstantLayer", ("shape",), ("weights",)),
    "CONVOLUTION": LayerKind("IConvolutionLayer", _KERNEL, ("kernel", "bias")),
    "CUMULATIVE": LayerKind("ICumulativeLayer", ("op", "exclusive", "reverse")),
    "DECONVOLUTION": LayerKind("IDeconvolutionLayer", _KERNEL, ("kernel", "bias")),
    "DEQUANTIZE": LayerKind("IDequantizeLayer", ("axis", "block_shape", "to_type")),
    "DYNAMIC_QUANTIZE": LayerKind("IDynamicQuantizeLayer", ("axis", "block_size", "scale_type", "to_type")),
    "EINSUM": LayerKind("IEinsumLayer", ("equation",)),
    "ELEMENTWISE": LayerKind("IElementWiseLayer", ("op",)),
    "FILL": LayerKind("IFillLayer", ("operation", "shape", "alpha", "beta", "to_type")),
    "GATHER": LayerKind("IGatherLayer", ("axis", "mode", "num_elementwise_dims")),
    "GRID_SAMPLE": LayerKind("IGridSampleLayer", ("interpolation_mode", "sample_mode", "align_corners")),
    "IDENTITY": LayerKind("IIdentityLayer"),
    "ITERATOR": LayerKind("IIteratorLayer", ("axis", "reverse"), owner="loop"),
    "LOOP_OUTPUT": LayerKind("ILoopOutputLayer", ("axis", "kind"), owner="loop"),
    "LRN": LayerKind("ILRNLayer", ("alpha", "beta", "k", "window_size")),
    "MATRIX_MULTIPLY": LayerKind("IMatrixMultiplyLayer", ("op0", "op1")),
    "NMS": LayerKind("INMSLayer", ("bounding_box_format", "topk_box_limit")),
    "NON_ZERO": LayerKind("INonZeroLayer"),
    "NORMALIZATION": LayerKind("INormalizationLayer", ("axes", "epsilon", "num_groups", "is_v2")),
    "ONE_HOT": LayerKind("IOneHotLayer", ("axis",)),
    "PADDING": LayerKind("IPaddingLayer", ("pre_padding_nd", "post_padding_nd")),
    "PARAMETRIC_RELU": LayerKind("IParametricReLULayer"),
    "PLUGIN_V3": LayerKind("IPluginV3Layer"),
    "POOLING": LayerKind(
        "IPoolingLayer", ("type", "window_size_nd", "blend_factor", "average_count_excludes_padding", *_WINDOW)
    ),
    "QUANTIZE": LayerKind("IQuantizeLayer", ("axis", "block_shape", "to_type")),
    "RECURRENCE": LayerKind("IRecurrenceLayer", owner="loop"),
    "REDUCE": LayerKind("IReduceLayer", ("op", "axes", "keep_dims")),
    "RESIZE": LayerKind(
        "IResizeLayer",
        ("resize_mode", "coordinate_transformation", "nearest_rounding", "selector_for_single_pixel", "cubic_coeff",
         "exclude_outside", "scales", "shape"),
    ),
    "REVERSE_SEQUENCE": LayerKind("IReverseSequenceLayer", ("batch_axis", "sequence_axis")),
    "ROTARY_EMBEDDING": LayerKind("IRotaryEmbeddingLayer", ("interleaved", "rotary_embedding_dim")),
    "SCALE": LayerKind("IScaleLayer", ("mode", "channel_axis"), ("scale", "shift", "power")),
    "SCATTER": LayerKind("IScatterLayer", ("axis", "mode")),
    "SELECT": LayerKind("ISelectLayer"),
    "SHAPE": LayerKind("IShapeLayer"),
    "SHUFFLE": LayerKind("IShuffleLayer", ("first_transpose", "reshape_dims", "second_transpose",
                                           "zero_is_placeholder")),
    "SLICE": LayerKind("ISliceLayer", ("start", "shape", "stride", "axes", "mode")),
    "SOFTMAX": LayerKind("ISoftMaxLayer", ("axes",)),
    "SQUEEZE": LayerKind("ISqueezeLayer"),
    "TOPK": LayerKind("ITopKLayer", ("op", "k", "axes")),
    "TRIP_LIMIT": LayerKind("ITripLimitLayer", ("kind",), owner="loop"),
    "UNARY": LayerKind("IUnaryLayer", ("op",)),
    "UNSQUEEZE": LayerKind("IUnsqueezeLayer"),
}  # fmt: skip
"""By ``LayerType`` name; a type that is missing is read without attributes, and no replay knows it."""

ATTENTION = ("norm_op", "causal_kind", "query_form", "key_value_form")
"""Attributes of the attention itself, which its input layer is read with."""
PLUGIN = ("plugin_name", "plugin_version", "plugin_namespace")
"""What a plugin says of itself."""
