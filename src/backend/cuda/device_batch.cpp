#include "backend/cuda/device_batch.h"

#include <algorithm>

#include "base/checked.h"

namespace decant::cuda {

DeviceBatch::DeviceBatch(const Capacity& capacity, const PoolSpec& pools)
    : capacity_(capacity), pages_per_group_(pools.pages_per_group) {
  // The fields one after the other; pointers are filled in once the size is known.
  int64_t bytes = 0;
  const auto place = [&](int64_t count, int64_t each) {
    const int64_t at = bytes;
    bytes += round_up(count * each, int64_t{16});
    return at;
  };
  const int64_t tokens = capacity.tokens, sequences = capacity.sequences,
                outputs = capacity.outputs;
  const auto groups = static_cast<int64_t>(pages_per_group_.size());
  const int64_t counts = place(4, 4);
  const int64_t token_fields[] = {place(tokens, 4), place(tokens, 4), place(tokens, 4)};
  const int64_t output_rows = place(outputs, 4);
  const int64_t sequence_fields[] = {place(sequences, 4), place(sequences, 4), place(sequences, 4),
                                     place(sequences, 4)};
  const int64_t sampling = place(outputs, sizeof(SampleParams));
  const int64_t page_begin = place(groups * sequences, 4);
  int64_t entries = 0;
  for (int64_t pages : pages_per_group_) entries += pages * sequences;
  const int64_t pages = place(entries, 4);
  memory_ = DeviceBuffer(bytes, "the batch of a step");
  staging_ = std::make_unique<PinnedBuffer>(bytes);
  std::fill_n(staging_->data(), bytes, std::byte{0});
  const auto ints = [&](int64_t at) {
    return reinterpret_cast<const int32_t*>(memory_.data() + at);
  };
  view_.live_tokens = ints(counts);
  view_.live_sequences = ints(counts) + 1;
  view_.live_outputs = ints(counts) + 2;
  view_.prefill = ints(counts) + 3;
  view_.tokens = ints(token_fields[0]);
  view_.positions = ints(token_fields[1]);
  view_.sequence_of = ints(token_fields[2]);
  view_.outputs = ints(output_rows);
  view_.first = ints(sequence_fields[0]);
  view_.count = ints(sequence_fields[1]);
  view_.slot = ints(sequence_fields[2]);
  view_.commit = ints(sequence_fields[3]);
  view_.sampling = reinterpret_cast<const SampleParams*>(memory_.data() + sampling);
  view_.page_begin = ints(page_begin);
  view_.pages = ints(pages);
  view_.sequences = capacity.sequences;
}

void DeviceBatch::upload(const Batch& batch, cudaStream_t stream) {
  const int64_t tokens = batch.num_tokens(), sequences = batch.num_sequences(),
                outputs = batch.num_outputs();
  DECANT_ASSERT(tokens <= capacity_.tokens && sequences <= capacity_.sequences &&
                    outputs <= capacity_.outputs,
                "a batch fits the capacity of its program");
  DECANT_ASSERT(batch.positions.size() == batch.tokens.size() &&
                    batch.sequence_of.size() == batch.tokens.size() &&
                    batch.sampling.size() == batch.outputs.size(),
                "the fields of a batch agree");
  int32_t* counts = host(view_.live_tokens);
  counts[0] = static_cast<int32_t>(tokens);
  counts[1] = static_cast<int32_t>(sequences);
  counts[2] = static_cast<int32_t>(outputs);
  counts[3] = batch.phase == Phase::kPrefill ? 1 : 0;
  std::copy(batch.tokens.begin(), batch.tokens.end(), host(view_.tokens));
  std::copy(batch.positions.begin(), batch.positions.end(), host(view_.positions));
  std::copy(batch.sequence_of.begin(), batch.sequence_of.end(), host(view_.sequence_of));
  std::copy(batch.outputs.begin(), batch.outputs.end(), host(view_.outputs));
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    const Batch::Sequence& sequence = batch.sequences[s];
    host(view_.first)[s] = sequence.first;
    host(view_.count)[s] = sequence.count;
    host(view_.slot)[s] = sequence.slot;
    host(view_.commit)[s] = sequence.commit;
  }
  for (size_t i = 0; i < batch.sampling.size(); ++i) {
    const SamplingRow& row = batch.sampling[i];
    host(view_.sampling)[i] = {row.temperature, row.top_p, row.min_p,
                               row.top_k,       row.seed,  row.counter};
  }
  int32_t next = 0;
  const bool paged = !batch.page_tables.empty();
  for (size_t group = 0; paged && group < pages_per_group_.size(); ++group)
    for (size_t s = 0; s < batch.sequences.size(); ++s) {
      const Batch::Sequence& sequence = batch.sequences[s];
      const int64_t count = div_up<int64_t>(sequence.past + sequence.count, kPageSize);
      DECANT_ASSERT(count <= pages_per_group_[group], "a sequence fits its page pool");
      const int32_t* table = batch.pages(static_cast<int>(group), static_cast<int64_t>(s));
      DECANT_ASSERT(std::all_of(table, table + count,
                                [&](int32_t page) { return page < pages_per_group_[group]; }),
                    "pages lie within their pool");
      host(view_.page_begin)[group * static_cast<size_t>(capacity_.sequences) + s] = next;
      std::copy_n(table, count, host(view_.pages) + next);
      next += static_cast<int32_t>(count);
    }
  const auto used = reinterpret_cast<const std::byte*>(view_.pages + next) - memory_.data();
  check(cudaMemcpyAsync(memory_.data(), staging_->data(), static_cast<size_t>(used),
                        cudaMemcpyHostToDevice, stream),
        "cudaMemcpyAsync of a batch");
}

}  // namespace decant::cuda
