//! Measured rows, shown as they come and kept as a file of tab-separated values.

use std::fmt::Write as _;
use std::fs;

use crate::Options;

/// Rows under named columns.
pub(crate) struct Rows {
    columns: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Rows {
    pub(crate) fn new(columns: &'static [&'static str]) -> Self {
        show(columns.iter().map(|column| (*column).to_owned()));
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row and shows it.
    pub(crate) fn push(&mut self, row: Vec<String>) {
        assert_eq!(row.len(), self.columns.len());
        show(row.iter().cloned());
        self.rows.push(row);
    }

    /// Writes `<name>.tsv`, unless only a part was measured.
    pub(crate) fn keep(&self, options: &Options, name: &str) {
        if options.value("--only").is_some() {
            return;
        }
        let mut text = format!("{}\n", self.columns.join("\t"));
        for row in &self.rows {
            writeln!(text, "{}", row.join("\t")).unwrap();
        }
        fs::create_dir_all(options.data()).unwrap();
        fs::write(options.data().join(format!("{name}.tsv")), text).unwrap();
    }
}

fn show(cells: impl Iterator<Item = String>) {
    let line: String = cells.map(|cell| format!("{cell:<22}")).collect();
    println!("{}", line.trim_end());
}

/// The rows of `<name>.tsv` by column; empty without the file.
pub(crate) fn read(options: &Options, name: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(options.data().join(format!("{name}.tsv"))).unwrap_or_default();
    let rows = text.lines().skip(1);
    rows.map(|row| row.split('\t').map(str::to_owned).collect())
        .collect()
}
