#include "store/check.h"

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>

#include "store/blob_store.h"
#include "store/blob_walk.h"
#include "store/database.h"
#include "store/schema.h"
#include "store/scratch.h"
#include "store/util/fd.h"

namespace hm::store {

void Findings::add(const std::string& problem, bool is_repaired) {
  problems += 1;
  repaired += is_repaired ? 1 : 0;
  print(problem + (is_repaired ? ": repaired" : ""));
}

namespace {

// A clock that was wrong for a while is no damage; a date of next week is.
constexpr std::int64_t kDayNs = std::int64_t{24} * 3600 * 1'000'000'000;

// --- hm.db as a whole -----------------------------------------------------------------------

// The files of a damaged database keep together, under a name that is free.
Status move_aside(const std::string& path, std::string& moved_to) {
  for (int n = 1;; ++n) {
    moved_to = path + ".damaged-" + std::to_string(n);
    struct stat st {};
    if (::lstat(moved_to.c_str(), &st) != 0) break;
  }
  for (const char* suffix : {"-wal", "-shm", ""}) {  // a log must never meet another database
    const std::string from = path + suffix;
    if (::rename(from.c_str(), (moved_to + suffix).c_str()) != 0 && errno != ENOENT) {
      return fail_errno(from);
    }
  }
  return {};
}

Status replace_database(const std::string& home, std::string problem, Repair repair,
                        Findings& findings) {
  const std::string hint = std::string(": ") + kRepairHint;
  if (problem.ends_with(hint)) problem.resize(problem.size() - hint.size());
  if (repair == Repair::kNo) {
    findings.add(problem, false);
    return {};
  }
  HM_ASSIGN(const Fd gate, Scratch::exclude_others(home, ""));
  std::string moved_to;
  HM_TRY(move_aside(database_path(home), moved_to));
  HM_TRY(open_database(home));
  findings.add(problem + ": moved to " + moved_to + ", a new one is made", true);
  return {};
}

std::string quoted(const std::string& name) {
  std::string out = "\"";
  for (const char c : name) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

// Dropping a table takes its indexes and triggers along: what is gone already is success.
Status drop_foreign(Db& db, const SchemaFaults& faults, Repair repair, const std::string& path,
                    Findings& findings) {
  for (const auto& [type, name] : faults.foreign) {
    bool gone = false;
    if (repair == Repair::kYes) {
      HM_TRY(db.exec("DROP " + type + " IF EXISTS " + quoted(name)));
      gone = true;
    }
    findings.add(path + ": the " + type + " '" + name + "' is not hm's", gone);
  }
  return {};
}

// The first line of what SQLite has to say against the file, "" if nothing.
Result<std::string> integrity_fault(Db& db) {
  HM_ASSIGN(Stmt check, db.prepare("PRAGMA integrity_check(1)"));
  HM_ASSIGN(const bool row, check.step());
  std::string text = row ? check.bytes(0) : "no answer";
  if (text == "ok") return std::string();
  for (char& c : text) c = c == '\n' ? ' ' : c;
  return text;
}

// --- rows -----------------------------------------------------------------------------------

// What holds of every row of a table. Columns are separated by commas.
struct RowRule {
  const char* table;
  const char* digests;    // 32 bytes
  const char* times;      // nanoseconds, not negative, not beyond tomorrow
  const char* counts;     // not negative
  const char* optional;   // digests, or NULL
  const char* condition;  // whatever else
  int since = 1;          // the first format with the table
};
constexpr std::array<RowRule, 8> kRowRules = {{
    {"path_sets", "static_key,path_set", "used_ns", "", "", "1"},
    {"dropped_path_sets", "static_key", "", "count", "", "1"},
    {"records", "static_key,strong_key,path_set,trace,layer,log", "created_ns,used_ns",
     "duration_ms", "", "1"},
    {"layers", "layer,mtimes", "started_ns,captured_ns", "", "", "started_ns<=captured_ns"},
    {"files", "digest", "", "size", "",
     "typeof(device)='integer' AND typeof(inode)='integer' AND typeof(mtime_ns)='integer' AND "
     "typeof(ctime_ns)='integer'"},
    {"runs", "", "started_ns", "", "", "typeof(workspace)='blob' AND typeof(pipeline)='blob'"},
    {"run_steps", "", "", "duration_ms,position", "static_key,trace,layer,log",
     "typeof(key)='blob' AND typeof(outcome)='blob' AND typeof(reason)='blob' AND "
     "typeof(components)='blob' AND typeof(image)='blob' AND typeof(exit_code)='integer' AND "
     "typeof(chain)='blob' AND length(chain)%32=0 AND run IN (SELECT id FROM runs)"},
    {"images", "tree", "imported_ns", "entries,bytes", "",
     "typeof(name)='blob' AND length(name)>0 AND typeof(config)='blob' AND typeof(source)='blob'",
     kFormatOfImages},
}};

// "column,column" as one condition, `form` for each with $ for the column.
std::string for_each_column(std::string_view columns, const std::string& form) {
  std::string out;
  while (!columns.empty()) {
    const std::string_view column = columns.substr(0, columns.find(','));
    columns.remove_prefix(std::min(column.size() + 1, columns.size()));
    out += " AND ";
    for (const char c : form) out += c == '$' ? std::string(column) : std::string(1, c);
  }
  return out;
}

std::string sane(const RowRule& rule) {
  const std::string limit = std::to_string(now_ns() + kDayNs);
  return std::string(rule.condition) +
         for_each_column(rule.digests, "typeof($)='blob' AND length($)=32") +
         for_each_column(rule.optional, "($ IS NULL OR (typeof($)='blob' AND length($)=32))") +
         for_each_column(rule.times, "typeof($)='integer' AND $ BETWEEN 0 AND " + limit) +
         for_each_column(rule.counts, "typeof($)='integer' AND $>=0");
}

Status check_rows(Db& db, const RowRule& rule, Repair repair, const std::string& path,
                  Findings& findings) {
  const std::string where = std::string(" FROM ") + rule.table + " WHERE NOT (" + sane(rule) + ")";
  HM_ASSIGN(Stmt count, db.prepare("SELECT count(*)" + where));
  HM_TRY(count.step());
  const std::int64_t bad = count.number(0);
  count.bind();
  if (bad == 0) return {};
  if (repair == Repair::kYes) HM_TRY(db.exec("DELETE" + where));
  findings.add(
      path + ": " + rule.table + ": " + std::to_string(bad) + " rows with a value that cannot be",
      repair == Repair::kYes);
  return {};
}

// Everything there is to find in a database that opens. kCorrupt: it has to be replaced.
Status check_opened(Db& db, std::int64_t format, const std::string& path, Repair repair,
                    Findings& findings) {
  HM_ASSIGN(const SchemaFaults faults, schema_faults(db, format));
  HM_TRY(drop_foreign(db, faults, repair, path, findings));
  HM_ASSIGN(const std::string fault, integrity_fault(db));
  if (!fault.empty()) return fail(ErrorCode::kCorrupt, path + ": " + fault);
  if (!faults.missing.empty()) {
    return fail(ErrorCode::kCorrupt, path + ": it has no " + faults.missing.front());
  }
  for (const RowRule& rule : kRowRules) {
    if (format >= rule.since) HM_TRY(check_rows(db, rule, repair, path, findings));
  }
  return {};
}

Status check_existing(const std::string& home, const std::string& path, Repair repair,
                      Findings& findings) {
  HM_ASSIGN(Db db, open_unchecked(path));
  HM_ASSIGN(const std::int64_t format, database_format(db, path));
  if (format > 0) HM_TRY(check_opened(db, format, path, repair, findings));
  if (findings.clean()) HM_TRY(open_database(home));  // as every hm opens it
  return {};
}

// --- blobs ----------------------------------------------------------------------------------

class BlobCheck {
 public:
  BlobCheck(std::string root, Repair repair, Findings& findings)
      : root_(std::move(root)), repair_(repair), findings_(findings) {}

  Result<BlobSizes> run() {
    HM_TRY(walk_blobs(root_, [&](const FoundBlob& found) { return check(found); }));
    return std::move(good_);
  }

 private:
  Status check(const FoundBlob& found) {
    if (!found.digest) {
      remove(found, "does not belong there");
      return {};
    }
    const auto fd = open_blob_file(found.dir_fd, found.name);
    if (!fd && fd.error().code == ErrorCode::kNotFound) return {};  // gone meanwhile
    if (!fd && fd.error().code != ErrorCode::kCorrupt) return fail(fd.error());
    if (!fd) {
      remove(found, "is not a regular file");
      return {};
    }
    HM_ASSIGN(const BlobInfo info, hash_fd(fd->get()));
    if (info.digest == *found.digest) {
      good_.emplace(info.digest, info.size);
    } else {
      remove(found, "has other bytes than its name says");
    }
    return {};
  }

  void remove(const FoundBlob& found, const char* what) {
    const bool gone = repair_ == Repair::kYes && remove_tree(found.dir_fd, found.name).has_value();
    findings_.add(root_ + "/" + found.path + ": " + what, gone);
  }

  const std::string root_;
  const Repair repair_;
  Findings& findings_;
  BlobSizes good_;
};

}  // namespace

Status check_database(const std::string& home, Repair repair, Findings& findings) {
  const std::string path = database_path(home);
  struct stat st {};
  if (::lstat(path.c_str(), &st) != 0 && errno == ENOENT) return {};
  auto status = check_existing(home, path, repair, findings);
  if (status || status.error().code != ErrorCode::kCorrupt) return status;
  return replace_database(home, status.error().message, repair, findings);
}

Result<BlobSizes> check_blobs(const std::string& home, Repair repair, Findings& findings) {
  return BlobCheck(home + "/blobs", repair, findings).run();
}

}  // namespace hm::store
