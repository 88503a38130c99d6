#include "base/nearest.h"

#include <algorithm>
#include <utility>

namespace decant {
namespace {

constexpr size_t kMaxLength = 256;

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

}  // namespace

size_t edit_distance(std::string_view first, std::string_view second) {
  if (first.size() > kMaxLength || second.size() > kMaxLength) return kMaxLength;
  const std::string a = lower(first);
  const std::string b = lower(second);
  // Three rows of the table of optimal string alignment: d[i][j] for the first i and j bytes.
  std::vector<size_t> before(b.size() + 1);
  std::vector<size_t> last(b.size() + 1);
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] =
          std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

std::vector<std::string> nearest(std::string_view text, std::span<const std::string> candidates,
                                 size_t limit) {
  constexpr size_t kLongest = 256;  // nobody mistypes this much
  if (text.size() > kLongest) return {};
  const std::string wanted = lower(text);
  std::vector<std::pair<size_t, std::string>> found;
  for (const std::string& candidate : candidates) {
    size_t distance = edit_distance(text, candidate);
    // A part of a name is as good as a typo of one edit.
    const bool part = wanted.size() >= 3 && lower(candidate).find(wanted) != std::string::npos;
    if (part) distance = std::min<size_t>(distance, 1);
    if (part || distance <= std::max<size_t>(1, text.size() / 2))
      found.emplace_back(distance, candidate);
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  std::vector<std::string> out;
  for (size_t i = 0; i < std::min(limit, found.size()); ++i)
    out.push_back(std::move(found[i].second));
  return out;
}

}  // namespace decant
