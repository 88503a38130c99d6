#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/thread_team.h"

namespace decant::cpu {

/// Sums over memory of its own, in small pages as a mapped file has, with all threads of a team.
class HostReadProbe final : public ReadProbe {
 public:
  explicit HostReadProbe(ThreadTeam& team);
  double read(int64_t bytes) override;

 private:
  double read_part(int64_t begin, int64_t end);

  ThreadTeam& team_;
  std::vector<uint64_t> memory_;
  std::vector<uint64_t> sums_;  // a cache line for each thread
  int64_t next_ = 0;            // word
};

}  // namespace decant::cpu
