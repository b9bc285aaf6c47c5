// A guest's kernel and this machine's ask the same: both sessions record the same.
#include <dirent.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/xattr.h>

#include <functional>
#include <thread>

#include "fake_guest.h"
#include "fs/overlay.h"
#include "fs/relay_channel.h"
#include "fs/session.h"
#include "fuse_main.h"

namespace hm::fs {
namespace {

using namespace test;  // NOLINT: a test file

std::vector<std::string> list_directory(const std::string& path) {
  std::vector<std::string> out;
  DIR* dir = ::opendir(path.c_str());
  while (const dirent* entry = ::readdir(dir)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") out.push_back(name);
  }
  ::closedir(dir);
  return out;
}

std::string text_of(const Trace& trace) {
  std::string out;
  for (const Observation& item : trace.observations) {
    out += std::string(to_string(item.kind)) + " /" + item.path + " " + item.value + "\n";
  }
  return out;
}

TEST(RelayMountTest, SameAccessesSameTrace) {
  if (!can_mount()) GTEST_SKIP() << kCannotMount;
  Trees trees;
  write_file(trees.image("d/one"), "1");
  write_file(trees.image("d/two"), std::string(300000, '2'));
  write_file(trees.image("e/xattr"), "x");
  const bool has_xattrs =
      ::setxattr(trees.image("e/xattr").c_str(), "user.mine", "value", 5, 0) == 0;
  std::filesystem::create_symlink("d/one", trees.image("link"));
  write_file(trees.workspace("src/main"), "main");
  LayerEntry made = file_entry("made", "by a step");
  must(trees.store().blobs().put("by a step"));
  made.entry.xattrs = {{"user.of", "a layer"}};
  const std::vector<ViewLayer> layers = {view_layer({made, whiteout_entry("e/gone")})};

  const View mounted_view = trees.view(layers);
  const std::string root = trees.path("mnt");
  std::filesystem::create_directories(root);
  const auto mounted = must(Session::start(mounted_view, trees.store(), root, {}));
  const auto at = [&](const std::string& path) { return root + "/" + path; };
  EXPECT_EQ(lstat_of(at("d/one")).st_size, 1);
  EXPECT_FALSE(exists(at("d/none")));
  EXPECT_FALSE(exists(at("none")));
  const auto names = list_directory(at("d"));
  EXPECT_EQ(slurp(at("d/two")).size(), 300000U);
  EXPECT_EQ(std::filesystem::read_symlink(at("link")).string(), "d/one");
  EXPECT_EQ(slurp(at("workspace/src/main")), "main");
  char value[64];
  const ssize_t size = ::getxattr(at("made").c_str(), "user.of", value, sizeof value);
  EXPECT_EQ(std::string(value, static_cast<std::size_t>(std::max<ssize_t>(size, 0))), "a layer");
  (void)::getxattr(at("e/xattr").c_str(), "user.mine", value, sizeof value);
  mounted->stop();

  const View relayed_view = trees.view(layers);
  FakeGuest guest;
  const auto relayed =
      must(Session::start_relay(relayed_view, trees.store(), guest.take_host_end(), {}));
  EXPECT_EQ(guest.init().error, 0);
  const std::uint64_t dir = guest.walk("d");
  const std::uint64_t one = guest.lookup(dir, "one");
  EXPECT_EQ(guest.getattr(one).size, 1U);
  EXPECT_EQ(guest.lookup(dir, "none"), 0U);
  EXPECT_EQ(guest.walk("none"), 0U);
  EXPECT_EQ(guest.readdir(dir), names);
  const std::uint64_t two = guest.lookup(dir, "two");
  EXPECT_EQ(guest.read(two, 0, 1 << 20).size(), 300000U);
  EXPECT_EQ(guest.readlink(guest.walk("link")), "d/one");
  EXPECT_EQ(guest.read(guest.walk("workspace/src/main")), "main");
  const std::uint64_t of_layer = guest.walk("made");
  EXPECT_EQ(guest.getxattr(of_layer, "user.of"), "a layer");
  const std::string mine = guest.getxattr(guest.walk("e/xattr"), "user.mine");
  EXPECT_EQ(mine, has_xattrs ? "value" : "");
  guest.forget(one);
  EXPECT_EQ(guest.call(FUSE_DESTROY, 0, "").error, 0);
  relayed->stop();

  EXPECT_FALSE(mounted->failure());
  EXPECT_FALSE(relayed->failure());
  EXPECT_EQ(text_of(mounted->trace()), text_of(relayed->trace()));
  EXPECT_EQ(mounted->trace().encode(), relayed->trace().encode());
  EXPECT_EQ(mounted->seen_times().size(), relayed->seen_times().size());
}

// This machine's kernel in the guest's place: a mount whose messages are copied to a stream.
class KernelRelay {
 public:
  KernelRelay(const std::string& mount_point, Fd stream)
      : mount_point_(mount_point), stream_(std::move(stream)) {
    device_ = must(open_file("/dev/fuse", O_RDWR));
    const std::string options =
        "fd=" + std::to_string(device_.get()) +
        ",rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other";
    must_be_zero(::mount("hmfs", mount_point.c_str(), "fuse.hmfs", MS_RDONLY | MS_NODEV | MS_NOSUID,
                         options.c_str()),
                 "mount");
    down_ = std::jthread([this] {
      std::vector<char> buffer(kRelayMessage);
      while (true) {
        const ssize_t size = ::read(device_.get(), buffer.data(), buffer.size());
        if (size < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN)) continue;
        if (size <= 0) break;
        if (!write_all(stream_.get(), {buffer.data(), static_cast<std::size_t>(size)})) break;
      }
    });
    up_ = std::jthread([this] {
      std::vector<char> buffer(kRelayMessage);
      std::uint32_t length = 0;
      while (receive(buffer.data(), sizeof length)) {
        std::memcpy(&length, buffer.data(), sizeof length);
        if (!receive(buffer.data() + sizeof length, length - sizeof length)) break;
        (void)!::write(device_.get(), buffer.data(), length);
      }
    });
  }
  // After the session is stopped, which closes the stream.
  ~KernelRelay() { ::umount2(mount_point_.c_str(), MNT_DETACH); }
  KernelRelay(const KernelRelay&) = delete;
  KernelRelay& operator=(const KernelRelay&) = delete;

