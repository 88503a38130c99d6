#include "media/video.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <cerrno>
#include <chrono>
#include <cmath>
#include <stdexcept>
#include <thread>

#include "media/video_process.h"
#include "media/video_processor.h"
#include "media/video_testing.h"

namespace decant::media {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string error_of_open(const fs::path& path, const VideoLimits& limits = {}) {
  return error_of([&] { open_video(path, limits); });
}

std::string text_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(FolderVideo, FramesFollowTheNumbersOfTheirNames) {
  const auto video = open_video(fixture("clip"));
  EXPECT_EQ(video->info().frames, 11);
  EXPECT_EQ(video->info().fps, 5.0);
  EXPECT_EQ(video->info().time(10), 2.0);
  const std::vector<Image> frames = frames_of(*video, {0, 1, 1, 9, 10});
  ASSERT_EQ(frames.size(), 5u);
  EXPECT_EQ(frames[0].rgb, clip_frame(0).rgb);
  EXPECT_EQ(frames[1].rgb, clip_frame(1).rgb);  // frame2, not frame10
  EXPECT_EQ(frames[2].rgb, clip_frame(1).rgb);
  EXPECT_EQ(frames[4].rgb, clip_frame(10).rgb);
}

TEST(FolderVideo, OtherFilesAreNoFrames) {
  const TemporaryFolder folder;
  for (const char* name : {"b10.PNG", "b9.png", "a.png", "b010.png", ".hidden.png"})
    fs::copy_file(fixture("clip") / "frame1.png", folder / name);
  fs::copy_file(fixture("clip") / "frame3.png", folder / "b11.png");
  folder.write("notes.txt", "no picture");
  const auto video = open_video(folder.path());
  EXPECT_EQ(video->info().frames, 5);
  EXPECT_EQ(video->info().fps, 24.0);
  EXPECT_EQ(frames_of(*video, {4}).front().rgb, clip_frame(2).rgb);
}

TEST(FolderVideo, ErrorsNameTheFile) {
  const TemporaryFolder folder;
  EXPECT_THAT(error_of_open(folder.path()),
              HasSubstr(folder.path().string() + ": expected a folder of JPEG, PNG or WebP"));
  folder.write("a1.png", "no picture");
  for (const char* rate : {"0", "-2", "nan", "1e9", "five", ""}) {
    folder.write("fps", rate);
    EXPECT_THAT(error_of_open(folder.path()), HasSubstr("fps: expected frames a second")) << rate;
  }
  folder.write("fps", std::string(100, '1'));
  EXPECT_THAT(error_of_open(folder.path()), HasSubstr("expected a file of at most 64 bytes"));
  folder.write("fps", "0.5\n");
  const auto video = open_video(folder.path());
  EXPECT_EQ(video->info().fps, 0.5);
  EXPECT_THAT(error_of([&] { frames_of(*video, {0}); }),
              HasSubstr("a1.png: expected a JPEG, PNG or WebP picture"));
  VideoLimits limits;
  limits.seconds = 1.0;
  EXPECT_THAT(error_of_open(folder.path(), limits), HasSubstr("expected at most 1 seconds, got 2"));
}

TEST(FolderVideo, FramesOfSeveralSizesAreRefused) {
  const TemporaryFolder folder;
  fs::copy_file(fixture("clip") / "frame1.png", folder / "1.png");
  fs::copy_file(fixture("pictures") / "444.jpg", folder / "2.jpg");
  const auto video = open_video(folder.path());
  const auto processor = make_video_processor("gemma4", Json::object(), "config");
  EXPECT_EQ(error_of([&] { processor->process(*video, "clip"); }),
            "[media] clip: expected frames of one size, 52 x 40, got 53 x 39 for frame 1");
}

TEST(WebpVideo, FramesAndTimesAreTheFiles) {
  const auto video = open_video(fixture("clip.webp"));
  EXPECT_EQ(video->info().frames, 11);
  EXPECT_NEAR(video->info().fps, 11.0 / 3.3, 1e-12);
  EXPECT_EQ(video->info().time(0), 0.0);
  EXPECT_NEAR(video->info().time(2), 0.24, 1e-12);
  const std::vector<Image> frames = frames_of(*video, {0, 3, 3, 10});
  ASSERT_EQ(frames.size(), 4u);
  EXPECT_EQ(frames[0].rgb, clip_frame(0).rgb);
  EXPECT_EQ(frames[1].rgb, clip_frame(3).rgb);
  EXPECT_EQ(frames[2].rgb, clip_frame(3).rgb);
  EXPECT_EQ(frames[3].rgb, clip_frame(10).rgb);
}

TEST(WebpVideo, DamagedFilesAreErrors) {
  const TemporaryFolder folder;
  const std::string whole = text_of(fixture("clip.webp"));
  for (size_t size = 12; size < whole.size(); size += 97) {
    const fs::path path = folder.write("cut.webp", whole.substr(0, size));
    EXPECT_THAT(error_of([&] { frames_of(*open_video(path), {0, 10}); }),
                HasSubstr("cut.webp: expected a"))
        << size;
  }
  std::string damaged = whole;
  for (size_t i = 5000; i < 5400; ++i) damaged[i] = static_cast<char>(damaged[i] ^ 0x55);
  const fs::path path = folder.write("bad.webp", damaged);
  EXPECT_THAT(error_of([&] { frames_of(*open_video(path), {0, 10}); }),
              HasSubstr("bad.webp: expected a readable WebP"));
  VideoLimits limits;
  limits.decode_time = std::chrono::milliseconds(-1);
  EXPECT_THAT(error_of([&] { frames_of(*open_video(fixture("clip.webp"), limits), {10}); }),
              HasSubstr("0 of 11 frames"));
}

TEST(WebpVideo, AStillIsOneFrame) {
  const auto video = open_video(fixture("pictures") / "lossless.webp");
  EXPECT_EQ(video->info().frames, 1);
  EXPECT_EQ(frames_of(*video, {0}).front().rgb,
            load_image(fixture("pictures") / "lossless.webp").image.rgb);
}

TEST(OpenVideo, RefusesWhatIsNoVideo) {
  const TemporaryFolder folder;
  EXPECT_THAT(error_of_open(folder / "none.mp4"), HasSubstr("none.mp4: expected a file that can"));
  EXPECT_THAT(error_of_open(folder.write("empty.mp4", "")), HasSubstr("an empty file"));
  EXPECT_THAT(error_of_open(fixture("picture.png")), HasSubstr("expected a video, got a picture"));
  VideoLimits limits;
  limits.file_bytes = 3;
  EXPECT_THAT(error_of_open(folder.write("a.mp4", "four"), limits),
              HasSubstr("expected a file of at most 3 bytes, got 4 bytes"));
  mkfifo((folder / "pipe").c_str(), 0600);
  EXPECT_THAT(error_of_open(folder / "pipe"), HasSubstr("expected a file or a folder of pictures"));
}

TEST(OpenVideo, HashesTellVideosApart) {
  const TemporaryFolder folder;
  fs::copy_file(fixture("clip") / "frame1.png", folder / "1.png");
  const ContentHash one = video_hash(folder.path());
  EXPECT_EQ(video_hash(folder.path()), one);
  folder.write("fps", "3");
  const ContentHash slower = video_hash(folder.path());
  EXPECT_NE(slower, one);
  fs::copy_file(fixture("clip") / "frame2.png", folder / "2.png");
  EXPECT_NE(video_hash(folder.path()), slower);
  EXPECT_EQ(video_hash(folder.write("a.mp4", "same")), video_hash(folder.write("b.mp4", "same")));
  EXPECT_NE(video_hash(folder / "a.mp4"), video_hash(folder.write("b.mp4", "other")));
}

TEST(FindProgram, RelativeEntriesDoNotCount) {
  const TemporaryFolder folder;
  folder.write_program("tool", "exit 0\n");
  folder.write("data", "");
  const fs::path here = fs::current_path();
  fs::current_path(folder.path());
  {
    const SearchPath path(".::" + folder.path().filename().string());
    EXPECT_EQ(find_program("tool"), "");
  }
  fs::current_path(here);
  const SearchPath path("/nowhere:" + folder.path().string());
  EXPECT_EQ(find_program("tool"), folder / "tool");
  EXPECT_EQ(find_program("data"), "");
}

// ffmpeg and ffprobe played by scripts: what they are asked, and all they can answer.
class FakeFfmpeg : public ::testing::Test {
 public:
  ~FakeFfmpeg() override {
    // Neither running nor dead and unread.
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
    EXPECT_EQ(errno, ECHILD);
  }

