#pragma once

#include "common/metrics.h"

namespace sibyl::reward_model {

// What the stage shows; docs/metrics.md says what each means.
struct RewardModelMetrics {
  explicit RewardModelMetrics(Metrics& metrics);

  prometheus::Gauge& captions;
  prometheus::Gauge& caption_text_bytes;
  prometheus::Counter& captions_forgotten;
  prometheus::Gauge& captions_asked;
  prometheus::Gauge& captions_labelled;
  prometheus::Gauge& table_bytes;
  prometheus::Gauge& candidates;
  prometheus::Counter& candidates_dropped;
  prometheus::Gauge& queries_outstanding;
  prometheus::Gauge& comparisons;
  prometheus::Counter& comparisons_forgotten;
  prometheus::Gauge& pairs_both_orders;
  prometheus::Gauge& pairs_flipped;
  prometheus::Counter& queries_known;
  prometheus::Counter& queries_accepted;
  prometheus::Counter& queries_duplicate;
  prometheus::Counter& queries_full;
  prometheus::Counter& queries_refused;
  prometheus::Counter& labels_answered;
  prometheus::Counter& labels_abstained;
  prometheus::Counter& labels_unparsable;
  prometheus::Counter& labels_failed;
  prometheus::Counter& labels_ignored;
  prometheus::Gauge& label_log_next_sequence;
  prometheus::Gauge& annotator_connected;
  prometheus::Counter& annotator_connections;
  prometheus::Gauge& learner_connected;
  prometheus::Counter& learner_connections;
  prometheus::Counter& score_updates;
  prometheus::Counter& score_rows;
  prometheus::Counter& score_snapshots;
  prometheus::Gauge& score_log_rows;
  prometheus::Gauge& texts_missing;
  prometheus::Counter& texts_requested;
  prometheus::Counter& text_mismatches;
  prometheus::Counter& caption_collisions;
  prometheus::Gauge& checkpoint_duration;
  prometheus::Gauge& checkpoint_timestamp;
  prometheus::Gauge& checkpoint_bytes;
};

}  // namespace sibyl::reward_model
