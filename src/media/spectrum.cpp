#include "media/spectrum.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/errors.h"

namespace decant::media {

Spectrum::Spectrum(size_t length) : length_(length) {
  DECANT_ASSERT(length >= 4 && length <= 65536 && (length & (length - 1)) == 0,
                "a transform's length is a power of two");
  const size_t half = length / 2;
  reversed_.resize(half);
  for (size_t i = 1; i < half; ++i) {
    reversed_[i] = reversed_[i / 2] / 2 + (i % 2 != 0 ? half / 2 : 0);
  }
  turns_.resize(half);
  for (size_t k = 0; k < half; ++k) {
    const double angle =
        -2.0 * std::numbers::pi * static_cast<double>(k) / static_cast<double>(length);
    turns_[k] = {std::cos(angle), std::sin(angle)};
  }
  values_.resize(half);
}

// The even and odd samples are the real and imaginary parts of a complex signal of half the length;
// its transform, radix 2, is taken apart afterwards.
void Spectrum::magnitudes(const double* signal, double* magnitudes) {
  const size_t half = length_ / 2;
  for (size_t i = 0; i < half; ++i) {
    values_[reversed_[i]] = {signal[2 * i], signal[2 * i + 1]};
  }
  for (size_t size = 2; size <= half; size *= 2) {
    const size_t step = length_ / size;
    for (size_t start = 0; start < half; start += size) {
      for (size_t k = 0; k < size / 2; ++k) {
        std::complex<double>& low = values_[start + k];
        std::complex<double>& high = values_[start + k + size / 2];
        const std::complex<double> w = turns_[k * step];
        const double re = high.real() * w.real() - high.imag() * w.imag();
        const double im = high.real() * w.imag() + high.imag() * w.real();
        high = {low.real() - re, low.imag() - im};
        low = {low.real() + re, low.imag() + im};
      }
    }
  }
  magnitudes[0] = std::fabs(values_[0].real() + values_[0].imag());
  magnitudes[half] = std::fabs(values_[0].real() - values_[0].imag());
  for (size_t k = 1; k < half; ++k) {
    const std::complex<double> a = values_[k];
    const std::complex<double> b = std::conj(values_[half - k]);
    const std::complex<double> even = 0.5 * (a + b);
    const std::complex<double> difference = 0.5 * (a - b);
    const std::complex<double> odd = {difference.imag(), -difference.real()};
    const std::complex<double> w = turns_[k];
    const double re = even.real() + odd.real() * w.real() - odd.imag() * w.imag();
    const double im = even.imag() + odd.real() * w.imag() + odd.imag() * w.real();
    magnitudes[k] = std::sqrt(re * re + im * im);
  }
}

MelFilters::MelFilters(int64_t filters, double low, double high, double sample_rate,
                       size_t fft_length) {
  const auto mel = [](double hertz) { return 2595.0 * std::log10(1.0 + hertz / 700.0); };
  const auto hertz = [](double m) { return 700.0 * (std::pow(10.0, m / 2595.0) - 1.0); };
  const auto count = static_cast<size_t>(filters);
  std::vector<double> peaks(count + 2);
  const double step = (mel(high) - mel(low)) / static_cast<double>(filters + 1);
  for (size_t i = 0; i < peaks.size(); ++i) {
    peaks[i] = hertz(mel(low) + step * static_cast<double>(i));
  }
  peaks.back() = hertz(mel(high));
  const double bin = sample_rate / static_cast<double>(fft_length);
  filters_.resize(count);
  for (size_t m = 0; m < count; ++m) {
    Filter& filter = filters_[m];
    for (size_t b = 0; b <= fft_length / 2; ++b) {
      const double frequency = static_cast<double>(b) * bin;
      const double up = (frequency - peaks[m]) / (peaks[m + 1] - peaks[m]);
      const double down = (peaks[m + 2] - frequency) / (peaks[m + 2] - peaks[m + 1]);
      const double weight = std::min(up, down);
      if (!(weight > 0.0)) continue;
      if (filter.weights.empty()) filter.first = b;
      filter.weights.push_back(weight);
    }
  }
}

void MelFilters::apply(const double* magnitudes, double* out) const {
  for (const Filter& filter : filters_) {
    double sum = 0.0;
    for (size_t i = 0; i < filter.weights.size(); ++i) {
      sum += filter.weights[i] * magnitudes[filter.first + i];
    }
    *out++ = sum;
  }
}

}  // namespace decant::media
