#include "chat/jinja_format.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/utf8.h"
#include "chat/jinja_eval.h"
#include "chat/jinja_ops.h"
#include "chat/jinja_sort.h"
#include "chat/jinja_unicode.h"

namespace decant::jinja {

std::string format_float(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  const std::string text(buffer, end);
  const size_t e = text.find('e');
  const int exponent = std::stoi(text.substr(e + 1));
  const bool negative = text[0] == '-';
  std::string digits = text.substr(negative ? 1 : 0, e - (negative ? 1 : 0));
  std::erase(digits, '.');
  std::string out = negative ? "-" : "";
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits.substr(0, 1);
    if (count > 1) out += "." + digits.substr(1);
    out += fmt::format("e{}{:02d}", exponent < 0 ? '-' : '+', std::abs(exponent));
  } else if (exponent < 0) {
    out += "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  } else if (count <= exponent + 1) {
    out += digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  } else {
    out += digits.substr(0, static_cast<size_t>(exponent) + 1) + "." +
           digits.substr(static_cast<size_t>(exponent) + 1);
  }
  return out;
}

void append_escaped(TextBuilder& out, const Str& text) {
  size_t from = 0;
  const std::string& bytes = text.text;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const char* escape = bytes[i] == '&'    ? "&amp;"
                         : bytes[i] == '<'  ? "&lt;"
                         : bytes[i] == '>'  ? "&gt;"
                         : bytes[i] == '"'  ? "&#34;"
                         : bytes[i] == '\'' ? "&#39;"
                                            : nullptr;
    if (escape == nullptr) continue;
    out.append(text, from, i);
    out.append(escape);
    from = i + 1;
  }
  out.append(text, from, bytes.size());
}

void append_str(Interp& interp, TextBuilder& out, const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      break;
    case Kind::kString:
      out.append(value.str());
      break;
    default:
      append_repr(interp, out, value);
  }
}

Value to_str(Interp& interp, const Value& value) {
  if (value.is_string()) return value;
  TextBuilder out(interp.budget());
  append_str(interp, out, value);
  return out.take();
}

namespace {

void append_string_repr(TextBuilder& out, const Str& string) {
  const std::string& text = string.text;
  const bool marked = !string.marks.empty();
  const char quote =
      text.find('\'') != std::string::npos && text.find('"') == std::string::npos ? '"' : '\'';
  std::string body;
  for (size_t i = 0; i < text.size();) {
    const uint32_t c = code_point_at(text, i);
    const size_t next = next_code_point(text, i);
    if (c == static_cast<uint32_t>(quote) || c == '\\') {
      body += '\\';
      body += static_cast<char>(c);
    } else if (c == '\n') {
      body += "\\n";
    } else if (c == '\r') {
      body += "\\r";
    } else if (c == '\t') {
      body += "\\t";
    } else if (is_printable(c)) {
      body.append(text, i, next - i);
    } else if (c < 0x100) {
      body += fmt::format("\\x{:02x}", c);
    } else if (c < 0x10000) {
      body += fmt::format("\\u{:04x}", c);
    } else {
      body += fmt::format("\\U{:08x}", c);
    }
    i = next;
  }
  out.append(std::string_view(&quote, 1));
  out.append(body, marked);
  out.append(std::string_view(&quote, 1));
}

void append_items(Interp& interp, TextBuilder& out,
                  const std::vector<std::pair<Value, Value>>& items) {
  out.append("{");
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out.append(", ");
    append_repr(interp, out, items[i].first);
    out.append(": ");
    append_repr(interp, out, items[i].second);
  }
  out.append("}");
}

void append_view(Interp& interp, TextBuilder& out, const Value& value) {
  const auto& view = value.as<View>();
  out.append(type_name(value));
  out.append("([");
  bool first = true;
  for (const auto& [key, item] : view.dict.as<Dict>().items) {
    if (!first) out.append(", ");
    first = false;
    if (view.what == 'i') out.append("(");
    if (view.what != 'v') append_repr(interp, out, key);
    if (view.what == 'i') out.append(", ");
    if (view.what != 'k') append_repr(interp, out, item);
    if (view.what == 'i') out.append(")");
  }
  out.append("])");
}

}  // namespace

void append_repr(Interp& interp, TextBuilder& out, const Value& value) {
  interp.budget().step();
  const DepthGuard guard(interp.budget());
  switch (value.kind()) {
    case Kind::kUndefined:
      out.append("Undefined");
      break;
    case Kind::kNone:
      out.append("None");
      break;
    case Kind::kBool:
      out.append(value.as_bool() ? "True" : "False");
      break;
    case Kind::kInt:
      out.append(std::to_string(value.as_int()));
      break;
    case Kind::kBigInt:
      out.append(value.as<BigInt>().digits);
      break;
    case Kind::kFloat:
      out.append(format_float(value.as_float()));
      break;
    case Kind::kString:
      if (value.str().markup) out.append("Markup(");
      append_string_repr(out, value.str());
      if (value.str().markup) out.append(")");
      break;
    case Kind::kList:
    case Kind::kTuple: {
      const auto& items = value.as<Sequence>().items;
      const bool list = value.is(Kind::kList);
      out.append(list ? "[" : "(");
      for (size_t i = 0; i < items.size(); ++i) {
        if (i > 0) out.append(", ");
        append_repr(interp, out, items[i]);
      }
      out.append(list ? "]" : items.size() == 1 ? ",)" : ")");
      break;
    }
    case Kind::kDict:
      append_items(interp, out, value.as<Dict>().items);
      break;
    case Kind::kNamespace:
      out.append("<Namespace ");
      append_items(interp, out, value.as<Namespace>().items);
      out.append(">");
      break;
    case Kind::kView:
      append_view(interp, out, value);
      break;
    case Kind::kRange: {
      const auto& range = value.as<Range>();
      out.append(range.step == 1
                     ? fmt::format("range({}, {})", range.start, range.stop)
                     : fmt::format("range({}, {}, {})", range.start, range.stop, range.step));
      break;
    }
    case Kind::kMacro:
      out.append(fmt::format("<Macro '{}'>", value.as<Macro>().stmt->name));
      break;
    case Kind::kLoop: {
      Value index, length;
      interp.loop_attribute(value, "index", index);
      interp.loop_attribute(value, "length", length);
      out.append(fmt::format("<LoopContext {}/{}>", index.as_int(), length.as_int()));
      break;
    }
    case Kind::kFunction:
      out.append(fmt::format("<function {}>", value.as<Function>().name));
      break;
    case Kind::kIterator:
    case Kind::kCycler:
    case Kind::kJoiner:
      out.append(fmt::format("<{} object>", type_name(value)));
      break;
  }
}

