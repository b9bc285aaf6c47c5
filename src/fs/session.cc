// FUSE callbacks; the nodes behind them are in node_table.h. The kernel side of each rule used here
// is in fs/fuse of the kernel source and Documentation/filesystems/fuse.rst; what was tried is in
// hm-design(7).
#include "fs/session.h"

#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <list>
#include <mutex>
#include <span>
#include <thread>
#include <variant>
#include <vector>

#include "fs/node_table.h"
#include "fs/overlay_xattr.h"
#include "fs/passthrough.h"
#include "fs/planted_defect.h"
#include "fs/posix_acl.h"
#include "fs/read_ahead.h"
#include "fs/relay_channel.h"
#include "fs/request_counts.h"
#include "fs/request_wait.h"
#include "fs/skeleton.h"
#include "fs/turns.h"

namespace hm::fs {

namespace {

constexpr double kForever = 365.0 * 24 * 3600 * 10;  // seconds; entries never change while mounted
constexpr unsigned kMostServerThreads = 4;
constexpr unsigned kMaxTransfer = kRelayTransfer;     // bytes of one READ
constexpr std::chrono::milliseconds kEndPatience{1};  // until threads are interrupted again
constexpr int kMostReadsExpected = 16;
constexpr std::size_t kFilesAhead = 64;  // ReadAhead
constexpr std::size_t kDirectoriesAhead = 8;
constexpr std::size_t kOpenFiles = 64;  // descriptors kept for files of more than one READ
constexpr std::uint64_t kHashedAside = 4U << 20;  // bytes; below it waiting is cheaper

// The calling thread's, of `size` bytes at least, with anything in them: zeroing a megabyte takes
// as long as a round trip.
char* reply_buffer(std::size_t size) {
  struct Buffer {
    std::unique_ptr<char[]> bytes;  // NOLINT: a vector would be zeroed
    std::size_t size = 0;
  };
  thread_local Buffer buffer;
  if (buffer.size < size) {
    buffer.size = std::max<std::size_t>(size, kMaxTransfer);
    buffer.bytes.reset(new char[buffer.size]);  // NOLINT: likewise
  }
  return buffer.bytes.get();
}

// Collisions among a million names are as likely as 1 in 10^7, and nothing but a name is hashed.
std::uint64_t inode_number(std::string_view identity) {
  const std::uint64_t hash = std::hash<std::string_view>{}(identity);
  return hash < 2 ? hash + 2 : hash;
}

// Equal only within a link group, and a group only within one layer.
std::string inode_identity(const View& view, const View::Node& node) {
  const std::string& group = node.entry.link_group;
  return group.empty() ? node.path : std::to_string(view.link_rank(node)) + "//" + group;
}

// A large file that is being read: live, or a blob.
class OpenFile {
 public:
  explicit OpenFile(LiveFile live) : file_(std::move(live)) {}
  explicit OpenFile(Fd blob) : file_(std::move(blob)) {}
  Result<std::size_t> read(char* bytes, std::size_t size, off_t offset) const {
    if (const auto* live = std::get_if<LiveFile>(&file_)) return live->read(bytes, size, offset);
    return store::read_at(std::get<Fd>(file_).get(), bytes, size, offset);
  }

 private:
  std::variant<LiveFile, Fd> file_;
};

// The few of them whose descriptors are kept.
class OpenFiles {
 public:
  std::shared_ptr<const OpenFile> find(std::uint64_t id) {
    const std::lock_guard lock(mutex_);
    for (auto it = items_.begin(); it != items_.end(); ++it) {
      if (it->first != id) continue;
      items_.splice(items_.begin(), items_, it);
      return it->second;
    }
    return nullptr;
  }
  void keep(std::uint64_t id, std::shared_ptr<const OpenFile> file) {
    const std::lock_guard lock(mutex_);
    items_.emplace_front(id, std::move(file));
    if (items_.size() > kOpenFiles) items_.pop_back();
  }

 private:
  std::mutex mutex_;
  std::list<std::pair<std::uint64_t, std::shared_ptr<const OpenFile>>> items_;
};

// One thread beside those that serve: does tasks in their order, all of them before `finish`
// returns.
class Aside {
 public:
  using Task = std::function<void()>;
  ~Aside() { finish(); }
  void add(Task task) {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
    changed_.notify_one();
  }
  void finish() {
    {
      const std::lock_guard lock(mutex_);
      finished_ = true;
      changed_.notify_one();
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return finished_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      const Task task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      lock.lock();
    }
  }

  std::mutex mutex_;  // guards tasks_ and finished_; thread_ is set under it
  std::condition_variable changed_;
  std::list<Task> tasks_;
  bool finished_ = false;
  std::thread thread_;
};

struct DestroySession {
  void operator()(fuse_session* session) const { fuse_session_destroy(session); }
};

void ignore_signal(int) {}

// The small file that a thread has read last.
struct SmallFile {
  std::optional<NodeTable::Id> id;
  std::string bytes;
};

class FuseSession final : public Session {
 public:
  FuseSession(const View& view, store::Store& store, Watcher watcher, LookupProfile profile,
              PassthroughMode passthrough = PassthroughMode::kOff,
              std::stop_source abandon = never_abandoned())
      : view_(view),
        store_(store),
        watcher_(std::move(watcher)),
        profile_(std::move(profile)),
        passthrough_(passthrough),
        abandon_(std::move(abandon)) {}
  ~FuseSession() override { stop(); }

