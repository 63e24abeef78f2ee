"""LiteRT (TensorFlow Lite): `.tflite` files."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from genrekeras.export.base import CARD, OUTPUTS, Format, Run

if TYPE_CHECKING:
    import keras


def write(
    model: keras.Model,
    path: str,
    card: Mapping[str, Any],
    clips: np.ndarray,
    quantize: Literal["float16", "int8"] | None = None,
) -> None:
    """Export a model and its card to a `.tflite` file. See `Format`."""
    import keras

    named = keras.Model(model.input, dict(zip(OUTPUTS, model.output, strict=True)))
    named.export(path, format="litert", verbose=False)
    if quantize:
        _quantize_litert(path, quantize)
    # Append the card as a zip archive. LiteRT stores associated files in the same way.
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(CARD, json.dumps(card))


def _quantize_litert(path, quantize):
    """Store the kernels of the backbone's convolutions as `"float16"` or `"int8"`.

    The converter of TensorFlow is not used, because it also quantizes the last layer. With 16 bits, it quantizes the
    matrices of the spectrogram too. With 8 bits, it adds a quantization of activations to each call, and LiteRT then
    needed three times as long as with 32 bits.
    """
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

    if quantize == "float16":
        algorithm, options = algorithm_manager.AlgorithmName.FLOAT_CASTING, {}
        weights = qtyping.TensorQuantizationConfig(16, dtype=qtyping.TensorDataType.FLOAT)
    else:
        algorithm, options = algorithm_manager.AlgorithmName.MIN_MAX_UNIFORM_QUANT, {"min_weight_elements": 1024}
        weights = qtyping.TensorQuantizationConfig(8, granularity=qtyping.QuantGranularity.CHANNELWISE)
    config = qtyping.OpQuantizationConfig(weight_tensor_config=weights, explicit_dequantize=True, **options)
    model_quantizer = quantizer.Quantizer(path)
    for operation in (qtyping.TFLOperationName.CONV_2D, qtyping.TFLOperationName.DEPTHWISE_CONV_2D):
        model_quantizer.update_quantization_recipe("feature_extractor", operation, config, algorithm)
    result = model_quantizer.quantize(enable_progress_bar=False, enable_progress_report=False)
    with open(path, "wb") as file:
        file.write(result.quantized_model)


def load(path: str) -> tuple[Run, str | None]:
    """Load an exported model into LiteRT. See `Format`."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(path).get_signature_runner()
    [model_input] = run.get_input_details()
    text = None
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            text = file.read(CARD).decode() if CARD in file.namelist() else None
    return lambda waveforms: run(**{model_input: waveforms}), text


FORMAT = Format(".tflite", ("tensorflow",), write, load, ("float16", "int8"))
