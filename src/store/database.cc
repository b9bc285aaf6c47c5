#include "store/database.h"

#include <sys/stat.h>

#include <algorithm>

#include "store/blob_store.h"
#include "store/schema.h"

namespace hm::store {

namespace {

// SQLite keeps the text of each statement as it was given, without the semicolon.
std::vector<std::string> expected_statements() {
  std::vector<std::string> out;
  std::string_view rest = kSchema;
  for (std::size_t end = rest.find(';'); end != std::string_view::npos; end = rest.find(';')) {
    std::string_view statement = rest.substr(0, end);
    statement.remove_prefix(std::min(statement.find_first_not_of('\n'), statement.size()));
    out.emplace_back(statement);
    rest.remove_prefix(end + 1);
  }
  return out;
}

Error damaged(const std::string& path, const std::string& what) {
  return Error{ErrorCode::kCorrupt, 0,
               path + ": the store's database is damaged (" + what + "): " + kRepairHint};
}

// SQLite would wait for ever in a fifo, and follow a symbolic link out of the store.
Status check_files(const std::string& path) {
  for (const char* suffix : {"", "-wal", "-shm"}) {
    struct stat st {};
    if (::lstat((path + suffix).c_str(), &st) != 0 || S_ISREG(st.st_mode)) continue;
    return fail(damaged(path + suffix, "it is not a regular file"));
  }
  return {};
}

Status check_schema(Db& db, std::int64_t format, const std::string& path) {
  HM_ASSIGN(const SchemaFaults faults, schema_faults(db, format));
  if (!faults.foreign.empty()) {
    const auto& [type, name] = faults.foreign.front();
    return fail(damaged(path, "the " + type + " '" + name + "' in it is not hm's"));
  }
  if (!faults.missing.empty()) return fail(damaged(path, "no " + faults.missing.front()));
  return {};
}

Status migrate(Db& db, std::int64_t from) {
  if (from == 1) HM_TRY(db.exec(kFrom1));
  if (from < kFormatOfImages) {
    std::string table = expected_statements().back();
    table.insert(std::string_view("CREATE TABLE ").size(), "IF NOT EXISTS ");
    HM_TRY(db.exec(table));
  }
  return db.exec("PRAGMA user_version=" + std::to_string(kFormat));
}

}  // namespace

std::string database_path(const std::string& home) { return home + "/hm.db"; }

Result<SchemaFaults> schema_faults(Db& db, std::int64_t format) {
  SchemaFaults out;
  std::vector<std::string> expected = expected_statements();
  const std::string last = expected.back();
  HM_ASSIGN(Stmt rows, db.prepare("SELECT type,name,coalesce(sql,'') FROM sqlite_schema"));
  while (true) {
    HM_ASSIGN(const bool row, rows.step());
    if (!row) break;
    std::string type = rows.bytes(0);
    std::string name = rows.bytes(1);
    const std::string sql = rows.bytes(2);
    if (sql.empty() && type == "index" && name.starts_with("sqlite_autoindex_")) continue;
    const auto known = std::find(expected.begin(), expected.end(), sql);
    if (known != expected.end()) {
      expected.erase(known);
    } else {
      out.foreign.push_back({std::move(type), std::move(name)});
    }
  }
  for (const std::string& statement : expected) {
    if (format < kFormatOfImages && statement == last) continue;
    const std::size_t words = statement.find(' ') + 1;  // after CREATE
    out.missing.push_back(statement.substr(words, statement.find_first_of("(\n", words) - words));
  }
  return out;
}

Result<std::int64_t> database_format(Db& db, const std::string& path) {
  HM_ASSIGN(Stmt stmt, db.prepare("PRAGMA user_version"));
  HM_TRY(stmt.step());
  const std::int64_t version = stmt.number(0);
  if (version > kFormat) {
    return fail(ErrorCode::kRefused, path + ": this store was written by a newer hm (format " +
                                         std::to_string(version) + ", this one knows " +
                                         std::to_string(kFormat) +
                                         "): use that hm, or another HM_HOME");
  }
  if (version < 0) return fail(damaged(path, "there is no format " + std::to_string(version)));
  return version;
}

Result<Db> open_unchecked(const std::string& path) {
  HM_TRY(check_files(path));
  return Db::open(path);
}

Result<Db> open_database(const std::string& home) {
  const std::string path = database_path(home);
  HM_ASSIGN(Db db, open_unchecked(path));
  HM_TRY(db.exec("PRAGMA foreign_keys=ON"));
  HM_ASSIGN(Txn txn, Txn::begin(db));
  HM_ASSIGN(const std::int64_t version, database_format(db, path));
  bool fresh = false;
  if (version == 0) {
    HM_ASSIGN(Stmt any, db.prepare("SELECT 1 FROM sqlite_schema"));
    HM_ASSIGN(const bool has_tables, any.step());
    fresh = !has_tables;
    if (has_tables) return fail(damaged(path, "it has tables and no format"));
  }
  if (fresh) {
    HM_TRY(db.exec(kSchema));
    HM_TRY(db.exec("PRAGMA user_version=" + std::to_string(kFormat)));
  } else {
    HM_TRY(check_schema(db, version, path));
    if (version != kFormat) HM_TRY(migrate(db, version));
  }
  HM_TRY(txn.commit());
  return db;
}

}  // namespace hm::store
