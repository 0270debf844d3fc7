// The part of TensorRT's C++ interface that its Python bindings use to register a plugin and to be asked about it.
//
// Layout only: names are free, what counts is the order of virtual methods and of data members (Itanium C++ ABI,
// Linux x86-64). A virtual destructor takes two slots at the place where it is declared. TRT_MAJOR is the major version
// whose registry is laid out; all else is the same in versions 10.13 to 11.4.
#pragma once

#include <cstddef>
#include <cstdint>

namespace standin {

enum class Operation : int32_t { sum, product, maximum, minimum, difference, equal, less, floor_div, ceil_div };
enum class Phase : int32_t { build, runtime };
enum class Capability : int32_t { core, build, runtime };
enum class Request : int32_t { unknown, prefer_jit, prefer_aot, strict_jit, strict_aot };

struct InterfaceInfo {
    char const* kind;
    int32_t major, minor;
};

struct Dims {
    int32_t count;
    int64_t d[8];
};

struct TensorDesc {
    Dims dims;
    int32_t type, format;
    float scale;
};

struct DynamicTensorDesc {
    TensorDesc desc;
    Dims min, max, opt;
};

struct Field {
    char const* name;
    void const* data;
    int32_t type, length;  // elements, not bytes
};

struct FieldCollection {
    int32_t count;
    Field const* fields;
};

// ---- Objects that the stand-in provides. The bindings call the object behind `impl` directly.

struct NoCopy {
protected:
    virtual ~NoCopy() = default;
};

struct DimensionExprImpl {
    virtual ~DimensionExprImpl() = default;
    virtual bool isConstant() const = 0;
    virtual int64_t constantValue() const = 0;
    virtual bool isSizeTensor() const = 0;
};

struct DimensionExpr : NoCopy {
    DimensionExprImpl* impl = nullptr;
};

struct DimsExprs {
    int32_t count;
    DimensionExpr const* d[8];
};

struct ExprBuilderImpl {
    virtual ~ExprBuilderImpl() = default;
    virtual DimensionExpr const* constant(int64_t value) = 0;
    virtual DimensionExpr const* operation(Operation, DimensionExpr const& first, DimensionExpr const& second) = 0;
    virtual DimensionExpr const* sizeTensor(int32_t output, DimensionExpr const& opt, DimensionExpr const& upper) = 0;
};

struct ExprBuilder : NoCopy {
    ExprBuilderImpl* impl = nullptr;
};

struct SymExpr {  // provided by the bindings
    virtual int32_t kind() const = 0;
    virtual int32_t type() const = 0;
    virtual void* expr() = 0;

protected:
    ~SymExpr() = default;
};

struct SymExprsImpl {
    virtual SymExpr* get(int32_t index) const = 0;
    virtual bool set(int32_t index, SymExpr*) = 0;
    virtual int32_t size() const = 0;
    virtual bool resize(int32_t count) = 0;
    virtual ~SymExprsImpl() = default;
};

struct SymExprs {
    virtual ~SymExprs() = default;
    SymExprsImpl* impl = nullptr;
};

struct LaunchParamsImpl {
    virtual SymExpr* gridX() = 0;
    virtual bool setGridX(SymExpr*) = 0;
    virtual SymExpr* gridY() = 0;
    virtual bool setGridY(SymExpr*) = 0;
    virtual SymExpr* gridZ() = 0;
    virtual bool setGridZ(SymExpr*) = 0;
    virtual SymExpr* blockX() = 0;
    virtual bool setBlockX(SymExpr*) = 0;
    virtual SymExpr* blockY() = 0;
    virtual bool setBlockY(SymExpr*) = 0;
    virtual SymExpr* blockZ() = 0;
    virtual bool setBlockZ(SymExpr*) = 0;
    virtual SymExpr* sharedMemory() = 0;
    virtual bool setSharedMemory(SymExpr*) = 0;
    virtual ~LaunchParamsImpl() = default;
};

struct LaunchParams {
    virtual ~LaunchParams() = default;
    LaunchParamsImpl* impl = nullptr;
};

// ---- Objects that the bindings provide.

struct Versioned {
    virtual int32_t language() const = 0;
    virtual InterfaceInfo info() const = 0;
    virtual ~Versioned() = default;
};

struct Plugin : Versioned {
    virtual Versioned* capability(Capability) = 0;
    virtual Plugin* clone() = 0;
};

struct PluginCore : Versioned {
    virtual char const* name() const = 0;
    virtual char const* version() const = 0;
    virtual char const* space() const = 0;
};

struct PluginBuild : Versioned {
    virtual int32_t outputTypes(int32_t* out, int32_t nOut, int32_t const* in, int32_t const* ranks,
                                int32_t nIn) const = 0;
    virtual int32_t outputShapes(DimsExprs const* in, int32_t nIn, DimsExprs const* shapeIn, int32_t nShapeIn,
                                 DimsExprs* out, int32_t nOut, ExprBuilder&) = 0;
    virtual int32_t configure(DynamicTensorDesc const* in, int32_t nIn, DynamicTensorDesc const* out,
                              int32_t nOut) = 0;
    virtual int32_t countCombinations(DynamicTensorDesc const* inOut, int32_t nIn, int32_t nOut) = 0;
    virtual int32_t combinations(DynamicTensorDesc const* inOut, int32_t nIn, int32_t nOut, TensorDesc* supported,
                                 int32_t count) = 0;
    virtual int32_t countOutputs() const = 0;
    virtual int32_t aliasedInput(int32_t output) = 0;
    virtual int32_t tactics(int32_t* out, int32_t count) = 0;
    virtual int32_t countTactics() = 0;
    virtual char const* timingCacheId() = 0;
    virtual char const* metadata() = 0;
    virtual int32_t launchParams(DimsExprs const* in, DynamicTensorDesc const* inOut, int32_t nIn, int32_t nOut,
                                 LaunchParams*, SymExprs* extra, ExprBuilder&) = 0;
    virtual int32_t kernel(TensorDesc const* in, int32_t nIn, TensorDesc const* out, int32_t nOut, char const** name,
                           char** code, int32_t* size) = 0;
    virtual int32_t setTactic(int32_t) = 0;
};

struct Creator : Versioned {
    virtual Plugin* create(char const* name, char const* space, FieldCollection const*, Phase, Request) = 0;
    virtual FieldCollection const* fieldNames() = 0;
    virtual char const* name() const = 0;
    virtual char const* version() const = 0;
    virtual char const* space() const = 0;
};

// ---- The registry, the one class that differs between versions 10 and 11.

struct Registry {
#if TRT_MAJOR < 11
    virtual bool registerOldCreator(void* creator, char const* space) = 0;
    virtual void* const* oldCreators(int32_t* count) const = 0;
    virtual void* oldCreator(char const* name, char const* version, char const* space) = 0;
#endif
    virtual ~Registry() = default;
    virtual void setErrorRecorder(void*) = 0;
    virtual void* errorRecorder() const = 0;
#if TRT_MAJOR < 11
    virtual bool deregisterOldCreator(void const* creator) = 0;
#endif
    virtual bool parentSearch() const = 0;
    virtual void setParentSearch(bool) = 0;
    virtual void* loadLibrary(char const* path) = 0;
    virtual void deregisterLibrary(void* handle) = 0;
    virtual bool registerCreator(Versioned&, char const* space) = 0;
    virtual Versioned* const* allCreators(int32_t* count) const = 0;
    virtual Versioned* creator(char const* name, char const* version, char const* space) = 0;
    virtual bool deregisterCreator(Versioned const&) = 0;
    virtual void* acquireResource(char const* key, void* resource) = 0;
    virtual int32_t releaseResource(char const* key) = 0;
    virtual Versioned* const* allCreatorsRecursive(int32_t* count) = 0;
};

static_assert(sizeof(InterfaceInfo) == 16 && sizeof(Dims) == 72 && sizeof(DimsExprs) == 72);
static_assert(sizeof(TensorDesc) == 88 && offsetof(TensorDesc, type) == 72 && offsetof(TensorDesc, scale) == 80);
static_assert(sizeof(DynamicTensorDesc) == 304 && offsetof(DynamicTensorDesc, max) == 160);
static_assert(sizeof(Field) == 24 && sizeof(FieldCollection) == 16);
static_assert(sizeof(DimensionExpr) == 16 && sizeof(LaunchParams) == 16 && sizeof(SymExprs) == 16);

}  // namespace standin
