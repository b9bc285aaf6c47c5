// One upper as a directory and as an archive of it: the same layer. And archives that nobody's
// UpperWriter writes: refused, with nothing left behind.
#include "fs/upper_archive.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>

#include <functional>

#include "fs/overlay.h"
#include "fs/session.h"
#include "fs/upper_writer.h"
#include "fuse_main.h"
#include "test_support.h"

namespace hm::fs {
namespace {

using namespace test;  // NOLINT: a test file

constexpr std::int64_t kSecond = 1'000'000'000;

// Gives the bytes of `text` in pieces of at most `piece`.
ArchiveSource source_of(std::string text, std::size_t piece = SIZE_MAX) {
  return [text = std::move(text), piece,
          at = std::size_t{0}](std::span<char> buffer) mutable -> Result<std::size_t> {
    const std::size_t size = std::min({buffer.size(), piece, text.size() - at});
    text.copy(buffer.data(), size, at);
    at += size;
    return size;
  };
}

std::string archive_of(const std::string& upper) {
  std::string out;
  const std::string error = write_upper(upper, [&](const char* data, std::size_t size) {
    out.append(data, size);
    return true;
  });
  if (!error.empty()) throw std::runtime_error(error);
  return out;
}

// --- archives made by hand
// ------------------------------------------------------------------------

struct Item {
  char type = '0';
  std::string path;
  std::string data{};
  std::string link{};
  std::string records{};  // more of the extended header
  unsigned mode = 0644;
  unsigned major = 0, minor = 0;
  std::string size{};  // what the header says, "" the truth
  std::string owner = "0";
  std::string header_size{};  // ustar's own
};

std::string record(const std::string& key, const std::string& value) {
  const std::size_t rest = key.size() + value.size() + 3;
  std::size_t length = rest + 1;
  while (std::to_string(length).size() + rest != length) {
    length = std::to_string(length).size() + rest;
  }
  return std::to_string(length) + " " + key + "=" + value + "\n";
}

std::string padded(std::string text) {
  text.resize((text.size() + 511) / 512 * 512, '\0');
  return text;
}

std::string block(char type, unsigned mode, const std::string& size, unsigned device_major = 0,
                  unsigned device_minor = 0, const std::string& name = "entry") {
  std::string out(512, '\0');
  const auto put = [&](std::size_t at, const std::string& text) {
    out.replace(at, text.size(), text);
  };
  const auto octal = [](unsigned value) {
    char text[12];
    std::snprintf(text, sizeof text, "%07o", value);
    return std::string(text);
  };
  put(0, name);
  put(100, octal(mode));
  put(108, octal(0));
  put(116, octal(0));
  put(124, size);
  put(136, "00000000000");
  put(148, std::string(8, ' '));
  out[156] = type;
  if (type == '1' || type == '2') put(157, "link");
  put(257, std::string("ustar\00000", 8));
  put(329, octal(device_major));
  put(337, octal(device_minor));
  unsigned sum = 0;
  for (const char c : out) sum += static_cast<unsigned char>(c);
  put(148, octal(sum).substr(1) + '\0');
  return out;
}

std::string octal_size(std::size_t size) {
  char text[16];
  std::snprintf(text, sizeof text, "%011zo", size);
  return text;
}

std::string entry(const Item& item) {
  std::string header = record("hdrcharset", "BINARY") + record("path", item.path) +
                       record("uid", item.owner) + record("gid", "0") +
                       record("mtime", "1700000000.000000001");
  if (!item.link.empty()) header += record("linkpath", item.link);
  if (item.type == '0') {
    header += record("size", item.size.empty() ? std::to_string(item.data.size()) : item.size);
  }
  header += item.records;
  const std::string size =
      item.header_size.empty() ? octal_size(item.data.size()) : item.header_size;
  return block('x', 0, octal_size(header.size())) + padded(header) +
         block(item.type, item.mode, size, item.major, item.minor) + padded(item.data);
}

std::string root_entry() { return entry({.type = '5', .path = ".", .mode = 0755}); }
std::string archive_end() { return std::string(1024, '\0'); }
std::string whole(const std::string& entries) { return root_entry() + entries + archive_end(); }
std::string file(const std::string& path, const std::string& data = "data") {
  return entry({.path = path, .data = data});
}

// --- archives of an upper
// ---------------------------------------------------------------------------

class ArchiveTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(upper());
    must_be_zero(::chmod(upper().c_str(), 0755), "chmod");
    must_be_zero(::chmod(trees_.image().c_str(), 0755), "chmod");
    write_file(trees_.image("gone"), "lower");
    write_file(trees_.image("kept"), "lower");
    write_file(trees_.image("dir/a"), "lower");
    write_file(trees_.image("dir/b"), "lower");
  }
  std::string upper() const { return trees_.path("upper"); }
  std::string upper(const std::string& path) const { return upper() + "/" + path; }
  void xattr(const std::string& path, const char* name, std::string_view value) const {
    must_be_zero(::lsetxattr(upper(path).c_str(), name, value.data(), value.size(), 0), name);
  }
  void set_time(const std::string& path, std::int64_t ns) const {
    std::int64_t seconds = ns / kSecond, rest = ns % kSecond;
    if (rest < 0) {
      rest += kSecond;
      seconds -= 1;
    }
    const timespec times[2] = {{0, UTIME_NOW}, {seconds, rest}};
    must_be_zero(::utimensat(AT_FDCWD, upper(path).c_str(), times, AT_SYMLINK_NOFOLLOW), path);
  }
  View view(std::vector<ViewLayer> layers = {}) {
    return {ViewBase{trees_.image_source(), nullptr}, std::move(layers), now_ns()};
  }
  StepTimes times() const { return {started_ns_, SeenTimes(seen_), ended_ns_}; }
  Result<std::shared_ptr<const Layer>> capture(const ArchiveSource& source,
                                               const ArchiveLimits& limits = {}) {
    const View below = view(layers_);
    return capture_archive(source, below, times(), trees_.store().scratch(), trees_.store().blobs(),
                           limits);
  }
  // Captures the upper both ways, the archive in pieces of `piece`.
  std::shared_ptr<const Layer> expect_same(std::size_t piece = SIZE_MAX) {
    const auto from_archive = must(capture(source_of(archive_of(upper()), piece)));
    const View below = view(layers_);
    const auto from_directory =
        must(capture_upper(upper(), below, times(), trees_.store().blobs()));
    EXPECT_EQ(from_archive->encode(), from_directory->encode());
    EXPECT_EQ(from_archive->encode_mtimes(), from_directory->encode_mtimes());
    EXPECT_TRUE(Layer::decode(from_archive->encode(), from_archive->encode_mtimes()));
    for (const LayerEntry& item : from_archive->entries()) {
      if (item.whiteout || item.entry.kind != EntryKind::kFile) continue;
      EXPECT_EQ(must(trees_.store().blobs().read(item.content)).size(), item.entry.size);
    }
    return from_archive;
  }
  // Every file of the store and the scratch.
  std::vector<std::string> stored() const {
    std::vector<std::string> out;
    for (const auto& item : std::filesystem::recursive_directory_iterator(trees_.path("store"))) {
      if (item.path().filename().string().starts_with("hm.db")) continue;
      out.push_back(item.path().string());
    }
    std::sort(out.begin(), out.end());
    return out;
  }

