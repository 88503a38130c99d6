#pragma once

#include <algorithm>
#include <iterator>
#include <string_view>

#include "chat/jinja_value.h"

namespace decant::jinja {

/// A row of a table of methods; tables are sorted by name.
struct Method {
  std::string_view name;
  NativeFunction call;
};

/// The method of this name in a table, or null.
template <size_t N>
NativeFunction find_method(const Method (&table)[N], std::string_view name) {
  const Method* found = std::lower_bound(
      std::begin(table), std::end(table), name,
      [](const Method& row, std::string_view wanted) { return row.name < wanted; });
  return found != std::end(table) && found->name == name ? found->call : nullptr;
}

/// The method of Python's str (jinja_string_methods.cpp), or null.
NativeFunction find_string_method(std::string_view name);

}  // namespace decant::jinja
