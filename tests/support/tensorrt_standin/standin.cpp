// A stand-in of libnvinfer: a plugin registry, and a driver that asks a registered ahead-of-time plugin everything that
// a build of TensorRT asks, in its order. It builds and runs no engine.
//
// What the driver returns is JSON, which `support.tensorrt_drive` describes and judges.
#include "abi.hpp"

#include <algorithm>
#include <cstring>
#include <deque>
#include <limits>
#include <string>
#include <tuple>
#include <unordered_set>
#include <vector>

namespace standin {
namespace {

using Cases = std::vector<std::vector<Dims>>;  // one entry a case: the dimensions of each input

// ---- Symbolic integers: a tree that is kept, so that it can be evaluated for any sizes.

struct Value {
    int64_t number = 0;
    char const* fault = nullptr;
};

struct Expr : DimensionExpr {
    struct Impl : DimensionExprImpl {
        Expr const* owner = nullptr;
        bool isConstant() const override { return owner->constant; }
        int64_t constantValue() const override {
            return owner->constant ? owner->eval(nullptr).number : std::numeric_limits<int64_t>::min();
        }
        bool isSizeTensor() const override { return false; }
    };

    Impl own;
    bool constant = true;
    int64_t number = 0;
    int32_t input = -1, axis = -1;
    Operation operation = Operation::sum;
    Expr const *first = nullptr, *second = nullptr;

    Expr() {
        own.owner = this;
        impl = &own;
    }

    Value eval(std::vector<Dims> const* sizes) const {
        if (!first) return {input < 0 ? number : (*sizes)[input].d[axis]};
        Value const a = first->eval(sizes), b = second->eval(sizes);
        if (a.fault || b.fault) return {0, a.fault ? a.fault : b.fault};
        int64_t result = 0;
        bool overflow = false;
        switch (operation) {
        case Operation::sum: overflow = __builtin_add_overflow(a.number, b.number, &result); break;
        case Operation::product: overflow = __builtin_mul_overflow(a.number, b.number, &result); break;
        case Operation::difference: overflow = __builtin_sub_overflow(a.number, b.number, &result); break;
        case Operation::maximum: result = std::max(a.number, b.number); break;
        case Operation::minimum: result = std::min(a.number, b.number); break;
        case Operation::equal: result = a.number == b.number; break;
        case Operation::less: result = a.number < b.number; break;
        case Operation::floor_div:
        case Operation::ceil_div: {
            if (b.number == 0) return {0, "division by zero"};
            int64_t const rest = a.number % b.number;
            result = a.number / b.number;
            bool const negative = (rest < 0) != (b.number < 0);
            if (operation == Operation::floor_div) result -= rest != 0 && negative;
            else result += rest != 0 && !negative;
            break;
        }
        default: return {0, "unknown operation"};
        }
        return {result, overflow ? "overflow of 64 bits" : nullptr};
    }

    std::string text() const {
        if (input >= 0) return "i" + std::to_string(input) + ".d" + std::to_string(axis);
        if (!first) return std::to_string(number);
        static char const* const names[] = {"+", "*", "max", "min", "-", "==", "<", "//", "cdiv"};
        auto const index = static_cast<size_t>(operation);
        std::string const name = index < 9 ? names[index] : "?", a = first->text(), b = second->text();
        bool const function = name == "max" || name == "min" || name == "cdiv";
        return function ? name + "(" + a + ", " + b + ")" : "(" + a + " " + name + " " + b + ")";
    }
};

struct Builder : ExprBuilder, ExprBuilderImpl {
    std::deque<Expr> pool;  // addresses stay; nothing is freed while the process lives
    std::unordered_set<void const*> known;