  Trees trees_;
  std::vector<ViewLayer> layers_;
  std::optional<std::int64_t> ended_ns_ = now_ns() + 60 * kSecond;
  std::int64_t started_ns_ = now_ns() - kSecond;
  std::vector<SeenTime> seen_;
};

TEST_F(ArchiveTest, NothingWrittenIsAnEmptyLayer) { EXPECT_TRUE(expect_same()->entries().empty()); }

TEST_F(ArchiveTest, FilesOfAllSizes) {
  for (const std::size_t size : {0, 1, 511, 512, 513, 1 << 18, (1 << 18) + 1, 3 << 20}) {
    write_file(upper("d/" + std::to_string(size)), std::string(size, 'x'));
  }
  EXPECT_EQ(expect_same()->entries().size(), 10U);
}

TEST_F(ArchiveTest, PiecesOfAnySize) {
  write_file(upper("d/f"), "text");
  write_file(upper("g"), std::string(3000, 'g'));
  for (const std::size_t piece : {1, 7, 511, 512, 513}) {
    const auto layer = must(capture(source_of(archive_of(upper()), piece)));
    EXPECT_EQ(layer->find("g")->content, Digest::of(std::string(3000, 'g'))) << piece;
  }
}

TEST_F(ArchiveTest, ModesOwnersAndNames) {
  write_file(upper("set id"), "x", 06755);
  if (::geteuid() == 0) {
    must_be_zero(::chown(upper("set id").c_str(), 4'000'000'000U, 3'000'000'000U), "chown");
    must_be_zero(::chmod(upper("set id").c_str(), 06755), "chmod");
  }
  write_file(upper("\xff\xfe\n=%25\t"), "bytes");
  write_file(upper(std::string(255, 'n') + "/" + std::string(255, 'm')), "long");
  std::filesystem::create_directories(upper("sticky"));
  must_be_zero(::chmod(upper("sticky").c_str(), 01777), "chmod");
  const auto layer = expect_same();
  EXPECT_EQ(layer->find("set id")->entry.mode, 06755U);
  EXPECT_NE(layer->find("\xff\xfe\n=%25\t"), nullptr);
}

