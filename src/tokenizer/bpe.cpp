#include "tokenizer/bpe.h"

#include <algorithm>
#include <functional>

#include "base/checked.h"
#include "base/utf8.h"
#include "tokenizer/unicode.h"

namespace decant::tokenizer {
namespace {

constexpr uint32_t kNoRank = ~uint32_t{0};
// Below this many symbols a scan for the best pair beats a heap.
constexpr size_t kShortWord = 32;
constexpr size_t kBloomBits = size_t{1} << 20;

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

std::unique_ptr<const Bpe> Bpe::parse(const Node& node) {
  node.expect_keys({"type", "dropout", "unk_token", "continuing_subword_prefix",
                    "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges", "vocab",
                    "merges"});
  if (const auto dropout = node.find("dropout"); dropout && dropout->number() != 0.0)
    throw dropout->error("expected null: random merges are for training only");
  std::unique_ptr<Bpe> bpe(new Bpe);
  bpe->vocab_ = parse_vocab(node.at("vocab"));
  bpe->prefix_ = node.string_or("continuing_subword_prefix", "");
  bpe->suffix_ = node.string_or("end_of_word_suffix", "");
  bpe->fuse_unk_ = node.boolean_or("fuse_unk", false);
  bpe->byte_fallback_ = node.boolean_or("byte_fallback", false);
  bpe->ignore_merges_ = node.boolean_or("ignore_merges", false);
  if (const auto unk = node.find("unk_token")) {
    bpe->unk_ = bpe->vocab_.find(unk->string());
    if (!bpe->unk_)
      throw unk->error(fmt::format("token {} is not in the vocabulary", quote(unk->string())));
  }
  bpe->index_characters();
  bpe->index_bytes();
  bpe->parse_merges(node.at("merges"));
  return bpe;
}

void Bpe::index_characters() {
  low_.fill(-1);
  std::string text;
  for (uint32_t c = 0; c < low_.size(); ++c) {
    text.clear();
    append_utf8(text, c);
    if (const auto id = vocab_.find(text)) low_[c] = *id;
  }
}

void Bpe::index_bytes() {
  bytes_.fill(-1);
  for (size_t byte = 0; byte < 256; ++byte)
    if (const auto id = vocab_.find(fmt::format("<0x{:02X}>", byte))) bytes_[byte] = *id;
}

void Bpe::parse_merges(const Node& node) {
  const simdjson::dom::array entries = node.array();
  // The array's own count saturates: count by walking.
  size_t count = 0;
  for ([[maybe_unused]] const auto entry : entries) ++count;
  merges_.reset(count);
  std::vector<int32_t> merged;
  merged.reserve(count);
  Problems problems;
  std::string joined;
  size_t index = 0;
  uint32_t next_rank = 0;
  for (const auto entry : entries) {
    const size_t at = index++;
    std::string_view left;
    std::string_view right;
    std::string_view line;
    simdjson::dom::array pair;
    if (!entry.get(line)) {
      if (line.starts_with("#version")) continue;
      const size_t space = line.find(' ');
      if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
        problems.add(fmt::format("entry {}: expected two tokens with one space between, got {}", at,
                                 quote(line)));
        continue;
      }
      left = line.substr(0, space);
      right = line.substr(space + 1);
    } else if (entry.get(pair) || pair.size() != 2 || pair.at(0).get(left) ||
               pair.at(1).get(right)) {
      problems.add(fmt::format("entry {}: expected a string or a pair of strings", at));
      continue;
    }
    const uint32_t rank = next_rank++;
    const auto left_id = vocab_.find(left);
    const auto right_id = vocab_.find(right);
    if (!left_id || !right_id) {
      problems.add(
          fmt::format("entry {}: {} is not in the vocabulary", at, quote(left_id ? right : left)));
      continue;
    }
    if (right.size() < prefix_.size()) {
      problems.add(fmt::format("entry {}: {} is shorter than the prefix {}", at, quote(right),
                               quote(prefix_)));
      continue;
    }
    joined.assign(left);
    joined += right.substr(prefix_.size());
    const auto id = vocab_.find(joined);
    if (!id) {
      problems.add(
          fmt::format("entry {}: the merged token {} is not in the vocabulary", at, quote(joined)));
      continue;
    }
    merges_.put(pair_key(*left_id, *right_id), {rank, static_cast<uint32_t>(*id)});
    merged.push_back(*id);
  }
  if (!problems.empty()) throw node.error(problems.text("merges do not fit the vocabulary"));
  find_uncuttable_pairs(merged);
}

// A merged token is the concatenation of its characters. Where two neighbouring characters of a
// text stand side by side in no merged token, no merge reaches across, and the text can be cut
// there. This keeps words short for tokenizers without a pre-tokenizer.
void Bpe::find_uncuttable_pairs(const std::vector<int32_t>& merged) {
  may_cut_ = prefix_.empty() && suffix_.empty();
  if (!may_cut_) return;
  joined_.assign(kBloomBits / 64, 0);
  for (const int32_t id : merged) {
    const std::string_view text = vocab_.text(id);
    std::optional<int32_t> previous;
    for (size_t at = 0; at < text.size();) {
      const CodePoint c = decode_code_point(text.substr(at));
      const auto now = character(text.substr(at, c.length), c.value);
      if (previous && now) {
        const uint64_t bit = mix64(pair_key(*previous, *now)) & (kBloomBits - 1);
        joined_[bit / 64] |= uint64_t{1} << (bit % 64);
      }
      previous = now;
      at += c.length;
    }
  }
}

bool Bpe::may_join(int32_t left, int32_t right) const {
  const uint64_t bit = mix64(pair_key(left, right)) & (kBloomBits - 1);
  return (joined_[bit / 64] >> (bit % 64) & 1) != 0;
}

std::optional<int32_t> Bpe::character(std::string_view text, uint32_t code_point) const {
  if (code_point < low_.size()) {
    const int32_t id = low_[code_point];
    return id < 0 ? std::nullopt : std::optional(id);
  }
  return vocab_.find(text);
}

void Bpe::make_symbols(std::string_view piece, std::vector<Symbol>& symbols) const {
  symbols.clear();
  std::optional<uint32_t> pending;  // an unknown that may still grow; where it begins
  const auto flush = [&] {
    if (pending) symbols.push_back({*unk_, *pending, false});
    pending.reset();
  };
  std::string decorated;
  for (size_t at = 0; at < piece.size();) {
    const CodePoint c = decode_code_point(piece.substr(at));
    std::string_view text = piece.substr(at, c.length);
    const auto begin = static_cast<uint32_t>(at);
    const bool first = at == 0;
    at += c.length;
    const bool last = at == piece.size();
    std::optional<int32_t> id;
    if ((!first && !prefix_.empty()) || (last && !suffix_.empty())) {
      decorated = (first ? "" : prefix_) + std::string(text) + (last ? suffix_ : "");
      text = decorated;
      id = vocab_.find(text);
    } else {
      id = character(text, c.value);
    }
    if (id) {
      flush();
      symbols.push_back({*id, begin, true});
      continue;
    }
    if (byte_fallback_ && std::all_of(text.begin(), text.end(), [&](char byte) {
          return bytes_[static_cast<unsigned char>(byte)] >= 0;
        })) {
      // A pending unknown stays pending, as in the official library.
      for (const char byte : text)
        symbols.push_back({bytes_[static_cast<unsigned char>(byte)], begin, false});
      continue;
    }
    if (!unk_) continue;
    if (pending && !fuse_unk_) flush();
    if (!pending) pending = begin;
  }
  flush();
}

uint32_t Bpe::rank(int32_t left, int32_t right) const {
  const PairMap::Value* found = merges_.find(pair_key(left, right));
  return found ? found->first : kNoRank;
}

void Bpe::tokenize(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const {
  if (piece.empty()) return;
  if (ignore_merges_) {
    if (const auto id = vocab_.find(piece)) {
      out.push_back(*id);
      return;
    }
  }
  const bool cached = piece.size() <= PieceCache::kMaxKey;
  uint64_t hash = 0;
  if (cached) {
    hash = hash_bytes(piece);
    const auto known = scratch.cache.find(piece, hash);
    if (!known.empty()) {
      out.insert(out.end(), known.begin(), known.end());
      return;
    }
  }
  std::vector<Symbol>& symbols = scratch.symbols;
  make_symbols(piece, symbols);
  if (cached) {
    const size_t before = out.size();
    merge(symbols, 0, symbols.size(), scratch, out);
    scratch.cache.put(piece, hash, std::span(out).subspan(before));
    return;
  }
  size_t begin = 0;
  for (size_t i = 1; i <= symbols.size(); ++i) {
    const bool cut =
        i == symbols.size() || (may_cut_ && symbols[i - 1].from_vocab && symbols[i].from_vocab &&
                                !may_join(symbols[i - 1].id, symbols[i].id));
    if (!cut) continue;
    const size_t from = symbols[begin].begin;
    const size_t to = i == symbols.size() ? piece.size() : symbols[i].begin;
    // Words of characters only: with an unknown inside, the bytes do not tell where it was fused.
    const bool whole = std::all_of(symbols.begin() + static_cast<std::ptrdiff_t>(begin),
                                   symbols.begin() + static_cast<std::ptrdiff_t>(i),
                                   [](const Symbol& s) { return s.from_vocab; });
    if (i - begin > 1 && to - from <= PieceCache::kMaxKey && whole) {
      const std::string_view word = piece.substr(from, to - from);
      const uint64_t word_hash = hash_bytes(word);
      const auto known = scratch.cache.find(word, word_hash);
      if (!known.empty()) {
        out.insert(out.end(), known.begin(), known.end());
      } else {
        const size_t before = out.size();
        merge(symbols, begin, i, scratch, out);
        scratch.cache.put(word, word_hash, std::span(out).subspan(before));
      }
    } else {
      merge(symbols, begin, i, scratch, out);
    }
    begin = i;
  }
}

void Bpe::merge(std::vector<Symbol>& symbols, size_t begin, size_t end, Scratch& scratch,
                std::vector<int32_t>& out) const {
  if (begin == end) return;
  scratch.ids.clear();
  for (size_t i = begin; i < end; ++i) scratch.ids.push_back(symbols[i].id);
  if (end - begin == 1) {
    out.push_back(scratch.ids[0]);
  } else if (end - begin <= kShortWord) {
    merge_short(scratch, out);
  } else {
    merge_long(scratch, out);
  }
}

void Bpe::merge_short(Scratch& scratch, std::vector<int32_t>& out) const {
  std::vector<int32_t>& ids = scratch.ids;
  std::array<uint32_t, kShortWord> ranks;
  size_t count = ids.size();
  for (size_t i = 0; i + 1 < count; ++i) ranks[i] = rank(ids[i], ids[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i)
      if (ranks[i] < ranks[best]) best = i;
    if (ranks[best] == kNoRank) break;
    ids[best] = static_cast<int32_t>(merges_.find(pair_key(ids[best], ids[best + 1]))->second);
    for (size_t i = best + 1; i + 1 < count; ++i) {
      ids[i] = ids[i + 1];
      ranks[i] = ranks[i + 1 < count - 1 ? i + 1 : i];
    }
    --count;
    if (best + 1 < count) ranks[best] = rank(ids[best], ids[best + 1]);
    if (best > 0) ranks[best - 1] = rank(ids[best - 1], ids[best]);
  }
  out.insert(out.end(), ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count));
}

void Bpe::merge_long(Scratch& scratch, std::vector<int32_t>& out) const {
  std::vector<int32_t>& ids = scratch.ids;
  std::vector<uint32_t>& ranks = scratch.ranks;  // of the pair (i, next of i)
  std::vector<uint64_t>& heap = scratch.heap;    // rank << 32 | i, smallest first
  std::vector<uint32_t>& prev = scratch.prev;
  std::vector<uint32_t>& next = scratch.next;
  const auto count = narrow<uint32_t>(ids.size());
  ranks.assign(count, kNoRank);
  prev.resize(count);
  next.resize(count);
  heap.clear();
  for (uint32_t i = 0; i < count; ++i) {
    prev[i] = i - 1;
    next[i] = i + 1;
    if (i + 1 == count) break;
    ranks[i] = rank(ids[i], ids[i + 1]);
    if (ranks[i] != kNoRank) heap.push_back(static_cast<uint64_t>(ranks[i]) << 32 | i);
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto update = [&](uint32_t i) {
    ranks[i] = next[i] < count ? rank(ids[i], ids[next[i]]) : kNoRank;
    if (ranks[i] == kNoRank) return;
    heap.push_back(static_cast<uint64_t>(ranks[i]) << 32 | i);
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const uint64_t top = heap.back();
    heap.pop_back();
    const auto i = static_cast<uint32_t>(top);
    // Stale: the symbol was merged away (id -1) or its pair has changed since.
    if (ids[i] < 0 || ranks[i] != static_cast<uint32_t>(top >> 32)) continue;
    const uint32_t gone = next[i];
    ids[i] = static_cast<int32_t>(merges_.find(pair_key(ids[i], ids[gone]))->second);
    ids[gone] = -1;
    next[i] = next[gone];
    if (next[i] < count) prev[next[i]] = i;
    update(i);
    if (i > 0) update(prev[i]);
  }
  for (uint32_t i = 0; i < count; i = next[i]) out.push_back(ids[i]);
}

}  // namespace decant::tokenizer
