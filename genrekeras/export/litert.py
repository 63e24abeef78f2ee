"""LiteRT (TensorFlow Lite)."""

import json
import zipfile

from genrekeras.export.base import CARD, Format


def write(model, path, card, clips, quantize=None):
    model.export(path, format="litert", verbose=False)
    if quantize:
        _quantize_litert(path, quantize)
    with zipfile.ZipFile(path, "a") as file:  # behind the model, as LiteRT's own associated files
        file.writestr(CARD, json.dumps(card))


def _quantize_litert(path, quantize):
    """Kernels of the backbone's convolutions in fewer bits.

    TensorFlow's own converter quantizes the last layer and, to 16 bits, the matrices of the spectrogram as well; its 8
    bits hold for activations too, made anew at each call, with which LiteRT took three times as long as with 32.
    """
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

    if quantize == "float16":
        algorithm, options = algorithm_manager.AlgorithmName.FLOAT_CASTING, {}
        weights = qtyping.TensorQuantizationConfig(16, dtype=qtyping.TensorDataType.FLOAT)
    else:
        algorithm, options = algorithm_manager.AlgorithmName.MIN_MAX_UNIFORM_QUANT, {"min_weight_elements": 1024}
        weights = qtyping.TensorQuantizationConfig(8, granularity=qtyping.QuantGranularity.CHANNELWISE)
    config = qtyping.OpQuantizationConfig(weight_tensor_config=weights, explicit_dequantize=True, **options)
    work = quantizer.Quantizer(path)
    for operation in (qtyping.TFLOperationName.CONV_2D, qtyping.TFLOperationName.DEPTHWISE_CONV_2D):
        work.update_quantization_recipe("feature_extractor", operation, config, algorithm)
    result = work.quantize(enable_progress_bar=False, enable_progress_report=False)
    with open(path, "wb") as file:
        file.write(result.quantized_model)


def run(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    [given], [result] = interpreter.get_input_details(), interpreter.get_output_details()

    def run(waveforms):
        interpreter.resize_tensor_input(given["index"], waveforms.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], waveforms)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    return run


def read_card(path):
    with zipfile.ZipFile(path) as file:
        return json.loads(file.read(CARD))


FORMAT = Format(".tflite", ("tensorflow",), write, run, read_card, ("float16", "int8"))