TEST_F(ArchiveTest, TimesToTheNanosecondAndBeforeTheEpoch) {
  const std::int64_t now = now_ns();
  const std::int64_t moments[] = {now,      now + 1,          499'162'500 * kSecond + 7, 1, 0, -1,
                                  -kSecond, -3 * kSecond / 2, 4'000'000'000 * kSecond};
  int i = 0;
  for (const std::int64_t moment : moments) {
    const std::string path = "f" + std::to_string(i++);
    write_file(upper(path), "x");
    set_time(path, moment);
  }
  const auto layer = expect_same();
  EXPECT_EQ(layer->find("f0")->time_of, TimeOf::kRun);
  EXPECT_EQ(layer->find("f7")->mtime_ns, -3 * kSecond / 2);
  EXPECT_EQ(layer->find("f7")->time_of, TimeOf::kKept);
}

TEST_F(ArchiveTest, TimesThatTheStepTook) {
  LayerEntry older = file_entry("old", "old");
  older.mtime_ns = now_ns() - 5 * kSecond;
  layers_ = {view_layer({older}, older.mtime_ns - 1, older.mtime_ns + 1)};
  seen_ = {{600 * kSecond + 5, "dir/copied", Digest::of("x").hex(), true},
           {700 * kSecond + 5, "link", "target", true}};
  write_file(upper("copy"), "x");
  set_time("copy", 600 * kSecond + 5);
  write_file(upper("old"), "new");
  set_time("old", older.mtime_ns);
  std::filesystem::create_symlink("target", upper("symlink"));
  set_time("symlink", 700 * kSecond + 5);
  const auto layer = expect_same();
  EXPECT_EQ(layer->find("copy")->time_path, "dir/copied");
  EXPECT_EQ(layer->find("old")->time_path, "old");
  EXPECT_EQ(layer->find("symlink")->time_path, "link");
}

// A guest's clock runs ahead of ours.
TEST_F(ArchiveTest, TimesAreOnTheClockOfTheStep) {
  started_ns_ = now_ns() + 1000 * kSecond;
  const std::int64_t end = started_ns_ + 10 * kSecond;
  ended_ns_ = end;
  write_file(upper("written"), "x");
  set_time("written", started_ns_ + kSecond);
  write_file(upper("later"), "x");
  set_time("later", end + 1);
  const auto layer = expect_same();
  EXPECT_EQ(layer->find("written")->time_of, TimeOf::kRun);
  EXPECT_EQ(layer->find("later")->time_of, TimeOf::kKept);
}

TEST_F(ArchiveTest, ArchiveSaysWhenTheStepEnded) {
  const std::int64_t ahead = now_ns() / kSecond + 1000;
  const auto made = [&](std::int64_t seconds) {
    const std::string root =
        entry({.type = '5',
               .path = ".",
               .records = record("atime", std::to_string(ahead + 5) + ".000000000"),
               .mode = 0755});
    return root + entry({.path = "f", .records = record("mtime", std::to_string(seconds) + ".5")}) +
           archive_end();
  };
  ended_ns_.reset();
  EXPECT_EQ(must(capture(source_of(made(ahead))))->find("f")->time_of, TimeOf::kRun);
  EXPECT_EQ(must(capture(source_of(made(ahead + 5))))->find("f")->time_of, TimeOf::kKept);
}

TEST_F(ArchiveTest, AttributesOfAnyNameAndValue) {
  write_file(upper("f"), "x");
  std::filesystem::create_directories(upper("d"));
  xattr("f", "user.empty", "");
  xattr("f", "user.zeros", std::string_view("\0=\n\0", 4));
  xattr("f", "user.a=b%3Dc%25", "escaped");
  xattr("f", "user.overlay.overlay.opaque", "y");
  xattr("f", "user.overlay.origin", "dropped");
  xattr("d", "user.dir", std::string(2000, 'v'));
  const auto layer = expect_same();
  EXPECT_EQ(layer->find("f")->entry.xattrs, (Xattrs{{"user.a=b%3Dc%25", "escaped"},
                                                    {"user.empty", ""},
                                                    {"user.overlay.opaque", "y"},
                                                    {"user.zeros", std::string("\0=\n\0", 4)}}));
  EXPECT_FALSE(layer->find("f")->opaque);
}

TEST_F(ArchiveTest, OpaqueDirectories) {
  for (const char* path : {"dir", "new"}) {
    std::filesystem::create_directories(upper(path));
    xattr(path, "user.overlay.opaque", "y");
  }
  const auto layer = expect_same();
  EXPECT_TRUE(layer->find("dir")->opaque);
}

TEST_F(ArchiveTest, DirectoriesThatOnlyRepeatTheViewAreDropped) {
  std::filesystem::create_directories(upper("dir"));
  std::filesystem::create_directories(trees_.image("other/deep"));
  std::filesystem::create_directories(upper("other/deep"));
  write_file(upper("other/new"), "");
  for (const auto& root : {upper(), trees_.image()}) {
    for (const char* path : {"/dir", "/other", "/other/deep"}) {
      must_be_zero(::chmod((root + path).c_str(), 0755), path);
    }
  }
  const auto layer = expect_same();
  EXPECT_EQ(layer->find("dir"), nullptr);
  EXPECT_EQ(layer->find("other/deep"), nullptr);
  EXPECT_NE(layer->find("other/new"), nullptr);
}

TEST_F(ArchiveTest, SpecialFilesAndLinks) {
  must_be_zero(::mkfifo(upper("fifo").c_str(), 0640), "mkfifo");
  must_be_zero(::link(upper("fifo").c_str(), upper("z-fifo").c_str()), "link");
  std::filesystem::create_symlink("to/where", upper("link"));
  must_be_zero(::linkat(AT_FDCWD, upper("link").c_str(), AT_FDCWD, upper("m-link").c_str(), 0),
               "linkat");
  write_file(upper("one/x"), "linked", 0600);
  must_be_zero(::link(upper("one/x").c_str(), upper("a").c_str()), "link");
  must_be_zero(::link(upper("one/x").c_str(), upper("one/y").c_str()), "link");
  const Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  upper("socket").copy(address.sun_path, sizeof address.sun_path - 1);
  must_be_zero(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), "bind");
  const auto layer = expect_same();
  EXPECT_EQ(layer->find("socket")->entry.kind, EntryKind::kSocket);
  EXPECT_EQ(layer->find("one/y")->entry.link_group, "a");
  EXPECT_EQ(layer->find("one/y")->entry.nlink, 3U);
  EXPECT_EQ(layer->find("m-link")->entry.link_group, "link");
}