  Status mount(const std::string& mount_point);
  Status relay(Fd stream, const RelayLimits& limits);
  void stop() override;
  void wait(const std::stop_token& stop) override;
  Result<std::optional<View::Node>> observe(const std::string& path, ObservationKind kind) override;
  Trace trace() override;
  std::vector<SeenTime> seen_times() override;
  std::optional<SessionFailure> failure() override {
    const std::lock_guard lock(failure_mutex_);
    return failure_;
  }

  // FUSE operations.
  void lookup(fuse_req_t req, fuse_ino_t parent, const char* name);
  void getattr(fuse_req_t req, fuse_ino_t ino);
  void readlink(fuse_req_t req, fuse_ino_t ino);
  void open(fuse_req_t req, fuse_ino_t ino, fuse_file_info* info);
  void read(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t offset);
  void readdir(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t offset);
  void readdirplus(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t offset);
  bool has_profile() const { return !profile_.empty(); }
  void getxattr(fuse_req_t req, fuse_ino_t ino, const char* name, std::size_t size);
  void listxattr(fuse_req_t req, fuse_ino_t ino, std::size_t size);
  void statfs(fuse_req_t req);

  Passthrough& passthrough() { return passthrough_; }

 private:
  using Id = NodeTable::Id;
  static Id id_of(fuse_ino_t ino) { return ino > UINT32_MAX ? 0 : static_cast<Id>(ino); }
  Result<Id> child(Id parent, std::string_view name);
  Result<Digest> content(Id id, const View::Node& node);
  Result<std::shared_ptr<const PackedListing>> listing(Id id);
  Status small_content(Id id, const View::Node& node, SmallFile& file);
  Result<std::shared_ptr<const OpenFile>> open_large(Id id, const View::Node& node);
  Result<Fd> open_blob(Id id, const View::Node& node);
  Status hash_live(Id id, const View::Node& node);
  void read_small(fuse_req_t req, Id id, const View::Node& node, std::size_t size,
                  std::size_t offset);
  Observation observation_of(Id id, const std::optional<View::Node>& node);
  void read_ahead(Id dir_id, Id id, std::string_view name);
  Status meet_xattrs(Id id);
  bool denies_xattrs();
  void watch(Id id);
  int note_failure(const std::string& path, const Error& error);
  struct stat attributes(const View::Node& node) const;
  fuse_entry_param entry_of(Id id) const;
  template <class Add>
  void reply_listing(fuse_req_t req, Id id, std::size_t size, off_t offset, Add add);
  Status create_session();
  void start_threads();
  void add_thread();
  struct Received {
    int size;      // as of fuse_session_receive_buf
    bool at_once;  // it was there when it was looked for
  };
  Received receive(fuse_buf& buffer);
  void serve();
  void note_end();
  Status settle_passthrough(const std::string& mount_point);

  const View& view_;
  store::Store& store_;
  Watcher watcher_;
  const LookupProfile profile_;
  Passthrough passthrough_;
  std::stop_source abandon_;
  std::optional<NodeTable> nodes_;  // from mount on
  OpenFiles open_files_;
  Aside aside_;  // hashes large files
  ReadAhead files_ahead_{
      [this](const View::Node& dir) { return view_.files_on_disk(dir, store_.blobs()); },
      kFilesAhead};
  ReadAhead directories_ahead_{
      [this](const View::Node& dir) { return view_.directories_on_disk(dir); }, kDirectoriesAhead};
  std::atomic<bool> met_xattrs_{false};
  std::atomic<bool> denied_xattrs_{false};  // or about to be
  std::mutex failure_mutex_;
  std::optional<SessionFailure> failure_;

