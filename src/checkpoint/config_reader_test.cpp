#include "checkpoint/config_reader.h"

#include "base/json.h"
#include "checkpoint/testing.h"

namespace decant {
namespace {

using ::testing::HasSubstr;
using namespace decant::testing;

class ConfigReaderTest : public ::testing::Test {
 protected:
  const Json json_ = parse_json(R"({
    "int": 3, "zero": 0, "negative": -1, "huge": 18446744073709551615, "past_int": 4294967296,
    "float": 2.0, "big": 1e308, "text": "2", "yes": true, "nothing": null,
    "list": [1, 2, 3], "mixed": [1, 2.5], "words": ["a", "b"], "flags": [true, false],
    "inner": {"deep": {"x": 1}}})",
                                "test");
  const ConfigReader config_{json_, "m/config.json"};

  template <typename F>
  std::string error(const F& read) {
    return model_error([&] { read(config_); });
  }
};

TEST_F(ConfigReaderTest, ReadsTypedValues) {
  EXPECT_EQ(config_.require<int>("int"), 3);
  EXPECT_EQ(config_.require<int64_t>("past_int"), 4294967296);
  EXPECT_EQ(config_.require<double>("int"), 3.0);
  EXPECT_EQ(config_.require<float>("float"), 2.0f);
  EXPECT_EQ(config_.require<std::string>("text"), "2");
  EXPECT_TRUE(config_.require<bool>("yes"));
  EXPECT_EQ(config_.value_or("absent", 7), 7);
  EXPECT_EQ(config_.value_or("nothing", 7), 7);
  EXPECT_EQ(config_.value_or("absent", "silu"), "silu");
  EXPECT_EQ(config_.optional<int>("absent"), std::nullopt);
  EXPECT_EQ(config_.positive(config_.first_of({"absent", "int"})), 3);
  EXPECT_EQ(config_.ints("list", 3), (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(config_.numbers("mixed"), (std::vector<double>{1, 2.5}));
  EXPECT_EQ(config_.strings("words"), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(config_.bools("flags"), (std::vector<bool>{true, false}));
  EXPECT_EQ(config_.object("inner").object("deep").require<int>("x"), 1);
  EXPECT_FALSE(config_.object_or_empty("absent").has("x"));
  EXPECT_NO_THROW(config_.expect("absent", true));
  EXPECT_NO_THROW(config_.expect("yes", true));
  EXPECT_NO_THROW(config_.expect("text", "2"));
  EXPECT_EQ(config_.expect_one_of("absent", {"a", "b"}), "a");
}

TEST_F(ConfigReaderTest, RefusesOtherTypes) {
  using C = const ConfigReader&;
  EXPECT_THAT(error([](C c) { c.require<int>("float"); }),
              HasSubstr("[config] float: expected an integer, got number 2.0 (in m/config.json)"));
  EXPECT_NE(error([](C c) { c.require<int>("text"); }), "");
  EXPECT_NE(error([](C c) { c.require<int>("yes"); }), "");
  EXPECT_NE(error([](C c) { c.require<int>("past_int"); }), "");
  EXPECT_NE(error([](C c) { c.require<int64_t>("huge"); }), "");
  EXPECT_NE(error([](C c) { c.require<double>("yes"); }), "");
  EXPECT_NE(error([](C c) { c.require<float>("big"); }), "");
  EXPECT_NE(error([](C c) { c.require<bool>("int"); }), "");
  EXPECT_NE(error([](C c) { c.require<std::string>("int"); }), "");
  EXPECT_NE(error([](C c) { c.value_or("text", 1); }), "");
  EXPECT_THAT(error([](C c) { c.require<int>("absent"); }), HasSubstr("got nothing"));
  EXPECT_THAT(error([](C c) { c.require<int>("nothing"); }), HasSubstr("got null"));
  EXPECT_NE(error([](C c) { c.object("int"); }), "");
  EXPECT_NE(error([](C c) { c.ints("mixed"); }), "");
  EXPECT_THAT(error([](C c) { c.ints("mixed"); }), HasSubstr("mixed[1]"));
  EXPECT_NE(error([](C c) { c.ints("list", 2); }), "");
  EXPECT_NE(error([](C c) { c.ints("int"); }), "");
  EXPECT_THAT(error([](C c) { c.object("inner").object("deep").positive("y"); }),
              HasSubstr("inner.deep.y"));
}

TEST_F(ConfigReaderTest, RefusesValuesOutOfRange) {
  using C = const ConfigReader&;
  EXPECT_NE(error([](C c) { c.positive("zero"); }), "");
  EXPECT_NE(error([](C c) { c.positive("negative"); }), "");
  EXPECT_NE(error([](C c) { c.positive("past_int"); }), "");
  EXPECT_NE(error([](C c) { c.positive("huge"); }), "");
  EXPECT_NE(error([](C c) { c.positive("float"); }), "");
  EXPECT_NE(error([](C c) { c.layers("past_int"); }), "");
  EXPECT_NE(error([](C c) { c.number_in_range("float", 0, 1); }), "");
  EXPECT_NE(error([](C c) { c.positive_number("zero"); }), "");
  EXPECT_THAT(error([](C c) { c.expect("yes", false); }),
              HasSubstr("[config] yes: expected false, got true"));
  EXPECT_THAT(error([](C c) { c.expect("text", "silu"); }), HasSubstr("\"silu\""));
  EXPECT_NE(error([](C c) { c.expect("int", 4); }), "");
  EXPECT_NE(error([](C c) { c.expect("yes", 1); }), "");
  EXPECT_THAT(error([](C c) { c.expect_one_of("text", {"a", "b"}); }), HasSubstr("\"a\" or \"b\""));
  EXPECT_THAT(error([](C c) { c.require_keys({"int", "p", "nothing", "q"}); }),
              HasSubstr("p, nothing, q"));
}

TEST(ConfigReader, RefusesWhatIsNoObject) {
  const Json list = Json::array();
  EXPECT_NE(model_error([&] { ConfigReader(list, "f"); }), "");
  EXPECT_NE(model_error([] { parse_json(R"({"a": NaN})", "f"); }), "");
  EXPECT_NE(model_error([] { parse_json(R"({"a": 1e999})", "f"); }), "");
  EXPECT_NE(model_error([] { parse_json(std::string(100000, '['), "f"); }), "");
}

}  // namespace
}  // namespace decant
