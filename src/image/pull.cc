#include "image/pull.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <utility>
#include <vector>

#include "store/util/child.h"

namespace hm::image {

namespace {

using Meanwhile = std::function<void()>;

constexpr int kLookEveryMs = 200;

// As Docker does, the registries of this machine may speak plain HTTP.
bool is_local(const std::string& ref) {
  const std::string host = ref.substr(0, ref.find_first_of(":/"));
  return host == "localhost" || host.starts_with("127.");
}

// Our environment, but that temporary files go into the scratch.
std::vector<std::string> environment(const std::string& tmp) {
  std::vector<std::string> out = {"TMPDIR=" + tmp};
  for (char** item = environ; *item != nullptr; ++item) {
    if (!std::string_view(*item).starts_with("TMPDIR=")) out.emplace_back(*item);
  }
  return out;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> out;
  for (std::string& word : words) out.push_back(word.data());
  out.push_back(nullptr);
  return out;
}

// The last line that is no empty one: where programs say what went wrong.
std::string last_line(std::string_view text) {
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  return fs::printable(text.substr(text.rfind('\n') + 1));
}

// What the files in a folder have by now, while others write and rename them.
std::uint64_t bytes_in(const std::string& folder) {
  std::uint64_t bytes = 0;
  std::error_code error;
  for (std::filesystem::recursive_directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code no_file;
    const std::uint64_t size = it->file_size(no_file);
    if (!no_file) bytes += size;
  }
  return bytes;
}

// All that comes out of a pipe; now and then it does something else.
Result<std::string> listen(int fd, const Meanwhile& meanwhile) {
  std::string text;
  std::array<char, 4096> buffer{};
  while (true) {
    pollfd item{fd, POLLIN, 0};
    const int ready = ::poll(&item, 1, kLookEveryMs);
    if (ready < 0 && errno != EINTR) return fail_errno("poll");
    if (ready == 0) meanwhile();
    if (ready <= 0) continue;
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n < 0 && errno != EINTR) return fail_errno("read");
    if (n == 0) return text;
    if (n > 0) text.append(buffer.data(), static_cast<std::size_t>(n));
  }
}

// Runs it to its end; the exit code, and what it said on stderr.
Result<std::pair<int, std::string>> run(const std::string& program, std::vector<std::string> words,
                                        const std::string& tmp, const Meanwhile& meanwhile) {
  std::array<int, 2> pipe{};
  if (::pipe2(pipe.data(), O_CLOEXEC) != 0) return fail_errno("pipe");
  const Fd read(pipe[0]);
  Fd write(pipe[1]);
  std::vector<std::string> env = environment(tmp);
  posix_spawn_file_actions_t actions{};
  posix_spawnattr_t attributes{};
  sigset_t none{};
  ::sigemptyset(&none);
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions, write.get(), 2);
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, program.c_str(), &actions, &attributes,
                                  pointers(words).data(), pointers(env).data());
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  write.reset();
  if (error != 0) return fail(system_error(program, error));
  auto said = listen(read.get(), meanwhile);
  const int status = wait_for_child(pid);
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return std::pair{code, said ? std::move(*said) : std::string()};
}

}  // namespace

bool can_pull() { return find_program("skopeo").has_value(); }

Result<store::Image> pull_image(store::Store& store, const std::string& name,
                                const std::string& ref, ImportOptions options) {
  const auto skopeo = find_program("skopeo");
  if (!skopeo) {
    return fail(ErrorCode::kRefused,
                "cannot pull " + ref + ": skopeo is not in PATH (apt-get install skopeo)");
  }
  if (!is_image_name(name) || ref.starts_with("-")) {
    return fail(ErrorCode::kNotFound, "'" + fs::printable(name) + "' cannot be an image's name");
  }
  const std::string folder = store.scratch().fresh("pull");
  if (::mkdir(folder.c_str(), 0700) != 0) return fail_errno(folder);
  std::vector<std::string> words = {"skopeo", "--override-os", "linux", "copy", "--quiet"};
  // Only a copy's signatures: what the policy asks for is checked all the same. Where they are kept
  // may be closed to this user.
  words.emplace_back("--remove-signatures");
  if (is_local(ref)) words.emplace_back("--src-tls-verify=false");
  words.push_back("docker://" + ref);
  words.push_back("oci:" + folder + "/layout:image");
  const auto ended = run(*skopeo, std::move(words), folder, [&] {
    if (options.fetched) options.fetched(bytes_in(folder));
  });
  auto image = [&]() -> Result<store::Image> {
    if (!ended) return fail(ended.error());
    if (ended->first != 0) {
      return fail(ErrorCode::kRefused, "cannot pull " + ref + ": " + last_line(ended->second));
    }
    options.source = "docker://" + ref;
    return import_image(store, name, folder + "/layout:image", options);
  }();
  (void)remove_tree(AT_FDCWD, folder);
  return image;
}

}  // namespace hm::image
