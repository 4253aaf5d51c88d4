#include "common/action_spec.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/columns.h"
#include "common/tensor_spec.h"

namespace sibyl {

v1::ActionSpec OneOf(const std::vector<std::string>& choices) {
  v1::ActionSpec spec;
  v1::ActionSpec::Part* part = spec.mutable_discrete()->add_parts();
  for (const std::string& choice : choices) part->add_choices(choice);
  return spec;
}

const google::protobuf::RepeatedPtrField<std::string>& Choices(const v1::ActionSpec& spec) {
  return spec.discrete().parts_size() > 0 ? spec.discrete().parts(0).choices()
                                          : v1::ActionSpec::Part::default_instance().choices();
}

int ActionNumbers(const v1::ActionSpec& spec) {
  return spec.has_box() ? spec.box().low_size() : spec.discrete().parts_size();
}

int AllChoices(const v1::ActionSpec& spec) {
  int all = 0;
  for (const auto& part : spec.discrete().parts()) all += part.choices_size();
  return all;
}

size_t ActionBytes(const v1::ActionSpec& spec) {
  return ActionNumbers(spec) * (spec.has_box() ? sizeof(float) : sizeof(uint16_t));
}

absl::Status CheckActionSpec(const v1::EnvironmentSpec& spec) {
  const v1::ActionSpec& action = spec.action();
  const auto wrong = [&](const auto&... what) {
    return absl::InvalidArgumentError(absl::StrCat("environment `", spec.name(), "`: ", what...));
  };
  if (ActionNumbers(action) == 0) return wrong("its action has neither parts nor numbers");
  for (int i = 0; i < action.discrete().parts_size(); ++i) {
    const int choices = action.discrete().parts(i).choices_size();
    if (choices < 1 || choices > 65536)
      return wrong("part ", i, " of its action has ", choices, " choices, must have 1 to 65536");
  }
  const v1::ActionSpec::Box& box = action.box();
  if (box.low_size() != box.high_size()) {
    return wrong("its action has ", box.low_size(), " lower and ", box.high_size(), " upper bounds");
  }
  for (int i = 0; i < box.low_size(); ++i) {
    if (!(box.low(i) < box.high(i))) {
      return wrong("number ", i, " of its action lies between ", box.low(i), " and ", box.high(i));
    }
  }
  if (action.mask().empty()) return absl::OkStatus();
  if (action.has_box()) return wrong("`", action.mask(), "` masks an action of real numbers");
  for (const v1::TensorSpec& array : spec.observation()) {
    if (array.name() != action.mask()) continue;
    if (array.dtype() != v1::DTYPE_UINT8 || static_cast<int>(Elements(array)) != AllChoices(action)) {
      return wrong("the mask `", action.mask(), "` must be ", AllChoices(action), " uint8, one for each choice");
    }
    return absl::OkStatus();
  }
  return wrong("the mask `", action.mask(), "` is not among its observation arrays");
}

absl::Status CheckActions(const v1::ActionSpec& spec, absl::string_view actions) {
  const size_t numbers = ActionNumbers(spec);
  if (spec.has_box()) {
    for (size_t i = 0; i < CountIn<float>(actions); ++i) {
      const float value = EntryOf<float>(actions, i);
      if (!std::isfinite(value)) {
        return absl::InvalidArgumentError(
            absl::StrCat("number ", i % numbers, " of action ", i / numbers, " is ", value, ", must be finite"));
      }
    }
    return absl::OkStatus();
  }
  for (size_t part = 0; part < numbers; ++part) {
    const int choices = spec.discrete().parts(static_cast<int>(part)).choices_size();
    for (size_t i = part; i < CountIn<uint16_t>(actions); i += numbers) {
      if (const int choice = EntryOf<uint16_t>(actions, i); choice >= choices) {
        return absl::InvalidArgumentError(
            absl::StrCat("action ", i / numbers, " makes choice ", choice, " of ", choices, " in part ", part));
      }
    }
  }
  return absl::OkStatus();
}

void ScaleToBounds(const v1::ActionSpec::Box& box, char* action) {
  for (int i = 0; i < box.low_size(); ++i, action += sizeof(float)) {
    const float low = box.low(i), high = box.high(i);
    float value;
    std::memcpy(&value, action, sizeof value);
    if (std::isfinite(low) && std::isfinite(high)) {
      value = low + (std::clamp(value, -1.0f, 1.0f) + 1) / 2 * (high - low);
    }
    value = std::clamp(value, low, high);
    std::memcpy(action, &value, sizeof value);
  }
}

void RandomAction(const v1::ActionSpec& spec, Random& random, char* action) {
  for (const auto& part : spec.discrete().parts()) {
    const auto choice = static_cast<uint16_t>(random.Below(part.choices_size()));
    std::memcpy(action, &choice, sizeof choice);
    action += sizeof choice;
  }
  for (int i = 0; i < spec.box().low_size(); ++i, action += sizeof(float)) {
    const float number = 2 * random.Uniform() - 1;
    std::memcpy(action, &number, sizeof number);
  }
  if (spec.has_box()) ScaleToBounds(spec.box(), action - ActionBytes(spec));
}

absl::Status CheckMask(const v1::ActionSpec& spec, absl::string_view mask) {
  for (int part = 0; part < spec.discrete().parts_size(); ++part) {
    const absl::string_view legal = mask.substr(0, spec.discrete().parts(part).choices_size());
    mask.remove_prefix(legal.size());
    if (std::all_of(legal.begin(), legal.end(), [](char c) { return c == 0; })) {
      return absl::InvalidArgumentError(absl::StrCat("the mask leaves part ", part, " of the action no legal choice"));
    }
  }
  return absl::OkStatus();
}

}  // namespace sibyl
