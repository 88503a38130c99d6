#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/media.h"
#include "media/audio_processor.h"
#include "media/image_processor.h"

namespace decant {

/// What a processor made of one picture, frame or sound, as a tower takes it.
TowerInput to_tower_input(media::ImageInputs inputs, Medium medium);
TowerInput to_tower_input(media::AudioInputs inputs);

/// Processor outputs in a safetensors file, by their Hugging Face names: pixel_values with
/// image_grid_thw (or grid_thw) or image_position_ids, pixel_values_videos with video_grid_thw or
/// video_position_ids, input_features with input_features_mask (1 valid; absent: all valid).
/// Indices and masks may have any integer type or BOOL. Pictures first, then videos, frame by
/// frame, then sounds. Errors: RequestError naming file and tensor; WeightError for a file that is
/// no safetensors file.
std::vector<std::shared_ptr<const TowerInput>> read_tower_inputs(const std::filesystem::path& path);

/// Gives each input the next free run of its medium's placeholders in a prompt. `keys` names inputs
/// (PromptMedia::key), or is empty. Errors: RequestError for a model that does not take one of
/// them, or has no placeholder left for it.
std::vector<PromptMedia> place_in_order(const Model& model, std::span<const int32_t> tokens,
                                        std::span<const std::shared_ptr<const TowerInput>> inputs,
                                        std::span<const std::string> keys = {});

}  // namespace decant
