// What the bindings take of TensorRT's plugin library and ONNX parser: functions that do nothing.
#include <cstdint>

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT bool initLibNvInferPlugins(void*, char const*) { return false; }
EXPORT void* createNvOnnxParser_INTERNAL(void*, void*, int32_t) { return nullptr; }
EXPORT void* createNvOnnxParserRefitter_INTERNAL(void*, void*, int32_t) { return nullptr; }
EXPORT int32_t getNvOnnxParserVersion() { return 0; }
