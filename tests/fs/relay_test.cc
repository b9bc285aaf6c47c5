// Relayed sessions against a scripted guest: what a kernel asks is answered, anything else ends the
// session with one line and leaves nothing in its trace.
#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "fake_guest.h"
#include "fs/relay_channel.h"
#include "fs/session.h"

namespace hm::fs {
namespace {

using namespace test;  // NOLINT: a test file
using namespace std::chrono_literals;
using Kind = SessionFailure::Kind;

class RelayTest : public ::testing::Test {
 protected:
  void SetUp() override {
    write_file(trees_.image("d/one"), "1");
    write_file(trees_.image("d/two"), "22");
    write_file(trees_.image("big"), std::string(std::size_t{3} << 20, 'b'));
    std::filesystem::create_symlink("d/one", trees_.image("link"));
    write_file(trees_.workspace("README"), "readme");
  }
  void start(RelayLimits limits = {}, LookupProfile profile = {}) {
    view_.emplace(trees_.view());
    session_ = must(Session::start_relay(*view_, trees_.store(), guest_.take_host_end(), {},
                                         std::move(profile), limits));
  }
  void start_and_init(RelayLimits limits = {}, LookupProfile profile = {}) {
    start(limits, std::move(profile));
    ASSERT_EQ(guest_.init().error, 0);
  }
  std::vector<std::string> observations() {
    std::vector<std::string> out;
    for (const Observation& item : session_->trace().observations) {
      if (item.path.empty() && item.kind == ObservationKind::kProbe) continue;
      out.push_back(std::string(to_string(item.kind)) + " " + item.path +
                    (item.value == "absent" ? " (absent)" : ""));
    }
    return out;
  }
  // The session ends by itself, and says why.
  void expect_end(Kind kind, const std::string& reason) {
    EXPECT_TRUE(guest_.is_closed_within(10s));
    stop_quickly();
    const auto failure = session_->failure();
    ASSERT_TRUE(failure) << reason;
    EXPECT_EQ(failure->kind, kind) << failure->reason;
    EXPECT_NE(failure->reason.find(reason), std::string::npos) << failure->reason;
    EXPECT_EQ(failure->reason.find('\n'), std::string::npos);
  }
  void stop_quickly() {
    const auto began = std::chrono::steady_clock::now();
    session_->stop();
    EXPECT_LT(std::chrono::steady_clock::now() - began, 5s);
  }

