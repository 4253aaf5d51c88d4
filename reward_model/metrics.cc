#include "reward_model/metrics.h"

namespace sibyl::reward_model {
namespace {

prometheus::Counter& Queries(Metrics& metrics, const char* outcome) {
  return metrics.Counter("sibyl_reward_model_queries_total",
                         "Queries offered to the annotator, by what became of them.", {{"outcome", outcome}});
}

prometheus::Counter& Labels(Metrics& metrics, const char* outcome) {
  return metrics.Counter("sibyl_reward_model_labels_total", "Labels taken into the table, by outcome.",
                         {{"outcome", outcome}});
}

}  // namespace

RewardModelMetrics::RewardModelMetrics(Metrics& m)
    : captions(m.Gauge("sibyl_reward_model_captions", "Distinct captions known.")),
      caption_text_bytes(
          m.Gauge("sibyl_reward_model_caption_text_bytes", "Bytes of the captions' texts and contexts.")),
      captions_forgotten(
          m.Counter("sibyl_reward_model_captions_forgotten_total", "Captions forgotten because there were too many.")),
      captions_asked(m.Gauge("sibyl_reward_model_captions_asked", "Captions that an accepted query was about.")),
      captions_labelled(m.Gauge("sibyl_reward_model_captions_labelled", "Captions with an answered label.")),
      table_bytes(
          m.Gauge("sibyl_reward_model_table_bytes", "Approximate memory of captions, labels, questions and scores.")),
      candidates(m.Gauge("sibyl_reward_model_candidates", "Captions that wait to be asked.")),
      candidates_dropped(m.Counter("sibyl_reward_model_candidates_dropped_total",
                                   "Captions dropped from the candidates because there were too many.")),
      queries_outstanding(
          m.Gauge("sibyl_reward_model_queries_outstanding", "Queries with the annotator that have no label yet.")),
      comparisons(m.Gauge("sibyl_reward_model_comparisons", "Comparisons of two captions that are kept.")),
      comparisons_forgotten(m.Counter("sibyl_reward_model_comparisons_forgotten_total",
                                      "Comparisons forgotten because there were too many.")),
      pairs_both_orders(
          m.Gauge("sibyl_reward_model_pairs_both_orders", "Pairs of captions that were answered in both orders.")),
      pairs_flipped(m.Gauge("sibyl_reward_model_pairs_flipped",
                            "Those of them where the judge preferred the same place, not the same caption.")),
      queries_known(Queries(m, "known")),
      queries_accepted(Queries(m, "accepted")),
      queries_duplicate(Queries(m, "duplicate")),
      queries_full(Queries(m, "full")),
      queries_refused(Queries(m, "refused")),
      labels_answered(Labels(m, "answered")),
      labels_abstained(Labels(m, "abstained")),
      labels_unparsable(Labels(m, "unparsable")),
      labels_failed(Labels(m, "failed")),
      labels_ignored(m.Counter("sibyl_reward_model_labels_ignored_total",
                               "Labels that are not about this goal, label set, judge and prompt, or make no sense.")),
      label_log_next_sequence(
          m.Gauge("sibyl_reward_model_label_log_next_sequence", "Place in the label log that is read next.")),
      annotator_connected(m.Gauge("sibyl_reward_model_annotator_connected", "1 while labels are being followed.")),
      annotator_connections(
          m.Counter("sibyl_reward_model_annotator_connections_total", "Times that the annotator was connected to.")),
      learner_connected(m.Gauge("sibyl_reward_model_learner_connected", "1 while a learner is connected.")),
      learner_connections(
          m.Counter("sibyl_reward_model_learner_connections_total", "Times that a learner has connected.")),
      score_updates(
          m.Counter("sibyl_reward_model_score_updates_total", "Score updates made, parts of snapshots included.")),
      score_rows(m.Counter("sibyl_reward_model_score_rows_total", "Scores and removals in score updates.")),
      score_snapshots(m.Counter("sibyl_reward_model_score_snapshots_total", "Snapshots of all scores made.")),
      score_log_rows(m.Gauge("sibyl_reward_model_score_log_rows",
                             "Rows of past score updates that are kept for a learner that comes back.")),
      texts_missing(m.Gauge("sibyl_reward_model_texts_missing", "Captions whose text the learner has not sent yet.")),
      texts_requested(m.Counter("sibyl_reward_model_texts_requested_total", "Texts asked of the learner.")),
      text_mismatches(
          m.Counter("sibyl_reward_model_text_mismatches_total", "Texts ignored because their id is not theirs.")),
      caption_collisions(m.Counter("sibyl_reward_model_caption_collisions_total",
                                   "Texts ignored because another text has the same id.")),
      checkpoint_duration(
          m.Gauge("sibyl_reward_model_checkpoint_duration_seconds", "What the last checkpoint took, copy and write.")),
      checkpoint_timestamp(
          m.Gauge("sibyl_reward_model_checkpoint_timestamp_seconds", "Unix time of the last checkpoint; 0: none.")),
      checkpoint_bytes(m.Gauge("sibyl_reward_model_checkpoint_bytes",
                               "Size of reward_model.records, what was appended since it was new included.")) {}

}  // namespace sibyl::reward_model
