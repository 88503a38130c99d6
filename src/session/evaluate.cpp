#include "session/evaluate.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/errors.h"

namespace decant {
namespace {

constexpr int kChunk = 128;  // rows of logits that a comparison keeps

/// Mean and standard error of what is added.
struct Mean {
  int64_t count = 0;
  double mean = 0;
  double squares = 0;  // of differences from the mean
  void add(double value) {
    ++count;
    const double before = value - mean;
    mean += before / static_cast<double>(count);
    squares += before * (value - mean);
  }
  double error() const {
    const auto n = static_cast<double>(count);
    return count < 2 ? 0 : std::sqrt(squares / (n - 1) / n);
  }
};

Perplexity perplexity_of(const Mean& nll) { return {nll.count, nll.mean, nll.error()}; }

/// Of finite logits, or -inf for tokens that cannot come: ln(sum(exp(x))) in two parts.
struct LogSum {
  double top = -std::numeric_limits<double>::infinity();
  size_t at = 0;
};
LogSum largest(std::span<const float> logits) {
  LogSum out;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double x = logits[i];
    if (std::isnan(x) || x == std::numeric_limits<double>::infinity())
      throw RuntimeError("[eval] logit of token {}: expected a number, got {}", i, x);
    if (x > out.top) out = {x, i};
  }
  if (std::isinf(out.top)) throw RuntimeError("[eval] logits: expected a finite one, got none");
  return out;
}

}  // namespace

double Perplexity::value() const { return std::exp(nll); }

EvalText eval_text(const Tokenizer& tokenizer, std::string_view text) {
  EvalText out;
  EncodeOptions options;
  options.add_special_tokens = false;
  out.ids = tokenizer.encode(text, options);
  const std::vector<int32_t> around = tokenizer.encode("");
  const auto bos = tokenizer.special_token("bos_token");
  const auto id = bos ? tokenizer.token_to_id(*bos) : std::nullopt;
  if (id && !around.empty() && around.front() == *id) {
    out.bos = id;
    // A text that brings its BOS along has it before every window anyway.
    if (!out.ids.empty() && out.ids.front() == *id) out.ids.erase(out.ids.begin());
  }
  return out;
}

std::vector<EvalWindow> eval_windows(int64_t tokens, int64_t context, int64_t stride, bool bos) {
  const int64_t size = context - (bos ? 1 : 0);
  DECANT_ASSERT(context >= 2 && stride >= 1 && stride <= size, "windows overlap or touch");
  std::vector<EvalWindow> out;
  int64_t scored = 0;  // tokens before this one are dealt with
  for (int64_t begin = 0; begin < tokens; begin += stride) {
    const int64_t end = std::min(begin + size, tokens);
    const int64_t from = std::max(scored, begin + (bos ? 0 : 1));
    if (from < end) out.push_back({begin, end, from});
    scored = end;
    if (end == tokens) break;
  }
  return out;
}

PositionScore score_position(std::span<const float> logits, int32_t target,
                             std::span<const float> reference) {
  DECANT_ASSERT(target >= 0 && static_cast<size_t>(target) < logits.size(), "a target is a token");
  const LogSum mine = largest(logits);
  PositionScore out;
  out.top = static_cast<int32_t>(mine.at);
  double sum = 0;
  if (reference.empty()) {
    for (const float x : logits) sum += std::exp(x - mine.top);
    out.nll = std::log(sum) + mine.top - logits[static_cast<size_t>(target)];
    return out;
  }
  DECANT_ASSERT(reference.size() == logits.size(), "both models have one vocabulary");
  // With p = exp(r - lse(r)):  KL = sum(p (r - x)) - lse(r) + lse(x), both relative to their tops.
  const LogSum theirs = largest(reference);
  double weights = 0;
  double differences = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double x = logits[i] - mine.top;
    const double r = reference[i] - theirs.top;
    sum += std::exp(x);
    const double weight = std::exp(r);
    if (weight == 0) continue;
    weights += weight;
    differences += weight * (r - x);
  }
  out.nll = std::log(sum) + mine.top - logits[static_cast<size_t>(target)];
  // Equal rows may come out a rounding below zero.
  out.kl = std::max(0.0, differences / weights - std::log(weights) + std::log(sum));
  return out;
}

double quantile(std::span<const double> ascending, double q) {
  DECANT_ASSERT(!ascending.empty(), "a quantile of something");
  const double at = q * static_cast<double>(ascending.size() - 1);
  const auto low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, ascending.size() - 1);
  if (low == high || ascending[low] == ascending[high]) return ascending[low];
  return ascending[low] + (at - static_cast<double>(low)) * (ascending[high] - ascending[low]);
}

EvalModel::EvalModel(const std::filesystem::path& folder, const Options& options)
    : folder_(folder),
      tokenizer_(Tokenizer::load(folder)),
      backend_(make_backend(options.device, {.threads = options.threads})),
      loaded_(std::make_shared<LoadedModel>(load_model(folder))) {
  const int64_t trained = loaded_->spec.max_position_embeddings;
  if (trained > 0 && options.context > trained)
    throw UsageError(
        "[eval] --context: expected at most {} (max_position_embeddings of {}), got {}", trained,
        folder.string(), options.context);
  EngineOptions engine;
  engine.ctx_size = options.context;
  engine.max_sequences = 1;
  engine.exact = options.exact;
  if (options.exact) engine.kv_dtype = DType::kF32;
  engine.prefill_chunk = static_cast<int>(std::min<int64_t>(options.context, kChunk));
  engine_ = std::make_unique<Engine>(std::shared_ptr<const Model>(loaded_, loaded_->model.get()),
                                     *backend_, engine);
}