    Builder() { ExprBuilder::impl = this; }
    Expr& add() {
        pool.emplace_back();
        known.insert(&pool.back());
        return pool.back();
    }
    Expr const* size(int32_t input, int32_t axis) {
        Expr& expr = add();
        expr.constant = false;
        expr.input = input;
        expr.axis = axis;
        return &expr;
    }
    DimensionExpr const* constant(int64_t value) override {
        Expr& expr = add();
        expr.number = value;
        return &expr;
    }
    DimensionExpr const* operation(Operation operation, DimensionExpr const& a, DimensionExpr const& b) override {
        Expr const *first = find(&a), *second = find(&b);
        if (!first || !second) return nullptr;
        Expr& expr = add();
        expr.operation = operation;
        expr.first = first;
        expr.second = second;
        expr.constant = first->constant && second->constant && !expr.eval(nullptr).fault;
        return &expr;
    }
    DimensionExpr const* sizeTensor(int32_t, DimensionExpr const&, DimensionExpr const&) override { return nullptr; }
    Expr const* find(void const* pointer) const {
        return known.count(pointer) ? static_cast<Expr const*>(static_cast<DimensionExpr const*>(pointer)) : nullptr;
    }
};

struct Extra : SymExprs, SymExprsImpl {
    std::vector<SymExpr*> items;
    Extra() { SymExprs::impl = this; }
    SymExpr* get(int32_t index) const override { return valid(index) ? items[index] : nullptr; }
    bool set(int32_t index, SymExpr* item) override { return valid(index) && ((items[index] = item), true); }
    int32_t size() const override { return static_cast<int32_t>(items.size()); }
    bool resize(int32_t count) override { return count >= 0 && (items.assign(count, nullptr), true); }
    bool valid(int32_t index) const { return index >= 0 && index < size(); }
};

struct Launch : LaunchParams, LaunchParamsImpl {
    SymExpr* items[7] = {};
    Launch() { LaunchParams::impl = this; }
    bool set(int index, SymExpr* item) { return (items[index] = item), true; }
    SymExpr* gridX() override { return items[0]; }
    bool setGridX(SymExpr* item) override { return set(0, item); }
    SymExpr* gridY() override { return items[1]; }
    bool setGridY(SymExpr* item) override { return set(1, item); }
    SymExpr* gridZ() override { return items[2]; }
    bool setGridZ(SymExpr* item) override { return set(2, item); }
    SymExpr* blockX() override { return items[3]; }
    bool setBlockX(SymExpr* item) override { return set(3, item); }
    SymExpr* blockY() override { return items[4]; }
    bool setBlockY(SymExpr* item) override { return set(4, item); }
    SymExpr* blockZ() override { return items[5]; }
    bool setBlockZ(SymExpr* item) override { return set(5, item); }
    SymExpr* sharedMemory() override { return items[6]; }
    bool setSharedMemory(SymExpr* item) override { return set(6, item); }
};

// ---- The registry.

struct Plugins : Registry {
    struct Entry {
        Versioned* creator;
        std::tuple<std::string, std::string, std::string> id;
    };
    std::vector<Entry> entries;
    mutable std::vector<Versioned*> listed;
    void* recorder = nullptr;
    bool parents = true;

#if TRT_MAJOR < 11
    bool registerOldCreator(void*, char const*) override { return false; }
    void* const* oldCreators(int32_t* count) const override { return (*count = 0), nullptr; }
    void* oldCreator(char const*, char const*, char const*) override { return nullptr; }
    bool deregisterOldCreator(void const*) override { return false; }
#endif
    void setErrorRecorder(void* given) override { recorder = given; }
    void* errorRecorder() const override { return recorder; }
    bool parentSearch() const override { return parents; }
    void setParentSearch(bool given) override { parents = given; }
    void* loadLibrary(char const*) override { return nullptr; }
    void deregisterLibrary(void*) override {}
    bool registerCreator(Versioned& given, char const* space) override {
        auto const& named = static_cast<Creator const&>(given);  // the V3One creator has its names in the same slots
        std::tuple<std::string, std::string, std::string> id{named.name(), named.version(), space};
        for (Entry const& entry : entries)
            if (entry.id == id) return false;
        entries.push_back({&given, std::move(id)});
        return true;
    }
    Versioned* const* allCreators(int32_t* count) const override {
        listed.clear();
        for (Entry const& entry : entries) listed.push_back(entry.creator);
        *count = static_cast<int32_t>(listed.size());
        return listed.data();
    }
    Versioned* creator(char const* name, char const* version, char const* space) override {
        for (Entry const& entry : entries)
            if (entry.id == std::make_tuple(std::string(name), std::string(version), std::string(space)))
                return entry.creator;
        return nullptr;
    }
    bool deregisterCreator(Versioned const& given) override {
        auto const found = std::find_if(entries.begin(), entries.end(),
                                        [&](Entry const& entry) { return entry.creator == &given; });
        return found != entries.end() && (entries.erase(found), true);
    }
    void* acquireResource(char const*, void*) override { return nullptr; }
    int32_t releaseResource(char const*) override { return -1; }
    Versioned* const* allCreatorsRecursive(int32_t* count) override { return allCreators(count); }
};

Plugins registry;
Builder builder;

// ---- JSON.

std::string quoted(char const* text) {
    if (!text) return "null";
    std::string out = "\"";
    for (char const* c = text; *c; ++c) {
        if (*c == '"' || *c == '\\') out += '\\';
        if (static_cast<unsigned char>(*c) < 0x20) out += ' ';
        else out += *c;
    }
    return out + '"';
}

template <class Items, class Show> std::string list(Items const& items, Show show) {
    std::string out = "[";
    for (auto const& item : items) out += (out.size() > 1 ? ", " : "") + show(item);
    return out + "]";
}

std::string numbers(std::vector<int32_t> const& items) {
    return list(items, [](int32_t item) { return std::to_string(item); });
}

// An expression with its value, or what is wrong with it, in every case.
std::string shown(Expr const* expr, Cases const& cases) {
    if (!expr) return "null";
    auto const value = [&](std::vector<Dims> const& sizes) {
        Value const found = expr->eval(&sizes);
        return found.fault ? quoted(found.fault) : std::to_string(found.number);
    };
    return "{\"text\": " + quoted(expr->text().c_str()) + ", \"values\": " + list(cases, value) + "}";
}

std::string shown(SymExpr* item, Cases const& cases) {
    if (!item) return "null";
    return "{\"kind\": " + std::to_string(item->kind()) + ", \"type\": " + std::to_string(item->type()) +
           ", \"expr\": " + shown(builder.find(item->expr()), cases) + "}";
}

std::string hexadecimal(std::string const& bytes) {
    static char const digits[] = "0123456789abcdef";
    std::string out;
    for (unsigned char byte : bytes) out += {digits[byte >> 4], digits[byte & 15]};
    return out;
}

// ---- The drive.

struct Drive {
    std::string out = "{", failed;
    std::vector<DynamicTensorDesc> tensors;  // inputs, then outputs
    std::vector<DimsExprs> sizes;            // symbolic ones of the inputs
    Cases cases;
    PluginBuild* build = nullptr;
    int32_t nIn = 0, nOut = 0;

