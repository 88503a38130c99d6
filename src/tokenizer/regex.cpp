#include "tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

#include "base/errors.h"

namespace decant::tokenizer {
namespace {

constexpr size_t kMaxPatternBytes = 64 << 10;
constexpr uint32_t kMatchLimit = 20'000'000;
constexpr uint32_t kDepthLimit = 1'000'000;
constexpr uint32_t kHeapLimitKiB = 64 << 10;
constexpr size_t kJitStackStart = 64 << 10;
constexpr size_t kJitStackLimit = 32 << 20;

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* pointer) const {
    Free(pointer);
  }
};

std::string message_of(int code) {
  PCRE2_UCHAR8 buffer[160];
  if (pcre2_get_error_message(code, buffer, sizeof buffer) < 0)
    return fmt::format("error {}", code);
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

struct RegexScratch::Impl {
  std::unique_ptr<pcre2_match_context, Freer<pcre2_match_context_free>> context;
  std::unique_ptr<pcre2_match_data, Freer<pcre2_match_data_free>> data;
  std::unique_ptr<pcre2_jit_stack, Freer<pcre2_jit_stack_free>> stack;
};

RegexScratch::RegexScratch() : impl_(std::make_unique<Impl>()) {
  impl_->context.reset(pcre2_match_context_create(nullptr));
  // One pair of offsets: only the whole match is asked for, whatever groups a pattern has.
  impl_->data.reset(pcre2_match_data_create(1, nullptr));
  impl_->stack.reset(pcre2_jit_stack_create(kJitStackStart, kJitStackLimit, nullptr));
  if (!impl_->context || !impl_->data) throw RuntimeError("[tokenizer] regex: out of memory");
  pcre2_set_match_limit(impl_->context.get(), kMatchLimit);
  pcre2_set_depth_limit(impl_->context.get(), kDepthLimit);
  pcre2_set_heap_limit(impl_->context.get(), kHeapLimitKiB);
  // Without a stack of its own (no JIT on this machine) matching still works, only slower.
  if (impl_->stack) pcre2_jit_stack_assign(impl_->context.get(), nullptr, impl_->stack.get());
}
RegexScratch::~RegexScratch() = default;
RegexScratch::RegexScratch(RegexScratch&&) noexcept = default;
RegexScratch& RegexScratch::operator=(RegexScratch&&) noexcept = default;

struct Regex::Impl {
  std::unique_ptr<pcre2_code, Freer<pcre2_code_free>> code;
  std::string pattern;
  std::string where;
};

Regex::~Regex() = default;

std::shared_ptr<const Regex> Regex::compile(std::string_view pattern, std::string_view where) {
  if (pattern.size() > kMaxPatternBytes)
    throw TokenizerError("[tokenizer] {}: expected a pattern of at most {} bytes, got {}", where,
                         kMaxPatternBytes, pattern.size());
  const std::string translated = translate_oniguruma(pattern, where);
  const std::unique_ptr<pcre2_compile_context, Freer<pcre2_compile_context_free>> context(
      pcre2_compile_context_create(nullptr));
  if (!context) throw RuntimeError("[tokenizer] regex: out of memory");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), 100);
  int code = 0;
  PCRE2_SIZE offset = 0;
  std::shared_ptr<Regex> regex(new Regex);
  regex->impl_ = std::make_unique<Impl>();
  regex->impl_->pattern = pattern;
  regex->impl_->where = where;
  // ^ and $ match at every line in Oniguruma's syntax, hence MULTILINE.
  regex->impl_->code.reset(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR8>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code,
                    &offset, context.get()));
  if (!regex->impl_->code)
    throw TokenizerError(
        "[tokenizer] {}: unsupported pattern {}: {} (byte {} of its PCRE2 form {})", where,
        quote(pattern, 200), message_of(code), offset, quote(translated, 200));
  // A failure here (no JIT on this machine) only costs speed.
  pcre2_jit_compile(regex->impl_->code.get(), PCRE2_JIT_COMPLETE);
  return regex;
}

bool Regex::find(std::string_view subject, size_t from, size_t& begin, size_t& end,
                 RegexScratch& scratch) const {
  const auto run = [&](uint32_t options) {
    return pcre2_match(impl_->code.get(), reinterpret_cast<PCRE2_SPTR8>(subject.data()),
                       subject.size(), from, PCRE2_NO_UTF_CHECK | options,
                       scratch.impl_->data.get(), scratch.impl_->context.get());
  };
  int rc = run(0);
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = run(PCRE2_NO_JIT);
  if (rc == PCRE2_ERROR_NOMATCH) return false;
  if (rc < 0)
    throw RequestError("[tokenizer] {}: pattern {} on a text of {} bytes: {}", impl_->where,
                       quote(impl_->pattern, 200), subject.size(), message_of(rc));
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(scratch.impl_->data.get());
  // \K inside a lookahead can put the start behind the end.
  begin = offsets[0];
  end = std::max(offsets[0], offsets[1]);
  return true;
}

}  // namespace decant::tokenizer
