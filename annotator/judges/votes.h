#pragma once

#include <vector>

#include "annotator/judges/judge.h"

namespace sibyl::annotator {

// One verdict of several at the same query, each with the tokens of all votes up to it. Where more than half of the
// votes are answered: the mean of their distributions, with Answer.Choice.votes, or the answer that is given most
// often, the earliest of several. Else the ending that is most frequent.
Verdict MergeVotes(const std::vector<Verdict>& votes);

}  // namespace sibyl::annotator
