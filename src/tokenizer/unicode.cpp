#include "tokenizer/unicode.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <vector>

#include "base/utf8.h"

namespace decant::tokenizer {
namespace {

struct StandIn {
  uint32_t first;
  uint32_t last;
  uint32_t stand_in;
};

struct LowercaseRun {
  uint32_t first;
  uint32_t last;
  uint32_t step;
  int32_t difference;
};

#include "tokenizer/unicode_tables.inc"

// Bits of kFlagRuns.
constexpr uint8_t kWordBit = 1;
constexpr uint8_t kNumericBit = 2;
constexpr uint8_t kPunctuationBit = 4;
constexpr uint8_t kMarkBit = 8;
constexpr uint8_t kNonspacingBit = 16;
constexpr uint8_t kDroppedBit = 32;
constexpr uint8_t kInertBit = 64;
constexpr uint8_t kStrangeBit = 128;

// kFlagRuns for direct access: blocks of 256 code points, equal blocks stored once.
class Flags {
 public:
  Flags() {
    std::map<std::array<uint8_t, 256>, uint16_t> known;
    std::array<uint8_t, 256> block;
    size_t run = 0;
    for (uint32_t c = 0; c < kCount; ++c) {
      while (run + 1 < std::size(kFlagRuns) && kFlagRuns[run + 1] >> 8 <= c) ++run;
      block[c % 256] = static_cast<uint8_t>(kFlagRuns[run]);
      if (c % 256 != 255) continue;
      const auto [place, added] = known.try_emplace(block, static_cast<uint16_t>(blocks_.size()));
      if (added) blocks_.push_back(block);
      index_[c / 256] = place->second;
    }
  }
  uint8_t of(uint32_t c) const { return c < kCount ? blocks_[index_[c / 256]][c % 256] : 0; }

 private:
  static constexpr uint32_t kCount = 0x110000;
  std::array<uint16_t, kCount / 256> index_{};
  std::vector<std::array<uint8_t, 256>> blocks_;
};

bool has_flag(uint32_t c, uint8_t bit) {
  static const Flags flags;
  return (flags.of(c) & bit) != 0;
}

struct ByteAlphabet {
  std::array<std::array<char, 2>, 256> text{};
  std::array<uint8_t, 256> length{};
  std::array<int16_t, 0x144> byte_of{};

  ByteAlphabet() {
    byte_of.fill(-1);
    uint32_t shifted = 0x100;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) ||
                             (byte >= 0xAE && byte <= 0xFF);
      const uint32_t code_point = printable ? byte : shifted++;
      std::string utf8;
      append_utf8(utf8, code_point);
      length[byte] = static_cast<uint8_t>(utf8.size());
      for (size_t i = 0; i < utf8.size(); ++i) text[byte][i] = utf8[i];
      byte_of[code_point] = static_cast<int16_t>(byte);
    }
  }
};

const ByteAlphabet& alphabet() {
  static const ByteAlphabet table;
  return table;
}

}  // namespace

CodePoint decode_code_point(std::string_view text) {
  const auto at = [&](size_t i) {
    return static_cast<uint32_t>(static_cast<unsigned char>(text[i]));
  };
  const uint32_t lead = at(0);
  if (lead < 0x80 || text.size() < 2) return {lead, 1};
  if (lead < 0xE0) return {(lead & 0x1F) << 6 | (at(1) & 0x3F), 2};
  if (lead < 0xF0 || text.size() < 4) {
    if (text.size() < 3) return {lead, 1};
    return {(lead & 0x0F) << 12 | (at(1) & 0x3F) << 6 | (at(2) & 0x3F), 3};
  }
  return {(lead & 0x07) << 18 | (at(1) & 0x3F) << 12 | (at(2) & 0x3F) << 6 | (at(3) & 0x3F), 4};
}

CodePoint decode_last_code_point(std::string_view text) {
  size_t begin = text.size() - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  return decode_code_point(text.substr(begin));
}

bool is_whitespace(uint32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 0x09 && c <= 0x0D);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_word(uint32_t c) { return has_flag(c, kWordBit); }
bool is_numeric(uint32_t c) { return has_flag(c, kNumericBit); }
bool is_punctuation(uint32_t c) { return has_flag(c, kPunctuationBit); }
bool is_mark(uint32_t c) { return has_flag(c, kMarkBit); }
bool is_nonspacing_mark(uint32_t c) { return has_flag(c, kNonspacingBit); }
bool is_dropped_by_bert(uint32_t c) { return has_flag(c, kDroppedBit); }
bool is_inert(uint32_t c) { return has_flag(c, kInertBit); }

uint32_t lowercase(uint32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
  const auto* run = std::upper_bound(std::begin(kLowercaseRuns), std::end(kLowercaseRuns), c,
                                     [](uint32_t x, const LowercaseRun& r) { return x < r.first; });
  if (run == std::begin(kLowercaseRuns)) return c;
  --run;
  if (c > run->last || (c - run->first) % run->step != 0) return c;
  return static_cast<uint32_t>(static_cast<int32_t>(c) + run->difference);
}

void append_lowercase(std::string& out, uint32_t c) {
  if (c == 0x130) {
    // The only lower-case mapping to two code points that needs no context.
    out += "i\xCC\x87";
  } else {
    append_utf8(out, lowercase(c));
  }
}

std::string_view pattern_subject(std::string_view text, std::string& buffer) {
  const auto ascii = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
  bool changed = false;
  for (size_t at = 0; at < text.size();) {
    if (ascii(text[at])) {
      ++at;
      continue;
    }
    const CodePoint c = decode_code_point(text.substr(at));
    if (has_flag(c.value, kStrangeBit)) {
      if (!changed) buffer = text;
      changed = true;
      const auto* known =
          std::upper_bound(std::begin(kStandIns), std::end(kStandIns), c.value,
                           [](uint32_t x, const StandIn& s) { return x < s.first; });
      // What the official patterns do not know is unassigned to them; so are these for ever.
      uint32_t stand_in = c.length == 2 ? 0x378 : c.length == 3 ? 0xFDD0 : 0x1FFFE;
      if (known != std::begin(kStandIns) && c.value <= std::prev(known)->last)
        stand_in = std::prev(known)->stand_in;
      std::string bytes;
      append_utf8(bytes, stand_in);
      buffer.replace(at, c.length, bytes);
    }
    at += c.length;
  }
  return changed ? std::string_view(buffer) : text;
}

std::string_view byte_alphabet(unsigned char byte) {
  const ByteAlphabet& table = alphabet();
  return {table.text[byte].data(), table.length[byte]};
}

int byte_of_alphabet(uint32_t code_point) {
  const ByteAlphabet& table = alphabet();
  return code_point < table.byte_of.size() ? table.byte_of[code_point] : -1;
}

}  // namespace decant::tokenizer