TEST_F(ArchiveTest, DeeperThanAPathCanName) {
  Fd dir = must(open_file(upper(), O_RDONLY | O_DIRECTORY));
  const std::string name(200, 'n');
  for (int i = 0; i < 30; ++i) {
    must_be_zero(::mkdirat(dir.get(), name.c_str(), 0755), "mkdirat");
    dir = must(open_at(dir.get(), name, O_RDONLY | O_DIRECTORY));
  }
  must(write_all(must(open_at(dir.get(), "file", O_WRONLY | O_CREAT, 0644)).get(), "deep"));
  EXPECT_EQ(expect_same()->entries().size(), 32U);
  must(remove_tree(AT_FDCWD, upper()));
}

TEST_F(ArchiveTest, TheSandboxsOwnPathsAreDropped) {
  write_file(upper("dev/null"), "x");
  write_file(upper("run/pid"), "1");
  write_file(upper("etc/resolv.conf"), "nameserver");
  write_file(upper("etc/mine"), "m");
  EXPECT_EQ(expect_same()->entries().size(), 3U);
}

// Devices and whiteouts by hand need mknod.
class DeviceTest : public ArchiveTest {
 protected:
  void SetUp() override {
    ArchiveTest::SetUp();
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: whiteouts are devices";
    if (::mknod(upper("probe").c_str(), S_IFCHR, 0) != 0) {
      GTEST_SKIP() << "mknod is not allowed here";
    }
    std::filesystem::remove(upper("probe"));
  }
};

TEST_F(DeviceTest, WhiteoutsAndDevices) {
  must_be_zero(::mknod(upper("gone").c_str(), S_IFCHR, 0), "mknod");
  std::filesystem::create_directories(upper("dir"));
  must_be_zero(::link(upper("gone").c_str(), upper("dir/a").c_str()), "link");
  must_be_zero(::mknod(upper("null").c_str(), S_IFCHR | 0666, makedev(1, 3)), "mknod");
  must_be_zero(::mknod(upper("disk").c_str(), S_IFBLK | 0660, makedev(0xabc, 0xfffff)), "mknod");
  const auto layer = expect_same();
  EXPECT_TRUE(layer->find("gone")->whiteout);
  EXPECT_TRUE(layer->find("dir/a")->whiteout);
  EXPECT_EQ(layer->find("disk")->entry.rdev, makedev(0xabc, 0xfffff));
}