void check_same_tokens(const EvalModel& model, const EvalModel& reference, std::string_view text) {
  const auto fail = [&](const std::string& what) {
    throw UsageError("[eval] {} and {}: expected one vocabulary, got {}", model.folder().string(),
                     reference.folder().string(), what);
  };
  if (model.vocab_size() != reference.vocab_size())
    fail(fmt::format("{} and {} tokens", model.vocab_size(), reference.vocab_size()));
  const EvalText mine = eval_text(model.tokenizer(), text);
  const EvalText theirs = eval_text(reference.tokenizer(), text);
  if (mine.bos != theirs.bos)
    fail(fmt::format("BOS {} and {}", mine.bos.value_or(-1), theirs.bos.value_or(-1)));
  const auto at =
      std::mismatch(mine.ids.begin(), mine.ids.end(), theirs.ids.begin(), theirs.ids.end());
  const auto shown = [](auto it, const std::vector<int32_t>& ids) {
    return it == ids.end() ? std::string("the end") : fmt::format("token {}", *it);
  };
  if (at.first != mine.ids.end() || at.second != theirs.ids.end())
    fail(fmt::format("{} and {} at position {} of the text", shown(at.first, mine.ids),
                     shown(at.second, theirs.ids), at.first - mine.ids.begin()));
}

Evaluation evaluate(EvalModel& model, EvalModel* reference, const EvalText& text, int64_t context,
                    int64_t stride, const std::function<void(int64_t, int64_t)>& progress) {
  const auto count = static_cast<int64_t>(text.ids.size());
  const int64_t lead = text.bos ? 1 : 0;
  const std::vector<EvalWindow> windows = eval_windows(count, context, stride, lead == 1);
  Evaluation out;
  out.text_tokens = count;
  out.windows = std::ssize(windows);
  int64_t scored = 0;
  for (const EvalWindow& window : windows) scored += window.end - window.score_from;
  if (scored < 2)
    throw RequestError("[eval] text: expected at least 2 tokens with something before them, got {}",
                       scored);

  Mean mine;
  Mean theirs;
  Mean difference;
  std::vector<double> kls;
  int64_t agree = 0;
  const auto vocab = static_cast<size_t>(model.vocab_size());
  std::vector<float> rows;            // the reference's logits of this chunk
  std::vector<PositionScore> scores;  // and what it made of them
  for (const EvalWindow& window : windows) {
    if (progress) progress(&window - windows.data(), out.windows);
    // The last token is predicted only.
    std::vector<int32_t> row;
    if (text.bos) row.push_back(*text.bos);
    row.insert(row.end(), text.ids.begin() + window.begin, text.ids.begin() + window.end - 1);
    // Position p of the row predicts this token of the text.
    const auto target_at = [&](int64_t p) { return window.begin + p + 1 - lead; };
    RowScoring ours(model.engine(), row);
    std::optional<RowScoring> other;
    if (reference != nullptr) other.emplace(reference->engine(), row);
    const auto score = [&](int64_t p, std::span<const float> logits, std::span<const float> with) {
      const auto at = static_cast<size_t>(target_at(p));
      try {
        return score_position(logits, text.ids[at], with);
      } catch (const RuntimeError& error) {
        throw RuntimeError("{} (before token {} of the text)", error.what(), at);
      }
    };
    while (!ours.done()) {
      rows.clear();
      scores.clear();
      if (other)
        other->advance([&](int64_t p, std::span<const float> logits) {
          if (target_at(p) < window.score_from) return;
          scores.push_back(score(p, logits, {}));
          rows.insert(rows.end(), logits.begin(), logits.end());
        });
      size_t next = 0;
      ours.advance([&](int64_t p, std::span<const float> logits) {
        if (target_at(p) < window.score_from) return;
        if (!other) {
          mine.add(score(p, logits, {}).nll);
          return;
        }
        DECANT_ASSERT(next < scores.size(), "both models score the same positions of a chunk");
        const PositionScore found = score(p, logits, std::span(rows).subspan(next * vocab, vocab));
        const PositionScore& base = scores[next++];
        mine.add(found.nll);
        theirs.add(base.nll);
        difference.add(found.nll - base.nll);
        kls.push_back(found.kl);
        if (found.top == base.top) ++agree;
      });
    }
  }
  out.model = perplexity_of(mine);
  if (reference == nullptr) return out;
  out.reference = perplexity_of(theirs);
  std::sort(kls.begin(), kls.end());
  Mean kl;
  for (const double value : kls) kl.add(value);
  out.divergence = Divergence{.mean = kl.mean,
                              .p50 = quantile(kls, 0.5),
                              .p90 = quantile(kls, 0.9),
                              .p99 = quantile(kls, 0.99),
                              .p999 = quantile(kls, 0.999),
                              .max = kls.back(),
                              .top1 = static_cast<double>(agree) / static_cast<double>(kls.size()),
                              .nll_difference = difference.mean,
                              .nll_difference_error = difference.error()};
  return out;
}

}  // namespace decant
