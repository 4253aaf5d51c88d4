#include "annotator/store/label_log.h"

#include "absl/strings/str_cat.h"

namespace sibyl::annotator {

absl::Status CheckPlace(const v1::LabelsRequest& request, const std::string& log_id, uint64_t last_sequence) {
  if (!request.log_id().empty() && request.log_id() != log_id) {
    return absl::NotFoundError(
        absl::StrCat("log_id is ", request.log_id(), ", this log is ", log_id,
                     ": from_sequence was read from another log; start again from 1, or give the "
                     "annotator the store that it came from"));
  }
  if (request.from_sequence() > last_sequence + 1) {
    return absl::OutOfRangeError(absl::StrCat(
        "from_sequence is ", request.from_sequence(), " and the label log ends at ", last_sequence,
        ": it was read from another store; start again from 1, or give the annotator the store that it came from"));
  }
  return absl::OkStatus();
}

}  // namespace sibyl::annotator
