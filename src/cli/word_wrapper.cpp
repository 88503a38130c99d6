#include "cli/word_wrapper.h"

#include <algorithm>
#include <utility>

#include "base/utf8.h"
#include "cli/text_width.h"

namespace decant::cli {
namespace {

constexpr size_t kLongestCluster = 256;  // bytes; stacked marks without end are cut here
constexpr int kTab = 8;

}  // namespace

WordWrapper::WordWrapper(std::function<int()> columns) : columns_(std::move(columns)) {}

std::string WordWrapper::push(std::string_view text) {
  tail_ += text;
  std::string_view rest = tail_;
  while (!rest.empty()) {
    const size_t length = std::min(grapheme_length(rest), kLongestCluster);
    if (length == rest.size() && length < kLongestCluster) break;
    take(rest.substr(0, length));
    rest.remove_prefix(length);
  }
  tail_.erase(0, tail_.size() - rest.size());
  return std::exchange(out_, {});
}

std::string WordWrapper::finish() {
  if (!tail_.empty()) take(std::exchange(tail_, {}));
  flush_word();
  out_ += std::exchange(blanks_, {});
  column_ += std::exchange(blanks_width_, 0);
  return std::exchange(out_, {});
}

std::string WordWrapper::placed(std::string_view cluster) const {
  std::string out;
  for (size_t i = 0; i < cluster.size();) {
    const auto byte = static_cast<unsigned char>(cluster[i]);
    const size_t length = std::max<size_t>(1, utf8_sequence_length(cluster.substr(i)));
    if (byte < 0x20) {
      append_utf8(out, 0x2400u + byte);
    } else if (byte == 0x7F) {
      append_utf8(out, 0x2421);
    } else if (byte == 0xC2 && length == 2 && static_cast<unsigned char>(cluster[i + 1]) < 0xA0) {
      append_utf8(out, 0xFFFD);  // C1: a terminal may take it for the start of a sequence
    } else {
      out += cluster.substr(i, length);
    }
    i += length;
  }
  return out;
}

void WordWrapper::take(std::string_view cluster) {
  if (cluster == "\n" || cluster == "\r\n") {
    end_line();
    return;
  }
  if (cluster == " " || cluster == "\t") {
    flush_word();
    word_fits_ = true;
    const int at = column_ + blanks_width_;
    blanks_width_ += cluster == " " ? 1 : kTab - at % kTab;
    blanks_ += cluster;
    return;
  }
  const std::string shown = placed(cluster);
  const int width = grapheme_width(shown);
  if (fence_ == 0) {
    const bool wide = breaks_around(cluster);
    // Around an ideograph a new word begins, except where punctuation must stay with its neighbour.
    if (!word_.empty() && !word_open_ && (wide || word_wide_) && !never_begins_line(cluster))
      flush_word();
    word_wide_ = wide || (word_wide_ && never_begins_line(cluster));
    word_open_ = never_ends_line(cluster) && (wide || word_.empty());
    if (wide) word_fits_ = true;
  }
  word_ += shown;
  word_width_ += width;
  const int columns = columns_();
  const bool code = fence_ != 0 && (!line_begins_ || word_.front() != fence_);
  if (!word_fits_ || code || (columns > 0 && word_width_ > columns && fence_ == 0)) {
    word_fits_ = code;
    flush_word();
  }
}

void WordWrapper::end_line() {
  flush_word();
  if (columns_() == 0 || column_ + blanks_width_ <= columns_() || fence_ != 0) out_ += blanks_;
  blanks_.clear();
  blanks_width_ = 0;
  out_ += '\n';
  column_ = 0;
  line_begins_ = true;
  word_fits_ = true;
}

// A line that begins with three or more of ` or ~ opens a fence; one with nothing else, and at
// least as many, closes it.
void WordWrapper::note_fence() {
  if (blanks_width_ > 3) return;
  const char sign = word_.front();
  if (sign != '`' && sign != '~') return;
  const size_t count = std::min(word_.find_first_not_of(sign), word_.size());
  if (count < 3) return;
  if (fence_ == 0) {
    fence_ = sign;
    fence_length_ = count;
  } else if (sign == fence_ && count == word_.size() && count >= fence_length_) {
    fence_ = 0;
  }
}

void WordWrapper::flush_word() {
  if (word_.empty()) return;
  if (line_begins_) note_fence();
  const int columns = columns_();
  const bool crosses = columns > 0 && column_ + blanks_width_ + word_width_ > columns;
  if (crosses && fence_ == 0 && word_fits_ && !line_begins_) {
    out_ += '\n';
    column_ = 0;
  } else {
    out_ += blanks_;
    column_ += blanks_width_;
  }
  blanks_.clear();
  blanks_width_ = 0;
  out_ += std::exchange(word_, {});
  column_ += std::exchange(word_width_, 0);
  if (columns > 0 && column_ > columns) column_ = (column_ - 1) % columns + 1;
  line_begins_ = word_wide_ = word_open_ = false;
}

std::string harmless(std::string_view text) {
  WordWrapper wrapper([] { return 0; });
  const std::string out = wrapper.push(text);
  return out + wrapper.finish();
}

}  // namespace decant::cli