TEST_F(DeviceTest, RandomUppers) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    std::filesystem::remove_all(upper());
    std::filesystem::create_directories(upper());
    std::vector<std::string> dirs = {""}, files;
    for (int i = 0; i < 40; ++i) {
      const std::string& dir = random.pick(dirs);
      const std::string names[] = {"a", "a-", "a.b", "gone", "kept", "dir", "b", "etc", "dev", "z"};
      const std::string path = join_path(dir, names[random.below(std::size(names))]);
      if (exists(upper(path))) continue;
      switch (random.below(6)) {
        case 0:
          std::filesystem::create_directories(upper(path));
          if (random.chance(30)) xattr(path, "user.overlay.opaque", "y");
          must_be_zero(::chmod(upper(path).c_str(), random.chance(50) ? 0755 : 0700), path);
          dirs.push_back(path);
          break;
        case 1:
          std::filesystem::create_symlink("x" + std::to_string(i), upper(path));
          break;
        case 2:
          if (files.empty() || is_within(path, "dev")) break;  // which is mounted over
          must_be_zero(::link(upper(random.pick(files)).c_str(), upper(path).c_str()), path);
          break;
        case 3:
          if (dir.empty() && (path == "gone" || path == "kept")) {
            must_be_zero(::mknod(upper(path).c_str(), S_IFCHR, 0), path);
          }
          break;
        default:
          write_file(upper(path), std::string(random.below(2000), 'f'));
          if (random.chance(30)) xattr(path, "user.some", std::to_string(i));
          if (random.chance(30)) set_time(path, static_cast<std::int64_t>(random.below(1) + 77));
          if (!is_within(path, "dev")) files.push_back(path);
      }
    }
    expect_same(random.chance(50) ? 100 + random.below(5000) : SIZE_MAX);
  }
}

// What overlayfs itself leaves, whiteouts included, is no error.
TEST_F(ArchiveTest, UpperOfARealOverlay) {
  if (test::kThreadSanitizer) GTEST_SKIP() << "ThreadSanitizer cannot follow a vfork";
  if (!can_mount()) GTEST_SKIP() << kCannotMount;
  std::filesystem::create_directories(trees_.image("many/deep"));
  write_file(trees_.image("many/deep/file"), "x");
  write_file(trees_.image("many/x"), "x");
  const View below = view();
  const std::string dir = trees_.path("step");
  std::filesystem::create_directories(dir + "/lower");
  const auto session = must(Session::start(below, trees_.store(), dir + "/lower", {}));
  std::string archive;
  {
    const Overlay overlay = must(Overlay::mount(dir + "/lower", dir, must(below.root()).entry));
    const std::string root = overlay.root() + "/";
    const std::string script =
        "cd " + root +
        " && rm gone && mv kept moved && rm -r dir && mkdir dir && echo x >dir/b && rm dir/b && "
        "rm -r many/deep && echo y >many/deep && mv many/x many/y && echo z >many/x && rm many/x "
        "&& mkdir many/x && ln moved linked && chmod 700 many && mkfifo p && touch -d 2001-01-01 o";
    must_be_zero(::system(script.c_str()), script);
    archive = archive_of(overlay.upper());
  }
  session->stop();
  std::filesystem::remove(upper());
  std::filesystem::rename(dir + "/upper", upper());
  const auto from_archive = must(capture_archive(source_of(archive), below, times(),
                                                 trees_.store().scratch(), trees_.store().blobs()));
  const auto from_directory = must(capture_upper(upper(), below, times(), trees_.store().blobs()));
  EXPECT_EQ(from_archive->encode(), from_directory->encode());
  EXPECT_TRUE(from_archive->find("gone")->whiteout);
  EXPECT_TRUE(from_archive->find("dir")->opaque);
}

// --- archives that are refused
// ---------------------------------------------------------------------

struct Hostile {
  const char* name;
  const char* reason;
  std::function<std::string()> archive;
};
std::ostream& operator<<(std::ostream& out, const Hostile& item) { return out << item.name; }

// Each has a good file first, which must not be left either.
const std::string kGood = file("0");

