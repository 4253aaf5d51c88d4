#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/random.h"
#include "sibyl/v1/tensor.pb.h"

namespace sibyl {

// An action that is one of these choices.
v1::ActionSpec OneOf(const std::vector<std::string>& choices);

// The choices of an action's first part; none for a box.
const google::protobuf::RepeatedPtrField<std::string>& Choices(const v1::ActionSpec& spec);

// Numbers of an action: its parts, or its real numbers.
int ActionNumbers(const v1::ActionSpec& spec);
// Choices of all parts together; 0 for a box.
int AllChoices(const v1::ActionSpec& spec);
// Bytes of one action, as ActionSpec lays it out.
size_t ActionBytes(const v1::ActionSpec& spec);

// Whether the spec's action can be played: parts have choices, bounds are in order, the mask is an observation array of
// the right form. InvalidArgument names what is wrong.
absl::Status CheckActionSpec(const v1::EnvironmentSpec& spec);

// Whether `actions`, any number of them one after another, are actions of this spec: choices that exist, numbers that
// are finite. InvalidArgument names the action, the part and the value.
absl::Status CheckActions(const v1::ActionSpec& spec, absl::string_view actions);

// Converts one action of a box from the policy's units to the environment's, in place. `action`: floats, not aligned.
void ScaleToBounds(const v1::ActionSpec::Box& box, char* action);

// Writes an action drawn uniformly, in the environment's units, whatever its mask. A number without two bounds is drawn
// between -1 and 1, within the bound that it has.
void RandomAction(const v1::ActionSpec& spec, Random& random, char* action);

// Whether an observation's mask [AllChoices] leaves each part a legal choice. InvalidArgument names the part.
absl::Status CheckMask(const v1::ActionSpec& spec, absl::string_view mask);

}  // namespace sibyl
