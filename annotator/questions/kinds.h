#pragma once

#include "annotator/questions/question.h"

namespace sibyl::annotator {

// The kinds, each in the file of its name. A new one is listed here and in Questions (question.cc).
Question Classify();
Question Compare();
Question Compose();

}  // namespace sibyl::annotator