  std::string mount_point_;
  std::unique_ptr<RelayChannel> relay_;  // null: requests come from /dev/fuse
  std::unique_ptr<fuse_session, DestroySession> session_;
  std::mutex threads_mutex_;
  std::vector<std::thread> threads_;  // guarded by threads_mutex_ until stopping_
  std::atomic<bool> stopping_{false};
  std::atomic<unsigned> running_{0};  // server threads
  Turns turns_{[this] { add_thread(); }};
  std::atomic<int> reads_expected_{0};  // grows with each small READ, shrinks with each LOOKUP
  RequestWait request_wait_;            // of the thread whose turn it is
  std::mutex ended_mutex_;
  std::condition_variable_any ended_;  // one of them has ended
  RequestCounts counts_;               // of those that have ended; guarded by ended_mutex_
};

// --- from the kernel's requests to the view -------------------------------------------------

Result<NodeTable::Id> FuseSession::child(Id parent, std::string_view name) {
  if (const auto known = nodes_->find(parent, name)) return *known;
  const View::Node* dir = nodes_->directory(parent);
  if (dir == nullptr) return fail(system_error(nodes_->path(parent), ENOTDIR));
  HM_ASSIGN(auto found, view_.child(*dir, name));
  std::string group;
  if (kPlanted == Defect::kNodeid && found && found->entry.nlink > 1) {
    group = inode_identity(view_, *found);
    parent = 0;
    name = group;
  }
  const bool has_xattrs = found && !found->entry.xattrs.empty();
  HM_ASSIGN(const auto inserted, nodes_->insert(parent, name, std::move(found)));
  const auto [id, fresh] = inserted;
  if (fresh) {
    watch(id);
    if (has_xattrs) HM_TRY(meet_xattrs(id));
  }
  return id;
}

// The kernel may have been told that there are none: it then does not ask for these.
Status FuseSession::meet_xattrs(Id id) {
  met_xattrs_ = true;
  if (!denied_xattrs_ || !view_.may_have_xattrs()) return {};
  {
    const std::lock_guard lock(failure_mutex_);
    failure_ = SessionFailure{SessionFailure::Kind::kAttributes, "/" + nodes_->path(id),
                              "it has extended attributes"};
  }
  abandon_.request_stop();
  return fail(system_error(nodes_->path(id), EIO));
}

// True: whoever asks is told that there are no extended attributes, and the kernel stops asking.
bool FuseSession::denies_xattrs() {
  if (!view_.may_have_xattrs()) return true;
  if (!profile_.expects_no_xattrs()) return false;
  denied_xattrs_ = true;  // before the other one is read: meet_xattrs has it the other way round
  return !met_xattrs_;
}

Result<Digest> FuseSession::content(Id id, const View::Node& node) {
  if (const auto known = nodes_->content(id)) return *known;
  turns_.pass();  // a whole file is hashed
  HM_ASSIGN(const Digest digest, view_.digest(node));
  if (nodes_->set_content(id, digest)) watch(id);
  return digest;  // the view pins it: that of another thread is the same
}

// What is hashed is what is served: the file is read once.
Status FuseSession::small_content(Id id, const View::Node& node, SmallFile& file) {
  if (file.id == id) return {};  // the kernel asks for the rest of it
  file.id = std::nullopt;
  HM_ASSIGN(const Digest digest, view_.read_small(node, store_.blobs(), file.bytes));
  file.id = id;
  if (nodes_->set_content(id, digest)) watch(id);
  return {};
}

Result<std::shared_ptr<const PackedListing>> FuseSession::listing(Id id) {
  if (auto known = nodes_->listing(id)) return known;
  const View::Node* dir = nodes_->directory(id);
  if (dir == nullptr) return fail(system_error(nodes_->path(id), ENOTDIR));
  turns_.pass();
  const View::Node* const above = nodes_->directory(nodes_->parent(id));
  if (turns_.waits_for_disk() && above != nullptr) {
    directories_ahead_.looked_at(*above, base_name(dir->path));
  }
  HM_ASSIGN(const Listing names, view_.list(*dir));
  if (nodes_->set_listing(id, std::make_shared<const PackedListing>(names))) watch(id);
  return nodes_->listing(id);
}

Result<std::shared_ptr<const OpenFile>> FuseSession::open_large(Id id, const View::Node& node) {
  if (auto open = open_files_.find(id)) return open;
  turns_.pass();
  HM_ASSIGN(auto live, view_.open_resting(node));
  std::shared_ptr<const OpenFile> open;
  if (live) {
    HM_TRY(hash_live(id, node));
    open = std::make_shared<const OpenFile>(std::move(*live));
  } else {
    HM_ASSIGN(Fd blob, open_blob(id, node));
    open = std::make_shared<const OpenFile>(std::move(blob));
  }
  open_files_.keep(id, open);
  return open;
}

// A live file is in the store afterwards.
Result<Fd> FuseSession::open_blob(Id id, const View::Node& node) {
  HM_ASSIGN(const Digest digest, view_.capture(node));
  if (nodes_->set_content(id, digest)) watch(id);
  if (node.entry.size < kHashedAside) return store_.blobs().open_blob(digest, node.entry.size);
  aside_.add([this, digest, node] {
    const auto right = store_.blobs().open_blob(digest, node.entry.size);
    if (!right) note_failure(node.path, right.error());
  });
  return store_.blobs().open_unverified(digest, node.entry.size);
}

// What is served meanwhile is what is hashed, or one of both finds that the file has changed.
Status FuseSession::hash_live(Id id, const View::Node& node) {
  const auto hash = [this, id, node]() -> Status {
    HM_ASSIGN(const Digest digest, view_.hash(node));
    if (nodes_->set_content(id, digest)) watch(id);
    return {};
  };
  if (node.entry.size < kHashedAside) return hash();
  aside_.add([this, node, hash] {
    if (const Status hashed = hash(); !hashed) note_failure(node.path, hashed.error());
  });
  return {};
}

Observation FuseSession::observation_of(Id id, const std::optional<View::Node>& node) {
  if (!node) return {nodes_->path(id), ObservationKind::kProbe, probe_text(std::nullopt)};
  if (const auto digest = nodes_->content(id)) {
    return {node->path, ObservationKind::kContent, content_text(node->entry, *digest)};
  }
  if (const auto names = nodes_->listing(id)) {
    return {node->path, ObservationKind::kList, list_text(node->entry, names->unpack())};
  }
  return {node->path, ObservationKind::kProbe, probe_text(node->entry)};
}

void FuseSession::watch(Id id) {
  if (watcher_) watcher_(observation_of(id, nodes_->node(id)));
}

int FuseSession::note_failure(const std::string& path, const Error& error) {
  const std::lock_guard lock(failure_mutex_);
  // An error that says what to do about it wins over one that only spoils the record.
  if (!failure_ || failure_->kind == SessionFailure::Kind::kIncomplete) {
    SessionFailure failure{SessionFailure::Kind::kIncomplete, "/" + path, error.message};
    if (error.code == ErrorCode::kChanged) {
      failure.kind = SessionFailure::Kind::kMoved;
      failure.path = error.message;
    } else if (error.code == ErrorCode::kNotFound || error.code == ErrorCode::kCorrupt) {
      failure.kind = SessionFailure::Kind::kStore;
    }
    failure_ = std::move(failure);
  }
  return error.to_errno();
}

Result<std::optional<View::Node>> FuseSession::observe(const std::string& path,
                                                       ObservationKind kind) {
  Id id = NodeTable::kRoot;
  std::string_view rest = path;
  while (!rest.empty()) {
    if (nodes_->directory(id) == nullptr) return std::optional<View::Node>{};
    const std::size_t slash = rest.find('/');
    HM_ASSIGN(id, child(id, rest.substr(0, slash)));
    rest = slash == std::string_view::npos ? std::string_view{} : rest.substr(slash + 1);
  }
  auto node = nodes_->node(id);
  if (!node) return node;
  if (kind == ObservationKind::kContent && node->entry.kind == EntryKind::kFile) {
    HM_TRY(content(id, *node));
  }
  if (kind == ObservationKind::kList && node->entry.kind == EntryKind::kDirectory) {
    HM_TRY(listing(id));
  }
  return node;
}

Trace FuseSession::trace() {
  TraceBuilder builder;
  for (Id id = NodeTable::kRoot; id <= nodes_->last(); ++id) {
    const auto node = nodes_->node(id);
    if (!node && kPlanted == Defect::kAbsent) continue;
    const auto names = nodes_->listing(id);
    builder.add(observation_of(id, node), node ? &*node : nullptr,
                names ? std::make_shared<const Listing>(names->unpack()) : nullptr);
  }
  return builder.finish();
}

std::vector<SeenTime> FuseSession::seen_times() {
  std::vector<SeenTime> out;
  for (Id id = NodeTable::kRoot; id <= nodes_->last(); ++id) {
    const auto node = nodes_->node(id);
    if (!node || node->entry.kind == EntryKind::kDirectory) continue;
    if (node->mtime_ns == kFixedTimeNs) continue;  // of no use: every workspace has it
    const bool is_empty_file = node->entry.kind == EntryKind::kFile && node->entry.size == 0;
    std::optional<std::string> identity;
    if (is_empty_file) identity = Digest::of("").hex();
    if (const auto digest = nodes_->content(id)) identity = digest->hex();
    if (node->entry.kind != EntryKind::kFile) identity = node->entry.target;
    out.push_back({node->mtime_ns, node->path, std::move(identity), node->of_run});
  }
  return out;
}

struct stat FuseSession::attributes(const View::Node& node) const {
  const Entry& entry = node.entry;
  struct stat st {};
  st.st_ino = inode_number(inode_identity(view_, node));
  st.st_mode = type_bits(entry.kind) | entry.mode;
  st.st_nlink = entry.nlink;
  st.st_uid = entry.uid;
  st.st_gid = entry.gid;
  st.st_rdev = entry.rdev;
  st.st_size = static_cast<off_t>(entry.kind == EntryKind::kSymlink     ? entry.target.size()
                                  : entry.kind == EntryKind::kDirectory ? 4096
                                                                        : entry.size);
  st.st_blksize = 4096;
  // Whole blocks, as the filesystems have it whose trees these are; short links need none.
  st.st_blocks = entry.kind == EntryKind::kSymlink ? 0 : (st.st_size + 4095) / 4096 * 8;
  st.st_mtim = {node.mtime_ns / 1'000'000'000, node.mtime_ns % 1'000'000'000};
  st.st_atim = st.st_mtim;
  st.st_ctim = st.st_mtim;
  return st;
}

// Of an absent node a negative entry: inode 0, which the kernel keeps too.
fuse_entry_param FuseSession::entry_of(Id id) const {
  fuse_entry_param entry{};
  entry.entry_timeout = kForever;
  entry.attr_timeout = kForever;
  if (const auto node = nodes_->node(id)) {
    entry.ino = id;
    entry.attr = attributes(*node);
  }
  return entry;
}

// --- FUSE operations ------------------------------------------------------------------------

void FuseSession::lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  if (std::strlen(name) > 255) {
    fuse_reply_err(req, ENAMETOOLONG);
    return;
  }
  const auto id = child(id_of(parent), name);
  if (!id) {
    fuse_reply_err(req, note_failure(nodes_->path(id_of(parent)), id.error()));
    return;
  }
  const fuse_entry_param entry = entry_of(*id);
  fuse_reply_entry(req, &entry);
  if (S_ISREG(entry.attr.st_mode)) read_ahead(id_of(parent), *id, name);
}

// While files come from a disk and most of those that are looked up are read, too: the disk works
// while the client gets from the lookup to the read.
void FuseSession::read_ahead(Id dir_id, Id id, std::string_view name) {
  reads_expected_ = std::max(reads_expected_ - 1, 0);
  if (reads_expected_ < kMostReadsExpected / 2 || !turns_.waits_for_disk()) return;
  const auto node = nodes_->node(id);
  const View::Node* dir = nodes_->directory(dir_id);
  if (!node || node->entry.size > kSmallFile || dir == nullptr) return;
  if (!files_ahead_.looked_at(*dir, name)) view_.read_ahead(*node, store_.blobs());
}

void FuseSession::getattr(fuse_req_t req, fuse_ino_t ino) {
  const auto node = nodes_->node(id_of(ino));
  if (!node) {
    fuse_reply_err(req, ESTALE);
    return;
  }
  const struct stat st = attributes(*node);
  fuse_reply_attr(req, &st, kForever);
}

void FuseSession::readlink(fuse_req_t req, fuse_ino_t ino) {
  const auto node = nodes_->node(id_of(ino));
  if (!node || node->entry.kind != EntryKind::kSymlink) {
    fuse_reply_err(req, EINVAL);
    return;
  }
  fuse_reply_readlink(req, node->entry.target.c_str());
}

// Without passthrough there is no OPEN: the kernel asks once, and READ is the observation.
void FuseSession::open(fuse_req_t req, fuse_ino_t ino, fuse_file_info* info) {
  if (!passthrough_.answers_open()) {
    fuse_reply_err(req, ENOSYS);
    return;
  }
  const Id id = id_of(ino);
  const auto node = nodes_->node(id);
  if (!node || node->entry.kind != EntryKind::kFile) {
    fuse_reply_err(req, EINVAL);
    return;
  }
  info->keep_cache = 1;
  if (node->entry.size < Passthrough::kFromSize) {
    fuse_reply_open(req, info);
    return;
  }
  const auto blob = open_blob(id, *node);
  if (!blob) {
    fuse_reply_err(req, note_failure(node->path, blob.error()));
    return;
  }
  const auto backing = passthrough_.backing(id, fuse_session_fd(session_.get()), *blob);
  if (!backing) {
    fuse_reply_open(req, info);
    return;
  }
  const std::vector<char> answer = passthrough_open_answer(*backing);
  fuse_reply_buf(req, answer.data(), answer.size());
}

void FuseSession::read(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t offset) {
  const Id id = id_of(ino);
  const auto node = nodes_->node(id);
  if (!node || node->entry.kind != EntryKind::kFile) {
    fuse_reply_err(req, EINVAL);
    return;
  }
  if (node->entry.size == 0) {
    fuse_reply_buf(req, nullptr, 0);
    return;
  }
  if (node->entry.size <= kSmallFile) {
    reads_expected_ = std::min(reads_expected_ + 2, kMostReadsExpected);
    read_small(req, id, *node, size, static_cast<std::size_t>(offset));
    return;
  }
  const auto file = open_large(id, *node);
  if (!file) {
    fuse_reply_err(req, note_failure(node->path, file.error()));
    return;
  }
  char* const buffer = reply_buffer(size);
  const auto got = (*file)->read(buffer, size, offset);
  if (!got) {
    fuse_reply_err(req, note_failure(node->path, got.error()));
    return;
  }
  // The kernel would show zeros for what is missing.
  if (*got < size && static_cast<std::uint64_t>(offset) + *got < node->entry.size) {
    const Error cut{ErrorCode::kCorrupt, 0, "its copy in the store was cut short"};
    fuse_reply_err(req, note_failure(node->path, cut));
    return;
  }
  fuse_reply_buf(req, buffer, *got);
}

void FuseSession::read_small(fuse_req_t req, Id id, const View::Node& node, std::size_t size,
                             std::size_t offset) {
  thread_local SmallFile file;  // a thread serves one session
  if (const auto read = small_content(id, node, file); !read) {
    fuse_reply_err(req, note_failure(node.path, read.error()));
    return;
  }
  const std::string_view part =
      std::string_view(file.bytes).substr(std::min(offset, file.bytes.size()), size);
  fuse_reply_buf(req, part.data(), part.size());
}

// Names from `offset` on, as many as fit: `add` appends one and says how many bytes it took, or
// needs. Offsets: 0 ".", 1 "..", then 2 + the number of an item.
template <class Add>
void FuseSession::reply_listing(fuse_req_t req, Id id, std::size_t size, off_t offset, Add add) {
  const auto names = listing(id);
  if (!names) {
    fuse_reply_err(req, note_failure(nodes_->path(id), names.error()));
    return;
  }
  char* const buffer = reply_buffer(size);
  std::size_t used = 0;
  std::string path = nodes_->path(id);
  if (!path.empty()) path += '/';
  const std::size_t dir_length = path.size();
  auto number = static_cast<std::size_t>(offset);
  const auto fits = [&](std::string_view name, EntryKind kind) -> Result<bool> {
    path.resize(dir_length);
    path += name;
    struct stat st {};
    st.st_ino = inode_number(path);
    st.st_mode = type_bits(kind);
    number += 1;
    HM_ASSIGN(const std::size_t took, add(std::span(buffer + used, size - used), path, dir_length,
                                          st, static_cast<off_t>(number)));
    if (took > size - used) return false;
    used += took;
    return true;
  };
  Result<bool> more = true;
  while (more && *more && number < 2) more = fits(number == 0 ? "." : "..", EntryKind::kDirectory);
  auto item = (*names)->at((*names)->position_of(number - 2));
  for (; more && *more && item; item = (*names)->at(item->next)) {
    more = fits(item->name, item->kind);
  }
  if (!more) {
    fuse_reply_err(req, note_failure(path, more.error()));
    return;
  }
  fuse_reply_buf(req, buffer, used);
}

void FuseSession::readdir(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t offset) {
  reply_listing(req, id_of(ino), size, offset,
                [&](std::span<char> free, const std::string& path, std::size_t dir_length,
                    const struct stat& st, off_t next) -> Result<std::size_t> {
                  return fuse_add_direntry(req, free.data(), free.size(), path.c_str() + dir_length,
                                           &st, next);
                });
}

// Attributes only of what the profile expects. An entry without a node id tells the kernel nothing
// but the name.
void FuseSession::readdirplus(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t offset) {
  const Id dir = id_of(ino);
  reply_listing(req, dir, size, offset,
                [&](std::span<char> free, const std::string& path, std::size_t dir_length,
                    const struct stat& st, off_t next) -> Result<std::size_t> {
                  const char* name = path.c_str() + dir_length;
                  const std::size_t need =
                      fuse_add_direntry_plus(req, nullptr, 0, name, nullptr, 0);
                  if (need > free.size()) return need;  // not served, so not looked up
                  fuse_entry_param entry{};
                  if (next > 2 && profile_.expects(path)) {
                    HM_ASSIGN(const Id id, child(dir, name));
                    entry = entry_of(id);
                  }
                  if (entry.ino == 0) entry.attr = st;
                  return fuse_add_direntry_plus(req, free.data(), free.size(), name, &entry, next);
                });
}

void reply_xattr(fuse_req_t req, std::string_view value, std::size_t size) {
  if (size == 0) {
    fuse_reply_xattr(req, value.size());
  } else if (size < value.size()) {
    fuse_reply_err(req, ERANGE);
  } else {
    fuse_reply_buf(req, value.data(), value.size());
  }
}

bool has_known_namespace(std::string_view name) {
  return name.starts_with("user.") || name.starts_with("security.") || name.starts_with("trusted.");
}

// The shortcut of a view without attributes must not show: there the kernel says of every file
// what is said here of a file without any. Only "no access control list" stays what it is.
void FuseSession::getxattr(fuse_req_t req, fuse_ino_t ino, const char* name, std::size_t size) {
  if (denies_xattrs()) {
    fuse_reply_err(req, ENOSYS);  // the kernel stops asking
    return;
  }
  const auto node = nodes_->node(id_of(ino));
  if (!node) {
    fuse_reply_err(req, ESTALE);
    return;
  }
  const Xattrs& xattrs = node->entry.xattrs;
  for (const auto& [key, value] : xattrs) {
    if (escape_overlay_xattr(key) != name) continue;
    reply_xattr(req, value, size);
    return;
  }
  const bool is_known = is_posix_acl(name) || (!xattrs.empty() && has_known_namespace(name));
  fuse_reply_err(req, is_known ? ENODATA : EOPNOTSUPP);
}

void FuseSession::listxattr(fuse_req_t req, fuse_ino_t ino, std::size_t size) {
  if (denies_xattrs()) {
    fuse_reply_err(req, ENOSYS);
    return;
  }
  const auto node = nodes_->node(id_of(ino));
  if (!node) {
    fuse_reply_err(req, ESTALE);
    return;
  }
  std::string names;
  for (const auto& [key, value] : node->entry.xattrs) {
    names += escape_overlay_xattr(key);
    names.push_back('\0');
  }
  if (names.empty()) {
    fuse_reply_err(req, EOPNOTSUPP);
  } else {
    reply_xattr(req, names, size);
  }
}

void FuseSession::statfs(fuse_req_t req) {
  struct statvfs st {};
  st.f_bsize = 4096;
  st.f_frsize = 4096;
  st.f_namemax = 255;
  fuse_reply_statfs(req, &st);
}

// --- libfuse's table: C frames, so nothing may be thrown through them ------------------------

FuseSession& self(fuse_req_t req) { return *static_cast<FuseSession*>(fuse_req_userdata(req)); }

void op_init(void* session, fuse_conn_info* conn) {
  conn->max_write = kMaxTransfer;  // libfuse derives the pages per request from it
  conn->max_readahead = kMaxTransfer;
  conn->want &= ~static_cast<unsigned>(FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO |
                                       FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_SPLICE_READ);
  conn->want |=
      conn->capable & static_cast<unsigned>(FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_NO_OPEN_SUPPORT |
                                            FUSE_CAP_NO_OPENDIR_SUPPORT | FUSE_CAP_PARALLEL_DIROPS |
                                            FUSE_CAP_POSIX_ACL);
  // With AUTO the kernel asks for attributes only in the first request of a directory.
  if (static_cast<const FuseSession*>(session)->has_profile()) {
    conn->want |= conn->capable & static_cast<unsigned>(FUSE_CAP_READDIRPLUS);
  }
}

fuse_lowlevel_ops make_operations() {
  fuse_lowlevel_ops ops{};
  ops.init = op_init;
  ops.lookup = [](fuse_req_t req, fuse_ino_t parent, const char* name) noexcept {
    self(req).lookup(req, parent, name);
  };
  ops.getattr = [](fuse_req_t req, fuse_ino_t ino, fuse_file_info*) noexcept {
    self(req).getattr(req, ino);
  };
  ops.readlink = [](fuse_req_t req, fuse_ino_t ino) noexcept { self(req).readlink(req, ino); };
  ops.open = [](fuse_req_t req, fuse_ino_t ino, fuse_file_info* info) noexcept {
    self(req).open(req, ino, info);
  };
  ops.read = [](fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t offset,
                fuse_file_info*) noexcept { self(req).read(req, ino, size, offset); };
  ops.opendir = [](fuse_req_t req, fuse_ino_t, fuse_file_info*) noexcept {
    fuse_reply_err(req, ENOSYS);  // the kernel keeps the names that READDIR gives it
  };
  ops.readdir = [](fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t offset,
                   fuse_file_info*) noexcept { self(req).readdir(req, ino, size, offset); };
  ops.readdirplus = [](fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t offset,
                       fuse_file_info*) noexcept { self(req).readdirplus(req, ino, size, offset); };
  ops.releasedir = [](fuse_req_t req, fuse_ino_t, fuse_file_info*) noexcept {
    fuse_reply_err(req, 0);
  };
  ops.getxattr = [](fuse_req_t req, fuse_ino_t ino, const char* name, std::size_t size) noexcept {
    self(req).getxattr(req, ino, name, size);
  };
  ops.listxattr = [](fuse_req_t req, fuse_ino_t ino, std::size_t size) noexcept {
    self(req).listxattr(req, ino, size);
  };
  ops.statfs = [](fuse_req_t req, fuse_ino_t) noexcept { self(req).statfs(req); };
  return ops;
}

// libfuse's reads and writes, for what Passthrough has to see of them.
constexpr fuse_custom_io kPassthroughIo = {
    [](int fd, iovec* parts, int count, void* session) noexcept {
      static_cast<FuseSession*>(session)->passthrough().amend_answer(parts, count);
      return ::writev(fd, parts, count);
    },
    [](int fd, void* buffer, std::size_t size, void* session) noexcept {
      const ssize_t got = ::read(fd, buffer, size);
      if (got > 0) {
        static_cast<FuseSession*>(session)->passthrough().see_request(
            buffer, static_cast<std::size_t>(got));
      }
      return got;
    },
    nullptr,
    nullptr,
};

// --- life of the mount ------------------------------------------------------------------------

// As fuse_session_receive_buf, on a device that does not block.
FuseSession::Received FuseSession::receive(fuse_buf& buffer) {
  request_wait_.begin();
  for (bool first = true;; first = false) {
    const int size = fuse_session_receive_buf(session_.get(), &buffer);
    if (size != -EAGAIN) {
      request_wait_.end();
      return {size, first};
    }
    if (request_wait_.watch()) continue;
    pollfd wait{fuse_session_fd(session_.get()), POLLIN, 0};
    const int ready = ::poll(&wait, 1, request_wait_.patience_ms());
    if (ready < 0 && errno == EINTR) return {-EINTR, false};
    if (ready == 0) request_wait_.tired();
  }
}

// The task that a request comes from, as the kernel numbers it for whoever mounted.
std::uint32_t asker_of(const fuse_buf& request) {
  fuse_in_header header{};
  std::memcpy(&header, request.mem, std::min(sizeof header, request.size));
  return header.pid;
}

void FuseSession::serve() {
  fuse_buf buffer{};
  RequestCounts counts;
  while (true) {
    const bool kept_turn = turns_.take();
    if (fuse_session_exited(session_.get())) break;
    const auto [size, at_once] = receive(buffer);
    if (size == -EINTR) continue;
    if (size <= 0) break;
    counts.count(buffer.mem, static_cast<std::size_t>(size));
    turns_.begin_answer(asker_of(buffer), at_once && kept_turn);
    fuse_session_process_buf(session_.get(), &buffer);
    turns_.end_answer();
  }
  note_end();
  fuse_session_exit(session_.get());
  request_wait_.tired();
  turns_.pass();          // who waits for it finds the end too
  std::free(buffer.mem);  // NOLINT: allocated by libfuse with malloc
  const std::lock_guard lock(ended_mutex_);
  counts_.add(counts);
  running_ -= 1;
  ended_.notify_all();
}

void FuseSession::note_end() {
  const std::lock_guard lock(failure_mutex_);
  // Whatever else went wrong: what a guest has got out of the session is not to be used.
  if (const auto fault = relay_ ? relay_->fault() : std::nullopt) {
    failure_ = SessionFailure{SessionFailure::Kind::kGuest, "/", *fault};
  }
  if (stopping_ || failure_ || (relay_ && relay_->destroyed())) return;
  failure_ = SessionFailure{SessionFailure::Kind::kIncomplete, "/", "the FUSE connection ended"};
}

Status FuseSession::create_session() {
  // The options matter only to fusermount3, in `mount`.
  std::array<std::string, 3> words = {"hm", "-o",
                                      "ro,default_permissions,fsname=hmfs,subtype=hmfs"};
  std::array<char*, 3> argv = {words[0].data(), words[1].data(), words[2].data()};
  fuse_args args = FUSE_ARGS_INIT(3, argv.data());
  const fuse_lowlevel_ops operations = make_operations();
  session_.reset(fuse_session_new(&args, &operations, sizeof operations, this));
  fuse_opt_free_args(&args);
  if (!session_) return fail(ErrorCode::kIo, "cannot create a FUSE session");
  return {};
}

void FuseSession::start_threads() {
  struct sigaction action {};
  action.sa_handler = ignore_signal;  // SIGUSR1 only interrupts a blocked read, see stop
  ::sigaction(SIGUSR1, &action, nullptr);
  add_thread();
}

void FuseSession::add_thread() {
  const std::lock_guard lock(threads_mutex_);
  if (stopping_ || fuse_session_exited(session_.get())) return;
  if (threads_.size() == kMostServerThreads) return;
  running_ += 1;
  threads_.emplace_back([this] { serve(); });
}

// A new mount reads 128 KiB ahead, which is a request for every piece of a program that is mapped;
// only root may change it. STATX_DONT_SYNC: it is nobody's observation.
void widen_readahead(const std::string& mount_point) {
  struct statx st {};
  if (::statx(AT_FDCWD, mount_point.c_str(), AT_STATX_DONT_SYNC, 0, &st) != 0) return;
  const std::string path = "/sys/class/bdi/" + std::to_string(st.stx_dev_major) + ":" +
                           std::to_string(st.stx_dev_minor) + "/read_ahead_kb";
  const auto file = open_file(path, O_WRONLY);
  if (file) (void)write_all(file->get(), std::to_string(kMaxTransfer >> 10));
}

// What a mount can't have it does without, unless it is required.
Status FuseSession::settle_passthrough(const std::string& mount_point) {
  if (passthrough_.mode() == PassthroughMode::kOff) return {};
  struct statvfs st {};
  ::statvfs(mount_point.c_str(), &st);  // answered after INIT
  const std::string path = store_.scratch().fresh("passthrough");
  HM_ASSIGN(const Fd file, open_file(path, O_RDWR | O_CREAT | O_EXCL));
  ::unlink(path.c_str());
  const Status settled = passthrough_.settle(fuse_session_fd(session_.get()), file);
  if (passthrough_.mode() == PassthroughMode::kRequire) return settled;
  if (!settled) spdlog::info("{}", settled.error().message);
  return {};
}

Status FuseSession::mount(const std::string& mount_point) {
  HM_ASSIGN(View::Node root, view_.root());
  met_xattrs_ = !root.entry.xattrs.empty();
  nodes_.emplace(std::move(root));

  Fd device = open_file("/dev/fuse", O_RDWR).value_or(Fd());
  if (!device) {
    return fail(ErrorCode::kRefused,
                std::string("/dev/fuse: ") + std::strerror(errno) +
                    " (load the fuse module, and let this user read and write the device)");
  }
  HM_TRY(create_session());
  const std::string options =
      "fd=" + std::to_string(device.get()) +
      ",rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other";
  if (::mount("hmfs", mount_point.c_str(), "fuse.hmfs", MS_RDONLY | MS_NODEV | MS_NOSUID,
              options.c_str()) == 0) {
    mount_point_ = mount_point;
    // libfuse takes a descriptor that is mounted already, and owns it from here.
    const std::string fd_path = "/dev/fd/" + std::to_string(device.release());
    if (fuse_session_mount(session_.get(), fd_path.c_str()) != 0) {
      return fail(ErrorCode::kIo, "cannot start a FUSE session");
    }
  } else if (errno != EPERM || fuse_session_mount(session_.get(), mount_point.c_str()) != 0) {
    // EPERM: a user without a namespace of its own, for whom libfuse asks fusermount3.
    return fail(ErrorCode::kRefused,
                "cannot mount the FUSE filesystem on " + mount_point + ": " + std::strerror(errno));
  }
  if (passthrough_.answers_open() && fuse_session_custom_io(session_.get(), &kPassthroughIo,
                                                            fuse_session_fd(session_.get())) != 0) {
    return fail(ErrorCode::kIo, "cannot watch a FUSE session");
  }
  const int fd = fuse_session_fd(session_.get());
  if (::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK) != 0) return fail_errno("/dev/fuse");
  start_threads();
  widen_readahead(mount_point);
  return settle_passthrough(mount_point);
}

