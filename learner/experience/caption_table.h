#pragma once

#include <cstdint>
#include <limits>
#include <list>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/mutex.h"
#include "sibyl/v1/rank.pb.h"
#include "sibyl/v1/reward.pb.h"
#include "sibyl/v1/state.pb.h"

namespace sibyl::learner {

// What the caption of one transition is worth.
struct CaptionReward {
  float reward = 0;     // intrinsic reward of the caption, before coefficient and count
  bool scored = false;  // the reward model has a score for it
  uint64_t age = 0;     // environment steps since that score came
};

// Every caption that the learner knows. Each caption has a dense row with its text, count and score. Row 0 stands for
// "no caption". Any thread.
//
// The table is bounded by `capacity` captions and by `text_bytes` bytes of texts and contexts. A full table forgets the
// least recently seen caption that no live unroll names. A forgotten caption that is seen again is new. The table keeps
// the scores of captions without a row by id, at most `capacity` of them; it drops the score that came first.
//
// No call holds the lock while it walks the whole table. Apply, Save and TakeChanged walk in pieces of some thousand
// rows. They free the lock between two pieces, or leave the rest to the next call.
class CaptionTable {
 public:
  explicit CaptionTable(size_t capacity, size_t text_bytes = std::numeric_limits<size_t>::max())
      : capacity_(capacity), max_text_bytes_(text_bytes) {
    rows_.resize(1);
    row_scores_.resize(1);
  }

  // Writes the row of each caption id to `rows` [ids.size()], and adds rows for new ids. `step`: the environment step
  // at which they were seen. Each mention counts one occurrence and pins the row once. The text may come later. Id 0
  // gives row 0.
  void See(absl::Span<const uint64_t> ids, uint64_t step, int32_t* rows);
  // Takes one pin from each row, once for each mention.
  void Unpin(absl::Span<const int32_t> rows);
  // Adds one pin to each row, once for each mention.
  void Pin(absl::Span<const int32_t> rows);

  // Takes texts that actors sent. The table counts and ignores a text whose hash is not its id, and a text that differs
  // from the known one (a collision).
  void AddTexts(const google::protobuf::RepeatedPtrField<v1::CaptionText>& texts);
  // The ids of those rows whose text is not known.
  std::vector<uint64_t> WithoutText(absl::Span<const int32_t> rows) const;
  // The known texts of these ids, with their contexts.
  v1::CaptionTexts Texts(absl::Span<const uint64_t> ids) const;

  // Ids, counts and last steps of rows that have changed since the last call, at most `limit`. `all`: this call and the
  // next ones report every row. A result of fewer than `limit` rows is complete.
  v1::CaptionCounts TakeChanged(bool all, size_t limit);

  // For ranks above 0: what was seen since the last call, and the texts of new captions. A caption whose text has not
  // come yet is left for a later call.
  void TakeNews(v1::RankNews* news);
  // For rank 0: counts what another rank has seen as if it had been seen here.
  void AddNews(const v1::RankNews& news);

  // Applies one update of the reward model, which came at environment step `step`. Updates with `more` are held back
  // until the last part has come; all parts then take effect at one moment. One caller at a time.
  // InvalidArgument, and nothing is applied: columns differ in length, a score or a transform is not finite or far out
  // of range, or more rows are held back than any snapshot has.
  absl::Status Apply(const v1::ScoreUpdate& update, uint64_t step);

  // Writes the reward of each row to `rewards` [rows.size()]. All scores are of one moment. `step`: the environment
  // step now, for the scores' age.
  void Rewards(absl::Span<const int32_t> rows, uint64_t step, CaptionReward* rewards) const;

  // As `reward` of Rewards, for captions by id; 0 where the table does not have the caption.
  void RewardsOf(absl::Span<const uint64_t> ids, float* rewards) const;

  // Writes the id of each row to `ids` [rows.size()]; row 0 has id 0.
  void Ids(absl::Span<const int32_t> rows, uint64_t* ids) const;
  size_t size() const;
  // The pins of all rows together: mentions by live unrolls.
  uint64_t pins() const;
  uint64_t collisions() const;
  uint64_t evicted() const;
  uint64_t score_version() const;
  // Bytes of texts and contexts.
  size_t text_bytes() const;
  // Scores of captions without a row: those that are kept, and those that were dropped because there were too many.
  size_t scores_without_row() const;
  uint64_t scores_dropped() const;
  // Approximate memory of the table.
  size_t bytes() const;

