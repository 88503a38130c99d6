#include <algorithm>
#include <ctime>
#include <iterator>

#include "base/utf8.h"
#include "chat/jinja_eval.h"
#include "chat/jinja_format.h"
#include "chat/jinja_ops.h"

namespace decant::jinja {
namespace {

// The sandbox's own cap.
constexpr int64_t kMaxRange = 100'000;

Value range(Interp& interp, const Value&, const Args& args) {
  args.check("range", 1, 3);
  int64_t parts[3] = {0, 0, 1};
  const size_t count = args.positional.size();
  for (size_t i = 0; i < count; ++i)
    parts[count == 1 ? 1 : i] = require_int(args.positional[i], "range");
  auto out = make_object<Range>(interp.budget());
  out->start = parts[0];
  out->stop = parts[1];
  out->step = parts[2];
  if (out->step == 0) fail("ValueError", "range() arg 3 must not be zero");
  const bool up = out->step > 0;
  if (up ? out->start < out->stop : out->start > out->stop) {
    // Distances of int64 fit uint64.
    const auto distance = up ? static_cast<uint64_t>(out->stop) - static_cast<uint64_t>(out->start)
                             : static_cast<uint64_t>(out->start) - static_cast<uint64_t>(out->stop);
    const auto step =
        up ? static_cast<uint64_t>(out->step) : uint64_t{0} - static_cast<uint64_t>(out->step);
    const uint64_t length = (distance - 1) / step + 1;
    if (length > static_cast<uint64_t>(kMaxRange))
      fail("OverflowError", "Range too big. The sandbox blocks ranges larger than MAX_RANGE ({}).",
           kMaxRange);
    out->length = static_cast<int64_t>(length);
  }
  return Value::object(Kind::kRange, std::move(out));
}

std::vector<std::pair<Value, Value>> dict_items(Interp& interp, const Args& args,
                                                const char* name) {
  std::vector<std::pair<Value, Value>> items;
  if (args.positional.size() > 1)
    fail("TypeError", "{} expected at most 1 argument, got {}", name, args.positional.size());
  if (!args.positional.empty()) {
    const Value& source = args.positional[0];
    require_defined(source);
    if (source.is_dict()) {
      items = source.as<Dict>().items;
    } else {
      for (const Value& pair : collect(interp, source)) {
        const auto both = collect(interp, pair);
        if (both.size() != 2)
          fail("ValueError", "dictionary update sequence element has length {}; 2 is required",
               both.size());
        items.emplace_back(both[0], both[1]);
      }
    }
    interp.budget().step(items.size());
  }
  for (const auto& [key, value] : args.keywords)
    items.emplace_back(make_string(interp.budget(), key), value);
  return items;
}

Value dict(Interp& interp, const Value&, const Args& args) {
  return make_dict(interp, dict_items(interp, args, "dict"));
}

Value make_space(Interp& interp, const Value&, const Args& args) {
  const Value items = make_dict(interp, dict_items(interp, args, "namespace"));
  return interp.make_namespace(items.as<Dict>().items);
}

Value cycler(Interp& interp, const Value&, const Args& args) {
  if (args.positional.empty()) fail("RuntimeError", "at least one item has to be provided");
  auto out = make_object<Cycler>(interp.budget(), args.positional.size() * sizeof(Value));
  // The depth of a list of the same items, and its limit.
  out->depth = make_list(interp.budget(), args.positional).object()->depth;
  out->items = args.positional;
  return Value::object(Kind::kCycler, std::move(out));
}

Value joiner(Interp& interp, const Value&, const Args& args) {
  args.check("joiner", 0, 1, {"sep"});
  auto out = make_object<Joiner>(interp.budget());
  const Value* separator = args.get(0, "sep");
  out->separator = separator != nullptr ? *separator : make_constant(", ");
  out->depth = make_list(interp.budget(), {out->separator}).object()->depth;
  return Value::object(Kind::kJoiner, std::move(out));
}

Value raise_exception(Interp& interp, const Value&, const Args& args) {
  args.check("raise_exception", 1, 1, {"message"});
  throw Failure{"TemplateError", to_str(interp, *args.get(0, "message")).text(), true};
}

Value strftime_now(Interp& interp, const Value&, const Args& args) {
  args.check("strftime_now", 1, 1, {"format"});
  const std::string& format = require_str(*args.get(0, "format"), "strftime_now").text;
  if (format.size() > 4096) fail("LimitError", "strftime_now: the format is too long");
  std::tm now{};
  if (interp.options().now) {
    now = *interp.options().now;
  } else {
    const std::time_t seconds = std::time(nullptr);
    localtime_r(&seconds, &now);
  }
  // One character more, so that an empty result is not taken for one that did not fit.
  const std::string padded = format + "!";
  std::string out(padded.size() * 64 + 256, '\0');
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  const size_t size = std::strftime(out.data(), out.size(), padded.c_str(), &now);
#pragma GCC diagnostic pop
  if (size == 0) fail("LimitError", "strftime_now: the result is too long");
  out.resize(size - 1);
  return make_string(interp.budget(), utf8_lossy(out));
}

Value lipsum(Interp&, const Value&, const Args&) {
  fail("TypeError", "lipsum makes random text, which a chat template has no use for");
}

constexpr std::pair<std::string_view, NativeFunction> kGlobals[] = {
    {"cycler", cycler},        {"dict", dict},
    {"joiner", joiner},        {"lipsum", lipsum},
    {"namespace", make_space}, {"raise_exception", raise_exception},
    {"range", range},          {"strftime_now", strftime_now},
};

}  // namespace

NativeFunction find_global(std::string_view name) {
  const auto* found = std::find_if(std::begin(kGlobals), std::end(kGlobals),
                                   [&](const auto& row) { return row.first == name; });
  return found == std::end(kGlobals) ? nullptr : found->second;
}

}  // namespace decant::jinja
