#include "common/cores.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <map>
#include <string>

#include "absl/status/status.h"

namespace sibyl {
namespace {

// Cores with these files and no others.
int Cores(int allowed, const std::map<std::string, std::string>& files) {
  return AvailableCores(allowed, [&](const std::string& path) -> absl::StatusOr<std::string> {
    const auto file = files.find(path);
    if (file == files.end()) return absl::NotFoundError(path);
    return file->second;
  });
}

TEST(AvailableCores, AreThoseOfTheAffinityWhereNoGroupLimitsThem) {
  EXPECT_EQ(Cores(12, {}), 12);
  EXPECT_EQ(Cores(12, {{"/proc/self/cgroup", "0::/\n"}}), 12);
  EXPECT_EQ(Cores(12, {{"/proc/self/cgroup", "0::/\n"}, {"/sys/fs/cgroup/cpu.max", "max 100000\n"}}), 12);
  EXPECT_EQ(Cores(0, {}), 1);
}

TEST(AvailableCores, AreAQuotaOfVersion2RoundedUp) {
  const auto with = [](const std::string& limit) {
    return Cores(12, {{"/proc/self/cgroup", "0::/\n"}, {"/sys/fs/cgroup/cpu.max", limit}});
  };
  EXPECT_EQ(with("200000 100000\n"), 2);
  EXPECT_EQ(with("250000 100000\n"), 3);
  EXPECT_EQ(with("10000 100000\n"), 1);
  EXPECT_EQ(with("6400000 100000\n"), 12) << "a quota above the affinity";
  EXPECT_EQ(with("nonsense\n"), 12);
  EXPECT_EQ(with("100000 0\n"), 12);
}

TEST(AvailableCores, AreTheLeastQuotaOfAGroupAndThoseAboveIt) {
  std::map<std::string, std::string> files = {{"/proc/self/cgroup", "0::/pods/one\n"},
                                              {"/sys/fs/cgroup/pods/one/cpu.max", "400000 100000\n"},
                                              {"/sys/fs/cgroup/pods/cpu.max", "300000 100000\n"}};
  EXPECT_EQ(Cores(12, files), 3);
  files["/sys/fs/cgroup/pods/one/cpu.max"] = "200000 100000\n";
  EXPECT_EQ(Cores(12, files), 2);
}

TEST(AvailableCores, ReadVersion1Too) {
  std::map<std::string, std::string> files = {
      {"/proc/self/cgroup", "5:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n0::/docker/1\n"},
      // Inside the container its own group is the root.
      {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"}};
  EXPECT_EQ(Cores(12, files), 2);
  files["/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us"] = "-1\n";
  EXPECT_EQ(Cores(12, files), 12);
  files = {{"/proc/self/cgroup", "4:cpu:/docker/1\n"},
           {"/sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us", "300000\n"},
           {"/sys/fs/cgroup/cpu/docker/1/cpu.cfs_period_us", "100000\n"}};
  EXPECT_EQ(Cores(12, files), 3);
}

TEST(AvailableCores, OfThisProcessFollowItsAffinity) {
  cpu_set_t before, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  CPU_ZERO(&one);
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &before)) continue;
    CPU_SET(core, &one);
    break;
  }
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(AvailableCores(), 1);
  const std::vector<int> allowed = AllowedCores();
  ASSERT_EQ(allowed.size(), 1u);
  EXPECT_TRUE(CPU_ISSET(allowed[0], &one));
  ASSERT_EQ(sched_setaffinity(0, sizeof before, &before), 0);
  EXPECT_GE(AvailableCores(), 1);
  EXPECT_LE(AvailableCores(), CPU_COUNT(&before));
  EXPECT_EQ(AllowedCores().size(), static_cast<size_t>(CPU_COUNT(&before)));
}

}  // namespace
}  // namespace sibyl
