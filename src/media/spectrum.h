#pragma once

#include <complex>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace decant::media {

/// The magnitudes of a real signal's discrete Fourier transform of a power-of-two length.
class Spectrum {
 public:
  /// length: a power of two, 4 to 65536.
  explicit Spectrum(size_t length);
  size_t length() const { return length_; }
  /// `signal`: length() values; `magnitudes`: length() / 2 + 1 values.
  void magnitudes(const double* signal, double* magnitudes);

 private:
  size_t length_;
  std::vector<size_t> reversed_;              // bit-reversed order of length / 2 values
  std::vector<std::complex<double>> turns_;   // exp(-2 pi i k / length), k < length / 2
  std::vector<std::complex<double>> values_;  // scratch
};

/// Triangular filters on the HTK mel scale, evenly spaced from `low` to `high` Hz, without area
/// normalisation: filter m of bins b is the lesser of the two slopes through its neighbours' peaks.
class MelFilters {
 public:
  MelFilters(int64_t filters, double low, double high, double sample_rate, size_t fft_length);
  /// `magnitudes`: fft_length / 2 + 1 values; `out`: one per filter.
  void apply(const double* magnitudes, double* out) const;

 private:
  struct Filter {
    size_t first = 0;
    std::vector<double> weights;
  };
  std::vector<Filter> filters_;
};

}  // namespace decant::media
