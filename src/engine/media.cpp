#include "engine/media.h"

#include <algorithm>
#include <chrono>

#include "base/checked.h"
#include "base/units.h"

namespace decant {
namespace {

bool contains(const MediaSpec::TokenRange& range, int32_t token) {
  return token >= range.first && token - range.first < range.count;
}

/// Tokens whose embeddings come from a tower whatever stands beside them.
void place_tower_tokens(const MediaSpec& spec, std::span<const int32_t> tokens, Placement& out) {
  for (const MediaSpec::TokenRange& range : spec.tower_tokens) {
    auto input = std::make_shared<TowerInput>();
    input->medium = range.medium;
    const auto item = static_cast<int32_t>(out.inputs.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (!contains(range, tokens[i])) continue;
      if (!out.sources.empty() && out.sources[i].item >= 0) continue;
      out.sources.resize(tokens.size());
      out.sources[i] = {item, static_cast<int32_t>(input->ids.size())};
      input->ids.push_back(tokens[i]);
    }
    if (input->ids.empty()) continue;
    out.inputs.push_back(std::move(input));
    out.keys.emplace_back();
  }
}

/// Positions of M-RoPE: text counts on; a picture's tokens share a time and count rows and columns,
/// and what follows starts after the largest of them.
void place_axes(const MediaSpec& spec, std::span<const int32_t> tokens,
                std::span<const PromptMedia> media, Placement& out) {
  out.axes.reserve(tokens.size());
  int32_t next = 0;
  const auto text_until = [&](int64_t end) {
    for (; std::ssize(out.axes) < end; ++next) out.axes.push_back({next, next, next});
  };
  for (const PromptMedia& one : media) {
    const auto [frames, rows, columns] = one.input->grid;
    if (frames == 0) continue;
    text_until(one.first);
    const auto height = narrow<int32_t>(rows / spec.merge),
               width = narrow<int32_t>(columns / spec.merge);
    for (int32_t t = 0; t < frames; ++t)
      for (int32_t r = 0; r < height; ++r)
        for (int32_t c = 0; c < width; ++c) out.axes.push_back({next + t, next + r, next + c});
    next += std::max({narrow<int32_t>(frames), height, width});
  }
  text_until(std::ssize(tokens));
  out.shift = next - narrow<int32_t>(tokens.size());
}

/// Every run of placeholders of pictures or frames sees to its end.
void place_spans(const MediaSpec& spec, std::span<const int32_t> tokens, int64_t longest_span,
                 Placement& out) {
  const auto visual = [&](size_t i) {
    return out.sources[i].item >= 0 &&
           (tokens[i] == spec.image_token || tokens[i] == spec.video_token);
  };
  for (size_t begin = 0; begin < tokens.size();) {
    if (!visual(begin)) {
      ++begin;
      continue;
    }
    size_t end = begin;
    while (end < tokens.size() && visual(end)) ++end;
    const auto length = static_cast<int64_t>(end - begin);
    if (length > longest_span)
      throw RequestError(
          "[request] pictures side by side: expected at most {} placeholders in a row (a prefill "
          "chunk), got {}",
          longest_span, length);
    if (out.last_seen.empty())
      for (size_t i = 0; i < tokens.size(); ++i) out.last_seen.push_back(narrow<int32_t>(i));
    std::fill(out.last_seen.begin() + static_cast<int64_t>(begin),
              out.last_seen.begin() + static_cast<int64_t>(end), narrow<int32_t>(end - 1));
    out.spans.emplace_back(begin, end);
    begin = end;
  }
}

}  // namespace

Placement place_media(const Model& model, std::span<const int32_t> tokens,
                      std::span<const PromptMedia> media, int64_t longest_span) {
  const MediaSpec& spec = model.spec().media;
  Placement out;
  int64_t free_from = 0;
  for (const PromptMedia& one : media) {
    const TowerInput& input = *one.input;
    const Tower* tower = model.tower(input.medium);
    if (tower == nullptr)
      throw RequestError("[request] {}: expected a model with a tower for it, got {}",
                         name_of(input.medium), model.spec().model_type);
    const int64_t rows = tower->rows(input);
    const int32_t placeholder = spec.placeholder(input.medium);
    if (one.first < free_from || one.first + rows > std::ssize(tokens))
      throw RequestError(
          "[request] {}: expected {} placeholders at positions {} to {}, got {} to {}",
          name_of(input.medium), rows, free_from, std::ssize(tokens) - 1, one.first,
          one.first + rows - 1);
    out.sources.resize(tokens.size());
    const auto item = static_cast<int32_t>(out.inputs.size());
    for (int64_t r = 0; r < rows; ++r) {
      const auto at = static_cast<size_t>(one.first + r);
      if (tokens[at] != placeholder)
        throw RequestError("[request] {}: expected {} placeholders (id {}), got id {} after {}",
                           name_of(input.medium), rows, placeholder, tokens[at], r);
      out.sources[at] = {item, narrow<int32_t>(r)};
    }
    out.inputs.push_back(one.input);
    out.keys.push_back(one.key);
    free_from = one.first + rows;
  }
  if (!media.empty())
    for (size_t i = 0; i < tokens.size(); ++i)
      for (const PromptMedia& one : media)
        if (tokens[i] == spec.placeholder(one.input->medium) && out.sources[i].item < 0)
          throw RequestError(
              "[request] {}: expected features for every placeholder, got none for position {}",
              name_of(one.input->medium), i);
  place_tower_tokens(spec, tokens, out);
  if (spec.merge > 0 && !media.empty()) place_axes(spec, tokens, media, out);
  if (spec.both_ways && !out.sources.empty()) place_spans(spec, tokens, longest_span, out);
  return out;
}

bool is_tower_token(const MediaSpec& spec, int32_t token) {
  return std::any_of(spec.tower_tokens.begin(), spec.tower_tokens.end(),
                     [&](const auto& range) { return contains(range, token); });
}

void place_generated(const MediaSpec& spec, std::span<const int32_t> tokens, Placement& placement) {
  Placement last;
  place_tower_tokens(spec, tokens.last(1), last);
  DECANT_ASSERT(last.inputs.size() == 1, "a token is of one tower at most");
  placement.sources.resize(tokens.size());
  placement.sources.back() = {narrow<int32_t>(placement.inputs.size()), 0};
  placement.inputs.push_back(std::move(last.inputs.front()));
  placement.keys.emplace_back();
}

std::shared_ptr<const Features> TowerRunner::find(const std::string& key) {
  const auto at = by_key_.find(key);
  if (key.empty() || at == by_key_.end()) return nullptr;
  kept_.splice(kept_.begin(), kept_, at->second);
  return at->second->features;
}

void TowerRunner::keep(const std::string& key, std::shared_ptr<const Features> features) {
  const auto bytes = [](const Features& f) {
    return std::ssize(f.values) * static_cast<int64_t>(sizeof(float));
  };
  if (key.empty() || bytes(*features) > options_.kept_bytes) return;
  kept_bytes_ += bytes(*features);
  kept_.push_front({key, std::move(features)});
  by_key_[key] = kept_.begin();
  while (kept_bytes_ > options_.kept_bytes) {
    kept_bytes_ -= bytes(*kept_.back().features);
    by_key_.erase(kept_.back().key);
    kept_.pop_back();
  }
}

TowerRunner::Compiled& TowerRunner::compiled(const TowerInput& input, const Tower& tower,
                                             const TowerSize& size) {
  const ProgramKey key{input.medium, size.key()};
  if (const auto found = programs_.find(key); found != programs_.end()) {
    found->second.last_run = ++runs_;
    return found->second;
  }
  if (programs_.size() >= options_.kept_programs)
    programs_.erase(std::min_element(
        programs_.begin(), programs_.end(),
        [](const auto& a, const auto& b) { return a.second.last_run < b.second.last_run; }));
  Compiled entry;
  PoolSpec spec;
  spec.kv = tower.kv();
  spec.kv_dtype = DType::kF32;
  // Sequences each begin a page of their own.
  const int64_t pages = size.capacity.tokens / kPageSize + size.capacity.sequences + 1;
  if (!spec.kv.empty()) spec.pages_per_group = {pages};
  Graph graph(size.capacity);
  graph.mark_output(tower.forward(graph, size), "features");
  entry.pools = backend_.make_pools(spec);
  entry.program = backend_.compile(graph, *entry.pools, options_.compile);
  const int64_t needed = spec.bytes() + entry.program->arena_bytes();
  if (options_.budget > 0 && needed > options_.budget) {
    throw MemoryError("[memory] {} of {} rows: expected at most {} for its tower, got {}",
                      name_of(input.medium), size.capacity.tokens,
                      format_bytes(static_cast<uint64_t>(options_.budget)),
                      format_bytes(static_cast<uint64_t>(needed)));
  }
  for (int64_t i = 0; i < pages; ++i) entry.pages.push_back(narrow<int32_t>(i));
  entry.last_run = ++runs_;
  return programs_.emplace(key, std::move(entry)).first->second;
}

std::shared_ptr<const Features> TowerRunner::run(const TowerInput& input, const std::string& key) {
  if (auto found = find(key)) {
    ++stats_.reused;
    return found;
  }
  const auto begin = std::chrono::steady_clock::now();
  const Tower* tower = model_.tower(input.medium);
  DECANT_ASSERT(tower != nullptr, "media are placed for models that take them");
  const TowerSize size = tower->size(input);
  Compiled& entry = compiled(input, *tower, size);
  TowerFeed feed;
  feed.batch.phase = Phase::kPrefill;
  tower->feed(input, feed);
  if (!tower->kv().empty()) {
    const int32_t* page = entry.pages.data();
    for (const Batch::Sequence& sequence : feed.batch.sequences) {
      feed.batch.page_tables.push_back(page);
      page += div_up(int64_t{sequence.count}, int64_t{kPageSize});
    }
  }
  for (const auto& [index, values] : feed.floats)
    entry.program->set_input(index, std::span(values));
  for (const auto& [index, values] : feed.ints) entry.program->set_input(index, std::span(values));
  entry.program->run(feed.batch);
  const std::span<const float> out = entry.program->output(0);
  auto features = std::make_shared<Features>();
  features->rows = tower->rows(input);
  features->width = model_.spec().hidden_size;
  const std::vector<int64_t> taken = tower->taken(input);
  if (taken.empty()) {
    features->values.assign(out.begin(), out.begin() + features->rows * features->width);
  } else {
    for (const int64_t row : taken)
      features->values.insert(features->values.end(), out.begin() + row * features->width,
                              out.begin() + (row + 1) * features->width);
  }
  DECANT_ASSERT(std::ssize(features->values) == features->rows * features->width,
                "a tower gives the rows it promised");
  keep(key, features);
  ++stats_.computed;
  stats_.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return features;
}

}  // namespace decant