const Hostile kHostile[] = {
    {"Nothing", "not a tar archive", [] { return std::string(); }},
    {"Garbage", "not a tar archive", [] { return std::string(10000, 'g'); }},
    {"OnlyAnEnd", "is empty", archive_end},
    {"ParentDirectory", "not a path", [] { return whole(kGood + file("../escaped")); }},
    {"ParentDirectoryInside", "not a path", [] { return whole(kGood + file("a/../../x")); }},
    {"AbsolutePath", "not a path", [] { return whole(kGood + file("/etc/passwd")); }},
    {"DotInside", "not a path", [] { return whole(kGood + file("a/./b")); }},
    {"TrailingSlash", "not a path", [] { return whole(kGood + file("a/")); }},
    {"DoubleSlash", "not a path", [] { return whole(kGood + file("a//b")); }},
    {"RootTwice", "not a path", [] { return whole(kGood + root_entry()); }},
    {"NoRoot", "not a path", [] { return kGood + archive_end(); }},
    {"RootIsAFile", "the root is no directory",
     [] { return entry({.path = ".", .data = "x"}) + archive_end(); }},
    {"NameThatIsTooLong", "not a path", [] { return whole(kGood + file(std::string(256, 'n'))); }},
    {"PathThatIsTooLong", "not a path",
     [] {
       std::string path = "n";
       while (path.size() < 70000) path += "/n";
       return whole(kGood + file(path));
     }},
    {"SamePathTwice", "twice", [] { return whole(kGood + file("a") + file("a")); }},
    {"NotSorted", "not in order", [] { return whole(kGood + file("b") + file("a")); }},
    {"NoParent", "does not have", [] { return whole(kGood + file("a/b")); }},
    {"ParentIsAFile", "does not have", [] { return whole(kGood + file("a") + file("a/b")); }},
    {"ParentIsALink", "does not have",
     [] {
       return whole(kGood + entry({.type = '2', .path = "a", .link = "/etc"}) + file("a/passwd"));
     }},
    {"LinkToTheOutside", "a link to what",
     [] { return whole(kGood + entry({.type = '1', .path = "a", .link = "../../etc/passwd"})); }},
    {"LinkToNothing", "a link to what",
     [] { return whole(kGood + entry({.type = '1', .path = "a", .link = "b"}) + file("b")); }},
    {"LinkToItself", "a link to what",
     [] { return whole(kGood + entry({.type = '1', .path = "a", .link = "a"})); }},
    {"LinkToADirectory", "a link to what",
     [] {
       return whole(kGood + entry({.type = '5', .path = "a"}) +
                    entry({.type = '1', .path = "b", .link = "a"}));
     }},
    {"LinkToAWhiteout", "a link to what",
     [] {
       return whole(kGood + entry({.type = '3', .path = "gone"}) +
                    entry({.type = '1', .path = "h", .link = "gone"}));
     }},
    {"LinkToTheSandboxsOwn", "a link to what",
     [] {
       return whole(kGood + entry({.type = '5', .path = "dev"}) + file("dev/x") +
                    entry({.type = '1', .path = "h", .link = "dev/x"}));
     }},
    {"LinkWithData", "something else",
     [] { return whole(kGood + entry({.type = '1', .path = "a", .data = "x", .link = "0"})); }},
    {"SymlinkWithALongTarget", "bad target",
     [] {
       return whole(kGood + entry({.type = '2', .path = "a", .link = std::string(4096, 't')}));
     }},
    {"WhiteoutOfNothing", "was not there",
     [] { return whole(kGood + entry({.type = '3', .path = "never"})); }},
    {"WhiteoutBelowAnOpaqueDirectory", "was not there",
     [] {
       return whole(kGood +
                    entry({.type = '5',
                           .path = "dir",
                           .records = record("SCHILY.xattr.user.overlay.opaque", "y")}) +
                    entry({.type = '3', .path = "dir/a"}));
     }},
    {"BlockDeviceZero", "bad device",
     [] { return whole(kGood + entry({.type = '4', .path = "a"})); }},
    {"DeviceWithAbsurdNumbers", "bad device",
     [] { return whole(kGood + entry({.type = '3', .path = "a", .major = 0x1000, .minor = 1})); }},
    {"OwnerBelowZero", "bad owner",
     [] { return whole(kGood + entry({.path = "a", .owner = "-1"})); }},
    {"OwnerThatIsNone", "bad owner",
     [] { return whole(kGood + entry({.path = "a", .owner = "4294967295"})); }},
    {"OwnerOfMoreThanThirtyTwoBits", "bad owner",
     [] { return whole(kGood + entry({.path = "a", .owner = "4294967296"})); }},
    {"AttributeTwice", "an attribute twice",
     [] {
       return whole(kGood + entry({.path = "a",
                                   .records = record("SCHILY.xattr.user.x", "1") +
                                              record("SCHILY.xattr.user.x", "2")}));
     }},
    {"AttributeWithALongName", "a bad attribute",
     [] {
       return whole(kGood +
                    entry({.path = "a",
                           .records = record("SCHILY.xattr.user." + std::string(251, 'x'), "1")}));
     }},
    {"AttributeWithALongValue", "a bad attribute",
     [] {
       return whole(
           kGood +
           entry({.path = "a", .records = record("SCHILY.xattr.user.x", std::string(65537, 'v'))}));
     }},
    {"HeaderOfMegabytes", "not a tar archive",
     [] { return whole(kGood + block('x', 0, octal_size(2 << 20)) + std::string(2 << 20, 'x')); }},
    {"SocketThatIsADirectory", "a socket",
     [] {
       return whole(
           kGood +
           entry({.type = '5', .path = "a", .records = record("SCHILY.xattr.hm.socket", "y")}));
     }},
    {"SocketWithData", "bad size",
     [] {
       return whole(
           kGood +
           entry({.path = "a", .data = "x", .records = record("SCHILY.xattr.hm.socket", "y")}));
     }},
    {"SparseFile", "",
     [] {
       return whole(kGood + entry({.path = "a",
                                   .data = "x",
                                   .records = record("GNU.sparse.size", "1000000000000") +
                                              record("GNU.sparse.numblocks", "1") +
                                              record("GNU.sparse.offset", "999999999999") +
                                              record("GNU.sparse.numbytes", "1")}));
     }},
    {"SparseFileOfTheNewKind", "",
     [] {
       return whole(kGood + entry({.path = "a",
                                   .data = "1\n0\n1\n" + std::string(506, '\0') + "x",
                                   .records = record("GNU.sparse.major", "1") +
                                              record("GNU.sparse.minor", "0") +
                                              record("GNU.sparse.name", "../escaped") +
                                              record("GNU.sparse.realsize", "1000000000000")}));
     }},
    {"RealSizeThatIsNone", "",
     [] {
       return whole(
           kGood + entry({.path = "a", .data = "x", .records = record("SCHILY.realsize", "1000")}));
     }},
    {"AccessControlList", "lists",
     [] {
       return whole(kGood + entry({.path = "a",
                                   .records = record("SCHILY.acl.access",
                                                     "user::rw-,user:1:rw-,group::r--,mask::rw-,"
                                                     "other::r--")}));
     }},
    {"Flags", "flags",
     [] {
       return whole(kGood + entry({.path = "a", .records = record("SCHILY.fflags", "immutable")}));
     }},
    {"SizeBelowZero", "not a tar archive",
     [] { return whole(kGood + entry({.path = "a", .size = "-5"})); }},
    {"SizeOfExabytes", "more bytes",
     [] { return whole(kGood + entry({.path = "a", .size = "9000000000000000000"})); }},
    {"SizeBeyondTheEnd", "not a tar archive",
     [] { return whole(kGood + entry({.path = "a", .data = "x", .size = "100000"})); }},
    {"LinkWithoutTarget", "",
     [] {
       const std::string header = record("hdrcharset", "BINARY") + record("path", "a");
       std::string bare = block('0', 0, octal_size(0));
       bare[156] = '1';  // one more than '0'
       bare[153] = static_cast<char>(bare[153] + 1);
       return whole(kGood + block('x', 0, octal_size(header.size())) + padded(header) + bare);
     }},
    {"DirectoryWithData", "",
     [] { return whole(kGood + entry({.type = 'D', .path = "a", .data = "x"})); }},
    {"WrongChecksum", "not a tar archive",
     [] {
       std::string last = file("a");
       last[last.size() - 1024 + 5] = 'Z';
       return whole(kGood + last);
     }},
    {"NotInPaxFormat", "pax",
     [] { return block('5', 0755, octal_size(0), 0, 0, ".") + archive_end(); }},
    {"CutInAHeader", "not a tar archive",
     [] { return whole(kGood).substr(0, root_entry().size() + 700); }},
    {"CutInAFile", "not a tar archive",
     [] { return (root_entry() + file("a", std::string(5000, 'a'))).substr(0, 5000); }},
    {"CutBetweenEntries", "too early", [] { return root_entry() + kGood; }},
    {"CutInTheEnd", "too early", [] { return root_entry() + kGood + std::string(512, '\0'); }},
    {"BytesBehindTheEnd", "after the end", [] { return whole(kGood) + file("a"); }},
    {"SecondArchiveBehindTheFirst", "after the end", [] { return whole(kGood) + whole(kGood); }},
};

