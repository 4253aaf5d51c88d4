#include "learner/training/collective.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cli/ports.h"
#include "common/random.h"

namespace sibyl::learner {
namespace {

using ::testing::HasSubstr;

int FreePort() { return cli::FreePorts(1, FreshRandom64())->front(); }

// Calls body(collective) on a thread for each rank.
template <typename Body>
void WithRanks(int ranks, absl::Duration limit, const Body& body) {
  const std::string rendezvous = absl::StrCat("127.0.0.1:", FreePort());
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      auto collective = Collective::Join(rank, ranks, rendezvous, limit);
      ASSERT_TRUE(collective.ok()) << collective.status();
      body(std::move(*collective));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Collective, SumsBroadcastsAndGathers) {
  WithRanks(3, absl::Seconds(30), [](std::unique_ptr<Collective> collective) {
    const float rank = static_cast<float>(collective->rank());
    torch::Tensor a = torch::full({2, 3}, rank + 1), b = torch::full({4}, 10 * rank).slice(0, 0, 4, 2);
    ASSERT_TRUE(collective->Sum({a, b}).ok());
    EXPECT_TRUE(torch::equal(a, torch::full({2, 3}, 6.0)));
    EXPECT_TRUE(torch::equal(b, torch::full({2}, 30.0)));
    torch::Tensor c = torch::full({5}, static_cast<int64_t>(rank) + 7);
    ASSERT_TRUE(collective->Broadcast({c}).ok());
    EXPECT_TRUE(torch::equal(c, torch::full({5}, int64_t{7})));
    const auto said = collective->Gather(std::string(static_cast<size_t>(rank) * 2, 'a' + collective->rank()));
    ASSERT_TRUE(said.ok()) << said.status();
    EXPECT_THAT(*said, testing::ElementsAre("", "bb", "cccc"));
  });
}

TEST(Collective, OneThatLeavesEndsTheOthersWithAReason) {
  WithRanks(2, absl::Seconds(30), [](std::unique_ptr<Collective> collective) {
    if (collective->rank() == 1) return;
    torch::Tensor x = torch::ones({3});
    const absl::Status status = collective->Sum({x});
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("learner 0 of 2"));
  });
}

TEST(Collective, OneThatDoesNotComeIsWaitedForNoLongerThanTheLimit) {
  std::atomic<bool> failed = false;
  WithRanks(2, absl::Seconds(1), [&](std::unique_ptr<Collective> collective) {
    if (collective->rank() == 1) {
      while (!failed) std::this_thread::yield();  // alive and silent
      return;
    }
    torch::Tensor x = torch::ones({3});
    const absl::Time begin = absl::Now();
    EXPECT_EQ(collective->Sum({x}).code(), absl::StatusCode::kUnavailable);
    EXPECT_GE(absl::Now() - begin, absl::Milliseconds(900));
    failed = true;
  });
}

TEST(Collective, SaysWhatIsWrongWithTheRendezvous) {
  EXPECT_THAT(std::string(Collective::Join(0, 2, "nowhere", absl::Seconds(1)).status().message()),
              HasSubstr("`nowhere`, must be host:port"));
  const auto alone = Collective::Join(1, 2, absl::StrCat("127.0.0.1:", FreePort()), absl::Seconds(1));
  EXPECT_EQ(alone.status().code(), absl::StatusCode::kUnavailable) << alone.status();
}

}  // namespace
}  // namespace sibyl::learner