 protected:
  FakeFfmpeg() : path_(bin_.path().string() + ":/usr/bin:/bin") {
    probe_with(11, "pts=$((i * 10))", "width=52|height=40|avg_frame_rate=7/1|time_base=1/50");
    std::string frames;
    for (int64_t i = 0; i < 11; ++i) frames += ppm(i);
    give(frames);
    video_ = bin_.write("a.mp4", "anything");
  }
  void probe_with(int packets, const std::string& time, const std::string& stream) const {
    bin_.write_program(
        "ffprobe", fmt::format("printf '%s\\n' \"$@\" >> {0}/asked\n"
                               "echo 'packet|pts=-10|duration=10|flags=_D'\n"
                               "i=0; while [ $i -lt {1} ]; do\n"
                               "echo \"packet|{2}|duration=10|flags=K_\"; i=$((i + 1)); done\n"
                               "case \"$*\" in *-count_frames*) echo 'stream|nb_read_frames=11';;\n"
                               "*) echo 'stream|{3}';; esac\n",
                               bin_.path().string(), packets, time, stream));
  }
  static std::string ppm(int64_t index) {
    const Image image = clip_frame(index);
    return "P6\n52 40\n255\n" +
           std::string(reinterpret_cast<const char*>(image.rgb.data()), image.rgb.size());
  }
  void give(const std::string& output, const std::string& then = "exit 0") const {
    bin_.write("output", output);
    bin_.write_program("ffmpeg", fmt::format("printf '%s\\n' \"$@\" >> {0}/asked\n"
                                             "cat {0}/output\n{1}\n",
                                             bin_.path().string(), then));
  }
  std::string asked() const { return text_of(bin_ / "asked"); }
  std::string error_of_read(const std::vector<int64_t>& indices = {0, 1, 2}) const {
    return error_of([&] { frames_of(*open_video(video_), indices); });
  }