    void put(char const* key, std::string const& json) {
        out += (out.size() > 1 ? ", \"" : "\"") + std::string(key) + "\": " + json;
    }
    bool fail(char const* step) { return (failed = step), false; }
    bool is(Versioned const* object, char const* kind, char const* step) {
        return object && !std::strcmp(object->info().kind, kind) ? true : fail(step);
    }

    // `given` has for each input: type, rank, then for each dimension its size (-1: dynamic), min, opt and max.
    void inputs(int64_t const* given, int32_t count) {
        nIn = count;
        for (int32_t i = 0; i < count; ++i) {
            DynamicTensorDesc tensor{};
            DimsExprs exprs{};
            tensor.desc.type = static_cast<int32_t>(*given++);
            tensor.desc.scale = 1;
            int32_t const rank = static_cast<int32_t>(*given++);
            tensor.desc.dims.count = tensor.min.count = tensor.opt.count = tensor.max.count = exprs.count = rank;
            for (int32_t axis = 0; axis < rank; ++axis, given += 4) {
                tensor.desc.dims.d[axis] = given[0];
                tensor.min.d[axis] = given[1];
                tensor.opt.d[axis] = given[2];
                tensor.max.d[axis] = given[3];
                exprs.d[axis] = given[0] < 0 ? builder.size(i, axis) : builder.constant(given[0]);
            }
            tensors.push_back(tensor);
            sizes.push_back(exprs);
        }
    }

    // `given` has the dimensions of each input, case after case.
    void shapes(int64_t const* given, int32_t count) {
        for (; count > 0; --count) {
            cases.emplace_back();
            for (DimsExprs const& exprs : sizes) {
                Dims dims{exprs.count, {}};
                for (int32_t axis = 0; axis < exprs.count; ++axis) dims.d[axis] = *given++;
                cases.back().push_back(dims);
            }
        }
    }

