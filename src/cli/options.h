#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <string_view>

namespace decant::cli {

/// A verb below `root`; its environment twins do not reach other verbs.
CLI::App& add_verb(CLI::App& root, const std::string& name, const std::string& summary);

/// Gives every flag of a verb its environment twin (`--max-tokens` -> DECANT_MAX_TOKENS) and sets
/// the examples below its help. Call it after the last flag is declared.
void finish_verb(CLI::App& verb, std::string_view examples);

/// True if the option's value comes from its environment twin and not from the command line. Known
/// after parsing.
bool from_environment(const CLI::Option& option);

/// What a parse error says to the user: names the environment variable where the wrong value came
/// from one.
std::string explain(const CLI::App& verb, const std::string& message);

// Validators with one wording: "expected X, got Y". Numbers must be finite.
CLI::Validator whole_number(int64_t low, int64_t high);
CLI::Validator number(double low, double high);
CLI::Validator one_of(std::initializer_list<const char*> values);

/// The devices that --device accepts.
CLI::Validator device_name();

}  // namespace decant::cli