class HostileArchive : public ArchiveTest, public ::testing::WithParamInterface<Hostile> {};

TEST_P(HostileArchive, IsRefusedAndLeavesNothing) {
  const auto before = stored();
  const auto layer = capture(source_of(GetParam().archive()));
  ASSERT_FALSE(layer);
  EXPECT_EQ(layer.error().code, ErrorCode::kInvalid) << layer.error().message;
  EXPECT_NE(layer.error().message.find(GetParam().reason), std::string::npos)
      << layer.error().message;
  EXPECT_EQ(layer.error().message.find('\n'), std::string::npos);
  EXPECT_EQ(stored(), before);
}

INSTANTIATE_TEST_SUITE_P(Archive, HostileArchive, ::testing::ValuesIn(kHostile),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_F(ArchiveTest, TheSameByHandIsGood) {
  const auto layer = must(capture(source_of(whole(
      kGood + entry({.type = '5', .path = "a", .mode = 0755}) + file("a/b") + file("a-") +
      entry({.type = '3', .path = "gone"}) + entry({.type = '1', .path = "h", .link = "a/b"})))));
  EXPECT_EQ(layer->find("h")->entry.link_group, "a/b");
  EXPECT_EQ(layer->find("a/b")->content, Digest::of("data"));
  EXPECT_TRUE(layer->find("gone")->whiteout);
}

TEST_F(ArchiveTest, LimitsHold) {
  const auto before = stored();
  std::string many;
  for (int i = 100; i < 200; ++i) many += file(std::to_string(i), std::string(100, 'x'));
  const auto refused = [&](const ArchiveLimits& limits) {
    const auto layer = capture(source_of(whole(many)), limits);
    return layer ? "" : layer.error().message;
  };
  EXPECT_NE(refused({.entries = 100}).find("more entries"), std::string::npos);
  EXPECT_NE(refused({.bytes = 9999}).find("more bytes"), std::string::npos);
  EXPECT_NE(refused({.names = 299}).find("more names"), std::string::npos);
  EXPECT_EQ(stored(), before);
  EXPECT_EQ(refused({.entries = 101, .bytes = 10000, .names = 300}), "");
}

TEST_F(ArchiveTest, LimitsHoldForWhatIsDropped) {
  const std::string dropped =
      entry({.type = '5', .path = "dev"}) + file("dev/x", std::string(100, 'x'));
  const auto layer = capture(source_of(whole(dropped)), {.bytes = 99});
  ASSERT_FALSE(layer);
  EXPECT_NE(layer.error().message.find("more bytes"), std::string::npos);
}

TEST_F(ArchiveTest, ErrorsOfTheSourceAreItsOwn) {
  const auto before = stored();
  const std::string all = whole(file("a", std::string(100000, 'a')));
  for (const std::size_t until : {std::size_t{0}, std::size_t{1000}, std::size_t{50000}}) {
    auto good = source_of(all.substr(0, until), 512);
    const auto layer = capture([&](std::span<char> buffer) -> Result<std::size_t> {
      HM_ASSIGN(const std::size_t got, good(buffer));
      if (got == 0) return fail(ErrorCode::kCancelled, "stopped");
      return got;
    });
    ASSERT_FALSE(layer);
    EXPECT_EQ(layer.error().code, ErrorCode::kCancelled) << until << layer.error().message;
  }
  EXPECT_EQ(stored(), before);
}

// The stream stays open behind the end: nothing more may be asked of it.
TEST_F(ArchiveTest, NothingIsReadBehindTheEnd) {
  auto good = source_of(whole(kGood), 512);
  const std::size_t size = whole(kGood).size();
  std::size_t given = 0;
  must(capture([&](std::span<char> buffer) -> Result<std::size_t> {
    if (given == size) return fail(ErrorCode::kIo, "it waits for what never comes");
    HM_ASSIGN(const std::size_t got, good(buffer));
    given += got;
    return got;
  }));
  EXPECT_EQ(given, size);
}

TEST_F(ArchiveTest, WriterSaysWhatItCannotRead) {
  write_file(upper("f"), "x");
  EXPECT_EQ(write_upper(upper(), [](const char*, std::size_t) { return false; }),
            "the sink is closed");
  EXPECT_NE(write_upper(upper("none"), [](const char*, std::size_t) { return true; }), "");
}

}  // namespace
}  // namespace hm::fs
