#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace decant::tokenizer {

/// Per-thread working memory of matches; see Scratch.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();
  RegexScratch(RegexScratch&&) noexcept;
  RegexScratch& operator=(RegexScratch&&) noexcept;

 private:
  friend class Regex;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Rewrites a pattern of Oniguruma's default syntax, in which tokenizer files are written, as a
/// PCRE2 pattern that matches the same texts: classes with && and nesting, `\s` and `\w` as
/// Unicode defines them, scripts, `{n,m}+`, the meaning of (?m). Errors: TokenizerError naming
/// `where` and what is not supported.
std::string translate_oniguruma(std::string_view pattern, std::string_view where);

/// A compiled pattern: PCRE2 with just-in-time code, UTF-8 and Unicode properties.
class Regex {
 public:
  /// Compiles a pattern written for Oniguruma. Errors: TokenizerError naming `where`, the pattern
  /// and the offset.
  static std::shared_ptr<const Regex> compile(std::string_view pattern, std::string_view where);
  ~Regex();
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;

  /// First match in `subject` (valid UTF-8) at or after byte `from`; false if there is none.
  /// Errors: RequestError when the match limit is reached.
  bool find(std::string_view subject, size_t from, size_t& begin, size_t& end,
            RegexScratch& scratch) const;

 private:
  Regex() = default;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace decant::tokenizer
