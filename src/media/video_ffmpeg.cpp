#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "base/errors.h"
#include "media/codec.h"
#include "media/video_process.h"
#include "media/video_sources.h"

namespace decant::media {
namespace fs = std::filesystem;
namespace {

// Containers and streams that hold their pictures themselves: no playlist, script or pattern of
// names, through which a file could have others read.
constexpr const char* kFormats =
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,ogg,flv,live_flv,asf,gif,apng,"
    "h264,hevc,m4v,ivf,av1,obu,nut,rm,dv,mxf,yuv4mpegpipe";

constexpr size_t kLongestLine = 64 * 1024;

std::optional<int64_t> integer(std::string_view text) {
  int64_t value = 0;
  const auto [rest, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc() || rest != text.data() + text.size()) return std::nullopt;
  return value;
}

/// "30000/1001"; nothing where it is no number above 0.
std::optional<double> fraction(std::string_view text) {
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  const auto above = integer(text.substr(0, slash)), below = integer(text.substr(slash + 1));
  if (!above || !below || *above <= 0 || *below <= 0) return std::nullopt;
  return static_cast<double>(*above) / static_cast<double>(*below);
}

/// The value of `key` in a line "section|key=value|key=value" of ffprobe's compact form.
std::string_view field(std::string_view line, std::string_view key) {
  while (!line.empty()) {
    const std::string_view part = line.substr(0, line.find('|'));
    line.remove_prefix(std::min(line.size(), part.size() + 1));
    if (part.size() > key.size() && part[key.size()] == '=' && part.starts_with(key))
      return part.substr(key.size() + 1);
  }
  return {};
}

/// What ffprobe says of a stream and its packets.
struct Packets {
  int64_t count = 0;
  int64_t begin = std::numeric_limits<int64_t>::max();  // of the presentation, in units
  int64_t end = std::numeric_limits<int64_t>::min();
  bool stream = false;
  std::optional<double> unit, rate;  // seconds; frames a second as the container says
  std::optional<int64_t> width, height, counted;

  void take(std::string_view line) {
    if (line.starts_with("packet|")) {
      // Packets to discard stand before what the container shows.
      if (field(line, "flags").find('D') != std::string_view::npos) return;
      ++count;
      const auto at = integer(field(line, "pts"));
      if (!at) return;
      const int64_t length = std::max<int64_t>(0, integer(field(line, "duration")).value_or(0));
      begin = std::min(begin, *at);
      int64_t until = 0;
      if (!__builtin_add_overflow(*at, length, &until)) end = std::max(end, until);
    } else if (line.starts_with("stream|")) {
      stream = true;
      width = integer(field(line, "width"));
      height = integer(field(line, "height"));
      unit = fraction(field(line, "time_base"));
      rate = fraction(field(line, "avg_frame_rate"));
      if (!rate) rate = fraction(field(line, "r_frame_rate"));
      counted = integer(field(line, "nb_read_frames"));
    }
  }
  /// Frames a second: what is shown, over how long; the container's word where times are missing.
  std::optional<double> fps() const {
    if (unit && count > 0 && begin < end) {
      const double seconds = static_cast<double>(end) * *unit - static_cast<double>(begin) * *unit;
      if (seconds > 0.0) return static_cast<double>(count) / seconds;
    }
    return rate;
  }
};

/// True for frame numbers `n` of the sorted runs [first, last]: nested, so that a frame costs a
/// few comparisons and not one for every run.
void write_choice(std::span<const std::pair<int64_t, int64_t>> runs, std::string& out) {
  if (runs.size() == 1) {
    out += fmt::format("between(n,{},{})", runs[0].first, runs[0].second);
    return;
  }
  const size_t middle = runs.size() / 2;
  out += fmt::format("if(lt(n,{}),", runs[middle].first);
  write_choice(runs.first(middle), out);
  out += ',';
  write_choice(runs.subspan(middle), out);
  out += ')';
}

class FfmpegVideo : public Video {
 public:
  FfmpegVideo(const fs::path& path, const VideoLimits& limits)
      : name_(path.string()),
        limits_(limits),
        ffmpeg_(find_program("ffmpeg")),
        ffprobe_(find_program("ffprobe")) {
    if (ffmpeg_.empty() || ffprobe_.empty())
      refuse(name_, "ffmpeg and ffprobe, which read it, on PATH",
             fmt::format(
                 "{} (install them: apt install ffmpeg; a folder of pictures or an animated "
                 "WebP needs neither)",
                 ffmpeg_.empty() ? (ffprobe_.empty() ? "neither" : "no ffmpeg") : "no ffprobe"));
    std::error_code error;
    const fs::path absolute = fs::absolute(path, error);
    if (error) refuse(name_, "a path", error.message());
    // A protocol and an absolute path: nothing in a name is an option or a protocol of its own.
    source_ = {"-protocol_whitelist",
               "file,pipe",
               "-format_whitelist",
               kFormats,
               "-max_pixels",
               fmt::format("{}", limits.frame.pixels),
               "-i",
               "file:" + absolute.string()};
    const Packets packets = probe(
        {"-show_entries",
         "stream=width,height,time_base,avg_frame_rate,r_frame_rate:packet=pts,duration,flags"},
        limits.probe_time);
    if (!packets.stream || packets.count == 0)
      refuse(name_, "a file with a video in it", "none that ffprobe finds");
    checked_rgb_bytes(packets.width.value_or(0), packets.height.value_or(0), name_, limits.frame);
    const auto fps = packets.fps();
    if (!fps) refuse(name_, "a video with times or a rate", "neither");
    info_.frames = packets.count;
    info_.fps = *fps;
  }

