//! The plots of `docs/memcached`, drawn from the data files that are there.

use std::fs;

use crate::Options;
use crate::data::read;
use crate::svg::{Axis, Frame};

const SERVERS: [&str; 2] = ["ibex-memcached", "memcached"];

fn number(row: &[String], column: usize) -> f64 {
    row.get(column)
        .and_then(|cell| cell.parse().ok())
        .unwrap_or(0.0)
}

fn keep(options: &Options, name: &str, svg: &str) {
    fs::write(options.data().join(format!("../{name}.svg")), svg).unwrap();
    println!("{name}.svg");
}

/// Groups of bars out of rows with a name and one column for each server.
fn groups(rows: &[Vec<String>]) -> Vec<(String, Vec<f64>)> {
    rows.iter()
        .map(|row| (row[0].clone(), vec![number(row, 1), number(row, 2)]))
        .collect()
}

fn cpu(options: &Options) {
    let rows = read(options, "cpu");
    if rows.is_empty() {
        return;
    }
    let frame = Frame {
        title: "Server CPU per operation",
        below: "",
        beside: "µs, user and system",
        series: &SERVERS,
    };
    keep(options, "cpu", &frame.bars(&groups(&rows)));
}

fn memory(options: &Options) {
    let rows = read(options, "memory");
    let of = |what: &str, server: &str| {
        let row = rows.iter().find(|row| row[0] == server && row[1] == what);
        row.map_or(0.0, |row| number(row, 4))
    };
    if rows.is_empty() {
        return;
    }
    // What an item costs beyond its key and value: the values themselves would hide it.
    let groups: Vec<(String, Vec<f64>)> = [(10.0, "10 B"), (100.0, "100 B"), (1000.0, "1000 B")]
        .into_iter()
        .map(|(bytes, what)| {
            let beyond = SERVERS.map(|server| of(what, server) - bytes - 10.0);
            (format!("values of {what}"), beyond.into())
        })
        .collect();
    let frame = Frame {
        title: "Resident memory per item beyond its key and value",
        below: "",
        beside: "bytes",
        series: &SERVERS,
    };
    keep(options, "memory", &frame.bars(&groups));
}

fn hits(options: &Options) {
    let rows = read(options, "hit-ratio");
    if !rows.is_empty() {
        let frame = Frame {
            title: "Hit ratio at -m 64",
            below: "",
            beside: "share of reads that hit",
            series: &SERVERS,
        };
        keep(options, "hit-ratio", &frame.bars(&groups(&rows)));
    }
    for (name, title) in [
        ("size-mix", "Values grow from 100 to 400 bytes half way"),
        (
            "size-mix-hour",
            "Values grow from 100 to 400 bytes after an hour",
        ),
    ] {
        let rows = read(options, name);
        if rows.is_empty() {
            continue;
        }
        let line = |column| {
            let points = rows
                .iter()
                .map(|row| (number(row, 0) / 1e6, number(row, column)));
            points.collect::<Vec<_>>()
        };
        let frame = Frame {
            title,
            below: "million requests",
            beside: "share of reads that hit",
            series: &SERVERS,
        };
        keep(
            options,
            name,
            &frame.lines(&[line(1), line(2)], Axis::Linear { top: 1.0 }),
        );
    }
}

fn latency(options: &Options) {
    let rows = read(options, "latency");
    if rows.is_empty() {
        return;
    }
    for (name, title, column) in [
        ("latency-p50", "Latency against load, median", 4),
        ("latency-p99", "Latency against load, 99th percentile", 5),
    ] {
        let series = SERVERS.map(|server| {
            let rows = rows.iter().filter(|row| row[0] == server);
            let points = rows.map(|row| (number(row, 2) / 1e3, number(row, column)));
            points.collect::<Vec<_>>()
        });
        let frame = Frame {
            title,
            below: "thousand gets a second, open loop",
            beside: "µs from when the request was due",
            series: &SERVERS,
        };
        keep(options, name, &frame.lines(&series, Axis::Log));
    }
}

pub(crate) fn run(options: &Options) -> bool {
    cpu(options);
    memory(options);
    hits(options);
    latency(options);
    true
}
