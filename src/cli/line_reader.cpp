#include "cli/line_reader.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "base/utf8.h"
#include "cli/console.h"

namespace decant::cli {
namespace {

class PlainReader final : public LineReader {
 public:
  Entry read(const std::string& prompt) override {
    std::fputs(prompt.c_str(), stderr);
    std::fflush(stderr);
    std::string line;
    while (true) {
      unsigned char byte = 0;
      switch (input_.next(byte)) {
        case TerminalInput::Event::kByte:
          if (byte == '\n') return entry(std::move(line));
          line += static_cast<char>(byte);
          break;
        case TerminalInput::Event::kEnd:
          if (!line.empty()) return entry(std::move(line));
          return {Entry::Kind::kEnd, {}, {}};
        case TerminalInput::Event::kWake:
          return {Entry::Kind::kSignal, {}, {}};
        case TerminalInput::Event::kResize:
          break;
      }
    }
  }
  void remember(std::string_view) override {}

 private:
  static Entry entry(std::string line) {
    Entry out;
    out.text = typed_text(std::move(line), out.problem);
    return out;
  }
};

}  // namespace

LineReader::LineReader() : input_(STDIN_FILENO) {}

std::string typed_text(std::string bytes, std::string& problem) {
  std::string lines;
  lines.reserve(bytes.size());
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] == '\r') {
      lines += '\n';
      if (i + 1 < bytes.size() && bytes[i + 1] == '\n') ++i;
    } else {
      lines += bytes[i];
    }
  }
  const size_t bad = std::min(utf8_first_error(lines), lines.find('\0'));
  if (bad == std::string::npos) return lines;
  if (problem.empty())
    problem = fmt::format("[input] expected UTF-8 text, got the byte 0x{:02x} at offset {}",
                          static_cast<unsigned char>(lines[bad]), bad);
  std::replace(lines.begin(), lines.end(), '\0', '\xff');
  return utf8_lossy(lines);
}

std::unique_ptr<LineReader> make_plain_reader() { return std::make_unique<PlainReader>(); }

std::unique_ptr<LineReader> make_line_reader() {
  return stdin_is_terminal() && stderr_takes_escapes() ? make_editing_reader()
                                                       : make_plain_reader();
}

}  // namespace decant::cli