    bool create(char const* name, char const* space, FieldCollection const& given) {
        Versioned* const found = registry.creator(name, "1", space);
        if (!is(found, "PLUGIN CREATOR_V3QUICK", "getCreator")) return false;
        auto* const creator = static_cast<Creator*>(found);
        FieldCollection const* const names = creator->fieldNames();
        if (!names) return fail("getFieldNames");
        // As the ONNX parser does: the fields that the creator names, in its order, as far as the node has them.
        std::vector<Field> fields;
        std::string declared;
        for (int32_t i = 0; i < names->count; ++i) {
            Field const& wanted = names->fields[i];
            declared += (i ? ", [" : "[") + quoted(wanted.name) + ", " + std::to_string(wanted.type) + "]";
            for (int32_t j = 0; j < given.count; ++j)
                if (!std::strcmp(given.fields[j].name, wanted.name)) fields.push_back(given.fields[j]);
        }
        put("fields", "[" + declared + "]");
        FieldCollection const passed{static_cast<int32_t>(fields.size()), fields.data()};
        Plugin* plugin = creator->create(name, space, &passed, Phase::build, Request::strict_aot);
        if (!plugin) return fail("createPlugin");
        // The library works on clones of what a creator makes.
        if (!is(plugin, "PLUGIN", "createPlugin") || !is(plugin = plugin->clone(), "PLUGIN", "clone")) return false;
        Versioned* const core = plugin->capability(Capability::core);
        if (!is(core, "PLUGIN_V3QUICK_CORE", "getCapabilityInterface(CORE)")) return false;
        auto const* const named = static_cast<PluginCore const*>(core);
        put("core", list(std::vector<char const*>{named->name(), named->version(), named->space()}, quoted));
        Versioned* const interface = plugin->capability(Capability::build);
        if (!is(interface, "PLUGIN_V3QUICKAOT_BUILD", "getCapabilityInterface(BUILD)")) return false;
        build = static_cast<PluginBuild*>(interface);
        return true;
    }

    bool outputs() {
        nOut = build->countOutputs();
        if (nOut < 1) return fail("getNbOutputs");
        std::vector<int32_t> inTypes, ranks, types(nOut, -1);
        for (DynamicTensorDesc const& tensor : tensors) {
            inTypes.push_back(tensor.desc.type);
            ranks.push_back(tensor.desc.dims.count);
        }
        if (build->outputTypes(types.data(), nOut, inTypes.data(), ranks.data(), nIn)) return fail("getOutputDataTypes");
        std::vector<DimsExprs> shapes(nOut);
        if (build->outputShapes(sizes.data(), nIn, nullptr, 0, shapes.data(), nOut, builder))
            return fail("getOutputShapes");
        std::string all;
        for (int32_t i = 0; i < nOut; ++i) {
            DynamicTensorDesc tensor{};
            std::vector<Expr const*> dims;
            int32_t const rank = shapes[i].count;
            if (rank < 0 || rank > 8) return fail("getOutputShapes");
            tensor.desc.type = types[i];
            tensor.desc.scale = 1;
            tensor.desc.dims.count = tensor.min.count = tensor.opt.count = tensor.max.count = rank;
            for (int32_t axis = 0; axis < rank; ++axis) {
                Expr const* const expr = builder.find(shapes[i].d[axis]);
                dims.push_back(expr);
                tensor.desc.dims.d[axis] = expr && expr->constant ? expr->eval(nullptr).number : -1;
                tensor.min.d[axis] = bound(expr, &DynamicTensorDesc::min);
                tensor.opt.d[axis] = bound(expr, &DynamicTensorDesc::opt);
                tensor.max.d[axis] = bound(expr, &DynamicTensorDesc::max);
            }
            tensors.push_back(tensor);
            all += (i ? ", " : "") + std::string("{\"type\": ") + std::to_string(types[i]) +
                   ", \"alias\": " + std::to_string(build->aliasedInput(i)) +
                   ", \"dims\": " + list(dims, [&](Expr const* expr) { return shown(expr, cases); }) + "}";
        }
        put("outputs", "[" + all + "]");
        return true;
    }

    // The size of an output where all inputs have their lowest, best or highest size.
    int64_t bound(Expr const* expr, Dims DynamicTensorDesc::* which) const {
        std::vector<Dims> corner;
        for (int32_t i = 0; i < nIn; ++i) corner.push_back(tensors[i].*which);
        return expr ? expr->eval(&corner).number : -1;
    }

