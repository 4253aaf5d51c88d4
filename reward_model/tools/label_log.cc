#include "reward_model/tools/label_log.h"

#include "common/status_macros.h"
#include "reward_model/annotator_client.h"
#include "reward_model/questions.h"

namespace sibyl::reward_model {

absl::Status ReadLabelLog(const std::string& annotator, const v1::RewardModelConfig& config,
                          const std::function<void(const v1::Label&)>& on_label) {
  AnnotatorClient source(annotator);
  SIBYL_ASSIGN_OR_RETURN(const v1::DescribeResponse described, source.Describe());
  if (described.labels() == 0) return absl::OkStatus();
  v1::LabelsRequest request = LabelsOf(config, described);
  request.set_from_sequence(1);
  bool complete = false;
  const absl::Status status = source.Follow(request, [&](const v1::LabelBatch& batch) {
    for (const v1::Label& label : batch.labels()) {
      if (label.sequence() <= described.labels() && Fits(config, label)) on_label(label);
    }
    if (batch.next_sequence() <= described.labels() || complete) return;
    complete = true;
    source.Cancel();
  });
  return complete ? absl::OkStatus() : status;
}

}  // namespace sibyl::reward_model