// --- JSON

namespace {

void append_json_string(TextBuilder& out, const Str& string, bool ensure_ascii) {
  std::string body;
  const std::string& text = string.text;
  body.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const uint32_t c = code_point_at(text, i);
    const size_t next = next_code_point(text, i);
    switch (c) {
      case '"':
        body += "\\\"";
        break;
      case '\\':
        body += "\\\\";
        break;
      case '\n':
        body += "\\n";
        break;
      case '\r':
        body += "\\r";
        break;
      case '\t':
        body += "\\t";
        break;
      case '\f':
        body += "\\f";
        break;
      case '\b':
        body += "\\b";
        break;
      default:
        if (c < 0x20 || (ensure_ascii && c > 0x7e && c < 0x10000)) {
          body += fmt::format("\\u{:04x}", c);
        } else if (ensure_ascii && c > 0xffff) {
          body += fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + ((c - 0x10000) >> 10),
                              0xdc00 + ((c - 0x10000) & 0x3ff));
        } else {
          body.append(text, i, next - i);
        }
    }
    i = next;
  }
  out.append("\"");
  out.append(body, !string.marks.empty());
  out.append("\"");
}

class JsonWriter {
 public:
  JsonWriter(Interp& interp, TextBuilder& out, const JsonStyle& style)
      : interp_(interp), out_(out), style_(style) {}

  void write(const Value& value) {
    interp_.budget().step();
    const DepthGuard guard(interp_.budget());
    switch (value.kind()) {
      case Kind::kNone:
        out_.append("null");
        break;
      case Kind::kBool:
        out_.append(value.as_bool() ? "true" : "false");
        break;
      case Kind::kFloat:
        out_.append(number(value.as_float()));
        break;
      case Kind::kInt:
      case Kind::kBigInt:
        append_repr(interp_, out_, value);
        break;
      case Kind::kString:
        append_json_string(out_, value.str(), style_.ensure_ascii);
        break;
      case Kind::kList:
      case Kind::kTuple:
        write_list(value.as<Sequence>().items);
        break;
      case Kind::kDict:
        write_dict(value.as<Dict>().items);
        break;
      default:
        fail("TypeError", "Object of type {} is not JSON serializable", type_name(value));
    }
  }

 private:
  static std::string number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
    return format_float(value);
  }

  void newline() {
    if (!style_.has_indent) return;
    out_.append("\n");
    for (int i = 0; i < level_; ++i) {
      interp_.budget().step();
      out_.append(style_.indent);
    }
  }

  void write_list(const std::vector<Value>& items) {
    if (items.empty()) return out_.append("[]");
    out_.append("[");
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_.append(style_.item_separator);
      newline();
      write(items[i]);
    }
    --level_;
    newline();
    out_.append("]");
  }

  void write_dict(const std::vector<std::pair<Value, Value>>& items) {
    if (items.empty()) return out_.append("{}");
    std::vector<size_t> order(items.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    if (style_.sort_keys) {
      interp_.budget().step(order.size() * 8);
      order = stable_order(items.size(), [&](size_t a, size_t b) {
        return less(interp_, items[a].first, items[b].first);
      });
    }
    out_.append("{");
    ++level_;
    bool first = true;
    for (const size_t at : order) {
      if (!first) out_.append(style_.item_separator);
      first = false;
      newline();
      write_key(items[at].first);
      out_.append(style_.key_separator);
      write(items[at].second);
    }
    --level_;
    newline();
    out_.append("}");
  }

  void write_key(const Value& key) {
    switch (key.kind()) {
      case Kind::kString:
        append_json_string(out_, key.str(), style_.ensure_ascii);
        break;
      case Kind::kNone:
      case Kind::kBool:
      case Kind::kInt:
      case Kind::kBigInt:
      case Kind::kFloat:
        out_.append("\"");
        write(key);
        out_.append("\"");
        break;
      default:
        fail("TypeError", "keys must be str, int, float, bool or None, not {}", type_name(key));
    }
  }

  Interp& interp_;
  TextBuilder& out_;
  const JsonStyle& style_;
  int level_ = 0;
};

}  // namespace

void append_json(Interp& interp, TextBuilder& out, const Value& value, const JsonStyle& style) {
  JsonWriter(interp, out, style).write(value);
}

}  // namespace decant::jinja
