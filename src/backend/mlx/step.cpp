#include "backend/mlx/step.h"

#include <algorithm>
#include <bit>

namespace decant::mlx {
namespace {

/// A live count rounded up to a power of two, at least 1 and at most `capacity`.
int bucket(int64_t live, int64_t capacity) {
  const auto wide =
      static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(live, 1))));
  return dim(std::max<int64_t>(1, std::min(wide, capacity)));
}

mx::Shape joined(std::initializer_list<int> front, const mx::Shape& shape, size_t skip) {
  mx::Shape out(front);
  for (size_t i = skip; i < shape.size(); ++i) out.push_back(shape[i]);
  return out;
}

}  // namespace

mx::array Layout::to_entries(const mx::array& x) const {
  const mx::Shape shape = joined({entries, length}, x.shape(), 1);
  return mx::reshape(identity ? x : mx::take(x, row_of, 0), shape);
}

mx::array Layout::to_rows(const mx::array& y) const {
  const mx::array places = mx::reshape(y, joined({entries * length}, y.shape(), 2));
  return identity ? places : mx::take(places, place_of, 0);
}

int Step::rows(const ValueType& type) const {
  switch (type.rows) {
    case Rows::kTokens:
      return bucket(batch_.num_tokens(), graph_.capacity().tokens);
    case Rows::kOutputs:
      return bucket(batch_.num_outputs(), graph_.capacity().outputs);
    case Rows::kFixed:
      break;
  }
  return dim(type.shape[0]);
}

mx::array Step::value(int id) {
  if (const auto known = values_.find(id); known != values_.end()) return known->second;
  const ValueInfo& info = graph_.value(id);
  const int count = rows(info.type);
  mx::array made(0);
  if (info.base >= 0) {
    const mx::array whole = flat(graph_.storage_of(id));
    const int begin = dim(graph_.column_of(id));
    made = mx::slice(whole, {0, begin}, {count, begin + dim(info.type.width())});
  } else {
    DECANT_ASSERT(info.external == ExternalKind::kInput, "a value is made before it is read");
    const auto given = inputs_.find(info.external_index);
    DECANT_ASSERT(given != inputs_.end(), "an external input was set before the step");
    const mx::Shape shape{count, dim(info.type.width())};
    const auto size = static_cast<size_t>(count * info.type.width());
    if (info.type.dtype == DType::kI32) {
      std::vector<int32_t> padded = given->second.ints;
      padded.resize(size);
      made = int_array(padded, shape);
    } else {
      std::vector<float> padded = given->second.floats;
      padded.resize(size);
      made = mx::array(padded.begin(), shape, mx::float32);
    }
  }
  made = mx::reshape(made, with_rows(count, info.type.shape));
  return values_.insert_or_assign(id, made).first->second;
}

mx::array Step::flat(int id) {
  const ValueType& type = graph_.value(id).type;
  return mx::reshape(value(id), {rows(type), dim(type.width())});
}

void Step::set(int id, const mx::array& result) {
  const ValueType& type = graph_.value(id).type;
  values_.insert_or_assign(id, mx::reshape(result, with_rows(rows(type), type.shape)));
}

const KvArrays& Step::kv(int id) const {
  const auto version = kv_versions_.find(id);
  return version != kv_versions_.end()
             ? version->second
             : pools_.kv.at(static_cast<size_t>(graph_.value(id).external_index));
}

const StateArrays& Step::state(int id) const {
  const auto version = state_versions_.find(id);
  return version != state_versions_.end()
             ? version->second
             : pools_.states.at(static_cast<size_t>(graph_.value(id).external_index));
}

void Step::set_kv(int id, KvArrays version) {
  kv_versions_.insert_or_assign(id, version);
  new_kv_.insert_or_assign(graph_.value(id).external_index, std::move(version));
}

void Step::set_state(int id, StateArrays version) {
  state_versions_.insert_or_assign(id, version);
  new_states_.insert_or_assign(graph_.value(id).external_index, std::move(version));
}

const Layout& Step::layout(Rows kind) {
  if (const auto known = layouts_.find(kind); known != layouts_.end()) return known->second;
  DECANT_ASSERT(kind != Rows::kFixed, "only rows of tokens and outputs belong to sequences");
  std::vector<Layout::Entry> live;
  std::vector<int32_t> first_row;
  int32_t longest = 1;
  int entries, count;
  if (kind == Rows::kTokens) {
    for (size_t s = 0; s < batch_.sequences.size(); ++s) {
      const Batch::Sequence& sequence = batch_.sequences[s];
      live.push_back({narrow<int32_t>(s), sequence.past, sequence.count});
      first_row.push_back(sequence.first);
      longest = std::max(longest, sequence.count);
    }
    entries = bucket(batch_.num_sequences(), graph_.capacity().sequences);
    count = bucket(batch_.num_tokens(), graph_.capacity().tokens);
  } else {
    for (const int32_t row : batch_.outputs) {
      const auto token = static_cast<size_t>(row);
      live.push_back({batch_.sequence_of[token], batch_.positions[token], 1});
      first_row.push_back(narrow<int32_t>(first_row.size()));
    }
    entries = count = bucket(batch_.num_outputs(), graph_.capacity().outputs);
  }
  const int length = bucket(longest, count);
  std::vector<int32_t> row_of(static_cast<size_t>(entries * length), 0);
  std::vector<int32_t> place_of(static_cast<size_t>(count), 0);
  std::vector<int32_t> counts(static_cast<size_t>(entries), 0);
  bool identity = entries == count && length == 1;
  for (size_t e = 0; e < live.size(); ++e) {
    counts[e] = live[e].count;
    identity = identity && first_row[e] == static_cast<int32_t>(e);
    for (int32_t i = 0; i < live[e].count; ++i) {
      const size_t place = e * static_cast<size_t>(length) + static_cast<size_t>(i);
      row_of[place] = first_row[e] + i;
      place_of[static_cast<size_t>(first_row[e] + i)] = static_cast<int32_t>(place);
    }
  }
  return layouts_
      .emplace(kind, Layout{std::move(live), entries, length, count, identity,
                            int_array(row_of, {entries * length}), int_array(place_of, {count}),
                            int_array(counts, {entries, 1})})
      .first->second;
}