Status FuseSession::relay(Fd stream, const RelayLimits& limits) {
  HM_ASSIGN(View::Node root, view_.root());
  met_xattrs_ = !root.entry.xattrs.empty();
  nodes_.emplace(std::move(root), limits.names);
  HM_TRY(create_session());
  relay_ = std::make_unique<RelayChannel>(stream.get(), limits.patience);
  fuse_custom_io io{};
  io.read = [](int, void* buffer, std::size_t size, void* session) {
    return static_cast<FuseSession*>(session)->relay_->read(buffer, size);
  };
  io.writev = [](int, iovec* reply, int parts, void* session) {
    return static_cast<FuseSession*>(session)->relay_->write(
        std::span(reply, static_cast<std::size_t>(parts)));
  };
  if (fuse_session_custom_io(session_.get(), &io, stream.get()) != 0) {
    return fail(ErrorCode::kIo, "cannot start a FUSE session");
  }
  stream.release();  // closed with the FUSE session
  start_threads();
  return {};
}

void FuseSession::stop() {
  if (!session_) return;
  {
    const std::lock_guard lock(threads_mutex_);
    stopping_ = true;
  }
  if (relay_) relay_->shut_down();
  if (!mount_point_.empty()) ::umount2(mount_point_.c_str(), MNT_DETACH);
  fuse_session_exit(session_.get());
  fuse_session_unmount(session_.get());  // what fusermount3 mounted
  // What was mounted nowhere else says so to whoever reads. Else a thread may be just about to
  // block, so the interruption is repeated.
  {
    std::unique_lock lock(ended_mutex_);
    while (!ended_.wait_for(lock, kEndPatience, [this] { return running_ == 0; })) {
      for (std::thread& thread : threads_) ::pthread_kill(thread.native_handle(), SIGUSR1);
    }
  }
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  aside_.finish();  // a trace is whole only with every digest
  spdlog::debug("fuse requests: {}", counts_.text());
  session_.reset();  // closes the device: what is still mounted anywhere answers ENOTCONN
}

void FuseSession::wait(const std::stop_token& stop) {
  std::unique_lock lock(ended_mutex_);
  ended_.wait(lock, stop, [this] { return running_ == 0; });
}

}  // namespace

Result<std::unique_ptr<Session>> Session::start(const View& view, store::Store& store,
                                                const std::string& mount_point, Watcher watcher,
                                                LookupProfile profile, PassthroughMode passthrough,
                                                std::stop_source abandon) {
  auto session = std::make_unique<FuseSession>(view, store, std::move(watcher), std::move(profile),
                                               passthrough, std::move(abandon));
  HM_TRY(session->mount(mount_point));
  return std::unique_ptr<Session>(std::move(session));
}

Result<std::unique_ptr<Session>> Session::start_relay(const View& view, store::Store& store,
                                                      Fd stream, Watcher watcher,
                                                      LookupProfile profile, RelayLimits limits,
                                                      std::stop_source abandon) {
  auto session = std::make_unique<FuseSession>(view, store, std::move(watcher), std::move(profile),
                                               PassthroughMode::kOff, std::move(abandon));
  HM_TRY(session->relay(std::move(stream), limits));
  return std::unique_ptr<Session>(std::move(session));
}

}  // namespace hm::fs
