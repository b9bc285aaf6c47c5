// The record database's tables and its version. Private to the store.
//
// Any change to a table raises kFormat and adds a migration step in database.cc; formats are
// appended to, never reinterpreted.
#pragma once

namespace hm::store {

inline constexpr int kFormat = 3;

inline constexpr const char* kSchema = R"sql(
CREATE TABLE path_sets(
  static_key BLOB NOT NULL, path_set BLOB NOT NULL, used_ns INTEGER NOT NULL,
  PRIMARY KEY(static_key, path_set)) WITHOUT ROWID;
CREATE TABLE dropped_path_sets(
  static_key BLOB PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE records(
  static_key BLOB NOT NULL, strong_key BLOB NOT NULL, path_set BLOB NOT NULL,
  trace BLOB NOT NULL, layer BLOB NOT NULL, log BLOB NOT NULL,
  created_ns INTEGER NOT NULL, used_ns INTEGER NOT NULL, duration_ms INTEGER NOT NULL,
  PRIMARY KEY(static_key, strong_key)) WITHOUT ROWID;
CREATE INDEX records_by_path_set ON records(static_key, path_set, created_ns);
CREATE INDEX records_by_layer ON records(layer);
CREATE TABLE layers(
  layer BLOB PRIMARY KEY, mtimes BLOB NOT NULL,
  started_ns INTEGER NOT NULL, captured_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE files(
  device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, digest BLOB NOT NULL,
  PRIMARY KEY(device, inode)) WITHOUT ROWID;
CREATE TABLE runs(
  id INTEGER PRIMARY KEY, workspace BLOB NOT NULL, pipeline BLOB NOT NULL,
  started_ns INTEGER NOT NULL);
CREATE INDEX runs_by_workspace ON runs(workspace, id);
CREATE TABLE run_steps(
  run INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE, position INTEGER NOT NULL,
  key BLOB NOT NULL, outcome BLOB NOT NULL, reason BLOB NOT NULL, components BLOB NOT NULL,
  static_key BLOB, trace BLOB, layer BLOB, log BLOB, chain BLOB NOT NULL, image BLOB NOT NULL,
  exit_code INTEGER NOT NULL, duration_ms INTEGER NOT NULL,
  PRIMARY KEY(run, position)) WITHOUT ROWID;
CREATE TABLE images(
  name BLOB PRIMARY KEY, tree BLOB NOT NULL, config BLOB NOT NULL, source BLOB NOT NULL,
  imported_ns INTEGER NOT NULL, entries INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
)sql";
// Formats before this one lack the last table above, and nothing else.
inline constexpr int kFormatOfImages = 3;

// Format 1 had layers without the paths that times are taken from: what they say is not enough.
inline constexpr const char* kFrom1 =
    "DELETE FROM records; DELETE FROM path_sets; DELETE FROM layers; DELETE FROM runs;";

}  // namespace hm::store
