#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace decant::cli {

/// What was entered at the prompt, from one run to the next: one JSON string a line, oldest first,
/// readable by its owner only. Nothing that goes wrong is an error; problem() tells the first
/// thing.
class HistoryFile {
 public:
  /// An empty path keeps nothing.
  explicit HistoryFile(std::filesystem::path path, size_t max_entries = 1000);
  /// All entries; cuts the file to the newest `max_entries`.
  std::vector<std::string> load();
  /// Adds an entry at once, so that a crash loses none. One like the last, or a huge one, is not
  /// kept.
  void append(std::string_view entry);
  const std::optional<std::string>& problem() const { return problem_; }

 private:
  void fail(std::string reason);

  std::filesystem::path path_;
  size_t max_entries_;
  std::string last_;
  std::optional<std::string> problem_;
};

/// $XDG_STATE_HOME/decant/history, else ~/.local/state/decant/history; empty without a home.
std::filesystem::path history_path();

}  // namespace decant::cli
