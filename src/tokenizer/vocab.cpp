#include "tokenizer/vocab.h"

#include <algorithm>
#include <bit>

#include "base/checked.h"
#include "tokenizer/flat_map.h"

namespace decant::tokenizer {

void Vocab::reserve(size_t count, size_t bytes) {
  arena_.reserve(bytes);
  entries_.reserve(count);
  slots_.assign(std::bit_ceil(count * 2 + 8), 0);
}

size_t Vocab::place(std::string_view text) const {
  size_t at = hash_bytes(text) & (slots_.size() - 1);
  while (slots_[at] != 0 && text_of(entries_[slots_[at] - 1]) != text)
    at = (at + 1) & (slots_.size() - 1);
  return at;
}

Vocab::Added Vocab::add(std::string_view text, int32_t id) {
  DECANT_ASSERT((entries_.size() + 1) * 2 <= slots_.size(), "a vocabulary must be reserved first");
  uint32_t& slot = slots_[place(text)];
  if (slot != 0) return Added::kDuplicateText;
  entries_.push_back({arena_.size(), text.size(), id});
  arena_ += text;
  slot = narrow<uint32_t>(entries_.size());
  max_id_ = std::max(max_id_, id);
  return Added::kNew;
}

std::vector<int32_t> Vocab::index() {
  std::vector<int32_t> twice;
  by_id_.assign(static_cast<size_t>(max_id_ + 1), 0);
  for (size_t i = 0; i < entries_.size(); ++i) {
    uint32_t& slot = by_id_[static_cast<size_t>(entries_[i].id)];
    if (slot == 0) {
      slot = narrow<uint32_t>(i + 1);
    } else {
      twice.push_back(entries_[i].id);
    }
  }
  return twice;
}

std::optional<int32_t> Vocab::find(std::string_view text) const {
  if (slots_.empty()) return std::nullopt;
  const uint32_t slot = slots_[place(text)];
  if (slot == 0) return std::nullopt;
  return entries_[slot - 1].id;
}

bool Vocab::has(int32_t id) const {
  return id >= 0 && static_cast<size_t>(id) < by_id_.size() && by_id_[static_cast<size_t>(id)] != 0;
}

std::string_view Vocab::text(int32_t id) const {
  if (!has(id)) return {};
  return text_of(entries_[by_id_[static_cast<size_t>(id)] - 1]);
}

}  // namespace decant::tokenizer
