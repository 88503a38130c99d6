#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "cli/terminal_input.h"

namespace decant::cli {

/// What came of a prompt.
struct Entry {
  enum class Kind : uint8_t {
    kText,
    kInterrupt,  // Ctrl-C; text is the line it cleared
    kSignal,     // somebody called wake()
    kEnd,        // end of input
  };
  Kind kind = Kind::kText;
  std::string text;     // UTF-8, without the last newline
  std::string problem;  // why it must not be used, though text shows it
};

/// Reads what is typed at the prompt; the prompt goes to stderr.
class LineReader {
 public:
  LineReader();
  virtual ~LineReader() = default;
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;
  virtual Entry read(const std::string& prompt) = 0;
  /// Adds an entry to what the arrow keys bring back.
  virtual void remember(std::string_view text) = 0;
  /// Ends read() with kSignal, from any thread.
  void wake() { input_.wake(); }

 protected:
  TerminalInput input_;
};

/// With line editing where stdin and stderr are a terminal that knows escape sequences, else plain.
std::unique_ptr<LineReader> make_line_reader();
/// The two kinds of it.
std::unique_ptr<LineReader> make_plain_reader();
std::unique_ptr<LineReader> make_editing_reader();

/// Text from a terminal: CR and CRLF become LF, what is no UTF-8 becomes U+FFFD. `problem` names
/// the first such byte (or a NUL) unless it names one already.
std::string typed_text(std::string bytes, std::string& problem);

}  // namespace decant::cli
