#include "cli/answer_printer.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/errors.h"
#include "base/units.h"
#include "cli/console.h"

namespace decant::cli {

AnswerPrinter::AnswerPrinter(bool wrap)
    : terminal_(stdout_is_terminal()), wrapper_([wrap] { return wrap ? terminal_columns() : 0; }) {}

bool AnswerPrinter::add(std::string_view text) {
  if (error_ != 0) return false;
  held_ += text;
  const size_t last = held_.find_last_not_of('\n');
  const size_t ready = last == std::string::npos ? 0 : last + 1;
  if (ready == 0) return true;
  begun_ = true;
  const std::string_view shown = std::string_view(held_).substr(0, ready);
  if (!write(terminal_ ? wrapper_.push(shown) : std::string(shown))) return false;
  held_.erase(0, ready);
  return true;
}

bool AnswerPrinter::write(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0)
    return true;
  error_ = errno != 0 ? errno : EIO;
  return false;
}

void AnswerPrinter::finish() {
  if (error_ == 0 && terminal_) write(wrapper_.finish());
  if (error_ == EPIPE) throw BrokenPipe{};
  if (error_ != 0) throw RuntimeError("[output] cannot write to stdout: {}", std::strerror(error_));
  print("\n");
  flush_output();
  held_.clear();
}

std::string figures_line(const Completion& completion, int64_t peak_bytes) {
  const Figures& figures = completion.figures;
  return fmt::format(
      "prompt {} tokens, TTFT {:.3f} s, prefill {:.1f} tok/s, decode {:.1f} tok/s ({} tokens, {}), "
      "peak memory {}",
      figures.prompt_tokens, figures.ttft_seconds, figures.prefill_tokens_per_second,
      figures.decode_tokens_per_second, figures.completion_tokens, name_of(completion.finish),
      format_bytes(static_cast<uint64_t>(peak_bytes)));
}

void throw_if_failed(const Completion& completion) {
  if (completion.finish != Finish::kError) return;
  for (const ErrorKind kind : {ErrorKind::kRequest, ErrorKind::kModel, ErrorKind::kMemory})
    if (completion.error_exit_code == exit_code(kind)) throw Error(kind, completion.error);
  throw Error(ErrorKind::kRuntime, completion.error);
}

}  // namespace decant::cli