  TemporaryFolder bin_;
  SearchPath path_;
  fs::path video_;
};

TEST_F(FakeFfmpeg, RateIsFramesOverTheirTime) {
  const auto video = open_video(video_);
  EXPECT_EQ(video->info().frames, 11);
  EXPECT_DOUBLE_EQ(video->info().fps, 5.0);  // not the 7 of the container
  probe_with(11, "pts=N/A", "width=52|height=40|avg_frame_rate=30000/1001|time_base=1/50");
  EXPECT_DOUBLE_EQ(open_video(video_)->info().fps, 30000.0 / 1001.0);
}

TEST_F(FakeFfmpeg, AsksForTheFramesItWants) {
  bin_.write("output", ppm(0) + ppm(4) + ppm(5) + ppm(6) + ppm(10));
  const auto video = open_video(video_);
  const std::vector<Image> frames = frames_of(*video, {0, 4, 5, 5, 6, 10});
  ASSERT_EQ(frames.size(), 6u);
  EXPECT_EQ(frames[0].rgb, clip_frame(0).rgb);
  EXPECT_EQ(frames[3].rgb, clip_frame(5).rgb);
  EXPECT_EQ(frames[5].rgb, clip_frame(10).rgb);
  EXPECT_THAT(asked(), HasSubstr("select='if(lt(n,4),between(n,0,0),if(lt(n,10),between(n,4,6),"
                                 "between(n,10,10)))',settb=1/25,setpts=N\n"));
  EXPECT_THAT(asked(), HasSubstr("-frames:v\n5\n"));
}

TEST_F(FakeFfmpeg, FencesTheFileIn) {
  const fs::path here = fs::current_path();
  fs::current_path(bin_.path());
  bin_.write("-y;touch made.mp4", "anything");
  frames_of(*open_video("-y;touch made.mp4"), {0});
  fs::current_path(here);
  EXPECT_FALSE(fs::exists(bin_ / "made.mp4"));
  const std::string want = fmt::format("-i\nfile:{}/-y;touch made.mp4\n", bin_.path().string());
  const std::string text = asked();
  size_t places = 0;
  for (size_t at = text.find(want); at != std::string::npos; at = text.find(want, at + 1)) ++places;
  EXPECT_EQ(places, 2u) << text;
  EXPECT_THAT(text, HasSubstr("-protocol_whitelist\nfile,pipe\n-format_whitelist\nmov,"));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("hls")));
}