const KeyWindow& Step::keys(Rows kind, const KvSpec& spec) {
  const auto key = std::tuple(kind, spec.group, spec.window);
  if (const auto known = keys_.find(key); known != keys_.end()) return known->second;
  const Layout& arranged = layout(kind);
  const int entries = arranged.entries, length = arranged.length;
  const auto first_page = [&](const Layout::Entry& entry) {
    return spec.window > 0 ? std::max<int64_t>(0, entry.first - spec.window + 1) / kPageSize : 0;
  };
  const auto end_page = [&](const Layout::Entry& entry) {
    return (entry.first + entry.count - 1) / kPageSize + 1;
  };
  int64_t longest = 1;
  for (const Layout::Entry& entry : arranged.live)
    longest = std::max(longest, end_page(entry) - first_page(entry));
  // Few different sizes: powers of two while small, then steps of 16 so that little is read in
  // vain.
  const int pages = longest <= 16 ? bucket(longest, 16) : dim(round_up<int64_t>(longest, 16));

  const int32_t absent =
      narrow<int32_t>(pools_.spec().pages_per_group.at(static_cast<size_t>(spec.group)));
  std::vector<int32_t> page_of(static_cast<size_t>(entries * pages), absent);
  std::vector<int32_t> base(static_cast<size_t>(entries), 0), end(base), first(base);
  for (size_t e = 0; e < arranged.live.size(); ++e) {
    const Layout::Entry& entry = arranged.live[e];
    const int32_t* table = batch_.pages(spec.group, entry.sequence);
    const int64_t begin = first_page(entry);
    for (int64_t p = begin; p < end_page(entry); ++p)
      if (table[p] >= 0)
        page_of[e * static_cast<size_t>(pages) + static_cast<size_t>(p - begin)] = table[p];
    base[e] = narrow<int32_t>(begin * kPageSize);
    first[e] = narrow<int32_t>(entry.first);
    end[e] = narrow<int32_t>(entry.first + entry.count);
  }
  const int seen = pages * kPageSize;
  const mx::array position = mx::add(int_array(base, {entries, 1, 1, 1}),
                                     mx::reshape(mx::arange(0, seen, 1), {1, 1, 1, seen}));
  const mx::array query = mx::add(int_array(first, {entries, 1, 1, 1}),
                                  mx::reshape(mx::arange(0, length, 1), {1, 1, length, 1}));
  mx::array mask = mx::less_equal(position, query);
  if (spec.window > 0)
    mask = mx::logical_and(
        mask, mx::greater(position, mx::subtract(query, mx::array(spec.window, mx::int32))));
  mx::array written = mx::less(position, int_array(end, {entries, 1, 1, 1}));
  return keys_
      .emplace(key, KeyWindow{pages, int_array(page_of, {entries * pages}), std::move(mask),
                              mx::reshape(written, {entries, seen, 1, 1})})
      .first->second;
}

const std::pair<mx::array, mx::array>& Step::destinations(int group) {
  if (const auto known = destinations_.find(group); known != destinations_.end())
    return known->second;
  const int count = layout(Rows::kTokens).rows;
  const int32_t scratch =
      narrow<int32_t>(pools_.spec().pages_per_group.at(static_cast<size_t>(group)));
  std::vector<int32_t> page(static_cast<size_t>(count), scratch), slot(page.size(), 0);
  for (size_t n = 0; n < batch_.tokens.size(); ++n) {
    const int32_t position = batch_.positions[n];
    page[n] = batch_.pages(group, batch_.sequence_of[n])[position / kPageSize];
    slot[n] = position % kPageSize;
    DECANT_ASSERT(page[n] >= 0 && page[n] < scratch, "a token is written to a page of the pool");
  }
  return destinations_.emplace(group, std::pair(int_array(page, {count}), int_array(slot, {count})))
      .first->second;
}

const std::pair<mx::array, mx::array>& Step::angles(const RopeParams& params) {
  if (const auto known = angles_.find(&params); known != angles_.end()) return known->second;
  const int count = layout(Rows::kTokens).rows;
  std::vector<float> positions(static_cast<size_t>(count), 0.0f);
  for (size_t n = 0; n < batch_.positions.size(); ++n)
    positions[n] = static_cast<float>(batch_.positions[n]);
  // fast::rope takes 1 / frequency, and its reciprocal is another angle at long positions.
  const mx::array angle = mx::multiply(
      mx::array(positions.begin(), {count, 1, 1}, mx::float32),
      mx::array(params.inv_freq.begin(), {1, 1, dim(static_cast<int64_t>(params.inv_freq.size()))},
                mx::float32));
  const mx::array factor(params.attention_factor);
  return angles_
      .emplace(&params, std::pair(mx::multiply(mx::cos(angle), factor),
                                  mx::multiply(mx::sin(angle), factor)))
      .first->second;
}

const mx::array& Step::output_rows() {
  if (output_rows_ == nullptr) {
    std::vector<int32_t> rows_of = batch_.outputs;
    const int count = bucket(batch_.num_outputs(), graph_.capacity().outputs);
    rows_of.resize(static_cast<size_t>(count), 0);
    output_rows_ = std::make_unique<mx::array>(int_array(rows_of, {count}));
  }
  return *output_rows_;
}

}  // namespace decant::mlx
