#pragma once

#include <string>

#include "chat/jinja_value.h"

namespace decant::jinja {

/// str(value), piece by piece with the marks of its strings.
void append_str(Interp& interp, TextBuilder& out, const Value& value);
Value to_str(Interp& interp, const Value& value);
/// repr(value)
void append_repr(Interp& interp, TextBuilder& out, const Value& value);
/// repr of a float: the shortest digits that read back the same, 1e+16 from 1e16 on.
std::string format_float(double value);

/// `text % values`
Value percent_format(Interp& interp, const Value& text, const Value& values);
/// text.format(*args, **kwargs)
Value str_format(Interp& interp, const Value& text, const Args& args);

/// How tojson writes.
struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool has_indent = false;
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
/// json.dumps
void append_json(Interp& interp, TextBuilder& out, const Value& value, const JsonStyle& style);

/// HTML escapes of markupsafe.
void append_escaped(TextBuilder& out, const Str& text);

}  // namespace decant::jinja