TEST_F(FakeFfmpeg, MissingProgramsHaveARemedy) {
  for (const char* name : {"ffmpeg", "ffprobe"}) {
    fs::remove(bin_ / name);
    const SearchPath only(bin_.path().string());
    EXPECT_THAT(error_of_open(video_), AllOf(HasSubstr("a.mp4: expected ffmpeg and ffprobe"),
                                             HasSubstr("apt install ffmpeg")));
  }
}

TEST_F(FakeFfmpeg, TellsWhatTheProgramsComplainOf) {
  give("", "echo first >&2; echo 'moov atom not found' >&2; exit 1");
  EXPECT_THAT(error_of_read(), HasSubstr("a.mp4: expected a video that ffmpeg reads, got ffmpeg "
                                         "ended by exit status 1: \"moov atom not found\""));
  give(ppm(0), "kill -9 $$");
  EXPECT_THAT(error_of_read(), HasSubstr("ffmpeg ended by signal 9"));
  give(ppm(0), "echo 'error while decoding' >&2");
  EXPECT_THAT(error_of_read(), HasSubstr("1 and complaints of ffmpeg: \"error while decoding"));
  bin_.write_program("ffprobe", "echo 'Invalid data' >&2; exit 1\n");
  EXPECT_THAT(error_of_open(video_), HasSubstr("a video that ffprobe reads, got ffprobe ended by "
                                               "exit status 1: \"Invalid data\""));
  bin_.write("ffprobe", "no program");
  EXPECT_THAT(error_of_open(video_), HasSubstr("expected a ffprobe that starts"));
}

TEST_F(FakeFfmpeg, WrongAnswersAreErrors) {
  for (const char* output :
       {"P5\n52 40\n255\n", "P6\n52 40\n65535\n", "P6\n52 40", "P6\n-3 40\n255\n",
        "P6\n99999999999999999999 1\n255\n", "GIF89a", "P"}) {
    give(output);
    EXPECT_THAT(error_of_read(), HasSubstr("expected pictures from ffmpeg")) << output;
  }
  give("P6\n60000 60000\n255\n");
  EXPECT_THAT(error_of_read(), HasSubstr("pixels"));
  give("P6\n0 5\n255\n");
  EXPECT_THAT(error_of_read(), HasSubstr("pixels"));
  const std::string stream = "avg_frame_rate=5/1|time_base=1/50";
  probe_with(0, "pts=1", "width=52|height=40|" + stream);
  EXPECT_THAT(error_of_open(video_), HasSubstr("expected a file with a video in it"));
  probe_with(3, "pts=$i", stream);
  EXPECT_THAT(error_of_open(video_), HasSubstr("pixels"));
  probe_with(3, "pts=$i", "width=90000|height=90000|" + stream);
  EXPECT_THAT(error_of_open(video_), HasSubstr("got 90000 x 90000"));
  probe_with(3, "pts=N/A", "width=52|height=40|avg_frame_rate=0/0|time_base=1/50");
  EXPECT_THAT(error_of_open(video_), HasSubstr("expected a video with times or a rate"));
  probe_with(3, "pts=$((i * 9000000))", "width=52|height=40|" + stream);
  EXPECT_THAT(error_of_open(video_), HasSubstr("expected at most 14400 seconds, got 360000"));
  VideoLimits limits;
  limits.frames = 5;
  probe_with(300, "pts=$i", "width=52|height=40|" + stream);
  EXPECT_THAT(error_of_open(video_, limits), HasSubstr("expected 1 to 5 frames"));
  bin_.write_program("ffprobe", "head -c 200000 /dev/zero\n");
  EXPECT_THAT(error_of_open(video_), HasSubstr("one without an end"));
}

