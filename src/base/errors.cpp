#include "base/errors.h"

namespace decant {

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
    case ErrorKind::kRequest:
      return 2;
    case ErrorKind::kModel:
      return 3;
    case ErrorKind::kMemory:
      return 4;
    case ErrorKind::kNetwork:
      return 5;
    case ErrorKind::kAddress:
      return 6;
    case ErrorKind::kRuntime:
    case ErrorKind::kInternal:
      break;
  }
  return 1;
}

std::string Problems::text(std::string_view headline) const {
  std::string out(headline);
  for (const std::string& line : lines_) out += "\n  " + line;
  if (count_ > lines_.size()) out += fmt::format("\n  ... and {} more", count_ - lines_.size());
  return out;
}

void assertion_failed(const char* condition, const char* file, int line,
                      std::string_view sentence) {
  throw InternalError("[internal] {} ({}:{}: {})", sentence, file, line, condition);
}

std::string quote(std::string_view text, size_t limit) {
  std::string out = "\"";
  for (char c : text.substr(0, limit)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  out += text.size() > limit ? "...\"" : "\"";
  return out;
}

}  // namespace decant
