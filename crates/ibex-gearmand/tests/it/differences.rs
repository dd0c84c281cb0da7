//! The table of differences and the tests that show them are the same list: a difference that a scene shows has a row in
//! `docs/gearman/compatibility.md`, and a row is shown by a scene or by the test that is named here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::{compat, front_compat};

/// Rows that no scene shows, and the test or transcript that does; it must be there.
const ELSEWHERE: &[(&str, &str)] = &[
    ("a job that comes back", "loss.txt"),
    ("a foreground job whose last client left", "loss.txt"),
    (
        "a background submission that joins a foreground job",
        "coalescing.txt",
    ),
    ("timeout of a foreground job", "timeouts.txt"),
    ("CAN_DO_TIMEOUT", "timeouts.txt"),
    ("wake-ups", "sleeping.txt"),
    ("SUBMIT_JOB_EPOCH, all workers asleep", "schedule.txt"),
    (
        "`shutdown`",
        "shutdown_comes_over_the_operators_socket_only",
    ),
    ("`--ssl`", "safety_that_cannot_be_had_refuses_the_start"),
    (
        "`--store-queue-on-shutdown`",
        "a_queue_in_memory_is_written_at_a_clean_stop",
    ),
    (
        "HTTP front: version and connection",
        "versions_connections_paths_and_bodies_differ",
    ),
    (
        "HTTP front: path",
        "versions_connections_paths_and_bodies_differ",
    ),
    (
        "HTTP front: request body",
        "versions_connections_paths_and_bodies_differ",
    ),
    ("`--config-file`", "flags_of_a_file_come_first"),
    (
        "a flag given twice",
        "a_later_flag_wins_and_only_http_is_a_protocol",
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The first cells of the table.
fn rows() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("docs/gearman/compatibility.md")).unwrap();
    let table = text
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1);
    table
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| line.split('|').nth(1))
        .map(|cell| cell.trim().to_owned())
        .collect()
}

/// All sources and transcripts of the Gearman crates, as (path, text).
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let crates = ["ibex-gearmand", "ibex-gearman-core", "ibex-gearman-proto"];
    let mut folders: Vec<PathBuf> = crates
        .iter()
        .map(|name| root().join("crates").join(name))
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let is_text = path.extension().is_some_and(|e| e == "rs" || e == "txt");
            if path.is_dir() {
                folders.push(path);
            } else if is_text {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

#[test]
fn every_difference_is_written_down_and_every_row_is_shown() {
    let rows = rows();
    assert!(rows.len() > 20, "the table was not found: {rows:?}");
    let in_scenes = compat::scenes().filter_map(|scene| scene.1);
    let in_front = front_compat::SCENES.iter().filter_map(|s| s.difference);
    let elsewhere = ELSEWHERE.iter().map(|(row, _)| *row);
    let shown: BTreeSet<&str> = in_scenes.chain(in_front).chain(elsewhere).collect();
    let written: BTreeSet<&str> = rows.iter().map(String::as_str).collect();
    assert_eq!(written.len(), rows.len(), "a row is there twice");
    let unwritten: Vec<_> = shown.difference(&written).collect();
    assert!(unwritten.is_empty(), "no row says: {unwritten:?}");
    let unshown: Vec<_> = written.difference(&shown).collect();
    assert!(unshown.is_empty(), "no test shows: {unshown:?}");
}

#[test]
fn the_named_tests_are_there() {
    let sources = sources();
    for (row, name) in ELSEWHERE {
        let is_there = sources.iter().any(|(path, text)| {
            path.file_name().is_some_and(|file| file == *name)
                || text.contains(&format!("fn {name}()"))
        });
        assert!(is_there, "{row}: {name} is not there");
    }
}
