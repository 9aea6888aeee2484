// The Python face of llama.hpp and tower.hpp.
#pragma once

#include <pybind11/pybind11.h>

namespace recap::cpu {

void bind_models(pybind11::module_& module);

}  // namespace recap::cpu
