// What a host decides about the arguments of a kernel; without these macros it is the launch in Python.
//
// OUTPUT_LAST: the output comes behind the scalars, which is the order of TensorRT. PACKED: output channels of a packed
// tile of weights, where those of a block consist of several.
#pragma once

#ifdef OUTPUT_LAST
#define OUTPUT_FIRST(declaration)
#define OUTPUT_BEHIND(declaration) , declaration
#else
#define OUTPUT_FIRST(declaration) declaration,
#define OUTPUT_BEHIND(declaration)
#endif