  int64_t read(std::span<const int64_t> indices,
               const std::function<void(const Image&)>& take) override {
    if (indices.empty()) return 0;
    std::vector<std::pair<int64_t, int64_t>> runs;
    int64_t wanted = 0;
    for (const int64_t index : indices) {
      if (!runs.empty() && runs.back().second == index) continue;
      ++wanted;
      if (!runs.empty() && runs.back().second + 1 == index)
        runs.back().second = index;
      else
        runs.emplace_back(index, index);
    }
    std::string filter = "select='";
    write_choice(runs, filter);
    // One frame in, one frame out: their times are their numbers at the output's rate.
    filter += "',settb=1/25,setpts=N";
    std::vector<std::string> arguments = {"-v", "error", "-nostdin"};
    arguments.insert(arguments.end(), source_.begin(), source_.end());
    for (const char* argument : {"-map", "0:V:0", "-an", "-sn", "-dn", "-vf"})
      arguments.emplace_back(argument);
    arguments.push_back(filter);
    for (const char* argument : {"-r", "25", "-frames:v"}) arguments.emplace_back(argument);
    arguments.push_back(fmt::format("{}", wanted));
    // Each picture says its size itself, which turns with the video.
    for (const char* argument : {"-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "pipe:1"})
      arguments.emplace_back(argument);
    VideoProgram program(ffmpeg_, std::move(arguments), name_, limits_.decode_time);
    Image image;
    int64_t given = 0;
    for (size_t i = 0; i < indices.size(); ++i) {
      if (i == 0 || indices[i] != indices[i - 1])
        if (!read_picture(program, image)) break;
      take(image);
      ++given;
    }
    if (given == std::ssize(indices)) return given;
    const std::string problem = program.finish();
    if (!problem.empty()) refuse(name_, "a video that ffmpeg reads", problem);
    // A count that is off by itself is no damage: fields are packets of their own.
    if (!program.complaints().empty())
      refuse(
          name_, fmt::format("{} frames", indices.size()),
          fmt::format("{} and complaints of ffmpeg: {}", given, quote(program.complaints(), 300)));
    return given;
  }

  bool recount() override {
    const Packets packets =
        probe({"-count_frames", "-show_entries", "stream=nb_read_frames"}, limits_.decode_time);
    const int64_t frames = packets.counted.value_or(0);
    if (frames < 1 || frames == info_.frames || frames > limits_.frames) return false;
    info_.fps *= static_cast<double>(frames) / static_cast<double>(info_.frames);
    info_.frames = frames;
    return true;
  }

 private:
  Packets probe(std::vector<std::string> asked, std::chrono::milliseconds limit) {
    std::vector<std::string> arguments = {"-v",  "error", "-select_streams",
                                          "V:0", "-of",   "compact"};
    arguments.insert(arguments.end(), asked.begin(), asked.end());
    arguments.insert(arguments.end(), source_.begin(), source_.end());
    VideoProgram program(ffprobe_, std::move(arguments), name_, limit);
    Packets out;
    std::string text;
    std::array<char, 4096> piece{};
    for (size_t got = piece.size(); got == piece.size();) {
      got = program.read(piece);
      text.append(piece.data(), got);
      size_t begin = 0;
      for (size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1)
        out.take(std::string_view(text).substr(begin, end - begin));
      text.erase(0, begin);
      if (out.count > limits_.frames)
        refuse(name_, fmt::format("1 to {} frames", limits_.frames), "more");
      if (text.size() > kLongestLine) refuse(name_, "lines from ffprobe", "one without an end");
    }
    if (!text.empty()) out.take(text);
    if (const std::string problem = program.finish(); !problem.empty())
      refuse(name_, "a video that ffprobe reads", problem);
    return out;
  }

  /// One picture of the output; false at its end.
  bool read_picture(VideoProgram& program, Image& image) const {
    std::array<char, 2> magic{};
    const size_t got = program.read(magic);
    if (got == 0) return false;
    if (got < 2 || magic[0] != 'P' || magic[1] != '6') refuse_output();
    const int64_t width = read_number(program), height = read_number(program);
    if (read_number(program) != 255) refuse_output();
    image.rgb.resize(checked_rgb_bytes(width, height, name_, limits_.frame));
    image.width = width;
    image.height = height;
    const std::span bytes(reinterpret_cast<char*>(image.rgb.data()), image.rgb.size());
    // The picture that was being written when the program ended.
    return program.read(bytes) == bytes.size();
  }
  int64_t read_number(VideoProgram& program) const {
    char c = 0;
    do {
      if (program.read({&c, 1}) != 1) refuse_output();
    } while (c == ' ' || c == '\n');
    int64_t value = 0;
    for (int digits = 0; c >= '0' && c <= '9'; ++digits) {
      if (digits == 9) refuse_output();
      value = value * 10 + (c - '0');
      if (program.read({&c, 1}) != 1) refuse_output();
    }
    if (c != ' ' && c != '\n') refuse_output();
    return value;
  }
  [[noreturn]] void refuse_output() const {
    refuse(name_, "pictures from ffmpeg", "something else");
  }

  std::string name_;
  VideoLimits limits_;
  fs::path ffmpeg_, ffprobe_;
  std::vector<std::string> source_;  // arguments that name and fence the file
};

}  // namespace

std::unique_ptr<Video> open_ffmpeg_video(const fs::path& path, const VideoLimits& limits) {
  return std::make_unique<FfmpegVideo>(path, limits);
}

}  // namespace decant::media
