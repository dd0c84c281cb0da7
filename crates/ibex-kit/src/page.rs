//! What a daemon shows on its status page: sections of facts and tables.
//!
//! Owns the data only; the admin port turns it into HTML and escapes every text.

/// One section of the status page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its heading.
    pub title: String,
    /// What it shows.
    pub body: Body,
}

/// The content of a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Name and value pairs.
    Facts(Vec<(String, String)>),
    /// A table.
    Table {
        /// Column headings.
        columns: Vec<String>,
        /// Rows, each as long as `columns`.
        rows: Vec<Vec<String>>,
    },
}

impl Section {
    /// A list of facts.
    pub fn facts<N: Into<String>, V: ToString>(
        title: impl Into<String>,
        facts: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let facts = facts
            .into_iter()
            .map(|(name, value)| (name.into(), value.to_string()))
            .collect();
        Self {
            title: title.into(),
            body: Body::Facts(facts),
        }
    }

    /// A table.
    pub fn table<C: Into<String>>(
        title: impl Into<String>,
        columns: impl IntoIterator<Item = C>,
        rows: Vec<Vec<String>>,
    ) -> Self {
        let columns = columns.into_iter().map(Into::into).collect();
        Self {
            title: title.into(),
            body: Body::Table { columns, rows },
        }
    }
}
