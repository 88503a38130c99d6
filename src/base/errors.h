#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace decant {

/// What kind of failure an Error is. The command line maps it to its exit code, a server to its
/// status.
enum class ErrorKind {
  kRuntime,   // something failed while running (exit 1)
  kUsage,     // a flag or an argument is wrong (exit 2)
  kRequest,   // a request or an input file of a request is wrong (exit 2)
  kModel,     // config, weights or tokenizer unreadable or unsupported (exit 3)
  kMemory,    // a consistent model does not fit (exit 4)
  kNetwork,   // network or download (exit 5)
  kAddress,   // address in use (exit 6)
  kInternal,  // our own bug (exit 1)
};

/// Exit code of the process that ends because of an error of this kind.
int exit_code(ErrorKind kind);

/// Base of everything this library throws. what() reads `[component] what: expected X, got Y`.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

#define DECANT_ERROR_TYPE(name, error_kind)                                      \
  class name : public Error {                                                    \
   public:                                                                       \
    explicit name(const std::string& message) : Error(error_kind, message) {}    \
    template <typename... Args>                                                  \
      requires(sizeof...(Args) > 0)                                              \
    explicit name(fmt::format_string<Args...> format, Args&&... args)            \
        : Error(error_kind, fmt::format(format, std::forward<Args>(args)...)) {} \
  }

DECANT_ERROR_TYPE(RuntimeError, ErrorKind::kRuntime);
DECANT_ERROR_TYPE(UsageError, ErrorKind::kUsage);
DECANT_ERROR_TYPE(RequestError, ErrorKind::kRequest);
DECANT_ERROR_TYPE(ConfigError, ErrorKind::kModel);
DECANT_ERROR_TYPE(WeightError, ErrorKind::kModel);
DECANT_ERROR_TYPE(TokenizerError, ErrorKind::kModel);
DECANT_ERROR_TYPE(TemplateError, ErrorKind::kModel);
DECANT_ERROR_TYPE(MemoryError, ErrorKind::kMemory);
DECANT_ERROR_TYPE(InternalError, ErrorKind::kInternal);

/// Collects problems of one kind so that they are reported together; the list is capped, the count
/// is not.
class Problems {
 public:
  explicit Problems(size_t limit = 20) : limit_(limit) {}
  void add(std::string problem) {
    if (lines_.size() < limit_) lines_.push_back(std::move(problem));
    ++count_;
  }
  bool empty() const { return count_ == 0; }
  size_t count() const { return count_; }
  /// `headline` followed by one indented line per problem and, past the cap, how many more there
  /// are.
  std::string text(std::string_view headline) const;

 private:
  size_t limit_;
  size_t count_ = 0;
  std::vector<std::string> lines_;
};

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line,
                                   std::string_view sentence);

/// Quotes a string of unknown origin for a message: control bytes escaped, cut after `limit` bytes.
std::string quote(std::string_view text, size_t limit = 80);

}  // namespace decant

/// Our own bug, never reachable by input: throws InternalError with the sentence.
#define DECANT_ASSERT(condition, sentence)                                                  \
  do {                                                                                      \
    if (!(condition)) ::decant::assertion_failed(#condition, __FILE__, __LINE__, sentence); \
  } while (false)
