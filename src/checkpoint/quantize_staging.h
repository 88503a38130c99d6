#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"

namespace decant {

/// The hidden folder beside the target that becomes it. It is locked while a process writes it; if
/// that fails, it stays as long as it holds a whole shard.
class Staging {
 public:
  /// `plan` is the text that says what is being made: only what was begun with the same is kept.
  /// Errors: UsageError if `target` has content or another process writes it; RuntimeError if the
  /// folder cannot be made.
  Staging(const std::filesystem::path& target, const std::string& plan);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  const std::filesystem::path& folder() const { return folder_; }
  /// True if an earlier run wrote this file with these tensors.
  bool has(const std::string& name, const std::vector<TensorDeclaration>& tensors) const;
  /// Makes the folder the target. Errors: RuntimeError.
  void publish();

 private:
  bool same_plan(const std::string& plan) const;
  std::vector<std::filesystem::path> files() const;
  bool has_shard() const;
  void clear() const;

  std::filesystem::path target_;
  std::filesystem::path folder_;
  int lock_ = -1;
  bool published_ = false;
};

}  // namespace decant
