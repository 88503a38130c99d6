#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace decant {

/// Caches a loaded model needs: one KvSpec per caching layer, one StateSpec per recurrent layer.
struct PoolSpec {
  std::vector<KvSpec> kv;  // by external index
  std::vector<StateSpec> states;
  DType kv_dtype = DType::kBF16;         // bf16, or f32 with --exact
  std::vector<int64_t> pages_per_group;  // by KvSpec::group
  int64_t slots = 0;                     // recurrent state slots
  /// Bytes of all pools.
  int64_t bytes() const;
  /// Bytes of one recurrent slot, its states and logs in all layers.
  int64_t slot_bytes() const;
};

/// What a recurrent slot held, in memory of its own: a deep copy of the states and logs of all
/// layers. Dropping it frees the memory.
class SlotSnapshot {
 public:
  virtual ~SlotSnapshot() = default;
  virtual int64_t bytes() const = 0;
};

/// Caches in a backend's memory. Programs that share them run one after the other.
class Pools {
 public:
  virtual ~Pools() = default;
  virtual const PoolSpec& spec() const = 0;
  /// Zeroes the recurrent state and log of a slot.
  virtual void reset_slot(int64_t slot) = 0;
  /// Copies a slot as the last step left it: committed state and uncommitted log, so that who
  /// restores it commits what the owner would have. A state is a lossy summary, hence the only way
  /// back to a position is a snapshot taken there. Errors: MemoryError.
  virtual std::unique_ptr<SlotSnapshot> save_slot(int64_t slot) const = 0;
  /// Puts a snapshot of pools with these specs into a slot, the one it was taken of or another.
  virtual void restore_slot(int64_t slot, const SlotSnapshot& snapshot) = 0;
};

struct CompileOptions {
  bool exact = false;            // f32 products: what goldens are compared with
  bool reference = false;        // reference kernels only (--route reference)
  bool dense_attention = false;  // sparse attention reads all positions: its oracle
};

/// What one node took in the last profiled run.
struct NodeTime {
  int node = -1;
  double seconds = 0;
};

/// A compiled step. Not thread safe; programs of one backend share its arena and run in order.
class Program {
 public:
  virtual ~Program() = default;
  /// The graph as it is executed: expanded, fused, lowered.
  virtual const Graph& graph() const = 0;
  virtual const Capacity& capacity() const = 0;
  /// Bytes of the arena this program needs.
  virtual int64_t arena_bytes() const = 0;

  /// Fills an external input (index as given to Graph::input): live rows, row-major.
  virtual void set_input(int index, std::span<const float> values) = 0;
  virtual void set_input(int index, std::span<const int32_t> values) = 0;
  /// Runs one step. The batch must fit the capacity. Errors: RuntimeError when the step failed (a
  /// weight file was cut while mapped, the device is lost): no output of this step is valid then.
  virtual void run(const Batch& batch) = 0;
  /// Output `index` (in the order of Graph::outputs()) of the last run: live rows x width, valid
  /// until the next run of any program of this backend.
  virtual std::span<const float> output(int index) const = 0;
  virtual std::span<const int32_t> int_output(int index) const = 0;

  /// Distinct experts each node touched in the last run (by node id of graph(); -1: not an expert
  /// node).
  virtual std::vector<int64_t> distinct_experts() const { return {}; }
  /// Times of the nodes of the last run if profiling was on.
  virtual void set_profiling(bool) {}
  virtual std::vector<NodeTime> node_times() const { return {}; }
};

/// Reads memory of the kind that weights lie in, and does nothing else: the yardstick of decode.
/// Must not outlive its backend, nor run beside a program of it.
class ReadProbe {
 public:
  virtual ~ReadProbe() = default;
  /// Reads `bytes`, each pass going on where the last one stopped; the seconds it took.
  virtual double read(int64_t bytes) = 0;
};

/// Where programs run.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;
  /// One line: processor or card, instruction set, threads.
  virtual std::string description() const = 0;
  /// Errors: MemoryError when the pools do not fit.
  virtual std::unique_ptr<Pools> make_pools(const PoolSpec& spec) = 0;
  /// Weights of the graph must outlive the program; a backend that copies or repacks them does so
  /// once per weight. Errors: RuntimeError naming op, dtype, shape and backend where a primitive is
  /// missing.
  virtual std::unique_ptr<Program> compile(const Graph& graph, Pools& pools,
                                           const CompileOptions& options) = 0;
  /// Null where there is no such probe.
  virtual std::unique_ptr<ReadProbe> make_read_probe() { return nullptr; }
  /// Bytes this backend can still use for pools and arenas.
  virtual int64_t free_bytes() const = 0;
  /// True where weights are used from where they are mapped: free_bytes() counts the memory they
  /// need for themselves once they are read.
  virtual bool maps_weights() const { return false; }
  /// True where towers run, and text models with rows of theirs in place of embeddings.
  virtual bool takes_media() const { return false; }
};

struct BackendOptions {
  int threads = 0;  // cpu: 0 = one per physical core
};

/// A backend by name: "cpu", "cuda", "mlx", "reference", or "auto" for the best present.
/// Errors: UsageError with the reason when this build or machine does not have it.
std::unique_ptr<Backend> make_backend(std::string_view name, const BackendOptions& options);
/// Names this build knows, each with "available" or the reason it is not.
std::vector<std::pair<std::string, std::string>> backend_list();
/// What the CPU backend would run with here.
struct CpuFacts {
  struct InstructionSet {
    std::string name;
    bool available = false;
    bool selected = false;
  };
  std::vector<InstructionSet> sets;  // weakest first
  std::string problem;  // why none is selected: DECANT_CPU_ISA names one this processor lacks
  int threads = 0;      // by default: one per physical core this process may use
};
CpuFacts cpu_facts();

}  // namespace decant
