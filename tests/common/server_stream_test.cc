#include "common/rpc/server_stream.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <limits>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "sibyl/v1/reward.grpc.pb.h"
#include "tests/process.h"

namespace sibyl::rpc {
namespace {

using In = v1::LearnerToRewardModel;
using Out = v1::RewardModelToLearner;

Out Numbered(uint64_t number) {
  Out out;
  out.mutable_scores()->set_sequence(number);
  return out;
}

// Streams of this service do what the test says.
class TestService : public v1::RewardService::CallbackService {
 public:
  class Stream : public ServerStream<In, Out> {
   public:
    Stream(TestService& service, size_t max_queued) : ServerStream(max_queued), service_(service) {}
    ~Stream() override { ++service_.destroyed; }

   private:
    void OnMessage(In& message) override {
      EXPECT_FALSE(in_message_.exchange(true)) << "two messages at a time";
      EXPECT_FALSE(ended_);
      service_.on_message(*this, message);
      in_message_ = false;
    }
    void OnEnd() override {
      EXPECT_FALSE(in_message_);
      EXPECT_FALSE(ended_.exchange(true)) << "a second end";
      ++service_.ended;
    }
    TestService& service_;
    std::atomic<bool> in_message_ = false, ended_ = false;
  };

  grpc::ServerBidiReactor<In, Out>* Rewards(grpc::CallbackServerContext*) override {
    auto stream = std::make_shared<Stream>(*this, max_queued);
    stream->Begin();
    MutexLock lock(mutex_);
    newest_ = stream;
    return stream.get();
  }
  std::weak_ptr<Stream> newest() {
    MutexLock lock(mutex_);
    return newest_;
  }

  size_t max_queued = 1024;
  std::function<void(Stream&, In&)> on_message = [](Stream&, In&) {};
  std::atomic<int> ended = 0, destroyed = 0;

 private:
  Mutex mutex_;
  std::weak_ptr<Stream> newest_ ABSL_GUARDED_BY(mutex_);
};

class ServerStreamTest : public testing::Test {
 protected:
  ServerStreamTest()
      : server_(*Server::Start("127.0.0.1:0", {&service_})),
        stub_(v1::RewardService::NewStub(MakeChannel(absl::StrCat("127.0.0.1:", server_->port())))) {}

  struct Call {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReaderWriter<In, Out>> stream;
    // Reads what is left.
    grpc::Status End(std::vector<uint64_t>* numbers = nullptr) {
      Out out;
      while (stream->Read(&out)) {
        if (numbers != nullptr) numbers->push_back(out.scores().sequence());
      }
      return stream->Finish();
    }
  };
  std::unique_ptr<Call> Open() {
    auto call = std::make_unique<Call>();
    call->stream = stub_->Rewards(&call->context);
    return call;
  }
  void ExpectAllGone(int streams) {
    EXPECT_TRUE(Eventually([&] { return service_.ended == streams && service_.destroyed == streams; }));
    EXPECT_TRUE(service_.newest().expired());
  }

  TestService service_;
  const std::unique_ptr<Server> server_;
  const std::unique_ptr<v1::RewardService::Stub> stub_;
};

TEST_F(ServerStreamTest, MessagesArriveInTheOrderInWhichTheyWereSent) {
  constexpr uint64_t kCount = 500;
  service_.on_message = [](auto& stream, In& in) {
    for (uint64_t i = 0; i < kCount; ++i) EXPECT_TRUE(stream.Send(Numbered(in.counts().step() + i)));
  };
  auto call = Open();
  In in;
  in.mutable_counts()->set_step(1000);
  ASSERT_TRUE(call->stream->Write(in));
  for (uint64_t i = 0; i < kCount; ++i) {
    Out out;
    ASSERT_TRUE(call->stream->Read(&out));
    EXPECT_EQ(out.scores().sequence(), 1000 + i);
  }
  call->stream->WritesDone();
  EXPECT_TRUE(call->End().ok());
  ExpectAllGone(1);
}

TEST_F(ServerStreamTest, AStreamThatItsServiceClosesKeepsTheStatus) {
  service_.on_message = [](auto& stream, In&) {
    stream.Close(grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "the run differs"));
    stream.Close(grpc::Status(grpc::StatusCode::UNAVAILABLE, "later closes do nothing"));
    EXPECT_FALSE(stream.Send(Numbered(1))) << "it is closed";
  };
  auto call = Open();
  call->stream->Write(In());
  const grpc::Status status = call->End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(status.error_message(), "the run differs");
  ExpectAllGone(1);
}

TEST_F(ServerStreamTest, APeerThatReadsNothingLosesTheStream) {
  service_.max_queued = 4;
  std::atomic<bool> refused = false;
  service_.on_message = [&](auto& stream, In&) {
    Out large;
    large.mutable_progress()->set_judge(std::string(1 << 20, 'x'));
    for (int i = 0; i < 1000 && !refused; ++i) refused = !stream.Send(large);
  };
  auto call = Open();
  call->stream->Write(In());
  ASSERT_TRUE(Eventually([&] { return refused.load(); })) << "the queue has a bound";
  const grpc::Status status = call->End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), "the peer reads too slowly");
  ExpectAllGone(1);
}

TEST_F(ServerStreamTest, ManyThreadsMaySendWhileThePeerLeaves) {
  // The senders do not wait for the peer. A bound would close the stream before the peer leaves.
  service_.max_queued = std::numeric_limits<size_t>::max();
  auto call = Open();
  call->stream->Write(In());
  ASSERT_TRUE(Eventually([&] { return service_.newest().lock() != nullptr; }));
  std::atomic<int> running = 4;
  std::vector<std::thread> senders;
  for (int i = 0; i < 4; ++i) {
    senders.emplace_back([&, stream = service_.newest().lock()] {
      while (stream->Send(Numbered(7))) std::this_thread::yield();
      --running;
    });
  }
  Out out;
  int read = 0;
  while (read < 100 && call->stream->Read(&out)) ++read;
  EXPECT_EQ(read, 100);
  call->context.TryCancel();
  call->End();
  EXPECT_TRUE(Eventually([&] { return running == 0; })) << "Send says that the stream is closed";
  for (std::thread& sender : senders) sender.join();
  ExpectAllGone(1);
}

TEST_F(ServerStreamTest, EachOfManyStreamsEndsOnceAndIsFreed) {
  service_.on_message = [](auto& stream, In& in) { stream.Send(Numbered(in.counts().step())); };
  std::vector<std::unique_ptr<Call>> calls;
  for (int i = 0; i < 20; ++i) calls.push_back(Open());
  for (int i = 0; i < 20; ++i) {
    In in;
    in.mutable_counts()->set_step(i);
    ASSERT_TRUE(calls[i]->stream->Write(in));
    Out out;
    ASSERT_TRUE(calls[i]->stream->Read(&out));
    EXPECT_EQ(out.scores().sequence(), static_cast<uint64_t>(i));
    if (i % 2 == 0) {
      calls[i]->context.TryCancel();
    } else {
      calls[i]->stream->WritesDone();
    }
    calls[i]->End();
  }
  ExpectAllGone(20);
}

}  // namespace
}  // namespace sibyl::rpc