 private:
  bool receive(char* to, std::size_t size) const {
    while (size > 0) {
      const ssize_t got = ::recv(stream_.get(), to, size, 0);
      if (got <= 0) return false;
      to += got;
      size -= static_cast<std::size_t>(got);
    }
    return true;
  }

  std::string mount_point_;
  Fd stream_, device_;
  std::jthread down_, up_;
};

// Whatever programs do to a tree: a real kernel's requests all pass, and are recorded as ever.
TEST(RelayMountTest, ARealKernelsRequestsAllPass) {
  if (test::kThreadSanitizer) GTEST_SKIP() << "ThreadSanitizer cannot follow a vfork";
  if (!can_mount()) GTEST_SKIP() << kCannotMount;
  Trees trees;
  for (int i = 0; i < 300; ++i) {
    write_file(trees.image("many/" + std::to_string(i % 20) + "/" + std::to_string(i)),
               std::string(static_cast<std::size_t>(i) * 40, 'm'));
  }
  write_file(trees.image("big"), std::string(std::size_t{5} << 20, 'b'));
  write_file(trees.image("attributes"), "x");
  (void)::setxattr(trees.image("attributes").c_str(), "user.mine", "value", 5, 0);
  std::filesystem::create_symlink("many/1/1", trees.image("link"));
  write_file(trees.workspace("src/main"), "main");
  const std::string script =
      "ls -lR . >/dev/null; cat many/*/* big >/dev/null; tail -c 1000 big >/dev/null; "
      "getfattr -d attributes many/1/1 >/dev/null 2>&1; getfacl -R . >/dev/null 2>&1; "
      "lsattr . big >/dev/null 2>&1; stat -f . >/dev/null; test -w big; cat link >/dev/null; "
      "cat none many/none 2>/dev/null; ls none/deep 2>/dev/null; find . -newer big >/dev/null; "
      "python3 -c 'import os; f = os.open(\"big\", 0); os.lseek(f, 0, os.SEEK_HOLE); "
      "os.fsync(f)'; dd if=big of=/dev/null bs=4M iflag=nocache 2>/dev/null; "
      "echo changed >>many/2/2; rm -r many/3; mv big bigger; chmod 600 many/4/4; mkdir many/3; "
      "cp -a many/5 copy; sync -f . 2>/dev/null; timeout 0.01 cat bigger many/6/* >/dev/null; ls "
      "..";
  const auto run = [&](const View& view, const std::string& name,
                       const std::function<void(const std::string&)>& mounted) {
    const std::string dir = trees.path(name);
    std::filesystem::create_directories(dir + "/lower");
    mounted(dir + "/lower");
    const Overlay overlay = must(Overlay::mount(dir + "/lower", dir, must(view.root()).entry));
    (void)::system(("cd " + overlay.root() + " && " + script + " >/dev/null").c_str());
  };

  const View mounted_view = trees.view();
  std::unique_ptr<Session> mounted;
  run(mounted_view, "mounted", [&](const std::string& lower) {
    mounted = must(Session::start(mounted_view, trees.store(), lower, {}));
  });
  mounted->stop();

  const View relayed_view = trees.view();
  std::unique_ptr<Session> relayed;
  std::optional<KernelRelay> kernel;
  int ends[2];
  must_be_zero(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), "socketpair");
  Fd stream(ends[0]);
  run(relayed_view, "relayed", [&](const std::string& lower) {
    relayed = must(Session::start_relay(relayed_view, trees.store(), Fd(ends[1]), {}));
    kernel.emplace(lower, std::move(stream));
  });
  relayed->stop();
  kernel.reset();

  EXPECT_FALSE(mounted->failure()) << mounted->failure()->reason;
  EXPECT_FALSE(relayed->failure()) << relayed->failure()->reason;
  EXPECT_GT(relayed->trace().observations.size(), 300U);
  EXPECT_EQ(text_of(mounted->trace()), text_of(relayed->trace()));
}

}  // namespace
}  // namespace hm::fs