    bool variants() {
        int32_t const all = nIn + nOut, count = build->countCombinations(tensors.data(), nIn, nOut);
        if (count < 1) return fail("getNbSupportedFormatCombinations");
        std::vector<TensorDesc> offered(static_cast<size_t>(count) * all);
        if (build->combinations(tensors.data(), nIn, nOut, offered.data(), count))
            return fail("getSupportedFormatCombinations");
        std::string combinations, found;
        bool good = true;
        for (int32_t i = 0; i < count; ++i) {
            TensorDesc const* const row = offered.data() + static_cast<size_t>(i) * all;
            std::vector<int32_t> types, formats;
            bool matches = true;
            for (int32_t j = 0; j < all; ++j) {
                types.push_back(row[j].type);
                formats.push_back(row[j].format);
                matches = matches && row[j].type == tensors[j].desc.type;
            }
            combinations += (i ? ", {" : "{") + std::string("\"types\": ") + numbers(types) +
                            ", \"formats\": " + numbers(formats) + ", \"matches\": " + (matches ? "true}" : "false}");
            if (matches && good) good = combination(i, row, found);
        }
        put("combinations", "[" + combinations + "]");
        put("variants", "[" + found + "]");
        return good;
    }

    bool combination(int32_t index, TensorDesc const* row, std::string& found) {
        std::vector<DynamicTensorDesc> inOut = tensors;
        for (size_t j = 0; j < inOut.size(); ++j) inOut[j].desc.format = row[j].format;
        if (build->configure(inOut.data(), nIn, inOut.data() + nIn, nOut)) return fail("configurePlugin");
        int32_t const count = build->countTactics();
        if (count < 0) return fail("getNbTactics");
        std::vector<int32_t> tactics(count);
        if (build->tactics(tactics.data(), count)) return fail("getValidTactics");
        std::sort(tactics.begin(), tactics.end());
        for (int32_t tactic : tactics.empty() ? std::vector<int32_t>{0} : tactics) {
            found += (found.empty() ? "{" : ", {") + std::string("\"combination\": ") + std::to_string(index) +
                     ", \"custom\": " + (tactics.empty() ? "false" : "true") +
                     ", \"tactic\": " + std::to_string(tactic);
            bool const good = variant(tactic, inOut, found);
            found += "}";
            if (!good) return false;
        }
        return true;
    }

    bool variant(int32_t tactic, std::vector<DynamicTensorDesc> const& inOut, std::string& found) {
        Launch launch;
        Extra extra;
        if (build->setTactic(tactic)) return fail("setTactic");
        if (build->launchParams(sizes.data(), inOut.data(), nIn, nOut, &launch, &extra, builder))
            return fail("getLaunchParams");
        auto const show = [&](SymExpr* item) { return shown(item, cases); };
        found += ", \"launch\": " + list(launch.items, show) + ", \"extra\": " + list(extra.items, show);
        std::vector<TensorDesc> plain;
        for (DynamicTensorDesc const& tensor : inOut) plain.push_back(tensor.desc);
        char const* name = nullptr;
        char* code = nullptr;
        int32_t size = -1;
        if (build->kernel(plain.data(), nIn, plain.data() + nIn, nOut, &name, &code, &size) || size < 0)
            return fail("getKernel");
        // Both are copied at once: code is valid until the next call, and the bindings of 10.13.3 give the memory of
        // the name back before they return.
        char called[256] = "";
        if (name) std::strncpy(called, name, sizeof called - 1);
        std::string const bytes(code ? code : "", code ? size : 0);
        found += ", \"kernel\": " + quoted(name ? called : nullptr) + ", \"code\": \"" + hexadecimal(bytes) + "\"";
        return true;
    }

    bool run(char const* name, char const* space, FieldCollection const& fields) {
        if (!create(name, space, fields) || !outputs()) return false;
        put("timing_cache_id", quoted(build->timingCacheId()));
        put("metadata", quoted(build->metadata()));
        return variants();
    }
};

}  // namespace
}  // namespace standin

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void* createInferBuilder_INTERNAL(void*, int32_t) { return nullptr; }
EXPORT void* createInferRefitter_INTERNAL(void*, void*, int32_t) { return nullptr; }
EXPORT void* createInferRuntime_INTERNAL(void*, int32_t) { return nullptr; }
EXPORT standin::Registry* getPluginRegistry() { return &standin::registry; }
EXPORT standin::Registry* getBuilderPluginRegistry(int32_t) { return &standin::registry; }

// Returns JSON, valid until the next call.
EXPORT char const* standin_drive(char const* name, char const* space, standin::Field const* fields, int32_t nFields,
                                 int64_t const* inputs, int32_t nInputs, int64_t const* cases, int32_t nCases) {
    static std::string result;
    standin::Drive drive;
    drive.inputs(inputs, nInputs);
    drive.shapes(cases, nCases);
    bool const good = drive.run(name, space, {nFields, fields});
    drive.put("failed", good ? "null" : standin::quoted(drive.failed.c_str()));
    return (result = drive.out + "}").c_str();
}
