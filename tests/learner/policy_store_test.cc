#include "learner/serving/policy_store.h"

#include <gtest/gtest.h>

#include <thread>

#include "learner/serving/shared_weights.h"
#include "policy/weights.h"
#include "tests/policy/random_observations.h"
#include "tests/process.h"

namespace sibyl::learner {
namespace {

void Fill(Policy& policy, double value) {
  torch::NoGradGuard no_grad;
  for (torch::Tensor& parameter : policy.parameters()) parameter.fill_(value);
}

// A policy of which every weight is `value`.
std::shared_ptr<Policy> Filled(double value) {
  auto policy = *MakePolicy(PolicyOf(v1::POLICY_KIND_MINIGRID_CONV_GRU), MinigridSpec());
  Fill(*policy, value);
  return policy;
}

// Publishes weights of 1, 2, ... `count` under these versions, as training does.
void PublishAll(PolicyStore& store, uint64_t count) {
  const auto trained = Filled(0);
  for (uint64_t version = 1; version <= count; ++version) {
    Fill(*trained, static_cast<double>(version));
    store.Publish(*trained, version);
  }
}

bool AllAre(const Policy& policy, double value) {
  for (const torch::Tensor& parameter : policy.parameters()) {
    if (!parameter.eq(value).all().item<bool>()) return false;
  }
  return true;
}

TEST(PolicyStore, HandsOverEveryWeightWithItsVersion) {
  PolicyStore store(Filled(0), Filled(0));
  EXPECT_EQ(store.Get().policy_version, 0u);
  for (uint64_t version = 1; version < 6; ++version) {
    // The statistics that normalise the input are weights too.
    const auto trained = Filled(static_cast<double>(version));
    store.Publish(*trained, version);
    const PolicyStore::Published published = store.Get();
    EXPECT_EQ(published.policy_version, version);
    EXPECT_TRUE(AllAre(*published.policy, static_cast<double>(version)));
    EXPECT_NE(published.policy, trained) << "training goes on in its own copy";
  }
}

TEST(PolicyStore, APolicyDoesNotChangeWhileItIsHeld) {
  PolicyStore store(Filled(0), Filled(0));
  PolicyStore::Published held = store.Get();
  std::thread training([&] { PublishAll(store, 3); });
  // The first goes into the copy that nobody holds. The second has to wait for the reader.
  EXPECT_TRUE(Eventually([&] { return store.Get().policy_version >= 1; }));
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(AllAre(*held.policy, 0));
    ASSERT_EQ(store.Get().policy_version, 1u);
    std::this_thread::yield();
  }
  held.policy = nullptr;
  training.join();
  EXPECT_EQ(store.Get().policy_version, 3u);
  EXPECT_TRUE(AllAre(*store.Get().policy, 3));
}

TEST(PolicyStore, AReaderNeverSeesHalfAPolicy) {
  PolicyStore store(Filled(0), Filled(0));
  std::thread training([&] { PublishAll(store, 20); });
  for (uint64_t version = 0; version < 20;) {
    const PolicyStore::Published published = store.Get();
    EXPECT_GE(published.policy_version, version);
    version = published.policy_version;
    ASSERT_TRUE(AllAre(*published.policy, static_cast<double>(version)));
  }
  training.join();
}

TEST(SharedWeights, AreEncodedOnceAVersion) {
  PolicyStore store(Filled(0), Filled(0));
  SharedWeights weights(&store);
  store.Publish(*Filled(1), 10);
  const SharedWeights::Encoded first = *weights.Newest();
  EXPECT_EQ(first.policy_version, 10u);
  EXPECT_EQ(weights.Newest()->bytes, first.bytes) << "the same bytes for all actors";

  store.Publish(*Filled(2), 11);
  const SharedWeights::Encoded second = *weights.Newest();
  EXPECT_EQ(second.policy_version, 11u);
  for (const auto& [encoded, value] : {std::pair(first, 1.0), std::pair(second, 2.0)}) {
    const auto decoded = Filled(9);
    ASSERT_EQ(DecodePolicy("shared", *encoded.bytes, *decoded), absl::OkStatus());
    EXPECT_TRUE(AllAre(*decoded, value)) << "bytes that an actor still holds stay as they are";
  }
}

TEST(SharedWeights, EveryActorGetsTheWeightsOfItsVersion) {
  PolicyStore store(Filled(0), Filled(0));
  SharedWeights weights(&store);
  std::thread training([&] { PublishAll(store, 20); });
  std::vector<std::thread> actors;
  for (int i = 0; i < 2; ++i) {
    actors.emplace_back([&] {
      const auto decoded = Filled(9);
      for (uint64_t version = 0; version < 20;) {
        const auto newest = weights.Newest();
        ASSERT_TRUE(newest.ok());
        ASSERT_GE(newest->policy_version, version);
        version = newest->policy_version;
        ASSERT_EQ(DecodePolicy("shared", *newest->bytes, *decoded), absl::OkStatus());
        ASSERT_TRUE(AllAre(*decoded, static_cast<double>(version)));
      }
    });
  }
  training.join();
  for (std::thread& actor : actors) actor.join();
}

}  // namespace
}  // namespace sibyl::learner