// Fields of an interlaced video are packets of their own: twice as many as frames.
TEST_F(FakeFfmpeg, CountsByDecodingWhereThereAreFewer) {
  probe_with(22, "pts=$((i * 5))", "width=52|height=40|avg_frame_rate=5/1|time_base=1/50");
  const auto video = open_video(video_);
  EXPECT_EQ(video->info().frames, 22);
  const auto processor = make_video_processor("gemma4", Json::object(), "config");
  const VideoInputs got = processor->process(*video, "a.mp4");
  EXPECT_EQ(video->info().frames, 11);
  EXPECT_EQ(got.parts.size(), 11u);
  EXPECT_EQ(got.captions.back(), " 00:02 ");
  give(ppm(0) + ppm(1));
  EXPECT_EQ(error_of([&] { processor->process(*video, "a.mp4"); }),
            "[media] a.mp4: expected 11 frames, as its container says, got fewer that can be "
            "decoded");
}

TEST_F(FakeFfmpeg, AProgramThatStallsIsEndedWithAllItsChildren) {
  const std::string stall =
      fmt::format("sleep 1000 & echo $! > {0}/child; wait", bin_.path().string());
  give(ppm(0), stall);
  VideoLimits limits;
  limits.decode_time = std::chrono::milliseconds(3000);
  const auto video = open_video(video_, limits);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_THAT(error_of([&] { frames_of(*video, {0, 1}); }),
              HasSubstr("a.mp4: expected ffmpeg to end within 3 s, got a program that still"));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
  const int child = std::stoi(text_of(bin_ / "child"));
  // It is an orphan now, and init's to bury.
  bool gone = false;
  for (int i = 0; i < 200 && !gone; ++i) {
    const std::string status = text_of(fmt::format("/proc/{}/stat", child));
    gone = status.empty() || status.find(") Z ") != std::string::npos;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_TRUE(gone);
  bin_.write_program("ffprobe", "echo stream\nexec sleep 1000\n");
  limits.probe_time = std::chrono::milliseconds(300);
  EXPECT_THAT(error_of_open(video_, limits), HasSubstr("expected ffprobe to end within 0.3 s"));
}

// All frames are there: nobody waits for what the program does then.
TEST_F(FakeFfmpeg, StopsReadingAfterTheLastFrame) {
  give(ppm(0), "yes");
  EXPECT_EQ(frames_of(*open_video(video_), {0}).size(), 1u);
  const auto video = open_video(video_);
  EXPECT_THROW(video->read(std::array<int64_t, 1>{0},
                           [](const Image&) { throw std::logic_error("enough"); }),
               std::logic_error);
}

TEST_F(FakeFfmpeg, GivesTheProgramNothingOfOurs) {
  setenv("FFREPORT", "file=/tmp/report", 1);
  const int ours = dup(0);
  give(ppm(0), fmt::format("ls /proc/self/fd > {0}/files; env > {0}/env; cat > {0}/input",
                           bin_.path().string()));
  bin_.write("output", "");
  error_of([&] { frames_of(*open_video(video_), {0}); });
  close(ours);
  unsetenv("FFREPORT");
  EXPECT_THAT(text_of(bin_ / "env"), ::testing::Not(HasSubstr("FFREPORT")));
  EXPECT_THAT(text_of(bin_ / "env"), HasSubstr("LC_ALL=C"));
  EXPECT_EQ(text_of(bin_ / "input"), "");
  EXPECT_EQ(text_of(bin_ / "files"), "0\n1\n2\n3\n");  // 3 is ls's own
}

/// A program run to its end.
void run(const fs::path& program, std::vector<std::string> arguments) {
  VideoProgram process(program, std::move(arguments), "test", std::chrono::seconds(60));
  ASSERT_EQ(process.finish(), "");
}

// The programs of this machine, where it has them.
class RealFfmpeg : public ::testing::Test {
 protected:
  void SetUp() override {
    if (find_program("ffmpeg").empty() || find_program("ffprobe").empty())
      GTEST_SKIP() << "no ffmpeg on PATH";
  }
  fs::path make(const std::string& name, std::vector<std::string> how) const {
    std::vector<std::string> arguments = {
        "-v", "error", "-framerate", "5", "-i", (fixture("clip") / "frame%d.png").string()};
    arguments.insert(arguments.end(), how.begin(), how.end());
    arguments.push_back((folder_ / name).string());
    run(find_program("ffmpeg"), std::move(arguments));
    return folder_ / name;
  }

  TemporaryFolder folder_;
};

TEST_F(RealFfmpeg, LosslessFramesAreTheFrames) {
  const auto video = open_video(make("-a b.mkv", {"-c:v", "ffv1", "-pix_fmt", "bgr0"}));
  EXPECT_EQ(video->info().frames, 11);
  EXPECT_NEAR(video->info().fps, 5.0, 1e-9);
  const std::vector<Image> frames = frames_of(*video, {0, 2, 3, 4, 9, 10});
  ASSERT_EQ(frames.size(), 6u);
  const std::array<int64_t, 6> want = {0, 2, 3, 4, 9, 10};
  for (size_t i = 0; i < want.size(); ++i) EXPECT_EQ(frames[i].rgb, clip_frame(want[i]).rgb) << i;
}

TEST_F(RealFfmpeg, FramesOfAnMp4AreNear) {
  const auto video = open_video(make("a.mp4", {"-c:v", "mpeg4", "-q:v", "1", "-bf", "2"}));
  EXPECT_EQ(video->info().frames, 11);
  EXPECT_NEAR(video->info().fps, 5.0, 1e-9);
  std::vector<int64_t> all;
  for (int64_t i = 0; i < 11; ++i) all.push_back(i);
  const std::vector<Image> frames = frames_of(*video, all);
  ASSERT_EQ(frames.size(), 11u);
  const auto distance = [](const Image& a, const Image& b) {
    double sum = 0.0;
    for (size_t i = 0; i < a.rgb.size(); ++i) sum += std::abs(int{a.rgb[i]} - int{b.rgb[i]});
    return sum / static_cast<double>(a.rgb.size());
  };
  for (size_t i = 0; i + 1 < frames.size(); ++i)
    EXPECT_LT(distance(frames[i], clip_frame(static_cast<int64_t>(i))),
              distance(frames[i], clip_frame(static_cast<int64_t>(i) + 1)))
        << i;
}

TEST_F(RealFfmpeg, DamagedAndForeignFilesAreErrors) {
  const std::string whole = text_of(make("a.mp4", {"-c:v", "mpeg4"}));
  EXPECT_THAT(error_of_open(folder_.write("cut.mp4", whole.substr(0, whole.size() / 2))),
              HasSubstr("cut.mp4: expected a video that ffprobe reads"));
  EXPECT_THAT(error_of_open(folder_.write("text.mp4", "no video at all")),
              HasSubstr("text.mp4: expected a"));
  // Files that have others read.
  EXPECT_THAT(error_of_open(folder_.write("list.mp4",
                                          "#EXTM3U\n#EXT-X-TARGETDURATION:3\n"
                                          "#EXTINF:3,\na.mp4\n#EXT-X-ENDLIST\n")),
              HasSubstr("list.mp4: expected a video that ffprobe reads"));
  EXPECT_THAT(error_of_open(folder_.write("list.mkv", "ffconcat version 1.0\nfile a.mp4\n")),
              HasSubstr("list.mkv: expected a video that ffprobe reads"));
  VideoLimits limits;
  limits.frame.pixels = 1000;
  EXPECT_THAT(error_of_open(folder_ / "a.mp4", limits), HasSubstr("a.mp4: expected"));
}

}  // namespace
}  // namespace decant::media
