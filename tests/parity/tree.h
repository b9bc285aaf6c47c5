// The trees of the parity test: what there is to try operations on, and how the state of a path is
// printed. Everything works relative to the current directory; errors of making a tree are fatal.
#pragma once

#include <string>
#include <vector>

namespace parity {

// What a tree may hold: a workspace has no owners, modes, attributes, links or special files.
enum class Needs { kNothing, kModes, kAcls, kOwners };

struct Kind {
  const char* name;
  Needs needs;
  void (*make)(const char* name);  // null: nothing is made
};

const std::vector<Kind>& kinds();
// Files and directories on which users with other ids try things.
const std::vector<Kind>& guarded_kinds();
// Those of which every pair is renamed and linked.
std::vector<Kind> pair_kinds();

bool is_there(Needs needs, Needs most);

// Makes all of `which` that `most` has, and, where that is more than one, what links point to.
void make_directory(const std::string& dir, const std::vector<Kind>& which, Needs most);
void enter(const std::string& dir, bool make);
void make_file(const char* name, const std::string& text, unsigned mode);
void settle_times(const std::string& dir);  // all below it look alike: one old time

std::string error_name(int error);
std::string outcome(long result);        // the number, or the name of errno
std::string state(const char* name);     // what lstat says, and the content
std::string identity(const char* name);  // size, links, blocks: what a copy need not keep
std::string listing(const char* name);   // sorted names with kinds
std::string short_text(const std::string& bytes);

}  // namespace parity
