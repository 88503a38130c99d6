#pragma once

#include <cstdio>
#include <string>
#include <string_view>

namespace decant::cli {

/// Thrown when the reader of stdout has gone: the program ends without a word.
struct BrokenPipe {};

/// Writes to stdout, which holds results only. Errors: BrokenPipe; RuntimeError when the disk is
/// full and the like.
void print(std::string_view text);
/// Sends what was printed on its way, with the same errors.
void flush_output();

/// True if a person reads what is written there.
bool stdin_is_terminal();
bool stdout_is_terminal();
bool stderr_is_terminal();
/// Columns of the terminal that stdout (else stderr) is, as of now; 0 if unknown.
int terminal_columns();
/// Whether stderr is a terminal that understands escape sequences, and may be given colours.
bool stderr_takes_escapes();
bool stderr_takes_colour();

/// One line to stderr.
void note(std::string_view text);

/// A line on stderr that replaces itself, shown at a terminal with escape
/// sequences only and erased at the end.
class Progress {
 public:
  Progress() = default;
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void show(std::string_view text);
  void clear();

 private:
  bool shown_ = false;
};

/// All of stdin. Errors: RequestError past `limit_bytes`.
std::string read_stdin(size_t limit_bytes);

}  // namespace decant::cli
