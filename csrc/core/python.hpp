// What both modules need of pybind11.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <typeinfo>

namespace recap {

// Runs it without the GIL.
template <typename Action>
auto without_gil(const Action& action) {
  const pybind11::gil_scoped_release release;
  return action();
}

// An object that only `__new__` has made has no value, and pybind11 hands its methods memory that nothing was written
// to. With this they raise TypeError.
template <typename T>
void require_init() {
  pybind11::detail::get_type_info(typeid(T))->operator_new = [](std::size_t) -> void* {
    throw pybind11::type_error("the object's __init__ was never called");
  };
}

}  // namespace recap