  // For checkpoints. Appends the captions of the next some thousand rows and advances `next_row`, which starts at 0.
  // False: the end is reached. Each caption is saved as it is when its row's turn comes. A caption that is known during
  // all calls is saved exactly once; a caption that comes or goes meanwhile may be missing.
  bool SavePiece(int32_t* next_row, google::protobuf::RepeatedPtrField<v1::CaptionState>* captions) const;
  // All pieces.
  void Save(google::protobuf::RepeatedPtrField<v1::CaptionState>* captions) const;
  // Call it before anything else. The captions may come in any order. Those with the latest last step are forgotten
  // last.
  void Load(const google::protobuf::RepeatedPtrField<v1::CaptionState>& captions);

 private:
  struct Score {
    float value = 0;
    bool known = false;
    uint64_t step = 0;  // when it came
  };
  struct Row {
    uint64_t id = 0;
    std::string text, context;  // both are kept when the text first comes
    uint64_t count = 0;         // over the run
    uint64_t since = 0;         // count at the start of this incarnation
    uint64_t last_step = 0;
    int32_t older = 0, newer = 0;  // neighbours in order of last occurrence; 0: none
    uint32_t pins = 0;
    bool changed = false;
  };

  // A score of a caption without a row, and its place in waiting_order_.
  struct WaitingScore {
    Score score;
    std::list<uint64_t>::iterator place;
  };

  // What the newest transform makes of a score.
  float RewardFor(const Score& score) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetText(Row& row, const std::string& text, const std::string& context) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int32_t RowFor(uint64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Forgets the least recently seen caption that is not pinned; its row is free then. False: all are pinned.
  bool ForgetOldest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetRowScore(int32_t row, const Score& score) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Keeps the score of a caption that has no row, or, where it is not known, drops it.
  void SetWaitingScore(uint64_t id, const Score& score) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Sets the scores of entries [begin, end) of an update, its removals first, in `row_scores` or among the waiting
  // ones.
  void ApplyEntries(const v1::ScoreUpdate& update, int begin, int end, uint64_t step, std::vector<Score>* row_scores)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Unlink(int32_t row) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LinkNewest(int32_t row) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MarkChanged(int32_t row) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t capacity_, max_text_bytes_;
  mutable Mutex mutex_;
  std::vector<Row> rows_ ABSL_GUARDED_BY(mutex_);  // a free one has id 0
  std::vector<int32_t> free_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, int32_t> row_of_ ABSL_GUARDED_BY(mutex_);
  int32_t oldest_ ABSL_GUARDED_BY(mutex_) = 0, newest_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<int32_t> changed_ ABSL_GUARDED_BY(mutex_);
  // Rows from here on are to be reported although they have not changed; 0: none.
  int32_t report_from_ ABSL_GUARDED_BY(mutex_) = 0;
  // Scores by row, which is what rewards are read from. While a large update is applied, `next_row_scores_` is written,
  // and takes the place of the other in the end. Until its first `copied_` rows are all, the rest of the other has not
  // been copied into it.
  std::vector<Score> row_scores_ ABSL_GUARDED_BY(mutex_), next_row_scores_ ABSL_GUARDED_BY(mutex_);
  bool applying_ ABSL_GUARDED_BY(mutex_) = false;  // both are kept up to date for rows that come and go
  size_t copied_ ABSL_GUARDED_BY(mutex_) = 0;
  // Scores of captions without a row, in the order in which they came.
  absl::flat_hash_map<uint64_t, WaitingScore> waiting_ ABSL_GUARDED_BY(mutex_);
  std::list<uint64_t> waiting_order_ ABSL_GUARDED_BY(mutex_);
  uint64_t scores_dropped_ ABSL_GUARDED_BY(mutex_) = 0;
  // Apply's.
  std::vector<v1::ScoreUpdate> held_back_;
  size_t held_back_rows_ = 0;
  v1::RewardTransform transform_ ABSL_GUARDED_BY(mutex_);
  uint64_t score_version_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t collisions_ ABSL_GUARDED_BY(mutex_) = 0, evicted_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t text_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t pins_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace sibyl::learner