  Trees trees_;
  FakeGuest guest_;
  std::optional<View> view_;
  std::unique_ptr<Session> session_;
};

using Lines = std::vector<std::string>;

TEST_F(RelayTest, WhatAKernelAsksIsAnsweredAndRecorded) {
  start_and_init();
  const std::uint64_t dir = guest_.walk("d");
  const std::uint64_t one = guest_.lookup(dir, "one");
  EXPECT_EQ(guest_.getattr(one).size, 1U);
  EXPECT_EQ(guest_.lookup(dir, "none"), 0U);
  EXPECT_EQ(guest_.read(one), "1");
  EXPECT_EQ(guest_.readdir(dir), (Lines{"one", "two"}));
  EXPECT_EQ(guest_.readlink(guest_.walk("link")), "d/one");
  EXPECT_EQ(guest_.read(guest_.walk("workspace/README")), "readme");
  EXPECT_EQ(guest_.call(FUSE_OPEN, one, bytes_of(fuse_open_in{})).error, ENOSYS);
  EXPECT_EQ(guest_.call(FUSE_STATFS, FUSE_ROOT_ID, "").error, 0);
  EXPECT_EQ(guest_.call(FUSE_FLUSH, one, bytes_of(fuse_flush_in{})).error, ENOSYS);
  EXPECT_EQ(guest_.call(52, one, std::string(24, '\0')).error, ENOSYS) << "STATX";
  guest_.request(FUSE_INTERRUPT, 0, bytes_of(fuse_interrupt_in{2}));
  guest_.forget(one);
  guest_.request(FUSE_BATCH_FORGET, 0,
                 bytes_of(fuse_batch_forget_in{1, 0}) + bytes_of(fuse_forget_one{dir, 1}));
  EXPECT_EQ(guest_.call(FUSE_DESTROY, 0, "").error, 0);
  guest_.close();
  session_->wait({});
  stop_quickly();
  EXPECT_FALSE(session_->failure()) << session_->failure()->reason;
  EXPECT_EQ(observations(), (Lines{"list d", "content d/one", "probe link", "probe workspace",
                                   "content workspace/README"}))
      << "d/none is implied by the list";
}

TEST_F(RelayTest, BigFilesComeInPieces) {
  start_and_init();
  const std::uint64_t big = guest_.walk("big");
  std::string all;
  while (all.size() < (std::size_t{3} << 20)) {
    const std::string part = guest_.read(big, all.size(), kRelayTransfer);
    ASSERT_FALSE(part.empty());
    all += part;
  }
  EXPECT_EQ(Digest::of(all), Digest::of(std::string(std::size_t{3} << 20, 'b')));
}

TEST_F(RelayTest, ManyRequestsAtOnce) {
  start_and_init();
  const std::uint64_t dir = guest_.walk("d");
  std::vector<std::uint64_t> asked;
  for (int i = 0; i < 2000; ++i) {
    asked.push_back(guest_.request(FUSE_LOOKUP, dir, name_body(i % 2 == 0 ? "one" : "no")));
  }
  for (int i = 0; i < 2000; ++i) {
    const auto node =
        value_of<fuse_entry_out>(guest_.await(asked[static_cast<std::size_t>(i)]).data);
    EXPECT_EQ(node.nodeid != 0, i % 2 == 0);
  }
  guest_.forget(guest_.lookup(dir, "one"), 1001);
  EXPECT_EQ(guest_.lookup(dir, "two") != 0, true) << "the session goes on";
}

TEST_F(RelayTest, NodesOfReaddirplusAreKnown) {
  Trace expected;
  expected.observations = {{"d", ObservationKind::kList, ""},
                           {"d/one", ObservationKind::kProbe, ""}};
  start_and_init({}, LookupProfile(expected));
  const std::uint64_t dir = guest_.walk("d");
  const std::string data = guest_.call(FUSE_READDIRPLUS, dir, read_body(0, 4096)).data;
  std::map<std::string, std::uint64_t> nodes;
  for (std::size_t at = 0; at < data.size();) {
    const auto entry = value_of<fuse_direntplus>(std::string_view(data).substr(at));
    nodes[data.substr(at + FUSE_NAME_OFFSET_DIRENTPLUS, entry.dirent.namelen)] =
        entry.entry_out.nodeid;
    at += FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + entry.dirent.namelen);
  }
  ASSERT_NE(nodes["one"], 0U);
  EXPECT_EQ(nodes["two"], 0U);
  EXPECT_EQ(guest_.read(nodes["one"]), "1");
  guest_.forget(nodes["one"]);
  guest_.request(FUSE_READ, nodes["one"], read_body(0, 4096));
  expect_end(Kind::kGuest, "READ for node");
}

// --- what no kernel sends -----------------------------------------------------------------------

struct Bad {
  const char* name;
  const char* reason;
  std::function<std::string()> message;  // after INIT; node 1 is the only one known
};
std::ostream& operator<<(std::ostream& out, const Bad& bad) { return out << bad.name; }

std::string read_of(fuse_read_in read) { return bytes_of(read); }
std::string with_header(fuse_in_header header, std::string_view body) {
  header.len = static_cast<std::uint32_t>(sizeof header + body.size());
  return bytes_of(header) + std::string(body);
}

const Bad kBad[] = {
    {"LengthZero", "claims 0 bytes", [] { return std::string(64, '\0'); }},
    {"LengthBelowAHeader", "claims 39 bytes",
     [] { return fuse_request(FUSE_STATFS, 99, 1, "", 39); }},
    {"LengthBeyondAllMessages", "claims 1052673 bytes",
     [] { return fuse_request(FUSE_STATFS, 99, 1, "", kRelayMessage + 1); }},
    {"LengthOfFourGigabytes", "claims 4294967295 bytes",
     [] { return fuse_request(FUSE_STATFS, 99, 1, "", UINT32_MAX); }},
    {"ShortArgument", "READ with 39 bytes",
     [] { return fuse_request(FUSE_READ, 99, 1, read_body(0, 1).substr(1)); }},
    {"LongArgument", "GETATTR with 17 bytes",
     [] { return fuse_request(FUSE_GETATTR, 99, 1, std::string(17, '\0')); }},
    {"ArgumentWhereNoneIs", "READLINK with 1 bytes",
     [] { return fuse_request(FUSE_READLINK, 99, 1, "x"); }},
    {"NoName", "does not end", [] { return fuse_request(FUSE_LOOKUP, 99, 1, ""); }},
    {"EmptyName", "an empty name", [] { return fuse_request(FUSE_LOOKUP, 99, 1, name_body("")); }},
    {"NameWithoutEnd", "does not end", [] { return fuse_request(FUSE_LOOKUP, 99, 1, "name"); }},
    {"NameThatEndsEarly", "does not end",
     [] { return fuse_request(FUSE_LOOKUP, 99, 1, name_body(std::string("a\0b", 3))); }},
    {"NameWithSlash", "no directory can have",
     [] { return fuse_request(FUSE_LOOKUP, 99, 1, name_body("d/one")); }},
    {"NameOfTheParent", "no directory can have",
     [] { return fuse_request(FUSE_LOOKUP, 99, 1, name_body("..")); }},
    {"NameThatIsTooLong", "a name of 1025 bytes",
     [] { return fuse_request(FUSE_LOOKUP, 99, 1, name_body(std::string(1025, 'n'))); }},
    {"NameOfAMegabyte", "a name of 1000000 bytes",
     [] { return fuse_request(FUSE_LOOKUP, 99, 1, name_body(std::string(1000000, 'n'))); }},
    {"AttributeNameWithoutEnd", "does not end",
     [] {
       return fuse_request(FUSE_GETXATTR, 99, 1, bytes_of(fuse_getxattr_in{9, 0}) + "user.x");
     }},
    {"AttributeNameThatIsTooLong", "a name of 256 bytes",
     [] {
       return fuse_request(FUSE_GETXATTR, 99, 1,
                           bytes_of(fuse_getxattr_in{9, 0}) + name_body(std::string(256, 'n')));
     }},
    {"AttributeOfFourGigabytes", "GETXATTR for 4294967295 bytes",
     [] {
       return fuse_request(FUSE_GETXATTR, 99, 1,
                           bytes_of(fuse_getxattr_in{UINT32_MAX, 0}) + name_body("user.x"));
     }},
    {"ReadOfFourGigabytes", "READ for 4294967295 bytes",
     [] { return fuse_request(FUSE_READ, 99, 1, read_body(0, UINT32_MAX)); }},
    {"ReadBeforeTheStart", "at offset",
     [] { return fuse_request(FUSE_READ, 99, 1, read_body(UINT64_MAX, 1)); }},
    {"ReadAcrossTheEndOfNumbers", "at offset",
     [] { return fuse_request(FUSE_READ, 99, 1, read_body(INT64_MAX, 1)); }},
    {"ReaddirOfFourGigabytes", "READDIR for",
     [] { return fuse_request(FUSE_READDIR, 99, 1, read_body(0, UINT32_MAX)); }},
    {"ReaddirplusOfFourGigabytes", "READDIRPLUS for",
     [] { return fuse_request(FUSE_READDIRPLUS, 99, 1, read_body(0, UINT32_MAX)); }},
    {"UnknownHandle", "a file handle",
     [] {
       fuse_read_in read{};
       read.fh = 0x7fff12345678;
       read.size = 1;
       return fuse_request(FUSE_READDIR, 99, 1, read_of(read));
     }},
    {"UnknownHandleOfGetattr", "a file handle",
     [] {
       return fuse_request(FUSE_GETATTR, 99, 1, bytes_of(fuse_getattr_in{1, 0, 7}));
     }},
    {"NodeZero", "for node 0", [] { return fuse_request(FUSE_READLINK, 99, 0, ""); }},
    {"NodeThatWasNotGiven", "for node 2", [] { return fuse_request(FUSE_READLINK, 99, 2, ""); }},
    {"NodeThatIsAPointer", "for node 140737488355327",
     [] { return fuse_request(FUSE_LOOKUP, 99, 0x7fffffffffff, name_body("x")); }},
    {"NodeOfSixtyFourBits", "for node 4294967297",
     [] { return fuse_request(FUSE_READLINK, 99, (std::uint64_t{1} << 32) + 1, ""); }},
    {"ForgetOfUnknown", "FORGET for node 77",
     [] { return fuse_request(FUSE_FORGET, 99, 77, bytes_of(fuse_forget_in{1})); }},
    {"ForgetTooOften", "more often",
     [] { return fuse_request(FUSE_FORGET, 99, 1, bytes_of(fuse_forget_in{2})); }},
    {"BatchForgetTooOften", "more often",
     [] {
       return fuse_request(FUSE_BATCH_FORGET, 99, 0,
                           bytes_of(fuse_batch_forget_in{2, 0}) + bytes_of(fuse_forget_one{1, 1}) +
                               bytes_of(fuse_forget_one{1, 1}));
     }},
    {"BatchForgetOfMoreThanThereAre", "BATCH_FORGET with",
     [] {
       return fuse_request(
           FUSE_BATCH_FORGET, 99, 0,
           bytes_of(fuse_batch_forget_in{UINT32_MAX, 0}) + bytes_of(fuse_forget_one{1, 0}));
     }},
    {"NumberZero", "in use", [] { return fuse_request(FUSE_STATFS, 0, 1, ""); }},
    {"SecondInit", "INIT out of order", [] { return fuse_request(FUSE_INIT, 99, 0, init_body()); }},
    {"RequestAfterDestroy", "out of order",
     [] { return fuse_request(FUSE_DESTROY, 99, 0, "") + fuse_request(FUSE_STATFS, 101, 1, ""); }},
    {"Write", "request 16",
     [] { return fuse_request(FUSE_WRITE, 99, 1, bytes_of(fuse_write_in{}) + "data"); }},
    {"Create", "request 35",
     [] { return fuse_request(FUSE_CREATE, 99, 1, bytes_of(fuse_create_in{}) + name_body("x")); }},
    {"Setattr", "request 4",
     [] { return fuse_request(FUSE_SETATTR, 99, 1, bytes_of(fuse_setattr_in{})); }},
    {"NotifyReply", "request 41", [] { return fuse_request(FUSE_NOTIFY_REPLY, 99, 1, ""); }},
    {"CuseInit", "request 4096", [] { return fuse_request(4096, 99, 1, init_body()); }},
    {"OpcodeFromNowhere", "request 4294967295", [] { return fuse_request(UINT32_MAX, 99, 1, ""); }},
    {"IoctlWithLessThanItSays", "IOCTL with",
     [] {
       fuse_ioctl_in ioctl{};
       ioctl.in_size = 4096;
       return fuse_request(FUSE_IOCTL, 99, 1, bytes_of(ioctl));
     }},
    {"ShortInterrupt", "INTERRUPT with", [] { return fuse_request(FUSE_INTERRUPT, 99, 0, "1"); }},
    {"Extension", "extensions",
     [] {
       fuse_in_header header{};
       header.opcode = FUSE_STATFS;
       header.unique = 99;
       header.nodeid = 1;
       header.total_extlen = 1;
       return with_header(header, "");
     }},
};

class BadMessage : public RelayTest, public ::testing::WithParamInterface<Bad> {};

TEST_P(BadMessage, EndsTheSessionAndLeavesNothing) {
  start_and_init();
  EXPECT_EQ(guest_.lookup(FUSE_ROOT_ID, "none"), 0U);
  // Neither it nor what follows it is served.
  guest_.send(GetParam().message() + fuse_request(FUSE_LOOKUP, 1001, 1, name_body("d")));
  expect_end(Kind::kGuest, GetParam().reason);
  EXPECT_EQ(observations(), Lines{"probe none (absent)"});
}

INSTANTIATE_TEST_SUITE_P(Relay, BadMessage, ::testing::ValuesIn(kBad),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_F(RelayTest, NothingComesBeforeInit) {
  start();
  guest_.request(FUSE_LOOKUP, 1, name_body("d"));
  expect_end(Kind::kGuest, "LOOKUP out of order");
  EXPECT_EQ(observations(), Lines{});
}

TEST_F(RelayTest, NothingComesBeforeTheAnswerToInit) {
  start();
  guest_.send(fuse_request(FUSE_INIT, 2, 0, init_body()) +
              fuse_request(FUSE_INIT, 4, 0, init_body()));
  expect_end(Kind::kGuest, "INIT out of order");
}

TEST_F(RelayTest, InitOfAnotherProtocol) {
  start();
  guest_.request(FUSE_INIT, 0, init_body(26));
  expect_end(Kind::kGuest, "for protocol 7.26");
}

TEST_F(RelayTest, InitThatPromisesMoreThanItHas) {
  start();
  guest_.request(FUSE_INIT, 0, init_body(35).substr(0, 16));
  expect_end(Kind::kGuest, "INIT with 16 bytes");
}

// --- streams that stop, never stop, or are not read ---------------------------------------------

TEST_F(RelayTest, HalfAMessageIsNotWaitedForForever) {
  start_and_init({.patience = 200ms});
  guest_.send(fuse_request(FUSE_LOOKUP, 99, 1, name_body("d")).substr(0, 41));
  expect_end(Kind::kGuest, "in the middle of a message");
  EXPECT_EQ(observations(), Lines{});
}

TEST_F(RelayTest, HalfALengthIsNotWaitedForForever) {
  start_and_init({.patience = 200ms});
  guest_.send("\x28");
  expect_end(Kind::kGuest, "in the middle of a message");
}

TEST_F(RelayTest, SilenceBetweenMessagesIsNoFault) {
  start_and_init({.patience = 100ms});
  std::this_thread::sleep_for(500ms);
  EXPECT_NE(guest_.walk("d"), 0U);
  stop_quickly();
  EXPECT_FALSE(session_->failure());
}

TEST_F(RelayTest, MessagesInSinglesBytesAreMessages) {
  start_and_init();
  for (const char byte : fuse_request(FUSE_LOOKUP, 9999, 1, name_body("d"))) {
    guest_.send(std::string(1, byte));
  }
  EXPECT_NE(value_of<fuse_entry_out>(guest_.await(9999).data).nodeid, 0U);
}

TEST_F(RelayTest, StopsWhileTheGuestIsSilentOrHalfWay) {
  start_and_init();
  guest_.send("\x28");
  stop_quickly();
  EXPECT_FALSE(session_->failure());
}

// The guest asks without end; one thread of it takes the answers, as a kernel does.
TEST_F(RelayTest, StopsWhileTheGuestNeverDoes) {
  start_and_init();
  std::jthread asks([&] {
    const std::string one = fuse_request(FUSE_GETATTR, 98, 1, bytes_of(fuse_getattr_in{}));
    std::string many;
    while (many.size() < 60000) many += one;
    while (guest_.send(many)) continue;
  });
  std::jthread takes([&] { (void)guest_.is_closed_within(60s); });
  std::this_thread::sleep_for(300ms);
  stop_quickly();
}

TEST_F(RelayTest, AnswersThatAreNotTakenEndTheSession) {
  start_and_init({.patience = 300ms});
  const std::uint64_t big = guest_.walk("big");
  for (std::uint64_t i = 0; i < 64; ++i) {
    guest_.send(fuse_request(FUSE_READ, 10000 + i, big, read_body(0, kRelayTransfer)));
  }
  std::this_thread::sleep_for(1s);  // in which nothing is received
  expect_end(Kind::kGuest, "does not take the answers");
}

TEST_F(RelayTest, StopsWhileAnswersAreNotTaken) {
  start_and_init();
  const std::uint64_t big = guest_.walk("big");
  for (std::uint64_t i = 0; i < 64; ++i) {
    guest_.send(fuse_request(FUSE_READ, 10000 + i, big, read_body(0, kRelayTransfer)));
  }
  std::this_thread::sleep_for(300ms);
  stop_quickly();
  EXPECT_FALSE(session_->failure()) << session_->failure()->reason;
}

TEST_F(RelayTest, GuestThatGoesWithoutAWord) {
  start_and_init();
  EXPECT_NE(guest_.walk("d"), 0U);
  guest_.close();
  session_->wait({});
  stop_quickly();
  ASSERT_TRUE(session_->failure());
  EXPECT_EQ(session_->failure()->kind, Kind::kIncomplete);
  EXPECT_EQ(observations(), Lines{"probe d"});
}

TEST_F(RelayTest, NamesAreLimited) {
  start_and_init({.names = 20});
  int failed = 0;
  for (int i = 0; i < 30; ++i) {
    failed += guest_.call(FUSE_LOOKUP, 1, name_body("no" + std::to_string(i))).error == EIO ? 1 : 0;
  }
  EXPECT_EQ(failed, 11);
  stop_quickly();
  ASSERT_TRUE(session_->failure());
  EXPECT_EQ(session_->failure()->kind, Kind::kIncomplete);
}

// --- the check by itself
// --------------------------------------------------------------------------

TEST(RelayCheckTest, NumberOfARequestThatIsNotAnsweredYet) {
  RelayCheck check;
  ASSERT_TRUE(check.request(fuse_request(FUSE_INIT, 2, 0, init_body())));
  fuse_out_header header{};
  header.unique = 2;
  iovec part{&header, sizeof header};
  check.reply(std::span(&part, 1));
  ASSERT_TRUE(check.request(fuse_request(FUSE_STATFS, 4, 1, "")));
  EXPECT_FALSE(check.request(fuse_request(FUSE_STATFS, 4, 1, "")));
  header.unique = 4;
  check.reply(std::span(&part, 1));
  EXPECT_TRUE(check.request(fuse_request(FUSE_STATFS, 4, 1, "")));
}

}  // namespace
}  // namespace hm::fs
