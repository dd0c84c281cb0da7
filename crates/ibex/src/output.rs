//! How rows are printed: a table for people, JSON, JSON lines or TSV for programs.

use std::io::Write as _;

use clap::ValueEnum;

/// The output of read commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns.
    Table,
    /// One array of objects.
    Json,
    /// One object a line.
    Jsonl,
    /// Tab-separated values with a header line; tabs and line breaks in values are shown as `\t`, `\n`.
    Tsv,
}

/// Rows under named columns.
#[derive(Debug, Clone, Default)]
pub struct Table {
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// No rows yet.
    #[must_use]
    pub fn new(columns: &[&'static str]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If the number of cells is not the number of columns.
    pub fn push(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.columns.len(), "one cell for each column");
        self.rows.push(cells);
    }

    /// Prints to standard output; a closed pipe is not an error.
    pub fn print(&self, format: Format) {
        print_text(&self.render(format));
    }

    /// The text that [`Table::print`] prints.
    #[must_use]
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Table => self.aligned(),
            Format::Json => {
                let rows: Vec<_> = self.rows.iter().map(|row| self.object(row)).collect();
                format!("{:#}\n", serde_json::Value::Array(rows))
            }
            Format::Jsonl => self
                .rows
                .iter()
                .map(|row| format!("{}\n", self.object(row)))
                .collect(),
            Format::Tsv => self.tsv(),
        }
    }

    fn object(&self, row: &[String]) -> serde_json::Value {
        let cells = self.columns.iter().zip(row);
        let map = cells.map(|(column, cell)| ((*column).to_owned(), cell.as_str().into()));
        serde_json::Value::Object(map.collect())
    }

    fn aligned(&self) -> String {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|index| {
                let cells = self.rows.iter().map(|row| row[index].chars().count());
                cells.chain([self.columns[index].len()]).max().unwrap_or(0)
            })
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded: Vec<_> = cells
                .zip(&widths)
                .map(|(cell, &width)| format!("{cell:<width$}"))
                .collect();
            format!("{}\n", padded.join("  ").trim_end())
        };
        let mut text = line(&mut self.columns.iter().copied());
        for row in &self.rows {
            text.push_str(&line(&mut row.iter().map(String::as_str)));
        }
        text
    }

    fn tsv(&self) -> String {
        let mut text = format!("{}\n", self.columns.join("\t"));
        for row in &self.rows {
            let cells: Vec<_> = row
                .iter()
                .map(|cell| {
                    cell.replace('\\', "\\\\")
                        .replace('\t', "\\t")
                        .replace('\n', "\\n")
                })
                .collect();
            text.push_str(&cells.join("\t"));
            text.push('\n');
        }
        text
    }
}

/// Writes text to standard output. A reader that went away (`ibex … | head`) ends the output silently, as it does for other tools.
pub fn print_text(text: &str) {
    let mut stdout = std::io::stdout().lock();
    if stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .is_err()
    {
        // Nobody reads any more: there is nobody to tell.
    }
}

/// Writes bytes to standard output as they are.
///
/// # Errors
/// When standard output cannot be written.
pub fn print_bytes(bytes: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&["name", "note"]);
        table.push(vec!["a".to_owned(), "one\ttab".to_owned()]);
        table.push(vec!["longer".to_owned(), String::new()]);
        table
    }

    #[test]
    fn each_format_has_its_shape() {
        assert_eq!(
            sample().render(Format::Table),
            "name    note\na       one\ttab\nlonger\n"
        );
        assert_eq!(
            sample().render(Format::Tsv),
            "name\tnote\na\tone\\ttab\nlonger\t\n"
        );
        assert_eq!(
            sample().render(Format::Jsonl),
            "{\"name\":\"a\",\"note\":\"one\\ttab\"}\n{\"name\":\"longer\",\"note\":\"\"}\n"
        );
        let parsed: serde_json::Value =
            serde_json::from_str(&sample().render(Format::Json)).unwrap();
        assert_eq!(parsed[1]["name"], "longer");
    }
}
